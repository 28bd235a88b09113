//! Compiles the guest's init, a program of its own without any library, to be carried inside of `frost`.

#[path = "../keeper/freestanding/compile.rs"]
mod compile;

fn main() {
    compile::compile(
        "guest/main.rs",
        "frost-guest-init",
        &["guest/main.rs", "guest/raw.rs", "src/wire.rs", "../keeper/freestanding", "build.rs"],
    );
}
