//! What a keeper noted of filters that its program installed, as read from its file.

use crate::protocol::{NOTE_MAGIC, NOTE_WORDS};

/// A call that was to install a filter. Whether it did, only a count of the thread's filters tells.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Note {
    /// The thread that made it, as the keeper sees it.
    pub tid: i32,
    /// Its process.
    pub process: i32,
    /// The parent of its process.
    pub parent: i32,
    /// How many filters the thread had before.
    pub before: u32,
    /// Flags as of seccomp(2).
    pub flags: u32,
    /// The filter's instructions, 8 bytes each.
    pub code: Vec<u8>,
}

impl Note {
    /// Whether all threads of the process were to get it, and those that the thread had.
    pub fn for_all(&self) -> bool {
        const TSYNC: u32 = 1;
        self.flags & TSYNC != 0
    }
}

/// Reads the notes in their order, up to one that is damaged.
pub fn read(mut bytes: &[u8]) -> Vec<Note> {
    let mut notes = Vec::new();
    loop {
        let word = |index: usize| -> Option<u32> {
            let word = bytes.get(index * 4..index * 4 + 4)?;
            Some(u32::from_le_bytes(word.try_into().ok()?))
        };
        let words: Option<Vec<u32>> = (0..NOTE_WORDS).map(word).collect();
        let Some([NOTE_MAGIC, tid, process, parent, before, flags, count, _]) = words.as_deref() else {
            return notes;
        };
        let end = NOTE_WORDS * 4 + *count as usize * 8;
        let Some(code) = bytes.get(NOTE_WORDS * 4..end) else { return notes };
        notes.push(Note {
            tid: *tid as i32,
            process: *process as i32,
            parent: *parent as i32,
            before: *before,
            flags: *flags,
            code: code.to_vec(),
        });
        bytes = &bytes[end..];
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn notes_are_read_up_to_one_that_is_cut_short() {
        let mut bytes = Vec::new();
        for (tid, count) in [(5u32, 1u32), (6, 2)] {
            for word in [NOTE_MAGIC, tid, 4, 2, 1, 1, count, 0] {
                bytes.extend(word.to_le_bytes());
            }
            bytes.resize(bytes.len() + count as usize * 8, 7);
        }
        let notes = read(&bytes);
        assert_eq!(notes.len(), 2);
        assert_eq!((notes[0].tid, notes[0].process, notes[0].before), (5, 4, 1));
        assert!(notes[1].for_all() && notes[1].code == [7; 16]);
        assert_eq!(read(&bytes[..bytes.len() - 1]).len(), 1);
        assert_eq!(read(b"anything else that is there, and long enough"), []);
    }
}
