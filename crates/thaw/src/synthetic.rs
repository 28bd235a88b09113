//! A checkpoint made by hand: a process of one page of code, a stack, and a counter in a shared file.

use crate::build::{self, Material};
use crate::compile::Relation;
use crate::release;
use frost_model::cap::{FileIdentity, FileRef, Objects};
use frost_model::clock::Clocks;
use frost_model::cpu::{CpuState, NOT_IN_SYSCALL, Registers, Restart, Thread};
use frost_model::host::Host;
use frost_model::pd::{Life, PdState, Relation as Place, SIGNALS, SignalAction};
use frost_model::ram::{Pages, Run};
use frost_model::rm::{Attachment, PageRange, Protection, Region, RegionFlags, RmState};
use frost_model::{BytePath, Checkpoint, Pid, Process, Steps, TargetAddr, Tid};
use frost_sys::ptrace;
use std::os::unix::fs::FileExt;
use std::path::Path;
use std::sync::Mutex;
use std::time::Duration;

const CODE: u64 = 0x1_0000_0000;
const STACK: u64 = 0x1_1000_0000;
const COUNTERS: u64 = 0x1_2000_0000;

/// Counts in the word at rbx until the word at r12 is not 0, then ends with status 7:
/// `1: inc qword [rbx]; cmp qword [r12], 0; je 1b; mov edi, 7; mov eax, 231; syscall`.
const COUNT: [u8; 22] = [
    0x48, 0xff, 0x03, 0x49, 0x83, 0x3c, 0x24, 0x00, 0x74, 0xf6, 0xbf, 7, 0, 0, 0, 0xb8, 231, 0, 0, 0, 0x0f,
    0x05,
];

fn region(start: u64, protection: (bool, bool, bool), attachment: Attachment, private: Pages) -> Region {
    Region {
        range: PageRange::new(start, start + 4096).unwrap(),
        protection: Protection { read: protection.0, write: protection.1, execute: protection.2, key: 0 },
        attachment,
        flags: RegionFlags::default(),
        private,
        guards: Vec::new(),
        policy: None,
        huge_shift: None,
    }
}

/// A process that counts in word `slot` of `file`.
pub(crate) fn process(pid: i32, parent: Option<i32>, file: &Path, slot: u64, threads: &[i32]) -> Process {
    let ours = crate::baseline::Baseline::read().unwrap();
    let thread = |tid: i32, slot: u64| Thread {
        tid: Tid::new(tid),
        name: BytePath::new(*b"counter"),
        registers: Registers {
            rip: CODE,
            rsp: STACK + 4096,
            rbx: COUNTERS + 8 * slot,
            r12: COUNTERS,
            cs: 0x33,
            ss: 0x2b,
            eflags: 0x202,
            orig_rax: NOT_IN_SYSCALL,
            ..Registers::default()
        },
        restart: Restart::None,
        xstate: Vec::new(),
        blocked: 0,
        pending: Vec::new(),
        alt_stack: Default::default(),
        robust_list: None,
        rseq: None,
        clear_child_tid: TargetAddr::new(0),
        credentials: None,
        scheduling: frost_model::cpu::Scheduling {
            policy: ours.sched.policy,
            flags: ours.sched.flags,
            nice: ours.sched.nice,
            priority: ours.sched.priority,
            runtime_ns: ours.sched.runtime,
            deadline_ns: ours.sched.deadline,
            period_ns: ours.sched.period,
            affinity: ours.affinity.clone(),
            io_priority: ours.io_priority,
            timer_slack_ns: ours.timer_slack_ns,
            default_timer_slack_ns: Some(ours.timer_slack_ns),
            memory_policy: ours.memory_policy.clone(),
        },
        parent_death_signal: 0,
        settings: Default::default(),
        ended: None,
        filters: Vec::new(),
    };
    let all = std::iter::once(pid).chain(threads.iter().copied());
    let counters = Attachment::File {
        file: FileRef { path: BytePath::from(file), identity: FileIdentity::default() },
        offset: 0,
        shared: true,
        may_write: true,
    };
    let code = Pages { runs: vec![Run { offset: 0, len_bytes: 4096, pack_offset: 0 }] };
    Process {
        pd: PdState {
            relation: Place {
                pid: Pid::new(pid),
                parent: parent.map(Pid::new),
                group: Some(Pid::new(pid)),
                session: None,
                controls_terminal: false,
                exit_signal: libc::SIGCHLD,
                subreaper: false,
            },
            life: Life::Running,
            command: BytePath::new(*b"counter"),
            arguments: Vec::new(),
            exe: None,
            credentials: ours.credentials.clone(),
            cwd: None,
            root: None,
            umask: 0o22,
            actions: vec![SignalAction::default(); SIGNALS],
            pending: Vec::new(),
            limits: ours.limits.clone(),
            interval_timers: Default::default(),
            posix_timers: Vec::new(),
            prctl: frost_model::pd::PrctlState {
                dumpable: 1,
                oom_score_adj: ours.oom_score_adj,
                coredump_filter: ours.coredump_filter,
                ..Default::default()
            },
            descriptors: Vec::new(),
        },
        cpu: CpuState {
            threads: all.enumerate().map(|(number, tid)| thread(tid, slot + number as u64)).collect(),
        },
        rm: RmState {
            regions: vec![
                region(CODE, (true, false, true), Attachment::Anonymous, code),
                region(STACK, (true, true, false), Attachment::Anonymous, Pages::default()),
                region(COUNTERS, (true, true, false), counters, Pages::default()),
            ],
            bounds: Default::default(),
            vdso: None,
            keys: Default::default(),
        },
    }
}

