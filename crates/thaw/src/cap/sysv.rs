//! System V segments, semaphores and message queues.
//!
//! Those that are still there as they were are used again; those that are missing are made anew with their old
//! identifiers and keys. Who may not choose identifiers, and every copy, gets an IPC namespace of its own for that. One
//! that is there but is another, or has changed, is in the way.
//!
//! The kernel notes which process made an object and which used it last. A program may ask, and in a namespace that others
//! share nothing else tells whose it is; so that is done under the numbers of those processes ([`guise`]).

use super::Error;
use super::error::About;
use super::file::is_other;
use frost_model::cap::{Ipc, MessageQueue, Segment, SemaphoreSet};
use frost_model::{Checkpoint, Obstacle};
use frost_sys::guise::{self, Guise};
use frost_sys::sysv::{self, Attached, Kind};
use rustix::fd::BorrowedFd;
use rustix::io::Errno;
use std::collections::BTreeMap;
use std::time::{Duration, Instant};

/// What the objects mean for a thaw.
#[derive(Debug, Default)]
pub(crate) struct Planned {
    /// Whether it takes an IPC namespace of its own.
    pub(crate) namespace: bool,
    pub(crate) notes: Vec<String>,
    pub(crate) obstacles: Vec<Obstacle>,
    /// How many huge pages the segments take that have to be made, by the logarithm of the size of a page.
    pub(crate) huge_pages: BTreeMap<u32, u64>,
}

/// How an object of the image stands in our IPC namespace.
#[derive(Clone, Debug, PartialEq, Eq)]
enum Standing {
    Missing,
    /// As it was. `used` if somebody is attached to it.
    Same {
        used: bool,
    },
    /// Half made by a thaw that died: nobody but root could use it yet.
    Leftover,
    /// Another, or changed.
    Different(String),
    /// As it was, as far as it shows: its content may not be read.
    Unreadable,
}

/// How long a set of semaphores may take to become what it was. Those who end undo what they did in it behind all that is
/// seen of them: of a thaw that was killed they may be on their way (`exit_mm` and then `exit_sem` in `do_exit`,
/// kernel/exit.c).
const DYING: Duration = Duration::from_millis(500);

