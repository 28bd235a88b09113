//! Instances by their names.
//!
//! ```text
//! <store>/instances/<name>/         locked by whoever starts or thaws it
//! <store>/instances/<name>/record   what it was started as; written before it starts
//! <store>/instances/<name>/socket   where its keeper listens: who can be connected to lives
//! <store>/instances/<name>/log      what its terminal showed; before that log.1
//! <store>/instances/<name>/end      written by the keeper: how the program ended, or that it was frozen
//! <store>/instances/<name>/as       the name of its newest image, if that is another one than its own
//! <store>/instances/<name>/within   in which image it was frozen as a part of another program, keeper and all
//! ```

use crate::error::Error;
use crate::layer::Place;
use frost_keeper::protocol::{self as say, Message};
use frost_keeper::{Connection, Held, State};
use frost_model::BytePath;
use frost_model::host::Budget;
use frost_model::network::Reach;
use frost_store::{ImageId, Name, Store};
use frost_sys::proc;
use rustix::fd::{AsFd, OwnedFd};
use rustix::fs::{AtFlags, FallocateFlags, FlockOperation, Mode, OFlags};
use rustix::io::Errno;
use serde::{Deserialize, Serialize};
use std::fs::File;
use std::io::{Read, Write};
use std::path::PathBuf;
use std::sync::LazyLock;
use std::time::{Duration, Instant, SystemTime};

const INSTANCES: &str = "instances";
/// How long a command waits for another one. A child of one that has failed may have the right for a moment longer.
const PATIENCE: Duration = Duration::from_secs(1);
/// The longest record that is read.
const RECORD_BYTES: u64 = 1 << 20;

/// Room for the note of its end.
const NOTE_BYTES: usize = 32;
/// A file system that takes other room for what is written over something (include/uapi/linux/magic.h).
const BTRFS_SUPER_MAGIC: u32 = 0x9123_683e;

/// What an instance was started as.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Record {
    /// The command.
    pub command: Vec<String>,
    /// When, or when it was thawed last, in seconds since 1970.
    pub started: i64,
    /// The boot it was started in.
    pub boot_id: String,
    /// Whether its keeper holds a terminal for it.
    pub detached: bool,
    /// The kinds of calls that are open to it.
    pub allowed: Vec<String>,
    /// Whether it has the descriptors by which it may ask for notices.
    #[serde(default)]
    pub notices: bool,
    /// Whether it is a virtual machine, which its keeper freezes.
    #[serde(default)]
    pub machine: bool,
    /// How its capabilities are obtained when it is thawed, where that is not to be as usual.
    #[serde(default)]
    pub routes: Vec<frost_model::route::Rule>,
    /// What it may use of the machine.
    #[serde(default)]
    pub budget: Budget,
    /// The directories of which it has a view of its own.
    #[serde(default)]
    pub layers: Vec<Place>,
    /// How far its network reaches, if it is not the host's.
    #[serde(default)]
    pub network: Option<Reach>,
    /// Where that lies which its image brought along, if it needed some of it.
    #[serde(default)]
    pub bundle: Option<BytePath>,
}

impl Record {
    /// A record of this boot and moment.
    pub fn now() -> Self {
        Self { started: now(), boot_id: boot_id(), ..Self::default() }
    }
}

/// How an instance stands.
#[derive(Debug)]
pub enum Standing {
    /// Its keeper lives.
    Kept(Kept),
    /// It ended, with this status as of wait(2).
    Ended(i32),
    /// It was ended, with this status, since its budget of memory was used up.
    Starved(i32),
    /// It was frozen as this image, and nothing of it is left in memory.
    Frozen(ImageId),
    /// It is frozen, with its keeper, as a part of the program in which it was started: this one, if that is known.
    Within(Option<Name>),
    /// Its keeper was killed, and the kernel ended the program with it.
    Lost,
    /// The machine was restarted while it ran, or was kept.
    Rebooted,
    /// Whoever was to start it died amid that.
    Unstarted,
}

