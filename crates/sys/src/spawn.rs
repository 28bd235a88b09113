//! Starting a program in a place of its own: session or process group, terminal, filter.

use crate::raw::check;
use crate::seccomp::Filter;
use rustix::fd::{AsFd, FromRawFd, IntoRawFd, OwnedFd};
use rustix::net::{
    AddressFamily, RecvAncillaryBuffer, RecvAncillaryMessage, RecvFlags, SendAncillaryBuffer,
    SendAncillaryMessage, SendFlags, SocketFlags, SocketType,
};
use std::io;
use std::io::{IoSlice, IoSliceMut};
use std::mem::MaybeUninit;
use std::os::unix::process::CommandExt;
use std::process::{Child, Command};

/// How a program stands to its starter's session.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Standing {
    /// It leads a session of its own; its standard input becomes the terminal that controls it, if that is one.
    Session,
    /// It leads a process group in ours, in the foreground of the terminal that is its standard input, and has no other
    /// descriptors.
    Foreground,
    /// It leads a process group in ours.
    Group {
        /// One of its descriptors that is our terminal, if it is to have it.
        terminal: Option<i32>,
    },
}

/// Enters control groups by their entrances, with all that we start from now on.
///
/// # Errors
/// ENODEV if a group was removed; EACCES if it may not be entered from ours.
pub fn enter_groups(entrances: &[OwnedFd]) -> rustix::io::Result<()> {
    for entrance in entrances {
        rustix::io::write(entrance, b"0")?;
    }
    Ok(())
}

/// Starts a program, in control groups if there are some; no call that `filter` refuses is made by it.
///
/// Returns when it was executed, with the listener of the filter, if it could have one. Of our descriptors it gets those
/// that `given` names, each with the number that it is to have.
///
/// # Errors
/// Whatever fails first: a descriptor, the filter, the execution, with the number of the system's error.
pub fn start(
    command: &mut Command,
    standing: Standing,
    filter: Option<Filter>,
    given: &[(i32, i32)],
    groups: Vec<OwnedFd>,
) -> io::Result<(Child, Option<OwnedFd>)> {
    let placeholders = placeholders(given)?;
    let (ours, theirs) = channel()?;
    let hand = move |listener: Option<OwnedFd>| match listener {
        Some(listener) => Ok(hand_over(&theirs, &listener)?),
        None => Ok(()),
    };
    prepare(command, standing, filter, given, groups, hand);
    let child = command.spawn();
    drop(placeholders);
    let child = child?;
    Ok((child, take_over(&ours)?))
}

/// Becomes the program that [`start`] would start. Whoever waits in [`hear`] at the other end of `socket` is told of it before
/// it is executed, and hears that it was when its end is closed by that.
///
/// Returns only if it fails, which is to be told as well; the process is then good for nothing but to end.
pub fn become_started(
    command: &mut Command,
    standing: Standing,
    filter: Option<Filter>,
    given: &[(i32, i32)],
    groups: Vec<OwnedFd>,
    socket: &OwnedFd,
) -> io::Error {
    let execute = || -> io::Result<io::Error> {
        let _placeholders = placeholders(given)?;
        let theirs = socket.try_clone()?;
        let own = std::process::id() as i32;
        let hand = move |listener| Ok(tell(&theirs, &Ok((own, listener)))?);
        prepare(command, standing, filter, given, groups, hand);
        Ok(command.exec())
    };
    execute().unwrap_or_else(|error| error)
}

/// Takes the numbers that a program is to get: the standard library's own descriptor, by which it hears of a failure, must
/// have none of them.
fn placeholders(given: &[(i32, i32)]) -> io::Result<Vec<OwnedFd>> {
    let mut placeholders = Vec::new();
    for (fd, number) in given {
        // SAFETY: the calls take numbers; what is opened is ours alone, since nobody had the number.
        unsafe {
            if libc::fcntl(*number, libc::F_GETFD) == -1 {
                check(libc::dup3(*fd, *number, libc::O_CLOEXEC))?;
                placeholders.push(OwnedFd::from_raw_fd(*number));
            }
        }
    }
    Ok(placeholders)
}

