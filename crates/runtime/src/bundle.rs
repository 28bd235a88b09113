//! What an image brings along, put where its program finds it on a machine that does not have it.
//!
//! The files lie in the instance's directory. In the keeper's mount namespace they are laid over the
//! directories in which they are missing, by overlays that nobody can write to; the machine's own files stay as they are.

use crate::error::Error;
use crate::instance::Instance;
use frost_keeper::house::Cover;
use frost_model::bundle::Bundled;
use frost_model::layer::{Node, Written};
use frost_model::{BytePath, Checkpoint};
use frost_store::Image;
use rustix::fd::AsFd;
use rustix::fs::{Mode, OFlags};
use rustix::io::Errno;
use std::collections::BTreeSet;
use std::path::{Path, PathBuf};

/// What of a bundle this machine lacks.
#[derive(Debug, Default)]
pub(crate) struct Lack {
    /// Their paths, with those of the directories above them; from the root directory on.
    paths: BTreeSet<BytePath>,
    /// Directories in which nothing of the machine's is to be seen: those of layers.
    whole: BTreeSet<BytePath>,
    /// Directories that are covered.
    covered: Vec<PathBuf>,
}

impl Lack {
    pub(crate) fn is_empty(&self) -> bool {
        self.covered.is_empty()
    }
}

/// Finds what this machine lacks of what `checkpoint` brings along. Of the layers in `differing` it lacks all that lies
/// below.
///
/// # Errors
/// [`Error::Bundle`] where it cannot be laid.
pub(crate) fn lacking(checkpoint: &Checkpoint, differing: &[PathBuf]) -> Result<Lack, Error> {
    let mut lack = Lack::default();
    for bundled in &checkpoint.bundle {
        let path = bundled.path();
        let layer = checkpoint.layers.iter().map(|layer| layer.directory.as_path());
        let lacks = match layer.into_iter().find(|layer| path.starts_with(layer)) {
            Some(layer) => differing.iter().any(|directory| directory == layer),
            None => lacks(bundled, &path)?,
        };
        if !lacks {
            continue;
        }
        // A directory that is there is covered itself, anything else by what it is in.
        let there = path.ancestors().find(|above| above.is_dir()).unwrap_or(Path::new("/"));
        if there == Path::new("/") {
            let missing = path.ancestors().find(|above| above.parent() == Some(Path::new("/")));
            return Err(Error::Bundle {
                path: missing.unwrap_or(&path).to_owned(),
                why: "it is not there, and nothing can be laid over the root directory".to_owned(),
            });
        }
        lack.covered.push(std::fs::canonicalize(there).ok().filter(|real| real == there).ok_or_else(
            || {
                let why = "a part of it is a symbolic link here".to_owned();
                Error::Bundle { path: there.to_owned(), why }
            },
        )?);
        for above in path.ancestors() {
            lack.paths.insert(BytePath::from(above.strip_prefix("/").unwrap_or(above)));
        }
        if differing.contains(&path) {
            lack.whole.insert(bundled.file.path.clone());
        }
    }
    // An outer one before those in it. Below what is whole there is nothing else.
    lack.covered.sort();
    lack.covered.dedup();
    let whole = differing.iter().filter(|layer| layer.is_dir());
    for layer in whole {
        lack.covered.retain(|path| path == layer || !path.starts_with(layer));
    }
    Ok(lack)
}

/// Whether this machine has no such file: the same one, or the same build of a binary.
fn lacks(bundled: &Bundled, path: &Path) -> Result<bool, Error> {
    let stat = match rustix::fs::lstat(path) {
        Ok(stat) => stat,
        Err(Errno::NOENT | Errno::NOTDIR) => return Ok(true),
        Err(source) => return Err(Error::File { path: path.to_owned(), source: source.into() }),
    };
    const TYPE: u32 = 0o170_000;
    if let Node::Directory { .. } = bundled.file.node {
        if stat.st_mode & TYPE != bundled.file.mode & TYPE {
            return Err(Error::Bundle { path: path.to_owned(), why: "it is no directory here".to_owned() });
        }
        return Ok(false);
    }
    let was = &bundled.identity;
    let modified = (stat.st_mtime, stat.st_mtime_nsec as i64);
    if (stat.st_ino, stat.st_size.cast_unsigned(), stat.st_mode, modified)
        == (was.inode, was.len_bytes, was.mode, (was.modified.sec, was.modified.nsec))
    {
        return Ok(false);
    }
    let Some(id) = &was.build_id else { return Ok(true) };
    let file = rustix::fs::open(path, OFlags::RDONLY | OFlags::CLOEXEC | OFlags::NONBLOCK, Mode::empty());
    Ok(!file.is_ok_and(|file| frost_sys::elf::build_id(file.as_fd()).is_some_and(|now| now == *id)))
}

/// Makes what is lacking below `place`, a directory that there is none of yet, and tells what is to be laid over what.
///
/// # Errors
/// [`Error::File`].
pub(crate) fn make(image: &Image, lack: &Lack, place: &Path) -> Result<Vec<Cover>, Error> {
    let io = |source| Error::File { path: place.to_owned(), source };
    // Mounts are told by paths that lead through no link.
    std::fs::create_dir_all(place).map_err(io)?;
    let place = std::fs::canonicalize(place).map_err(io)?;
    let (tree, empty) = (place.join(TREE), place.join("empty"));
    for path in [&tree, &empty] {
        std::fs::create_dir(path).map_err(io)?;
    }
    let bundle = image.checkpoint().bundle.iter().map(|bundled| &bundled.file);
    let written: Vec<Written> = bundle
        .filter(|file| lack.paths.contains(&file.path))
        .map(|file| {
            let mut file = file.clone();
            if lack.whole.contains(&file.path) {
                file.node = Node::Directory { opaque: true };
            }
            file
        })
        .collect();
    let written: Vec<&Written> = written.iter().collect();
    let pack = image.pack()?;
    frost_thaw::layer::make_tree(&written, pack.as_fd(), &tree, true)
        .map_err(|failed| Error::File { path: failed.path, source: failed.source.into() })?;
    let below = |directory: &PathBuf| tree.join(directory.strip_prefix("/").unwrap_or(directory));
    let is_whole = |directory: &PathBuf| {
        let path = BytePath::from(directory.strip_prefix("/").unwrap_or(directory));
        lack.whole.contains(&path)
    };
    let cover = |directory: &PathBuf| Cover {
        files: below(directory),
        directory: directory.clone(),
        empty: empty.clone(),
        whole: is_whole(directory),
    };
    Ok(lack.covered.iter().map(cover).collect())
}

/// A place in an instance's directory that is not used.
pub(crate) fn new_place(instance: &Instance) -> PathBuf {
    let base = instance.path().join(BUNDLES);
    let name = |number: u32| base.join(format!("{}.{number}", std::process::id()));
    (0..).map(name).find(|path| !path.exists()).unwrap_or(base)
}

/// Returns where what was brought along for a directory lies in a place.
pub(crate) fn brought(place: &Path, directory: &Path) -> PathBuf {
    place.join(TREE).join(directory.strip_prefix("/").unwrap_or(directory))
}

const BUNDLES: &str = "bundles";
const TREE: &str = "tree";

/// Removes what an instance's images have brought along, but for `used`.
pub(crate) fn sweep(instance: &Instance, used: Option<&BytePath>) {
    for entry in std::fs::read_dir(instance.path().join(BUNDLES)).into_iter().flatten().flatten() {
        if used.is_none_or(|used| entry.path() != used.as_path()) {
            crate::layer::remove(&entry.path());
        }
    }
}
