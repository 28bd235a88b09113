//! The thaw itself: obeys a plan.

use crate::attach::{Attached, Passing, Terminal};
use crate::build::{self, Half, Material, begin};
use crate::error::{Context, Error};
use crate::inside::{self, Alive};
use crate::kept::Kept;
use crate::plan::{self, Options, Plan};
use crate::stage::Stage;
use crate::verify::Verification;
use crate::{cap, clocks, release};
use frost_keeper::notices::{Notices, Thawed as Told};
use frost_model::{Pid, Steps};
use frost_store::{Image, Intent};
use rustix::fd::{AsFd, OwnedFd};
use std::time::{Duration, Instant};

/// A program that runs again.
#[derive(Debug)]
pub struct Thawed {
    /// The root of its tree, in our pid namespace.
    pub pid: i32,
    /// The same as the program itself sees it.
    pub inner_pid: Pid,
    /// How many processes it has, those included that had ended.
    pub processes: usize,
    /// How many threads.
    pub threads: usize,
    /// Whether nothing of ours was left in it.
    pub clean: bool,
    /// Our hold on it, if we stay its parent.
    pub attached: Option<Attached>,
    /// Our terminal, if the program is to be attached, and has a keeper that the caller watches.
    pub lent: Option<Terminal>,
    /// Signals that are the program's since it was about to run, in the same case.
    pub passing: Option<Passing>,
}

/// What is different for whoever builds in namespaces of the program's own.
#[derive(Debug)]
pub(crate) struct Inside<'a> {
    /// Our supplementary groups, if they cannot be read there.
    pub(crate) groups: Option<Vec<u32>>,
    /// Whether the root becomes a child of our parent.
    pub(crate) sibling: bool,
    /// Sockets that were kept for the program.
    pub(crate) kept: Option<&'a Kept>,
}

/// A tree that goes on: what is known of it where it was built.
#[derive(Debug)]
pub(crate) struct Built {
    pub(crate) root: i32,
    pub(crate) pidfd: OwnedFd,
    pub(crate) clean: bool,
}

/// Thaws `image` as `plan` says.
///
/// The calling process should have one thread only, since it forks. It becomes the parent of the tree; if it ends, that
/// goes on by itself.
///
/// # Errors
/// After any error nothing is left of what was built, and the image is as it was.
pub fn thaw(image: &Image, plan: &Plan, options: &Options<'_>, steps: &mut Steps) -> Result<Thawed, Error> {
    if !plan.obstacles.is_empty() {
        return Err(Error::Obstacles { obstacles: plan.obstacles.clone() });
    }
    let spaces = plan.namespaces;
    tracing::info!(
        pid = spaces.pid,
        user = spaces.user,
        time = spaces.time,
        "namespaces of its own for {}",
        image.id()
    );
    let checkpoint = image.checkpoint();
    let inner_pid = checkpoint.processes[0].pd.relation.pid;
    // In a namespace of its own the tree ends with us; elsewhere it goes on should we die behind the gate, and what we
    // leave in it is for the next command to take away.
    let intent = match options.store.filter(|_| !plan.namespaces.pid) {
        Some(store) => Some(store.intend("thaw", &image.id().name)?),
        None => None,
    };
    let mark = |pid: i32| mark(image, plan, options, intent.as_ref(), pid);
    let alive = if plan.namespaces.pid {
        inside::in_namespaces(image, plan, (options.home, options.kept), &mark, steps)?
    } else {
        let (mut terminal, mut passing) = (None, None);
        let mut ready = |half: &Half<'_>| {
            if plan.attach {
                let about = || "signals to the program".to_owned();
                passing = Some(Passing::begin().at(Stage::Release, about)?);
            }
            mark(half.root)?;
            terminal = Terminal::lend_to(checkpoint, plan, half.root);
            Ok(())
        };
        let built = numbered(image, plan, None, &mut ready, steps)?;
        if !built.clean {
            // Something of ours is still in the tree: the next command is to look, as if we had died.
            std::mem::forget(intent);
        }
        let attached = plan.attach.then(|| Attached::child(built.root, built.pidfd, terminal, passing));
        Alive { root: built.root, clean: built.clean, attached, lent: None, passing: None }
    };
    Ok(Thawed {
        pid: alive.root,
        inner_pid,
        processes: checkpoint.processes.len(),
        threads: checkpoint.processes.iter().map(|process| process.cpu.threads.len()).sum(),
        clean: alive.clean,
        attached: alive.attached,
        lent: alive.lent,
        passing: alive.passing,
    })
}

/// How long a number that nobody has may stay in use.
const FREED_WITHIN: Duration = Duration::from_secs(2);