/// An object of the image.
#[derive(Clone, Copy)]
enum Object<'a> {
    Segment(&'a Segment),
    Semaphores(&'a SemaphoreSet),
    Queue(&'a MessageQueue),
}

impl<'a> Object<'a> {
    fn all(checkpoint: &'a Checkpoint) -> impl Iterator<Item = Self> {
        let objects = &checkpoint.objects;
        let segments = objects.segments.iter().map(Object::Segment);
        let semaphores = objects.semaphores.iter().map(Object::Semaphores);
        segments.chain(semaphores).chain(objects.queues.iter().map(Object::Queue))
    }

    fn kind(self) -> Kind {
        match self {
            Self::Segment(_) => Kind::Segment,
            Self::Semaphores(_) => Kind::Semaphores,
            Self::Queue(_) => Kind::Queue,
        }
    }

    fn ipc(self) -> &'a Ipc {
        match self {
            Self::Segment(segment) => &segment.ipc,
            Self::Semaphores(set) => &set.ipc,
            Self::Queue(queue) => &queue.ipc,
        }
    }

    /// Bytes of a segment, semaphores of a set, most bytes of a queue.
    fn size(self) -> u64 {
        match self {
            Self::Segment(segment) => segment.len_bytes,
            Self::Semaphores(set) => set.values.len() as u64,
            Self::Queue(queue) => queue.capacity_bytes,
        }
    }

    fn describe(self) -> String {
        let ipc = self.ipc();
        match ipc.key {
            libc::IPC_PRIVATE => format!("{} {}", self.kind().noun(), ipc.id),
            key => format!("{} {} (key {key:#010x})", self.kind().noun(), ipc.id),
        }
    }

    fn standing(self) -> Standing {
        let ipc = self.ipc();
        let found = match sysv::status(self.kind(), ipc.id) {
            Ok(found) => found,
            Err(Errno::INVAL | Errno::IDRM) => return Standing::Missing,
            Err(errno) => return Standing::Different(format!("it cannot be looked at: {errno}")),
        };
        let what = (found.key, found.size, found.mode & 0o777);
        let is_others = is_other(found.uid, ipc.uid) || is_other(found.gid, ipc.gid);
        // One that is marked to vanish has lost its key, here as in the image.
        if what == (ipc.key, self.size(), ipc.mode) && !is_others {
            return match self.same_content(found.count) {
                Ok(true) => Standing::Same { used: self.kind() == Kind::Segment && found.count > 0 },
                Ok(false) => Standing::Different("its content changed while the program was away".to_owned()),
                Err(Errno::ACCESS) => Standing::Unreadable,
                Err(errno) => Standing::Different(format!("it cannot be read: {errno}")),
            };
        }
        let alive = rustix::process::Pid::from_raw(found.first_pid)
            .is_some_and(|pid| rustix::process::test_kill_process(pid) != Err(Errno::SRCH));
        let unused = self.kind() != Kind::Segment || (found.count == 0 && !alive);
        if found.mode & 0o777 == 0 && found.key == ipc.key && unused {
            return Standing::Leftover;
        }
        Standing::Different("another one has its number".to_owned())
    }

    fn same_content(self, count: u64) -> Result<bool, Errno> {
        Ok(match self {
            Self::Segment(segment) => digest(segment)? == segment.digest,
            Self::Semaphores(set) => {
                let same = || Ok(sysv::values(set.ipc.id, set.values.len())? == set.undone());
                let deadline = Instant::now() + DYING;
                while !same()? && Instant::now() < deadline {
                    std::thread::sleep(Duration::from_millis(2));
                }
                same()?
            }
            Self::Queue(queue) => {
                if count != queue.messages.len() as u64 {
                    return Ok(false);
                }
                for (index, message) in queue.messages.iter().enumerate() {
                    match sysv::peek(queue.ipc.id, index, message.data.len()) {
                        Ok((kind, data)) if kind == message.kind && data == message.data => {}
                        Ok(_) | Err(Errno::TOOBIG | Errno::NOMSG) => return Ok(false),
                        Err(errno) => return Err(errno),
                    }
                }
                true
            }
        })
    }

    fn make(self, pack: BorrowedFd<'_>) -> Result<(), Errno> {
        let (kind, ipc) = (self.kind(), self.ipc());
        let (key, huge_shift) = match self {
            Self::Segment(segment) if segment.removed => (segment.first_key, segment.huge_shift),
            Self::Segment(segment) => (ipc.key, segment.huge_shift),
            Self::Semaphores(_) | Self::Queue(_) => (ipc.key, None),
        };
        let noted = |index: usize| ipc.pids.get(index).map_or(0, |pid| pid.raw());
        let maker = if kind == Kind::Segment { noted(0) } else { 0 };
        let make =
            |key| act_as(maker, ipc.creator, || sysv::make(kind, ipc.id, key, self.size(), huge_shift));
        match make(key) {
            // The key of a segment that was removed is nothing but a name, and free to be another's by now.
            Err(Errno::EXIST) if key != ipc.key => make(libc::IPC_PRIVATE)?,
            other => other?,
        }
        match self {
            Self::Segment(segment) => {
                if !segment.pages.is_empty() {
                    let attached = Attached::new(ipc.id, true)?;
                    for run in &segment.pages.runs {
                        let (offset, len) = (run.offset as usize, run.len_bytes as usize);
                        attached.fill(offset, pack, run.pack_offset, len)?;
                    }
                }
                if noted(1) != 0 {
                    act_as(noted(1), None, || sysv::touch(ipc.id))?;
                }
                if segment.locked {
                    sysv::lock(ipc.id)?;
                }
            }
            Self::Semaphores(set) => {
                sysv::set_values(ipc.id, &set.values)?;
                self.note_users(set)?;
            }
            Self::Queue(queue) => {
                sysv::set(kind, ipc.id, (ipc.uid, ipc.gid), 0, queue.capacity_bytes)?;
                let passes = noted(1) != 0 || noted(0) != 0 && queue.messages.is_empty();
                if passes && queue.capacity_bytes > 0 {
                    act_as(noted(0), None, || sysv::send(ipc.id, 1, &[]))?;
                    act_as(noted(1), None, || sysv::take(ipc.id, 1, 0).map(drop))?;
                }
                if !queue.messages.is_empty() {
                    act_as(noted(0), None, || {
                        let mut messages = queue.messages.iter();
                        messages.try_for_each(|message| sysv::send(ipc.id, message.kind, &message.data))
                    })?;
                }
            }
        }
        Ok(())
    }

    /// Lets the kernel note who used semaphores last, by operations if there were any before, else by setting values.
    fn note_users(self, set: &SemaphoreSet) -> Result<(), Errno> {
        let id = set.ipc.id;
        let mut users: BTreeMap<i32, Vec<(u16, u16)>> = BTreeMap::new();
        for ((number, value), pid) in (0..).zip(&set.values).zip(&set.ipc.pids) {
            users.entry(pid.raw()).or_default().push((number, *value));
        }
        users.remove(&0);
        if set.operated && users.is_empty() {
            users.insert(0, vec![(0, set.values[0])]);
        }
        users.into_iter().try_for_each(|(pid, semaphores)| {
            act_as(pid, None, || {
                semaphores.iter().try_for_each(|(number, value)| match set.operated {
                    true => sysv::operate_in_vain(id, *number, *value),
                    false => sysv::set_value(id, *number, *value),
                })
            })
        })
    }

    /// Gives it its owner and mode: with a mode it is complete.
    fn complete(self) -> Result<(), Errno> {
        let ipc = self.ipc();
        sysv::set(self.kind(), ipc.id, (ipc.uid, ipc.gid), ipc.mode, self.size())
    }
}

/// Acts under the number of a process, if it is not 0, and as a user and group, if they are given; as far as we may.
fn act_as(pid: i32, ids: Option<(u32, u32)>, act: impl Fn() -> Result<(), Errno>) -> Result<(), Errno> {
    if pid == 0 && ids.is_none() || !guise::is_possible() {
        return act();
    }
    let groups = ids.map(|(_, gid)| [gid]);
    let ids = ids.zip(groups.as_ref()).map(|((uid, gid), groups)| (uid, gid, groups.as_slice()));
    guise::act(Guise { pid, ids }, || act().map(|()| Vec::new()).map_err(|errno| (0, errno)))
        .map(drop)
        .map_err(|(_, errno)| errno)
}

fn digest(segment: &Segment) -> Result<[u8; 32], Errno> {
    let attached = Attached::new(segment.ipc.id, false)?;
    let len = segment.attached_bytes().ok_or(Errno::INVAL)?;
    let mut hasher = blake3::Hasher::new();
    let mut buffer = vec![0; 1 << 20];
    let mut at = 0;
    while at < len {
        let part = (len - at).min(buffer.len() as u64) as usize;
        attached.read(at as usize, &mut buffer[..part])?;
        hasher.update(&buffer[..part]);
        at += part as u64;
    }
    Ok(hasher.finalize().into())
}

/// Finds out how all objects stand, and what is in the way. `ordinary` says that we get a user namespace.
pub(crate) fn plan(checkpoint: &Checkpoint, copy: bool, ordinary: bool) -> Planned {
    let mut planned = Planned::default();
    let objects: Vec<Object<'_>> = Object::all(checkpoint).collect();
    planned.namespace = checkpoint.host.ipc_namespace || (copy && !objects.is_empty());
    let root = &checkpoint.processes[0];
    let obstacle = |object: Object<'_>, reason: String, remedy: &str| Obstacle {
        pid: root.pd.relation.pid,
        command: root.pd.command.to_string(),
        object: object.describe(),
        reason,
        remedy: remedy.to_owned(),
        passes: false,
    };
    if !planned.namespace && !objects.is_empty() {
        let standings: Vec<Standing> = objects.iter().map(|object| object.standing()).collect();
        let missing = standings.iter().any(|s| matches!(s, Standing::Missing | Standing::Leftover));
        // Which places in the tables of the kernel's are free is chance on a busy machine.
        let taken = |(object, standing): (&Object<'_>, &Standing)| {
            *standing == Standing::Missing && sysv::place_is_taken(object.kind(), object.ipc().id)
        };
        planned.namespace = missing && (ordinary || objects.iter().zip(&standings).any(taken));
        for (object, standing) in objects.iter().zip(&standings) {
            match standing {
                Standing::Different(reason) => planned.obstacles.push(obstacle(
                    *object,
                    reason.clone(),
                    "freeze the programs that share it together, or thaw a copy (--clone), which gets its own",
                )),
                Standing::Unreadable => planned.obstacles.push(obstacle(
                    *object,
                    "it is there, and whether it is as it was cannot be told, since you may not read it".to_owned(),
                    "remove it (ipcrm), so that it is made as it was, thaw it as root, or thaw a copy (--clone)",
                )),
                Standing::Same { used: true } if planned.namespace => planned.obstacles.push(obstacle(
                    *object,
                    "another program uses it, while others of the program's are missing and can only be made apart \
                     from it: their numbers are taken, or only root may choose numbers"
                        .to_owned(),
                    "thaw it as root, or a copy (--clone)",
                )),
                Standing::Same { .. } if !planned.namespace => {
                    planned.notes.push(format!("{} is there, and is used again", object.describe()));
                }
                Standing::Same { .. } | Standing::Missing | Standing::Leftover => {}
            }
        }
    }
    for object in &objects {
        let Object::Segment(Segment { huge_shift: Some(shift), .. }) = object else { continue };
        if let Some(page_bytes) = 1_u64.checked_shl(*shift)
            && (planned.namespace || object.standing() == Standing::Missing)
        {
            // All of them are reserved at once (`hugetlb_file_setup`, fs/hugetlbfs/inode.c).
            let needed = planned.huge_pages.entry(*shift).or_default();
            *needed = needed.saturating_add(object.size().div_ceil(page_bytes));
        }
    }
    if planned.namespace && ordinary {
        // A user namespace of an ordinary user knows that user and group only.
        let us = (rustix::process::geteuid().as_raw(), rustix::process::getegid().as_raw());
        for object in objects.iter().filter(|object| (object.ipc().uid, object.ipc().gid) != us) {
            let reason = format!("it belongs to user {}, group {}", object.ipc().uid, object.ipc().gid);
            planned.obstacles.push(obstacle(
                *object,
                reason,
                "thaw it as root, or as the user and the group it belongs to (sg(1))",
            ));
        }
    }
    if planned.namespace && !objects.is_empty() {
        planned.notes.push(format!(
            "{} of System V get an IPC namespace of its own",
            match objects.len() {
                1 => "one object".to_owned(),
                count => format!("{count} objects"),
            }
        ));
    }
    planned
}

