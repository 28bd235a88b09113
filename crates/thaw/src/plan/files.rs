//! Whether the files that are mapped, executed or gone to are there, and are the same.

use super::obstacle;
use crate::cap::volatile::{self, Standing};
use crate::cap::{self, directory};
use crate::compile::FileMode;
use crate::pool;
use frost_model::cap::{FileIdentity, FileRef};
use frost_model::clock::Timespec;
use frost_model::rm::Attachment;
use frost_model::route::{self, IfChanged, Rule, Subject};
use frost_model::{BytePath, Checkpoint, Obstacle, Process};
use frost_sys::elf;
use rustix::fd::{AsFd, OwnedFd};
use std::collections::HashMap;

pub(super) fn obstacles(
    checkpoint: &Checkpoint,
    copy: bool,
    rules: &[Rule],
    layers_unseen: bool,
) -> Vec<Obstacle> {
    let mut found = Vec::new();
    let recorded: Vec<HashMap<&[u8], &FileRef>> = checkpoint.processes.iter().map(files_of).collect();
    let in_memory = volatile::standings(checkpoint);
    for (file_use, index) in pool::file_uses(checkpoint) {
        if layers_unseen && checkpoint.is_layered(&BytePath::new(file_use.path.as_slice())) {
            continue;
        }
        let process = &checkpoint.processes[index];
        let noun = if file_use.mode == FileMode::Directory { "directory" } else { "file" };
        let object = format!("{noun} {}", String::from_utf8_lossy(&file_use.path));
        if let Some(removed) = pool::removed_directory(checkpoint, index, &file_use) {
            if directory::place(removed).is_none() {
                let problem = directory::no_place();
                found.push(obstacle(process, object, problem.reason, problem.remedy));
            }
            continue;
        }
        let standing = in_memory.get(&BytePath::new(file_use.path.as_slice()));
        if standing == Some(&Standing::Missing) {
            if copy {
                let reason = "it is shared memory, and a copy would make it anew for the original too";
                found.push(obstacle(process, object, reason, "thaw it without --clone"));
            }
            continue;
        }
        let opened = match pool::open(&file_use) {
            Ok(opened) => opened,
            Err(errno) => {
                let reason = format!("it cannot be opened: {errno}");
                let remedy =
                    format!("make the {noun} reachable by this path again, with the rights to open it");
                found.push(obstacle(process, object, reason, remedy));
                continue;
            }
        };
        let Some(file) = recorded[index].get(file_use.path.as_slice()) else { continue };
        if file_use.mode == FileMode::Directory {
            continue;
        }
        let rule = route::find(rules, &Subject::mapped(file.path.to_string()));
        let shared = rule.is_some_and(|rule| rule.share) || checkpoint.is_layered(&file.path);
        if copy && file_use.mode == FileMode::Write && !shared {
            let reason = "it is mapped for writing, and a copy would write to it beside the original";
            found.push(obstacle(process, object, reason, "end the original and thaw it without --clone"));
            continue;
        }
        if rule.is_some_and(|rule| rule.if_changed == Some(IfChanged::Ignore)) {
            continue;
        }
        let differs = match standing {
            Some(Standing::Different) => Some("its content changed while the program was away".to_owned()),
            Some(_) => None,
            None => difference(&file.identity, &opened),
        };
        if let Some(reason) = differs {
            let remedy = "put the file back as it was when the program was frozen";
            found.push(obstacle(process, object, reason, remedy));
        }
    }
    found
}

fn files_of(process: &Process) -> HashMap<&[u8], &FileRef> {
    let mapped = process.rm.regions.iter().filter_map(|region| match &region.attachment {
        Attachment::File { file, .. } => Some(file),
        _ => None,
    });
    let mut files: HashMap<&[u8], &FileRef> = HashMap::new();
    for file in mapped.chain(&process.pd.exe) {
        let known = files.entry(file.path.as_bytes()).or_insert(file);
        if known.identity.build_id.is_none() {
            *known = file;
        }
    }
    files
}

/// Says how a file differs from what it was; `None` if it is the same.
///
/// A binary with a build-id is the same wherever it lies. Any other file has to be the same inode with the same length
/// and time of change. Devices have no content.
fn difference(was: &FileIdentity, file: &OwnedFd) -> Option<String> {
    const TYPE: u32 = 0o170_000;
    const REGULAR: u32 = 0o100_000;
    let stat = match rustix::fs::fstat(file) {
        Ok(stat) => stat,
        Err(errno) => return Some(format!("it cannot be looked at: {errno}")),
    };
    if *was == FileIdentity::default() {
        return None;
    }
    if stat.st_mode & TYPE != was.mode & TYPE {
        return Some("it is of another type now".to_owned());
    }
    if was.mode & TYPE != REGULAR {
        return (stat.st_rdev != was.rdev).then(|| "it is another device now".to_owned());
    }
    let modified = Timespec { sec: stat.st_mtime, nsec: stat.st_mtime_nsec as i64 };
    let node = stat.st_ino == was.inode || cap::is_layered(file);
    let same = node && stat.st_size.cast_unsigned() == was.len_bytes && modified == was.modified;
    if same {
        return None;
    }
    if let Some(id) = &was.build_id {
        return match elf::build_id(file.as_fd()) {
            Some(now) if now == *id => None,
            _ => Some("it is another build now (its build-id differs)".to_owned()),
        };
    }
    Some(if stat.st_size.cast_unsigned() != was.len_bytes {
        format!("it had {} bytes and has {} now", was.len_bytes, stat.st_size)
    } else if modified != was.modified {
        "it was changed since".to_owned()
    } else {
        "it was replaced by another file of the same length and time".to_owned()
    })
}
