//! Where our own areas lie in the address spaces of the image: at addresses that are free in every process.

use crate::error::Error;
use frost_model::Checkpoint;
use frost_model::rm::Attachment;

/// The lowest address considered: above the stub and above what low memory is special for.
const LOWEST: u64 = 1 << 32;
/// The address behind the highest considered: the stub's own stack and vDSO lie above, at random addresses.
const HIGHEST: u64 = 0x7000_0000_0000;
/// Free space left around each area.
const MARGIN: u64 = 1 << 20;

/// Ranges of addresses that no region of any process touches.
#[derive(Debug)]
pub(crate) struct Gaps {
    /// Start and end, by ascending address.
    gaps: Vec<(u64, u64)>,
}

impl Gaps {
    /// Finds the gaps that all processes have in common.
    pub(crate) fn of(checkpoint: &Checkpoint) -> Self {
        let mut taken: Vec<(u64, u64)> = checkpoint
            .processes
            .iter()
            .flat_map(|process| &process.rm.regions)
            .map(|region| (region.range.start(), region.range.end()))
            .collect();
        taken.sort_unstable();
        let mut gaps = Vec::new();
        let mut free_from = LOWEST;
        for (start, end) in taken {
            if start.saturating_sub(MARGIN) > free_from && free_from < HIGHEST {
                gaps.push((free_from, (start - MARGIN).min(HIGHEST)));
            }
            free_from = free_from.max(end.saturating_add(MARGIN));
        }
        if free_from < HIGHEST {
            gaps.push((free_from, HIGHEST));
        }
        Self { gaps }
    }

    /// Takes `len_bytes`, a multiple of the page size, out of a gap.
    pub(crate) fn take(&mut self, len_bytes: u64) -> Result<u64, Error> {
        let gap = self
            .gaps
            .iter_mut()
            .find(|(start, end)| end.saturating_sub(*start) >= len_bytes)
            .ok_or(Error::NoRoom { len_bytes })?;
        let start = gap.0;
        gap.0 = (start + len_bytes + MARGIN).min(gap.1);
        Ok(start)
    }
}

/// Returns whether any region of the image shows dataspace `index`, and whether one of them reserves no swap.
pub(crate) fn attached(checkpoint: &Checkpoint, index: usize) -> Option<bool> {
    let mut found = None;
    for region in checkpoint.processes.iter().flat_map(|process| &process.rm.regions) {
        if let Attachment::Dataspace { dataspace, .. } = region.attachment
            && dataspace.index() == index
        {
            found = Some(found.unwrap_or(false) || region.flags.no_reserve);
        }
    }
    found
}
