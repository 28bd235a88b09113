//! Files of file systems in memory: used again if they are as they were, made again if they are gone.

use super::error::{About, Error};
use super::file::Problem;
use super::{pack, regular};
use frost_model::cap::Volatile;
use frost_model::{BytePath, Checkpoint};
use frost_sys::undo::Undo;
use rustix::fd::{BorrowedFd, OwnedFd};
use rustix::fs::{FileType, Mode, OFlags};
use rustix::io::Errno;
use std::collections::BTreeMap;

/// How such a file is found.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Standing {
    /// With the content that it had, whichever file it is.
    Same,
    /// Not at all.
    Missing,
    /// With another content, or as something else.
    Different,
}

/// How each of them is found, by path.
pub(crate) fn standings(checkpoint: &Checkpoint) -> BTreeMap<&BytePath, Standing> {
    let files = checkpoint.objects.volatile.iter();
    files.map(|volatile| (&volatile.file.path, standing(volatile))).collect()
}

/// Says that such a file changed.
pub(super) fn changed() -> Problem {
    Problem {
        reason: "its content changed while the program was away".to_owned(),
        remedy:
            "remove the file, so that it is made as it was, or freeze the programs that share it together"
                .to_owned(),
        errno: None,
        content: false,
    }
}

fn standing(volatile: &Volatile) -> Standing {
    let path = volatile.file.path.as_path();
    let flags = OFlags::RDONLY | OFlags::NONBLOCK | OFlags::NOCTTY | OFlags::CLOEXEC;
    let file = match rustix::fs::open(path, flags, Mode::empty()) {
        Ok(file) => file,
        Err(Errno::NOENT) if path.parent().is_some_and(|parent| parent.is_dir()) => return Standing::Missing,
        // Whoever wants to use it says why it cannot be opened.
        Err(_) => return Standing::Same,
    };
    match is_as_it_was(volatile, &file) {
        Ok(true) => Standing::Same,
        Ok(false) | Err(_) => Standing::Different,
    }
}

fn is_as_it_was(volatile: &Volatile, file: &OwnedFd) -> rustix::io::Result<bool> {
    let stat = rustix::fs::fstat(file)?;
    let len_bytes = volatile.file.identity.len_bytes;
    if FileType::from_raw_mode(stat.st_mode) != FileType::RegularFile || stat.st_size as u64 != len_bytes {
        return Ok(false);
    }
    let mut hasher = blake3::Hasher::new();
    let mut buffer = vec![0; 1 << 20];
    let mut at = 0;
    while at < len_bytes {
        let part = buffer.len().min((len_bytes - at) as usize);
        match rustix::io::pread(file, &mut buffer[..part], at) {
            Ok(0) => return Ok(false),
            Ok(got) => {
                hasher.update(&buffer[..got]);
                at += got as u64;
            }
            Err(Errno::INTR) => {}
            Err(errno) => return Err(errno),
        }
    }
    Ok(*hasher.finalize().as_bytes() == volatile.digest)
}

/// Files in memory that are open; those that were made are removed again when we go, or drop this, before the
/// program has them.
#[derive(Debug, Default)]
pub(super) struct Made {
    paths: Vec<BytePath>,
    /// Those who do it if we are killed; nobody in a pid namespace of the program's, in which they would take its numbers.
    undo: Vec<Undo>,
    apart: bool,
}

impl Made {
    /// The program has them.
    pub(super) fn keep(&mut self) {
        self.paths.clear();
        self.undo.drain(..).for_each(Undo::disarm);
    }

    /// Opens every file, by its path, and makes those that are missing.
    pub(super) fn open_all(
        checkpoint: &Checkpoint,
        pack: BorrowedFd<'_>,
        apart: bool,
    ) -> Result<(Self, BTreeMap<BytePath, OwnedFd>), Error> {
        let mut made = Self { paths: Vec::new(), undo: Vec::new(), apart };
        let mut files = BTreeMap::new();
        for volatile in &checkpoint.objects.volatile {
            let path = &volatile.file.path;
            let file = match standing(volatile) {
                Standing::Same => {
                    let flags = OFlags::PATH | OFlags::CLOEXEC;
                    match rustix::fs::open(path.as_path(), flags, Mode::empty()) {
                        Ok(file) => file,
                        // Whoever wants to use it says why.
                        Err(_) => continue,
                    }
                }
                Standing::Missing => made.make(volatile, pack).about("make", path)?,
                // By a route that does not mind; without one the plan refuses.
                Standing::Different => continue,
            };
            files.insert(path.clone(), file);
        }
        Ok((made, files))
    }

    fn make(&mut self, volatile: &Volatile, pack: BorrowedFd<'_>) -> rustix::io::Result<OwnedFd> {
        let file = &volatile.file;
        let flags = OFlags::CREATE | OFlags::EXCL | OFlags::RDWR | OFlags::CLOEXEC | OFlags::NOFOLLOW;
        let undo = match self.apart {
            true => None,
            false => Some(Undo::prepare(|| _ = rustix::fs::unlink(file.path.as_path()))?),
        };
        let fd = rustix::fs::open(file.path.as_path(), flags, Mode::RUSR | Mode::WUSR)?;
        undo.iter().for_each(Undo::arm);
        self.undo.extend(undo);
        self.paths.push(file.path.clone());
        rustix::fs::ftruncate(&fd, file.identity.len_bytes)?;
        pack::copy(pack, &volatile.pages, &fd, file.identity.len_bytes)?;
        regular::finish(&fd, &file.identity, volatile.marks.as_ref())?;
        Ok(fd)
    }
}

impl Drop for Made {
    fn drop(&mut self) {
        for path in &self.paths {
            let _ = rustix::fs::unlink(path.as_path());
        }
        self.undo.drain(..).for_each(Undo::disarm);
    }
}
