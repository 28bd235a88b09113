//! The first root of a guest: our init, the kernel's modules, what the init is to do, and, without a disk, the root itself.

use crate::cpio::Archive;
use crate::error::{Error, Result};
use crate::kernel::Kernel;
use crate::program;
use rustix::io::Errno;
use std::collections::{BTreeMap, BTreeSet};
use std::ffi::{OsStr, OsString};
use std::fs;
use std::io;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::Command;

/// The guest's init, an ELF file.
const INIT: &[u8] = include_bytes!(concat!(env!("OUT_DIR"), "/frost-guest-init"));

/// What is to run in a guest.
#[derive(Clone, Debug, Default)]
pub struct Task {
    /// The command and its arguments.
    pub command: Vec<OsString>,
    /// `KEY=VALUE`, its whole environment.
    pub environment: Vec<OsString>,
    /// Where it starts; `/` if there is no such directory.
    pub directory: PathBuf,
    /// Whether it gets a terminal.
    pub terminal: bool,
}

/// Where the guest's root is.
#[derive(Clone, Debug)]
pub enum Root {
    /// On its first disk.
    Disk,
    /// In the initramfs: these files, by their paths in the guest.
    Memory(BTreeMap<String, Node>),
}

/// A file of a root in memory.
#[derive(Clone, Debug)]
pub enum Node {
    /// A copy of a file of this machine.
    Copy(PathBuf),
    /// A link.
    Link(String),
    /// A file with this content.
    Text(String),
}

/// Makes a root in memory for a command: busybox, if this machine has a static one, and of this machine's files the
/// command with the libraries it is linked to.
///
/// # Errors
/// [`Error::NotRun`] if neither has the command.
pub fn memory_root(task: &Task, path: &OsStr) -> Result<Root> {
    let mut nodes = BTreeMap::new();
    let busybox = ["/bin/busybox", "/usr/bin/busybox"].iter().map(Path::new).find(|path| is_static(path));
    let mut applets = BTreeSet::new();
    if let Some(busybox) = busybox {
        nodes.insert("bin/busybox".to_owned(), Node::Copy(busybox.to_owned()));
        let list =
            program::run(Command::new(busybox).arg("--list"), "gives the guest its shell", "busybox-static")?;
        for applet in list.lines().filter(|name| *name != "busybox") {
            applets.insert(applet.to_owned());
            nodes.insert(format!("bin/{applet}"), Node::Link("busybox".to_owned()));
        }
    }
    let text = |text: &str| Node::Text(text.to_owned());
    nodes.insert("etc/passwd".to_owned(), text("root:x:0:0:root:/root:/bin/sh\n"));
    nodes.insert("etc/group".to_owned(), text("root:x:0:\n"));
    nodes.insert("etc/hosts".to_owned(), text("127.0.0.1 localhost\n"));
    nodes.insert("etc/resolv.conf".to_owned(), text("nameserver 10.0.2.3\n"));
    let name = task.command.first().map(OsString::as_os_str).unwrap_or_default();
    let inside = name.to_str().is_some_and(|name| {
        applets.contains(name) || name.strip_prefix("/bin/").is_some_and(|name| applets.contains(name))
    });
    if inside {
        return Ok(Root::Memory(nodes));
    }
    let Some(found) = look_up(name, path) else {
        // Neither here nor in busybox; as a shell tells it.
        let is_there = name.as_bytes().contains(&b'/') && Path::new(name).exists();
        let errno = if is_there { Errno::ACCESS } else { Errno::NOENT };
        return Err(Error::NotRun { what: name.to_string_lossy().into_owned(), errno });
    };
    for path in std::iter::once(found.clone()).chain(libraries(&found)) {
        if let Ok(real) = fs::canonicalize(&path) {
            nodes.insert(inner(&path), Node::Copy(real));
        }
    }
    // What is found by name in the guest is found where it lies here.
    Ok(Root::Memory(nodes))
}

fn inner(path: &Path) -> String {
    path.to_string_lossy().trim_start_matches('/').to_owned()
}

/// Finds a program as execvp(3) would.
fn look_up(name: &OsStr, path: &OsStr) -> Option<PathBuf> {
    let executable = |path: &Path| {
        fs::metadata(path).is_ok_and(|data| data.is_file() && data.permissions().mode() & 0o111 != 0)
    };
    if name.as_bytes().contains(&b'/') {
        return std::path::absolute(name).ok().filter(|path| executable(path));
    }
    std::env::split_paths(path).map(|directory| directory.join(name)).find(|path| executable(path))
}