/// Lets a program get its place before it is executed. `hand` gets the listener of its filter, if there is one.
fn prepare(
    command: &mut Command,
    standing: Standing,
    filter: Option<Filter>,
    given: &[(i32, i32)],
    groups: Vec<OwnedFd>,
    hand: impl Fn(Option<OwnedFd>) -> io::Result<()> + Send + Sync + 'static,
) {
    /// Numbers that nobody here has, and nobody is to get.
    const HIGH: i32 = 200;
    let given = given.to_vec();
    let prepare = move || -> io::Result<()> {
        enter_groups(&groups)?;
        // SAFETY: calls that take numbers, or addresses of locals that live across them; all are async-signal-safe.
        unsafe {
            if matches!(standing, Standing::Session | Standing::Foreground) {
                // Who does not stay with it has no other descriptors for it either. Linux 5.11.
                const CLOSE_RANGE_CLOEXEC: libc::c_int = 4;
                libc::syscall(libc::SYS_close_range, 3, libc::c_uint::MAX, CLOSE_RANGE_CLOEXEC);
            }
            match standing {
                Standing::Session => {
                    check(libc::setsid())?;
                    // Not a terminal: then there is none.
                    libc::ioctl(0, libc::TIOCSCTTY, 0);
                }
                Standing::Foreground | Standing::Group { .. } => {
                    check(libc::setpgid(0, 0))?;
                    let terminal = match standing {
                        Standing::Group { terminal } => terminal,
                        _ => Some(0),
                    };
                    if let Some(terminal) = terminal {
                        let (mut ttou, mut old) = (std::mem::zeroed(), std::mem::zeroed());
                        libc::sigemptyset(&raw mut ttou);
                        libc::sigaddset(&raw mut ttou, libc::SIGTTOU);
                        libc::sigprocmask(libc::SIG_BLOCK, &raw const ttou, &raw mut old);
                        libc::tcsetpgrp(terminal, libc::getpid());
                        libc::sigprocmask(libc::SIG_SETMASK, &raw const old, std::ptr::null_mut());
                    }
                }
            }
        }
        hand(match &filter {
            Some(filter) => filter.install()?,
            None => None,
        })?;
        // Whatever has one of these numbers here would be closed by the execution, which is all that is left to do.
        for copy in [true, false] {
            for (index, (fd, number)) in (0..).zip(&given) {
                // SAFETY: the calls take numbers.
                unsafe {
                    if copy {
                        check(libc::dup3(*fd, HIGH + index, libc::O_CLOEXEC))?;
                    } else {
                        check(libc::dup2(HIGH + index, *number))?;
                    }
                }
            }
        }
        Ok(())
    };
    // SAFETY: between fork and exec only system calls are made, on memory that was there before; nothing is allocated.
    unsafe { command.pre_exec(prepare) };
}

/// Sends a descriptor.
pub(crate) fn hand_over(socket: &OwnedFd, descriptor: &OwnedFd) -> rustix::io::Result<()> {
    send(socket, b"l", Some(descriptor))
}

/// Sends bytes, and a descriptor with them.
pub(crate) fn send(socket: &OwnedFd, bytes: &[u8], descriptor: Option<&OwnedFd>) -> rustix::io::Result<()> {
    let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(1))];
    let mut control = SendAncillaryBuffer::new(&mut space);
    let descriptors = descriptor.map(|descriptor| [descriptor.as_fd()]);
    if let Some(descriptors) = &descriptors {
        control.push(SendAncillaryMessage::ScmRights(descriptors));
    }
    rustix::net::sendmsg(socket, &[IoSlice::new(bytes)], &mut control, SendFlags::NOSIGNAL).map(drop)
}

/// Receives the descriptor that was sent, if one was.
fn take_over(socket: &OwnedFd) -> rustix::io::Result<Option<OwnedFd>> {
    match receive(socket, &mut [0], RecvFlags::DONTWAIT) {
        Err(rustix::io::Errno::AGAIN) => Ok(None),
        other => other.map(|(_, descriptor)| descriptor),
    }
}

/// Receives bytes, and the descriptor that came with them.
pub(crate) fn receive(
    socket: &OwnedFd,
    bytes: &mut [u8],
    flags: RecvFlags,
) -> rustix::io::Result<(usize, Option<OwnedFd>)> {
    let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(1))];
    let mut control = RecvAncillaryBuffer::new(&mut space);
    let flags = flags | RecvFlags::CMSG_CLOEXEC;
    let count = rustix::net::recvmsg(socket, &mut [IoSliceMut::new(bytes)], &mut control, flags)?.bytes;
    let mut found = None;
    for message in control.drain() {
        if let RecvAncillaryMessage::ScmRights(descriptors) = message {
            found = descriptors.into_iter().next();
        }
    }
    Ok((count, found))
}

/// What came of a start: the pid of the program, and the listener of its filter.
pub type Begun = (i32, Option<OwnedFd>);

/// Who starts a program by way of another process: its own end of what joins them, and that process'.
///
/// # Errors
/// Those of socketpair(2).
pub fn channel() -> rustix::io::Result<(OwnedFd, OwnedFd)> {
    rustix::net::socketpair(AddressFamily::UNIX, SocketType::SEQPACKET, SocketFlags::CLOEXEC, None)
}

/// Tells whoever waits in [`hear`] what came of a start.
///
/// # Errors
/// Those of sendmsg(2).
pub fn tell(socket: &OwnedFd, begun: &io::Result<Begun>) -> rustix::io::Result<()> {
    let (pid, errno, listener) = match begun {
        Ok((pid, listener)) => (*pid, 0, listener.as_ref()),
        Err(error) => (0, error.raw_os_error().unwrap_or(libc::EINVAL), None),
    };
    let words = [pid.to_ne_bytes(), errno.to_ne_bytes()].concat();
    send(socket, &words, listener)
}

