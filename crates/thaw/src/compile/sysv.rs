//! Segments of System V are attached by the root and inherited, but those of huge pages, which mremap(2) does not map a second
//! time, are attached by each process. What SEM_UNDO is to undo is noted by each process.

use super::Compiler;
use crate::error::Error;
use crate::script::{Script, Subject};
use crate::stage::Stage;
use frost_model::cap::MOST_VALUE;
use frost_model::rm::Attachment;
use frost_model::{ObjectId, PAGE_SIZE, Process};
use frost_sys::sysv;

impl Compiler<'_> {
    /// Gives each segment that is attached a place in the parking area, of which `total` bytes are taken: two, if it is
    /// attached both for writing and for reading only.
    pub(super) fn segment_offsets(&self, total: &mut u64) -> Result<Vec<[Option<u64>; 2]>, Error> {
        let mut offsets = vec![[None; 2]; self.checkpoint.objects.segments.len()];
        for region in self.checkpoint.processes.iter().flat_map(|process| &process.rm.regions) {
            let Attachment::Segment { segment, may_write, .. } = region.attachment else { continue };
            let Some(known) = self.checkpoint.objects.segments.get(segment.index()) else { continue };
            if known.huge_shift.is_some() {
                continue;
            }
            let place = &mut offsets[segment.index()][usize::from(!may_write)];
            if place.is_none() {
                *place = Some(*total);
                let len = known.len_bytes.next_multiple_of(PAGE_SIZE);
                *total = total.checked_add(len).ok_or(Error::TooLarge { what: "its shared memory" })?;
            }
        }
        Ok(offsets)
    }

    /// Returns where a segment is parked.
    pub(super) fn parked_segment(&self, segment: ObjectId, may_write: bool) -> Option<u64> {
        self.segments.get(segment.index()).and_then(|both| both[usize::from(!may_write)])
    }

    /// Attaches the segments where they are parked, in the root.
    pub(super) fn attach_segments(&mut self, script: &mut Script) {
        for (index, segment) in self.checkpoint.objects.segments.iter().enumerate() {
            for (read_only, place) in self.segments.get(index).copied().unwrap_or_default().iter().enumerate()
            {
                let Some(address) = *place else { continue };
                self.about(script, 0, Stage::Parking, Subject::Segment(segment.ipc.id));
                let flags = if read_only == 1 { sysv::SHM_RDONLY as u64 } else { 0 };
                script.call(libc::SYS_shmat, &[segment.ipc.id as u64, address, flags]);
            }
        }
    }

    /// Notes what the end of a process has to undo in sets of semaphores.
    ///
    /// An operation with SEM_UNDO notes its opposite. In a set that was made anew, and has the values that it had, another
    /// operation takes the first one back in the same call; in one that was left in place the end of the process has
    /// been undone already, so the operation is done again.
    pub(super) fn undo(&mut self, script: &mut Script, index: usize, process: &Process) {
        for (number, set) in self.checkpoint.objects.semaphores.iter().enumerate() {
            let undone = self.undone.get(number).copied().unwrap_or(false);
            for undo in set.undo.iter().filter(|undo| undo.pid == process.pd.relation.pid) {
                for (semaphore, adjust) in undo.adjust.iter().enumerate().filter(|(_, adjust)| **adjust != 0)
                {
                    let value = set.values.get(semaphore).copied().unwrap_or(0);
                    let operations = operations(semaphore as u16, value.into(), *adjust, undone);
                    let count = (operations.len() / OPERATION_BYTES) as u64;
                    self.about(script, index, Stage::Settings, Subject::Semaphores(set.ipc.id));
                    let address = self.control.blob(&operations);
                    // What another process has to give back first is waited for; after a time it fails by name.
                    let args = [set.ipc.id as u64, address, count, self.long_wait];
                    script.call(libc::SYS_semtimedop, &args);
                }
            }
        }
    }
}

/// The size of `struct sembuf`.
const OPERATION_BYTES: usize = 6;

fn operations(semaphore: u16, value: i32, adjust: i32, undone: bool) -> Vec<u8> {
    let operation = |change: i32, flags: i16| {
        let words = [semaphore.to_ne_bytes(), (change as i16).to_ne_bytes(), flags.to_ne_bytes()];
        words.concat()
    };
    // The least adjustment, -32768, is more than one operation can give.
    let parts = [adjust / 2, adjust - adjust / 2];
    let mut all = Vec::new();
    for part in parts.into_iter().filter(|part| *part != 0) {
        let noted = operation(-part, sysv::SEM_UNDO);
        let back = operation(part, 0);
        let back_first = if part > 0 { value + part <= MOST_VALUE } else { value + part >= 0 };
        match (undone, back_first) {
            (true, _) => all.extend(noted),
            (false, true) => all.extend([back, noted].concat()),
            (false, false) => all.extend([noted, back].concat()),
        }
    }
    all
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Value and adjustment after operations, of which each must be possible.
    fn after(bytes: &[u8], mut value: i32) -> (i32, i32) {
        let mut adjust = 0;
        for operation in bytes.chunks_exact(OPERATION_BYTES) {
            let word = |at: usize| i32::from(i16::from_ne_bytes([operation[at], operation[at + 1]]));
            value += word(2);
            assert!((0..=MOST_VALUE).contains(&value), "value {value}");
            if word(4) != 0 {
                adjust -= word(2);
            }
        }
        (value, adjust)
    }

    #[test]
    fn operations_note_the_adjustment_and_leave_the_value() {
        for value in [0, 1, 100, MOST_VALUE] {
            for adjust in [-MOST_VALUE - 1, -3, -1, 1, 2, MOST_VALUE] {
                assert_eq!(after(&operations(0, value, adjust, false), value), (value, adjust));
            }
        }
        assert_eq!(after(&operations(0, 5, 2, true), 7), (5, 2));
    }
}
