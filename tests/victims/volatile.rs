//! Named files of a tmpfs: POSIX shared memory.

use crate::Victim;
use crate::call::{READ_WRITE, c, check_fill, fill, read_all, shared_words, until, write_all};
use crate::stage::{Stage, Verdict};
use std::path::{Path, PathBuf};
use std::sync::atomic::Ordering::SeqCst;

pub(crate) const VICTIMS: &[Victim] = &[
    ("volatile_open", opened),
    ("volatile_mapped", mapped),
    ("volatile_sparse", sparse),
    ("volatile_shared", shared),
    ("volatile_semaphore", semaphore),
    ("volatile_lost", lost),
    ("volatile_changed", changed),
];

/// A shared memory object with a name of its own, which is taken away in the end.
struct Object {
    path: PathBuf,
    fd: i32,
}

impl Object {
    fn new(stage: &Stage, len: i64) -> Result<Self, String> {
        let mut random = [0u8; 8];
        sys!(getrandom(random.as_mut_ptr().cast(), random.len(), 0))?;
        let name = format!("/frost-victim-{:x}", u64::from_ne_bytes(random));
        let path = Path::new("/dev/shm").join(&name[1..]);
        // For whoever is to do something to it meanwhile.
        std::fs::write(stage.path("object"), path.to_string_lossy().as_bytes())
            .map_err(|why| why.to_string())?;
        let flags = libc::O_RDWR | libc::O_CREAT | libc::O_EXCL | libc::O_CLOEXEC;
        let fd = sys!(shm_open(c(&name).as_ptr(), flags, 0o640))?;
        sys!(fchmod(fd, 0o640))?;
        sys!(ftruncate(fd, len))?;
        Ok(Self { path, fd })
    }

    fn map(&self, len: usize) -> Result<*mut u8, String> {
        let address =
            unsafe { libc::mmap(std::ptr::null_mut(), len, READ_WRITE, libc::MAP_SHARED, self.fd, 0) };
        check!(address != libc::MAP_FAILED, "mmap: {}", std::io::Error::last_os_error());
        Ok(address.cast())
    }

    fn close(&self) -> Verdict {
        sys!(close(self.fd)).map(drop)
    }
}

impl Drop for Object {
    fn drop(&mut self) {
        let _removed = std::fs::remove_file(&self.path);
    }
}

/// By a descriptor alone, at some offset.
fn opened(stage: &Stage) -> Verdict {
    let object = Object::new(stage, 0)?;
    write_all(object.fd, b"one two three")?;
    sys!(lseek(object.fd, 4, libc::SEEK_SET))?;
    stage.freeze_here()?;
    same!(read_all(object.fd, 3)?, b"two", "what stands at the offset");
    write_all(object.fd, b"!")?;
    let text = std::fs::read(&object.path).map_err(|why| why.to_string())?;
    same!(text, b"one two!three", "what others find under its name");
    Ok(())
}

const LEN: usize = 40 * 4096;

/// By a mapping alone, as most programs have it.
fn mapped(stage: &Stage) -> Verdict {
    let object = Object::new(stage, LEN as i64)?;
    let memory = object.map(LEN)?;
    object.close()?;
    fill(memory, LEN, 7);
    stage.freeze_here()?;
    check_fill("its content", memory, LEN, 7)?;
    fill(memory, 4096, 8);
    let text = std::fs::read(&object.path).map_err(|why| why.to_string())?;
    same!(text.len(), LEN, "its length");
    same!(
        &text[..4096],
        unsafe { std::slice::from_raw_parts(memory, 4096) },
        "what others find under its name"
    );
    Ok(())
}

/// Of 64 MiB three pages have something in them.
fn sparse(stage: &Stage) -> Verdict {
    let len = 64 << 20;
    let object = Object::new(stage, len as i64)?;
    let memory = object.map(len)?;
    let places = [0, 17 << 20, len - 4096];
    for place in places {
        fill(unsafe { memory.add(place) }, 4096, place as u64);
    }
    stage.freeze_here()?;
    for place in places {
        check_fill("a page", unsafe { memory.add(place) }, 4096, place as u64)?;
    }
    check!(unsafe { memory.add(1 << 20).read_volatile() } == 0, "a hole has something in it");
    let blocks = std::os::unix::fs::MetadataExt::blocks(
        &std::fs::metadata(&object.path).map_err(|why| why.to_string())?,
    );
    check!(blocks < 2048, "the holes are filled: {blocks} blocks");
    Ok(())
}

