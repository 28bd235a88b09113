//! Documents that survive a loss of power: one file each, replaced by write, sync, rename, sync of the directory.
//!
//! A thread writes them, so that nobody waits for a disk who did not ask for it. Of several versions of one document that
//! wait, only the newest is written: it makes them all safe.

use crate::scenario::Label;
use frost_component::Content;
use rustix::fd::OwnedFd;
use std::collections::{BTreeMap, BTreeSet};
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

/// What is done to a disk; all that a document has to survive lies in the order of these.
trait Disk {
    /// Makes a directory, if there is none.
    fn make_dir(&self, path: &Path) -> io::Result<()>;
    /// Replaces what a file holds.
    fn write(&self, path: &Path, bytes: &[u8]) -> io::Result<()>;
    /// Makes a file's content safe.
    fn sync_file(&self, path: &Path) -> io::Result<()>;
    /// Makes the names in a directory safe.
    fn sync_dir(&self, path: &Path) -> io::Result<()>;
    fn rename(&self, from: &Path, to: &Path) -> io::Result<()>;
}

/// That of this machine.
struct Machine;

impl Disk for Machine {
    fn make_dir(&self, path: &Path) -> io::Result<()> {
        std::fs::create_dir_all(path)
    }

    fn write(&self, path: &Path, bytes: &[u8]) -> io::Result<()> {
        let mut file = std::fs::OpenOptions::new();
        file.write(true).create(true).truncate(true);
        // It holds what components know.
        std::os::unix::fs::OpenOptionsExt::mode(&mut file, 0o600);
        file.open(path)?.write_all(bytes)
    }

    fn sync_file(&self, path: &Path) -> io::Result<()> {
        // Whatever descriptor it was written through: it is the file that is synced.
        std::fs::File::open(path)?.sync_data()
    }

    fn sync_dir(&self, path: &Path) -> io::Result<()> {
        std::fs::File::open(path)?.sync_all()
    }

    fn rename(&self, from: &Path, to: &Path) -> io::Result<()> {
        std::fs::rename(from, to)
    }
}

/// Makes the names of a directory and of all above it safe.
///
/// Not only when they are new: who has made them may have died before.
pub(crate) fn sync_names(path: &Path) -> io::Result<()> {
    sync_names_on(&Machine, path)
}

fn sync_names_on(disk: &impl Disk, path: &Path) -> io::Result<()> {
    for above in path.ancestors().skip(1).filter(|above| !above.as_os_str().is_empty()) {
        match disk.sync_dir(above) {
            // Not ours to read, so not ours to have made anything in.
            Err(error) if error.kind() == io::ErrorKind::PermissionDenied => {}
            done => done?,
        }
    }
    Ok(())
}

fn work((lock, changed): &(Mutex<Shared>, Condvar), directory: &Path, bell: &OwnedFd) {
    let mut drawers = Drawers::default();
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
            let result = drawers.write(&Machine, directory, &label, version, &content).map_err(|error| {
                // Its directory may have gone.
                drawers.0.remove(&directory.join(&label.writer));
                error.to_string()
            });
            lock.lock().unwrap_or_else(PoisonError::into_inner).done.push((label, version, result));
        }
        let _ = rustix::io::write(bell, &1u64.to_ne_bytes());
    }
}

/// What a file of a document begins with.
const MAGIC: &str = "frost-document-1";

/// The directories, one for each writer, whose names are safe.
#[derive(Default)]
struct Drawers(BTreeSet<PathBuf>);

impl Drawers {
    /// Writes a document so that after a loss of power there is either this version or the one before; when this has
    /// returned, this one.
    fn write(
        &mut self,
        disk: &impl Disk,
        directory: &Path,
        label: &Label,
        version: u64,
        content: &[u8],
    ) -> io::Result<()> {
        let home = directory.join(&label.writer);
        if !self.0.contains(&home) {
            disk.make_dir(directory)?;
            disk.make_dir(&home)?;
            sync_names_on(disk, &home)?;
            self.0.insert(home.clone());
        }
        let draft = home.join(format!(".{}", label.report));
        let digest = blake3::hash(content).to_hex();
        let mut bytes = format!("{MAGIC} {version} {} {digest}\n", content.len()).into_bytes();
        bytes.extend_from_slice(content);
        disk.write(&draft, &bytes)?;
        disk.sync_file(&draft)?;
        disk.rename(&draft, &home.join(&label.report))?;
        disk.sync_dir(&home)
    }
}

/// A document as it was kept: its version and content.
type Kept = (Label, u64, Content);

/// Reads all documents that were kept, and tells the paths of those that are damaged.
///
/// # Errors
/// One that cannot be read, with its path.
pub(crate) fn load(directory: &Path) -> io::Result<(Vec<Kept>, Vec<String>)> {
    let (mut found, mut damaged) = (Vec::new(), Vec::new());
    for (label, path) in files(directory)? {
        let bytes = std::fs::read(&path).map_err(|error| about(&path, &error))?;
        match decode(&bytes) {
            Some((version, content)) => found.push((label, version, Content::new(content)?)),
            None => damaged.push(path.display().to_string()),
        }
    }
    Ok((found, damaged))
}

