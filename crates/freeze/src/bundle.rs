//! The files of this machine that a program uses, for machines that do not have them.
//!
//! What is mapped or executed, what is open for reading, the directories in which the program stands or that it has open,
//! and all that lies below its layers. What it writes is no part of it: that is kept by `--files`, or in layers.

use crate::cap::Error;
use crate::cap::content::{self, Sink};
use crate::file::identity;
use crate::layer::attributes;
use frost_model::bundle::Bundled;
use frost_model::cap::{Capability, Content, FileIdentity, FileRef};
use frost_model::clock::Timespec;
use frost_model::layer::{Node, Written};
use frost_model::rm::Attachment;
use frost_model::{BytePath, Checkpoint};
use frost_sys::sight;
use rustix::fs::{FileType, Mode, OFlags};
use rustix::io::Errno;
use std::collections::{BTreeMap, HashMap};
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};

/// What lies there is the kernel's, and there on each machine.
const KERNELS: [&str; 3] = ["/proc", "/sys", "/dev"];

/// Gathers the files of a program. What `known`, the bundle of the image with whose pack this one goes on, has already is
/// not stored again.
///
/// # Errors
/// What cannot be read.
pub(crate) fn gather(
    checkpoint: &Checkpoint,
    known: &[Bundled],
    layers: &[crate::layer::Source],
    sink: &mut dyn Sink,
) -> Result<Vec<Bundled>, Error> {
    let mut bundle =
        Gathering { by_path: BTreeMap::new(), contents: HashMap::new(), known: HashMap::new(), sink };
    for bundled in known {
        bundle.known.insert(bundled.path(), bundled);
        if let Node::File { .. } = bundled.file.node {
            bundle.contents.insert((bundled.digest, bundled.len_bytes()), bundled.file.node.clone());
        }
    }
    for layer in layers {
        bundle.add(&layer.directory, None, &layer.below)?;
        for lower in &layer.lower {
            let (path, place) =
                (layer.directory.join(lower.path.as_path()), layer.below.join(lower.path.as_path()));
            bundle.add(&path, Some(&lower.identity), &place)?;
        }
    }
    for (file, directory) in files(checkpoint) {
        let path = file.path.as_path();
        // In a layer is what lies below it, and what was written.
        if checkpoint.is_layered(&file.path) || KERNELS.iter().any(|own| path.starts_with(own)) {
            continue;
        }
        if directory {
            // A directory that was removed is none of the machine's.
            if !file.identity.removed {
                bundle.add(path, None, &sight::of(path))?;
            }
        } else if FileType::from_raw_mode(file.identity.mode) == FileType::RegularFile {
            bundle.add(path, Some(&file.identity), &sight::of(path))?;
        }
    }
    Ok(bundle.by_path.into_values().collect())
}

/// Lists the files by path that a program uses, and whether each is a directory. One of which there is more to tell, as
/// the build-id, comes first.
fn files(checkpoint: &Checkpoint) -> Vec<(&FileRef, bool)> {
    let mut found = Vec::new();
    let volatile: Vec<&BytePath> =
        checkpoint.objects.volatile.iter().map(|volatile| &volatile.file.path).collect();
    for process in &checkpoint.processes {
        for region in &process.rm.regions {
            if let Attachment::File { file, .. } = &region.attachment {
                found.push((file, false));
            }
        }
        found.extend(process.pd.exe.iter().map(|file| (file, false)));
        found.extend([&process.pd.cwd, &process.pd.root].into_iter().flatten().map(|file| (file, true)));
    }
    for description in &checkpoint.descriptions {
        match &description.capability {
            Capability::Directory(directory) => found.push((&directory.file, true)),
            Capability::Regular(regular) => {
                if let Content::Named { file, captured: None, .. } = &regular.content {
                    found.push((file, false));
                }
            }
            _ => {}
        }
    }
    // Such a file is in the image anyway.
    found.retain(|(file, _)| !volatile.contains(&&file.path));
    found.sort_by_key(|(file, _)| file.identity.build_id.is_none());
    found
}

