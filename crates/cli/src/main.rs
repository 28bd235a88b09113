//! The `frost` command. All of it is in its library.
#![forbid(unsafe_code)]

fn main() -> std::process::ExitCode {
    frost_cli::run()
}
