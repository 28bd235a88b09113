//! The programs that are frozen: much of one thing each.

use crate::memory;
use rustix::event::{EventfdFlags, epoll};
use rustix::fd::OwnedFd;
use rustix::process::Signal;
use std::io::{self, Write};
use std::net::{Ipv4Addr, TcpListener, TcpStream};
use std::os::unix::net::UnixStream;
use std::process::{Child, Command, Stdio};
use std::sync::{Arc, Barrier};
use std::time::{Duration, Instant};

/// The stack of a thread: no more than it needs.
const STACK_BYTES: usize = 64 << 10;

/// How much of what a program has.
#[derive(clap::Args, Clone, Copy, Debug, Default)]
pub(crate) struct Shape {
    /// Bytes of memory
    #[arg(default_value_t = 0)]
    pub(crate) bytes: usize,
    /// Threads beside the main one
    #[arg(long, default_value_t = 0)]
    pub(crate) threads: usize,
    /// Processes beside the main one
    #[arg(long, default_value_t = 0)]
    pub(crate) processes: usize,
    /// Mappings of a page each
    #[arg(long, default_value_t = 0)]
    pub(crate) mappings: usize,
    /// Descriptors: files, event counters that an epoll instance watches, pipes, pairs of unix sockets, and connections of
    /// TCP to itself, each with a description of its own
    #[arg(long, default_value_t = 0)]
    pub(crate) descriptors: usize,
    /// It ends with its parent
    #[arg(long)]
    pub(crate) dependent: bool,
    /// It writes as many percent of its pages as each line of its standard input says, and says `done`
    #[arg(long)]
    pub(crate) rewrites: bool,
}

impl Shape {
    /// The arguments that say so.
    pub(crate) fn arguments(&self) -> Vec<String> {
        let mut arguments = vec!["program".to_owned(), self.bytes.to_string()];
        if self.dependent {
            arguments.push("--dependent".to_owned());
        }
        if self.rewrites {
            arguments.push("--rewrites".to_owned());
        }
        for (name, count) in [
            ("--threads", self.threads),
            ("--processes", self.processes),
            ("--mappings", self.mappings),
            ("--descriptors", self.descriptors),
        ] {
            arguments.extend([name.to_owned(), count.to_string()]);
        }
        arguments
    }

    /// Becomes that program; says `ready`, and how many microseconds it took to make what it has, memory apart.
    pub(crate) fn be(&self) -> io::Result<()> {
        let mut memory = if self.bytes == 0 { None } else { Some(memory::incompressible(self.bytes)?) };
        let began = Instant::now();
        let _children = self.make_processes()?;
        frost_sys::own::map_patchwork(self.mappings.max(1))?;
        let _descriptors = self.make_descriptors()?;
        self.make_threads()?;
        println!("ready {}", began.elapsed().as_micros());
        io::stdout().flush()?;
        if let Some(memory) = memory.as_mut().filter(|_| self.rewrites) {
            for line in io::stdin().lines() {
                memory::rewrite(memory, line?.trim().parse().unwrap_or(0));
                println!("done");
                io::stdout().flush()?;
            }
        }
        loop {
            std::thread::sleep(Duration::from_secs(3600));
            std::hint::black_box(&memory);
        }
    }

    fn make_threads(&self) -> io::Result<()> {
        let started = Arc::new(Barrier::new(self.threads + 1));
        for _ in 0..self.threads {
            let started = Arc::clone(&started);
            std::thread::Builder::new().stack_size(STACK_BYTES).spawn(move || {
                started.wait();
                loop {
                    std::thread::park();
                }
            })?;
        }
        started.wait();
        Ok(())
    }

    fn make_processes(&self) -> io::Result<Vec<Child>> {
        if self.dependent {
            // Also when both were thawed.
            rustix::process::set_parent_process_death_signal(Some(Signal::KILL))?;
        }
        let executable = std::env::current_exe()?;
        let mut children = Vec::new();
        for _ in 0..self.processes {
            let mut child = Command::new(&executable);
            child
                .args(Self { dependent: true, ..Self::default() }.arguments())
                .stdin(Stdio::null())
                .stderr(Stdio::null());
            let mut child = child.stdout(Stdio::piped()).spawn()?;
            // Ready, and its pipe is gone.
            let mut text = [0; 5];
            if let Some(mut stdout) = child.stdout.take() {
                io::Read::read_exact(&mut stdout, &mut text)?;
            }
            children.push(child);
        }
        Ok(children)
    }

    fn make_descriptors(&self) -> io::Result<Vec<OwnedFd>> {
        let mut made: Vec<OwnedFd> = Vec::new();
        if self.descriptors == 0 {
            return Ok(made);
        }
        let executable = std::env::current_exe()?;
        let watching = epoll::create(epoll::CreateFlags::CLOEXEC)?;
        let listening = TcpListener::bind((Ipv4Addr::LOCALHOST, 0))?;
        while made.len() + 10 < self.descriptors {
            made.push(std::fs::File::open(&executable)?.into());
            let counter = rustix::event::eventfd(0, EventfdFlags::CLOEXEC)?;
            let number = epoll::EventData::new_u64(made.len() as u64);
            epoll::add(&watching, &counter, number, epoll::EventFlags::IN)?;
            made.push(counter);
            let (reader, writer) = rustix::pipe::pipe()?;
            made.extend([reader, writer]);
            let (one, other) = UnixStream::pair()?;
            made.extend([one.into(), other.into()]);
            let client = TcpStream::connect(listening.local_addr()?)?;
            made.extend([client.into(), listening.accept()?.0.into()]);
        }
        made.extend([watching, listening.into()]);
        Ok(made)
    }
}
