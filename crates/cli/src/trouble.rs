//! Errors of the crates below, with the exit status and the advice that belong to each kind.

use crate::failure::{Failure, Status, Told};
use crate::output;
use frost_model::Obstacle;
use frost_store::Error as Store;
use rustix::io::Errno;
use std::io::ErrorKind;

/// What to do where something cannot be written.
fn where_writing_is_denied() -> String {
    // What is made by such a umask is not even its owner's.
    let status = std::fs::read_to_string("/proc/self/status").unwrap_or_default();
    let umask = status.lines().find_map(|line| line.strip_prefix("Umask:"));
    let umask = umask.and_then(|text| u32::from_str_radix(text.trim(), 8).ok()).unwrap_or(0);
    if umask & 0o700 != 0 {
        format!(
            "the umask {umask:04o} takes what is made from its owner, too: `umask 0077`, and remove what was made"
        )
    } else {
        "use a store where you may write: --store DIR, or FROST_HOME".to_owned()
    }
}

/// Tells an error of the store. `what` says what failed, as `cannot verify web@2`.
pub(crate) fn of_store(what: impl Into<String>, error: Store) -> Failure {
    let status = match &error {
        Store::NoSpace { .. } => Status::NoSpace,
        Store::OtherOwner { .. } | Store::Writable { .. } => Status::Denied,
        Store::Name { .. } | Store::NoStore { .. } => Status::Usage,
        Store::Image { source: frost_image::Error::OtherArchitecture { .. }, .. } => Status::Unsupported,
        Store::NoSuchImage { .. } => Status::Missing,
        Store::IsMachine { .. } => Status::Unsupported,
        Store::Image { .. } | Store::BlockDamaged { .. } | Store::Foreign { .. } | Store::Lost { .. } => {
            Status::Damaged
        }
        Store::Io { source, .. } => match source.kind() {
            ErrorKind::PermissionDenied | ErrorKind::ReadOnlyFilesystem => Status::Denied,
            ErrorKind::StorageFull | ErrorKind::QuotaExceeded => Status::NoSpace,
            ErrorKind::BrokenPipe => return Failure::ClosedPipe,
            _ => Status::Failed,
        },
        _ => Status::Failed,
    };
    let hint = match &error {
        Store::NoSpace { .. } => Some(
            "free some space there (`frost gc`, `frost rm`), or keep images elsewhere by --store".to_owned(),
        ),
        Store::OtherOwner { user: 0, .. } => {
            Some("--trust-owner uses it all the same; its images hold code that would run as root".to_owned())
        }
        Store::NoStore { .. } => Some(
            "name an empty directory, or one that there is not yet: --store DIR, or FROST_HOME".to_owned(),
        ),
        Store::OtherOwner { .. } => Some("use a store of your own: --store DIR, or FROST_HOME".to_owned()),
        Store::Writable { path, .. } => {
            Some(format!("look at what it holds; if you trust it: chmod go-w {}", path.display()))
        }
        Store::Name { .. } | Store::NoSuchImage { .. } => Some("`frost list` shows what there is".to_owned()),
        Store::Image { source, .. } => image_hint(source),
        Store::BlockDamaged { .. } => Some(
            "the disk changed what was written; take another version, or import the image again".to_owned(),
        ),
        Store::Io { source, .. }
            if matches!(source.kind(), ErrorKind::PermissionDenied | ErrorKind::ReadOnlyFilesystem) =>
        {
            Some(where_writing_is_denied())
        }
        Store::Lost { .. } => {
            Some("take another version (`frost list`), or import the image again".to_owned())
        }
        Store::IsMachine { .. } => Some("thaw it, and look into the guest from there".to_owned()),
        Store::Runs { instance, .. } => Some(format!(
            "freeze it first (`frost freeze {}`), or thaw a copy beside it by --clone",
            instance.pid
        )),
        _ => None,
    };
    let hint = hint.unwrap_or_else(|| "`frost check` tells whether the store can be used".to_owned());
    // What each of these errors promises: a failed operation on the store changes nothing.
    Told::new(status, what).chain(&error).state("the store is as it was before").hint(hint).into()
}

