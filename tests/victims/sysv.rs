//! System V segments, semaphores and message queues.

use crate::Victim;
use crate::call::{
    READ_WRITE, check_fill, check_zero, errno, fill, filled_pages, shared_words, until, zeroed,
};
use crate::stage::{Stage, Verdict};
use libc::{IPC_CREAT, IPC_EXCL, IPC_NOWAIT, IPC_PRIVATE, IPC_RMID, IPC_STAT, PROT_READ, SHM_RDONLY};
use std::ptr::null;
use std::sync::atomic::Ordering::SeqCst;

pub(crate) const VICTIMS: &[Victim] = &[
    ("sysv_segment", segment),
    ("sysv_segment_key", segment_key),
    ("sysv_segment_parts", segment_parts),
    ("sysv_segment_removed", segment_removed),
    ("sysv_segment_detached", segment_detached),
    ("sysv_segment_sparse", segment_sparse),
    ("sysv_segment_unreadable", segment_unreadable),
    ("sysv_segment_unreadable_attached", segment_unreadable_attached),
    ("sysv_semaphores_unreadable", semaphores_unreadable),
    ("sysv_queue_unreadable", queue_unreadable),
    ("sysv_segments_many", segments_many),
    ("sysv_of_another", of_another),
    ("sysv_semaphores", semaphores),
    ("sysv_semaphore_waiters", semaphore_waiters),
    ("sysv_semaphore_undo", semaphore_undo),
    ("sysv_creators", creators),
    ("sysv_queue_empty", queue_empty),
    ("sysv_queue_half_full", queue_half_full),
    ("sysv_queue_full", queue_full),
    ("sysv_queue_waiters", queue_waiters),
    ("sysv_queue_users", queue_users),
];

const PAGE: usize = 4096;
const LEN: usize = 1 << 20;

/// A key that no other program of these tests has.
fn key(number: i32) -> i32 {
    let pid = unsafe { libc::getpid() };
    pid << 8 | number
}

fn attach(id: i32, flags: i32) -> Result<*mut u8, String> {
    Ok(sys!(shmat(id, null(), flags))?.cast())
}

fn status(id: i32) -> Result<libc::shmid_ds, String> {
    let mut status: libc::shmid_ds = zeroed();
    sys!(shmctl(id, IPC_STAT, &mut status))?;
    Ok(status)
}

/// One segment in two processes, which go on to see each other's writes, under the same number.
/// Made by one user and given to another: the maker keeps his rights.
fn creators(stage: &Stage) -> Verdict {
    const MAKER: u32 = 4321;
    if unsafe { libc::geteuid() } != 0 {
        eprintln!("skipped: only root can give an object away");
        return stage.freeze_here();
    }
    let made = as_user(MAKER, || {
        Ok((
            sys!(shmget(IPC_PRIVATE, LEN, IPC_CREAT | 0o600))?,
            sys!(semget(IPC_PRIVATE, 1, IPC_CREAT | 0o600))?,
            sys!(msgget(IPC_PRIVATE, IPC_CREAT | 0o600))?,
        ))
    })?;
    let (segment, set, queue) = made;
    let statuses = || -> Result<_, String> {
        let (mut shm, mut sem, mut msg): (libc::shmid_ds, libc::semid_ds, libc::msqid_ds) =
            (zeroed(), zeroed(), zeroed());
        sys!(shmctl(segment, libc::IPC_STAT, &mut shm))?;
        sys!(semctl(set, 0, libc::IPC_STAT, &raw mut sem))?;
        sys!(msgctl(queue, libc::IPC_STAT, &mut msg))?;
        Ok((shm, sem, msg))
    };
    let (mut shm, mut sem, mut msg) = statuses()?;
    (shm.shm_perm.uid, sem.sem_perm.uid, msg.msg_perm.uid) = (0, 0, 0);
    sys!(shmctl(segment, libc::IPC_SET, &mut shm))?;
    sys!(semctl(set, 0, libc::IPC_SET, &raw mut sem))?;
    sys!(msgctl(queue, libc::IPC_SET, &mut msg))?;
    let memory = attach(segment, 0)?;
    fill(memory, LEN, 1);
    // That they are the program's shows by who operated last.
    let mut up = libc::sembuf { sem_num: 0, sem_op: 1, sem_flg: 0 };
    sys!(semop(set, &mut up, 1))?;
    sys!(msgsnd(queue, [1_i64, 7].as_ptr().cast(), 8, 0))?;
    stage.freeze_here()?;
    check_fill("the segment", memory, LEN, 1)?;
    let (shm, sem, msg) = statuses()?;
    for (what, perm) in
        [("segment", shm.shm_perm), ("set of semaphores", sem.sem_perm), ("queue", msg.msg_perm)]
    {
        same!((perm.uid, perm.cuid, perm.cgid), (0, MAKER, 0), "owner and maker of the {what}");
    }
    // Who made it may remove it.
    as_user(MAKER, || {
        sys!(shmctl(segment, IPC_RMID, std::ptr::null_mut()))?;
        sys!(semctl(set, 0, IPC_RMID))?;
        sys!(msgctl(queue, IPC_RMID, std::ptr::null_mut())).map(drop)
    })
}

