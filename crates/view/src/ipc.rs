//! Objects of System V and POSIX message queues, which processes share by number or name: most have no descriptor.

use crate::difference::Setting;
use crate::object::{clause, messages};
use frost_model::Checkpoint;
use frost_model::cap::Ipc;

/// An object in words.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Object {
    /// Kind and number, or name: `System V semaphores 3`, `POSIX message queue /jobs`.
    pub name: String,
    /// Key, rights, what waits in it or which values it has.
    pub state: String,
}

/// So many values of semaphores are told.
const VALUES: usize = 16;

/// Lists the objects of an image.
pub fn objects(checkpoint: &Checkpoint) -> Vec<Object> {
    let objects = &checkpoint.objects;
    let mut found = Vec::new();
    let mut add = |name, details: Vec<(&'static str, String)>| {
        found.push(Object { name, state: clause(&details) });
    };
    let waiting = |count: usize, bytes: usize| ("unread", format!("{bytes} bytes in {}", messages(count)));
    for segment in &objects.segments {
        let mut details = common(&segment.ipc);
        details.push(("bytes", segment.len_bytes.to_string()));
        let flags = [(segment.removed, "removed"), (segment.locked, "locked")];
        details.extend(flags.iter().filter(|(is, _)| *is).map(|(_, label)| (*label, String::new())));
        add(format!("System V segment {}", segment.ipc.id), details);
    }
    for set in &objects.semaphores {
        let mut details = common(&set.ipc);
        let shown: Vec<String> = set.values.iter().take(VALUES).map(u16::to_string).collect();
        let rest = set.values.len() - shown.len();
        let more = if rest > 0 { format!(" and {rest} more") } else { String::new() };
        details.push(("values", shown.join(" ") + &more));
        if !set.undo.is_empty() {
            details.push(("processes with SEM_UNDO", set.undo.len().to_string()));
        }
        add(format!("System V semaphores {}", set.ipc.id), details);
    }
    for queue in &objects.queues {
        let mut details = common(&queue.ipc);
        let bytes = queue.messages.iter().map(|message| message.data.len()).sum();
        details.push(waiting(queue.messages.len(), bytes));
        add(format!("System V message queue {}", queue.ipc.id), details);
    }
    for queue in &objects.mqueues {
        let mut details = vec![("mode", format!("{:03o}", queue.mode))];
        let bytes = queue.messages.iter().map(|message| message.data.len()).sum();
        details.push(waiting(queue.messages.len(), bytes));
        if queue.removed {
            details.push(("removed", String::new()));
        }
        add(format!("POSIX message queue /{}", queue.name), details);
    }
    found
}

fn common(ipc: &Ipc) -> Vec<(&'static str, String)> {
    let key = (ipc.key != 0).then(|| ("key", format!("{:#x}", ipc.key)));
    key.into_iter().chain([("mode", format!("{:03o}", ipc.mode))]).collect()
}

/// Lists what differs in the objects of two images; what only one of them has is empty in the other.
pub(crate) fn differences(before: &Checkpoint, after: &Checkpoint) -> Vec<Setting> {
    let (before, after) = (objects(before), objects(after));
    let state_in = |all: &[Object], name: &str| {
        all.iter().find(|object| object.name == name).map(|object| object.state.clone()).unwrap_or_default()
    };
    let come = after.iter().filter(|object| before.iter().all(|other| other.name != object.name));
    before
        .iter()
        .chain(come)
        .map(|object| Setting {
            what: object.name.clone(),
            before: state_in(&before, &object.name),
            after: state_in(&after, &object.name),
        })
        .filter(|setting| setting.before != setting.after)
        .collect()
}
