//! Builds tapes: knows at which address of the target each entry will lie.

use frost_abi::tape::{ENTRY_BYTES, Entry, RESULT_OFFSET};

/// A tape that will lie at a known address of a target.
#[derive(Clone, Debug)]
pub struct Tape {
    address: u64,
    entries: Vec<Entry>,
}

/// The place of an entry in its tape.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct EntryIndex(usize);

impl Tape {
    /// Starts an empty tape at `address`, a multiple of 8.
    pub fn at(address: u64) -> Self {
        Self { address, entries: Vec::new() }
    }

    /// Adds an entry.
    pub fn push(&mut self, entry: Entry) -> EntryIndex {
        self.entries.push(entry);
        EntryIndex(self.entries.len() - 1)
    }

    /// Adds call `nr` with up to six arguments, the others zero.
    pub fn call(&mut self, nr: libc::c_long, args: &[u64]) -> EntryIndex {
        let mut all = [0; 6];
        all[..args.len()].copy_from_slice(args);
        self.push(Entry::call(nr as u64, all))
    }

    /// Stores the result of `from` as argument `arg` of `to` before that is made.
    ///
    /// An entry has one such destination; a second call for the same `from` replaces the first.
    pub fn forward(&mut self, from: EntryIndex, to: EntryIndex, arg: usize) {
        self.entries[from.0].forward = self.address_of(to) + Entry::arg_offset(arg) as u64;
    }

    /// Goes on at `to` if `from` fails.
    pub fn on_error(&mut self, from: EntryIndex, to: EntryIndex) {
        self.entries[from.0].on_error = self.address_of(to);
    }

    /// Returns the address at which `index` will lie.
    pub fn address_of(&self, index: EntryIndex) -> u64 {
        self.address + (index.0 * ENTRY_BYTES) as u64
    }

    /// Returns the address at which the result of `index` will lie.
    pub fn result_address(&self, index: EntryIndex) -> u64 {
        self.address_of(index) + RESULT_OFFSET as u64
    }

    /// Returns the address of the first entry.
    pub fn address(&self) -> u64 {
        self.address
    }

    /// Returns the address behind the last entry so far.
    pub fn end(&self) -> u64 {
        self.address_of(EntryIndex(self.entries.len()))
    }

    /// Returns the entries.
    pub fn entries(&self) -> &[Entry] {
        &self.entries
    }

    /// Returns the place of the entry with that number, which must exist by the time it is used.
    pub fn index(&self, number: usize) -> EntryIndex {
        EntryIndex(number)
    }

    /// Returns an entry for change.
    pub fn entry_mut(&mut self, index: EntryIndex) -> &mut Entry {
        &mut self.entries[index.0]
    }

    /// Returns its bytes.
    pub fn to_bytes(&self) -> Vec<u8> {
        self.entries.iter().flat_map(|entry| entry.to_bytes()).collect()
    }

    /// Reads the result of `index` out of the tape's bytes as the target left them.
    pub fn result_in(bytes: &[u8], index: EntryIndex) -> Option<i64> {
        let at = index.0 * ENTRY_BYTES + RESULT_OFFSET;
        Some(i64::from_ne_bytes(bytes.get(at..at + 8)?.try_into().ok()?))
    }
}

impl EntryIndex {
    /// Returns the index as a number.
    pub const fn get(self) -> usize {
        self.0
    }
}
