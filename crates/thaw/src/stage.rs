//! The named steps of a thaw, for timings, messages and fault injection.
//!
//! A fault (see [`frost_sys::fault`]) at a step of the builder (`thaw.…`) strikes when it begins. One at a step of a tape
//! (`tape.…`) strikes in the root process: `kill` kills the builder from there, unless that is pid 1 of a namespace of
//! its own, and anything else makes the tape fail.

use std::fmt;

macro_rules! stages {
    ($($(#[$doc:meta])* $name:ident = $text:literal,)*) => {
        /// A step of a thaw. Its name stays the same from release to release.
        #[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
        pub enum Stage {
            $($(#[$doc])* $name,)*
        }

        impl Stage {
            /// All steps, in the order in which a simple thaw reaches them.
            pub const ALL: &[Self] = &[$(Self::$name,)*];

            /// Returns its name.
            pub const fn name(self) -> &'static str {
                match self {
                    $(Self::$name => $text,)*
                }
            }
        }
    };
}

stages! {
    /// Namespaces are made.
    Namespaces = "thaw.namespaces",
    /// Files are opened, objects behind descriptors are made.
    Open = "thaw.open",
    /// The tapes are compiled and written.
    Compile = "thaw.compile",
    /// The root of the tree is started as a stub.
    Spawn = "thaw.spawn",
    /// The stub's own memory is unmapped.
    Clean = "tape.clean",
    /// Memory shared between processes is made.
    Parking = "tape.parking",
    /// A child is cloned.
    Clone = "tape.clone",
    /// A session is made.
    Session = "tape.session",
    /// A process group is made or joined.
    Group = "tape.group",
    /// A child that had ended is made and ends.
    Zombie = "tape.zombie",
    /// Descriptors get their numbers.
    Descriptors = "tape.descriptors",
    /// The vDSO is mapped.
    Vdso = "tape.vdso",
    /// Regions are mapped.
    Map = "tape.map",
    /// Memory is read from the pack.
    Fill = "tape.fill",
    /// Rights are reduced, advice is given, memory is locked.
    Advise = "tape.advise",
    /// Heap, stack, arguments and binary are told to the kernel.
    Bounds = "tape.bounds",
    /// Working directory, root directory, file mode mask.
    Directories = "tape.directories",
    /// Signal actions.
    Actions = "tape.actions",
    /// Settings of the process.
    Settings = "tape.settings",
    /// A thread is cloned.
    Thread = "tape.thread",
    /// Timers are made and armed.
    Timers = "tape.timers",
    /// Resource limits are set.
    Limits = "tape.limits",
    /// Name, scheduling, robust list, alternate stack, rseq of a thread.
    ThreadState = "tape.thread-state",
    /// Signals are queued.
    Signals = "tape.signals",
    /// Credentials are set.
    Credentials = "tape.credentials",
    /// The thread waits at the gate.
    Gate = "tape.gate",
    /// All threads have come to the gate.
    Arrive = "thaw.arrive",
    /// What the threads did is checked.
    Check = "thaw.check",
    /// The pack is compared with its digest.
    Verify = "thaw.verify",
    /// All threads are stopped.
    Stop = "thaw.stop",
    /// The gate is opened: the commit.
    Commit = "thaw.commit",
    /// Registers are set.
    Registers = "thaw.registers",
    /// The tapes are unmapped.
    Unmap = "thaw.unmap",
    /// The program's own filters of system calls are installed.
    Filters = "thaw.filters",
    /// The threads are let go.
    Release = "thaw.release",
}

impl fmt::Display for Stage {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_unique() {
        let names: std::collections::HashSet<_> = Stage::ALL.iter().map(|stage| stage.name()).collect();
        assert_eq!(names.len(), Stage::ALL.len());
    }
}
