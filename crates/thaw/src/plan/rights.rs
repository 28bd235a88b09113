//! Whether whoever thaws may set what the program had.

use super::{Namespaces, limit_name, obstacle};
use crate::baseline::Baseline;
use frost_model::pd::Credentials;
use frost_model::{Checkpoint, Obstacle, Process};

const CAP_SETGID: u32 = 6;
const CAP_SETUID: u32 = 7;
const CAP_SYS_NICE: u32 = 23;
const CAP_SYS_RESOURCE: u32 = 24;

pub(super) fn obstacles(
    checkpoint: &Checkpoint,
    baseline: &Baseline,
    namespaces: Namespaces,
) -> Vec<Obstacle> {
    let mut found = Vec::new();
    for process in checkpoint.processes.iter().filter(|process| !process.cpu.threads.is_empty()) {
        let own = process.cpu.threads.iter().filter_map(|thread| thread.credentials.as_ref());
        let mut seen: Vec<&Credentials> = Vec::new();
        for credentials in std::iter::once(&process.pd.credentials).chain(own) {
            if !seen.contains(&credentials) {
                seen.push(credentials);
                found.extend(credentials_obstacle(process, credentials, baseline, namespaces));
            }
        }
        for (number, limit) in process.pd.limits.iter().enumerate() {
            let Some(have) = baseline.limits.get(number) else { continue };
            let may_raise = !namespaces.user && baseline.capable(CAP_SYS_RESOURCE);
            if limit.hard > have.hard && !may_raise {
                let value = |value: u64| match value {
                    u64::MAX => "unlimited".to_owned(),
                    value => value.to_string(),
                };
                let reason = format!(
                    "its hard limit is {}, ours {} and cannot be raised",
                    value(limit.hard),
                    value(have.hard)
                );
                let remedy = "thaw it from where the limit is as high, or with CAP_SYS_RESOURCE";
                found.push(obstacle(process, limit_name(number as u32), reason, remedy));
            }
        }
        let may_nice = !namespaces.user && baseline.capable(CAP_SYS_NICE);
        let unfair = |policy: u32| !matches!(policy, 0 | 3 | 5);
        let scheduled = process.cpu.threads.iter().find(|thread| {
            let want = &thread.scheduling;
            want.nice < baseline.sched.nice || (unfair(want.policy) && want.policy != baseline.sched.policy)
        });
        if let Some(thread) = scheduled.filter(|_| !may_nice) {
            let reason = "it is scheduled with a priority that we may not give".to_owned();
            let remedy = "thaw it with CAP_SYS_NICE";
            found.push(obstacle(process, format!("thread {}", thread.tid), reason, remedy));
        }
        let adjusted = process.pd.prctl.oom_score_adj;
        if adjusted < baseline.oom_score_adj && (namespaces.user || !baseline.capable(CAP_SYS_RESOURCE)) {
            let reason =
                format!("it was {adjusted}, ours is {} and cannot be lowered", baseline.oom_score_adj);
            found.push(obstacle(process, "its oom_score_adj", reason, "thaw it with CAP_SYS_RESOURCE"));
        }
    }
    found
}

fn credentials_obstacle(
    process: &Process,
    want: &Credentials,
    baseline: &Baseline,
    namespaces: Namespaces,
) -> Option<Obstacle> {
    let have = &baseline.credentials;
    let mut remedy = "thaw it as root, or as the user it ran as";
    let (object, reason) = if namespaces.user {
        // A user namespace of an ordinary user knows that user and group only (user_namespaces(7)).
        if want.uids.iter().any(|uid| *uid != have.uids[1]) {
            ("its user", format!("it is {}, and we are {}", ids(&want.uids), have.uids[1]))
        } else if want.gids.iter().any(|gid| *gid != have.gids[1]) {
            remedy = "thaw it as root, or as a program of that group: `sg GROUP -c 'frost thaw ...'`";
            ("its group", format!("it is {}, and ours is {}", ids(&want.gids), have.gids[1]))
        } else if want.groups != have.groups {
            let reason = format!("they are {}, and ours are {}", ids(&want.groups), ids(&have.groups));
            remedy = "thaw it as root, or from a login that has these groups and no other";
            ("its supplementary groups", reason)
        } else if want.permitted != 0 {
            ("its capabilities", "it had some, and ordinary users cannot give them".to_owned())
        } else {
            return None;
        }
    } else {
        let users = want.uids != have.uids && !baseline.capable(CAP_SETUID);
        let groups = (want.gids != have.gids || want.groups != have.groups) && !baseline.capable(CAP_SETGID);
        let lacking = (want.permitted & !have.permitted) | (want.bounding & !have.bounding);
        if users || groups {
            ("its user and groups", "we may not set them".to_owned())
        } else if lacking != 0 {
            ("its capabilities", format!("we lack {}", capability_names(lacking)))
        } else if have.no_new_privs && !want.no_new_privs {
            ("its privileges", "we have no_new_privs set, which cannot be taken back".to_owned())
        } else {
            return None;
        }
    };
    Some(obstacle(process, object, reason, remedy))
}

fn ids(ids: &[u32]) -> String {
    let mut ids = ids.to_vec();
    ids.dedup();
    if ids.is_empty() {
        return "none".to_owned();
    }
    ids.iter().map(u32::to_string).collect::<Vec<_>>().join(", ")
}

/// Names of capabilities, by number (`include/uapi/linux/capability.h`).
const CAPABILITIES: [&str; 41] = [
    "CAP_CHOWN",
    "CAP_DAC_OVERRIDE",
    "CAP_DAC_READ_SEARCH",
    "CAP_FOWNER",
    "CAP_FSETID",
    "CAP_KILL",
    "CAP_SETGID",
    "CAP_SETUID",
    "CAP_SETPCAP",
    "CAP_LINUX_IMMUTABLE",
    "CAP_NET_BIND_SERVICE",
    "CAP_NET_BROADCAST",
    "CAP_NET_ADMIN",
    "CAP_NET_RAW",
    "CAP_IPC_LOCK",
    "CAP_IPC_OWNER",
    "CAP_SYS_MODULE",
    "CAP_SYS_RAWIO",
    "CAP_SYS_CHROOT",
    "CAP_SYS_PTRACE",
    "CAP_SYS_PACCT",
    "CAP_SYS_ADMIN",
    "CAP_SYS_BOOT",
    "CAP_SYS_NICE",
    "CAP_SYS_RESOURCE",
    "CAP_SYS_TIME",
    "CAP_SYS_TTY_CONFIG",
    "CAP_MKNOD",
    "CAP_LEASE",
    "CAP_AUDIT_WRITE",
    "CAP_AUDIT_CONTROL",
    "CAP_SETFCAP",
    "CAP_MAC_OVERRIDE",
    "CAP_MAC_ADMIN",
    "CAP_SYSLOG",
    "CAP_WAKE_ALARM",
    "CAP_BLOCK_SUSPEND",
    "CAP_AUDIT_READ",
    "CAP_PERFMON",
    "CAP_BPF",
    "CAP_CHECKPOINT_RESTORE",
];

fn capability_names(set: u64) -> String {
    let names = (0..64).filter(|bit| set & (1 << bit) != 0).map(|bit| {
        CAPABILITIES.get(bit).map_or_else(|| format!("capability {bit}"), |name| (*name).to_owned())
    });
    names.collect::<Vec<_>>().join(", ")
}
