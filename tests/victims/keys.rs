//! Protection keys (pkeys(7)), on processors that have them.

use crate::Victim;
use crate::call::{READ_WRITE, check_fill, errno, fill, map, pipe, shared_words, until};
use crate::stage::{Stage, Verdict};
use libc::{MAP_ANONYMOUS, MAP_PRIVATE, PROT_EXEC, PROT_READ};
use std::sync::atomic::{AtomicBool, Ordering::SeqCst};

pub(crate) const VICTIMS: &[Victim] =
    &[("keys_of_memory", of_memory), ("keys_of_threads", of_threads), ("keys_execute_only", execute_only)];

const LEN: usize = 4096;
/// Bits of PKRU, from twice the number of a key on.
const NO_ACCESS: u32 = 1;
const NO_WRITE: u32 = 2;

/// Allocates a key; `None`, and a word on it, if the processor has none.
fn allocate() -> Result<Option<u32>, String> {
    let key = unsafe { libc::syscall(libc::SYS_pkey_alloc, 0, 0) };
    if key < 0 {
        let errno = errno();
        check!([libc::ENOSPC, libc::EINVAL, libc::ENOSYS].contains(&errno), "pkey_alloc: errno {errno}");
        eprintln!("skipped: the processor has no protection keys");
        return Ok(None);
    }
    Ok(Some(key as u32))
}

fn free(key: u32) -> Verdict {
    sys!(syscall(libc::SYS_pkey_free, key)).map(drop)
}

fn protect(memory: *mut u8, rights: i32, key: u32) -> Verdict {
    sys!(syscall(libc::SYS_pkey_mprotect, memory, LEN, rights, key)).map(drop)
}

/// RDPKRU.
fn rights() -> u32 {
    let rights: u32;
    unsafe { std::arch::asm!(".byte 0x0f, 0x01, 0xee", in("ecx") 0, out("eax") rights, out("edx") _) };
    rights
}

/// WRPKRU.
fn set_rights(rights: u32) {
    unsafe { std::arch::asm!(".byte 0x0f, 0x01, 0xef", in("eax") rights, in("ecx") 0, in("edx") 0) };
}

fn set(key: u32, bits: u32) {
    set_rights(rights() & !(3 << (2 * key)) | bits << (2 * key));
}

/// What the kernel says to a read from it by this thread, and to a write to it.
fn tried(memory: *mut u8) -> Result<[i32; 2], String> {
    let (reader, writer) = pipe(libc::O_NONBLOCK)?;
    let of = |result: isize| if result < 0 { errno() } else { 0 };
    let read = of(unsafe { libc::write(writer, memory.cast(), 1) });
    sys!(write(writer, c"".as_ptr().cast(), 1))?;
    let write = of(unsafe { libc::read(reader, memory.cast(), 1) });
    for fd in [reader, writer] {
        sys!(close(fd))?;
    }
    Ok([read, write])
}

fn key_of(memory: *mut u8) -> Result<String, String> {
    let text = std::fs::read_to_string("/proc/self/smaps").map_err(|e| e.to_string())?;
    let head = format!("{:x}-", memory.addr());
    let mut lines = text.lines().skip_while(|line| !line.starts_with(&head));
    let line = lines.find_map(|line| line.strip_prefix("ProtectionKey:"));
    Ok(line.unwrap_or_default().trim().to_owned())
}

fn page() -> Result<*mut u8, String> {
    // A page beside it that is not readable keeps the kernel from joining it with others.
    let memory = map(2 * LEN, READ_WRITE, MAP_PRIVATE | MAP_ANONYMOUS)?;
    sys!(mprotect(memory.wrapping_add(LEN).cast(), LEN, libc::PROT_NONE))?;
    Ok(memory)
}

