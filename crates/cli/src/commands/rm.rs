//! `frost rm`: images that are not needed any more.

use crate::failure::Failure;
use crate::invocation::Invocation;
use crate::{output, trouble};
use clap::Args;
use frost_runtime::instance::Instance;
use frost_store::Name;
use serde::Serialize;
use std::process::ExitCode;

/// Removes images
///
/// NAME@VERSION removes that version, NAME all versions and the name, with the log of a program that ended and the keeper
/// of one that is frozen. A program that runs does not need its image.
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
        let failed = |error| trouble::of_runtime(format!("cannot remove {image}"), error);
        let instance = match Name::new(image) {
            Ok(name) => Instance::find(&store, &name).map_err(failed)?,
            Err(_) => None,
        };
        let id = match (store.resolve(image), &instance) {
            (Ok(id), _) => Some(id),
            (Err(frost_store::Error::NoSuchImage { .. }), Some(_)) => None,
            (Err(error), _) => return Err(trouble::of_store(format!("cannot remove {image}"), error)),
        };
        found.push((image, id, instance));
    }
    for (image, id, instance) in found {
        let mut gone = false;
        if let Some(instance) = instance {
            let failed = |error| trouble::of_runtime(format!("cannot remove {image}"), error);
            gone = instance.end(&store, id.is_some()).map_err(failed)?;
        }
        let Some(id) = id else {
            if gone && !invocation.global.json {
                output::line(&format!("removed {image}, of which there was no image"))?;
            }
            continue;
        };
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
