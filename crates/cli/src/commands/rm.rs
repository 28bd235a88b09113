//! `frost rm`: images that are not needed any more.

use crate::failure::Failure;
use crate::invocation::Invocation;
use crate::{output, trouble};
use clap::Args;
use frost_runtime::instance::Instance;
use frost_store::{Name, Store};
use serde::Serialize;
use std::process::ExitCode;

/// Removes images
///
/// NAME@VERSION removes that version, NAME all versions and the name, with the log of a program that ended and the keeper
/// of one that is frozen. A program that runs does not need its image. A scenario goes with the documents that persist, one
/// that runs keeps all but its image.
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

/// Whether it is the name of a scenario, and of no program.
fn is_scenario(store: &Store, name: &str, invocation: &Invocation) -> bool {
    let program =
        || Name::new(name).is_ok_and(|name| matches!(Instance::find(store, &name), Ok(Some(_)) | Err(_)));
    super::scenario::is_kept(name, invocation) && !program()
}

pub(crate) fn run(options: &Options, invocation: &mut Invocation) -> Result<ExitCode, Failure> {
    let store = invocation.store()?;
    // All are looked up before the first one goes.
    let mut found = Vec::new();
    let (scenarios, images): (Vec<&String>, Vec<&String>) =
        options.images.iter().partition(|image| is_scenario(&store, image, invocation));
    for image in images {
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
    if scenarios.is_empty() {
        return Ok(ExitCode::SUCCESS);
    }
    let scenarios: Vec<&str> = scenarios.into_iter().map(String::as_str).collect();
    super::scenario::remove(&scenarios, invocation)
}