/// Objects that were made; dropped before the commit, they are removed again.
#[derive(Debug, Default)]
pub(crate) struct Made {
    made: Vec<(Kind, i32)>,
    /// Sets of semaphores that were there, by their place in the image: what the ends of the processes have undone in
    /// them is still undone.
    pub(crate) undone: Vec<bool>,
    vanish: Vec<i32>,
}

/// Makes what is missing, in an IPC namespace of its own or in ours.
pub(crate) fn make(checkpoint: &Checkpoint, own: bool, pack: BorrowedFd<'_>) -> Result<Made, Error> {
    match make_all(checkpoint, own, pack) {
        Err(Error::Object { source: Errno::EXIST, .. }) if !own && !any_used(checkpoint) => {
            // A place was free when the plan was made.
            sysv::unshare().about("make", "an IPC namespace")?;
            make_all(checkpoint, true, pack)
        }
        other => other,
    }
}

fn any_used(checkpoint: &Checkpoint) -> bool {
    Object::all(checkpoint).any(|object| object.standing() == Standing::Same { used: true })
}

fn make_all(checkpoint: &Checkpoint, own: bool, pack: BorrowedFd<'_>) -> Result<Made, Error> {
    let mut made = Made::default();
    if own {
        raise_limits(checkpoint);
    }
    for object in Object::all(checkpoint) {
        let (kind, id) = (object.kind(), object.ipc().id);
        let standing = if own { Standing::Missing } else { object.standing() };
        match standing {
            Standing::Same { .. } => {}
            Standing::Different(reason) => {
                return Err(Error::Changed { object: object.describe(), reason });
            }
            Standing::Unreadable => {
                let reason = "one that may not be read was made meanwhile".to_owned();
                return Err(Error::Changed { object: object.describe(), reason });
            }
            Standing::Missing | Standing::Leftover => {
                if standing == Standing::Leftover {
                    sysv::remove(kind, id).about("remove", object.describe())?;
                }
                let result = object.make(pack);
                if result != Err(Errno::EXIST) {
                    made.made.push((kind, id));
                }
                result.about("make", object.describe())?;
            }
        }
        match object {
            Object::Semaphores(_) => made.undone.push(matches!(standing, Standing::Same { .. })),
            Object::Segment(segment) if segment.removed => made.vanish.push(id),
            Object::Segment(_) | Object::Queue(_) => {}
        }
    }
    Ok(made)
}