/// Tells why an image could not be imported.
pub(crate) fn of_import(what: impl Into<String>, error: Store) -> Failure {
    let hint = match &error {
        Store::Image { source: frost_image::Error::CutShort { found_bytes: 0, .. }, .. } => {
            "nothing came: look at what the exporting command said"
        }
        Store::Image { source: frost_image::Error::NotAnImage, .. } => {
            "only what `frost export` wrote can be imported"
        }
        Store::Image {
            source:
                frost_image::Error::TooNew { .. }
                | frost_image::Error::UnknownFeatures { .. }
                | frost_image::Error::OtherArchitecture { .. },
            ..
        } => return of_store(what, error),
        Store::Image { .. } | Store::BlockDamaged { .. } => {
            "it was damaged or cut on its way: export the image again, and look at what that command says"
        }
        // Of what is imported, not of the store.
        Store::Io { action: "read", .. } => "name a file that `frost export` wrote",
        _ => return of_store(what, error),
    };
    match of_store(what, error) {
        Failure::Told(mut told) => {
            told.hints = vec![hint.to_owned()];
            Failure::Told(told)
        }
        closed => closed,
    }
}

fn image_hint(error: &frost_image::Error) -> Option<String> {
    use frost_image::Error as Image;
    match error {
        Image::TooNew { .. } | Image::UnknownFeatures { .. } => {
            Some("it takes a newer frost: the one that wrote it, or a later one".to_owned())
        }
        Image::OtherArchitecture { .. } => Some("thaw it on a machine of that architecture".to_owned()),
        _ => Some("take another version (`frost list`), or import the image again".to_owned()),
    }
}

/// Tells how a freeze failed, or the check before it.
pub(crate) fn of_freeze(failure: frost_freeze::Failure) -> Failure {
    use frost_freeze::FailureKind;
    let status = match failure.kind {
        FailureKind::Failed => Status::Failed,
        FailureKind::Usage => Status::Usage,
        FailureKind::Unsupported => Status::Unsupported,
        FailureKind::Denied => Status::Denied,
        FailureKind::NotFound => Status::Missing,
        FailureKind::NoSpace => Status::NoSpace,
    };
    let mut told = Told::new(status, failure.what);
    told.causes = failure.causes;
    told.causes.extend(failure.obstacles.iter().map(obstacle));
    told.state = Some(failure.state).filter(|state| !state.is_empty());
    let hint = failure.hint.unwrap_or_else(|| match status {
        Status::Unsupported => "each cause has its remedy behind the arrow".to_owned(),
        Status::NoSpace => {
            "free some space there (`frost gc`, `frost rm`), or keep images elsewhere by --store".to_owned()
        }
        _ => "`frost check` tells what this machine lacks".to_owned(),
    });
    told.hint(hint).into()
}

/// Tells how a thaw failed.
pub(crate) fn of_thaw(what: impl Into<String>, error: frost_thaw::Error) -> Failure {
    use frost_thaw::Error as Thaw;
    let error = match error {
        Thaw::Store { source } => return of_store(what, source),
        error => error,
    };
    let (status, hint) = match &error {
        Thaw::Obstacles { obstacles } => return in_the_way(what, obstacles),
        Thaw::Call { source, .. }
        | Thaw::Builder { source, .. }
        | Thaw::Description(frost_thaw::cap::Error::Object { source, .. }) => match *source {
            Errno::PERM | Errno::ACCESS => {
                (Status::Denied, "`frost check` tells which right is lacking, and how to get it")
            }
            // So many namespaces there may be (`inc_ucount`).
            Errno::NOSPC | Errno::USERS if error.is_about_namespaces() => {
                let remedy = crate::commands::refused_namespaces_remedy();
                return Told::new(Status::Denied, what)
                    .cause(error.to_string())
                    .cause("there are as many as there may be, or as many within each other")
                    .state("nothing is left of what was built, and the image is as it was")
                    .hint(remedy)
                    .into();
            }
            Errno::NOSPC | Errno::DQUOT => (Status::NoSpace, "free some space, then try again"),
            Errno::EXIST => (
                Status::Failed,
                "its number was taken meanwhile: look who runs (`frost list`), or thaw a copy by --clone",
            ),
            Errno::NOMEM | Errno::AGAIN => {
                (Status::Failed, "free some memory or raise the limits of this shell (`ulimit -a`)")
            }
            _ => (Status::Failed, "`frost check` tells what this machine lacks"),
        },
        Thaw::Short { .. } | Thaw::TooLarge { .. } => (
            Status::Damaged,
            "`frost verify` tells what is wrong with the image; take another version, or import it again",
        ),
        Thaw::Inside { lack: Some(frost_thaw::Lack::Right), .. } => {
            (Status::Denied, "`frost check` tells which right is lacking, and how to get it")
        }
        Thaw::Inside { lack: Some(frost_thaw::Lack::Space), .. } => {
            (Status::NoSpace, "free some space, then try again")
        }
        _ => (Status::Failed, "try again; `frost check` tells what this machine lacks"),
    };
    Told::new(status, what)
        .chain(&error)
        .state("nothing is left of what was built, and the image is as it was")
        .hint(hint)
        .into()
}