/// A keeper that lives.
#[derive(Debug)]
pub struct Kept {
    /// The connection to it.
    pub connection: Connection,
    /// What it says of the program.
    pub state: State,
    /// Its pid, 0 if it has none in our namespace.
    pub keeper: i32,
}

impl Kept {
    /// Finds the keeper of a program by its name, or by the process id of its root or its own.
    ///
    /// # Errors
    /// [`Error::Ended`] if the program of that name is frozen; [`Error::Keeper`]; [`Error::File`].
    pub fn find(store: &Store, target: &str) -> Result<Option<(Self, Instance)>, Error> {
        if let Ok(pid) = target.parse::<i32>() {
            let Ok(stat) = proc::stat(pid) else { return Ok(None) };
            for name in names(store)? {
                if let Ok(Some(instance)) = Instance::find(store, &name)
                    && let Ok(Standing::Kept(kept)) = instance.standing()
                    && (kept.keeper == pid
                        || kept.keeper == stat.ppid && kept.root().is_ok_and(|root| root == pid))
                {
                    return Ok(Some((kept, instance)));
                }
            }
            return Ok(None);
        }
        let Ok(name) = Name::new(target) else { return Ok(None) };
        let Some(instance) = Instance::find(store, &name)? else { return Ok(None) };
        match instance.standing()? {
            Standing::Kept(kept) if kept.state.frozen => Err(Error::Ended("it is frozen already".to_owned())),
            Standing::Kept(kept) => Ok(Some((kept, instance))),
            Standing::Within(outer) => Err(Error::Within { outer }),
            _ => Ok(None),
        }
    }

    /// Ends the keeper of a frozen program: nothing of that is left in memory then. Returns the image that it is frozen as;
    /// `None` if it is no program that is frozen and kept.
    ///
    /// # Errors
    /// [`Error::Keeper`], if it is being thawed at this moment; [`Error::File`].
    pub fn release(store: &Store, target: &str) -> Result<Option<ImageId>, Error> {
        let Ok(name) = Name::new(target) else { return Ok(None) };
        let Some(instance) = Instance::find(store, &name)? else { return Ok(None) };
        let kept = match instance.standing()? {
            Standing::Kept(kept) if kept.state.frozen => kept,
            _ => return Ok(None),
        };
        match kept.connection.ask(Message::new(say::END, 0, 0, 0)) {
            Ok(_) | Err(frost_keeper::Error::Gone) => {}
            Err(error) => return Err(error.into()),
        }
        match instance.standing()? {
            Standing::Frozen(image) => Ok(Some(image)),
            _ => Ok(None),
        }
    }

    /// Finds the root of the program in our pid namespace.
    ///
    /// # Errors
    /// [`Error::Elsewhere`] if it is not seen from here, [`Error::Ended`] if it is frozen or just ended.
    pub fn root(&self) -> Result<i32, Error> {
        if self.state.frozen {
            return Err(Error::Ended("it is frozen".to_owned()));
        }
        if self.keeper <= 0 {
            return Err(Error::Elsewhere);
        }
        let mut state = self.state;
        loop {
            if let Some(root) = child_numbered(self.keeper, state.root) {
                return Ok(root);
            }
            // It may just have left its work to another one.
            match self.connection.state() {
                Ok(now) if !now.frozen && now.root != state.root => state = now,
                _ => return Err(Error::Ended("it ends at this moment".to_owned())),
            }
        }
    }

    /// Finds the process that leads the session of the program's terminal, which is none of its own, in our pid namespace.
    pub fn leader(&self) -> Option<i32> {
        if self.keeper > 0 && self.state.led { child_numbered(self.keeper, say::LEADER) } else { None }
    }

    /// Returns all processes of the program, in our pid namespace.
    pub fn processes(&self) -> Vec<i32> {
        if self.keeper <= 0 {
            return Vec::new();
        }
        let mut tree = Self::below(self.keeper);
        let leader = self.leader();
        tree.retain(|pid| *pid != self.keeper && Some(*pid) != leader);
        tree
    }

