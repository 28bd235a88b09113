//! Descriptors get their numbers.

use super::{Compiler, When};
use crate::script::{Script, Subject};
use crate::stage::Stage;
use frost_model::Process;

impl Compiler<'_> {
    /// Duplicates the inherited descriptions to the numbers they have in `process`, and closes all others but those
    /// that the rest of the tape needs.
    pub(super) fn descriptors(&mut self, script: &mut Script, index: usize, process: &Process) {
        for descriptor in &process.pd.descriptors {
            let index_of = descriptor.description.index();
            let instead = self.numbers.instead.get(&(index_of, descriptor.fd.raw())).copied();
            let number = instead.or_else(|| self.numbers.descriptions.get(index_of).copied().flatten());
            // A description without a number is closed by its route.
            let Some(number) = number else { continue };
            let fd = descriptor.fd.raw();
            self.about(script, index, Stage::Descriptors, Subject::Fd(fd));
            if number == fd {
                let flags = if descriptor.close_on_exec { libc::FD_CLOEXEC } else { 0 };
                script.call(libc::SYS_fcntl, &[fd as u64, libc::F_SETFD as u64, flags as u64]);
                continue;
            }
            let flags = if descriptor.close_on_exec { libc::O_CLOEXEC } else { 0 };
            script.call(libc::SYS_dup3, &[number as u64, fd as u64, flags as u64]);
        }
        self.about(script, index, Stage::Descriptors, Subject::Named("descriptors of the thaw"));
        let mut keep = self.own_numbers(process);
        keep.extend([self.numbers.pack, self.numbers.gate, self.numbers.arrived]);
        keep.extend(self.numbers.met);
        keep.extend(self.numbers.files.values());
        keep.extend(self.numbers.dataspaces.iter().flatten());
        keep.extend(self.numbers.dataspaces_to_read.values());
        keep.extend(self.numbers.descriptions_shown.values());
        keep.extend(self.mapped_descriptions(process));
        close_all_but(script, keep);
        self.inner_calls(script, index, When::Placed);
    }

    /// Makes the calls about descriptors that only the process can make, those that are due.
    pub(super) fn inner_calls(&mut self, script: &mut Script, index: usize, when: When) {
        let due: Vec<_> = self.calls[index].iter().filter(|call| call.when == when).cloned().collect();
        let mut made = Vec::with_capacity(due.len());
        for call in &due {
            self.about(script, index, Stage::Descriptors, Subject::Fd(call.fd));
            let mut args = call.args;
            for (argument, bytes) in &call.data {
                args[*argument] = self.control.blob(bytes);
            }
            made.push(script.call(call.nr, &args));
        }
        for (at, call) in due.iter().enumerate() {
            if let Some((on, argument)) = call.result_to
                && let Some(to) = made.get(at + on)
            {
                script.tape.forward(made[at], *to, argument);
            }
        }
    }

    /// Whether a process has something to do when all others are there.
    pub(super) fn meets(&self, index: usize) -> bool {
        self.calls.get(index).is_some_and(|calls| calls.iter().any(|call| call.when == When::Met))
    }

    /// Waits until every process and thread is there, if that matters, and makes the calls that are about them. The directories
    /// are the builder's yet, whatever a process may have become the root of.
    pub(super) fn meet(&mut self, script: &mut Script, index: usize) {
        let Some(met) = self.numbers.met.filter(|_| self.meets(index)) else { return };
        self.about(script, index, Stage::Descriptors, Subject::Named("the meeting of all processes"));
        let slot = self.control.words(&[0]);
        script.call(libc::SYS_write, &[self.numbers.arrived as u64, self.one, 8]);
        // End of file, should the builder have died, as at the gate.
        script.call(libc::SYS_read, &[met as u64, slot, 1]);
        self.inner_calls(script, index, When::Met);
    }

    /// Closes what only the building needed; the gate stays.
    pub(super) fn close_rest(&mut self, script: &mut Script, index: usize) {
        self.about(script, index, Stage::Descriptors, Subject::Named("descriptors of the thaw"));
        let mut keep = self.own_numbers(&self.checkpoint.processes[index]);
        keep.extend([self.numbers.gate, self.numbers.arrived]);
        close_all_but(script, keep);
        self.inner_calls(script, index, When::Alone);
    }

    fn own_numbers(&self, process: &Process) -> Vec<i32> {
        let placed = |descriptor: &&frost_model::pd::Descriptor| {
            matches!(self.numbers.descriptions.get(descriptor.description.index()), Some(Some(_)))
        };
        process.pd.descriptors.iter().filter(placed).map(|descriptor| descriptor.fd.raw()).collect()
    }

    fn mapped_descriptions(&self, process: &Process) -> Vec<i32> {
        let mapped = process.rm.regions.iter().filter_map(|region| match region.attachment {
            frost_model::rm::Attachment::Description { description, .. } => {
                self.numbers.descriptions.get(description.index()).copied().flatten()
            }
            _ => None,
        });
        mapped.collect()
    }
}

/// Closes every descriptor but these.
fn close_all_but(script: &mut Script, mut keep: Vec<i32>) {
    keep.sort_unstable();
    keep.dedup();
    let mut from = 0;
    for fd in keep {
        if fd > from {
            script.call(libc::SYS_close_range, &[from as u64, fd as u64 - 1, 0]);
        }
        from = fd + 1;
    }
    script.call(libc::SYS_close_range, &[from as u64, u32::MAX.into(), 0]);
}
