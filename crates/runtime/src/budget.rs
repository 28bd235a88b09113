//! What a program may use of the machine: control groups, made where they may be, for as long as it runs.
//!
//! A budget belongs to an instance: it stands in its record, and in each of its images. The groups hold the program and
//! not its keeper, which watches and removes them; one that a dead command left is removed by the next one ([`sweep`]).

use crate::error::Error;
use crate::instance::{Instance, Kept, Record, Standing};
use frost_keeper::Connection;
use frost_model::host::Budget;
use frost_store::{ImageId, Name, Store};
use frost_sys::cgroup::{Group, Parent, Resource};
use frost_sys::proc;
use rustix::fd::OwnedFd;
use rustix::io::Errno;
use std::os::unix::ffi::OsStrExt;

pub use frost_sys::cgroup::sweep;

const RESOURCES: [Resource; 2] = [Resource::Memory, Resource::Cpu];

fn limit(budget: &Budget, resource: Resource) -> Option<u64> {
    match resource {
        Resource::Memory => budget.ram_bytes,
        Resource::Cpu => budget.cpu_percent.map(u64::from),
    }
}

/// The groups of a program that is about to run. Those that it is not in when this is dropped are removed.
#[derive(Debug, Default)]
pub(crate) struct Groups(Vec<Group>);

impl Groups {
    /// Makes the groups that a budget takes; none if it limits nothing.
    ///
    /// # Errors
    /// [`Error::Budget`] if that cannot be done here, [`Error::Limit`] if the kernel does not take the limit.
    pub(crate) fn make(name: &str, budget: &Budget) -> Result<Self, Error> {
        let mut groups = Self::default();
        if !budget.is_unlimited() {
            sweep();
        }
        for resource in RESOURCES {
            if let Some(limit) = limit(budget, resource) {
                let group = groups.add(name, resource)?;
                set_limit(group, Some(limit))?;
            }
        }
        Ok(groups)
    }

    fn add(&mut self, name: &str, resource: Resource) -> Result<&Group, Error> {
        let parent = Parent::find(resource).map_err(|lack| Error::Budget { resource, lack })?;
        // Names of instances are those of one store, and there may be others.
        let unique = format!("{name}.{}", std::process::id());
        let group = parent.make_beside(&unique, &self.0).map_err(|source| failed(&unique, source))?;
        self.0.push(group);
        Ok(&self.0[self.0.len() - 1])
    }

    /// Opens the entrances, for whoever is to be in them.
    pub(crate) fn entrances(&self) -> Result<Vec<OwnedFd>, Error> {
        let open = |group: &Group| group.entrance().map_err(|source| failed(&group.path().display(), source));
        self.0.iter().map(open).collect()
    }

    /// Tells the keeper of them.
    pub(crate) fn give(&self, keeper: &Connection) -> Result<(), Error> {
        self.0.iter().try_for_each(|group| {
            keeper.give_group(group.name().as_bytes(), group.directory()).map_err(Error::from)
        })
    }

    /// Says that whoever is to be in them is.
    pub(crate) fn settled(&mut self) {
        self.0.iter_mut().for_each(Group::settled);
    }
}

impl Drop for Groups {
    fn drop(&mut self) {
        for group in &self.0 {
            // Busy as long as the program runs: then it is the keeper's to remove.
            let _ = group.remove();
        }
    }
}

fn failed(object: &dyn std::fmt::Display, source: Errno) -> Error {
    Error::Environment { object: format!("control group {object}"), source }
}

fn set_limit(group: &Group, limit: Option<u64>) -> Result<(), Error> {
    group.limit(limit).map_err(|source| Error::Limit {
        resource: group.resource(),
        limit: limit.unwrap_or(0),
        used_bytes: group.memory_bytes().filter(|_| group.resource() == Resource::Memory),
        source,
    })
}

/// What a program has of a budget.
#[derive(Clone, Copy, Debug, Default)]
pub struct Usage {
    /// What is limited, as the kernel has it.
    pub budget: Budget,
    /// Memory that counts against the limit: caches of files are among it.
    pub ram_bytes: Option<u64>,
    /// Processor time that the program has used, its ended processes included, in microseconds.
    pub cpu_us: u64,
}