struct Gathering<'a> {
    /// By path from the root directory on; what is above something sorts before it.
    by_path: BTreeMap<Vec<u8>, Bundled>,
    /// Content that is stored, by its digest and length.
    contents: HashMap<([u8; 32], u64), Node>,
    known: HashMap<PathBuf, &'a Bundled>,
    sink: &'a mut dyn Sink,
}

impl Gathering<'_> {
    /// Adds a file, which is found at `place`, and all directories above it.
    fn add(&mut self, path: &Path, was: Option<&FileIdentity>, place: &Path) -> Result<(), Error> {
        let above: Vec<&Path> = path.ancestors().skip(1).collect();
        for directory in above.into_iter().rev() {
            self.add_one(directory, None, &sight::of(directory))?;
        }
        self.add_one(path, was, place)
    }

    fn add_one(&mut self, path: &Path, was: Option<&FileIdentity>, place: &Path) -> Result<(), Error> {
        let Ok(below) = path.strip_prefix("/") else { return Ok(()) };
        let key = below.as_os_str().as_bytes().to_vec();
        if self.by_path.contains_key(&key) {
            return Ok(());
        }
        let name = || format!("{} for the bundle", path.display());
        let failed = |source| Error::Object { object: name(), source };
        let stat = rustix::fs::lstat(place).map_err(failed)?;
        let mut now = identity(&stat);
        now.build_id = was.and_then(|was| was.build_id.clone());
        let kind = FileType::from_raw_mode(stat.st_mode);
        // A directory in a layer is what it is through the layer.
        let same = |was: &FileIdentity| {
            kind == FileType::Directory
                || (was.len_bytes, was.modified, was.mode) == (now.len_bytes, now.modified, now.mode)
        };
        if was.is_some_and(|was| !same(was)) {
            return Err(Error::Changed { object: name() });
        }
        let mut digest = [0; 32];
        let node = match kind {
            FileType::Directory => Node::Directory { opaque: false },
            FileType::Symlink => {
                let to = rustix::fs::readlink(place, Vec::new()).map_err(failed)?;
                Node::Symlink(BytePath::new(to.into_bytes()))
            }
            FileType::RegularFile => {
                let before = self.known.get(path).filter(|before| {
                    FileIdentity { build_id: None, ..now.clone() }
                        == FileIdentity { build_id: None, ..before.identity.clone() }
                });
                if let Some(before) = before {
                    digest = before.digest;
                    before.file.node.clone()
                } else {
                    let flags = OFlags::RDONLY | OFlags::NOFOLLOW | OFlags::NONBLOCK | OFlags::CLOEXEC;
                    let file = rustix::fs::open(place, flags, Mode::empty()).map_err(failed)?;
                    let mut hasher = blake3::Hasher::new();
                    let read = file
                        .try_clone()
                        .and_then(|file| hasher.update_reader(std::fs::File::from(file)).map(drop));
                    read.map_err(|error| failed(Errno::from_io_error(&error).unwrap_or(Errno::IO)))?;
                    digest = *hasher.finalize().as_bytes();
                    let content = (digest, now.len_bytes);
                    match self.contents.get(&content) {
                        Some(node) => node.clone(),
                        None => {
                            let pages = content::store_file(file, now.len_bytes, &name, &mut *self.sink)?;
                            let node = Node::File { len_bytes: now.len_bytes, pages };
                            self.contents.insert(content, node.clone());
                            node
                        }
                    }
                }
            }
            _ => Node::Special { rdev: stat.st_rdev },
        };
        let attributes = match node {
            Node::Directory { .. } => Vec::new(),
            _ => attributes(place).map_err(failed)?,
        };
        let file = Written {
            path: BytePath::new(key.clone()),
            mode: stat.st_mode,
            uid: stat.st_uid,
            gid: stat.st_gid,
            modified: Timespec { sec: stat.st_mtime, nsec: stat.st_mtime_nsec as i64 },
            attributes,
            node,
        };
        self.by_path.insert(key, Bundled { file, identity: now, digest });
        Ok(())
    }
}
