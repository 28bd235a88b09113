//! POSIX message queues: found by their name again if they are as they were, else made anew.

use super::ThawContext;
use super::error::{About, Error};
use super::file::Problem;
use frost_model::Checkpoint;
use frost_model::cap::Mqueue;
use frost_model::clock::Timespec;
use frost_sys::mqueue::{self, Attributes};
use frost_sys::undo::Undo;
use rustix::event::EventfdFlags;
use rustix::fd::OwnedFd;
use rustix::fs::{Gid, Mode, Uid};
use rustix::io::Errno;

/// How a queue is found.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Standing {
    /// It is as it was.
    Same,
    /// It has to be made.
    Missing,
    /// There is one of that name which is not it, or not as it was.
    Different(Problem),
}

/// Looks for a queue; in an IPC namespace of the program's own there is none.
pub(super) fn standing(queue: &Mqueue, own: bool) -> Standing {
    if own || queue.removed {
        return Standing::Missing;
    }
    let different = |reason: String, remedy: &str, errno| {
        Standing::Different(Problem { reason, remedy: remedy.to_owned(), errno, content: false })
    };
    let found = match mqueue::open(queue.name.as_bytes(), libc::O_RDWR | libc::O_NONBLOCK, 0, None) {
        Ok(found) => found,
        Err(Errno::NOENT) => return Standing::Missing,
        Err(errno) => {
            let reason = format!("it cannot be opened: {errno}");
            return different(reason, "thaw it as the user it belonged to, or as root", Some(errno));
        }
    };
    let remedy = "remove the queue (mq_unlink), so that it is made as it was, or thaw a copy (--clone), which gets its own";
    match (rustix::fs::fstat(&found), mqueue::attributes(&found)) {
        (Ok(stat), Ok(attributes)) => {
            let modified = Timespec { sec: stat.st_mtime, nsec: stat.st_mtime_nsec as i64 };
            if stat.st_ino != queue.inode {
                return different("another queue has its name".to_owned(), remedy, None);
            }
            if modified != queue.modified || attributes.waiting != queue.messages.len() as i64 {
                return different(
                    "messages came or went while the program was away".to_owned(),
                    remedy,
                    None,
                );
            }
            Standing::Same
        }
        (Err(errno), _) | (_, Err(errno)) => {
            different(format!("it cannot be looked at: {errno}"), remedy, Some(errno))
        }
    }
}

/// Says whose a queue will be that is made anew, if that is somebody else than before: an ordinary user cannot give it away.
pub(super) fn other_owner(queue: &Mqueue) -> Option<String> {
    let (user, group) = (rustix::process::geteuid(), rustix::process::getegid());
    let own = (user.as_raw(), group.as_raw());
    (!user.is_root() && own != (queue.uid, queue.gid)).then(|| {
        let (uid, gid) = own;
        format!(
            "it is made anew, and belongs to {uid}:{gid} then, and no longer to {}:{}",
            queue.uid, queue.gid
        )
    })
}

/// Queues that are open; the names of those that were made are taken away again when we go, or drop this, before the
/// program has them.
#[derive(Debug, Default)]
pub(super) struct Made {
    names: Vec<Vec<u8>>,
    /// Those who do it if we are killed; nobody in a pid namespace of the program's, in which they would take its numbers.
    undo: Vec<Undo>,
    apart: bool,
}

impl Made {
    /// The program has them.
    pub(super) fn keep(&mut self) {
        self.names.clear();
        self.undo.drain(..).for_each(Undo::disarm);
    }

    /// Opens every queue, and makes those that are missing.
    pub(super) fn open_all(
        checkpoint: &Checkpoint,
        context: &ThawContext,
    ) -> Result<(Self, Vec<OwnedFd>), Error> {
        let own = context.own_ipc;
        let mut made = Self { names: Vec::new(), undo: Vec::new(), apart: context.own_pids };
        let mut queues = Vec::new();
        if own && !checkpoint.objects.mqueues.is_empty() {
            raise_limits(checkpoint);
        }
        for queue in &checkpoint.objects.mqueues {
            let object = || format!("POSIX message queue /{}", queue.name);
            queues.push(match standing(queue, own) {
                Standing::Same => {
                    mqueue::open(queue.name.as_bytes(), libc::O_RDWR | libc::O_NONBLOCK, 0, None)
                        .about("open", object())?
                }
                Standing::Missing => made.make(queue).map_err(|errno| match limit(queue, errno) {
                    Some(limit) => Error::Limit { object: object(), limit },
                    None => Error::Object { action: "make", object: object(), source: errno },
                })?,
                Standing::Different(problem) => {
                    return Err(Error::Changed { object: object(), reason: problem.reason });
                }
            });
        }
        Ok((made, queues))
    }

