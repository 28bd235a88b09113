//! What the route table of a program asks of its freeze.

use frost_image::Digest;
use frost_model::cap::{Capability, Content, FileRef};
use frost_model::route::{Action, IfChanged, Rule, Subject, find};
use frost_model::{Checkpoint, DescriptionId, Obstacle};
use frost_sys::lease::Leases;
use frost_sys::sight;
use rustix::fs::{FileType, OFlags};
use rustix::io::Errno;
use std::fs::File;
use std::io;

/// Notes digests of files whose rule will want to know whether what was in them still is, and returns what the rules
/// refuse.
///
/// # Errors
/// The path of a file that cannot be read, and why.
pub(crate) fn apply(
    checkpoint: &mut Checkpoint,
    rules: &[Rule],
) -> Result<Vec<Obstacle>, (String, io::Error)> {
    let mut refused = Vec::new();
    if rules.is_empty() {
        return Ok(refused);
    }
    for index in 0..checkpoint.descriptions.len() {
        let id = DescriptionId::new(index as u32);
        let Some(subject) = Subject::of(checkpoint, id) else { continue };
        let Some(rule) = find(rules, &subject) else { continue };
        if rule.action == Some(Action::Refuse) {
            refused.extend(obstacle(checkpoint, id, rule));
        }
        if rule.if_changed != Some(IfChanged::Truncate) {
            continue;
        }
        if let Capability::Regular(regular) = &mut checkpoint.descriptions[index].capability
            && let Content::Named { file, digest, .. } = &mut regular.content
            && FileType::from_raw_mode(file.identity.mode) == FileType::RegularFile
        {
            let content = open(file);
            let noted = content.and_then(|content| Digest::of_beginning(content, file.identity.len_bytes));
            match noted {
                Ok(noted) => *digest = Some(*noted.as_bytes()),
                Err(error) => return Err((file.path.to_string(), error)),
            }
        }
    }
    Ok(refused)
}

/// Opens a file by its path without ever waiting: the program stands still, and a fifo may have taken its place. A lease is
/// not broken.
fn open(file: &FileRef) -> io::Result<File> {
    let opened = match Leases::read().open(sight::of(file.path.as_path()), OFlags::RDONLY) {
        Err(Errno::AGAIN) => {
            return Err(io::Error::other("somebody has a lease on it (F_SETLEASE), which that would break"));
        }
        opened => opened?,
    };
    if FileType::from_raw_mode(rustix::fs::fstat(&opened)?.st_mode) != FileType::RegularFile {
        return Err(io::Error::other("it is no regular file any more"));
    }
    Ok(File::from(opened))
}

fn obstacle(checkpoint: &Checkpoint, id: DescriptionId, rule: &Rule) -> Option<Obstacle> {
    let description = checkpoint.descriptions.get(id.index())?;
    checkpoint.processes.iter().find_map(|process| {
        let entry = process.pd.descriptors.iter().find(|entry| entry.description == id)?;
        Some(Obstacle {
            pid: process.pd.relation.pid,
            command: process.pd.command.to_string(),
            object: format!("fd {} ({})", entry.fd.raw(), description.capability),
            reason: format!("its route {} says that it is refused", rule.about),
            remedy: "let the program close it first, or start it with another route".to_owned(),
            passes: false,
        })
    })
}