/// Whether a program needs no library.
fn is_static(path: &Path) -> bool {
    path.exists() && libraries(path).is_empty()
}

/// The libraries that a program is linked to, and its loader, as the loader itself finds them.
fn libraries(path: &Path) -> Vec<PathBuf> {
    let text = program::run(Command::new("ldd").arg(path), "tells a program's libraries", "libc-bin");
    text.unwrap_or_default()
        .lines()
        .filter_map(|line| line.split_whitespace().find(|word| word.starts_with('/')))
        .map(PathBuf::from)
        .collect()
}

/// Writes the initramfs.
///
/// # Errors
/// [`Error::File`] for a file that cannot be read; [`Error::Unsupported`] if the command is too long.
pub fn build(kernel: &Kernel, task: &Task, root: &Root) -> Result<Vec<u8>> {
    let here = Error::file("the guest's initramfs");
    let mut archive = Archive::new(Vec::new());
    let config = config(task, root)?;
    let start = |archive: &mut Archive<Vec<u8>>| -> io::Result<()> {
        archive.file("init", 0o755, INIT)?;
        archive.file("config", 0o600, &config)?;
        archive.directory("modules", 0o755)?;
        archive.directory("root", 0o755)
    };
    start(&mut archive).map_err(here)?;
    for (name, path) in &kernel.modules {
        let content = fs::read(path).map_err(Error::file(path))?;
        archive.file(&format!("modules/{name}.ko"), 0o644, &content).map_err(Error::file(path))?;
    }
    if let Root::Memory(nodes) = root {
        let mut directories: BTreeSet<PathBuf> =
            ["dev", "proc", "sys", "tmp", "run", "root", "var", "var/tmp"]
                .into_iter()
                .map(PathBuf::from)
                .collect();
        for path in nodes.keys() {
            directories.extend(Path::new(path).ancestors().skip(1).map(Path::to_owned));
        }
        for directory in directories.iter().filter(|path| !path.as_os_str().is_empty()) {
            let bits = if directory.ends_with("tmp") { 0o1777 } else { 0o755 };
            archive
                .directory(&format!("root/{}", directory.display()), bits)
                .map_err(Error::file(directory))?;
        }
        for (path, node) in nodes {
            let inner = format!("root/{path}");
            match node {
                Node::Copy(from) => {
                    let content = fs::read(from).map_err(Error::file(from))?;
                    let bits = fs::metadata(from).map_err(Error::file(from))?.permissions().mode() & 0o777;
                    archive.file(&inner, bits, &content)
                }
                Node::Link(target) => archive.link(&inner, target),
                Node::Text(text) => archive.file(&inner, 0o644, text.as_bytes()),
            }
            .map_err(Error::file(path))?;
        }
    }
    archive.finish().map_err(Error::file("the guest's initramfs"))
}

/// What the init reads: `KEY=VALUE`, each ended by NUL.
fn config(task: &Task, root: &Root) -> Result<Vec<u8>> {
    /// The room that the init has for it, and for each of the two lists.
    const LIMIT_BYTES: usize = (1 << 17) - 1;
    const LIMIT_ITEMS: usize = 1023;
    let mut config = Vec::new();
    let mut put = |key: &str, value: &[u8]| {
        config.extend_from_slice(key.as_bytes());
        config.push(b'=');
        config.extend_from_slice(value);
        config.push(0);
    };
    if matches!(root, Root::Disk) {
        put("root", b"/dev/vda");
    }
    if task.terminal {
        put("terminal", b"");
    }
    put("directory", task.directory.as_os_str().as_bytes());
    task.command.iter().for_each(|argument| put("argument", argument.as_bytes()));
    task.environment.iter().for_each(|variable| put("variable", variable.as_bytes()));
    let items = task.command.len().max(task.environment.len());
    if config.len() > LIMIT_BYTES || items > LIMIT_ITEMS {
        return Err(Error::Unsupported {
            object: "the command with its environment".to_owned(),
            why: format!("the guest's init takes {LIMIT_BYTES} bytes, and {LIMIT_ITEMS} of each"),
            remedy: "put it into a script in the guest's root".to_owned(),
        });
    }
    Ok(config)
}