/// A new namespace has the kernel's default limits.
fn raise_limits(checkpoint: &Checkpoint) {
    let queues = &checkpoint.objects.queues;
    let capacity = queues.iter().map(|queue| queue.capacity_bytes).max().unwrap_or(0);
    let longest =
        queues.iter().flat_map(|queue| &queue.messages).map(|message| message.data.len() as u64).max();
    for (name, wanted, default) in [("msgmnb", capacity, 16_384), ("msgmax", longest.unwrap_or(0), 8192)] {
        if wanted > default {
            // If it does not work, what needs it fails by name.
            let _ = std::fs::write(format!("/proc/sys/kernel/{name}"), wanted.to_string());
        }
    }
}

impl Made {
    /// Gives objects their owners and modes, and lets segments vanish with their last attachment again, now that all of
    /// the tree is attached.
    ///
    /// Not before: in a set of semaphores whose undoing was not noted yet, nothing would tell that a thaw died amid it.
    pub(crate) fn all_attached(&mut self, checkpoint: &Checkpoint) -> Result<(), Error> {
        for object in Object::all(checkpoint) {
            if self.made.contains(&(object.kind(), object.ipc().id)) {
                object.complete().about("set the owner of", object.describe())?;
            }
        }
        for id in self.vanish.drain(..) {
            sysv::remove(Kind::Segment, id).about("mark as removed", format!("segment {id}"))?;
        }
        Ok(())
    }

    /// The tree lives: they are its own.
    pub(crate) fn keep(&mut self) {
        self.made.clear();
    }
}

impl Drop for Made {
    fn drop(&mut self) {
        for (kind, id) in self.made.drain(..) {
            let _ = sysv::remove(kind, id);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn private_set(id: i32, values: &[u16]) -> SemaphoreSet {
        let found = sysv::status(Kind::Semaphores, id);
        let found = found.unwrap_or_default();
        let ipc = Ipc {
            id,
            key: 0,
            uid: found.uid,
            gid: found.gid,
            mode: found.mode & 0o777,
            creator: None,
            pids: Vec::new(),
        };
        SemaphoreSet { ipc, values: values.to_vec(), operated: false, undo: Vec::new() }
    }

    #[test]
    fn an_object_that_is_gone_is_missing_and_one_with_other_values_is_different() {
        let set = private_set(i32::MAX, &[1]);
        assert_eq!(Object::Semaphores(&set).standing(), Standing::Missing);
        assert_eq!(Object::Semaphores(&set).describe(), "semaphore set 2147483647");
    }
}
