//! What is given to users: a tarball and a Debian package, each with manual pages, completions and an AppArmor profile.
//!
//! The program is linked statically, so that it runs on any distribution: against glibc, since that target is there
//! wherever Rust is; frost uses nothing of it that needs the C library's files at run time (no name service, no locale, no
//! dlopen). The packages depend on the commit only: names are sorted, times are that of the commit.

use crate::run::{Outcome, is_installed, limited};
use std::fs::{self, Permissions};
use std::io;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

const TARGET: &str = "x86_64-unknown-linux-gnu";
const HALF_AN_HOUR: Duration = Duration::from_secs(1800);
const MINUTE: Duration = Duration::from_secs(60);

/// Why there is no package.
#[derive(Debug)]
pub(crate) enum Failure {
    /// A step failed.
    Step(Outcome),
    /// A file could not be read or written.
    File(PathBuf, io::Error),
    /// What was built is not what it should be.
    Wrong(String),
}

impl From<Failure> for Outcome {
    fn from(failure: Failure) -> Self {
        match failure {
            Failure::Step(outcome) => outcome,
            Failure::File(path, error) => Outcome::Failed(format!("{}: {error}", path.display())),
            Failure::Wrong(why) => Outcome::Failed(why),
        }
    }
}

/// Builds both packages below the target directory, and tries out what is in them.
pub(crate) fn run(root: &Path) -> Outcome {
    match build(root) {
        Ok(made) => Outcome::Passed(Some(made)),
        Err(failure) => failure.into(),
    }
}

fn build(root: &Path) -> Result<String, Failure> {
    let version = env!("CARGO_PKG_VERSION");
    let place = crate::run::built(root, "dist");
    remove(&place)?;
    make(&place)?;
    let tree = place.join("tree");
    for (package, program) in PROGRAMS {
        install(&compile(root, package, program)?, &tree.join("usr/bin").join(program), 0o755)?;
    }
    let mut manual = cargo(root);
    manual.args(["run", "--quiet", "--locked", "-p", "frost", "--example", "manual", "--"]).arg(&tree);
    step(&mut manual, HALF_AN_HOUR)?;
    install(&root.join("packaging/apparmor"), &tree.join("etc/apparmor.d/frost"), 0o644)?;
    let doc = tree.join("usr/share/doc/permafrost");
    for name in ["README.md", "CHANGELOG.md", "LICENSE-APACHE", "LICENSE-MIT"] {
        install(&root.join(name), &doc.join(name), 0o644)?;
    }
    write(&doc.join("copyright"), &copyright(), 0o644)?;
    permissions(&tree)?;

    let time = committed_at(root);
    let tarball = place.join(format!("permafrost-{version}-x86_64-linux.tar.gz"));
    pack(&place, &tree, &tarball, &format!("permafrost-{version}"), &time)?;
    let mut made = format!("{}, {}", tarball.display(), size(&tarball));
    if is_installed("dpkg-deb") {
        let package = place.join(format!("permafrost_{version}_amd64.deb"));
        debian(root, &place, &tree, &package, version, &time)?;
        try_out_package(&place, &package, version)?;
        made.push_str(&format!("\n{}, {}", package.display(), size(&package)));
    } else {
        made.push_str("\nskipped: no Debian package, as dpkg-deb is not installed");
    }
    Ok(made)
}

/// What is installed: the package it is made of, and its name.
const PROGRAMS: [(&str, &str); 2] = [("frost", "frost"), ("frost-scenario", "frost-scenario")];

/// Builds a program as it is distributed; returns where it is.
pub(crate) fn compile(root: &Path, package: &str, program: &str) -> Result<PathBuf, Failure> {
    let mut build = cargo(root);
    // A target of its own, so that what is linked statically does not replace what tests and benches use. Without one it cannot
    // be had, as by a `.cargo/config.toml`: for this target rustc makes no procedural macro with that feature, and only a target
    // that is named sets those, which are the host's, apart from it.
    build.args(["build", "--release", "--locked", "-p", package, "--target", TARGET]);
    build.env("RUSTFLAGS", "-C target-feature=+crt-static").env("CARGO_PROFILE_RELEASE_STRIP", "symbols");
    step(&mut build, HALF_AN_HOUR)?;
    let frost = crate::run::built(root, &format!("{TARGET}/release/{program}"));
    let bytes = fs::read(&frost).map_err(|error| Failure::File(frost.clone(), error))?;
    // An interpreter would be named in the program headers.
    if bytes.windows(15).any(|text| text == b"/lib64/ld-linux") {
        return Err(Failure::Wrong(format!("{} is linked dynamically", frost.display())));
    }
    Ok(frost)
}