/// Looks what a running program uses, and how much it may.
pub fn usage(root: i32, processes: &[i32]) -> Usage {
    let memory = Group::of(root, Resource::Memory);
    let cpu = Group::of(root, Resource::Cpu).and_then(|group| group.limited_to());
    Usage {
        budget: Budget {
            ram_bytes: memory.as_ref().and_then(Group::limited_to),
            cpu_percent: cpu.and_then(|percent| u32::try_from(percent).ok()),
        },
        ram_bytes: memory.as_ref().and_then(Group::memory_bytes),
        cpu_us: processes.iter().filter_map(|pid| proc::stat(*pid).ok()).map(|stat| stat.cpu_us()).sum(),
    }
}

/// Changes the budget of a program, that it has now if it runs, else when it is thawed; returns it, and whether it runs.
///
/// # Errors
/// [`Error::Missing`]; [`Error::Unprepared`] if it is an image of another program; those of making groups. The budget is
/// as it was then.
pub fn set(store: &Store, name: &Name, wish: impl FnOnce(Budget) -> Budget) -> Result<(Budget, bool), Error> {
    let newest = store.versions(name)?.last().copied();
    if newest.is_none() && Instance::find(store, name)?.is_none() {
        return Err(Error::Missing);
    }
    let runtime = match newest {
        Some(version) => {
            store.open_any(&ImageId { name: name.clone(), version })?.checkpoint().host.runtime.clone()
        }
        None => None,
    };
    let (instance, _claim) = Instance::claim(store, name)?;
    let mut record = instance.record()?;
    if record.machine {
        return Err(Error::Unprepared);
    }
    let standing = instance.standing()?;
    let known = record.started > 0;
    match (&standing, &runtime) {
        (Standing::Kept(_), _) if known => {}
        (Standing::Within(outer), _) => return Err(Error::Within { outer: outer.clone() }),
        (_, Some(runtime)) => {
            if !known {
                // An image from elsewhere, which was never thawed here.
                record = Record { allowed: runtime.allowed.clone(), budget: runtime.budget, ..Record::now() };
            }
        }
        _ if newest.is_some() => return Err(Error::Unprepared),
        _ => return Err(Error::Ended("it has ended, and there is no image of it".to_owned())),
    }
    let budget = wish(record.budget);
    let running = match &standing {
        Standing::Kept(kept) if !kept.state.frozen => {
            change(kept, name.as_str(), &record, &budget)?;
            true
        }
        _ => false,
    };
    record.budget = budget;
    instance.write_record(&record)?;
    if let (false, Some(version)) = (known, newest) {
        instance.note_frozen(version)?;
    }
    Ok((budget, running))
}

/// Gives a running program another budget. Only what differs is changed.
///
/// # Errors
/// Those of making groups; what was changed before is changed back.
fn change(kept: &Kept, name: &str, record: &Record, budget: &Budget) -> Result<(), Error> {
    let root = kept.root()?;
    let mut done = Vec::new();
    for resource in RESOURCES {
        let (old, new) = (limit(&record.budget, resource), limit(budget, resource));
        if let Err(error) = change_one(kept, name, root, resource, new) {
            for (resource, old) in done {
                let _ = change_one(kept, name, root, resource, old);
            }
            return Err(error);
        }
        done.push((resource, old));
    }
    Ok(())
}

fn change_one(kept: &Kept, name: &str, root: i32, resource: Resource, new: Option<u64>) -> Result<(), Error> {
    if let Some(group) = Group::of(root, resource) {
        return set_limit(&group, new);
    }
    if new.is_none() {
        return Ok(());
    }
    let mut groups = Groups::default();
    let group = groups.add(name, resource)?;
    // A limit that does not hold what the program has already is refused by version 1 when it is in there, and ends
    // processes in version 2; memory stays with the group that it was taken from.
    set_limit(group, new)?;
    // Whoever is not in there yet may have children meanwhile; those of one that is are in there too.
    loop {
        let mut moved = false;
        for pid in std::iter::once(root).chain(kept.processes()) {
            if Group::of(pid, resource).is_some_and(|other| other.path() == group.path()) {
                continue;
            }
            match group.take(pid) {
                Ok(()) => moved = true,
                Err(Errno::SRCH) => {}
                Err(source) => return Err(failed(&group.path().display(), source)),
            }
        }
        if !moved {
            break;
        }
    }
    groups.give(&kept.connection)?;
    // So that it has heard of it before we are gone.
    kept.connection.state()?;
    groups.settled();
    Ok(())
}
