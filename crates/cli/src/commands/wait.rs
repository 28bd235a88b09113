//! `frost wait`: until a program ends.

use super::named;
use crate::failure::{Failure, Status};
use crate::invocation::Invocation;
use crate::{output, trouble};
use clap::Args;
use frost_keeper::protocol::{self as say, Message};
use frost_runtime::Error;
use frost_runtime::instance::{Instance, Standing};
use frost_thaw::Ending;
use std::process::ExitCode;

/// Waits until a program ends, and exits with its status
///
/// A program that is frozen and kept is waited for. One that ended before is told of as long as its name is not taken
/// by another.
#[derive(Args, Debug)]
pub(crate) struct Options {
    /// The program, by its name
    #[arg(value_name = "NAME")]
    name: String,
}

pub(crate) fn run(options: &Options, invocation: &mut Invocation) -> Result<ExitCode, Failure> {
    wait(options, invocation).map_err(|failure| failure.with_status(Status::Own))
}

fn wait(options: &Options, invocation: &mut Invocation) -> Result<ExitCode, Failure> {
    let store = invocation.store()?;
    let failed = |error| trouble::of_runtime(format!("cannot wait for {}", options.name), error);
    let instance = named(&store, &options.name).map_err(failed)?;
    let ending = until_end(&instance).map_err(failed)?;
    super::run::tell(&store, instance.name(), ending);
    Ok(ExitCode::from(u8::try_from(ending.exit_status()).unwrap_or(u8::MAX)))
}

/// Waits until the keeper of an instance ends, and tells how the program did.
pub(super) fn until_end(instance: &Instance) -> Result<Ending, Error> {
    if let Standing::Kept(kept) = instance.standing()? {
        // It may end before it hears that we watch.
        if kept.connection.send(Message::new(say::WATCH, 0, 0, 0), &[]).is_ok() {
            while let Ok(packet) = kept.connection.receive() {
                if packet.message.kind == say::ENDED && packet.message.b == 0 {
                    return Ok(Ending::of_message(packet.message));
                }
            }
        }
    }
    match instance.standing()? {
        Standing::Ended(status) => Ok(Ending::of_status(status)),
        Standing::Starved(_) => Ok(Ending::Starved),
        Standing::Frozen(id) => Ok(Ending::Frozen(id.version)),
        Standing::Within(outer) => Err(Error::Within { outer }),
        Standing::Lost => Ok(Ending::Unknown),
        other @ (Standing::Rebooted | Standing::Unstarted) => {
            Err(Error::Ended(super::ps::what_happened(&other)))
        }
        Standing::Kept(_) => {
            output::note("note: it was started again meanwhile");
            until_end(instance)
        }
    }
}
