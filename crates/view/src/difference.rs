//! What changed from one image to another.
//!
//! Processes are the same if they have the same pid: two images of one instance keep them. Memory is compared address by
//! address, so that it does not matter how the kernel divided it into mappings; contents are read only where the digests
//! of their blocks do not already say that they are equal.

mod memory;
mod process;

use crate::Error;
use frost_model::{Checkpoint, Pid, Process};
use frost_store::Image;

pub use memory::{Mapping, MappingChange, PageCount};

/// What changed.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Difference {
    /// Processes that only the first image has.
    pub gone: Vec<Named>,
    /// Processes that only the second has.
    pub come: Vec<Named>,
    /// Processes that both have, and that differ.
    pub changed: Vec<ProcessDifference>,
    /// How many processes both have without any difference.
    pub same: usize,
    /// Shared memory and deleted files, which belong to no process alone.
    pub objects: Vec<ObjectDifference>,
    /// Objects of System V and POSIX message queues, with their states; empty where an image does not have one.
    pub ipc: Vec<Setting>,
}

/// A process, or a thread, and what it is called.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Named {
    /// Its number.
    pub id: i32,
    /// Its name.
    pub name: String,
}

/// What changed in a process.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct ProcessDifference {
    /// Which.
    pub process: Named,
    /// Threads that ended.
    pub threads_gone: Vec<Named>,
    /// Threads that were started.
    pub threads_come: Vec<Named>,
    /// Threads that both have and that stood elsewhere.
    pub threads_moved: Vec<Named>,
    /// Mappings that came, went, or have other rights or advice.
    pub mappings: Vec<Mapping>,
    /// Pages of its own, for each stretch of memory in which some differ.
    pub pages: Vec<RegionPages>,
    /// Descriptors.
    pub descriptors: Vec<DescriptorChange>,
    /// All else: credentials, limits, signals, timers, where it is.
    pub settings: Vec<Setting>,
}

/// Pages that differ in a stretch of memory.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RegionPages {
    /// Its first address in the second image.
    pub start: u64,
    /// The address behind it.
    pub end: u64,
    /// What lies there.
    pub shows: String,
    /// How many.
    pub count: PageCount,
}

/// Pages that differ in an object.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ObjectDifference {
    /// What it is.
    pub object: String,
    /// How many pages; as bytes, the last one of a file counts as a whole one.
    pub count: PageCount,
    /// Whether only one of the images has it.
    pub presence: Presence,
}

/// Which images have something.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Presence {
    /// Both.
    Both,
    /// The first.
    Gone,
    /// The second.
    Come,
}

/// A descriptor that differs.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct DescriptorChange {
    /// Its number.
    pub fd: i32,
    /// What it was; absent if it is new.
    pub before: Option<Described>,
    /// What it is; absent if it was closed.
    pub after: Option<Described>,
}

impl DescriptorChange {
    /// Returns whether it denotes the same object, in another state.
    pub fn same_object(&self) -> bool {
        matches!((&self.before, &self.after), (Some(before), Some(after)) if before.object == after.object)
    }
}

/// A descriptor in words.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Described {
    /// Kind and name of what it denotes.
    pub object: String,
    /// The rest: offset, flags, what waits in it.
    pub state: String,
}

impl std::fmt::Display for Described {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(&self.object)?;
        if self.state.is_empty() { Ok(()) } else { write!(f, ", {}", self.state) }
    }
}

/// A setting that differs.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Setting {
    /// Which, in words.
    pub what: String,
    /// Its value in the first image.
    pub before: String,
    /// Its value in the second.
    pub after: String,
}

impl ProcessDifference {
    /// Returns whether nothing differs.
    pub fn is_empty(&self) -> bool {
        self.threads_gone.is_empty()
            && self.threads_come.is_empty()
            && self.threads_moved.is_empty()
            && self.mappings.is_empty()
            && self.pages.is_empty()
            && self.descriptors.is_empty()
            && self.settings.is_empty()
    }
}

impl Difference {
    /// Returns whether nothing differs.
    pub fn is_empty(&self) -> bool {
        self.gone.is_empty()
            && self.come.is_empty()
            && self.changed.is_empty()
            && self.objects.is_empty()
            && self.ipc.is_empty()
    }
}

/// Compares two images. `progress` is told how many bytes of the second one's pack were compared.
///
/// # Errors
/// [`Error::Store`] if one of them is damaged.
pub fn difference(before: &Image, after: &Image, progress: &mut dyn FnMut(u64)) -> Result<Difference, Error> {
    let (one, two) = (before.checkpoint(), after.checkpoint());
    let mut contents = memory::Contents::new(before.pages()?, after.pages()?, progress);
    let mut difference = Difference::default();
    for process in &one.processes {
        let found = find(two, process.pd.relation.pid);
        let Some(other) = found else {
            difference.gone.push(named(process));
            continue;
        };
        let changed = process::difference((one, process), (two, other), &mut contents)?;
        if changed.is_empty() {
            difference.same += 1;
        } else {
            difference.changed.push(changed);
        }
    }
    let come = two.processes.iter().filter(|process| find(one, process.pd.relation.pid).is_none());
    difference.come = come.map(named).collect();
    difference.objects = memory::objects(one, two, &mut contents)?;
    difference.ipc = crate::ipc::differences(&one.objects, &two.objects);
    Ok(difference)
}

fn find(checkpoint: &Checkpoint, pid: Pid) -> Option<&Process> {
    checkpoint.processes.iter().find(|process| process.pd.relation.pid == pid)
}

fn named(process: &Process) -> Named {
    let words: Vec<String> = process.pd.arguments.iter().map(ToString::to_string).collect();
    let name = if words.is_empty() { process.pd.command.to_string() } else { words.join(" ") };
    Named { id: process.pd.relation.pid.raw(), name }
}
