//! Scenarios that are kept, whether they run or not: listed, looked into, verified and removed, as images of programs are.
//!
//! Nothing here asks a supervisor: it may itself be waiting for the command that wants to know.

use crate::failure::{Failure, Status};
use crate::image::{IMAGE, Image};
use crate::place;
use crate::scenario::Label;
use crate::vault;
use frost_component::wire::is_name;
use serde::Serialize;
use std::io;
use std::path::{Path, PathBuf};

/// A scenario of the store.
#[derive(Debug, Serialize)]
pub(crate) struct Shelved {
    v: u32,
    pub(crate) scenario: String,
    /// `running`, `frozen`, or `ended`: then documents that persist are left.
    pub(crate) state: &'static str,
    /// The supervisor, of one that runs.
    pub(crate) pid: Option<i32>,
    /// How long its image is, if there is one.
    pub(crate) image_bytes: Option<u64>,
    /// When it was frozen, in seconds since 1970.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) created: Option<i64>,
    /// How many there are: in its image, or that persist.
    pub(crate) documents: usize,
    /// Images of programs that belong to its image.
    pub(crate) programs: Vec<String>,
    /// Where its file was when it was frozen.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) file: Option<PathBuf>,
    /// Why its image cannot be thawed.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) problem: Option<String>,
}

/// What a scenario keeps.
#[derive(Debug, Serialize)]
pub(crate) struct Content {
    #[serde(flatten)]
    pub(crate) shelved: Shelved,
    #[serde(rename = "held")]
    pub(crate) documents: Vec<Held>,
    /// Components that were replaced by what its file does not name: the name, and the binary.
    pub(crate) replaced: Vec<(String, Option<PathBuf>)>,
    /// What its file said when it was frozen.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) text: Option<String>,
}

/// A document that is kept.
#[derive(Debug, Serialize)]
pub(crate) struct Held {
    pub(crate) name: String,
    pub(crate) version: u64,
    /// Null where it was empty.
    pub(crate) len_bytes: Option<u64>,
}

/// Whether a scenario can be thawed.
#[derive(Debug, Serialize)]
pub(crate) struct Verdict {
    v: u32,
    pub(crate) scenario: String,
    pub(crate) sound: bool,
    pub(crate) problems: Vec<String>,
}

/// What was removed.
#[derive(Debug, Serialize)]
pub(crate) struct Removed {
    v: u32,
    pub(crate) scenario: String,
    pub(crate) state: &'static str,
    pub(crate) bytes: u64,
    /// Images of its programs, which are there still.
    pub(crate) programs: Vec<String>,
}

/// Returns the names of all scenarios of the store.
pub(crate) fn names() -> Result<Vec<String>, Failure> {
    let entries = std::fs::read_dir(place::scenarios()?).into_iter().flatten().flatten();
    let mut names: Vec<String> = entries
        .filter_map(|entry| entry.file_name().into_string().ok())
        .filter(|name| is_name(name))
        .collect();
    names.sort();
    Ok(names)
}

/// Returns the directory of a scenario, if there is one of that name.
fn home(doing: &str, name: &str) -> Result<PathBuf, Failure> {
    let home = place::scenarios()?.join(name);
    if is_name(name) && home.is_dir() {
        return Ok(home);
    }
    let known = names()?;
    Err(Failure::new(Status::Missing, format!("cannot {doing} {name}"), "there is no scenario of that name")
        .hint(crate::spot::suggest(name, "scenarios", known.iter().map(String::as_str))))
}

/// Tells how scenarios stand: those, or all.
pub(crate) fn list(names: &[String]) -> Result<Vec<Shelved>, Failure> {
    let all = if names.is_empty() { self::names()? } else { names.to_vec() };
    let mut list = Vec::new();
    for name in all {
        let shelved = look(&home("list", &name)?, &name).0;
        // A directory in which nothing is kept tells nothing.
        if shelved.state != "ended" || shelved.documents > 0 {
            list.push(shelved);
        }
    }
    Ok(list)
}

fn look(home: &Path, name: &str) -> (Shelved, Option<Image>) {
    let pid = place::supervisor(home);
    let image_bytes = std::fs::metadata(home.join(IMAGE)).ok().map(|meta| meta.len());
    let mut shelved = Shelved {
        v: 1,
        scenario: name.to_owned(),
        state: match (pid, image_bytes) {
            (Some(_), _) => "running",
            (None, Some(_)) => "frozen",
            (None, None) => "ended",
        },
        pid,
        image_bytes,
        created: None,
        documents: 0,
        programs: Vec::new(),
        file: None,
        problem: None,
    };
    if image_bytes.is_none() {
        shelved.documents = vault::labels(&home.join("documents")).len();
        return (shelved, None);
    }
    match Image::read(home) {
        Ok(image) => {
            shelved.created = image.created();
            shelved.documents = image.len();
            shelved.programs = image.members.values().cloned().collect();
            shelved.file = Some(image.file.clone());
            (shelved, Some(image))
        }
        Err(error) => {
            shelved.problem = Some(error.to_string());
            (shelved, None)
        }
    }
}

