//! The processes of a tree, and the numbers by which they are known.

use frost_model::Pid;

/// The processes of the tree, by both their pids.
#[derive(Debug, Default)]
pub(super) struct Members(pub(super) Vec<(Pid, Pid)>);

impl Members {
    pub(super) fn inner(&self, outer: Pid) -> Option<Pid> {
        self.0.iter().find(|(pid, _)| *pid == outer).map(|(_, inner)| *inner)
    }

    /// The number inside of a process, of a child that has ended and was not waited for, or of a thread, by the one that
    /// we see.
    pub(super) fn number(&self, outer: i32) -> Option<Pid> {
        if let Some(inner) = self.inner(Pid::new(outer)) {
            return Some(inner);
        }
        let status = frost_sys::proc::status(outer).ok()?;
        let of_tree = match status.tgid == outer {
            true => {
                let stat = frost_sys::proc::stat(outer).ok().filter(|stat| stat.is_zombie())?;
                stat.ppid
            }
            false => status.tgid,
        };
        self.inner(Pid::new(of_tree))?;
        Some(Pid::new(status.number().unwrap_or(outer)))
    }

    /// The pid as we see it of the process that has `inner` inside.
    pub(super) fn outer_of(&self, inner: Pid) -> Option<Pid> {
        self.0.iter().find(|(_, pid)| *pid == inner).map(|(outer, _)| *outer)
    }

    /// The number as we see it of the process or thread that an instance of procfs, known by its device, shows as `number`.
    ///
    /// One that is mounted below a keeper within the tree shows the numbers of that.
    pub(super) fn shown_as(&self, device: u64, number: Pid) -> Option<Pid> {
        let mounted = |pid: &Pid| {
            let proc = frost_sys::proc::path(crate::target::shown_by(*pid), "root/proc");
            rustix::fs::stat(proc).is_ok_and(|stat| stat.st_dev == device)
        };
        let namespace = |pid: Pid| {
            rustix::fs::readlink(frost_sys::proc::path(crate::target::shown_by(pid), "ns/pid"), Vec::new())
                .ok()
        };
        let deeper = |pid: &Pid| frost_sys::proc::status(pid.raw()).is_ok_and(|status| status.depth() > 0);
        let status = |id: &Pid| frost_sys::proc::status(id.raw()).ok();
        let threads =
            |pid: Pid| frost_sys::proc::threads(pid.raw()).unwrap_or_default().into_iter().map(Pid::new);
        let Some(user) = self.outer().find(|pid| deeper(pid) && mounted(pid)) else {
            let is_meant =
                |tid: &Pid| status(tid).is_some_and(|status| status.number() == Some(number.raw()));
            return self.outer_of(number).or_else(|| self.outer().flat_map(threads).find(is_meant));
        };
        let own = namespace(user);
        let is_meant =
            |id: &Pid| status(id).is_some_and(|status| status.inner_pids.last() == Some(&number.raw()));
        let here = || self.outer().filter(|pid| namespace(*pid) == own);
        here().find(is_meant).or_else(|| here().flat_map(threads).find(is_meant))
    }

    /// The number as we see it of the thread of `pid` that an instance of procfs, ours or not, shows as the second of these
    /// where it shows `pid` as the first.
    pub(super) fn thread_shown_as(
        &self,
        pid: i32,
        is_ours: bool,
        [process, thread]: [i32; 2],
    ) -> Option<i32> {
        if is_ours {
            return Some(thread);
        }
        let numbers = |tid: i32| frost_sys::proc::status(tid).map(|status| status.inner_pids);
        let level = numbers(pid).ok()?.iter().rposition(|number| *number == process)?;
        let is_meant = |tid: &i32| numbers(*tid).is_ok_and(|numbers| numbers.get(level) == Some(&thread));
        frost_sys::proc::threads(pid).ok()?.into_iter().find(is_meant)
    }

    /// Whether the process with this number inside sees a process or thread by a number that it keeps.
    pub(super) fn sees(&self, holder: Pid, target: i32) -> bool {
        let depth = |id: i32| frost_sys::proc::status(id).map_or(0, |status| status.depth());
        let namespace = |id: i32| {
            let id = crate::target::shown_by(Pid::new(id));
            rustix::fs::readlink(frost_sys::proc::path(id, "ns/pid"), Vec::new()).ok()
        };
        let holder = self.outer_of(holder).map_or(0, Pid::raw);
        depth(holder) == 0 || namespace(holder) == namespace(target)
    }

    /// One of them, if they are in another pid namespace than we are.
    pub(super) fn elsewhere(&self) -> Option<Pid> {
        self.0.iter().find(|(outer, inner)| outer != inner).map(|(outer, _)| *outer)
    }

    pub(super) fn outer(&self) -> impl Iterator<Item = Pid> {
        self.0.iter().map(|(pid, _)| *pid)
    }
}
