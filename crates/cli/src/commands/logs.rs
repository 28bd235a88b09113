//! `frost logs`: what a program wrote to the terminal that its keeper holds.

use super::named;
use crate::failure::Failure;
use crate::invocation::Invocation;
use crate::output;
use crate::trouble;
use clap::Args;
use frost_keeper::protocol::{self as say, Message};
use frost_runtime::Error;
use frost_runtime::instance::{Instance, Standing};
use rustix::event::{PollFd, PollFlags};
use rustix::fd::OwnedFd;
use rustix::fs::inotify;
use rustix::io::Errno;
use std::fs::File;
use std::io::{self, Write};
use std::mem::MaybeUninit;
use std::os::unix::fs::MetadataExt;
use std::path::Path;
use std::process::ExitCode;

/// Prints what a program has shown on its terminal
///
/// Of a program that was started by `frost run --detach`. The newest 1 to 2 MiB are kept.
#[derive(Args, Debug)]
pub(crate) struct Options {
    /// Go on with what it shows, until it ends
    #[arg(short, long)]
    follow: bool,
    /// The program, by its name
    #[arg(value_name = "NAME")]
    name: String,
}

pub(crate) fn run(options: &Options, invocation: &mut Invocation) -> Result<ExitCode, Failure> {
    let store = invocation.store()?;
    let failed = |error| trouble::of_runtime(format!("cannot show what {} wrote", options.name), error);
    let instance = named(&store, &options.name).map_err(failed)?;
    let mut out = io::stdout().lock();
    if !options.follow {
        copy(&instance, &mut out).map_err(failed)??;
        return Ok(ExitCode::SUCCESS);
    }
    let Standing::Kept(kept) = instance.standing().map_err(failed)? else {
        copy(&instance, &mut out).map_err(failed)??;
        return Ok(ExitCode::SUCCESS);
    };
    if !kept.state.terminal {
        return Err(failed(Error::NoTerminal));
    }
    let path = instance.path();
    let mut changes = Changes::of(path)?;
    // The log is read once more when the keeper is gone: it has written all by then.
    let mut goes_on = kept.connection.send(Message::new(say::WATCH, 0, 0, 0), &[]).is_ok();
    let [mut old, mut log] = both(&instance).map_err(failed)?;
    // How many logs were put aside before this one.
    let mut number = changes.put_aside()?;
    if let Some(old) = &mut old {
        io::copy(old, &mut out)?;
    }
    loop {
        if let Some(log) = &mut log {
            io::copy(log, &mut out)?;
            out.flush()?;
        }
        let before = changes.put_aside()?;
        let [aside, next] = both(&instance).map_err(failed)?;
        if changes.put_aside()? != before {
            continue;
        }
        if !same(log.as_ref(), next.as_ref()) {
            // Another file of that name: this one was put aside, and maybe another one behind it.
            if let Some(log) = &mut log {
                io::copy(log, &mut out)?;
            }
            old = log.or(old);
            if let Some(mut aside) = aside.filter(|aside| !same(old.as_ref(), Some(aside))) {
                // It is the one before the newest.
                let lost = before.saturating_sub(number + 2);
                if lost > 0 {
                    out.flush()?;
                    output::note(&format!(
                        "\nfrost: {} wrote faster than this was read: some {lost} MiB are not shown, as they are not kept",
                        options.name
                    ));
                }
                io::copy(&mut aside, &mut out)?;
                old = Some(aside);
            }
            log = next;
            number = before;
            continue;
        }
        if !goes_on {
            return Ok(ExitCode::SUCCESS);
        }
        let mut fds =
            [PollFd::new(&changes.inotify, PollFlags::IN), PollFd::new(&kept.connection, PollFlags::IN)];
        match rustix::event::poll(&mut fds, None) {
            Err(Errno::INTR) => continue,
            other => other.map_err(io::Error::from)?,
        };
        if !fds[1].revents().is_empty() {
            let ended = |message: Message| message.kind == say::ENDED && message.b == 0;
            goes_on = kept.connection.receive().is_ok_and(|packet| !ended(packet.message));
        }
    }
}

/// What happens in the directory of a program.
struct Changes {
    inotify: OwnedFd,
    /// How often its log was put aside.
    put_aside: u64,
}

impl Changes {
    fn of(path: &Path) -> io::Result<Self> {
        let inotify = inotify::init(inotify::CreateFlags::CLOEXEC | inotify::CreateFlags::NONBLOCK)?;
        inotify::add_watch(&inotify, path, inotify::WatchFlags::MODIFY | inotify::WatchFlags::MOVED_FROM)?;
        Ok(Self { inotify, put_aside: 0 })
    }

    /// Takes what has happened, and returns how often the log was put aside since the beginning.
    fn put_aside(&mut self) -> io::Result<u64> {
        let mut buffer = [const { MaybeUninit::uninit() }; 4096];
        let mut events = inotify::Reader::new(&self.inotify, &mut buffer);
        loop {
            match events.next() {
                Ok(event) => {
                    let moved = event.events().contains(inotify::ReadFlags::MOVED_FROM);
                    let is_log = event.file_name().is_some_and(|name| name == c"log");
                    self.put_aside += u64::from(moved && is_log);
                }
                Err(Errno::AGAIN) => return Ok(self.put_aside),
                Err(Errno::INTR) => {}
                Err(errno) => return Err(errno.into()),
            }
        }
    }
}

fn same(a: Option<&File>, b: Option<&File>) -> bool {
    let identity = |file: &File| file.metadata().map(|metadata| (metadata.dev(), metadata.ino())).ok();
    a.and_then(identity) == b.and_then(identity)
}

/// Opens what was put aside, and what is written now.
fn both(instance: &Instance) -> Result<[Option<File>; 2], Error> {
    // In this order: else what is put aside between the two would be neither of them.
    let log = instance.open("log")?;
    let aside = instance.open("log.1")?.filter(|aside| !same(log.as_ref(), Some(aside)));
    Ok([aside, log])
}

/// Copies all of the log.
fn copy(instance: &Instance, out: &mut impl Write) -> Result<io::Result<()>, Error> {
    Ok(both(instance)?.into_iter().flatten().try_for_each(|mut file| {
        io::copy(&mut file, out)?;
        out.flush()
    }))
}
