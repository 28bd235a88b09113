//! Compiles the keeper, a program of its own without any library, to be carried inside of `frost`.
//!
//! It is not a binary of the workspace, since it needs other settings than all the rest: no standard library, no libc,
//! no unwinding, a fixed address.

use std::env;
use std::path::PathBuf;
use std::process::Command;

fn main() {
    for file in [
        "program/main.rs",
        "program/raw.rs",
        "program/keep.rs",
        "program/filters.rs",
        "program/group.rs",
        "src/protocol.rs",
    ] {
        println!("cargo:rerun-if-changed={file}");
    }
    let out = PathBuf::from(env::var_os("OUT_DIR").expect("cargo sets OUT_DIR"));
    let target = env::var("TARGET").expect("cargo sets TARGET");
    let mut command = Command::new(env::var_os("RUSTC").expect("cargo sets RUSTC"));
    command.args(["program/main.rs", "--crate-name", "frost_keeper_program", "--crate-type", "bin"]);
    command.args(["--edition", "2024", "--target", &target]);
    for setting in [
        "panic=abort",
        "opt-level=s",
        "debuginfo=0",
        "overflow-checks=off",
        "strip=symbols",
        "relocation-model=static",
        "link-arg=-nostartfiles",
        "link-arg=-nostdlib",
        "link-arg=-static",
        "link-arg=-no-pie",
        "link-arg=-Wl,--build-id=none",
        "link-arg=-Wl,-z,max-page-size=4096",
        "link-arg=-Wl,-z,noexecstack",
    ] {
        command.args(["-C", setting]);
    }
    if let Some(linker) = env::var_os("RUSTC_LINKER") {
        command.arg("-C").arg(format!("linker={}", linker.to_string_lossy()));
    }
    command.arg("-o").arg(out.join("frost-keeper"));
    let status = command.status().expect("the compiler that cargo names can be run");
    assert!(status.success(), "the keeper does not compile: {status}");
}