/// Looks into a scenario: its image, or what persists.
pub(crate) fn inspect(name: &str) -> Result<Content, Failure> {
    let home = home("inspect", name)?;
    let (shelved, image) = look(&home, name);
    let what = format!("cannot inspect {name}");
    if let Some(why) = &shelved.problem {
        return Err(Failure::new(Status::Damaged, what, why)
            .hint(format!("`frost rm {name}` removes it; `frost up` starts it anew")));
    }
    let held = |label: &Label, version, bytes: Option<&[u8]>| Held {
        name: label.to_string(),
        version,
        len_bytes: bytes.map(|bytes| bytes.len() as u64),
    };
    let documents = match &image {
        Some(image) => {
            image.documents().map(|(label, version, bytes)| held(&label, version, bytes)).collect()
        }
        None => {
            let (found, _) = vault::load(&home.join("documents"))
                .map_err(|error| Failure::new(Status::Failed, what, error))?;
            found.iter().map(|(label, version, content)| held(label, *version, Some(content))).collect()
        }
    };
    let (replaced, text) = image.map(|image| (image.replaced, image.text)).unzip();
    let replaced: std::collections::BTreeMap<_, _> = replaced.unwrap_or_default();
    let replaced = replaced.into_iter().map(|(name, wish)| (name, wish.binary)).collect();
    Ok(Content { shelved, documents, replaced, text })
}

/// Reads all that a scenario keeps, and compares the digests.
pub(crate) fn verify(name: &str) -> Result<Verdict, Failure> {
    let home = home("verify", name)?;
    let mut problems = Vec::new();
    match Image::read(&home) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => problems.push(format!("its image: {error}")),
        _ => {}
    }
    match vault::load(&home.join("documents")) {
        Ok((_, damaged)) => {
            problems.extend(damaged.into_iter().map(|path| format!("the document {path} is damaged")));
        }
        Err(error) => problems.push(error.to_string()),
    }
    Ok(Verdict { v: 1, scenario: name.to_owned(), sound: problems.is_empty(), problems })
}

/// Removes a scenario with all that it keeps; of one that runs its image, which it does not need.
pub(crate) fn remove(names: &[String]) -> Result<Vec<Removed>, Failure> {
    let mut found = Vec::new();
    // All are looked up before the first one goes.
    for name in names {
        let home = home("remove", name)?;
        let (shelved, _) = look(&home, name);
        if shelved.state == "running" && shelved.image_bytes.is_none() {
            let why = "it runs, and there is no image of it";
            return Err(Failure::new(Status::Failed, format!("cannot remove {name}"), why)
                .hint(format!("`frost down {name}` ends it first")));
        }
        found.push((home, shelved));
    }
    let mut removed = Vec::new();
    for (home, shelved) in found {
        let name = shelved.scenario;
        let failed = |error: io::Error| Failure::new(Status::Failed, format!("cannot remove {name}"), error);
        let mut bytes = shelved.image_bytes.unwrap_or(0);
        if shelved.state == "running" {
            std::fs::remove_file(home.join(IMAGE)).map_err(failed)?;
        } else {
            // Nobody starts it meanwhile.
            let _lock = place::claim(&home, &name, "remove")?;
            bytes = size(&home);
            std::fs::remove_dir_all(&home).map_err(failed)?;
        }
        let scenarios = home.parent().unwrap_or(&home);
        std::fs::File::open(scenarios).and_then(|directory| directory.sync_all()).map_err(failed)?;
        let images = scenarios.with_file_name("images");
        let is_there = |image: &String| images.join(image.split('@').next().unwrap_or(image)).exists();
        let programs = shelved.programs.into_iter().filter(is_there).collect();
        removed.push(Removed { v: 1, scenario: name, state: "removed", bytes, programs });
    }
    Ok(removed)
}

/// What the files below a directory hold.
fn size(directory: &Path) -> u64 {
    let entries = std::fs::read_dir(directory).into_iter().flatten().flatten();
    entries
        .map(|entry| match entry.metadata() {
            Ok(meta) if meta.is_dir() => size(&entry.path()),
            Ok(meta) => meta.len(),
            Err(_) => 0,
        })
        .sum()
}