    fn make(&mut self, queue: &Mqueue) -> rustix::io::Result<OwnedFd> {
        let attributes = Attributes::of(queue.most_messages.into(), queue.most_bytes.into());
        let open = |name: &[u8]| mqueue::open(name, libc::O_RDWR | libc::O_NONBLOCK, 0o600, Some(attributes));
        let mut name = queue.name.as_bytes().to_vec();
        let mut number = 0;
        let undo = match self.apart {
            true => None,
            false => Some(Undo::prepare(|| _ = mqueue::unlink(queue.name.as_bytes()))?),
        };
        let fd = loop {
            match open(&name) {
                // What has no name any more may have had one that is another's by now.
                Err(Errno::EXIST) if queue.removed && number < 1000 => {
                    name = format!("frost-removed-{}-{number}", std::process::id()).into_bytes();
                    number += 1;
                }
                opened => break opened?,
            }
        };
        if queue.removed {
            mqueue::unlink(&name)?;
        } else {
            undo.iter().for_each(Undo::arm);
            self.undo.extend(undo);
            self.names.push(name);
        }
        for message in &queue.messages {
            mqueue::send(&fd, &message.data, message.priority)?;
        }
        let stat = rustix::fs::fstat(&fd)?;
        if (stat.st_uid, stat.st_gid) != (queue.uid, queue.gid) {
            // The plan says so where it cannot be given away.
            let _ = rustix::fs::fchown(&fd, Some(Uid::from_raw(queue.uid)), Some(Gid::from_raw(queue.gid)));
        }
        rustix::fs::fchmod(&fd, Mode::from_raw_mode(queue.mode & 0o7777))?;
        Ok(fd)
    }
}

impl Drop for Made {
    fn drop(&mut self) {
        for name in &self.names {
            let _ = mqueue::unlink(name);
        }
        self.undo.drain(..).for_each(Undo::disarm);
    }
}

/// Tells the limit because of which a queue could not be made, if it was one (`mqueue_create_attr`, `mqueue_get_inode`,
/// ipc/mqueue.c).
fn limit(queue: &Mqueue, errno: Errno) -> Option<String> {
    match errno {
        // Also without a number for a descriptor.
        Errno::MFILE if rustix::event::eventfd(0, EventfdFlags::CLOEXEC).is_ok() => {
            let (soft, _) = frost_sys::limits::get(libc::RLIMIT_MSGQUEUE).unwrap_or_default();
            Some(format!(
                "all message queues of a user may take {soft} bytes, and there are others; raise that limit \
                 (`ulimit -q`), or remove those that nobody needs"
            ))
        }
        Errno::NOSPC => Some(
            "there are as many message queues as there may be; as root: raise fs.mqueue.queues_max (sysctl)"
                .to_owned(),
        ),
        Errno::INVAL => Some(format!(
            "it is larger than one may be here; as root: raise fs.mqueue.msg_max to {} and fs.mqueue.msgsize_max to {} \
             (sysctl), if they are less",
            queue.most_messages, queue.most_bytes
        )),
        _ => None,
    }
}

/// A new namespace has the kernel's default limits.
fn raise_limits(checkpoint: &Checkpoint) {
    let queues = || checkpoint.objects.mqueues.iter();
    let messages = queues().map(|queue| queue.most_messages).max().unwrap_or(0);
    let bytes = queues().map(|queue| queue.most_bytes).max().unwrap_or(0);
    let count = queues().count() as u32;
    for (name, wanted) in [("msg_max", messages), ("msgsize_max", bytes), ("queues_max", count)] {
        let path = format!("/proc/sys/fs/mqueue/{name}");
        let now = std::fs::read_to_string(&path).ok().and_then(|text| text.trim().parse::<u32>().ok());
        if now.is_some_and(|now| now < wanted) {
            // If it does not work, what needs it fails by name.
            let _ = std::fs::write(path, wanted.to_string());
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use frost_model::BytePath;

    #[test]
    fn a_limit_is_told_with_what_raises_it() {
        let queue = Mqueue {
            name: BytePath::new(*b"queue"),
            removed: false,
            inode: 0,
            modified: Timespec { sec: 0, nsec: 0 },
            mode: 0o600,
            uid: 0,
            gid: 0,
            most_messages: 300,
            most_bytes: 9000,
            messages: Vec::new(),
        };
        let told = |errno| limit(&queue, errno).unwrap_or_default();
        assert!(told(Errno::MFILE).contains("ulimit -q"));
        assert!(told(Errno::NOSPC).contains("fs.mqueue.queues_max"));
        assert!(told(Errno::INVAL).contains("fs.mqueue.msg_max to 300 and fs.mqueue.msgsize_max to 9000"));
        assert_eq!(limit(&queue, Errno::ACCESS), None);
    }
}
