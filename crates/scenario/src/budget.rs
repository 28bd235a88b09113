//! What a component may use of the machine: control groups, as those of `frost run --ram --cpu`.
//!
//! Each life has groups of its own, so that a successor is not held to what its predecessor uses. All of a life is in them,
//! from the first instruction of its stage on. When its memory does not suffice all of it ends: version 2 of control groups
//! does that by itself, version 1 ends what needs most, and tells us.

use crate::engine::{Engine, Timer};
use crate::scenario::{Budget, Scenario, Unusable};
use frost_sys::cgroup::{Group, Parent, Resource, sweep};
use rustix::fd::OwnedFd;
use std::io;
use std::path::PathBuf;
use std::time::Duration;

/// How often it is looked whether something was ended, after the kernel has told that memory lacks.
pub(crate) const LOOKS: u32 = 100;

/// How long to wait between two looks.
const LOOK: Duration = Duration::from_millis(10);

/// How long to wait before groups are looked at again that were not entered yet, or not left.
const LATER: Duration = Duration::from_millis(200);

/// The groups of a life; removed by [`Engine::leave_groups`] when it has ended.
#[derive(Debug, Default)]
pub(crate) struct Groups {
    groups: Vec<Group>,
    /// Tells that memory lacks.
    pub(crate) want: Option<OwnedFd>,
    /// The number of that event.
    pub(crate) token: Option<u64>,
}

fn limits(budget: Budget) -> impl Iterator<Item = (Resource, u64)> {
    let memory = budget.ram_bytes.map(|bytes| (Resource::Memory, bytes));
    let cpu = budget.cpu_percent.map(|percent| (Resource::Cpu, u64::from(percent)));
    memory.into_iter().chain(cpu)
}

/// Finds out whether all budgets of a scenario can be kept here.
///
/// # Errors
/// What lacks, and what to do about it.
pub(crate) fn check(scenario: &Scenario) -> Result<(), Unusable> {
    for (name, component) in &scenario.components {
        for (resource, _) in limits(component.budget) {
            Parent::find(resource).map_err(|lack| Unusable {
                why: format!("the component {name} cannot have its budget: {}", lack.told(resource)),
                remedy: format!("{}; or leave out `ram` and `cpu`", lack.remedy(resource)),
            })?;
        }
    }
    Ok(())
}

impl Groups {
    /// Makes the groups that a budget takes; none if it limits nothing.
    pub(crate) fn make(name: &str, budget: Budget) -> io::Result<Self> {
        let mut made = Self::default();
        if budget.is_unlimited() {
            return Ok(made);
        }
        // What a supervisor that was killed has left.
        sweep();
        for (resource, limit) in limits(budget) {
            let parent = Parent::find(resource).map_err(|lack| {
                io::Error::other(format!("{}; {}", lack.told(resource), lack.remedy(resource)))
            })?;
            let group = parent.make(name)?;
            let limited = group.limit(Some(limit));
            made.want = made.want.take().or_else(|| group.want());
            made.groups.push(group);
            if let Err(errno) = limited {
                made.remove();
                let why =
                    format!("the kernel does not take its budget of {}: {errno}", resource.controller());
                return Err(io::Error::other(why));
            }
        }
        Ok(made)
    }

    /// Returns the files by which its processes enter.
    pub(crate) fn entrances(&self) -> Vec<PathBuf> {
        self.groups.iter().map(|group| group.path().join("cgroup.procs")).collect()
    }

    pub(crate) fn is_empty(&self) -> bool {
        self.groups.is_empty()
    }

    /// Returns whether something was ended for want of memory.
    pub(crate) fn has_starved(&self) -> bool {
        self.groups.iter().any(|group| group.resource() == Resource::Memory && group.has_starved())
    }

    /// Returns how much memory is in use, if that is limited.
    pub(crate) fn memory_bytes(&self) -> Option<u64> {
        self.groups.iter().find(|group| group.resource() == Resource::Memory)?.memory_bytes()
    }

    /// Removes what is empty. Returns whether nothing is left.
    fn remove(&mut self) -> bool {
        self.groups.retain(|group| group.remove().is_err() && group.path().exists());
        self.groups.is_empty()
    }
}

impl Engine {
    /// Waits for news of the groups of a life that was just started.
    pub(crate) fn watch_groups(&mut self, number: u64, groups: &mut Groups) -> io::Result<()> {
        if let Some(want) = &groups.want {
            groups.token = Some(self.listen_to(want, crate::engine::Token::Want(number))?);
        }
        if !groups.is_empty() {
            self.after(LATER, Timer::Groups(number));
        }
        Ok(())
    }

    /// The kernel has told that the memory of a life lacks.
    pub(crate) fn wants(&mut self, number: u64) {
        let want = self.lives.get(&number).and_then(|life| life.groups.want.as_ref());
        if let Some(want) = want {
            let _ = rustix::io::read(want, &mut [0; 8]);
            self.after(Duration::ZERO, Timer::Want(number, LOOKS));
        }
    }

    /// Looks whether something of a life was ended for want of memory: then all of it is.
    pub(crate) fn look_for_want(&mut self, number: u64, looks: u32) {
        match self.lives.get(&number) {
            Some(life) if life.groups.has_starved() => self.kill(number),
            Some(_) if looks > 0 => self.after(LOOK, Timer::Want(number, looks - 1)),
            _ => {}
        }
    }

    /// Groups that have processes by now need no protection from those who remove empty ones.
    pub(crate) fn settle_groups(&mut self, number: u64) {
        let Some(life) = self.lives.get_mut(&number) else { return };
        if life.groups.groups.iter().all(Group::has_processes) {
            life.groups.groups.iter_mut().for_each(Group::settled);
        } else {
            self.after(LATER, Timer::Groups(number));
        }
    }

    /// Gives up the groups of a life that has ended; what is still busy is tried again.
    pub(crate) fn leave_groups(&mut self, mut groups: Groups) {
        if let Some(token) = groups.token {
            self.forget_token(token);
        }
        if !groups.remove() {
            groups.want = None;
            groups.groups.iter_mut().for_each(Group::settled);
            if self.left.is_empty() {
                self.after(LATER, Timer::Left);
            }
            self.left.push(groups);
        }
    }

    /// Removes what is left at the end of the scenario: what was collected leaves its group a little later. Where somebody
    /// stays in there, whoever makes groups next finds them.
    pub(crate) fn remove_last(&mut self) {
        for _ in 0..100 {
            self.remove_left();
            if self.left.is_empty() {
                break;
            }
            std::thread::sleep(Duration::from_millis(1));
        }
    }

    /// Tries again to remove what was busy.
    pub(crate) fn remove_left(&mut self) {
        self.left.retain_mut(|groups| !groups.remove());
        if !self.left.is_empty() && !self.is_ending {
            self.after(LATER, Timer::Left);
        }
    }
}
