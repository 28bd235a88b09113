//! `frost vm`: what virtual machines need.

use crate::failure::Failure;
use crate::invocation::Invocation;
use crate::output;
use clap::{Args, Subcommand};
use frost_vm::{accelerator, kernel};
use serde::Serialize;
use std::path::PathBuf;
use std::process::ExitCode;

/// Sets up what virtual machines need
///
/// `frost run --vm` boots a guest around a program; freeze, thaw, ps, logs, attach, kill and wait take its name.
#[derive(Args, Debug)]
pub(crate) struct Options {
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Puts a kernel for guests into the store
    ///
    /// Debian's newest kernel for virtual machines is downloaded by apt-get, as an ordinary user too, and unpacked; nothing is
    /// installed. Then it is looked whether a guest boots on this machine's KVM; else software executes guests.
    Setup {
        /// A Debian package of a kernel, in place of a download
        #[arg(long, value_name = "FILE")]
        package: Option<PathBuf>,
    },
    /// Takes over a QEMU that runs, so that it is frozen and thawed by its name
    ///
    /// It must have a monitor of its own for frost, as `-qmp unix:SOCKET,server=on,wait=off`. Its disks stay the files
    /// that they are; a thaw starts it again by its own arguments.
    Adopt {
        /// The socket of its monitor
        #[arg(long, value_name = "SOCKET")]
        qmp: PathBuf,
        /// The name that it gets
        #[arg(long, value_name = "NAME")]
        name: String,
    },
}

#[derive(Serialize)]
struct Record<'a> {
    source: &'a str,
    release: &'a str,
    modules: usize,
    accelerator: &'a str,
}

pub(crate) fn run(options: &Options, invocation: &mut Invocation) -> Result<ExitCode, Failure> {
    let store = invocation.store()?;
    let package = match &options.command {
        Command::Setup { package } => package,
        Command::Adopt { qmp, name } => return super::guest::adopt(&store, qmp, name, invocation),
    };
    let failed = |error| super::guest::trouble("cannot set up virtual machines".to_owned(), error);
    let mut say = |text: &str| output::note(text);
    let installed = kernel::install(store.path(), package.as_deref(), &mut say).map_err(failed)?;
    invocation.steps.end("vm.kernel");
    let kernel = kernel::installed(store.path()).map_err(failed)?;
    let accelerator = accelerator::find(store.path(), &kernel, &mut say).map_err(failed)?;
    invocation.steps.end("vm.accelerator");
    if invocation.global.json {
        output::record(&Record {
            source: &installed.source,
            release: &installed.release,
            modules: installed.modules,
            accelerator: &accelerator.name,
        })?;
        return Ok(ExitCode::SUCCESS);
    }
    output::line(&format!(
        "guests run Linux {} of {}, with {} of its modules",
        installed.release, installed.source, installed.modules
    ))?;
    output::line(&super::guest::executes(&accelerator))?;
    Ok(ExitCode::SUCCESS)
}