pub(crate) fn checkpoint(processes: Vec<Process>) -> Checkpoint {
    Checkpoint {
        host: Host {
            architecture: std::env::consts::ARCH.to_owned(),
            kernel: String::new(),
            boot_id: String::new(),
            xcr0: 0,
            cpu_features: Vec::new(),
            uid: 0,
            privileged: true,
            pid_namespace: false,
            ipc_namespace: false,
            runtime: None,
        },
        clocks: Clocks::default(),
        processes,
        descriptions: Vec::new(),
        objects: Objects::default(),
        dataspaces: Vec::new(),
        machine: None,
        layers: Vec::new(),
        bundle: Vec::new(),
        nests: Vec::new(),
    }
}

pub(crate) fn pack() -> rustix::fd::OwnedFd {
    let pack = rustix::fs::memfd_create("pack", rustix::fs::MemfdFlags::CLOEXEC).unwrap();
    let mut page = COUNT.to_vec();
    page.resize(4096, 0);
    rustix::io::pwrite(&pack, &page, 0).unwrap();
    pack
}

fn counters() -> tempfile::NamedTempFile {
    let file = tempfile::NamedTempFile::new().unwrap();
    file.as_file().set_len(4096).unwrap();
    file
}

fn word(file: &tempfile::NamedTempFile, slot: u64) -> u64 {
    let mut bytes = [0; 8];
    file.as_file().read_exact_at(&mut bytes, 8 * slot).unwrap();
    u64::from_ne_bytes(bytes)
}

/// One thaw at a time: whose children orphans become is a setting of the whole test process.
static ALONE: Mutex<()> = Mutex::new(());

/// Returns the first of 32 free pids.
fn free_pids() -> i32 {
    let free = |pid: i32| {
        let pid = rustix::process::Pid::from_raw(pid).unwrap();
        rustix::process::test_kill_process(pid) == Err(rustix::io::Errno::SRCH)
    };
    (300..30_000).step_by(32).find(|base| (*base..base + 32).all(free)).unwrap()
}

fn privileged() -> bool {
    let root = rustix::process::geteuid().is_root();
    if !root {
        eprintln!("skipped: needs the right to choose pids");
    }
    root
}

fn thaw(checkpoint: &Checkpoint) -> Result<i32, crate::Error> {
    let mut steps = Steps::start();
    let material = || {
        Ok(Material {
            terminals: Vec::new(),
            removed: Default::default(),
            instead: Vec::new(),
            pack: pack(),
            descriptions: Vec::new(),
            calls: vec![Vec::new(); checkpoint.processes.len()],
            undone: Vec::new(),
            nests: Vec::new(),
        })
    };
    let relation = Relation { attach: false, copy: false };
    let mut half = build::build(checkpoint, relation, None, false, material, || Ok(()), &mut steps)?;
    release::stop(&half, &mut steps)?;
    release::settings(&half)?;
    assert!(release::release(&mut half, &mut steps)?);
    eprintln!("{:?}", steps.done());
    Ok(half.root)
}