fn as_user<T>(uid: u32, act: impl FnOnce() -> Result<T, String>) -> Result<T, String> {
    sys!(seteuid(uid))?;
    let done = act();
    sys!(seteuid(0))?;
    done
}

fn segment(stage: &Stage) -> Verdict {
    let words = shared_words::<1>()?;
    let id = sys!(shmget(IPC_PRIVATE, LEN - 100, IPC_CREAT | 0o640))?;
    let memory = attach(id, 0)?;
    fill(memory, LEN / 2, 1);
    fill(unsafe { memory.add(LEN / 2) }, LEN / 2, 7);
    let child = stage.fork(|| {
        words[0].store(1, SeqCst);
        stage.wait();
        check_fill("the child's view", memory, LEN / 2, 1)?;
        fill(memory, LEN / 2, 2);
        sys!(shmdt(memory.cast()))?;
        Ok(())
    })?;
    until("the child stands", || words[0].load(SeqCst) == 1)?;
    stage.freeze_here()?;
    stage.reap(child)?;
    check_fill("what the child wrote", memory, LEN / 2, 2)?;
    check_fill("what it did not write", unsafe { memory.add(LEN / 2) }, LEN / 2, 7)?;
    let found = status(id)?;
    same!(found.shm_segsz, LEN - 100, "its size");
    same!(found.shm_perm.mode as u32 & 0o777, 0o640, "its mode");
    same!(found.shm_nattch, 1, "its attachments");
    let again = attach(id, 0)?;
    unsafe { again.write(0x55) };
    same!(unsafe { memory.read() }, 0x55, "what a new attachment wrote");
    sys!(shmctl(id, IPC_RMID, std::ptr::null_mut()))?;
    sys!(shmdt(memory.cast()))?;
    sys!(shmdt(again.cast()))?;
    check!(status(id).is_err() && errno() == libc::EINVAL, "it did not vanish with its last attachment");
    Ok(())
}

/// Found by its key, by itself and by others.
fn segment_key(stage: &Stage) -> Verdict {
    let key = key(1);
    let id = sys!(shmget(key, LEN, IPC_CREAT | IPC_EXCL | 0o600))?;
    let memory = attach(id, 0)?;
    fill(memory, LEN, 3);
    stage.freeze_here()?;
    same!(sys!(shmget(key, LEN, 0))?, id, "what has the key");
    check_fill("the segment", memory, LEN, 3)?;
    sys!(shmctl(id, IPC_RMID, std::ptr::null_mut()))?;
    Ok(())
}

