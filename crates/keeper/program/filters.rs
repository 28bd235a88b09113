//! Notes of the filters that the program installs, since the kernel gives them back to the administrator only.
//!
//! The program's first filter, the runtime's own, tells us of each call that installs another one, and holds it up until
//! we let it go on. What it will install is read from the program's memory and appended to a file. Nobody believes such
//! a note alone: the call may fail, and whoever reads the notes compares them with how many filters a thread has.

use crate::protocol::{FILTERS_NOTE, NOTE_MAGIC, NOTE_WORDS};
use crate::raw::{self, Area, Notice};

const PRCTL: i32 = 157;
const SECCOMP: i32 = 317;
/// prctl(PR_SET_SECCOMP, SECCOMP_MODE_FILTER, program).
const PR_SET_SECCOMP: u64 = 22;
const SECCOMP_MODE_FILTER: u64 = 2;
/// seccomp(SECCOMP_SET_MODE_FILTER, flags, program).
const SECCOMP_SET_MODE_FILTER: u64 = 1;
/// BPF_MAXINSNS.
const MOST_INSTRUCTIONS: usize = 4096;
const HEAD_BYTES: usize = NOTE_WORDS * 4;

static NOTE: Area<[u8; HEAD_BYTES + MOST_INSTRUCTIONS * 8]> = Area::new([0; HEAD_BYTES + MOST_INSTRUCTIONS * 8]);

/// The place where notes are made.
pub(crate) struct Notes {
    listener: i32,
    /// Where the file lies that takes them; -1 if nobody freezes the program by a name, as a copy.
    directory: i32,
    /// That file, once there is something to be noted: few programs install a filter.
    file: i32,
    note: &'static mut [u8],
}

impl Notes {
    /// Begins with what a listener, which may be -1, will tell of.
    pub(crate) fn begin(listener: i32, directory: i32) -> Self {
        let mut notes = Self { listener: -1, directory: -1, file: -1, note: NOTE.lend() };
        notes.listen(listener, directory);
        notes
    }

    /// Listens to another program from now on, and forgets what the one before had.
    pub(crate) fn listen(&mut self, listener: i32, directory: i32) {
        for fd in [self.listener, self.file] {
            if fd >= 0 {
                raw::close(fd);
            }
        }
        (self.listener, self.directory, self.file) = (listener, directory, -1);
        if directory >= 0 {
            raw::remove(directory, FILTERS_NOTE);
        }
    }

    /// The descriptor to poll, -1 if there is none.
    pub(crate) fn fd(&self) -> i32 {
        self.listener
    }

    /// Notes what a call will install, and lets it go on.
    pub(crate) fn hear(&mut self, events: i16) {
        if events & raw::POLLIN == 0 {
            // Nobody is left who has the filter.
            raw::close(self.listener);
            self.listener = -1;
            return;
        }
        let Some(notice) = raw::next_notice(self.listener) else { return };
        if let Some(length) = self.describe(&notice) {
            if self.file < 0 && self.directory >= 0 {
                self.file = raw::create(self.directory, FILTERS_NOTE).unwrap_or(-1);
            }
            if self.file >= 0 {
                // One that is cut short is noticed by whoever reads it.
                let _ = raw::write(self.file, &self.note[..length]);
            }
        }
        raw::let_go_on(self.listener, &notice);
    }

    /// Writes the note of a call and returns its length; `None` if it installs nothing, or cannot be read.
    fn describe(&mut self, notice: &Notice) -> Option<usize> {
        let [first, second, program, ..] = notice.arguments;
        let flags = match notice.nr {
            SECCOMP if first as u32 as u64 == SECCOMP_SET_MODE_FILTER => second as u32,
            PRCTL if first as u32 as u64 == PR_SET_SECCOMP && second == SECCOMP_MODE_FILTER => 0,
            _ => return None,
        };
        let tid = notice.tid as i32;
        // `struct sock_fprog`: how many, and where.
        let mut head = [0; 16];
        if !raw::read_memory(tid, program, &mut head) {
            return None;
        }
        let count = usize::from(u16::from_le_bytes([head[0], head[1]]));
        let mut address = [0; 8];
        address.copy_from_slice(&head[8..]);
        if count == 0 || count > MOST_INSTRUCTIONS {
            return None;
        }
        let end = HEAD_BYTES + count * 8;
        if !raw::read_memory(tid, u64::from_le_bytes(address), &mut self.note[HEAD_BYTES..end]) {
            return None;
        }
        let mut status = [0; 4096];
        let length = raw::read_of(tid, b"/status\0", &mut status);
        let field = |name: &[u8]| number_behind(&status[..length], name);
        let words = [
            NOTE_MAGIC,
            notice.tid,
            field(b"Tgid:")?,
            field(b"PPid:")?,
            field(b"Seccomp_filters:")?,
            flags,
            count as u32,
            0,
        ];
        for (place, word) in self.note[..HEAD_BYTES].chunks_exact_mut(4).zip(words) {
            place.copy_from_slice(&word.to_le_bytes());
        }
        Some(end)
    }
}

/// The number in the line that begins with `name`.
fn number_behind(text: &[u8], name: &[u8]) -> Option<u32> {
    let line = text.split(|byte| *byte == b'\n').find(|line| line.starts_with(name))?;
    let digits = line[name.len()..].iter().filter(|byte| byte.is_ascii_digit());
    Some(digits.fold(0u32, |value, digit| value.wrapping_mul(10).wrapping_add(u32::from(digit - b'0'))))
}