    /// Returns a keeper and all that lives below it.
    pub(crate) fn below(keeper: i32) -> Vec<i32> {
        let mut tree = vec![keeper];
        let mut index = 0;
        while index < tree.len() {
            tree.extend(proc::children(tree[index]).unwrap_or_default());
            index += 1;
        }
        tree
    }
}

/// Finds the child of `parent` that has this pid in its own namespace.
pub(crate) fn child_numbered(parent: i32, inner: i32) -> Option<i32> {
    proc::children(parent).ok()?.into_iter().find(|child| {
        proc::status(*child).is_ok_and(|status| status.inner_pids.last().copied().unwrap_or(*child) == inner)
    })
}

/// The directory of an instance.
#[derive(Debug)]
pub struct Instance {
    store: Store,
    name: Name,
    path: PathBuf,
    directory: OwnedFd,
}

fn parent(store: &Store) -> PathBuf {
    store.path().join(INSTANCES)
}

/// Whether a name is that of a scenario: commands that take either could not tell which one is meant.
pub(crate) fn is_scenario(store: &Store, name: &Name) -> bool {
    store.path().join("scenarios").join(name.as_str()).exists()
}

/// Returns the names of all instances that were started and not removed, sorted.
///
/// # Errors
/// [`Error::File`] if the directory cannot be read.
pub fn names(store: &Store) -> Result<Vec<Name>, Error> {
    let path = parent(store);
    let entries = match std::fs::read_dir(&path) {
        Ok(entries) => entries,
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Ok(Vec::new()),
        Err(source) => return Err(Error::File { path, source }),
    };
    let names = entries.filter_map(|entry| entry.ok()?.file_name().into_string().ok());
    let mut names: Vec<Name> = names.filter_map(|name| Name::new(&name).ok()).collect();
    names.sort_by(|a, b| a.as_str().cmp(b.as_str()));
    Ok(names)
}

