//! What a program wrote into its layers, out of the directories in which overlayfs keeps that.
//!
//! They are read from outside, while the program stands still: what it writes through the layer is in the page cache of
//! the very files that lie there.

use crate::cap::Error;
use crate::cap::content::{self, Sink};
use crate::file::identity;
use frost_model::BytePath;
use frost_model::clock::Timespec;
use frost_model::layer::{Attribute, Layer, Lower, Node, Written};
use frost_model::ram::Pages;
use frost_sys::undo::Undo;
use rustix::fd::OwnedFd;
use rustix::fs::{CWD, Dir, FileType, Mode, OFlags, Stat};
use rustix::io::Errno;
use std::collections::HashMap;
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};

/// Where a layer is, for a freeze.
#[derive(Clone, Debug)]
pub struct Source {
    /// The directory that the program sees.
    pub directory: PathBuf,
    /// Where what it wrote lies.
    pub upper: PathBuf,
    /// Where what lies below is found.
    pub below: PathBuf,
    /// What lies below.
    pub lower: Vec<Lower>,
}

/// Extended attributes by which overlayfs itself notes something (`userxattr`).
const OWN: &[u8] = b"user.overlay.";
/// Nothing of what lies below shows through a directory that has this.
const OPAQUE: &str = "user.overlay.opaque";

/// Captures what was written into a layer.
pub(crate) fn capture(source: &Source, sink: &mut dyn Sink) -> Result<Layer, Error> {
    Ok(Layer {
        directory: BytePath::from(source.directory.as_path()),
        written: walk(&source.upper, Some(sink))?,
        lower: source.lower.clone(),
    })
}

/// Lists what was written into a layer, without the content of files.
///
/// # Errors
/// What cannot be looked at.
pub fn look(upper: &Path) -> Result<Vec<Written>, Error> {
    walk(upper, None)
}

fn walk(upper: &Path, sink: Option<&mut dyn Sink>) -> Result<Vec<Written>, Error> {
    let mut walk = Walk { root: upper, sink, written: Vec::new(), linked: HashMap::new() };
    walk.add(PathBuf::new())?;
    Ok(walk.written)
}

struct Walk<'a, 'b> {
    root: &'a Path,
    sink: Option<&'b mut dyn Sink>,
    written: Vec<Written>,
    /// Files with several names, and where they stand.
    linked: HashMap<(u64, u64), u32>,
}

impl Walk<'_, '_> {
    fn add(&mut self, path: PathBuf) -> Result<(), Error> {
        let place = if path.as_os_str().is_empty() { self.root.to_owned() } else { self.root.join(&path) };
        let name = || format!("written {}", place.display());
        let failed = |source| Error::Object { object: name(), source };
        let stat = rustix::fs::lstat(&place).map_err(failed)?;
        let kind = FileType::from_raw_mode(stat.st_mode);
        let key = (stat.st_dev, stat.st_ino);
        let node = match (kind, self.linked.get(&key)) {
            (_, Some(first)) => Node::Link(*first),
            // A whiteout: a device that there is none of.
            (FileType::CharacterDevice, _) if stat.st_rdev == 0 => Node::Removed,
            (FileType::Directory, _) => {
                let opaque = rustix::fs::lgetxattr(&place, OPAQUE, &mut [0u8; 8]);
                Node::Directory { opaque: opaque.is_ok_and(|length| length == 1) }
            }
            (FileType::RegularFile, _) => {
                let len_bytes = stat.st_size.cast_unsigned();
                let pages = match &mut self.sink {
                    Some(sink) => {
                        let file = open(&place, &stat, OFlags::RDONLY).map_err(failed)?;
                        content::store_file(file, len_bytes, &name, &mut **sink)?
                    }
                    None => Pages::default(),
                };
                Node::File { len_bytes, pages }
            }
            (FileType::Symlink, _) => {
                let to = rustix::fs::readlink(&place, Vec::new()).map_err(failed)?;
                Node::Symlink(BytePath::new(to.into_bytes()))
            }
            _ => Node::Special { rdev: stat.st_rdev },
        };
        let can_have_names = !matches!(node, Node::Directory { .. } | Node::Removed | Node::Link(_));
        if can_have_names && stat.st_nlink > 1 {
            self.linked.insert(key, self.written.len() as u32);
        }
        let attributes = match node {
            Node::Removed | Node::Link(_) => Vec::new(),
            _ => attributes(&place).map_err(failed)?,
        };
        self.written.push(Written {
            path: BytePath::from(path.as_path()),
            mode: stat.st_mode,
            uid: stat.st_uid,
            gid: stat.st_gid,
            modified: Timespec { sec: stat.st_mtime, nsec: stat.st_mtime_nsec as i64 },
            attributes,
            node,
        });
        if kind == FileType::Directory {
            for name in entries(&place, &stat).map_err(failed)? {
                self.add(path.join(name))?;
            }
        }
        Ok(())
    }
}

