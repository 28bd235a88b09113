//! Incompressible memory, and the floors: writing it to a file, and reading it back into huge pages.

use frost_sys::own::Anonymous;
use std::fs::File;
use std::io::{self, Read, Write};
use std::path::Path;
use std::time::{Duration, Instant};

/// Maps `len_bytes` and fills them with what no compressor makes smaller.
pub(crate) fn incompressible(len_bytes: usize) -> io::Result<Anonymous> {
    let mut memory = Anonymous::map(len_bytes)?;
    // xorshift64*: as random as is needed here, and faster than the memory.
    let mut state = 0x9e37_79b9_7f4a_7c15_u64 ^ len_bytes as u64;
    for word in memory.chunks_exact_mut(8) {
        state ^= state >> 12;
        state ^= state << 25;
        state ^= state >> 27;
        word.copy_from_slice(&state.wrapping_mul(0x2545_f491_4f6c_dd1d).to_le_bytes());
    }
    Ok(memory)
}

/// Writes to so many percent of the pages of `memory`, evenly spread.
pub(crate) fn rewrite(memory: &mut [u8], percent: u32) {
    let mut due = 0;
    for page in memory.chunks_mut(4096) {
        due += percent;
        if due >= 100 {
            due -= 100;
            page[0] = page[0].wrapping_add(1);
        }
    }
}

/// The floor of a freeze: writes `memory` to a new file and syncs it.
pub(crate) fn write_and_sync(memory: &[u8], path: &Path) -> io::Result<Duration> {
    let began = Instant::now();
    let mut file = File::create_new(path)?;
    file.write_all(memory)?;
    file.sync_all()?;
    Ok(began.elapsed())
}

/// The floor of a thaw: reads the file into new memory, in huge pages where there are any.
pub(crate) fn read_into_huge_pages(path: &Path, len_bytes: usize) -> io::Result<Duration> {
    let began = Instant::now();
    let mut file = File::open(path)?;
    let mut memory = Anonymous::map(len_bytes)?;
    memory.prefer_huge_pages()?;
    file.read_exact(&mut memory)?;
    let elapsed = began.elapsed();
    std::hint::black_box(&memory[..]);
    Ok(elapsed)
}
