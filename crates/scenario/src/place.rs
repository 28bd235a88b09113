//! Where scenarios are, and which one is meant.

use crate::failure::{Failure, Status};
use frost_component::Session;
use frost_component::wire::is_name;
use rustix::fs::FlockOperation;
use std::fs::File;
use std::path::{Path, PathBuf};

/// The directory of all scenarios: in the store, which `frost` names by FROST_HOME.
pub(crate) fn scenarios() -> Result<PathBuf, Failure> {
    let set = |name: &str| std::env::var_os(name).filter(|value| !value.is_empty()).map(PathBuf::from);
    // As `frost` has it: relative paths are ignored where the XDG specification says so, and in HOME.
    let fixed = |name: &str| set(name).filter(|path| path.is_absolute());
    let store = set("FROST_HOME")
        .or_else(|| fixed("XDG_DATA_HOME").map(|data| data.join("permafrost")))
        .or_else(|| fixed("HOME").map(|home| home.join(".local/share/permafrost")));
    let store = store.ok_or_else(|| {
        Failure::new(
            Status::Failed,
            "cannot tell where scenarios are kept",
            "neither FROST_HOME is set, nor XDG_DATA_HOME or HOME to a path that begins with /",
        )
        .hint("set FROST_HOME to a directory")
    })?;
    std::path::absolute(&store)
        .map(|store| store.join("scenarios"))
        .map_err(|error| Failure::new(Status::Failed, format!("cannot use {}", store.display()), error))
}

/// Takes a scenario's directory for this process, which holds the file that is returned for as long as it lives. `doing` is
/// what for, as `start`.
pub(crate) fn claim(home: &Path, name: &str, doing: &str) -> Result<File, Failure> {
    let what = format!("cannot {doing} scenario {name}");
    let failed = |error: std::io::Error| {
        Failure::new(Status::Failed, what.clone(), format!("{}: {error}", home.display()))
            .hint("name another directory by FROST_HOME, or make that one writable")
    };
    // "c/" + a number + "/s/session"; sun_path takes 107 bytes.
    if home.as_os_str().len() > 107 - 24 {
        let why = format!("the directory {} is too long a name for sockets in it", home.display());
        return Err(Failure::new(Status::Failed, what, why).hint("set FROST_HOME to a shorter one"));
    }
    let mut builder = std::fs::DirBuilder::new();
    std::os::unix::fs::DirBuilderExt::mode(&mut builder, 0o700)
        .recursive(true)
        .create(home)
        .map_err(failed)?;
    let lock =
        File::options().create(true).truncate(false).write(true).open(home.join("lock")).map_err(failed)?;
    if rustix::fs::flock(&lock, FlockOperation::NonBlockingLockExclusive).is_err() {
        return Err(Failure::new(Status::Failed, what, "it runs already").hint(format!(
            "`frost status` shows it, `frost down {name}` ends it; editing its file changes it"
        )));
    }
    // What a dead supervisor has left; its components have ended with it.
    match std::fs::remove_dir_all(home.join("c")) {
        Err(error) if error.kind() != std::io::ErrorKind::NotFound => Err(failed(error)),
        _ => Ok(lock),
    }
}

/// Returns the process that supervises a scenario, if it runs; it is not asked.
pub(crate) fn supervisor(home: &Path) -> Option<i32> {
    let session = Session::connect_to(&home.join("control")).ok()?;
    // Of the one that listens: taken when it began to.
    let peer = rustix::net::sockopt::socket_peercred(&session).ok()?;
    Some(rustix::process::Pid::as_raw(Some(peer.pid)))
}

/// Returns the names of the scenarios that run.
pub(crate) fn running(scenarios: &Path) -> Vec<String> {
    let entries = std::fs::read_dir(scenarios).into_iter().flatten().flatten();
    let mut names: Vec<String> = entries
        .filter_map(|entry| entry.file_name().into_string().ok())
        .filter(|name| is_name(name) && Session::connect_to(&scenarios.join(name).join("control")).is_ok())
        .collect();
    names.sort();
    names
}

/// Returns the names of the scenarios of which there is an image.
fn frozen(scenarios: &Path) -> Vec<String> {
    let entries = std::fs::read_dir(scenarios).into_iter().flatten().flatten();
    let mut names: Vec<String> = entries
        .filter(|entry| entry.path().join(crate::image::IMAGE).is_file())
        .filter_map(|entry| entry.file_name().into_string().ok())
        .collect();
    names.sort();
    names
}

/// Connects to the scenario that is meant: the named one, or the only one that runs.
pub(crate) fn connect(name: Option<&str>, doing: &str) -> Result<(String, Session), Failure> {
    let scenarios = scenarios()?;
    let running = running(&scenarios);
    let name = match (name, &running[..]) {
        (Some(name), _) => name.to_owned(),
        (None, [only]) => only.clone(),
        (None, []) => {
            let frozen = frozen(&scenarios);
            let frozen = match &frozen[..] {
                [] => String::new(),
                names => format!("; `frost thaw NAME` one that is frozen: {}", names.join(", ")),
            };
            return Err(Failure::new(Status::Missing, format!("cannot {doing}"), "no scenario runs")
                .hint(format!("`frost up SCENARIO.toml` starts one{frozen}")));
        }
        (None, many) => {
            return Err(Failure::new(
                Status::Usage,
                format!("cannot {doing}"),
                "more than one scenario runs",
            )
            .hint(format!(
                "name one (`rom`, `report` and `replace` take it by `--scenario`): {}",
                many.join(", ")
            )));
        }
    };
    match Session::connect_to(&scenarios.join(&name).join("control")) {
        Ok(session) if is_name(&name) => Ok((name, session)),
        _ => {
            Err(Failure::new(Status::Missing, format!("cannot {doing}"), format!("no scenario {name} runs"))
                .hint(crate::spot::suggest(&name, "running scenarios", running.iter().map(String::as_str))))
        }
    }
}