/// Little of it is there, and no more than that afterwards.
fn segment_sparse(stage: &Stage) -> Verdict {
    const ALL: usize = 64 << 20;
    let id = sys!(shmget(IPC_PRIVATE, ALL, IPC_CREAT | libc::SHM_NORESERVE | 0o600))?;
    let memory = attach(id, 0)?;
    let spots = [PAGE, ALL / 2, ALL - 3 * PAGE];
    for (seed, spot) in spots.into_iter().enumerate() {
        fill(unsafe { memory.add(spot) }, PAGE, seed as u64);
    }
    let before = filled_pages(memory, ALL)?;
    stage.freeze_here()?;
    let after = filled_pages(memory, ALL)?;
    check!(after <= before, "{after} pages are there, {before} were: who only reads has filled holes");
    for (seed, spot) in spots.into_iter().enumerate() {
        check_fill("a page amid holes", unsafe { memory.add(spot) }, PAGE, seed as u64)?;
    }
    check_zero("the end", unsafe { memory.add(ALL - 2 * PAGE) }, 2 * PAGE)?;
    sys!(shmctl(id, IPC_RMID, std::ptr::null_mut()))?;
    Ok(())
}

/// Attached for reading only and for writing, partly unmapped, with other rights.
fn segment_parts(stage: &Stage) -> Verdict {
    let id = sys!(shmget(IPC_PRIVATE, 16 * PAGE, IPC_CREAT | 0o600))?;
    let memory = attach(id, 0)?;
    fill(memory, 8 * PAGE, 4);
    fill(unsafe { memory.add(8 * PAGE) }, 8 * PAGE, 5);
    let read_only = attach(id, SHM_RDONLY)?;
    sys!(munmap(memory.add(4 * PAGE).cast(), 4 * PAGE))?;
    sys!(mprotect(memory.cast(), 2 * PAGE, PROT_READ))?;
    sys!(munmap(read_only.cast(), 3 * PAGE))?;
    let read_only = unsafe { read_only.add(3 * PAGE) };
    let before = status(id)?.shm_nattch;
    stage.freeze_here()?;
    same!(status(id)?.shm_nattch, before, "its attachments");
    check_fill("the first part", memory, 4 * PAGE, 4)?;
    check_fill("the second part", unsafe { memory.add(8 * PAGE) }, 8 * PAGE, 5)?;
    unsafe { memory.add(15 * PAGE).write(0x11) };
    same!(unsafe { read_only.add(12 * PAGE).read() }, 0x11, "what the other attachment shows");
    check!(
        sys!(mprotect(read_only.cast(), PAGE, READ_WRITE)).is_err(),
        "an attachment for reading can be made writable"
    );
    sys!(mprotect(memory.cast(), 2 * PAGE, READ_WRITE))?;
    unsafe { memory.write(0x12) };
    let whole = attach(id, 0)?;
    same!(unsafe { whole.read() }, 0x12, "what was written where writing was not allowed");
    sys!(shmctl(id, IPC_RMID, std::ptr::null_mut()))?;
    Ok(())
}

/// Marked to vanish with its last attachment, as many programs do at once; others may still attach it.
fn segment_removed(stage: &Stage) -> Verdict {
    let id = sys!(shmget(key(2), LEN, IPC_CREAT | IPC_EXCL | 0o600))?;
    let memory = attach(id, 0)?;
    fill(memory, LEN, 5);
    sys!(shmctl(id, IPC_RMID, std::ptr::null_mut()))?;
    stage.freeze_here()?;
    check_fill("the segment", memory, LEN, 5)?;
    const SHM_DEST: u32 = 0o1000;
    check!(status(id)?.shm_perm.mode as u32 & SHM_DEST != 0, "it is not marked to vanish any more");
    let again = attach(id, 0)?;
    check_fill("a new attachment", again, LEN, 5)?;
    sys!(shmdt(memory.cast()))?;
    sys!(shmdt(again.cast()))?;
    check!(status(id).is_err(), "it did not vanish with its last attachment");
    Ok(())
}

