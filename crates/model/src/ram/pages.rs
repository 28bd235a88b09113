//! Where the content of memory lies in the pack.

use serde::{Deserialize, Serialize};

/// The populated pages of a region or a dataspace; what no run covers is a hole, not zeros to be written.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Pages {
    /// Runs by ascending offset, disjoint.
    pub runs: Vec<Run>,
}

/// Consecutive bytes that lie consecutively in the pack too.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Run {
    /// Offset in the region, dataspace or file, in bytes; a multiple of the page size.
    pub offset: u64,
    /// Length in bytes; a multiple of the page size for memory, any for the end of a file.
    pub len_bytes: u64,
    /// Offset in the pack in bytes; a multiple of the page size.
    pub pack_offset: u64,
}

impl Pages {
    /// Returns how many bytes are stored.
    pub fn len_bytes(&self) -> u64 {
        self.runs.iter().map(|run| run.len_bytes).sum()
    }

    /// Returns whether nothing is stored.
    pub fn is_empty(&self) -> bool {
        self.runs.is_empty()
    }

    /// Adds bytes at the end, joining them with the last run if they continue it.
    pub fn push(&mut self, run: Run) {
        match self.runs.last_mut() {
            Some(last)
                if last.offset + last.len_bytes == run.offset
                    && last.pack_offset + last.len_bytes == run.pack_offset =>
            {
                last.len_bytes += run.len_bytes;
            }
            _ => self.runs.push(run),
        }
    }
}