/// The right to start or thaw an instance, until it is dropped.
#[must_use]
#[derive(Debug)]
pub struct Claim(#[allow(dead_code, reason = "closing it gives the right back")] OwnedFd);

impl Instance {
    /// Finds an instance; `None` if there is none of that name.
    ///
    /// # Errors
    /// [`Error::File`] if its directory cannot be opened.
    pub fn find(store: &Store, name: &Name) -> Result<Option<Self>, Error> {
        let path = parent(store).join(name.as_str());
        match open_directory(&path) {
            Ok(directory) => Ok(Some(Self { store: store.clone(), name: name.clone(), path, directory })),
            Err(Errno::NOENT | Errno::NOTDIR) => Ok(None),
            Err(errno) => Err(Error::File { path, source: errno.into() }),
        }
    }

    /// Makes the directory of an instance, if there is none, and takes the right to start it.
    ///
    /// # Errors
    /// [`Error::Busy`] if another command has that right, and keeps it for a second; [`Error::Runs`] if it runs;
    /// [`Error::File`].
    pub fn claim(store: &Store, name: &Name) -> Result<(Self, Claim), Error> {
        let deadline = Instant::now() + PATIENCE;
        loop {
            if let Some(claimed) = Self::try_claim(store, name)? {
                return Ok(claimed);
            }
            if Instant::now() >= deadline {
                return Err(Error::Busy);
            }
            std::thread::sleep(Duration::from_millis(2));
        }
    }

    /// Takes that right, if nobody has it at this moment.
    ///
    /// # Errors
    /// [`Error::File`].
    pub fn try_claim(store: &Store, name: &Name) -> Result<Option<(Self, Claim)>, Error> {
        for path in [parent(store), parent(store).join(name.as_str())] {
            let made = rustix::fs::mkdir(&path, Mode::RWXU);
            if let Err(errno) = made
                && errno != Errno::EXIST
            {
                return Err(Error::File { path, source: errno.into() });
            }
        }
        let found = Self::find(store, name).inspect_err(|_| {
            // One that was made just now, by a umask that takes it even from its owner. What is in one stays.
            let _ = rustix::fs::rmdir(parent(store).join(name.as_str()));
        });
        let Some(instance) = found? else { return Ok(None) };
        let lock = instance.lock()?;
        Ok(lock.map(|lock| (instance, Claim(lock))))
    }

    /// Locks its directory; `None` if another has done so, or it was removed meanwhile.
    ///
    /// A file for that would have to be made for each program and removed with it, of which the making takes longest: a
    /// file system looks for an inode that was not in use a moment ago.
    fn lock(&self) -> Result<Option<OwnedFd>, Error> {
        let failed = |errno: Errno| Error::File { path: self.path.clone(), source: errno.into() };
        let take = |lock: &OwnedFd| rustix::fs::flock(lock, FlockOperation::NonBlockingLockExclusive);
        // A description of its own: the keeper gets the other one.
        let mut lock = match open_directory(&self.path) {
            Err(Errno::NOENT) => return Ok(None),
            other => other.map_err(failed)?,
        };
        let taken = match take(&lock) {
            Err(Errno::BADF) => {
                // NFS locks only what can be written.
                lock = self.create("lock", OFlags::RDWR)?;
                take(&lock)
            }
            taken => taken,
        };
        match taken {
            Ok(()) => {
                let is_there = rustix::fs::fstat(&self.directory).map_err(failed)?.st_nlink > 0;
                Ok(is_there.then_some(lock))
            }
            Err(Errno::WOULDBLOCK) => Ok(None),
            Err(errno) => Err(failed(errno)),
        }
    }

    /// Returns its name.
    pub fn name(&self) -> &Name {
        &self.name
    }

    /// Returns its directory, for messages.
    pub fn path(&self) -> &std::path::Path {
        &self.path
    }

    fn directory(&self) -> Result<OwnedFd, Error> {
        self.directory.try_clone().map_err(|source| Error::File { path: self.path.clone(), source })
    }

    /// Returns another hold on it.
    ///
    /// # Errors
    /// [`Error::File`], if we have too many files open.
    pub(crate) fn again(&self) -> Result<Self, Error> {
        let directory = self.directory()?;
        Ok(Self { store: self.store.clone(), name: self.name.clone(), path: self.path.clone(), directory })
    }

    fn create(&self, name: &str, flags: OFlags) -> Result<OwnedFd, Error> {
        let flags = flags | OFlags::CREATE | OFlags::NOFOLLOW | OFlags::CLOEXEC;
        rustix::fs::openat(&self.directory, name, flags, Mode::RUSR | Mode::WUSR)
            .map_err(|errno| Error::File { path: self.path.join(name), source: errno.into() })
    }

    /// Opens a file of it for reading; `None` if there is none.
    ///
    /// # Errors
    /// [`Error::File`].
    pub fn open(&self, name: &str) -> Result<Option<File>, Error> {
        let flags = OFlags::RDONLY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
        match rustix::fs::openat(&self.directory, name, flags, Mode::empty()) {
            Ok(fd) => Ok(Some(File::from(fd))),
            Err(Errno::NOENT) => Ok(None),
            Err(errno) => Err(Error::File { path: self.path.join(name), source: errno.into() }),
        }
    }

    fn read(&self, name: &str) -> Result<Option<Vec<u8>>, Error> {
        let Some(file) = self.open(name)? else { return Ok(None) };
        let mut bytes = Vec::new();
        file.take(RECORD_BYTES)
            .read_to_end(&mut bytes)
            .map_err(|source| Error::File { path: self.path.join(name), source })?;
        Ok(Some(bytes))
    }

    /// Reads what it was started as; nothing if that was torn by a power loss.
    ///
    /// # Errors
    /// [`Error::File`].
    pub fn record(&self) -> Result<Record, Error> {
        let bytes = self.read("record")?.unwrap_or_default();
        // A new one has none. To say where an empty text is wrong, the parser first asks what the processor can (memchr), which
        // takes 0.15 ms in a virtual machine: its monitor answers each CPUID.
        if bytes.is_empty() {
            return Ok(Record::default());
        }
        Ok(serde_json::from_slice(&bytes).unwrap_or_default())
    }

    /// Begins anew: what an earlier program of the name left is removed, unless the log is to be `kept`.
    ///
    /// # Errors
    /// [`Error::File`].
    pub fn begin(&self, record: &Record, kept: bool) -> Result<Held, Error> {
        let mut old = vec!["end", "end.new", "as", "within"];
        old.extend(if kept { &[][..] } else { &["log", "log.1"] });
        old.into_iter().for_each(|name| self.remove_file(name));
        self.write_record(record)?;
        self.reserve_note()?;
        let failed = |errno: Errno| Error::File { path: self.path.join("socket"), source: errno.into() };
        let mut held = Held::at(self.name.as_str(), self.directory()?).map_err(failed)?;
        if record.detached {
            held.log = Some(self.create("log", OFlags::WRONLY | OFlags::APPEND)?);
        }
        Ok(held)
    }

    /// Takes the room for the note of its end, which is written over what is there: a program also ends when the
    /// disk is full, and what is not told then is taken for a keeper that was killed.
    ///
    /// What is written and not stored yet has its room as well (delayed allocation), and is gone at once when the file
    /// is removed: ext4 lets whoever removes one whose room fallocate(2) took wait for a millisecond.
    fn reserve_note(&self) -> Result<(), Error> {
        let failed = |source| Error::File { path: self.path.join("end.new"), source };
        let mut file = File::from(self.create("end.new", OFlags::WRONLY)?);
        let writes_elsewhere =
            rustix::fs::fstatfs(&file).is_ok_and(|stat| stat.f_type as u32 == BTRFS_SUPER_MAGIC);
        if writes_elsewhere {
            return rustix::fs::fallocate(&file, FallocateFlags::empty(), 0, NOTE_BYTES as u64)
                .map_err(|errno| failed(errno.into()));
        }
        write(&mut file, &[b' '; NOTE_BYTES]).map_err(failed)
    }

    /// Whether the keeper has noted that its program has ended, which is the last that it does.
    fn has_ended(&self) -> Result<bool, Error> {
        let note = self.read("end")?.unwrap_or_default();
        Ok(note.starts_with(b"ended ") || note.starts_with(b"starved "))
    }

    /// Writes what it was started as.
    ///
    /// # Errors
    /// [`Error::File`]; what was written before stays then.
    pub fn write_record(&self, record: &Record) -> Result<(), Error> {
        let path = self.path.join("record");
        let text = serde_json::to_vec(record)
            .map_err(|error| Error::File { path: path.clone(), source: error.into() })?;
        let mut file = File::from(self.create("record.new", OFlags::WRONLY | OFlags::TRUNC)?);
        write(&mut file, &text).map_err(|source| Error::File { path: path.clone(), source })?;
        rustix::fs::renameat(&self.directory, "record.new", &self.directory, "record")
            .map_err(|errno| Error::File { path, source: errno.into() })
    }

    /// Writes the note of its end as if a keeper had: it is frozen as this version.
    ///
    /// # Errors
    /// [`Error::File`]; what was noted before stays then.
    pub fn note_frozen(&self, version: u32) -> Result<(), Error> {
        self.remove_file("as");
        let failed = |source| Error::File { path: self.path.join("end"), source };
        let mut file = File::from(self.create("end.new", OFlags::WRONLY)?);
        writeln!(file, "frozen {version}").map_err(failed)?;
        rustix::fs::renameat(&self.directory, "end.new", &self.directory, "end")
            .map_err(|errno| failed(errno.into()))
    }

    /// Notes that it runs, and is about to be frozen as an image of this name: its keeper, which notes the end, knows the
    /// version only.
    ///
    /// # Errors
    /// [`Error::File`].
    pub fn note_name(&self, image: &Name) -> Result<(), Error> {
        // It is no part of an image of another one any more, but one that runs.
        self.remove_file("within");
        if *image == self.name {
            self.remove_file("as");
            return Ok(());
        }
        let mut file = File::from(self.create("as", OFlags::WRONLY | OFlags::TRUNC)?);
        writeln!(file, "{image}").map_err(|source| Error::File { path: self.path.join("as"), source })
    }

    /// Tells which image it is that it was frozen as, by its version.
    pub fn frozen_as(&self, version: u32) -> ImageId {
        let note = self.read("as").ok().flatten().unwrap_or_default();
        let name = Name::new(String::from_utf8_lossy(&note).trim_end());
        ImageId { name: name.unwrap_or_else(|_| self.name.clone()), version }
    }

    /// Notes that it was frozen as a part of `outer`.
    ///
    /// # Errors
    /// [`Error::File`].
    pub(crate) fn note_within(&self, outer: &ImageId) -> Result<(), Error> {
        let mut file = File::from(self.create("within", OFlags::WRONLY | OFlags::TRUNC)?);
        writeln!(file, "{} {}", outer.name, outer.version)
            .map_err(|source| Error::File { path: self.path.join("within"), source })?;
        // It ran until now, so that is of before a thaw which went back to an earlier image.
        if self.has_ended()? {
            let _ = rustix::fs::renameat(&self.directory, "end", &self.directory, "end.new");
        }
        Ok(())
    }

    /// Finds the program that it is frozen with, or was, and goes on with when that is thawed once more: its name is taken as
    /// long as there is that image.
    fn within(&self) -> Result<Option<Name>, Error> {
        let note = self.read("within")?.unwrap_or_default();
        let note = String::from_utf8_lossy(&note);
        let mut words = note.split_ascii_whitespace();
        let (Some(Ok(outer)), Some(Ok(version))) =
            (words.next().map(Name::new), words.next().map(str::parse::<u32>))
        else {
            return Ok(None);
        };
        Ok(self.store.versions(&outer)?.contains(&version).then_some(outer))
    }

    fn remove_file(&self, name: &str) {
        let _ = rustix::fs::unlinkat(&self.directory, name, AtFlags::empty());
    }

    /// Looks how it stands.
    ///
    /// # Errors
    /// [`Error::Keeper`] if there is a keeper that does not answer; [`Error::File`].
    pub fn standing(&self) -> Result<Standing, Error> {
        match Connection::open(self.directory.as_fd()) {
            Ok(connection) if !connection.is_attended() => return Ok(Standing::Within(self.within()?)),
            Ok(connection) => match connection.state() {
                Ok(state) => {
                    let keeper = connection.keeper().unwrap_or(0);
                    return Ok(Standing::Kept(Kept { connection, state, keeper }));
                }
                // It has just ended.
                Err(frost_keeper::Error::Gone) => {}
                Err(error) => return Err(error.into()),
            },
            Err(frost_keeper::Error::Gone) => {}
            Err(error) => return Err(error.into()),
        }
        let note = self.read("end")?.unwrap_or_default();
        let note = String::from_utf8_lossy(&note);
        let mut words = note.split_ascii_whitespace();
        let (word, number) = (words.next(), words.next().and_then(|number| number.parse().ok()));
        match (word, number) {
            (Some("ended"), Some(status)) => return Ok(Standing::Ended(status)),
            (Some("starved"), Some(status)) => return Ok(Standing::Starved(status)),
            _ => {}
        }
        if let Some(outer) = self.within()? {
            return Ok(Standing::Within(Some(outer)));
        }
        Ok(match (word, number) {
            (Some("frozen"), Some(version)) if version > 0 => {
                Standing::Frozen(self.frozen_as(version as u32))
            }
            _ if self.open("record")?.is_none() => Standing::Unstarted,
            _ if self.record()?.boot_id != boot_id() => Standing::Rebooted,
            _ => Standing::Lost,
        })
    }

    /// Returns whether it runs, or has ended without being frozen: then what it wrote is in its directory only.
    pub(crate) fn lives_or_ended(&self) -> Result<bool, Error> {
        Ok(match self.standing()? {
            Standing::Kept(kept) => !kept.state.frozen,
            Standing::Frozen(_) => false,
            Standing::Within(_)
            | Standing::Ended(_)
            | Standing::Starved(_)
            | Standing::Lost
            | Standing::Rebooted
            | Standing::Unstarted => true,
        })
    }

    /// Returns when the note of its end was written, or its record if there is none, in seconds since 1970.
    pub fn changed(&self) -> Option<i64> {
        ["end", "record"]
            .into_iter()
            .find_map(|name| rustix::fs::statat(&self.directory, name, AtFlags::SYMLINK_NOFOLLOW).ok())
            .map(|stat| stat.st_mtime)
    }

    /// Removes it, unless its keeper lives, or will be thawed.
    ///
    /// # Errors
    /// [`Error::Runs`]; [`Error::Within`]; [`Error::File`].
    pub fn remove(self, _claim: Claim) -> Result<(), Error> {
        if !self.has_ended()? {
            match self.standing()? {
                Standing::Kept(kept) => {
                    return Err(Error::Runs { name: self.name.to_string(), pid: kept.root().unwrap_or(0) });
                }
                Standing::Within(outer) => return Err(Error::Within { outer }),
                _ => {}
            }
        }
        crate::layer::sweep(&self, &[]);
        crate::bundle::sweep(&self, None);
        std::fs::remove_dir_all(&self.path).map_err(|source| Error::File { path: self.path.clone(), source })
    }
}

impl Instance {
    /// Ends a keeper that keeps nothing but a frozen program's namespaces, and removes the instance.
    ///
    /// One that runs is left as it is if that is `tolerated`; returns whether it was removed.
    ///
    /// # Errors
    /// [`Error::Runs`] if it runs and that is not tolerated; [`Error::Busy`]; [`Error::File`].
    pub fn end(self, store: &Store, tolerated: bool) -> Result<bool, Error> {
        if let Standing::Kept(kept) = self.standing()? {
            if !kept.state.frozen {
                let name = self.name.to_string();
                let pid = kept.root().unwrap_or(kept.keeper);
                return if tolerated { Ok(false) } else { Err(Error::Runs { name, pid }) };
            }
            match kept.connection.ask(Message::new(say::END, 0, 0, 0)) {
                Ok(_) | Err(frost_keeper::Error::Gone) => {}
                Err(error) => return Err(error.into()),
            }
        }
        let (instance, claim) = Self::claim(store, &self.name)?;
        instance.remove(claim)?;
        Ok(true)
    }
}

/// Writes a new file, or fails where that may not be so long (RLIMIT_FSIZE) without the signal that would end us.
fn write(file: &mut File, bytes: &[u8]) -> std::io::Result<()> {
    let limit = rustix::process::getrlimit(rustix::process::Resource::Fsize).current;
    if limit.is_some_and(|limit| limit < bytes.len() as u64) {
        return Err(Errno::FBIG.into());
    }
    file.write_all(bytes)
}

fn open_directory(path: &std::path::Path) -> rustix::io::Result<OwnedFd> {
    let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
    rustix::fs::open(path, flags, Mode::empty())
}

/// Returns the identity of this boot.
pub(crate) fn boot_id() -> String {
    static BOOT_ID: LazyLock<String> = LazyLock::new(|| {
        std::fs::read_to_string("/proc/sys/kernel/random/boot_id").unwrap_or_default().trim_end().to_owned()
    });
    BOOT_ID.clone()
}

/// Returns the present, in seconds since 1970.
pub(crate) fn now() -> i64 {
    let since = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH);
    since.map_or(0, |since| since.as_secs() as i64)
}
