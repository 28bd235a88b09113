//! The control groups of the program: whether its memory ran out, and their end.

use crate::raw;

/// How many there may be: one a resource, and those of a new budget before the old ones are empty.
pub(crate) const GROUPS: usize = 4;
/// The longest name of a directory, NAME_MAX.
const NAME_BYTES: usize = 255;
/// In front of a name.
const ABOVE: &[u8] = b"../";
/// How long to wait for what is still in a group; a process that was collected leaves it a little later.
const TRIES: i32 = 100;

/// One group.
#[derive(Clone, Copy)]
pub(crate) struct Group {
    directory: i32,
    /// `../NAME`, ended by NUL.
    path: [u8; ABOVE.len() + NAME_BYTES + 1],
    /// The file that counts how often something was ended for want of memory; -1 if it limits something else.
    events: i32,
    /// What is polled to hear of it.
    pub(crate) news: i32,
    /// For what it is polled.
    pub(crate) what: i16,
}

pub(crate) const NONE: Group =
    Group { directory: -1, path: [0; ABOVE.len() + NAME_BYTES + 1], events: -1, news: -1, what: raw::POLLIN };

impl Group {
    /// Begins to watch a group.
    pub(crate) fn watch(directory: i32, name: &[u8]) -> Option<Self> {
        if name.is_empty() || name.len() > NAME_BYTES || name.contains(&b'/') || name.contains(&0) {
            return None;
        }
        let mut group = Self { directory, ..NONE };
        group.path[..ABOVE.len()].copy_from_slice(ABOVE);
        group.path[ABOVE.len()..ABOVE.len() + name.len()].copy_from_slice(name);
        if let Ok(events) = raw::open(directory, c"memory.events", false) {
            // Version 2 tells of a change once it was read (`kernfs_generic_poll`).
            (group.events, group.news, group.what) = (events, events, raw::POLLPRI);
        } else if let Ok(events) = raw::open(directory, c"memory.oom_control", false) {
            (group.events, group.news) = (events, announced(directory, events).unwrap_or(-1));
        }
        Some(group)
    }

    pub(crate) fn is_one(&self) -> bool {
        self.directory >= 0
    }

    /// Returns whether something in it was ended for want of memory.
    pub(crate) fn starved(&self) -> bool {
        if self.events < 0 {
            return false;
        }
        if self.news != self.events {
            let _ = raw::read(self.news, &mut [0; 8]);
        }
        let mut text = [0; 512];
        let count = raw::read_again(self.events, &mut text).unwrap_or(0);
        let mut lines = text[..count].split(|byte| *byte == b'\n');
        lines.any(|line| line.strip_prefix(b"oom_kill ").is_some_and(|count| count != b"0"))
    }

    /// Removes it, once it is empty, and forgets it.
    pub(crate) fn release(&mut self) {
        let path = core::ffi::CStr::from_bytes_until_nul(&self.path).unwrap_or(c"");
        for _ in 0..TRIES {
            match raw::remove_directory(self.directory, path) {
                Err(raw::EBUSY) => raw::poll(&mut [], 1),
                // Whoever uses frost next finds what is left.
                _ => break,
            }
        }
        for fd in [self.directory, self.events, self.news] {
            if fd >= 0 {
                raw::close(fd);
            }
        }
        *self = NONE;
    }
}

/// Asks version 1 to tell when memory lacks: `cgroup.event_control` takes a counter and the file in question.
fn announced(directory: i32, events: i32) -> Option<i32> {
    let counter = raw::counter().ok()?;
    let mut text = [b' '; 24];
    digits(&mut text[..11], counter);
    digits(&mut text[12..23], events);
    text[23] = 0;
    let control = raw::open(directory, c"cgroup.event_control", true).ok()?;
    let written = raw::write(control, &text[..23]);
    raw::close(control);
    written.ok().map(|_| counter)
}

/// Writes a number to the end of `text`, with zeros in front of it.
fn digits(text: &mut [u8], number: i32) {
    let mut rest = number.unsigned_abs();
    for place in text.iter_mut().rev() {
        *place = b'0' + (rest % 10) as u8;
        rest /= 10;
    }
}