/// Nobody has it attached when the freeze comes.
fn segment_detached(stage: &Stage) -> Verdict {
    let id = sys!(shmget(IPC_PRIVATE, LEN, IPC_CREAT | 0o600))?;
    let memory = attach(id, 0)?;
    fill(unsafe { memory.add(8 * PAGE) }, PAGE, 6);
    sys!(shmdt(memory.cast()))?;
    stage.freeze_here()?;
    let (own, found) = (unsafe { libc::getpid() }, status(id)?);
    same!((found.shm_cpid, found.shm_lpid), (own, own), "who made it, and who detached it last");
    let memory = attach(id, 0)?;
    check_fill("the segment", unsafe { memory.add(8 * PAGE) }, PAGE, 6)?;
    crate::call::check_zero("what was never written", memory, 8 * PAGE)?;
    sys!(shmctl(id, IPC_RMID, std::ptr::null_mut()))?;
    Ok(())
}

/// Not even who made it may read it.
fn segment_unreadable(stage: &Stage) -> Verdict {
    let id = sys!(shmget(IPC_PRIVATE, LEN, IPC_CREAT))?;
    let seen = stage.freeze_here();
    sys!(shmctl(id, IPC_RMID, std::ptr::null_mut()))?;
    seen
}

/// Its owner may not read it any more, but has it attached.
fn segment_unreadable_attached(stage: &Stage) -> Verdict {
    let id = sys!(shmget(IPC_PRIVATE, LEN, IPC_CREAT | 0o600))?;
    let memory = attach(id, 0)?;
    fill(memory, LEN, 3);
    let mut found = status(id)?;
    found.shm_perm.mode = 0o200;
    sys!(shmctl(id, libc::IPC_SET, &mut found))?;
    stage.freeze_here()?;
    check_fill("the segment", memory, LEN, 3)?;
    sys!(shmctl(id, libc::IPC_SET, &mut found))?;
    sys!(shmctl(id, IPC_RMID, std::ptr::null_mut()))?;
    Ok(())
}

/// A segment, a set and a queue of somebody else, if there are such: the segment may only be read.
fn of_another(stage: &Stage) -> Verdict {
    let ids = std::fs::read_to_string(stage.path("ids")).unwrap_or_default();
    let ids: Vec<i32> = ids.split_whitespace().filter_map(|id| id.parse().ok()).collect();
    let (segment, set, queue) = match ids[..] {
        [segment, set, queue] => (segment, set, queue),
        _ => (
            sys!(shmget(IPC_PRIVATE, PAGE, IPC_CREAT | 0o600))?,
            sys!(semget(IPC_PRIVATE, 1, 0o600))?,
            sys!(msgget(IPC_PRIVATE, 0o600))?,
        ),
    };
    let memory = attach(segment, SHM_RDONLY)?;
    operate(set, &[(0, 1, 0)])?;
    send(queue, 1, b"ours", 0)?;
    stage.freeze_here()?;
    check_zero("the segment", memory, PAGE)?;
    same!(status(segment)?.shm_nattch, 1, "attachments");
    operate(set, &[(0, -1, 0)])?;
    same!(value(set, 0)?, 0, "the value");
    same!(receive(queue, 0, IPC_NOWAIT)?, (1, b"ours".to_vec()), "the message");
    if ids.is_empty() {
        sys!(shmctl(segment, IPC_RMID, std::ptr::null_mut()))?;
        sys!(semctl(set, 0, IPC_RMID))?;
        sys!(msgctl(queue, IPC_RMID, std::ptr::null_mut()))?;
    }
    Ok(())
}

/// A lock in a set that its user may alter, but not read.
fn semaphores_unreadable(stage: &Stage) -> Verdict {
    let id = sys!(semget(IPC_PRIVATE, 1, 0o600))?;
    sys!(semctl(id, 0, libc::SETVAL, 3))?;
    let mut found: libc::semid_ds = zeroed();
    sys!(semctl(id, 0, IPC_STAT, &mut found))?;
    found.sem_perm.mode = 0o200;
    sys!(semctl(id, 0, libc::IPC_SET, &mut found))?;
    operate(id, &[(0, -1, libc::SEM_UNDO)])?;
    let seen = stage.freeze_here();
    found.sem_perm.mode = 0o600;
    sys!(semctl(id, 0, libc::IPC_SET, &mut found))?;
    let value = value(id, 0)?;
    sys!(semctl(id, 0, IPC_RMID))?;
    same!(value, 2, "the value");
    seen
}