/// Tells all that is in the way of a thaw.
pub(crate) fn in_the_way(what: impl Into<String>, obstacles: &[Obstacle]) -> Failure {
    // That it runs already, or another process has its number, is nothing that the program or the machine lacks.
    let status = if Obstacle::all_pass(obstacles) { Status::Failed } else { Status::Unsupported };
    let mut told = Told::new(status, what);
    told.causes = obstacles.iter().map(self::obstacle).collect();
    told.state("nothing was built, and the image is as it was")
        .hint("each cause has its remedy behind the arrow; `frost thaw --plan` tells all of it")
        .into()
}

/// One obstacle with its remedy, on two lines.
pub(crate) fn obstacle(obstacle: &Obstacle) -> String {
    let text = output::printable(&obstacle.to_string());
    if obstacle.remedy.is_empty() {
        text
    } else {
        format!("{text}\n-> {}", output::printable(&obstacle.remedy))
    }
}

/// An error and all that lies behind it, on one line.
pub(crate) fn chained(error: &Store) -> String {
    let mut text = error.to_string();
    let mut next = std::error::Error::source(error);
    while let Some(error) = next {
        text.push_str(&format!(": {error}"));
        next = error.source();
    }
    text
}

/// Tells what went wrong with an instance.
pub(crate) fn of_runtime(what: impl Into<String>, error: frost_runtime::Error) -> Failure {
    use frost_runtime::Error as Runtime;
    let (status, hint) = match &error {
        Runtime::Store(_) => {
            let Runtime::Store(error) = error else { return Told::new(Status::Failed, what).into() };
            return of_store(what, error);
        }
        Runtime::Missing => (Status::Missing, "`frost ps` shows what there is".to_owned()),
        Runtime::Ended(_) => (Status::Missing, "`frost ps` shows how it stands".to_owned()),
        Runtime::Runs { .. } => (Status::Failed, "choose another name, or freeze or end it first".to_owned()),
        Runtime::Frozen { name, .. } => (
            Status::Failed,
            format!("`frost thaw {name}` lets it go on; `frost rm {name}` gives the name free"),
        ),
        Runtime::Within { outer } => (
            Status::Failed,
            match outer {
                Some(outer) => format!("`frost thaw {outer}` lets both go on"),
                None => "thaw that, and it goes on as well".to_owned(),
            },
        ),
        Runtime::Busy => (Status::Failed, "try again, or choose another name".to_owned()),
        Runtime::Keeper(frost_keeper::Error::Stopped(pid)) => {
            (Status::Failed, format!("`kill -CONT {pid}` lets it go on"))
        }
        Runtime::Keeper(_) => (Status::Failed, "try again; `frost ps` shows how it stands".to_owned()),
        Runtime::NoTerminal => (Status::Failed, "look at the terminal that it was started from".to_owned()),
        Runtime::Elsewhere => (Status::Denied, "run this from where it was started".to_owned()),
        Runtime::Kind(_) => {
            let known: Vec<&str> = frost_keeper::admission::KINDS.iter().map(|kind| kind.name).collect();
            (Status::Usage, format!("known are {}", known.join(", ")))
        }
        Runtime::Budget { resource, lack } => (Status::Denied, lack.remedy(*resource).to_owned()),
        Runtime::Limit { .. } => (Status::Failed, "allow more, or free some of it first".to_owned()),
        Runtime::DoesNotFit { .. } => {
            (Status::Failed, "allow more by `frost set NAME --ram SIZE`, or --ram none".to_owned())
        }
        Runtime::Layer { .. } => (
            Status::Unsupported,
            "name a directory in which nothing is mounted, and that is not the store's".to_owned(),
        ),
        Runtime::Lower { .. } => (
            Status::Unsupported,
            "make the directory what it was, or thaw it on the machine that it was frozen on".to_owned(),
        ),
        Runtime::Written(_) => (Status::Failed, "look at it as the user whose program it is".to_owned()),
        Runtime::Bundle { path, .. } => (
            Status::Unsupported,
            format!("make an empty directory {} first, or move away what is there", path.display()),
        ),
        Runtime::Network | Runtime::Kept => {
            (Status::Failed, "thaw a copy beside it (`--clone`), or another version of it".to_owned())
        }
        Runtime::Unprepared => (Status::Unsupported, "only programs of `frost run` have a budget".to_owned()),
        Runtime::Program { program, .. } if program.is_empty() => (
            Status::NotFound,
            "name a program behind `--`; a variable of the shell that stands there may be empty".to_owned(),
        ),
        Runtime::Program { source, .. } => match source.kind() {
            ErrorKind::NotFound => (Status::NotFound, "give its path, or look at PATH".to_owned()),
            _ => (Status::NotExecutable, "look at its mode and its kind (`file`)".to_owned()),
        },
        Runtime::Environment { object, source }
            if frost_runtime::run::NAMESPACES.contains(&object.as_str()) && is_refusal(*source) =>
        {
            // The kernel's own text, as "no space left on device", would lead astray.
            let mut told =
                Told::new(Status::Denied, what).cause(error.to_string()).state("nothing was changed");
            told = told.hint(crate::commands::refused_namespaces_remedy());
            if !rustix::process::geteuid().is_root() {
                told = told.hint(
                    "what works without: freezing by process id, looking at images, `frost export`; and all of it as root",
                );
            }
            return told.into();
        }
        Runtime::Environment { source: Errno::MFILE, .. } => {
            (Status::Failed, "raise the limit of open files of this shell (`ulimit -n`)".to_owned())
        }
        Runtime::Environment { source, .. } => (
            if is_refusal(*source) { Status::Denied } else { Status::Failed },
            "`frost check` tells which right is lacking, and how to get it".to_owned(),
        ),
        Runtime::File { source, .. } => match source.kind() {
            ErrorKind::PermissionDenied | ErrorKind::ReadOnlyFilesystem => {
                (Status::Denied, where_writing_is_denied())
            }
            ErrorKind::StorageFull | ErrorKind::QuotaExceeded => {
                (Status::NoSpace, "free some space there, or use a store elsewhere by --store".to_owned())
            }
            ErrorKind::FileTooLarge => (
                Status::NoSpace,
                "raise the limit of the length of files of this shell (`ulimit -f`)".to_owned(),
            ),
            _ => (Status::Failed, "`frost check` tells whether the store can be used".to_owned()),
        },
    };
    Told::new(status, what).chain(&error).state("nothing was changed").hint(hint).into()
}

/// Whether an errno of making namespaces says that they are not allowed.
fn is_refusal(errno: Errno) -> bool {
    matches!(errno, Errno::PERM | Errno::ACCESS | Errno::NOSPC | Errno::USERS)
}

/// Refuses options that mean nothing for what a name turned out to be: each is given, and called what.
pub(crate) fn not_for(object: &str, what: String, given: &[(bool, &str)]) -> Result<(), Failure> {
    let Some((_, option)) = given.iter().find(|(given, _)| *given) else { return Ok(()) };
    Err(Told::new(Status::Usage, what)
        .cause(format!("it is {object}, for which there is no {option}"))
        .state("nothing was touched")
        .hint(format!("leave {option} out"))
        .into())
}