/// Tells which documents were kept, as far as that can be told.
pub(crate) fn labels(directory: &Path) -> Vec<Label> {
    files(directory).unwrap_or_default().into_iter().map(|(label, _)| label).collect()
}

fn files(directory: &Path) -> io::Result<Vec<(Label, PathBuf)>> {
    let entries = |path: &Path| -> io::Result<Vec<PathBuf>> {
        let entries = match std::fs::read_dir(path) {
            // A file that somebody has put there is no document.
            Err(error) if matches!(error.kind(), io::ErrorKind::NotFound | io::ErrorKind::NotADirectory) => {
                return Ok(Vec::new());
            }
            entries => entries.map_err(|error| about(path, &error))?,
        };
        entries.map(|entry| entry.map(|entry| entry.path())).collect()
    };
    let mut files = Vec::new();
    for home in entries(directory)? {
        for path in entries(&home)? {
            let name = |path: &Path| path.file_name().and_then(|name| name.to_str()).unwrap_or("").to_owned();
            // A draft was not finished; what it replaces is still there.
            let label = Label::parse(&format!("{}/{}", name(&home), name(&path)));
            files.extend(label.map(|label| (label, path)));
        }
    }
    Ok(files)
}

fn about(path: &Path, error: &io::Error) -> io::Error {
    io::Error::new(error.kind(), format!("{}: {error}", path.display()))
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
    use std::cell::RefCell;

    fn write(directory: &Path, label: &Label, version: u64, content: &[u8]) -> io::Result<()> {
        Drawers::default().write(&Machine, directory, label, version, content)
    }

    /// What was done to a disk whose power is about to go.
    #[derive(Clone, Debug)]
    enum Deed {
        MakeDir(PathBuf),
        Write(PathBuf, Vec<u8>),
        SyncFile(PathBuf),
        SyncDir(PathBuf),
        Rename(PathBuf, PathBuf),
    }

    /// A disk that writes down what is done to it; of which it leaves out `forgets`, to show that it would be noticed.
    #[derive(Default)]
    struct Recorder {
        deeds: RefCell<Vec<Deed>>,
        forgets: Option<&'static str>,
    }

    impl Recorder {
        fn note(&self, what: &str, deed: Deed) -> io::Result<()> {
            if self.forgets != Some(what) {
                self.deeds.borrow_mut().push(deed);
            }
            Ok(())
        }
    }

    impl Disk for Recorder {
        fn make_dir(&self, path: &Path) -> io::Result<()> {
            self.note("make_dir", Deed::MakeDir(path.to_owned()))
        }
        fn write(&self, path: &Path, bytes: &[u8]) -> io::Result<()> {
            self.note("write", Deed::Write(path.to_owned(), bytes.to_owned()))
        }
        fn sync_file(&self, path: &Path) -> io::Result<()> {
            self.note("sync_file", Deed::SyncFile(path.to_owned()))
        }
        fn sync_dir(&self, path: &Path) -> io::Result<()> {
            let what = if path.ends_with("w") { "sync_dir" } else { "sync_names" };
            self.note(what, Deed::SyncDir(path.to_owned()))
        }
        fn rename(&self, from: &Path, to: &Path) -> io::Result<()> {
            self.note("rename", Deed::Rename(from.to_owned(), to.to_owned()))
        }
    }

    fn random(state: &mut u64) -> u64 {
        *state ^= *state << 13;
        *state ^= *state >> 7;
        *state ^= *state << 17;
        *state
    }

    #[derive(Clone, Debug, PartialEq)]
    enum Node {
        Dir,
        File(usize),
    }

    /// What a file may hold after a loss of power: what it held when it was synced, or anything that was written since.
    #[derive(Clone, Default)]
    struct File {
        now: Vec<u8>,
        may_be: Vec<Vec<u8>>,
    }

    type Names = BTreeMap<PathBuf, Node>;

    /// A disk between what is safe and what only seems so. Names of a directory that were changed since it was synced are
    /// there or not, each by itself; a rename is whole or not at all.
    #[derive(Clone, Default)]
    struct Model {
        files: Vec<File>,
        now: Names,
        safe: Names,
        open: Vec<Vec<(PathBuf, Option<Node>)>>,
    }

    impl Model {
        fn change(&mut self, changes: Vec<(PathBuf, Option<Node>)>) {
            Self::apply(&mut self.now, &changes);
            self.open.push(changes);
        }

        fn apply(names: &mut Names, changes: &[(PathBuf, Option<Node>)]) {
            for (path, node) in changes {
                match node {
                    Some(node) => drop(names.insert(path.clone(), node.clone())),
                    None => drop(names.remove(path)),
                }
            }
        }

        fn file(&mut self, path: &Path) -> &mut File {
            let Some(Node::File(index)) = self.now.get(path) else { panic!("{path:?} is no file") };
            &mut self.files[*index]
        }

        fn suffer(&mut self, deed: &Deed) {
            match deed {
                Deed::MakeDir(path) => {
                    if !self.now.contains_key(path) {
                        self.change(vec![(path.clone(), Some(Node::Dir))]);
                    }
                }
                Deed::Write(path, bytes) => {
                    if !self.now.contains_key(path) {
                        self.files.push(File { now: Vec::new(), may_be: vec![Vec::new()] });
                        let node = Node::File(self.files.len() - 1);
                        self.change(vec![(path.clone(), Some(node))]);
                    }
                    let file = self.file(path);
                    file.may_be.extend([Vec::new(), bytes[..bytes.len() / 2].to_vec(), bytes.clone()]);
                    file.now.clone_from(bytes);
                }
                Deed::SyncFile(path) => {
                    let file = self.file(path);
                    file.may_be = vec![file.now.clone()];
                }
                Deed::SyncDir(directory) => {
                    let mut open = std::mem::take(&mut self.open);
                    open.retain(|changes| {
                        let is_here = changes[0].0.parent() == Some(directory);
                        if is_here {
                            Self::apply(&mut self.safe, changes);
                        }
                        !is_here
                    });
                    self.open = open;
                }
                Deed::Rename(from, to) => {
                    let node = self.now.get(from).cloned();
                    self.change(vec![(to.clone(), node), (from.clone(), None)]);
                }
            }
        }

        /// The power goes: what is left is all that there is, and safe.
        fn fail(&mut self, seed: &mut u64) {
            for changes in std::mem::take(&mut self.open) {
                if random(seed).is_multiple_of(2) {
                    Self::apply(&mut self.safe, &changes);
                }
            }
            for file in &mut self.files {
                file.now = file.may_be[random(seed) as usize % file.may_be.len()].clone();
                file.may_be = vec![file.now.clone()];
            }
            let all = self.safe.clone();
            // What lies in a directory whose name is lost is lost.
            self.safe.retain(|path, _| {
                path.ancestors().skip(1).all(|above| above.parent().is_none() || all.contains_key(above))
            });
            self.now = self.safe.clone();
        }

        /// Puts what is there into a real directory.
        fn settle(&self, place: &Path) {
            for (path, node) in &self.now {
                let place = place.join(path.strip_prefix("/").unwrap());
                match node {
                    Node::Dir => std::fs::create_dir_all(place).unwrap(),
                    Node::File(index) => std::fs::write(place, &self.files[*index].now).unwrap(),
                }
            }
        }
    }

    /// Writes versions of two documents, lets the power go at any moment, three times in a row; returns what was lost of
    /// what was acknowledged.
    fn lost(mut seed: u64, forgets: Option<&'static str>) -> Option<String> {
        let labels = [Label::new("w", "a"), Label::new("w", "b")];
        let mut model = Model::default();
        let mut version = 0u64;
        // Acknowledged by now, and all that was ever tried.
        let mut safe = [0u64; 2];
        for _ in 0..3 {
            let recorder = Recorder { deeds: RefCell::default(), forgets };
            for above in ["/store", "/store/scenarios", "/store/scenarios/s"] {
                recorder.make_dir(Path::new(above)).unwrap();
            }
            let mut drawers = Drawers::default();
            let directory = Path::new("/store/scenarios/s/documents");
            let mut moments = Vec::new();
            for _ in 0..1 + random(&mut seed) % 5 {
                version += 1;
                let which = random(&mut seed) as usize % 2;
                drawers.write(&recorder, directory, &labels[which], version, &version.to_le_bytes()).unwrap();
                moments.push((recorder.deeds.borrow().len(), which, version));
            }
            let deeds = recorder.deeds.into_inner();
            let end = random(&mut seed) as usize % (deeds.len() + 1);
            deeds[..end].iter().for_each(|deed| model.suffer(deed));
            for (moment, which, version) in moments {
                if moment <= end {
                    safe[which] = version;
                }
            }
            model.fail(&mut seed);
            let place = tempfile::tempdir().unwrap();
            model.settle(place.path());
            let (found, damaged) = load(&place.path().join("store/scenarios/s/documents")).unwrap();
            if !damaged.is_empty() {
                return Some(format!("{damaged:?}"));
            }
            for (label, safe) in labels.iter().zip(safe) {
                let version =
                    found.iter().find(|(kept, ..)| kept == label).map_or(0, |(_, version, content)| {
                        assert_eq!(**content, version.to_le_bytes());
                        *version
                    });
                if version < safe {
                    return Some(format!("{label} is version {version}, and {safe} was acknowledged"));
                }
            }
        }
        None
    }

    #[test]
    fn no_acknowledged_version_is_lost_whenever_the_power_goes() {
        for seed in 1..400u64 {
            assert_eq!(lost(seed << 20 | 1, None), None, "seed {seed}");
        }
    }

    #[test]
    fn a_loss_would_be_noticed_whichever_sync_was_forgotten() {
        for forgotten in ["sync_file", "sync_dir", "sync_names"] {
            assert!((1..4000u64).any(|seed| lost(seed << 20 | 1, Some(forgotten)).is_some()), "{forgotten}");
        }
    }

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
