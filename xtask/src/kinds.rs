//! One kind of object, one file: of the same name in the model, in capture, in rebuild, and among the victims.

use crate::run::Outcome;
use std::collections::BTreeSet;
use std::path::Path;

/// Where a kind has its files.
const PLACES: [&str; 4] =
    ["crates/model/src/cap", "crates/freeze/src/cap", "crates/thaw/src/cap", "tests/victims"];

/// Files of the model's directory that are no kind: the table of kinds, their names, and what several of them share.
const NOT_KINDS: [&str; 4] = ["mod", "describe", "file", "lock"];

/// Checks that each kind has all its files.
pub(crate) fn run(root: &Path, _check: bool) -> Outcome {
    let kinds: BTreeSet<String> =
        files(&root.join(PLACES[0])).into_iter().filter(|name| !NOT_KINDS.contains(&name.as_str())).collect();
    let mut lacking = Vec::new();
    let mut waiting = Vec::new();
    for place in &PLACES[1..] {
        let directory = root.join(place);
        if !directory.exists() {
            waiting.push(*place);
            continue;
        }
        let there: BTreeSet<String> = files(&directory).into_iter().collect();
        lacking.extend(kinds.difference(&there).map(|kind| format!("{place}/{kind}.rs")));
    }
    if !lacking.is_empty() {
        return Outcome::Failed(format!("kinds without a file: {}", lacking.join(", ")));
    }
    if waiting.is_empty() {
        Outcome::Passed(Some(format!("{} kinds, each in {} places", kinds.len(), PLACES.len())))
    } else {
        Outcome::Skipped(format!("{} kinds; there is no {} yet", kinds.len(), waiting.join(", ")))
    }
}

/// The names of a directory's files and folders, without `.rs` or `.c`.
fn files(directory: &Path) -> Vec<String> {
    let Ok(entries) = std::fs::read_dir(directory) else { return Vec::new() };
    entries
        .flatten()
        .map(|entry| entry.file_name().to_string_lossy().into_owned())
        .map(|name| name.split('.').next().unwrap_or_default().to_owned())
        .collect()
}
