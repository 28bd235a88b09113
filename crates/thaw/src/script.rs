//! A tape together with what each of its entries is about, so that a failure can be told in words.

use crate::control::Control;
use crate::error::Error;
use crate::stage::Stage;
use frost_abi::tape::Entry;
use frost_tracee::tape::{EntryIndex, Tape};

/// What a call is about.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Subject {
    /// Nothing but its step.
    Step,
    /// The region of that index.
    Region(u32),
    /// The dataspace of that index.
    Dataspace(u32),
    /// A System V segment, by its identifier.
    Segment(i32),
    /// A set of System V semaphores, by its identifier.
    Semaphores(i32),
    /// A descriptor number.
    Fd(i32),
    /// A process, thread, group or session.
    Id(i32),
    /// A signal.
    Signal(i32),
    /// A resource limit.
    Limit(u32),
    /// A timer.
    Timer(i32),
    /// A fault that was injected.
    Injected,
    /// An object in words.
    Named(&'static str),
}

/// What a call has to return.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Expect {
    /// Anything but an error.
    Success,
    /// This number of bytes.
    Bytes(u64),
    /// Anything.
    Anything,
}

/// What is known of an entry.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Note {
    /// Its step.
    pub(crate) stage: Stage,
    /// What it is about.
    pub(crate) subject: Subject,
    /// What it has to return.
    pub(crate) expect: Expect,
}

/// A tape in the making.
#[derive(Debug)]
pub(crate) struct Script {
    pub(crate) tape: Tape,
    notes: Vec<Note>,
    stage: Stage,
    subject: Subject,
}

/// A tape in the control area.
#[derive(Debug)]
pub(crate) struct Placed {
    /// The index of the process it builds.
    pub(crate) process: usize,
    /// The index of the thread; 0 is the leader, which builds the process too.
    pub(crate) thread: usize,
    /// Its offset in the memfd.
    pub(crate) offset: u64,
    /// What its entries are about.
    pub(crate) notes: Vec<Note>,
}

impl Script {
    /// Starts one where the control area has room for it; the next tape must not be started before this one is
    /// placed.
    pub(crate) fn start(control: &Control) -> Self {
        Self {
            tape: Tape::at(control.next_tape()),
            notes: Vec::new(),
            stage: Stage::Clean,
            subject: Subject::Step,
        }
    }

    /// Starts one for a process or thread that is cloned into it.
    pub(crate) fn start_of_clone(control: &Control) -> Self {
        let mut script = Self::start(control);
        script.stage = Stage::Clone;
        script.push(Entry::arrival(), Expect::Anything);
        script
    }

    /// Says what the next entries are about.
    pub(crate) fn about(&mut self, stage: Stage, subject: Subject) {
        self.stage = stage;
        self.subject = subject;
    }

    fn push(&mut self, entry: Entry, expect: Expect) -> EntryIndex {
        self.notes.push(Note { stage: self.stage, subject: self.subject, expect });
        self.tape.push(entry)
    }

    fn entry(nr: libc::c_long, args: &[u64]) -> Entry {
        let mut all = [0; 6];
        all[..args.len()].copy_from_slice(args);
        Entry::call(nr as u64, all)
    }

    /// Adds a call that must succeed.
    pub(crate) fn call(&mut self, nr: libc::c_long, args: &[u64]) -> EntryIndex {
        self.push(Self::entry(nr, args), Expect::Success)
    }

    /// Adds a call whose result does not matter.
    pub(crate) fn attempt(&mut self, nr: libc::c_long, args: &[u64]) -> EntryIndex {
        self.push(Self::entry(nr, args), Expect::Anything)
    }

    /// Adds a call that must transfer all of `bytes`. A short transfer does not stop the tape; it is found when
    /// the results are checked.
    pub(crate) fn transfer(&mut self, nr: libc::c_long, args: &[u64], bytes: u64) -> EntryIndex {
        self.push(Self::entry(nr, args), Expect::Bytes(bytes))
    }

    /// Adds an entry that leaves the tape.
    pub(crate) fn leave(&mut self, target: u64, stack: u64, rax: u64) {
        self.push(Entry::leave(target, stack, rax, 0, 0), Expect::Anything);
    }

    /// Ends the script: a failed call jumps to `tail`, an entry of this script; entries behind it do not.
    pub(crate) fn fail_to(&mut self, tail: EntryIndex) {
        for index in 0..tail.get() {
            if self.notes[index].expect != Expect::Anything {
                let from = self.tape.index(index);
                if self.tape.entries()[index].on_error == 0 {
                    self.tape.on_error(from, tail);
                }
            }
        }
    }

    /// Places it in the control area.
    pub(crate) fn place(self, control: &mut Control, process: usize, thread: usize) -> Result<Placed, Error> {
        let offset = control.place(&self.tape)?;
        Ok(Placed { process, thread, offset, notes: self.notes })
    }
}