/// Its user may send to it, but not receive.
fn queue_unreadable(stage: &Stage) -> Verdict {
    let id = sys!(msgget(IPC_PRIVATE, 0o600))?;
    let mut found = queue_status(id)?;
    found.msg_perm.mode = 0o200;
    sys!(msgctl(id, libc::IPC_SET, &mut found))?;
    send(id, 1, b"kept", 0)?;
    let seen = stage.freeze_here();
    found.msg_perm.mode = 0o600;
    sys!(msgctl(id, libc::IPC_SET, &mut found))?;
    let received = receive(id, 0, IPC_NOWAIT)?;
    sys!(msgctl(id, IPC_RMID, std::ptr::null_mut()))?;
    same!(received, (1, b"kept".to_vec()), "the message");
    seen
}

/// Forty at a time, made and removed in turn, so that their numbers are in no order.
fn segments_many(stage: &Stage) -> Verdict {
    let make = |seed: u64| -> Result<(i32, *mut u8), String> {
        let id = sys!(shmget(IPC_PRIVATE, 2 * PAGE, IPC_CREAT | 0o600))?;
        let memory = attach(id, 0)?;
        fill(memory, 2 * PAGE, seed);
        Ok((id, memory))
    };
    let mut all: Vec<(i32, *mut u8)> = (0..40).map(make).collect::<Result<_, _>>()?;
    for seed in (0..40).step_by(3) {
        sys!(shmdt(all[seed].1.cast()))?;
        sys!(shmctl(all[seed].0, IPC_RMID, std::ptr::null_mut()))?;
        all[seed] = make(seed as u64)?;
    }
    stage.freeze_here()?;
    for (seed, (id, memory)) in all.into_iter().enumerate() {
        check_fill(&format!("segment {id}"), memory, 2 * PAGE, seed as u64)?;
        same!(status(id)?.shm_nattch, 1, "attachments of segment {id}");
        sys!(shmctl(id, IPC_RMID, std::ptr::null_mut()))?;
    }
    Ok(())
}

fn operate(id: i32, operations: &[(u16, i16, i32)]) -> Result<i32, String> {
    let mut all: Vec<libc::sembuf> = operations
        .iter()
        .map(|(number, operation, flags)| libc::sembuf {
            sem_num: *number,
            sem_op: *operation,
            sem_flg: *flags as i16,
        })
        .collect();
    sys!(semop(id, all.as_mut_ptr(), all.len()))
}

fn value(id: i32, number: i32) -> Result<i32, String> {
    sys!(semctl(id, number, libc::GETVAL))
}

fn semaphores(stage: &Stage) -> Verdict {
    let key = key(3);
    let id = sys!(semget(key, 5, IPC_CREAT | IPC_EXCL | 0o600))?;
    let values = [0, 1, 7, 32_767, 500];
    for (number, value) in values.into_iter().enumerate() {
        sys!(semctl(id, number as i32, libc::SETVAL, value))?;
    }
    let private = sys!(semget(IPC_PRIVATE, 1, 0o640))?;
    operate(private, &[(0, 3, 0)])?;
    // One that was set only: who waits for its maker to have begun waits for its first operation.
    let new = sys!(semget(IPC_PRIVATE, 2, 0o600))?;
    sys!(semctl(new, 1, libc::SETVAL, 4))?;
    let is_operated = |id: i32| -> Result<bool, String> {
        let mut status: libc::semid_ds = zeroed();
        sys!(semctl(id, 0, IPC_STAT, &raw mut status))?;
        Ok(status.sem_otime != 0)
    };
    stage.freeze_here()?;
    let own = unsafe { libc::getpid() };
    same!(sys!(semctl(private, 0, libc::GETPID))?, own, "who operated last on the set without a key");
    same!(sys!(semctl(id, 3, libc::GETPID))?, own, "who has set a semaphore");
    same!(sys!(semctl(new, 1, libc::GETPID))?, own, "who has set another");
    same!(value(new, 1)?, 4, "the set that nobody has operated on");
    let operated = (is_operated(private)?, is_operated(id)?, is_operated(new)?);
    same!(operated, (true, false, false), "whether anybody has operated on them");
    sys!(semctl(new, 0, IPC_RMID))?;
    same!(sys!(semget(key, 5, 0))?, id, "what has the key");
    for (number, expected) in values.into_iter().enumerate() {
        same!(value(id, number as i32)?, expected, "semaphore {number}");
    }
    same!(value(private, 0)?, 3, "the set without a key");
    operate(id, &[(2, -7, 0), (0, 1, 0), (4, -500, IPC_NOWAIT)])?;
    same!(value(id, 0)?, 1, "a semaphore after an operation");
    let refused = operate(id, &[(2, -1, IPC_NOWAIT)]).is_err() && errno() == libc::EAGAIN;
    check!(refused, "a semaphore of value 0 was taken");
    sys!(semctl(id, 0, IPC_RMID))?;
    sys!(semctl(private, 0, IPC_RMID))?;
    Ok(())
}

