//! Compiles a program that has no library at all, for the build script of whoever carries it.
//!
//! It is not a binary of the workspace, since it needs other settings than all the rest: no standard library, no libc,
//! no unwinding, a fixed address. The same compiler makes the same bytes of it.

use std::env;
use std::path::PathBuf;
use std::process::Command;

/// Compiles the program whose root is `main` into `name` in the directory of what is built. Cargo is to do it again when one
/// of `sources` has changed.
pub(crate) fn compile(main: &str, name: &str, sources: &[&str]) {
    for file in sources {
        println!("cargo:rerun-if-changed={file}");
    }
    let out = PathBuf::from(env::var_os("OUT_DIR").expect("cargo sets OUT_DIR"));
    let target = env::var("TARGET").expect("cargo sets TARGET");
    let mut command = Command::new(env::var_os("RUSTC").expect("cargo sets RUSTC"));
    command.args([main, "--crate-name", &name.replace('-', "_"), "--crate-type", "bin"]);
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
    command.arg("-o").arg(out.join(name));
    let status = command.status().expect("the compiler that cargo names can be run");
    assert!(status.success(), "{name} does not compile: {status}");
}
