//! Notices: a program that wants to is told before it is frozen, and when it was thawed.
//!
//! `frost run --notices` gives the program one end of a pair of sockets, number [`PROGRAMS`], and names it in the
//! environment ([`VARIABLE`]). The other end, number [`OURS`], stays in the program too: so both are frozen and thawed
//! with it as any pair of sockets is, with what waits in them, and no process must live to hold it. A command of frost
//! that has something to tell borrows it (pidfd_getfd(2)).
//!
//! All that the program says stays in the queue, where each command looks at it without taking it; so a command may be
//! killed at any moment. Only when the queue grows long is it made anew, what is still valid first.

use frost_sys::pidfd;
use rustix::event::epoll;
use rustix::fd::{AsFd, OwnedFd};
use rustix::io::{Errno, Result};
use rustix::net::{AddressFamily, RecvFlags, SendFlags, SocketFlags, SocketType};
use rustix::process::{Pid, PidfdFlags};
use std::time::{Duration, Instant};

/// The variable of the environment that holds the number of the program's end.
pub const VARIABLE: &str = "FROST_NOTICES";
/// The program's end.
pub const PROGRAMS: i32 = 3;
/// The end that commands of frost use.
pub const OURS: i32 = 4;
/// How long a program may take to become quiet.
pub const QUIET_WITHIN: Duration = Duration::from_secs(5);
/// Above this length the queue is made anew.
const LONG_BYTES: usize = 16 << 10;
/// The most that is looked at.
const MOST_BYTES: usize = 64 << 10;

/// Makes the pair; the program's end first.
///
/// # Errors
/// Those of socketpair(2).
pub fn pair() -> Result<(OwnedFd, OwnedFd)> {
    rustix::net::socketpair(AddressFamily::UNIX, SocketType::STREAM, SocketFlags::CLOEXEC, None)
}

/// What became of asking a program to be quiet.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Quiet {
    /// It did not ask to be told.
    Unasked,
    /// It says that it is.
    Ready,
    /// It did not answer within [`QUIET_WITHIN`].
    Late,
}

/// How a program was thawed.
#[derive(Clone, Copy, Debug)]
pub struct Thawed {
    /// The version of its image.
    pub version: u32,
    /// 0 for the one that goes on as the program; copies count from 1.
    pub index: u32,
    /// Random bytes that no other thaw has got.
    pub seed: [u8; 32],
}

/// The end of a running program that commands use.
#[derive(Debug)]
pub struct Notices {
    ours: OwnedFd,
    /// The program's own end: to put back what it said.
    programs: OwnedFd,
}

/// What waits in the queue.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
struct Said {
    freezing: bool,
    thawed: bool,
    /// How often it said that it is ready.
    ready: usize,
    len_bytes: usize,
}

impl Said {
    /// Reads lines; one that is not complete yet is not looked at.
    fn of(bytes: &[u8]) -> Self {
        let mut said = Self { len_bytes: bytes.len(), ..Self::default() };
        let complete = bytes.iter().rposition(|byte| *byte == b'\n').map_or(0, |at| at + 1);
        for line in bytes[..complete].split(|byte| *byte == b'\n') {
            match line {
                b"freezing" => said.freezing = true,
                b"thawed" => said.thawed = true,
                b"ready" => said.ready += 1,
                // Words of a later version.
                _ => {}
            }
        }
        said
    }
}

impl Notices {
    /// Borrows the ends from a program; `None` if it has closed them, or is gone.
    pub fn of(root: i32) -> Option<Self> {
        let root = rustix::process::pidfd_open(Pid::from_raw(root)?, PidfdFlags::empty()).ok()?;
        let borrow = |number| {
            let fd = pidfd::pidfd_getfd(root.as_fd(), number).ok()?;
            let is_ours = rustix::net::sockopt::socket_domain(&fd) == Ok(AddressFamily::UNIX)
                && rustix::net::sockopt::socket_type(&fd) == Ok(SocketType::STREAM);
            is_ours.then_some(fd)
        };
        Some(Self { ours: borrow(OURS)?, programs: borrow(PROGRAMS)? })
    }

    fn said(&self) -> Said {
        let mut bytes = vec![0; MOST_BYTES];
        let looked = rustix::net::recv(&self.ours, &mut bytes, RecvFlags::PEEK | RecvFlags::DONTWAIT);
        bytes.truncate(looked.map_or(0, |(count, _)| count));
        Said::of(&bytes)
    }