fn counts(file: &tempfile::NamedTempFile, slots: std::ops::Range<u64>) {
    for slot in slots {
        let deadline = std::time::Instant::now() + Duration::from_secs(20);
        while word(file, slot) == 0 {
            assert!(std::time::Instant::now() < deadline, "slot {slot} does not count");
            std::thread::sleep(Duration::from_millis(1));
        }
    }
}

fn end(file: &tempfile::NamedTempFile, root: i32) {
    file.as_file().write_all_at(&1u64.to_ne_bytes(), 0).unwrap();
    assert_eq!(ptrace::wait(root, true).unwrap(), Some(ptrace::Stop::Exited(7)));
}

#[test]
fn a_process_of_one_page_goes_on_where_it_was() {
    if !privileged() {
        return;
    }
    let _alone = ALONE.lock();
    let base = free_pids();
    let file = counters();
    let checkpoint = checkpoint(vec![process(base, None, file.path(), 1, &[])]);
    let root = thaw(&checkpoint).unwrap();
    assert_eq!(root, base);
    counts(&file, 1..2);
    let maps = std::fs::read_to_string(format!("/proc/{base}/maps")).unwrap();
    assert_eq!(maps.lines().filter(|line| !line.contains("vsyscall")).count(), 3, "{maps}");
    assert_eq!(std::fs::read_dir(format!("/proc/{base}/fd")).unwrap().count(), 0);
    end(&file, root);
}

#[test]
fn threads_and_children_go_on_too() {
    if !privileged() {
        return;
    }
    let _alone = ALONE.lock();
    let base = free_pids();
    let file = counters();
    let mut child = process(base + 1, Some(base), file.path(), 4, &[base + 2]);
    child.pd.relation.group = Some(Pid::new(base));
    let mut grandchild = process(base + 4, Some(base + 1), file.path(), 6, &[]);
    grandchild.pd.relation.session = Some(Pid::new(base + 4));
    let mut zombie = process(base + 5, Some(base), file.path(), 7, &[]);
    zombie.pd.life = Life::Zombie { status: 3 << 8 };
    zombie.cpu.threads.clear();
    zombie.rm = RmState::default();
    let mut late = process(base + 6, Some(base), file.path(), 8, &[]);
    // The leader of this group has ended.
    late.pd.relation.group = Some(Pid::new(base + 20));
    let mut later = process(base + 7, Some(base), file.path(), 9, &[]);
    later.pd.relation.group = Some(Pid::new(base + 20));
    let checkpoint = checkpoint(vec![
        process(base, None, file.path(), 1, &[base + 10, base + 11]),
        child,
        grandchild,
        zombie,
        late,
        later,
    ]);
    let root = thaw(&checkpoint).unwrap();
    counts(&file, 1..7);
    counts(&file, 8..10);
    let stat = |pid: i32| frost_sys::proc::stat(pid).unwrap();
    assert_eq!(stat(base + 1).ppid, base);
    assert_eq!(stat(base + 1).pgrp, base);
    assert_eq!(stat(base + 4).session, base + 4);
    assert_eq!(stat(base + 5).state, b'Z');
    assert_eq!((stat(base + 6).pgrp, stat(base + 7).pgrp), (base + 20, base + 20));
    assert_eq!(frost_sys::proc::status(base + 1).unwrap().tracer, 0);
    end(&file, root);
}

#[test]
fn a_taken_pid_leaves_nothing_behind() {
    if !privileged() {
        return;
    }
    let _alone = ALONE.lock();
    let base = free_pids();
    let file = counters();
    let mut child = process(base + 1, Some(base), file.path(), 3, &[]);
    child.pd.relation.pid = Pid::new(1);
    let other = process(base + 2, Some(base), file.path(), 4, &[]);
    let checkpoint = checkpoint(vec![process(base, None, file.path(), 1, &[base + 3]), other, child]);
    let error = thaw(&checkpoint).unwrap_err();
    assert!(matches!(error, crate::Error::Call { stage: crate::Stage::Clone, .. }), "{error:?}");
    for pid in base..base + 4 {
        assert!(frost_sys::proc::stat(pid).is_err(), "{pid} is still there");
    }
}
