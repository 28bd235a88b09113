//! Why something with a virtual machine did not work.

use std::io;
use std::path::PathBuf;

/// The result of this crate's functions.
pub type Result<T> = std::result::Result<T, Error>;

/// Why something with a virtual machine did not work.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    /// QEMU is not installed.
    #[error("{program} is not there, which runs virtual machines")]
    NoQemu {
        /// The program.
        program: String,
    },
    /// A program that is needed is not installed.
    #[error("{program} is not there, which {purpose}")]
    NoProgram {
        /// The program.
        program: String,
        /// What for.
        purpose: &'static str,
        /// Debian's package of it.
        package: &'static str,
    },
    /// A program that was run failed.
    #[error("{program} failed: {why}")]
    Program {
        /// The program.
        program: String,
        /// Its last words.
        why: String,
    },
    /// There is no kernel for guests.
    #[error("there is no kernel for guests in {}", path.display())]
    NoKernel {
        /// Where it would be.
        path: PathBuf,
    },
    /// A file is no kernel, or its modules are not found.
    #[error("{} cannot be used as a guest's kernel: {why}", path.display())]
    BadKernel {
        /// The file.
        path: PathBuf,
        /// Why.
        why: String,
    },
    /// QEMU ended.
    #[error("QEMU has ended")]
    Gone,
    /// QEMU ended before the guest ran.
    #[error("QEMU did not start the guest: {why}")]
    NotStarted {
        /// Its last words.
        why: String,
    },
    /// The guest did not boot.
    #[error("the guest did not boot: {why}")]
    NotBooted {
        /// Why.
        why: String,
        /// The last lines of its console.
        console: String,
    },
    /// The command could not be executed in the guest.
    #[error("the guest could not run {what}: {errno}")]
    NotRun {
        /// Its name.
        what: String,
        /// Why.
        errno: rustix::io::Errno,
    },
    /// QEMU does not answer.
    #[error("QEMU does not answer")]
    Silent,
    /// What came is not what a monitor says.
    #[error("QEMU's monitor is not understood: {what}")]
    Speech {
        /// What came.
        what: String,
    },
    /// A socket is not that of a monitor.
    #[error("that is no QMP monitor: {what}")]
    NoMonitor {
        /// What came.
        what: String,
    },
    /// QEMU refused a command.
    #[error("QEMU refuses {command}: {why}")]
    Refused {
        /// The command.
        command: String,
        /// Its words.
        why: String,
    },
    /// The state that QEMU gave is not understood.
    #[error("what QEMU wrote of the guest is not understood: {what}")]
    Stream {
        /// What.
        what: String,
    },
    /// Something of the guest cannot be carried.
    #[error("{object} cannot be carried: {why}")]
    Unsupported {
        /// What.
        object: String,
        /// Why.
        why: String,
        /// What to do.
        remedy: String,
    },
    /// A port of the host is taken.
    #[error("port {port} of this machine is in use")]
    PortInUse {
        /// The port.
        port: u16,
    },
    /// A disk that an image relies on is not there, or is another one.
    #[error("the disk {} {why}", path.display())]
    Disk {
        /// The disk.
        path: PathBuf,
        /// How.
        why: String,
    },
    /// A file could not be used.
    #[error("{}", path.display())]
    File {
        /// The file.
        path: PathBuf,
        /// Why.
        #[source]
        source: io::Error,
    },
    /// A call failed.
    #[error("{what}")]
    Call {
        /// What was to be done.
        what: &'static str,
        /// Why.
        #[source]
        source: rustix::io::Errno,
    },
    /// A machine's keeper failed.
    #[error("{why}")]
    Keeper {
        /// Its reasons.
        why: String,
    },
    /// An instance could not be used.
    #[error(transparent)]
    Runtime(#[from] frost_runtime::Error),
    /// The store failed.
    #[error(transparent)]
    Store(#[from] frost_store::Error),
}

impl Error {
    pub(crate) fn file(path: impl Into<PathBuf>) -> impl FnOnce(io::Error) -> Self {
        let path = path.into();
        move |source| Self::File { path, source }
    }

    pub(crate) fn call(what: &'static str) -> impl FnOnce(rustix::io::Errno) -> Self {
        move |source| Self::Call { what, source }
    }
}
