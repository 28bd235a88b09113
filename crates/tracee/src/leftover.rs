//! What a thaw leaves in a process when it dies after it opened the gate: its control area and two descriptors.
//!
//! The process goes on with them unharmed. They are recognised by the name of the area's memfd and by the magic word at
//! the end of its first page, in front of which stand the two descriptors.

use crate::inject::{Area, Error, Job};
use crate::restart::{RIP, RSP};
use crate::seize::StoppedProcess;
use frost_abi::tape::Entry;
use frost_sys::memory;
use frost_sys::proc::Mapping;

/// The name of the memfd of a control area.
pub const CONTROL_NAME: &str = "frost-thaw";
/// The bytes at the end of the first page of a control area.
pub const CONTROL_MAGIC: [u8; 16] = *b"frost thaw area\0";

const PAGE: u64 = 4096;

/// Returns the end of the first page of a control area: two descriptors of the thaw, and the magic word.
pub fn control_tail(descriptors: [i32; 2]) -> [u8; 24] {
    let mut tail = [0; 24];
    tail[..4].copy_from_slice(&descriptors[0].to_le_bytes());
    tail[4..8].copy_from_slice(&descriptors[1].to_le_bytes());
    tail[8..].copy_from_slice(&CONTROL_MAGIC);
    tail
}

/// Finds a control area: its start, its end, and the descriptors.
fn find(pid: i32, mappings: &[Mapping]) -> Option<(u64, u64, [i32; 2])> {
    let named = |mapping: &&Mapping| mapping.name == format!("/memfd:{CONTROL_NAME} (deleted)").as_bytes();
    let first = mappings.iter().find(named)?;
    let mut end = first.end;
    for mapping in mappings.iter().filter(named) {
        if mapping.start == end {
            end = mapping.end;
        }
    }
    let mut tail = [0; 24];
    let read = memory::read(pid, first.start + PAGE - 24, &mut tail).ok()?;
    if !first.execute || read != tail.len() || tail[8..] != CONTROL_MAGIC {
        return None;
    }
    let number = |at: usize| i32::from_le_bytes([tail[at], tail[at + 1], tail[at + 2], tail[at + 3]]);
    Some((first.start, end, [number(0), number(4)]))
}

/// Returns whether a process has the control area of a thaw that died.
pub fn is_left_in(pid: i32, mappings: &[Mapping]) -> bool {
    find(pid, mappings).is_some()
}

/// Takes the control area of a thaw that died out of `process`; tells whether there was one.
///
/// # Errors
/// As for [`Area::map`]; the process is then as it was.
pub fn sweep(process: &StoppedProcess, mappings: &[Mapping]) -> Result<bool, Error> {
    let Some((start, end, descriptors)) = find(process.through, mappings) else { return Ok(false) };
    let inside = |address: u64| (start..end).contains(&address);
    if process.threads.iter().any(|thread| inside(thread.registers[RIP]) || inside(thread.registers[RSP])) {
        // It is still on its way out; it will be gone from there in microseconds.
        return Ok(false);
    }
    let mut area = Area::map(process, mappings)?;
    let mut job = Job::new(0);
    for fd in descriptors {
        job.tape.push(Entry::call(libc::SYS_close as u64, [fd as u64, 0, 0, 0, 0, 0]));
    }
    job.tape.push(Entry::call(libc::SYS_munmap as u64, [start, end - start, 0, 0, 0, 0]));
    area.run(&mut [job])?;
    area.unmap()?;
    Ok(true)
}
