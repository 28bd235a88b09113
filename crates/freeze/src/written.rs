//! The files that a program may have written.

use crate::file;
use frost_model::{Obstacle, Pid};
use frost_sys::lease::Leases;
use frost_sys::proc::{self, Mapping};
use frost_sys::{pidfd, sight};
use frost_tracee::seize::StoppedProcess;
use rustix::fd::OwnedFd;
use rustix::fs::OFlags;
use rustix::io::Errno;
use std::collections::HashSet;

/// Collects every regular file that the tree has open for writing or mapped so: what must be synced, so that the
/// files on disk are those of the image. A mapped file is opened only if no descriptor leads to it.
///
/// Also tells what keeps one from being synced.
pub(crate) fn files(
    living: &[&StoppedProcess],
    maps: &[Vec<Mapping>],
) -> Result<(Vec<OwnedFd>, Vec<Obstacle>), Errno> {
    let written = |mapping: &&Mapping| mapping.shared && mapping.flags.has(*b"mw") && is_file(&mapping.name);
    let mapped: HashSet<u64> = maps.iter().flatten().filter(written).map(|mapping| mapping.inode).collect();
    let (mut files, mut obstacles) = (Vec::new(), Vec::new());
    let mut known = HashSet::new();
    let mut add = |file: OwnedFd| {
        let stat = rustix::fs::fstat(&file)?;
        let regular = rustix::fs::FileType::from_raw_mode(stat.st_mode).is_file();
        if regular && known.insert((stat.st_dev, stat.st_ino)) {
            files.push(file);
        }
        Ok(())
    };
    for process in living {
        for (fd, link) in proc::open_files(process.through)? {
            if is_file(&link)
                && let Ok(ours) = pidfd::pidfd_getfd(process.table(), fd)
                && let flags = rustix::fs::fcntl_getfl(&ours)?
                && !flags.contains(OFlags::PATH)
                && (flags.intersects(OFlags::WRONLY | OFlags::RDWR)
                    // What is mapped may have been written, whatever this descriptor is for.
                    || !mapped.is_empty() && mapped.contains(&rustix::fs::fstat(&ours)?.st_ino))
            {
                add(ours)?;
            }
        }
    }
    if mapped.is_empty() {
        return Ok((files, obstacles));
    }
    let leases = Leases::recent();
    for (process, mappings) in living.iter().zip(maps) {
        for mapping in mappings.iter().filter(written) {
            let path = sight::of(proc::as_path(&mapping.name));
            // Which of them can be found by its path again is for the survey to tell.
            let Ok(stat) = rustix::fs::stat(&path) else { continue };
            if known.contains(&(stat.st_dev, stat.st_ino)) {
                continue;
            }
            match leases.open(&path, OFlags::RDONLY) {
                Ok(file) => {
                    known.insert((stat.st_dev, stat.st_ino));
                    files.push(file);
                }
                Err(Errno::AGAIN) => obstacles.push(Obstacle {
                    pid: Pid::new(process.inner),
                    command: String::from_utf8_lossy(&process.stat.comm).into_owned(),
                    object: format!("file {}", String::from_utf8_lossy(&mapping.name)),
                    reason: "it is mapped for writing, and somebody has a lease on it (F_SETLEASE), which would be broken by \
                             syncing it"
                        .to_owned(),
                    remedy: "let the program keep a descriptor of it, or give the lease up".to_owned(),
                    passes: false,
                }),
                Err(_) => {}
            }
        }
    }
    Ok((files, obstacles))
}

/// Whether what the kernel shows is the path of a file that still has a name.
fn is_file(path: &[u8]) -> bool {
    path.starts_with(b"/")
        && !path.starts_with(b"/dev/")
        && !path.starts_with(b"/memfd:")
        && !path.ends_with(file::DELETED)
}

pub(crate) fn sync(files: &[OwnedFd]) -> Result<(), Errno> {
    for file in files {
        match rustix::fs::fsync(file) {
            // A file system without fsync has nothing to be synced, as proc or sysfs; O_PATH is not open for writing.
            Ok(()) | Err(Errno::INVAL | Errno::ROFS | Errno::OPNOTSUPP | Errno::BADF) => {}
            Err(errno) => return Err(errno),
        }
    }
    Ok(())
}
