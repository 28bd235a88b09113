//! Where a command writes a file that holds a program's secrets: a file of the user's only, or standard output.

use crate::failure::{Failure, Status, Told};
use std::fs::File;
use std::io::{self, IsTerminal};
use std::path::{Path, PathBuf};
use tempfile::NamedTempFile;

/// Returns standard output, unless it is a terminal. `what` says what cannot be done, `hint` what to do instead.
pub(crate) fn stdout(what: &str, cause: &str, hint: &str) -> Result<io::StdoutLock<'static>, Failure> {
    let out = io::stdout().lock();
    if out.is_terminal() {
        return Err(Told::new(Status::Usage, format!("{what} to a terminal"))
            .cause(cause)
            .state("nothing was written")
            .hint(hint)
            .into());
    }
    Ok(out)
}

/// A file that is written beside its place, so that a failure leaves what was there; a device or a fifo is written to.
#[derive(Debug)]
pub(crate) struct Destination<'a> {
    what: &'a str,
    path: &'a Path,
    draft: Draft,
}

#[derive(Debug)]
enum Draft {
    /// It will take the place of a file, that of this path.
    Beside(NamedTempFile, PathBuf),
    /// It is no regular file, and must not be replaced by one.
    Itself(File),
}

impl<'a> Destination<'a> {
    /// Begins it.
    pub(crate) fn create(what: &'a str, path: &'a Path) -> Result<Self, Failure> {
        let begin = || -> io::Result<Draft> {
            if path.metadata().is_ok_and(|there| !there.is_file() && !there.is_dir()) {
                return Ok(Draft::Itself(File::options().write(true).open(path)?));
            }
            // What a symbolic link leads to, not the link.
            let place = path.canonicalize().unwrap_or_else(|_| path.to_owned());
            let parent = place.parent().filter(|parent| !parent.as_os_str().is_empty());
            let directory = parent.unwrap_or(Path::new("."));
            let draft = tempfile::Builder::new().prefix(".frost-draft-").tempfile_in(directory);
            // Its path says nothing to who gave another one.
            let draft = draft.map_err(|error| match error.raw_os_error() {
                Some(number) => io::Error::from_raw_os_error(number),
                None => io::Error::from(error.kind()),
            })?;
            Ok(Draft::Beside(draft, place))
        };
        match begin() {
            Ok(draft) => Ok(Self { what, path, draft }),
            Err(error) => Err(failed(what, path, &error)),
        }
    }

    /// Returns the file to write to.
    pub(crate) fn file(&mut self) -> &mut File {
        match &mut self.draft {
            Draft::Beside(draft, _) => draft.as_file_mut(),
            Draft::Itself(file) => file,
        }
    }

    /// Tells that writing failed.
    pub(crate) fn failed(&self, error: &io::Error) -> Failure {
        failed(self.what, self.path, error)
    }

    /// Makes it the file of that path, synced. Returns its length in bytes, if it is a file.
    pub(crate) fn publish(self) -> Result<Option<u64>, Failure> {
        let Self { what, path, draft } = self;
        let failed = |error: &io::Error| failed(what, path, error);
        let (draft, place) = match draft {
            Draft::Beside(draft, place) => (draft, place),
            Draft::Itself(_) => return Ok(None),
        };
        let bytes = draft.as_file().metadata().map_err(|error| failed(&error))?.len();
        draft.as_file().sync_all().map_err(|error| failed(&error))?;
        draft.persist(place).map_err(|error| failed(&error.error))?;
        Ok(Some(bytes))
    }
}

fn failed(what: &str, path: &Path, error: &io::Error) -> Failure {
    let full = matches!(error.kind(), io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded);
    let status = match error.kind() {
        _ if full => Status::NoSpace,
        io::ErrorKind::PermissionDenied | io::ErrorKind::ReadOnlyFilesystem => Status::Denied,
        _ => Status::Failed,
    };
    Told::new(status, format!("{what} to {}", path.display()))
        .chain(error)
        .state("the file is as it was before")
        .hint("name a file in a directory where you may write and there is room")
        .into()
}
