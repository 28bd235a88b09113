//! Compiles the keeper, a program of its own without any library, to be carried inside of `frost`.

#[path = "freestanding/compile.rs"]
mod compile;

fn main() {
    compile::compile(
        "program/main.rs",
        "frost-keeper",
        &[
            "program/main.rs",
            "program/raw.rs",
            "program/keep.rs",
            "program/child.rs",
            "program/filters.rs",
            "program/group.rs",
            "src/protocol.rs",
            "freestanding",
            "build.rs",
        ],
    );
}