/// Builds the tree under its old numbers in our own pid namespace, once the last of them is free.
///
/// When a process is reaped it has no number any more some time before the kernel can give that away again: in between
/// it forgets the entries of /proc (`release_task`, kernel/exit.c, Linux 6.15 and later).
pub(crate) fn numbered(
    image: &Image,
    plan: &Plan,
    inside: Option<&Inside<'_>>,
    ready: &mut dyn FnMut(&Half<'_>) -> Result<(), Error>,
    steps: &mut Steps,
) -> Result<Built, Error> {
    let (began, own) = (Instant::now(), clocks::Own::read());
    loop {
        match here(image, plan, inside, own, ready, steps) {
            Err(error)
                if error.is_number_in_use()
                    && began.elapsed() < FREED_WITHIN
                    && plan::are_free(image.checkpoint()) =>
            {
                std::thread::sleep(Duration::from_millis(1));
            }
            other => return other,
        }
    }
}

/// Marks the image as running, so that it is not thawed twice by accident.
fn mark(
    image: &Image,
    plan: &Plan,
    options: &Options<'_>,
    intent: Option<&Intent>,
    pid: i32,
) -> Result<(), Error> {
    if let Some(home) = options.home.filter(|home| home.notices)
        && let Some(notices) = Notices::of(pid)
    {
        // It waits at its gate: the first thing that it sees.
        let mut seed = [0; 32];
        rustix::rand::getrandom(&mut seed, rustix::rand::GetRandomFlags::empty())
            .at(Stage::Release, || "random bytes".to_owned())?;
        notices.thawed(Told { version: image.id().version, index: home.copy, seed });
    }
    match frost_store::observe(pid)? {
        Some(instance) => {
            if let Some(intent) = intent {
                intent.aim_at(&instance)?;
            }
            match options.store.filter(|_| !plan.copy) {
                Some(store) => Ok(store.claim(image.id(), &instance)?),
                None => Ok(()),
            }
        }
        None => {
            Err(Error::Died { pid: image.checkpoint().processes[0].pd.relation.pid, how: "ended".to_owned() })
        }
    }
}

/// Builds the tree and lets it go.
///
/// `ready` is called when all of it waits at the gate; its error ends the tree.
pub(crate) fn here(
    image: &Image,
    plan: &Plan,
    inside: Option<&Inside<'_>>,
    own: clocks::Own,
    ready: &mut dyn FnMut(&Half<'_>) -> Result<(), Error>,
    steps: &mut Steps,
) -> Result<Built, Error> {
    let checkpoint = image.checkpoint();
    begin(Stage::Namespaces)?;
    let clocks_since = if plan.namespaces.time { clocks::go_on(checkpoint, own)? } else { None };
    if plan.namespaces.ipc {
        frost_sys::sysv::unshare().at(Stage::Namespaces, || "an IPC namespace".to_owned())?;
    }
    steps.end(Stage::Namespaces.name());
    // In namespaces of the program's own whoever asked for the thaw compares the pack with its digests, beside us.
    let mut verification = inside.is_none().then(|| Verification::of(image));
    let context = plan.context();
    let mut late = None;
    let mut sysv = cap::sysv::Made::default();
    let material = || {
        let pack = image.pack()?;
        let nests = crate::nest::terminals(checkpoint)?;
        sysv = cap::sysv::make(checkpoint, plan.namespaces.ipc, pack.as_fd())?;
        let undone = sysv.undone.clone();
        let kept = inside.and_then(|inside| inside.kept);
        let built = cap::build(checkpoint, &plan.capabilities, &context, pack.as_fd(), kept, &nests)?;
        late = Some(built.late);
        let processes = checkpoint.processes.iter();
        let calls = processes
            .map(|process| cap::tape_calls(checkpoint, process, &context, &plan.capabilities))
            .collect();
        Ok(Material {
            pack,
            descriptions: built.descriptions,
            instead: built.instead,
            terminals: built.terminals,
            nests,
            removed: built.removed,
            calls,
            undone,
        })
    };
    let groups = inside.and_then(|inside| inside.groups.clone());
    let sibling = inside.is_some_and(|inside| inside.sibling);
    let beside = || match &mut verification {
        Some(verification) => verification.begin(),
        None => Ok(()),
    };
    let mut half = build::build(checkpoint, plan.relation(), groups, sibling, material, beside, steps)?;
    half.clocks_since = clocks_since;
    sysv.all_attached(checkpoint)?;
    release::stop(&half, steps)?;
    release::settings(&half)?;
    if let Some(verification) = verification {
        verification.finish()?;
        steps.end(Stage::Verify.name());
    }
    tracing::info!(root = half.root, "the program is built and waits at the gate");
    ready(&half)?;
    if let Some(late) = &mut late {
        late.apply(&half.checkpoint)?;
    }
    let clean = release::release(&mut half, steps)?;
    sysv.keep();
    late.iter_mut().for_each(cap::Late::keep);
    let pidfd = half.pidfd.try_clone().map_err(|error| Error::Builder {
        stage: Stage::Release,
        object: "the root's pidfd".to_owned(),
        source: rustix::io::Errno::from_io_error(&error).unwrap_or(rustix::io::Errno::MFILE),
    });
    let pidfd = pidfd.or_else(|_| {
        let pid = rustix::process::Pid::from_raw(half.root).unwrap_or(rustix::process::Pid::INIT);
        rustix::process::pidfd_open(pid, rustix::process::PidfdFlags::empty())
            .at(Stage::Release, || "the root's pidfd".to_owned())
    })?;
    Ok(Built { root: half.root, pidfd, clean })
}
