//! `frost export`: an image as one stream.

use crate::destination::{self, Destination};
use crate::failure::Failure;
use crate::invocation::Invocation;
use crate::progress::Progress;
use crate::{output, trouble};
use clap::Args;
use frost_store::{ImageId, Store};
use std::io::{BufWriter, Write};
use std::path::{Path, PathBuf};
use std::process::ExitCode;

/// Writes an image as one stream, for another machine or a backup
///
/// `frost export web - | ssh host frost import -` moves an image. The stream is verified on the way and compressed. It
/// holds every secret of the program. A frozen scenario is exported as well; programs of it are images of their own.
#[derive(Args, Debug)]
pub(crate) struct Options {
    /// The image: a name for its newest version, or NAME@VERSION
    image: String,
    /// The file, which only you will be able to read; `-` is standard output
    #[arg(default_value = "-", value_name = "FILE|-")]
    file: PathBuf,
}

pub(crate) fn run(options: &Options, invocation: &mut Invocation) -> Result<ExitCode, Failure> {
    if super::scenario::is_kept(&options.image, invocation) {
        return super::scenario::export(&options.image, &options.file, invocation);
    }
    let store = invocation.store()?;
    let failed = |error| trouble::of_store(format!("cannot export {}", options.image), error);
    let id = store.resolve(&options.image).map_err(failed)?;
    let progress = Progress::start(format!("exporting {id}"));
    progress.watch(&store);
    if options.file == Path::new("-") {
        to_stdout(&store, &id)?;
    } else {
        let bytes = to_file(&store, &id, &options.file)?;
        drop(progress);
        let bytes = bytes.map(|bytes| format!(", {}", output::bytes(bytes))).unwrap_or_default();
        output::note(&format!("exported {id} to {}{bytes}", options.file.display()));
    }
    invocation.steps.end("store.export");
    Ok(ExitCode::SUCCESS)
}

fn to_stdout(store: &Store, id: &ImageId) -> Result<(), Failure> {
    let what = format!("cannot export {id}");
    let hint = format!("name a file, or a pipe: frost export {id} - | ssh host frost import -");
    let mut out = BufWriter::new(destination::stdout(&what, "an image is no text", &hint)?);
    store.export(id, &mut out).map_err(|error| trouble::of_store(what, error))?;
    Ok(out.flush()?)
}

/// Returns how long the file is, if it is one.
fn to_file(store: &Store, id: &ImageId, path: &Path) -> Result<Option<u64>, Failure> {
    let what = format!("cannot export {id}");
    let mut destination = Destination::create(&what, path)?;
    store.export(id, destination.file()).map_err(|error| match error {
        frost_store::Error::Io { source, .. } => destination.failed(&source),
        error => trouble::of_store(what.as_str(), error),
    })?;
    destination.publish()
}