    /// Tells the program that it will be frozen, if it asked for that, and waits until it is quiet.
    pub fn freezing(&self) -> Quiet {
        let before = self.said();
        if !before.freezing {
            return Quiet::Unasked;
        }
        let news = epoll::create(epoll::CreateFlags::CLOEXEC);
        // Of what waits already nothing is told again.
        let flags = epoll::EventFlags::IN | epoll::EventFlags::ET;
        let armed = news.and_then(|news| {
            epoll::add(&news, &self.ours, epoll::EventData::new_u64(0), flags)?;
            Ok(news)
        });
        let (Ok(news), Ok(())) = (armed, self.tell(&format!("freezing {}\n", QUIET_WITHIN.as_millis())))
        else {
            return Quiet::Late;
        };
        let began = Instant::now();
        while self.said().ready <= before.ready {
            let left = QUIET_WITHIN.saturating_sub(began.elapsed());
            let Ok(left) = rustix::event::Timespec::try_from(left) else { return Quiet::Late };
            if (left.tv_sec, left.tv_nsec) == (0, 0) {
                return Quiet::Late;
            }
            let mut events = [const { std::mem::MaybeUninit::uninit() }; 1];
            match epoll::wait(&news, &mut events, Some(&left)) {
                Ok(_) | Err(Errno::INTR) => {}
                Err(_) => return Quiet::Late,
            }
        }
        if before.len_bytes > LONG_BYTES {
            self.shorten();
        }
        Quiet::Ready
    }

    /// Tells a program that was told of a freeze that it goes on without one.
    pub fn goes_on(&self) {
        let _ = self.tell("resumed\n");
    }

    /// Tells the program how it was thawed, if it asked for that.
    pub fn thawed(&self, thawed: Thawed) {
        if self.said().thawed {
            let Thawed { version, index, seed } = thawed;
            let kind = if index == 0 { "original" } else { "copy" };
            let seed: String = seed.iter().map(|byte| format!("{byte:02x}")).collect();
            let _ = self.tell(&format!("thawed {version} {kind} {index} {seed}\n"));
        }
    }

    fn tell(&self, line: &str) -> Result<()> {
        let flags = SendFlags::DONTWAIT | SendFlags::NOSIGNAL;
        rustix::net::send(&self.ours, line.as_bytes(), flags).map(drop)
    }

    /// Takes what was said out of the queue, when what is valid of it stands behind it once more.
    fn shorten(&self) {
        let said = self.said();
        let mut again = String::new();
        for (valid, word) in [(said.freezing, "freezing\n"), (said.thawed, "thawed\n")] {
            again.push_str(if valid { word } else { "" });
        }
        let flags = SendFlags::DONTWAIT | SendFlags::NOSIGNAL;
        if rustix::net::send(&self.programs, again.as_bytes(), flags) == Ok(again.len()) {
            let _ = rustix::net::recv(&self.ours, &mut vec![0; said.len_bytes], RecvFlags::DONTWAIT);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn ends() -> (Notices, OwnedFd) {
        let (programs, ours) = pair().unwrap();
        let copy = programs.try_clone().unwrap();
        (Notices { ours, programs: copy }, programs)
    }

    fn say(fd: &OwnedFd, text: &str) {
        assert_eq!(rustix::io::write(fd, text.as_bytes()), Ok(text.len()));
    }

    fn hear(fd: &OwnedFd) -> String {
        let mut bytes = [0; 256];
        let (count, _) = rustix::net::recv(fd, &mut bytes, RecvFlags::DONTWAIT).unwrap();
        String::from_utf8_lossy(&bytes[..count]).into_owned()
    }

    #[test]
    fn who_did_not_ask_is_not_told() {
        let (notices, program) = ends();
        say(&program, "something of a later version\nthaw");
        assert_eq!(notices.freezing(), Quiet::Unasked);
        notices.thawed(Thawed { version: 1, index: 0, seed: [0; 32] });
        assert!(rustix::net::recv(&program, &mut [0; 1], RecvFlags::DONTWAIT).is_err());
    }

    #[test]
    fn who_asked_is_told_again_and_again() {
        let (notices, program) = ends();
        say(&program, "freezing\nthawed\n");
        for version in 1..4 {
            std::thread::scope(|scope| {
                let answer = scope.spawn(|| {
                    let mut word = [0; 14];
                    let (count, _) = rustix::net::recv(&program, &mut word, RecvFlags::WAITALL).unwrap();
                    assert_eq!(&word[..count], b"freezing 5000\n");
                    say(&program, "ready\n");
                });
                assert_eq!(notices.freezing(), Quiet::Ready);
                answer.join().unwrap();
            });
            notices.thawed(Thawed { version, index: version - 1, seed: [0xab; 32] });
            let kind = if version == 1 { "original" } else { "copy" };
            let seed = "ab".repeat(32);
            assert_eq!(hear(&program), format!("thawed {version} {kind} {} {seed}\n", version - 1));
        }
    }

    #[test]
    fn a_long_queue_is_made_anew_and_says_the_same() {
        let (notices, program) = ends();
        say(&program, "freezing\n");
        say(&program, &"ready\n".repeat(1000));
        notices.shorten();
        let said = notices.said();
        assert_eq!(said, Said { freezing: true, thawed: false, ready: 0, len_bytes: 9 });
    }
}
