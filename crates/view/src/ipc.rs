//! Objects of System V and POSIX message queues, which processes share by number or name: most have no descriptor.

use crate::difference::Setting;
use crate::object::{clause, messages};
use frost_model::cap::{Ipc, MqueueMessage, Objects, QueuedMessage};

/// An object in words.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Object {
    /// Kind and number, or name: `System V semaphores 3`, `POSIX message queue /jobs`.
    pub name: String,
    /// Key, rights, what waits in it or which values it has.
    pub state: String,
    /// What the state tells a part of only: all values, all messages. That of segments is memory, which is compared as such.
    content: Vec<u8>,
}

/// So many values of semaphores are told.
const VALUES: usize = 16;

/// Lists the objects of an image.
pub fn objects(objects: &Objects) -> Vec<Object> {
    let mut found = Vec::new();
    let mut add = |name, details: Vec<(&'static str, String)>, content| {
        found.push(Object { name, state: clause(&details), content });
    };
    let waiting = |count: usize, bytes: usize| ("unread", format!("{bytes} bytes in {}", messages(count)));
    for segment in &objects.segments {
        let mut details = common(&segment.ipc);
        details.push(("bytes", segment.len_bytes.to_string()));
        let flags = [(segment.removed, "removed"), (segment.locked, "locked")];
        details.extend(flags.iter().filter(|(is, _)| *is).map(|(_, label)| (*label, String::new())));
        add(format!("System V segment {}", segment.ipc.id), details, Vec::new());
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
        let content = format!("{:?}", (&set.values, &set.undo)).into_bytes();
        add(format!("System V semaphores {}", set.ipc.id), details, content);
    }
    for queue in &objects.queues {
        let mut details = common(&queue.ipc);
        let bytes = queue.messages.iter().map(|message| message.data.len()).sum();
        details.push(waiting(queue.messages.len(), bytes));
        let message = |message: &QueuedMessage| [&message.kind.to_ne_bytes()[..], &message.data].concat();
        let content = queue.messages.iter().flat_map(message).collect();
        add(format!("System V message queue {}", queue.ipc.id), details, content);
    }
    for queue in &objects.mqueues {
        let mut details = vec![("mode", format!("{:03o}", queue.mode))];
        let bytes = queue.messages.iter().map(|message| message.data.len()).sum();
        details.push(waiting(queue.messages.len(), bytes));
        let message = |message: &MqueueMessage| [&message.priority.to_ne_bytes()[..], &message.data].concat();
        let content = queue.messages.iter().flat_map(message).collect();
        // Another one may have its name by now.
        let removed = if queue.removed { " (removed)" } else { "" };
        add(format!("POSIX message queue /{}{removed}", queue.name), details, content);
    }
    found
}

fn common(ipc: &Ipc) -> Vec<(&'static str, String)> {
    let key = (ipc.key != 0).then(|| ("key", format!("{:#x}", ipc.key)));
    key.into_iter().chain([("mode", format!("{:03o}", ipc.mode))]).collect()
}

/// Lists what differs in the objects of two images; what only one of them has is empty in the other.
pub(crate) fn differences(before: &Objects, after: &Objects) -> Vec<Setting> {
    let (before, after) = (objects(before), objects(after));
    let come = after.iter().filter(|object| before.iter().all(|other| other.name != object.name));
    let difference = |object: &Object| {
        let in_image = |all: &[Object]| all.iter().find(|other| other.name == object.name).cloned();
        let (was, is) = (in_image(&before), in_image(&after));
        let state = |object: &Option<Object>| object.as_ref().map_or_else(String::new, |it| it.state.clone());
        let mut setting = Setting { what: object.name.clone(), before: state(&was), after: state(&is) };
        if was != is && setting.before == setting.after {
            setting.after.push_str(", of other content");
        }
        (was != is).then_some(setting)
    };
    before.iter().chain(come).filter_map(difference).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use frost_model::cap::SemaphoreSet;

    #[test]
    fn what_the_state_does_not_show_is_a_difference_too() {
        let set = |values: Vec<u16>| {
            let set = SemaphoreSet { ipc: Ipc::default(), values, operated: true, undo: Vec::new() };
            Objects { semaphores: vec![set], ..Objects::default() }
        };
        let mut values = vec![1; VALUES + 4];
        let before = set(values.clone());
        assert_eq!(differences(&before, &before), []);
        values[VALUES + 3] = 2;
        let found = differences(&before, &set(values));
        assert_eq!(found.len(), 1);
        assert_eq!(found[0].after, format!("{}, of other content", found[0].before));
        assert_eq!(differences(&before, &Objects::default())[0].after, "");
    }
}