/// Children wait for a semaphore to rise, and for one to become zero.
fn semaphore_waiters(stage: &Stage) -> Verdict {
    let id = sys!(semget(IPC_PRIVATE, 3, 0o600))?;
    operate(id, &[(1, 1, 0)])?;
    let rise = stage.fork(|| operate(id, &[(0, -2, 0), (2, 1, 0)]).map(drop))?;
    let zero = stage.fork(|| operate(id, &[(1, 0, 0), (2, 1, 0)]).map(drop))?;
    let wait = || unsafe { (libc::semctl(id, 0, libc::GETNCNT), libc::semctl(id, 1, libc::GETZCNT)) };
    until("both wait", || wait() == (1, 1))?;
    stage.freeze_here()?;
    until("both wait again", || wait() == (1, 1))?;
    same!(value(id, 2)?, 0, "how many went on");
    operate(id, &[(0, 2, 0)])?;
    stage.reap(rise)?;
    operate(id, &[(1, -1, 0)])?;
    stage.reap(zero)?;
    same!(value(id, 2)?, 2, "how many went on");
    same!(value(id, 0)?, 0, "the semaphore that rose");
    sys!(semctl(id, 0, IPC_RMID))?;
    Ok(())
}

/// What processes did with SEM_UNDO is undone when they end, and not before.
fn semaphore_undo(stage: &Stage) -> Verdict {
    const UNDO: i32 = libc::SEM_UNDO;
    let words = shared_words::<1>()?;
    let id = sys!(semget(IPC_PRIVATE, 3, 0o600))?;
    for (number, value) in [1, 0, 20_000].into_iter().enumerate() {
        sys!(semctl(id, number as i32, libc::SETVAL, value))?;
    }
    let other = sys!(semget(IPC_PRIVATE, 1, 0o600))?;
    operate(other, &[(0, 1, 0)])?;
    // One holds a lock; one has lent something out; one did both.
    let acts: [&[(u16, i16, i32)]; 3] =
        [&[(0, -1, UNDO)], &[(1, 4, UNDO)], &[(1, -1, UNDO), (2, 12_000, UNDO), (2, -3, 0)]];
    let mut children = Vec::new();
    for (number, act) in acts.into_iter().enumerate() {
        children.push(stage.fork(|| {
            if number == 1 {
                // Makes it wait for all others at a thaw, of which the last waits for it.
                sys!(syscall(libc::SYS_pidfd_open, libc::getppid(), 0))?;
            }
            operate(id, act)?;
            words[0].fetch_add(1, SeqCst);
            loop {
                crate::call::nap(std::time::Duration::from_millis(5));
            }
        })?);
        until("it has acted", || words[0].load(SeqCst) as usize == number + 1)?;
    }
    let all = || -> Result<[i32; 3], String> { Ok([value(id, 0)?, value(id, 1)?, value(id, 2)?]) };
    same!(all()?, [0, 3, 31_997], "the values before");
    stage.freeze_here()?;
    same!(all()?, [0, 3, 31_997], "the values");
    let end = |number: usize| -> Verdict {
        sys!(kill(children[number], libc::SIGKILL))?;
        sys!(waitpid(children[number], std::ptr::null_mut(), 0))?;
        stage.forget(children[number]);
        Ok(())
    };
    end(0)?;
    same!(all()?, [1, 3, 31_997], "when the lock's holder has ended");
    end(2)?;
    same!(all()?, [1, 4, 19_997], "when the last has ended");
    end(1)?;
    same!(all()?, [1, 0, 19_997], "when all have ended");
    same!(value(other, 0)?, 1, "a set that nobody undoes anything in");
    sys!(semctl(id, 0, IPC_RMID))?;
    sys!(semctl(other, 0, IPC_RMID))?;
    Ok(())
}

