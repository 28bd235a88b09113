//! A stopped process writes its own memory into the pack.
//!
//! One copy instead of two, and none through a buffer of ours: 3 to 4 GB/s where reading it from outside and writing
//! it gives a fraction of that. The pack's descriptor enters by a socket pair that the process makes, and leaves with
//! it, never by a path. Descriptor numbers are the lowest free ones, so they are known before the calls are made, and
//! the tape can close them even if we are gone.
//!
//! Whatever is in the way (a limit, a filter, a page that cannot be read) leaves the work to [`ram::copy`].

use crate::ram::{self, Extent};
use frost_abi::tape::Entry;
use frost_store::PackWriter;
use frost_sys::proc::{self, Mapping};
use frost_tracee::inject::{self, Area, Job};
use frost_tracee::seize::StoppedProcess;
use rustix::fd::AsFd;
use rustix::io::Errno;
use rustix::net::{SendAncillaryBuffer, SendAncillaryMessage, SendFlags};
use std::io::IoSlice;
use std::mem::MaybeUninit;

/// Below this much memory, reading it from outside is done sooner.
const WORTHWHILE_BYTES: u64 = 2 << 20;
/// Bytes written by one run of a tape: after each, the hashing thread may go on.
const BATCH_BYTES: u64 = 64 << 20;
/// Vectors of one call (UIO_MAXIOV).
const MOST_VECTORS: usize = 1024;
const VECTOR_BYTES: usize = 16;
/// Vectors of one run of a tape; with its entries they fit into an area.
const BATCH_VECTORS: usize = 32 * 1024;

/// Whether the process may write `pack_bytes` to a file through three new descriptors.
fn allowed(process: &StoppedProcess, free: [i32; 3], pack_bytes: u64) -> bool {
    const RLIMIT_FSIZE: usize = 1;
    const RLIMIT_NOFILE: usize = 7;
    let Ok(limits) = proc::limits(process.pid) else { return false };
    let soft = |limit: usize| limits.get(limit).map_or(0, |(soft, _)| *soft);
    soft(RLIMIT_FSIZE) >= pack_bytes && soft(RLIMIT_NOFILE) > free[2] as u64 && !process.threads.is_empty()
}

/// Whether the pack is memory: what a process writes there counts against the limit of its control
/// group, as its own memory does (`mem_cgroup_charge` in mm/shmem.c), and cannot be given back as the cache of a disk can.
fn is_memory(pack: &PackWriter) -> bool {
    // TMPFS_MAGIC and RAMFS_MAGIC of include/uapi/linux/magic.h.
    rustix::fs::fstatfs(pack.file()).is_ok_and(|stat| matches!(stat.f_type as u32, 0x0102_1994 | 0x8584_58f6))
}

/// Lets `process`, which has no filters of its own, write the extents, all of them its own and readable, into the pack.
///
/// Returns whether it did; if not, nothing has changed but the pack's content at these places.
///
/// # Errors
/// The pack could not be written, for which another way would fail too, or the process is gone.
pub(crate) fn write(
    process: &StoppedProcess,
    mappings: &[Mapping],
    extents: &[Extent],
    pack: &mut PackWriter,
) -> Result<bool, ram::Error> {
    let total: u64 = extents.iter().map(|extent| extent.len_bytes).sum();
    let Ok(free) = lowest_free(process.through) else { return Ok(false) };
    if total < WORTHWHILE_BYTES || !allowed(process, free, pack.len_bytes()) || is_memory(pack) {
        tracing::debug!(bytes = total, "memory of process {} is read from outside", process.pid);
        return Ok(false);
    }
    tracing::debug!(bytes = total, "process {} writes its memory itself", process.pid);
    let Ok(mut area) = Area::map(process, mappings) else { return Ok(false) };
    let sent = enter(process, &mut area, free, pack);
    let written = match sent {
        Ok(()) => write_batches(&mut area, free[2], extents, pack),
        Err(_) => Ok(false),
    };
    // Whichever of them are open: a failure may have come at any point.
    let mut job = Job::new(0);
    let open = proc::numbers(process.through, "fd").unwrap_or_default();
    job.tape.extend(free.into_iter().filter(|fd| open.contains(fd)).map(close));
    if !job.tape.is_empty() {
        let mut jobs = [job];
        area.run(&mut jobs).map_err(|source| ram::Error::Inject { source })?;
    }
    area.unmap().map_err(|source| ram::Error::Inject { source })?;
    written
}

