//! `frost rm`: images that are not needed any more.

use crate::failure::Failure;
use crate::invocation::Invocation;
use crate::{output, trouble};
use clap::Args;
use frost_store::Name;
use serde::Serialize;
use std::process::ExitCode;

/// Removes images
///
/// NAME@VERSION removes that version, NAME all versions and the name. A program that runs does not need its image.
#[derive(Args, Debug)]
pub(crate) struct Options {
    /// What to remove
    #[arg(value_name = "NAME|NAME@VERSION", required = true)]
    images: Vec<String>,
}

#[derive(Serialize)]
struct Record<'a> {
    name: &'a str,
    version: u32,
}

pub(crate) fn run(options: &Options, invocation: &mut Invocation) -> Result<ExitCode, Failure> {
    let store = invocation.store()?;
    // All are looked up before the first one goes.
    let mut found = Vec::new();
    for image in &options.images {
        let id = store
            .resolve(image)
            .map_err(|error| trouble::of_store(format!("cannot remove {image}"), error))?;
        found.push((image, id));
    }
    for (image, id) in found {
        let removed = match Name::new(image) {
            Ok(name) => store.remove_name(&name),
            Err(_) => store.remove(&id),
        };
        let removed = removed.map_err(|error| trouble::of_store(format!("cannot remove {image}"), error))?;
        if invocation.global.json {
            for id in &removed.ids {
                output::record(&Record { name: id.name.as_str(), version: id.version })?;
            }
        } else {
            let ids: Vec<String> = removed.ids.iter().map(ToString::to_string).collect();
            output::line(&format!(
                "removed {}, {} freed",
                ids.join(", "),
                output::bytes(removed.freed_bytes)
            ))?;
        }
    }
    invocation.steps.end("store.remove");
    Ok(ExitCode::SUCCESS)
}