fn send(id: i32, kind: i64, data: &[u8], flags: i32) -> Result<i32, String> {
    let mut message = kind.to_ne_bytes().to_vec();
    message.extend_from_slice(data);
    sys!(msgsnd(id, message.as_ptr().cast(), data.len(), flags))
}

fn receive(id: i32, kind: i64, flags: i32) -> Result<(i64, Vec<u8>), String> {
    let mut message = vec![0u8; 8 + 8192];
    let got = sys!(msgrcv(id, message.as_mut_ptr().cast(), 8192, kind, flags))?;
    message.truncate(8 + got as usize);
    let kind = i64::from_ne_bytes(message[..8].try_into().expect("eight bytes"));
    Ok((kind, message.split_off(8)))
}

fn queue_status(id: i32) -> Result<libc::msqid_ds, String> {
    let mut status: libc::msqid_ds = zeroed();
    sys!(msgctl(id, IPC_STAT, &mut status))?;
    Ok(status)
}

fn queue_empty(stage: &Stage) -> Verdict {
    let key = key(4);
    let id = sys!(msgget(key, IPC_CREAT | IPC_EXCL | 0o620))?;
    send(id, 1, b"once", 0)?;
    receive(id, 0, 0)?;
    stage.freeze_here()?;
    same!(sys!(msgget(key, 0))?, id, "what has the key");
    same!(queue_status(id)?.msg_perm.mode as u32 & 0o777, 0o620, "its mode");
    check!(receive(id, 0, IPC_NOWAIT).is_err() && errno() == libc::ENOMSG, "a message came from nowhere");
    send(id, 2, b"again", 0)?;
    same!(receive(id, 0, 0)?, (2, b"again".to_vec()), "a message");
    sys!(msgctl(id, IPC_RMID, std::ptr::null_mut()))?;
    Ok(())
}

/// A child has sent what its parent has received.
fn queue_users(stage: &Stage) -> Verdict {
    let id = sys!(msgget(IPC_PRIVATE, 0o600))?;
    let child = stage.fork(|| {
        send(id, 1, b"once", 0)?;
        stage.wait();
        Ok(())
    })?;
    receive(id, 0, 0)?;
    stage.freeze_here()?;
    let found = queue_status(id)?;
    let users = (found.msg_lspid, found.msg_lrpid, found.msg_qnum);
    same!(users, (child, unsafe { libc::getpid() }, 0), "who sent and who received last, and what waits");
    stage.reap(child)?;
    sys!(msgctl(id, IPC_RMID, std::ptr::null_mut()))?;
    Ok(())
}