/// Returns the three lowest descriptor numbers that are not in use.
fn lowest_free(pid: i32) -> Result<[i32; 3], Errno> {
    let used = proc::numbers(pid, "fd")?;
    let mut free = (0..).filter(|fd| used.binary_search(fd).is_err());
    Ok([(); 3].map(|()| free.next().unwrap_or(i32::MAX)))
}

fn close(fd: i32) -> Entry {
    Entry::call(libc::SYS_close as u64, [fd as u64, 0, 0, 0, 0, 0])
}

fn checked(job: &Job, index: usize, expected: i64) -> Result<(), Errno> {
    match job.tape[index].result {
        result if result == expected => Ok(()),
        result if (-4095..0).contains(&result) => Err(Errno::from_raw_os_error(-result as i32)),
        _ => Err(Errno::IO),
    }
}

/// Brings the pack's descriptor into the process, under the number `free[2]`.
fn enter(
    process: &StoppedProcess,
    area: &mut Area<'_>,
    free: [i32; 3],
    pack: &PackWriter,
) -> Result<(), Box<dyn std::error::Error>> {
    let data = area.data_address(0, 1);
    let mut job = Job::new(0);
    job.data = vec![0; 8];
    let kind = (libc::SOCK_DGRAM | libc::SOCK_CLOEXEC) as u64;
    job.tape.push(Entry::call(libc::SYS_socketpair as u64, [libc::AF_UNIX as u64, kind, 0, data, 0, 0]));
    job.cleanup = vec![close(free[0]), close(free[1])];
    let mut jobs = [job];
    area.run(&mut jobs)?;
    checked(&jobs[0], 0, 0)?;
    let pair = jobs[0].data.clone();
    if pair[..4] != free[0].to_ne_bytes() || pair[4..] != free[1].to_ne_bytes() {
        return Err("the descriptors have other numbers than expected".into());
    }
    let ours = frost_sys::pidfd::pidfd_getfd(process.pidfd.as_fd(), free[0])?;
    let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(1))];
    let mut control = SendAncillaryBuffer::new(&mut space);
    let fds = [pack.file()];
    if !control.push(SendAncillaryMessage::ScmRights(&fds)) {
        return Err("no room for a descriptor".into());
    }
    rustix::net::sendmsg(&ours, &[IoSlice::new(b"p")], &mut control, SendFlags::DONTWAIT)?;
    drop(ours);

    // struct msghdr (56 bytes), its vector, a byte of payload, and room for one control message.
    const VECTOR_AT: usize = 56;
    const PAYLOAD_AT: usize = 72;
    const CONTROL_AT: usize = 80;
    const CONTROL_BYTES: usize = 24;
    let mut job = Job::new(0);
    job.data = vec![0; CONTROL_AT + CONTROL_BYTES];
    let mut put = |at: usize, word: u64| job.data[at..at + 8].copy_from_slice(&word.to_ne_bytes());
    put(16, data + VECTOR_AT as u64);
    put(24, 1);
    put(32, data + CONTROL_AT as u64);
    put(40, CONTROL_BYTES as u64);
    put(VECTOR_AT, data + PAYLOAD_AT as u64);
    put(VECTOR_AT + 8, 1);
    let flags = (libc::MSG_CMSG_CLOEXEC | libc::MSG_DONTWAIT) as u64;
    job.tape.push(Entry::call(libc::SYS_recvmsg as u64, [free[1] as u64, data, flags, 0, 0, 0]));
    job.tape.push(close(free[0]));
    job.tape.push(close(free[1]));
    job.cleanup = vec![close(free[2])];
    let mut jobs = [job];
    area.run(&mut jobs)?;
    checked(&jobs[0], 0, 1)?;
    if jobs[0].data[CONTROL_AT + 16..CONTROL_AT + 20] != free[2].to_ne_bytes() {
        return Err("the pack has another number than expected".into());
    }
    Ok(())
}

