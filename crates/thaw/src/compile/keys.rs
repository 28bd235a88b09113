//! Protection keys (pkeys(7)).

use super::Compiler;
use super::memory::protection_bits;
use crate::script::{Script, Subject};
use crate::stage::Stage;
use frost_model::Process;
use frost_model::rm::{Protection, ProtectionKeys};

/// Whether memory gets its key by a call of its own: that which may only be executed gets one from the kernel.
pub(super) fn is_explicit(protection: Protection, keys: ProtectionKeys) -> bool {
    protection.key != 0 && !(protection.is_execute_only() && protection.key == keys.execute_only)
}

impl Compiler<'_> {
    /// Allocates the keys that a process has, and those that its memory has still and it has freed, each under its
    /// number: the kernel gives the lowest that is free (`mm_pkey_alloc`, arch/x86/include/asm/pkeys.h). Returns the highest.
    pub(super) fn allocate_keys(&mut self, script: &mut Script, index: usize, process: &Process) -> u32 {
        let (keys, regions) = (process.rm.keys, &process.rm.regions);
        let used = regions.iter().map(|region| region.protection.key).max().unwrap_or(0);
        let highest = used.max(keys.allocated.checked_ilog2().unwrap_or(0));
        let of_kernel =
            regions.iter().find(|region| region.protection.key != 0 && !is_explicit(region.protection, keys));
        for key in 1..=highest {
            self.about(script, index, Stage::Advise, Subject::Named("pkey_alloc"));
            if let Some(region) = of_kernel.filter(|_| key == keys.execute_only) {
                let bits = protection_bits(region.protection);
                script.call(libc::SYS_mprotect, &[region.range.start(), region.range.len_bytes(), bits]);
            } else {
                // With all rights, until each thread gets its own.
                script.call(libc::SYS_pkey_alloc, &[0, 0]);
            }
        }
        highest
    }

    /// Frees those up to `highest` that the process does not have any more, though its memory may.
    pub(super) fn free_keys(&mut self, script: &mut Script, index: usize, process: &Process, highest: u32) {
        let keys = process.rm.keys;
        for key in (1..=highest).filter(|key| !keys.has(*key) && *key != keys.execute_only) {
            self.about(script, index, Stage::Advise, Subject::Named("pkey_free"));
            script.call(libc::SYS_pkey_free, &[key.into()]);
        }
    }
}
