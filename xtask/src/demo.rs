//! The README's first command, as whoever we are and, if that is root, as an ordinary user too.

use crate::run::{Outcome, built, is_installed, limited};
use std::fs;
use std::io;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

/// `nobody` on Debian, whose home does not exist: a user with nothing.
const NOBODY: &str = "65534";
const LIMIT: Duration = Duration::from_secs(120);

/// Builds frost and runs its demonstration.
pub(crate) fn run(root: &Path) -> Outcome {
    let mut build = Command::new("cargo");
    build.args(["build", "--locked", "--package", "frost"]).current_dir(root);
    if let failed @ Outcome::Failed(_) = limited(&mut build, Duration::from_secs(900)) {
        return failed;
    }
    let frost = built(root, "debug/frost");
    if let failed @ Outcome::Failed(_) = limited(Command::new(&frost).arg("demo"), LIMIT) {
        return failed;
    }
    if !rustix::process::geteuid().is_root() {
        return Outcome::Passed(Some("as an ordinary user".to_owned()));
    }
    if !is_installed("setpriv") {
        return Outcome::Passed(Some(
            "as root; as an ordinary user only with setpriv (util-linux)".to_owned(),
        ));
    }
    // The clone may lie where others may not look, so the program is copied to where they may.
    let public = match publish(&frost) {
        Ok(public) => public,
        Err(error) => return Outcome::Failed(format!("cannot copy frost for an ordinary user: {error}")),
    };
    let mut command = Command::new("setpriv");
    command
        .args(["--reuid", NOBODY, "--regid", NOBODY, "--clear-groups"])
        .arg(public.join("frost"))
        .arg("demo");
    let outcome =
        limited(command.env_remove("FROST_HOME").env("HOME", "/nonexistent").current_dir("/"), LIMIT);
    let _ = fs::remove_dir_all(&public);
    match outcome {
        Outcome::Passed(_) => Outcome::Passed(Some("as root, and as an ordinary user".to_owned())),
        other => other,
    }
}

/// Copies the program to a new directory that everybody may look into.
fn publish(frost: &Path) -> io::Result<PathBuf> {
    let directory = std::env::temp_dir().join(format!("frost-xtask-{}", std::process::id()));
    fs::create_dir(&directory)?;
    fs::set_permissions(&directory, fs::Permissions::from_mode(0o755))?;
    fs::copy(frost, directory.join("frost"))?;
    Ok(directory)
}