/// Opens a file that its owner may have forbidden to themselves, which does not keep its program from having it open.
fn open(place: &Path, stat: &Stat, flags: OFlags) -> rustix::io::Result<OwnedFd> {
    let flags = flags | OFlags::NOFOLLOW | OFlags::CLOEXEC | OFlags::NONBLOCK;
    match rustix::fs::open(place, flags, Mode::empty()) {
        Err(Errno::ACCESS) => {
            let mode = Mode::from_raw_mode(stat.st_mode & 0o7777);
            let set = |mode| rustix::fs::chmodat(CWD, place, mode, rustix::fs::AtFlags::empty());
            let undo = Undo::armed(|| _ = set(mode))?;
            set(mode | Mode::RWXU)?;
            let opened = frost_sys::fault::point("freeze.mode")
                .and_then(|()| rustix::fs::open(place, flags, Mode::empty()));
            set(mode)?;
            undo.disarm();
            opened
        }
        other => other,
    }
}

/// Lists what is in a directory, sorted.
fn entries(place: &Path, stat: &Stat) -> rustix::io::Result<Vec<PathBuf>> {
    let directory = open(place, stat, OFlags::RDONLY | OFlags::DIRECTORY)?;
    let mut names = Vec::new();
    for entry in Dir::read_from(&directory)? {
        let entry = entry?;
        let name = entry.file_name().to_bytes();
        if name != b"." && name != b".." {
            names.push(PathBuf::from(std::ffi::OsStr::from_bytes(name)));
        }
    }
    names.sort();
    Ok(names)
}

/// Reads extended attributes of what lies in a layer, but for those of overlayfs and those that nobody else may set.
pub(crate) fn attributes(place: &Path) -> rustix::io::Result<Vec<Attribute>> {
    let list = |buffer: &mut [u8]| rustix::fs::llistxattr(place, buffer);
    let mut attributes =
        crate::file::attributes(list, |name, buffer| rustix::fs::lgetxattr(place, name, buffer))?;
    attributes.retain(|attribute| !attribute.name.as_bytes().starts_with(OWN));
    Ok(attributes)
}

/// Lists what lies below a layer. Digests are taken from `known` where a file is as it was there.
///
/// # Errors
/// The path that cannot be read, and why.
pub fn lower(directory: &Path, known: &[Lower]) -> Result<Vec<Lower>, (PathBuf, Errno)> {
    let known: HashMap<&[u8], &Lower> = known.iter().map(|lower| (lower.path.as_bytes(), lower)).collect();
    let mut found = Vec::new();
    list(directory, Path::new(""), &known, &mut found)?;
    found.sort_by(|a: &Lower, b| a.path.cmp(&b.path));
    Ok(found)
}

fn list(
    root: &Path,
    below: &Path,
    known: &HashMap<&[u8], &Lower>,
    found: &mut Vec<Lower>,
) -> Result<(), (PathBuf, Errno)> {
    let place = root.join(below);
    let failed = |errno| (place.clone(), errno);
    let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
    let directory = rustix::fs::open(&place, flags, Mode::empty()).map_err(failed)?;
    for entry in Dir::read_from(&directory).map_err(failed)? {
        let entry = entry.map_err(failed)?;
        let name = entry.file_name().to_bytes();
        if name == b"." || name == b".." {
            continue;
        }
        let path = below.join(std::ffi::OsStr::from_bytes(name));
        let place = root.join(&path);
        let failed = |errno| (place.clone(), errno);
        let stat = rustix::fs::lstat(&place).map_err(failed)?;
        let identity = identity(&stat);
        let before = known.get(path.as_os_str().as_bytes()).filter(|before| before.identity == identity);
        let digest = match (FileType::from_raw_mode(stat.st_mode), before) {
            (_, Some(before)) => before.digest,
            (FileType::RegularFile, None) => match digest(&place) {
                // Nobody who may not read it gets its content from the layer either.
                Err(Errno::ACCESS) => [0; 32],
                other => other.map_err(failed)?,
            },
            (FileType::Symlink, None) => {
                let to = rustix::fs::readlink(&place, Vec::new()).map_err(failed)?;
                *blake3::hash(to.as_bytes()).as_bytes()
            }
            _ => [0; 32],
        };
        let is_directory = FileType::from_raw_mode(stat.st_mode) == FileType::Directory;
        found.push(Lower { path: BytePath::from(path.as_path()), identity, digest });
        if is_directory {
            match list(root, &path, known, found) {
                Err((_, Errno::ACCESS)) => {}
                other => other?,
            }
        }
    }
    Ok(())
}

fn digest(place: &Path) -> rustix::io::Result<[u8; 32]> {
    let flags = OFlags::RDONLY | OFlags::NOFOLLOW | OFlags::CLOEXEC | OFlags::NONBLOCK;
    let file = rustix::fs::open(place, flags, Mode::empty())?;
    let mut hasher = blake3::Hasher::new();
    hasher
        .update_reader(std::fs::File::from(file))
        .map_err(|error| Errno::from_io_error(&error).unwrap_or(Errno::IO))?;
    Ok(*hasher.finalize().as_bytes())
}