fn pack(place: &Path, tree: &Path, tarball: &Path, name: &str, time: &str) -> Result<(), Failure> {
    // Below its own name, and without `usr`: to be unpacked into /usr/local or a home directory.
    let staged = place.join(name);
    make(&staged)?;
    let mut copy = Command::new("cp");
    copy.arg("-a").arg(tree.join("usr/bin")).arg(tree.join("usr/share")).arg(tree.join("etc")).arg(&staged);
    step(&mut copy, MINUTE)?;
    let mut tar = Command::new("tar");
    tar.args(["--sort=name", "--owner=0", "--group=0", "--numeric-owner", &format!("--mtime=@{time}")]);
    tar.arg("-C").arg(place).args(["-I", "gzip -n9", "-cf"]).arg(tarball).arg(name);
    step(&mut tar, MINUTE)?;
    remove(&staged)
}

fn debian(
    root: &Path,
    place: &Path,
    tree: &Path,
    package: &Path,
    version: &str,
    time: &str,
) -> Result<(), Failure> {
    let staged = place.join("debian");
    let mut copy = Command::new("cp");
    step(copy.arg("-a").arg(tree).arg(&staged), MINUTE)?;
    let pages = staged.join("usr/share/man/man1");
    let mut gzip = Command::new("gzip");
    // Debian's policy asks for compressed pages and changelogs (12.1, 12.7).
    gzip.args(["-n9", "-r"]).arg(&pages).arg(staged.join("usr/share/doc/permafrost/CHANGELOG.md"));
    step(&mut gzip, MINUTE)?;
    let kib = fs::metadata(tree.join("usr/bin/frost")).map_or(0, |file| file.len() / 1024);
    let control = format!(
        "Package: permafrost\n\
         Version: {version}\n\
         Architecture: amd64\n\
         Maintainer: The Permafrost authors <permafrost@localhost>\n\
         Installed-Size: {kib}\n\
         Section: utils\n\
         Priority: optional\n\
         Suggests: gdb, apparmor\n\
         Description: freeze a running program, keep it, and thaw it later\n\
         \x20frost freezes any running program and its descendants into an image on disk, and\n\
         \x20thaws it later, elsewhere, or many times. It needs no preparation and no root.\n"
    );
    write(&staged.join("DEBIAN/control"), &control, 0o644)?;
    write(&staged.join("DEBIAN/conffiles"), "/etc/apparmor.d/frost\n", 0o644)?;
    for script in ["postinst", "prerm"] {
        install(&root.join("packaging").join(script), &staged.join("DEBIAN").join(script), 0o755)?;
    }
    let mut build = Command::new("dpkg-deb");
    build.args(["--root-owner-group", "-Zxz", "--build"]).arg(&staged).arg(package);
    step(build.env("SOURCE_DATE_EPOCH", time), MINUTE)?;
    remove(&staged)
}