/// One call: vectors whose places in the pack follow each other.
struct Write {
    vectors: Vec<(u64, u64)>,
    len_bytes: u64,
    pack_offset: u64,
}

fn write_batches(
    area: &mut Area<'_>,
    fd: i32,
    extents: &[Extent],
    pack: &mut PackWriter,
) -> Result<bool, ram::Error> {
    let mut writes: Vec<Write> = Vec::new();
    let mut batch_bytes = 0;
    let mut vectors = 0;
    for piece in extents.iter().flat_map(pieces) {
        if batch_bytes + piece.len_bytes > BATCH_BYTES || vectors == BATCH_VECTORS {
            if !run_batch(area, fd, &writes, pack)? {
                return Ok(false);
            }
            writes.clear();
            (batch_bytes, vectors) = (0, 0);
        }
        batch_bytes += piece.len_bytes;
        vectors += 1;
        match writes.last_mut() {
            Some(write)
                if write.pack_offset + write.len_bytes == piece.pack_offset
                    && write.vectors.len() < MOST_VECTORS =>
            {
                write.vectors.push((piece.address, piece.len_bytes));
                write.len_bytes += piece.len_bytes;
            }
            _ => writes.push(Write {
                vectors: vec![(piece.address, piece.len_bytes)],
                len_bytes: piece.len_bytes,
                pack_offset: piece.pack_offset,
            }),
        }
    }
    if writes.is_empty() { Ok(true) } else { run_batch(area, fd, &writes, pack) }
}

/// Splits an extent into pieces of at most a batch.
fn pieces(extent: &Extent) -> impl Iterator<Item = Extent> + use<> {
    let extent = *extent;
    (0..extent.len_bytes).step_by(BATCH_BYTES as usize).map(move |at| Extent {
        address: extent.address + at,
        len_bytes: BATCH_BYTES.min(extent.len_bytes - at),
        pack_offset: extent.pack_offset + at,
        ..extent
    })
}

fn run_batch(
    area: &mut Area<'_>,
    fd: i32,
    writes: &[Write],
    pack: &mut PackWriter,
) -> Result<bool, ram::Error> {
    let data = area.data_address(0, 1);
    let mut job = Job::new(0);
    for write in writes {
        let vectors_at = data + job.data.len() as u64;
        for (address, len_bytes) in &write.vectors {
            job.data.extend(address.to_ne_bytes());
            job.data.extend(len_bytes.to_ne_bytes());
        }
        let count = write.vectors.len() as u64;
        job.tape.push(Entry::call(
            libc::SYS_pwritev as u64,
            [fd as u64, vectors_at, count, write.pack_offset, 0, 0],
        ));
    }
    debug_assert!(job.data.len() <= BATCH_VECTORS * VECTOR_BYTES);
    job.cleanup = vec![close(fd)];
    let mut jobs = [job];
    match area.run(&mut jobs) {
        Ok(()) => {}
        Err(source @ inject::Error::Gone { .. }) => return Err(ram::Error::Inject { source }),
        Err(_) => return Ok(false),
    }
    for (index, write) in writes.iter().enumerate() {
        match checked(&jobs[0], index, write.len_bytes as i64) {
            Ok(()) => {}
            Err(source @ (Errno::NOSPC | Errno::DQUOT)) => return Err(ram::Error::Write { source }),
            // A short write, or a page that the process itself cannot read.
            Err(_) => return Ok(false),
        }
    }
    if let Some(last) = writes.last() {
        pack.filled(last.pack_offset + last.len_bytes);
    }
    Ok(true)
}