/// Two processes have it, each by a mapping that it made itself.
fn shared(stage: &Stage) -> Verdict {
    let object = Object::new(stage, LEN as i64)?;
    let memory = object.map(LEN)?;
    let words = shared_words::<2>()?;
    let child = stage.fork(|| {
        let memory = object.map(LEN)?;
        fill(memory, LEN, 3);
        words[0].store(1, SeqCst);
        until("the parent goes on", || words[1].load(SeqCst) == 1)?;
        check_fill("what the parent wrote", memory, LEN, 4)?;
        // Its name is the parent's to take away.
        unsafe { libc::_exit(0) }
    })?;
    until("the child stands", || words[0].load(SeqCst) == 1)?;
    let seen = stage.freeze_here();
    let right = check_fill("its content", memory, LEN, 3);
    fill(memory, LEN, 4);
    words[1].store(1, SeqCst);
    seen?;
    right?;
    stage.reap(child)
}

/// It is gone when the program is thawed, as after the machine was started anew: it is made as it was.
fn lost(stage: &Stage) -> Verdict {
    let object = Object::new(stage, LEN as i64)?;
    let memory = object.map(LEN)?;
    fill(memory, LEN, 9);
    let (reader, path) = (crate::call::open(&object.path, libc::O_RDONLY)?, object.path.clone());
    sys!(lseek(reader, 8, libc::SEEK_SET))?;
    stage.freeze_here()?;
    check_fill("its content", memory, LEN, 9)?;
    fill(memory, LEN, 10);
    let text = std::fs::read(&path).map_err(|why| why.to_string())?;
    same!(text, unsafe { std::slice::from_raw_parts(memory, LEN) }, "what others find under its name");
    same!(read_all(reader, 8)?, &text[8..16], "what another description reads");
    let mode =
        std::os::unix::fs::MetadataExt::mode(&std::fs::metadata(&path).map_err(|why| why.to_string())?);
    same!(mode & 0o777, 0o640, "its rights");
    Ok(())
}

/// Somebody else writes to it while the program is away: refused.
fn changed(stage: &Stage) -> Verdict {
    mapped(stage)
}

/// A semaphore with a name, which the C library makes under another one: who opens it later has the same.
fn semaphore(stage: &Stage) -> Verdict {
    let mut random = [0u8; 8];
    sys!(getrandom(random.as_mut_ptr().cast(), random.len(), 0))?;
    let name = format!("/frost-victim-{:x}", u64::from_ne_bytes(random));
    let named = c(&name);
    let made = unsafe { libc::sem_open(named.as_ptr(), libc::O_CREAT | libc::O_EXCL, 0o600, 3) };
    check!(made != libc::SEM_FAILED, "sem_open: {}", std::io::Error::last_os_error());
    // Its mapping has the other name then.
    let seen = stage.freeze_without_facts();
    let path = Path::new("/dev/shm").join(format!("sem.{}", &name[1..]));
    let fd = crate::call::open(&path, libc::O_RDWR);
    unsafe { libc::sem_unlink(named.as_ptr()) };
    seen?;
    let other = sys!(mmap(std::ptr::null_mut(), 32, READ_WRITE, libc::MAP_SHARED, fd?, 0))?;
    let value = |semaphore: *mut libc::sem_t| {
        let mut value = -1;
        sys!(sem_getvalue(semaphore, &mut value)).map(|_| value)
    };
    same!(value(made)?, 3, "its value");
    sys!(sem_post(made))?;
    same!(value(other.cast())?, 4, "its value for who opens it by its name");
    sys!(sem_wait(other.cast()))?;
    same!(value(made)?, 3, "its value when the other has taken one");
    Ok(())
}