/// Waits for what came of a start, and for the end of all who could tell it.
///
/// # Errors
/// The error that was told; ECHILD if nobody told anything.
pub fn hear(socket: &OwnedFd) -> io::Result<Begun> {
    let mut told = None;
    loop {
        let mut words = [0; 8];
        match receive(socket, &mut words, RecvFlags::empty()) {
            Err(rustix::io::Errno::INTR) => {}
            Err(error) => return Err(error.into()),
            Ok((8, listener)) => {
                let word = |at: usize| i32::from_ne_bytes([0, 1, 2, 3].map(|byte| words[at + byte]));
                told = Some(match word(4) {
                    0 => Ok((word(0), listener)),
                    errno => Err(io::Error::from_raw_os_error(errno)),
                });
            }
            Ok(_) => return told.unwrap_or_else(|| Err(rustix::io::Errno::CHILD.into())),
        }
    }
}

/// Becomes another program, an ELF file in memory, with one word as its arguments and one as its environment.
///
/// It gets the descriptors `keep`, in their order, from number 3 on, [`nowhere`](crate::own::nowhere) as the first three, and
/// no others.
/// Returns only if that fails; the process is then good for nothing but to end.
///
/// Source: `execveat(2)` with AT_EMPTY_PATH, which needs no path and so no `/proc`.
pub fn become_program(
    elf: &[u8],
    name: &std::ffi::CStr,
    environment: &std::ffi::CStr,
    keep: &[i32],
) -> rustix::io::Errno {
    const MFD_EXEC: libc::c_uint = 0x10;
    const HIGH: i32 = 200;
    let run = || -> rustix::io::Result<()> {
        let arguments = [name.as_ptr(), std::ptr::null()];
        let variables = [environment.as_ptr(), std::ptr::null()];
        // SAFETY: calls that take numbers, or addresses of strings and arrays that live across them. Descriptors are
        // closed that others may own here; the contract says that nobody uses them any more.
        unsafe {
            let file = match check(libc::memfd_create(c"frost-keeper".as_ptr(), libc::MFD_CLOEXEC | MFD_EXEC))
            {
                // Kernels before 6.3 do not know the flag and need none.
                Err(rustix::io::Errno::INVAL) => {
                    check(libc::memfd_create(c"frost-keeper".as_ptr(), libc::MFD_CLOEXEC))?
                }
                other => other?,
            } as i32;
            // A file in memory may be no longer than others (`generic_write_check_limits`, mm/filemap.c), and whoever tries gets a
            // signal that ends it.
            let limit = rustix::process::getrlimit(rustix::process::Resource::Fsize);
            let most = rustix::process::Rlimit { current: limit.maximum, ..limit };
            rustix::process::setrlimit(rustix::process::Resource::Fsize, most)?;
            let mut rest = elf;
            while !rest.is_empty() {
                let count = check(libc::write(file, rest.as_ptr().cast(), rest.len()) as i64)?;
                rest = &rest[count as usize..];
            }
            let null = crate::own::nowhere()?.into_raw_fd();
            // Out of the way of the numbers that they get.
            let mut high = Vec::with_capacity(keep.len() + 1);
            for fd in keep.iter().chain([&file]) {
                high.push(check(libc::fcntl(*fd, libc::F_DUPFD_CLOEXEC, HIGH))? as i32);
            }
            for number in 0..3 {
                check(libc::dup2(null, number))?;
            }
            let mut number = 3;
            for fd in &high {
                check(libc::dup2(*fd, number))?;
                number += 1;
            }
            let file = number - 1;
            check(libc::fcntl(file, libc::F_SETFD, libc::FD_CLOEXEC))?;
            libc::syscall(libc::SYS_close_range, number, libc::c_uint::MAX, 0);
            check(libc::syscall(
                libc::SYS_execveat,
                file,
                c"".as_ptr(),
                arguments.as_ptr(),
                variables.as_ptr(),
                libc::AT_EMPTY_PATH,
            ))?;
        }
        Ok(())
    };
    run().err().unwrap_or(rustix::io::Errno::NOEXEC)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_refused_call_gets_its_error_and_no_other_does() {
        let filter = Filter::refusing(&[crate::seccomp::Refusal {
            number: libc::SYS_uname as u32,
            errno: libc::EPERM,
            unless: None,
        }]);
        let mut command = Command::new("sh");
        command.args(["-c", "! uname 2>/dev/null && echo $$ > /dev/null"]);
        // Whoever may not install one without no_new_privs cannot test it.
        match start(&mut command, Standing::Group { terminal: None }, Some(filter), &[], Vec::new()) {
            Ok((mut child, _)) => assert!(child.wait().unwrap().success()),
            Err(error) => assert_eq!(error.raw_os_error(), Some(libc::EACCES)),
        }
    }

    #[test]
    fn what_cannot_be_executed_is_told_by_its_error() {
        let mut command = Command::new("/nonexistent/program");
        let error = start(&mut command, Standing::Session, None, &[], Vec::new()).unwrap_err();
        assert_eq!(error.raw_os_error(), Some(libc::ENOENT));
    }
}
