//! Documents that survive a loss of power: one file each, replaced by write, sync, rename, sync of the directory.
//!
//! A thread writes them, so that nobody waits for a disk who did not ask for it. Of several versions of one document that
//! wait, only the newest is written: it makes them all safe.

use crate::scenario::Label;
use frost_component::Content;
use rustix::fd::OwnedFd;
use std::collections::BTreeMap;
use std::io::{self, Write};
use std::path::{Path, PathBuf};
use std::sync::{Arc, Condvar, Mutex, PoisonError};

/// A document to be made safe, or one that was not.
type Waiting = BTreeMap<Label, (u64, Content)>;

#[derive(Default)]
struct Shared {
    waiting: Waiting,
    done: Vec<(Label, u64, Result<(), String>)>,
    ended: bool,
}

/// The writer of documents.
pub(crate) struct Vault {
    shared: Arc<(Mutex<Shared>, Condvar)>,
    thread: Option<std::thread::JoinHandle<()>>,
}

impl Vault {
    /// Starts the writer; `bell` is an eventfd that is rung when something was written.
    pub(crate) fn start(directory: PathBuf, bell: OwnedFd) -> io::Result<Self> {
        let shared = Arc::new((Mutex::new(Shared::default()), Condvar::new()));
        let ours = Arc::clone(&shared);
        let thread =
            std::thread::Builder::new().name("vault".into()).spawn(move || work(&ours, &directory, &bell))?;
        Ok(Self { shared, thread: Some(thread) })
    }

    /// Asks for a document to be made safe.
    pub(crate) fn keep(&self, label: Label, version: u64, content: Content) {
        let (lock, changed) = &*self.shared;
        lock.lock().unwrap_or_else(PoisonError::into_inner).waiting.insert(label, (version, content));
        changed.notify_one();
    }

    /// Takes what is safe by now, with all versions before it, or why it is not.
    pub(crate) fn done(&self) -> Vec<(Label, u64, Result<(), String>)> {
        std::mem::take(&mut self.shared.0.lock().unwrap_or_else(PoisonError::into_inner).done)
    }
}

impl Drop for Vault {
    fn drop(&mut self) {
        let (lock, changed) = &*self.shared;
        lock.lock().unwrap_or_else(PoisonError::into_inner).ended = true;
        changed.notify_one();
        if let Some(thread) = self.thread.take() {
            let _ = thread.join();
        }
    }
}

fn work((lock, changed): &(Mutex<Shared>, Condvar), directory: &Path, bell: &OwnedFd) {
    loop {
        let mut shared = lock.lock().unwrap_or_else(PoisonError::into_inner);
        while shared.waiting.is_empty() && !shared.ended {
            shared = changed.wait(shared).unwrap_or_else(PoisonError::into_inner);
        }
        if shared.waiting.is_empty() {
            return;
        }
        let batch = std::mem::take(&mut shared.waiting);
        drop(shared);
        for (label, (version, content)) in batch {
            let result = write(directory, &label, version, &content).map_err(|error| error.to_string());
            lock.lock().unwrap_or_else(PoisonError::into_inner).done.push((label, version, result));
        }
        let _ = rustix::io::write(bell, &1u64.to_ne_bytes());
    }
}

/// What a file of a document begins with.
const MAGIC: &str = "frost-document-1";

/// Writes a document so that after a loss of power there is either this version or the one before.
fn write(directory: &Path, label: &Label, version: u64, content: &[u8]) -> io::Result<()> {
    let home = directory.join(&label.writer);
    if !home.exists() {
        std::fs::create_dir_all(&home)?;
        std::fs::File::open(directory)?.sync_all()?;
    }
    let draft = home.join(format!(".{}", label.report));
    let mut file = std::fs::File::create(&draft)?;
    let digest = blake3::hash(content).to_hex();
    file.write_all(format!("{MAGIC} {version} {} {digest}\n", content.len()).as_bytes())?;
    file.write_all(content)?;
    file.sync_data()?;
    std::fs::rename(&draft, home.join(&label.report))?;
    std::fs::File::open(&home)?.sync_all()
}

/// A document as it was kept: its version and content.
type Kept = (Label, u64, Content);

/// Reads all documents that were kept. What is damaged is told, with its path, and left out.
pub(crate) fn load(directory: &Path) -> io::Result<(Vec<Kept>, Vec<String>)> {
    let (mut found, mut damaged) = (Vec::new(), Vec::new());
    let entries = match std::fs::read_dir(directory) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok((found, damaged)),
        entries => entries?,
    };
    for home in entries {
        let home = home?.path();
        for entry in std::fs::read_dir(&home)? {
            let path = entry?.path();
            let name = |path: &Path| path.file_name().and_then(|name| name.to_str()).unwrap_or("").to_owned();
            // A draft was not finished; what it replaces is still there.
            let Some(label) = Label::parse(&format!("{}/{}", name(&home), name(&path))) else { continue };
            match decode(&std::fs::read(&path)?) {
                Some((version, content)) => found.push((label, version, Content::new(content)?)),
                None => damaged.push(path.display().to_string()),
            }
        }
    }
    Ok((found, damaged))
}

fn decode(bytes: &[u8]) -> Option<(u64, &[u8])> {
    let end = bytes.iter().position(|byte| *byte == b'\n')?;
    let content = &bytes[end + 1..];
    let mut words = std::str::from_utf8(&bytes[..end]).ok()?.split(' ');
    let (magic, version, length, digest) = (words.next()?, words.next()?, words.next()?, words.next()?);
    let right = magic == MAGIC
        && length.parse() == Ok(content.len())
        && blake3::hash(content).to_hex().as_str() == digest
        && words.next().is_none();
    right.then_some((version.parse().ok()?, content))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_document_is_kept_whole_or_told_to_be_damaged() {
        let place = tempfile::tempdir().unwrap();
        let (a, b) = (Label::new("w", "a"), Label::new("w", "b"));
        write(place.path(), &a, 3, b"x\ny").unwrap();
        write(place.path(), &a, 4, b"").unwrap();
        write(place.path(), &b, 1, b"secret").unwrap();
        std::fs::write(place.path().join("w/.c"), b"half a dra").unwrap();
        let path = place.path().join("w/b");
        let mut bytes = std::fs::read(&path).unwrap();
        *bytes.last_mut().unwrap() ^= 1;
        std::fs::write(&path, bytes).unwrap();
        let (found, damaged) = load(place.path()).unwrap();
        assert_eq!(found.len(), 1);
        assert_eq!((&found[0].0, found[0].1, &*found[0].2), (&a, 4, &b""[..]));
        assert_eq!(damaged, [path.display().to_string()]);
        assert!(load(&place.path().join("none")).unwrap().0.is_empty());
    }

    #[test]
    fn versions_that_wait_are_made_safe_by_the_newest() {
        let place = tempfile::tempdir().unwrap();
        let bell = rustix::event::eventfd(0, rustix::event::EventfdFlags::empty()).unwrap();
        let vault = Vault::start(place.path().to_owned(), bell.try_clone().unwrap()).unwrap();
        let label = Label::new("w", "a");
        for version in 1..=50u64 {
            vault.keep(label.clone(), version, Content::new(&version.to_le_bytes()).unwrap());
        }
        let mut newest = 0;
        while newest < 50 {
            rustix::io::read(&bell, &mut [0; 8]).unwrap();
            newest = vault
                .done()
                .into_iter()
                .map(|(_, version, result)| result.map(|()| version).unwrap())
                .max()
                .unwrap();
        }
        assert_eq!(load(place.path()).unwrap().0[0].1, 50);
    }
}
