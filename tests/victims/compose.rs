//! Several victims in one tree: `victim compose DIR SHAPE NAME...`.
//!
//! Each plays in a directory of its own below DIR, as a process of its own, at a place in the tree that its letter of SHAPE
//! names. The tree is content if all of them are.

use crate::call::nap;
use crate::stage::{Stage, Verdict};
use std::os::unix::process::CommandExt;
use std::path::PathBuf;
use std::process::{Child, Command};
use std::time::Duration;

/// A victim of the tree.
struct Member {
    name: String,
    dir: PathBuf,
    child: Child,
}

/// Starts a member: `c` as a child, `g` as a grandchild whose parent waits for it, `s` as one below the leader of another
/// session, `n` as a child with another priority.
fn start(stage: &Stage, index: usize, name: &str, letter: char) -> Result<Member, String> {
    let dir = stage.path(&format!("member-{index}"));
    std::fs::create_dir(&dir).map_err(|error| error.to_string())?;
    let own = std::env::current_exe().map_err(|error| error.to_string())?;
    let mut command = match letter {
        'c' | 'n' => Command::new(&own),
        _ => {
            let mut command = Command::new("/bin/sh");
            // Not by exec, so that there is a process between.
            command.args(["-c", "\"$@\"; exit $?", "sh"]).arg(&own);
            command
        }
    };
    // What one says moves no descriptor of another.
    let said = std::fs::File::create(dir.join("said")).map_err(|error| error.to_string())?;
    let copy = said.try_clone().map_err(|error| error.to_string())?;
    command.arg(name).arg(&dir).current_dir(&dir).stdout(said).stderr(copy);
    // SAFETY: both calls are async-signal-safe and touch no memory of ours.
    unsafe {
        command.pre_exec(move || {
            if letter == 's' {
                libc::setsid();
            }
            if letter == 'n' {
                libc::setpriority(libc::PRIO_PROCESS, 0, 5);
            }
            Ok(())
        });
    }
    let child = command.spawn().map_err(|error| format!("{name} cannot be started: {error}"))?;
    Ok(Member { name: name.to_owned(), dir, child })
}

/// Plays all of them.
pub(crate) fn play(stage: &Stage, shape: &str, names: &[&str]) -> Verdict {
    let mut members = Vec::new();
    for (index, (name, letter)) in names.iter().zip(shape.chars()).enumerate() {
        members.push(start(stage, index, name, letter)?);
    }
    for member in &members {
        while !member.dir.join("ready").exists() {
            let early = std::fs::read_to_string(member.dir.join("result"));
            check!(early.is_err(), "{} did not get ready: {}", member.name, early.unwrap_or_default());
            nap(Duration::from_millis(2));
        }
    }
    stage.ready();
    stage.wait();
    let how = std::fs::read(stage.path("go")).map_err(|error| error.to_string())?;
    for member in &members {
        let draft = member.dir.join("go.draft");
        let said = std::fs::write(&draft, &how).and_then(|()| std::fs::rename(&draft, member.dir.join("go")));
        said.map_err(|error| error.to_string())?;
    }
    for member in &mut members {
        let status = member.child.wait().map_err(|error| error.to_string())?;
        let result = std::fs::read_to_string(member.dir.join("result")).unwrap_or_default();
        check!(status.success() && result == "ok", "{} ended with {status}: {result}", member.name);
    }
    Ok(())
}
