//! What changed in a process beside its memory.

use super::memory::{self, Contents};
use super::{Described, DescriptorChange, Named, ProcessDifference, Setting};
use crate::Error;
use crate::object;
use frost_model::cpu::Thread;
use frost_model::pd::{Credentials, Descriptor, Life, Limit, PdState, SIGNALS, SignalAction};
use frost_model::{Checkpoint, Process, TargetFd};
use std::collections::BTreeSet;
use std::fmt::Display;

pub(super) fn difference(
    (one, before): (&Checkpoint, &Process),
    (two, after): (&Checkpoint, &Process),
    contents: &mut Contents<'_>,
) -> Result<ProcessDifference, Error> {
    let ended = |process: &Process| process.cpu.threads.is_empty();
    if ended(before) != ended(after) {
        // Of a process that has ended there is nothing left, and nothing more to say of it.
        return Ok(ProcessDifference {
            process: super::named(before),
            settings: vec![Setting {
                what: "life".to_owned(),
                before: life(&before.pd.life),
                after: life(&after.pd.life),
            }],
            ..ProcessDifference::default()
        });
    }
    let (mappings, pages) = memory::of_process((one, before), (two, after), contents)?;
    let (was, is) = (&before.cpu.threads, &after.cpu.threads);
    let other =
        |threads: &'_ [Thread], thread: &Thread| threads.iter().find(|t| t.tid == thread.tid).cloned();
    let moved = |thread: &&Thread| {
        other(was, thread)
            .is_some_and(|before| before.registers != thread.registers || before.xstate != thread.xstate)
    };
    let names = |threads: Vec<&Thread>| threads.into_iter().map(named).collect::<Vec<_>>();
    let mut settings = settings(&before.pd, &after.pd);
    for thread in is {
        if let Some(before) = other(was, thread) {
            settings.extend(of_thread(&before, thread));
        }
    }
    Ok(ProcessDifference {
        process: super::named(after),
        threads_gone: names(was.iter().filter(|thread| other(is, thread).is_none()).collect()),
        threads_come: names(is.iter().filter(|thread| other(was, thread).is_none()).collect()),
        threads_moved: names(is.iter().filter(moved).collect()),
        mappings,
        pages,
        descriptors: descriptors((one, &before.pd), (two, &after.pd)),
        settings,
    })
}

fn named(thread: &Thread) -> Named {
    Named { id: thread.tid.raw(), name: thread.name.to_string() }
}

/// Compares descriptor tables by number.
fn descriptors(one: (&Checkpoint, &PdState), two: (&Checkpoint, &PdState)) -> Vec<DescriptorChange> {
    let numbers: BTreeSet<TargetFd> =
        one.1.descriptors.iter().chain(&two.1.descriptors).map(|descriptor| descriptor.fd).collect();
    let changed = numbers.into_iter().filter_map(|fd| {
        let (before, after) = (described(one, fd), described(two, fd));
        (before != after).then_some(DescriptorChange { fd: fd.raw(), before, after })
    });
    changed.collect()
}

fn described((checkpoint, pd): (&Checkpoint, &PdState), fd: TargetFd) -> Option<Described> {
    let found: &Descriptor = pd.descriptors.iter().find(|descriptor| descriptor.fd == fd)?;
    let description = checkpoint.descriptions.get(found.description.index())?;
    let mut details = object::details(checkpoint, description);
    if found.close_on_exec {
        details.push(("closed on exec", String::new()));
    }
    let capability = &description.capability;
    Some(Described {
        object: format!("{} {}", object::kind(capability), object::name(checkpoint, capability)),
        state: object::clause(&details),
    })
}

/// Collects what differs, in words.
struct Settings(Vec<Setting>);

impl Settings {
    fn compare<T: PartialEq>(
        &mut self,
        what: impl Into<String>,
        before: &T,
        after: &T,
        text: impl Fn(&T) -> String,
    ) {
        if before != after {
            self.0.push(Setting { what: what.into(), before: text(before), after: text(after) });
        }
    }

    fn number<T: PartialEq + Display>(&mut self, what: impl Into<String>, before: &T, after: &T) {
        self.compare(what, before, after, T::to_string);
    }
}

