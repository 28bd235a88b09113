//! `frost export`: an image as one stream.

use crate::failure::{Failure, Status, Told};
use crate::invocation::Invocation;
use crate::{output, trouble};
use clap::Args;
use frost_store::{ImageId, Store};
use std::io::{self, BufWriter, IsTerminal, Write};
use std::path::{Path, PathBuf};
use std::process::ExitCode;

/// Writes an image as one stream, for another machine or a backup
///
/// `frost export web - | ssh host frost import -` moves an image. The stream is verified on the way and compressed. It
/// holds every secret of the program.
#[derive(Args, Debug)]
pub(crate) struct Options {
    /// The image: a name for its newest version, or NAME@VERSION
    image: String,
    /// The file, which only you will be able to read; `-` is standard output
    #[arg(default_value = "-", value_name = "FILE|-")]
    file: PathBuf,
}

pub(crate) fn run(options: &Options, invocation: &mut Invocation) -> Result<ExitCode, Failure> {
    let store = invocation.store()?;
    let failed = |error| trouble::of_store(format!("cannot export {}", options.image), error);
    let id = store.resolve(&options.image).map_err(failed)?;
    if options.file == Path::new("-") {
        to_stdout(&store, &id)?;
    } else {
        to_file(&store, &id, &options.file)?;
    }
    invocation.steps.end("store.export");
    Ok(ExitCode::SUCCESS)
}

fn to_stdout(store: &Store, id: &ImageId) -> Result<(), Failure> {
    let out = io::stdout().lock();
    if out.is_terminal() {
        return Err(Told::new(Status::Usage, format!("cannot export {id} to a terminal"))
            .cause("an image is no text")
            .hint(format!("name a file, or a pipe: frost export {id} - | ssh host frost import -"))
            .into());
    }
    let mut out = BufWriter::new(out);
    store.export(id, &mut out).map_err(|error| trouble::of_store(format!("cannot export {id}"), error))?;
    Ok(out.flush()?)
}

/// Writes beside the file first, so that a failure leaves what was there.
fn to_file(store: &Store, id: &ImageId, path: &Path) -> Result<(), Failure> {
    let failed = |error: &io::Error| {
        let full = matches!(error.kind(), io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded);
        let status = if full { Status::NoSpace } else { Status::Failed };
        Failure::from(
            Told::new(status, format!("cannot export {id} to {}", path.display()))
                .chain(error)
                .state("the file is as it was before")
                .hint("name a file in a directory where you may write and there is room"),
        )
    };
    let directory = path.parent().filter(|parent| !parent.as_os_str().is_empty()).unwrap_or(Path::new("."));
    let mut file =
        tempfile::Builder::new().prefix(".frost-export-").tempfile_in(directory).map_err(|e| failed(&e))?;
    store.export(id, file.as_file_mut()).map_err(|error| match error {
        frost_store::Error::Io { source, .. } => failed(&source),
        error => trouble::of_store(format!("cannot export {id}"), error),
    })?;
    let bytes = file.as_file().metadata().map_err(|e| failed(&e))?.len();
    file.as_file().sync_all().map_err(|e| failed(&e))?;
    file.persist(path).map_err(|e| failed(&e.error))?;
    output::note(&format!("exported {id} to {}, {}", path.display(), output::bytes(bytes)));
    Ok(())
}
