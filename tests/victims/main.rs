//! Small programs made to be frozen, in one binary: `victim NAME DIR`.
//!
//! A victim makes the state it is named after, writes `DIR/ready`, waits until `DIR/go` exists, judges itself and
//! writes `DIR/result`: `ok`, or `failed: ` and what it found. Run unfrozen (with `go` there from the start) it
//! tests itself. `victim list` prints the names, `victim compose` plays several in one tree.

#[macro_use]
mod call;
mod compose;
mod facts;
mod stage;

mod aio;
mod anonymous;
mod binary;
mod clock;
mod credentials;
mod device;
mod directory;
mod epoll;
mod eventfd;
mod fanotify;
mod fifo;
mod file;
mod filter;
mod flight;
mod hugetlb;
mod inotify;
mod keys;
mod limits;
mod memfd;
mod moving;
mod mqueue;
mod netlink;
mod options;
mod outside;
mod packet;
mod peers;
mod pidfd;
mod pipe;
mod place;
mod prctl;
mod pty;
mod raw;
mod registers;
mod regular;
mod restart;
mod shared;
mod signalfd;
mod signals;
mod sysv;
mod tcp;
mod thread;
mod timerfd;
mod timers;
mod tree;
mod udp;
mod unix;
mod vfork;
mod volatile;

use stage::{Stage, Verdict};
use std::process::ExitCode;

/// A victim: its name and what it does.
pub(crate) type Victim = (&'static str, fn(&Stage) -> Verdict);

fn all() -> impl Iterator<Item = &'static Victim> {
    [
        aio::VICTIMS,
        anonymous::VICTIMS,
        binary::VICTIMS,
        clock::VICTIMS,
        credentials::VICTIMS,
        device::VICTIMS,
        directory::VICTIMS,
        epoll::VICTIMS,
        eventfd::VICTIMS,
        fanotify::VICTIMS,
        fifo::VICTIMS,
        file::VICTIMS,
        filter::VICTIMS,
        flight::VICTIMS,
        hugetlb::VICTIMS,
        inotify::VICTIMS,
        keys::VICTIMS,
        limits::VICTIMS,
        memfd::VICTIMS,
        mqueue::VICTIMS,
        netlink::VICTIMS,
        moving::VICTIMS,
        options::VICTIMS,
        outside::VICTIMS,
        packet::VICTIMS,
        peers::VICTIMS,
        pidfd::VICTIMS,
        pipe::VICTIMS,
        place::VICTIMS,
        prctl::VICTIMS,
        pty::VICTIMS,
        raw::VICTIMS,
        registers::VICTIMS,
        regular::VICTIMS,
        restart::VICTIMS,
        shared::VICTIMS,
        signalfd::VICTIMS,
        signals::VICTIMS,
        sysv::VICTIMS,
        tcp::VICTIMS,
        thread::VICTIMS,
        timerfd::VICTIMS,
        timers::VICTIMS,
        tree::VICTIMS,
        udp::VICTIMS,
        unix::VICTIMS,
        vfork::VICTIMS,
        volatile::VICTIMS,
    ]
    .into_iter()
    .flatten()
}

fn main() -> ExitCode {
    let arguments: Vec<String> = std::env::args().collect();
    match arguments.iter().map(String::as_str).collect::<Vec<_>>()[..] {
        [_, "list"] => {
            all().for_each(|(name, _)| println!("{name}"));
            ExitCode::SUCCESS
        }
        [_, "again", dir] => thread::execute_again(dir),
        [_, "compose", dir, shape, ref names @ ..] => {
            Stage::new(dir).play(|stage| compose::play(stage, shape, names))
        }
        [_, name, dir] => match all().find(|(known, _)| *known == name) {
            Some((_, run)) => Stage::new(dir).play(run),
            None => {
                eprintln!("victim: no victim is called {name}");
                ExitCode::from(2)
            }
        },
        _ => {
            eprintln!("usage: victim NAME DIR | victim list");
            ExitCode::from(2)
        }
    }
}
