//! Open directories.

use crate::Victim;
use crate::call::{c, open, zeroed};
use crate::stage::{Stage, Verdict};
use libc::{O_DIRECTORY, O_PATH, O_RDONLY};

pub(crate) const VICTIMS: &[Victim] = &[
    ("directory_open", opened),
    ("directory_half_read", half_read),
    ("directory_removed", removed),
    ("directory_watched", watched),
    ("directory_paths", paths),
];

fn opened(stage: &Stage) -> Verdict {
    let path = stage.path("inner");
    std::fs::create_dir(&path).map_err(|why| why.to_string())?;
    std::fs::write(path.join("file"), "x").map_err(|why| why.to_string())?;
    let (fd, handle) = (open(&path, O_RDONLY | O_DIRECTORY)?, open(&path, O_PATH | O_DIRECTORY)?);
    stage.freeze_here()?;
    for fd in [fd, handle] {
        let mut stat: libc::stat = zeroed();
        sys!(fstatat(fd, c"file".as_ptr(), &mut stat, 0))?;
        same!(stat.st_size, 1, "the size of a file in it");
    }
    Ok(())
}

/// One that was removed: two descriptions, one of them in two descriptors, and the working directory.
fn removed(stage: &Stage) -> Verdict {
    let path = stage.path("inner");
    std::fs::create_dir(&path).map_err(|why| why.to_string())?;
    sys!(chmod(c(&path.to_string_lossy()).as_ptr(), 0o751))?;
    let (fd, handle) = (open(&path, O_RDONLY | O_DIRECTORY)?, open(&path, O_PATH | O_DIRECTORY)?);
    let copy = sys!(dup(fd))?;
    std::env::set_current_dir(&path).map_err(|why| why.to_string())?;
    std::fs::remove_dir(&path).map_err(|why| why.to_string())?;
    stage.freeze_here()?;
    let mut inodes = Vec::new();
    for fd in [fd, handle, copy, libc::AT_FDCWD] {
        let mut stat: libc::stat = zeroed();
        let flags = libc::AT_EMPTY_PATH;
        let name = if fd == libc::AT_FDCWD { c"." } else { c"" };
        sys!(fstatat(fd, name.as_ptr(), &mut stat, flags))?;
        inodes.push(stat.st_ino);
        same!((stat.st_nlink, stat.st_mode), (0, libc::S_IFDIR | 0o751), "its names and its mode");
        check!(
            sys!(openat(fd, c"file".as_ptr(), libc::O_CREAT | libc::O_RDWR, 0o600)).is_err(),
            "a file can be made in it"
        );
    }
    check!(inodes.iter().all(|inode| *inode == inodes[0]), "it has become several: {inodes:?}");
    check!(!path.exists(), "it has its name again");
    Ok(())
}

/// readdir(3) goes on where it was.
fn half_read(stage: &Stage) -> Verdict {
    let path = stage.path("inner");
    std::fs::create_dir(&path).map_err(|why| why.to_string())?;
    for index in 0..300 {
        std::fs::write(path.join(format!("a rather long name of a file {index}")), "")
            .map_err(|why| why.to_string())?;
    }
    let directory = unsafe { libc::opendir(c(&path.to_string_lossy()).as_ptr()) };
    check!(!directory.is_null(), "opendir");
    let mut names = std::collections::BTreeSet::new();
    let mut read = |limit: usize| -> Verdict {
        while names.len() < limit {
            let entry = unsafe { libc::readdir(directory) };
            if entry.is_null() {
                break;
            }
            let name =
                unsafe { std::ffi::CStr::from_ptr((*entry).d_name.as_ptr()) }.to_string_lossy().into_owned();
            check!(names.insert(name.clone()), "{name} came twice");
        }
        Ok(())
    };
    read(100)?;
    stage.freeze_here()?;
    read(1000)?;
    same!(names.len(), 302, "how many names came");
    Ok(())
}

/// One that tells of changes by signals (F_NOTIFY); refused.
fn watched(stage: &Stage) -> Verdict {
    const DN_CREATE: libc::c_long = 1 << 2;
    const DN_MULTISHOT: libc::c_long = 1 << 31;
    let path = stage.path("inner");
    std::fs::create_dir(&path).map_err(|why| why.to_string())?;
    let fd = open(&path, O_RDONLY | O_DIRECTORY)?;
    sys!(signal(libc::SIGIO, libc::SIG_IGN))?;
    sys!(fcntl(fd, libc::F_NOTIFY, DN_CREATE | DN_MULTISHOT))?;
    stage.freeze_here()
}

/// Descriptors of nodes alone (O_PATH): of a fifo, a socket, a device, a symbolic link, and of a directory that was removed.
fn paths(stage: &Stage) -> Verdict {
    let at = |name: &str| stage.path(name);
    let raw = |name: &str| crate::call::c(&at(name).to_string_lossy());
    sys!(mkfifo(raw("fifo").as_ptr(), 0o600))?;
    let listener = std::os::unix::net::UnixListener::bind(at("socket")).map_err(|why| why.to_string())?;
    sys!(symlink(c"nowhere at all".as_ptr(), raw("link").as_ptr()))?;
    sys!(mkdir(raw("removed").as_ptr(), 0o700))?;
    let flags = libc::O_PATH | libc::O_NOFOLLOW;
    let mut held = Vec::new();
    let null = std::path::PathBuf::from("/dev/null");
    for path in [at("fifo"), at("socket"), null, at("link"), at("removed"), at("")] {
        let fd = crate::call::open(&path, flags)?;
        held.push((fd, sys!(fcntl(fd, libc::F_GETFL))?));
    }
    sys!(rmdir(raw("removed").as_ptr()))?;
    let kinds = || {
        let look = |(fd, _): &(i32, i32)| {
            let mut found: libc::stat = crate::call::zeroed();
            sys!(fstat(*fd, &mut found))?;
            Ok((found.st_mode, found.st_nlink))
        };
        held.iter().map(look).collect::<Result<Vec<_>, String>>()
    };
    let before = kinds()?;
    stage.freeze_here()?;
    same!(kinds()?, before, "the nodes");
    for (fd, flags) in &held {
        same!(sys!(fcntl(*fd, libc::F_GETFL))?, *flags, "flags");
    }
    let behind = |index: usize| std::path::PathBuf::from(format!("/proc/self/fd/{}", held[index].0));
    let fifo = crate::call::open(&behind(0), libc::O_RDWR)?;
    crate::call::write_all(fifo, b"through")?;
    same!(crate::call::read_some(fifo, 16)?, b"through", "what came through the fifo");
    sys!(close(fifo))?;
    let client = std::os::unix::net::UnixStream::connect(behind(1)).map_err(|why| why.to_string())?;
    listener.accept().map_err(|why| why.to_string())?;
    drop(client);
    let mut target = [0u8; 64];
    let len = sys!(readlinkat(held[3].0, c"".as_ptr(), target.as_mut_ptr().cast(), 64))?;
    same!(&target[..len as usize], b"nowhere at all", "where the link leads");
    Ok(())
}
