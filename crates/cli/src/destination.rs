//! Where a command writes a file that holds a program's secrets: a file of the user's only, or standard output.

use crate::failure::{Failure, Status, Told};
use std::io::{self, IsTerminal};
use std::path::Path;
use tempfile::NamedTempFile;

/// Returns standard output, unless it is a terminal. `what` says what cannot be done, `hint` what to do instead.
pub(crate) fn stdout(what: &str, cause: &str, hint: &str) -> Result<io::StdoutLock<'static>, Failure> {
    let out = io::stdout().lock();
    if out.is_terminal() {
        return Err(Told::new(Status::Usage, format!("{what} to a terminal")).cause(cause).hint(hint).into());
    }
    Ok(out)
}

/// A file that is written beside its place, so that a failure leaves what was there.
#[derive(Debug)]
pub(crate) struct Destination<'a> {
    what: &'a str,
    path: &'a Path,
    draft: NamedTempFile,
}

impl<'a> Destination<'a> {
    /// Begins it.
    pub(crate) fn create(what: &'a str, path: &'a Path) -> Result<Self, Failure> {
        let directory =
            path.parent().filter(|parent| !parent.as_os_str().is_empty()).unwrap_or(Path::new("."));
        let draft = tempfile::Builder::new().prefix(".frost-draft-").tempfile_in(directory);
        match draft {
            Ok(draft) => Ok(Self { what, path, draft }),
            Err(error) => Err(failed(what, path, &error)),
        }
    }

    /// Returns the file to write to.
    pub(crate) fn file(&mut self) -> &mut std::fs::File {
        self.draft.as_file_mut()
    }

    /// Tells that writing failed.
    pub(crate) fn failed(&self, error: &io::Error) -> Failure {
        failed(self.what, self.path, error)
    }

    /// Makes it the file of that path, synced. Returns its length in bytes.
    pub(crate) fn publish(self) -> Result<u64, Failure> {
        let Self { what, path, draft } = self;
        let failed = |error: &io::Error| failed(what, path, error);
        let bytes = draft.as_file().metadata().map_err(|error| failed(&error))?.len();
        draft.as_file().sync_all().map_err(|error| failed(&error))?;
        draft.persist(path).map_err(|error| failed(&error.error))?;
        Ok(bytes)
    }
}

fn failed(what: &str, path: &Path, error: &io::Error) -> Failure {
    let full = matches!(error.kind(), io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded);
    let status = if full { Status::NoSpace } else { Status::Failed };
    Told::new(status, format!("{what} to {}", path.display()))
        .chain(error)
        .state("the file is as it was before")
        .hint("name a file in a directory where you may write and there is room")
        .into()
}
