//! `frost verify`: whether images are what they were when they were made.

use crate::failure::{Failure, Status, Told};
use crate::invocation::Invocation;
use crate::progress::Progress;
use crate::{output, trouble};
use clap::Args;
use serde::Serialize;
use std::process::ExitCode;

/// Reads images whole and compares every digest
///
/// Of scenarios also the documents that persist. The exit status is 4 if one is damaged, cut short or too new.
#[derive(Args, Debug)]
pub(crate) struct Options {
    /// Images: a name for its newest version, or NAME@VERSION [default: all]
    #[arg(value_name = "IMAGE")]
    images: Vec<String>,
}

#[derive(Serialize)]
struct Record<'a> {
    name: &'a str,
    version: u32,
    sound: bool,
    problems: Vec<String>,
}

pub(crate) fn run(options: &Options, invocation: &mut Invocation) -> Result<ExitCode, Failure> {
    let store = invocation.store()?;
    let (scenarios, images): (Vec<&str>, Vec<&str>) = options
        .images
        .iter()
        .map(String::as_str)
        .partition(|image| super::scenario::is_kept(image, invocation));
    let mut of_scenarios = ExitCode::SUCCESS;
    if options.images.is_empty() || !scenarios.is_empty() {
        of_scenarios = super::scenario::verify(&scenarios, invocation)?;
    }
    let ids = if options.images.is_empty() {
        let all = store.list().map_err(|error| trouble::of_store("cannot list the images", error))?;
        all.into_iter().map(|summary| summary.id).collect()
    } else {
        let mut ids = Vec::new();
        for image in images {
            ids.push(
                store
                    .resolve(image)
                    .map_err(|error| trouble::of_store(format!("cannot verify {image}"), error))?,
            );
        }
        ids
    };
    let mut damaged = 0_u32;
    let progress = Progress::start("verifying".to_owned());
    progress.watch(&store);
    for id in &ids {
        progress.rename(format!("verifying {id}"));
        let problems =
            store.verify(id).map_err(|error| trouble::of_store(format!("cannot verify {id}"), error))?;
        progress.clear();
        let record = Record {
            name: id.name.as_str(),
            version: id.version,
            sound: problems.is_empty(),
            problems: problems.iter().map(trouble::chained).collect(),
        };
        damaged += u32::from(!record.sound);
        if invocation.global.json {
            output::record(&record)?;
        } else if record.sound {
            output::line(&format!("{id}: sound"))?;
        } else {
            for problem in &record.problems {
                output::line(&format!("{id}: {problem}"))?;
            }
        }
    }
    drop(progress);
    invocation.steps.end("store.verify");
    if damaged == 0 {
        return Ok(of_scenarios);
    }
    Err(Told::new(
        Status::Damaged,
        format!("{} of {} cannot be thawed", damaged, output::count(ids.len() as u32, "image", "images")),
    )
    .state("the images are as they were found")
    .hint("thaw another version (`frost list`), or import the image again")
    .into())
}
