//! What every command shares: the global options, the clock, the store.

use crate::failure::Failure;
use crate::place::{self, Place};
use crate::settings::Settings;
use crate::{log, output, trouble};
use clap::Args;
use frost_model::Steps;
use frost_store::{OpenOptions, Store};
use serde::Serialize;
use std::path::PathBuf;

/// Options that every command takes.
#[derive(Args, Clone, Debug)]
pub(crate) struct Global {
    /// The directory of the images [default: $FROST_HOME, else `store` of the configuration, else permafrost in the user's data
    /// directory]
    #[arg(long, value_name = "DIR", global = true, help_heading = "Global options")]
    pub(crate) store: Option<PathBuf>,
    /// Print records, one to a line, instead of text
    #[arg(long, global = true, help_heading = "Global options")]
    pub(crate) json: bool,
    /// Tell how long each step took, in microseconds
    #[arg(long, global = true, help_heading = "Global options")]
    pub(crate) timings: bool,
    /// As root, take images of other users, which hold code that will run
    #[arg(long, global = true, help_heading = "Global options")]
    pub(crate) trust_owner: bool,
    /// Tell what is being done, to standard error; twice, tell each step [default: what FROST_LOG says]
    #[arg(short, long, action = clap::ArgAction::Count, global = true, help_heading = "Global options")]
    pub(crate) verbose: u8,
}

/// One run of a command.
#[derive(Debug)]
pub(crate) struct Invocation {
    /// What was asked of every command.
    pub(crate) global: Global,
    /// What the user has configured.
    settings: Settings,
    /// The steps that ended.
    pub(crate) steps: Steps,
}

#[derive(Serialize)]
struct Timings<'a> {
    timings: &'a [frost_model::steps::Step],
}

impl Invocation {
    /// Starts the clock, and obeys what the user has configured.
    pub(crate) fn new(global: Global) -> Result<Self, Failure> {
        let steps = Steps::start();
        let settings = Settings::load()?;
        output::set_colour(settings.colour.unwrap_or(output::Colour::Auto));
        log::start(log::choose(global.verbose, settings.log)?);
        Ok(Self { global, settings, steps })
    }

    /// Finds the directory of the store, and tells if it may not be the one that was meant.
    pub(crate) fn place(&self) -> Result<Place, Failure> {
        let place = place::find(self.global.store.as_ref(), self.settings.store.as_ref())?;
        if let Some(remark) = &place.remark {
            output::note(remark);
        }
        Ok(place)
    }

    /// Opens the store, and tells what dead commands had left there.
    pub(crate) fn store(&mut self) -> Result<Store, Failure> {
        let place = self.place()?;
        let options = OpenOptions { root: place.directory, trust_owner: self.global.trust_owner };
        let store =
            Store::open(&options).map_err(|error| trouble::of_store("cannot use the store", error))?;
        for left in store.swept() {
            output::note(&format!(
                "note: removed what an unfinished {} of {} had left (process {}, {} freed)",
                left.doing,
                left.name,
                left.pid,
                output::bytes(left.freed_bytes)
            ));
            if let Some((pid, start_time)) = left.target {
                match frost_freeze::tidy(pid, start_time) {
                    Ok(0) => {}
                    Ok(_) => output::note(&format!("note: process {pid} is rid of what it had left there")),
                    Err(failure) => output::note(&format!("note: {failure}; {}", failure.state)),
                }
            }
        }
        self.steps.end("store.open");
        Ok(store)
    }

    /// Tells the timings, if they were asked for.
    pub(crate) fn finish(&self) -> Result<(), Failure> {
        if !self.global.timings {
            return Ok(());
        }
        let steps = self.steps.done();
        if self.global.json {
            output::record(&Timings { timings: steps })?;
        } else {
            let mut rows: Vec<Vec<String>> =
                steps.iter().map(|step| vec![step.name.clone(), format!("{:>9} us", step.us)]).collect();
            rows.push(vec!["total".into(), format!("{:>9} us", self.steps.elapsed().as_micros())]);
            output::to_stderr(&output::table(&rows));
        }
        Ok(())
    }
}