fn settings(before: &PdState, after: &PdState) -> Vec<Setting> {
    let mut found = Settings(Vec::new());
    let path = |file: &Option<frost_model::cap::FileRef>| {
        file.as_ref().map_or_else(|| "none".to_owned(), |file| file.path.to_string())
    };
    // Whether a file was touched meanwhile is no setting of the process.
    let places = |pd: &PdState| [path(&pd.exe), path(&pd.cwd), path(&pd.root)];
    let (was, is) = (places(before), places(after));
    for (index, what) in ["program", "working directory", "root directory"].into_iter().enumerate() {
        found.number(what, &was[index], &is[index]);
    }
    found.compare("life", &before.life, &after.life, life);
    found.number("command name", &before.command.to_string(), &after.command.to_string());
    let pid =
        |pid: &Option<frost_model::Pid>| pid.map_or_else(|| "outside".to_owned(), |pid| pid.to_string());
    found.compare("parent", &before.relation.parent, &after.relation.parent, pid);
    found.compare("process group", &before.relation.group, &after.relation.group, pid);
    found.compare("session", &before.relation.session, &after.relation.session, pid);
    found.compare("subreaper", &before.relation.subreaper, &after.relation.subreaper, bool::to_string);
    found.compare("umask", &before.umask, &after.umask, |mask| format!("{mask:03o}"));
    credentials(&mut found, "", &before.credentials, &after.credentials);
    for index in 0..before.limits.len().max(after.limits.len()) {
        let (was, is) = (before.limits.get(index), after.limits.get(index));
        let name = LIMITS.get(index).map_or_else(|| format!("limit {index}"), |name| format!("limit {name}"));
        found.compare(name, &was, &is, |limit| limit.map_or_else(|| "none".to_owned(), limit_text));
    }
    for index in 0..SIGNALS {
        let action = |pd: &PdState| pd.actions.get(index).copied().unwrap_or_default();
        found.compare(
            format!("action of signal {}", index + 1),
            &action(before),
            &action(after),
            action_text,
        );
    }
    found.compare("pending signals", &before.pending, &after.pending, |queue| signals(queue));
    found.compare("interval timers", &before.interval_timers, &after.interval_timers, |timers| {
        let armed = [timers.real, timers.virtual_, timers.prof].iter().filter(|t| !t.value.is_zero()).count();
        format!(
            "{armed} armed, real time left {}.{:06} s",
            timers.real.value.sec,
            timers.real.value.nsec / 1000
        )
    });
    found.number("timers", &before.posix_timers.len(), &after.posix_timers.len());
    let (was, is) = (&before.prctl, &after.prctl);
    found.number("dumpable", &was.dumpable, &is.dumpable);
    found.number("transparent huge pages disabled", &was.thp_disable, &is.thp_disable);
    found.compare("personality", &was.personality, &is.personality, |bits| format!("{bits:#x}"));
    found.number("oom score adjustment", &was.oom_score_adj, &is.oom_score_adj);
    found.compare("core dump filter", &was.coredump_filter, &is.coredump_filter, |bits| format!("{bits:#x}"));
    found.0
}

fn credentials(found: &mut Settings, whose: &str, before: &Credentials, after: &Credentials) {
    let ids = |ids: &[u32; 4]| ids.map(|id| id.to_string()).join(" ");
    let bits = |bits: &u64| format!("{bits:#x}");
    found.compare(format!("{whose}users"), &before.uids, &after.uids, ids);
    found.compare(format!("{whose}groups"), &before.gids, &after.gids, ids);
    found.compare(format!("{whose}supplementary groups"), &before.groups, &after.groups, |groups| {
        groups.iter().map(u32::to_string).collect::<Vec<_>>().join(" ")
    });
    found.compare(format!("{whose}permitted capabilities"), &before.permitted, &after.permitted, bits);
    found.compare(format!("{whose}effective capabilities"), &before.effective, &after.effective, bits);
    found.number(format!("{whose}no_new_privs"), &before.no_new_privs, &after.no_new_privs);
}

fn of_thread(before: &Thread, after: &Thread) -> Vec<Setting> {
    let mut found = Settings(Vec::new());
    let whose = format!("thread {}: ", after.tid);
    found.number(format!("{whose}name"), &before.name.to_string(), &after.name.to_string());
    found.compare(format!("{whose}blocked signals"), &before.blocked, &after.blocked, |set| {
        format!("{set:#x}")
    });
    found.compare(format!("{whose}pending signals"), &before.pending, &after.pending, |queue| signals(queue));
    let (was, is) = (&before.scheduling, &after.scheduling);
    found.number(format!("{whose}scheduling policy"), &was.policy, &is.policy);
    found.number(format!("{whose}nice value"), &was.nice, &is.nice);
    found.number(format!("{whose}priority"), &was.priority, &is.priority);
    found.compare(format!("{whose}affinity"), &was.affinity, &is.affinity, |cpus| {
        cpus.iter().map(u32::to_string).collect::<Vec<_>>().join(" ")
    });
    if let (Some(was), Some(is)) = (&before.credentials, &after.credentials) {
        credentials(&mut found, &whose, was, is);
    }
    found.0
}

fn signals(queue: &[frost_model::pd::SigInfo]) -> String {
    if queue.is_empty() {
        return "none".to_owned();
    }
    queue.iter().map(|info| info.signal().to_string()).collect::<Vec<_>>().join(" ")
}

fn life(life: &Life) -> String {
    match life {
        Life::Running => "running".to_owned(),
        Life::Stopped { signal } => format!("stopped by signal {signal}"),
        Life::Zombie { status } => format!("ended with status {status:#x}"),
    }
}

fn action_text(action: &SignalAction) -> String {
    match action.handler {
        0 => "default".to_owned(),
        1 => "ignored".to_owned(),
        handler => format!("handler {handler:#x}, flags {:#x}, mask {:#x}", action.flags, action.mask),
    }
}

fn limit_text(limit: &Limit) -> String {
    let value = |value: u64| if value == u64::MAX { "unlimited".to_owned() } else { value.to_string() };
    format!("{} of {}", value(limit.soft), value(limit.hard))
}

/// Names of the limits, in the order of their RLIMIT_ numbers on Linux (`include/uapi/asm-generic/resource.h`).
const LIMITS: [&str; 16] = [
    "cpu",
    "fsize",
    "data",
    "stack",
    "core",
    "rss",
    "nproc",
    "nofile",
    "memlock",
    "as",
    "locks",
    "sigpending",
    "msgqueue",
    "nice",
    "rtprio",
    "rttime",
];