/// Installs the package into a directory of its own and uses what is there.
fn try_out_package(place: &Path, package: &Path, version: &str) -> Result<(), Failure> {
    let scratch = place.join("scratch");
    let mut unpack = Command::new("dpkg-deb");
    step(unpack.arg("-x").arg(package).arg(&scratch), MINUTE)?;
    let frost = scratch.join("usr/bin/frost");
    let told = text(Command::new(&frost).arg("--version"))?;
    if !told.starts_with(&format!("frost {version} ")) {
        return Err(Failure::Wrong(format!("`frost --version` says {told:?}")));
    }
    let mut demo = Command::new(&frost);
    step(demo.arg("demo"), MINUTE)?;
    if is_installed("man") {
        let pages = scratch.join("usr/share/man/man1");
        let entries = fs::read_dir(&pages).map_err(|error| Failure::File(pages.clone(), error))?;
        for page in entries.filter_map(Result::ok) {
            let shown = text(Command::new("man").arg("-l").arg(page.path()).env("MANWIDTH", "80"))?;
            if !shown.contains("SYNOPSIS") {
                return Err(Failure::Wrong(format!("{} does not render", page.path().display())));
            }
        }
    }
    if is_installed("bash") {
        let completions = scratch.join("usr/share/bash-completion/completions/frost");
        // Completes `frost verif` as a shell would, by the function that the file defines.
        let script = "source \"$1\" && COMP_WORDS=(frost verif) COMP_CWORD=1 && _frost frost verif frost && \
                      echo \"${COMPREPLY[*]}\"";
        let reply = text(Command::new("bash").args(["-c", script, "bash"]).arg(&completions))?;
        if reply.trim() != "verify" {
            return Err(Failure::Wrong(format!("bash completes `frost verif` to {reply:?}")));
        }
    }
    remove(&scratch)
}

fn copyright() -> String {
    "Format: https://www.debian.org/doc/packaging-manuals/copyright-format/1.0/\n\
     Upstream-Name: Permafrost\n\
     \n\
     Files: *\n\
     Copyright: The Permafrost authors\n\
     License: Apache-2.0 or MIT\n\
     \x20Both texts lie beside this file.\n"
        .to_owned()
}

/// When the commit was made that is built, in seconds since 1970; so two builds of it are the same.
fn committed_at(root: &Path) -> String {
    let mut log = Command::new("git");
    let time = text(log.args(["log", "-1", "--format=%ct"]).current_dir(root)).unwrap_or_default();
    if time.trim().is_empty() { "0".to_owned() } else { time.trim().to_owned() }
}

/// Lets everybody read what is packed, whatever the umask was.
fn permissions(tree: &Path) -> Result<(), Failure> {
    let mut chmod = Command::new("chmod");
    step(chmod.args(["-R", "u=rwX,go=rX"]).arg(tree), MINUTE)
}

fn cargo(root: &Path) -> Command {
    let mut command = Command::new("cargo");
    command.current_dir(root);
    command
}

fn step(command: &mut Command, limit: Duration) -> Result<(), Failure> {
    match limited(command, limit) {
        Outcome::Passed(_) => Ok(()),
        failed => Err(Failure::Step(failed)),
    }
}

fn text(command: &mut Command) -> Result<String, Failure> {
    let name = command.get_program().to_string_lossy().into_owned();
    let output = command.output().map_err(|error| Failure::File(name.clone().into(), error))?;
    if !output.status.success() {
        let told = String::from_utf8_lossy(&output.stderr);
        return Err(Failure::Wrong(format!("{name}: {}: {}", output.status, told.trim())));
    }
    Ok(String::from_utf8_lossy(&output.stdout).into_owned())
}

fn make(directory: &Path) -> Result<(), Failure> {
    fs::create_dir_all(directory).map_err(|error| Failure::File(directory.to_owned(), error))
}

fn remove(directory: &Path) -> Result<(), Failure> {
    match fs::remove_dir_all(directory) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => {
            Err(Failure::File(directory.to_owned(), error))
        }
        _ => Ok(()),
    }
}

fn install(from: &Path, to: &Path, mode: u32) -> Result<(), Failure> {
    let bytes = fs::read(from).map_err(|error| Failure::File(from.to_owned(), error))?;
    write_bytes(to, &bytes, mode)
}

fn write(to: &Path, text: &str, mode: u32) -> Result<(), Failure> {
    write_bytes(to, text.as_bytes(), mode)
}

fn write_bytes(to: &Path, bytes: &[u8], mode: u32) -> Result<(), Failure> {
    if let Some(directory) = to.parent() {
        make(directory)?;
    }
    let written = fs::write(to, bytes).and_then(|()| fs::set_permissions(to, Permissions::from_mode(mode)));
    written.map_err(|error| Failure::File(to.to_owned(), error))
}

fn size(path: &Path) -> String {
    fs::metadata(path).map_or_else(|_| String::new(), |file| format!("{} KiB", file.len() / 1024))
}
