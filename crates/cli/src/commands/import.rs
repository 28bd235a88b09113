//! `frost import`: an image from a stream.

use crate::failure::{Failure, Status, Told};
use crate::invocation::Invocation;
use crate::progress::Progress;
use crate::{output, trouble};
use clap::Args;
use frost_store::Name;
use serde::Serialize;
use std::fs::File;
use std::io::{self, IsTerminal, Read};
use std::path::{Path, PathBuf};
use std::process::ExitCode;

/// Takes an image that `frost export` wrote
///
/// An image is code that will run with your rights when it is thawed: import only what you trust.
#[derive(Args, Debug)]
pub(crate) struct Options {
    /// The file; `-` is standard input
    #[arg(default_value = "-", value_name = "FILE|-")]
    file: PathBuf,
    /// The name of the image here [default: the name it had]
    #[arg(long, value_name = "NAME")]
    to: Option<String>,
}

#[derive(Serialize)]
struct Record<'a> {
    name: &'a str,
    version: u32,
    bytes: u64,
    exported_as: String,
}

pub(crate) fn run(options: &Options, invocation: &mut Invocation) -> Result<ExitCode, Failure> {
    let what = || match options.file.to_str() {
        Some("-") => "cannot import an image from standard input".to_owned(),
        _ => format!("cannot import {}", options.file.display()),
    };
    let name = options
        .to
        .as_deref()
        .map(|name| Name::new(name).map_err(|error| super::freeze::no_name(what(), name, &error)));
    let name = name.transpose()?;
    if let Some(name) = &name {
        super::scenario::keep_apart(name, what(), "the store is as it was before", "--to", invocation)?;
    }
    let mut input: Box<dyn Read> = if options.file == Path::new("-") {
        if io::stdin().is_terminal() {
            return Err(Told::new(Status::Usage, what())
                .cause("it is a terminal")
                .state("the store is as it was before")
                .hint("name a file, or a pipe: ssh host frost export NAME - | frost import -")
                .into());
        }
        Box::new(io::stdin().lock())
    } else {
        Box::new(File::open(&options.file).map_err(|error| {
            let status = match error.kind() {
                io::ErrorKind::NotFound => Status::Missing,
                io::ErrorKind::PermissionDenied => Status::Denied,
                _ => Status::Failed,
            };
            Told::new(status, what())
                .chain(&error)
                .state("the store is as it was before")
                .hint("name a file that `frost export` wrote")
        })?)
    };
    let mut first = Vec::new();
    input.by_ref().take(super::scenario::MAGIC.len() as u64).read_to_end(&mut first).map_err(|error| {
        Told::new(Status::Failed, what())
            .chain(&error)
            .state("the store is as it was before")
            .hint("name a file that `frost export` wrote")
    })?;
    let is_scenario = first == super::scenario::MAGIC;
    let mut input = first.as_slice().chain(input);
    if is_scenario {
        trouble::not_for("a scenario", what(), &[(options.to.is_some(), "--to")])?;
        return super::scenario::import(&mut input, invocation);
    }
    let store = invocation.store()?;
    let progress = Progress::start("importing".to_owned());
    progress.watch(&store);
    let imported =
        store.import(&mut input, name.as_ref()).map_err(|error| trouble::of_import(what(), error))?;
    drop(progress);
    invocation.steps.end("store.import");
    let id = &imported.committed.id;
    if invocation.global.json {
        output::record(&Record {
            name: id.name.as_str(),
            version: id.version,
            bytes: imported.committed.bytes,
            exported_as: imported.exported.to_string(),
        })?;
    } else {
        let was = if imported.exported == *id {
            String::new()
        } else {
            format!(", exported as {}", imported.exported)
        };
        output::line(&format!("{id}: {}{was}", output::bytes(imported.committed.bytes)))?;
    }
    Ok(ExitCode::SUCCESS)
}