/// Messages of several types and lengths, in order, also by type.
fn queue_half_full(stage: &Stage) -> Verdict {
    let id = sys!(msgget(IPC_PRIVATE, 0o600))?;
    let long = vec![0x5a; 5000];
    let all: [(i64, &[u8]); 6] =
        [(3, b"three"), (1, b""), (7, &long), (1, b"one"), (i64::MAX, b"x"), (2, b"two")];
    for (kind, data) in all {
        send(id, kind, data, 0)?;
    }
    stage.freeze_here()?;
    let found = queue_status(id)?;
    same!(found.msg_qnum, 6, "messages");
    same!(
        (found.msg_lspid, found.msg_lrpid),
        (unsafe { libc::getpid() }, 0),
        "who sent last, and who received"
    );
    same!(receive(id, 1, IPC_NOWAIT)?, (1, Vec::new()), "the first of type 1");
    same!(receive(id, 0, IPC_NOWAIT)?, (3, b"three".to_vec()), "the oldest");
    same!(receive(id, -2, IPC_NOWAIT)?, (1, b"one".to_vec()), "the lowest type");
    same!(receive(id, 0, IPC_NOWAIT)?, (7, long), "the long one");
    same!(receive(id, 0, IPC_NOWAIT)?, (i64::MAX, b"x".to_vec()), "the next");
    same!(receive(id, 0, IPC_NOWAIT)?, (2, b"two".to_vec()), "the last");
    sys!(msgctl(id, IPC_RMID, std::ptr::null_mut()))?;
    Ok(())
}

/// No byte more goes in, and a smaller limit was set.
fn queue_full(stage: &Stage) -> Verdict {
    let id = sys!(msgget(IPC_PRIVATE, 0o600))?;
    let mut status = queue_status(id)?;
    status.msg_qbytes = 3000;
    sys!(msgctl(id, libc::IPC_SET, &mut status))?;
    for number in 0..30u8 {
        send(id, i64::from(number) + 1, &[number; 100], IPC_NOWAIT)?;
    }
    let full = |id| send(id, 1, b"x", IPC_NOWAIT).is_err() && errno() == libc::EAGAIN;
    check!(full(id), "it is not full before");
    stage.freeze_here()?;
    check!(full(id), "it is not full any more");
    same!(queue_status(id)?.msg_qbytes, 3000, "the most bytes");
    for number in 0..30u8 {
        same!(receive(id, 0, IPC_NOWAIT)?, (i64::from(number) + 1, vec![number; 100]), "message {number}");
    }
    sys!(msgctl(id, IPC_RMID, std::ptr::null_mut()))?;
    Ok(())
}

/// A blocked reader and a blocked writer.
fn queue_waiters(stage: &Stage) -> Verdict {
    let words = shared_words::<1>()?;
    let (empty, full) = (sys!(msgget(IPC_PRIVATE, 0o600))?, sys!(msgget(IPC_PRIVATE, 0o600))?);
    let mut status = queue_status(full)?;
    status.msg_qbytes = 10;
    sys!(msgctl(full, libc::IPC_SET, &mut status))?;
    send(full, 1, b"ten bytes!", IPC_NOWAIT)?;
    let reader = stage.fork(|| {
        words[0].fetch_add(1, SeqCst);
        same!(receive(empty, 5, 0)?, (5, b"for the reader".to_vec()), "what the reader got");
        Ok(())
    })?;
    let writer = stage.fork(|| {
        words[0].fetch_add(1, SeqCst);
        send(full, 2, b"late", 0).map(drop)
    })?;
    let sleeps = |pid: i32| {
        let call = std::fs::read_to_string(format!("/proc/{pid}/syscall")).unwrap_or_default();
        call.starts_with(&format!("{} ", libc::SYS_msgrcv))
            || call.starts_with(&format!("{} ", libc::SYS_msgsnd))
    };
    until("both wait", || words[0].load(SeqCst) == 2 && sleeps(reader) && sleeps(writer))?;
    stage.freeze_here()?;
    send(empty, 4, b"for nobody", 0)?;
    send(empty, 5, b"for the reader", 0)?;
    stage.reap(reader)?;
    same!(receive(full, 0, 0)?, (1, b"ten bytes!".to_vec()), "what was there");
    stage.reap(writer)?;
    same!(receive(full, 0, IPC_NOWAIT)?, (2, b"late".to_vec()), "what the writer sent");
    sys!(msgctl(empty, IPC_RMID, std::ptr::null_mut()))?;
    sys!(msgctl(full, IPC_RMID, std::ptr::null_mut()))?;
    Ok(())
}