/// Keys in use, freed, freed while memory has them, and such that a child has changed.
fn of_memory(stage: &Stage) -> Verdict {
    let Some(first) = allocate()? else { return stage.freeze_here() };
    let mut keys = vec![first];
    for _ in 1..6 {
        keys.extend(allocate()?);
    }
    let [reads, none, unused, lingers, gone, child_s] = keys[..] else { return Err(format!("{keys:?}")) };
    let pages = [page()?, page()?, page()?, page()?];
    for (page, key) in pages.into_iter().zip([reads, none, lingers, child_s]) {
        fill(page, LEN, key.into());
        protect(page, READ_WRITE, key)?;
    }
    set(reads, NO_WRITE);
    set(none, NO_ACCESS);
    set(lingers, NO_ACCESS);
    free(lingers)?;
    free(gone)?;
    let before = rights();
    let words = shared_words::<1>()?;
    let child = stage.fork(|| {
        set(child_s, NO_ACCESS);
        words[0].store(1, SeqCst);
        stage.wait();
        same!(tried(pages[3])?, [libc::EFAULT; 2], "a child's page whose key allows nothing");
        same!(allocate()?, Some(lingers), "the lowest free key of the child");
        Ok(())
    })?;
    until("the child", || words[0].load(SeqCst) == 1)?;
    stage.freeze_here()?;
    same!(rights(), before, "PKRU");
    for (page, key) in pages.into_iter().zip([reads, none, lingers, child_s]) {
        same!(key_of(page)?, key.to_string(), "the key of a page");
    }
    same!(tried(pages[0])?, [0, libc::EFAULT], "a page whose key allows reading");
    same!(tried(pages[1])?, [libc::EFAULT; 2], "a page whose key allows nothing");
    same!(tried(pages[2])?, [libc::EFAULT; 2], "a page whose key was freed");
    same!(tried(pages[3])?, [0, 0], "a page whose key allows all");
    set(none, 0);
    set(lingers, 0);
    check_fill("a page whose key allowed nothing", pages[1], LEN, none.into())?;
    check_fill("a page whose key was freed", pages[2], LEN, lingers.into())?;
    same!(allocate()?, Some(lingers), "the lowest free key");
    same!(allocate()?, Some(gone), "the next");
    free(unused)?;
    stage.reap(child)
}

/// Each thread has rights of its own.
fn of_threads(stage: &Stage) -> Verdict {
    let Some(key) = allocate()? else { return stage.freeze_here() };
    let memory = page()?;
    protect(memory, READ_WRITE, key)?;
    let (set_up, over) = (AtomicBool::new(false), AtomicBool::new(false));
    let address = memory.addr();
    std::thread::scope(|scope| {
        let other = scope.spawn(|| {
            set(key, NO_ACCESS);
            let before = rights();
            set_up.store(true, SeqCst);
            while !over.load(SeqCst) {
                std::thread::yield_now();
            }
            same!(rights(), before, "PKRU of the other thread");
            same!(tried(address as *mut u8)?, [libc::EFAULT; 2], "the page for the other thread");
            Ok(())
        });
        set(key, NO_WRITE);
        let before = rights();
        let verdict = until("the other thread", || set_up.load(SeqCst)).and_then(|()| stage.freeze_here());
        over.store(true, SeqCst);
        other.join().map_err(|_| "the other thread panicked".to_owned())??;
        verdict?;
        same!(rights(), before, "PKRU");
        same!(tried(memory)?, [0, libc::EFAULT], "the page");
        Ok(())
    })
}

/// The kernel gives a key of its own to code that may only be executed, amid those of the program.
fn execute_only(stage: &Stage) -> Verdict {
    let Some(below) = allocate()? else { return stage.freeze_here() };
    let code = page()?;
    // mov eax, 42; ret
    for (index, byte) in [0xb8, 42, 0, 0, 0, 0xc3].into_iter().enumerate() {
        unsafe { code.add(index).write(byte) };
    }
    sys!(mprotect(code.cast(), LEN, PROT_EXEC))?;
    let Some(above) = allocate()? else { return Err("there is but one key".to_owned()) };
    let (low, high) = (page()?, page()?);
    protect(low, PROT_READ, below)?;
    protect(high, READ_WRITE, above)?;
    free(below)?;
    let own = key_of(code)?;
    check!(own != "0" && own != above.to_string(), "the key of the code is {own}");
    stage.freeze_here()?;
    same!(key_of(code)?, own, "the key of the code");
    same!(key_of(low)?, below.to_string(), "the key below");
    same!(key_of(high)?, above.to_string(), "the key above");
    same!(tried(code)?[0], libc::EFAULT, "a read of the code");
    let function: extern "C" fn() -> i32 = unsafe { std::mem::transmute(code) };
    same!(function(), 42, "what the code returns");
    same!(allocate()?, Some(below), "the lowest free key");
    // The kernel uses its key once more.
    let more = page()?;
    sys!(mprotect(more.cast(), LEN, PROT_EXEC))?;
    same!(key_of(more)?, own, "the key of more code");
    Ok(())
}
