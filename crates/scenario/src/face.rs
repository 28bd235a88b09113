//! Sessions as files, for shell scripts, and the files of the scenario itself: all that is watched by name.
//!
//! A ROM is the file `rom/NAME`, replaced by rename. A report is taken when a file is renamed to `report/NAME`; what is
//! written there in place is not looked at, since nobody could tell when it is whole. `changed` is a fifo in which a line
//! waits while there is something new.

use crate::engine::{Engine, Timer, Token};
use frost_component::Content;
use frost_component::wire::{Packet, is_name};
use rustix::fd::{AsRawFd, OwnedFd};
use rustix::fs::inotify::{self, ReadFlags, WatchFlags};
use rustix::fs::{AtFlags, Mode, OFlags};
use rustix::net::{AddressFamily, RecvFlags, SocketFlags, SocketType};
use std::io::{self, Read};
use std::mem::MaybeUninit;
use std::path::{Path, PathBuf};
use std::time::Duration;

/// What a watch is for.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Watched {
    /// The reports of a life.
    Reports(u64),
    /// A directory in which files of the scenario lie.
    Files(PathBuf),
}

/// What a life has whose sessions are files.
pub(crate) struct Files {
    /// Where its reports are, once its stage has made that: in `report` it writes them, in `taken` they are ours.
    reports: Option<(OwnedFd, i32)>,
    /// Over which its stage tells where that is, and the number of our listening.
    stage: Option<(OwnedFd, u64)>,
    /// The fifo in which a line waits.
    changed: OwnedFd,
    /// Reports wait until its budget allows them.
    is_late: bool,
}

/// When a ROM is written once more that could not be.
const AGAIN: Duration = Duration::from_secs(1);

/// What is said when a file of the scenario is whole: it was closed, or renamed to its name.
const WHOLE: WatchFlags = WatchFlags::CLOSE_WRITE.union(WatchFlags::MOVED_TO);

impl Engine {
    /// Watches where the scenario's files lie.
    pub(crate) fn watch_files(&mut self) {
        let mut directories: Vec<PathBuf> = vec![parent(&self.file)];
        directories.extend(self.scenario.files.iter().map(|file| parent(file)));
        directories.sort();
        directories.dedup();
        for directory in directories {
            if self.watched.values().any(|watched| *watched == Watched::Files(directory.clone())) {
                continue;
            }
            match inotify::add_watch(&self.watch, &directory, WHOLE) {
                Ok(watch) => drop(self.watched.insert(watch, Watched::Files(directory))),
                Err(errno) => crate::voice::tell(format_args!(
                    "frost-scenario: changes in {} are not seen: {errno}",
                    directory.display()
                )),
            }
        }
    }

    /// Takes what has come by name.
    pub(crate) fn look_at_files(&mut self) {
        let mut space = [MaybeUninit::uninit(); 8192];
        let mut events = Vec::new();
        let mut reader = inotify::Reader::new(&self.watch, &mut space);
        while let Ok(event) = reader.next() {
            let name = event.file_name().map(|name| name.to_string_lossy().into_owned()).unwrap_or_default();
            events.push((event.wd(), name, event.events()));
        }
        let mut is_changed = false;
        for (watch, name, flags) in events {
            if flags.contains(ReadFlags::QUEUE_OVERFLOW) {
                // Names were lost: all of them are looked at.
                is_changed = true;
                for life in self.lives.keys().copied().collect::<Vec<_>>() {
                    self.take_all(life);
                }
                continue;
            }
            match self.watched.get(&watch).cloned() {
                Some(Watched::Reports(life)) => self.take(life, &name),
                Some(Watched::Files(directory)) => {
                    let path = directory.join(&name);
                    is_changed |= path == parent(&self.file).join(self.file.file_name().unwrap_or_default())
                        || self
                            .scenario
                            .files
                            .iter()
                            .any(|file| parent(file).join(file.file_name().unwrap_or_default()) == path);
                }
                None => {}
            }
        }
        if is_changed && !self.is_ending {
            self.reload();
        }
    }

    /// Makes the files of a life that is to be born. Returns over what its stage is to tell where its reports are, if that
    /// makes a place of its own for them.
    pub(crate) fn prepare_files(
        &mut self,
        life: u64,
        sessions: &Path,
        is_isolated: bool,
    ) -> io::Result<(Files, Option<OwnedFd>)> {
        let fifo = sessions.join("changed");
        rustix::fs::mkfifoat(rustix::fs::CWD, &fifo, Mode::RUSR | Mode::WUSR)?;
        // For reading as well: what waits in a fifo goes when nobody has it open.
        let flags = OFlags::RDWR | OFlags::NONBLOCK | OFlags::CLOEXEC;
        let changed = rustix::fs::open(&fifo, flags, Mode::empty())?;
        let mut files = Files { reports: None, stage: None, changed, is_late: false };
        if is_isolated {
            let (ours, theirs) = rustix::net::socketpair(
                AddressFamily::UNIX,
                SocketType::SEQPACKET,
                SocketFlags::CLOEXEC,
                None,
            )?;
            let token = self.listen_to(&ours, Token::Reports(life))?;
            files.stage = Some((ours, token));
            return Ok((files, Some(theirs)));
        }
        std::fs::create_dir(sessions.join("taken"))?;
        let reports = rustix::fs::open(sessions, OFlags::DIRECTORY | OFlags::CLOEXEC, Mode::empty())?;
        files.reports = Some(self.watch_reports(life, reports)?);
        Ok((files, None))
    }

    fn watch_reports(&mut self, life: u64, reports: OwnedFd) -> io::Result<(OwnedFd, i32)> {
        // By the descriptor, since an isolated component has them in a mount of its own.
        let path = format!("/proc/self/fd/{}/report", reports.as_raw_fd());
        let watch = inotify::add_watch(&self.watch, path, WatchFlags::MOVED_TO)?;
        self.watched.insert(watch, Watched::Reports(life));
        Ok((reports, watch))
    }

    /// Learns where an isolated life's reports are.
    pub(crate) fn find_reports(&mut self, life: u64) {
        let Some(files) = self.lives.get_mut(&life).and_then(|life| life.files.as_mut()) else { return };
        let Some((stage, token)) = files.stage.take() else { return };
        let told = frost_component::wire::receive(&stage, RecvFlags::DONTWAIT);
        self.forget_token(token);
        // A stage that has ended before has told why, and there is no component.
        let Ok(Some(Packet { fd: Some(reports), .. })) = told else { return };
        match self.watch_reports(life, reports) {
            Ok(found) => {
                if let Some(files) = self.lives.get_mut(&life).and_then(|life| life.files.as_mut()) {
                    files.reports = Some(found);
                }
                // It may have written some before they were watched.
                self.take_all(life);
            }
            Err(error) => {
                crate::voice::tell(format_args!("frost-scenario: reports cannot be watched: {error}"));
                self.kill(life);
            }
        }
    }

    /// Lets a life read a document as a file.
    pub(crate) fn open_file_rom(&mut self, life: u64, component: &str, name: &str) {
        if let Some(route) = self.scenario.route(component, name) {
            self.file_readers.entry(route.from).or_default().insert((life, name.to_owned()));
            self.write_rom(life, name);
        }
    }

    /// Replaces the file of a ROM; if there is no report it stays as it is.
    pub(crate) fn write_rom(&mut self, life: u64, name: &str) {
        let Some(owner) = self.lives.get(&life) else { return };
        let Some(route) = self.scenario.route(&owner.component, name) else { return };
        let document = self.documents.get(&route.from);
        let Some(content) = document.seen(route.sticky) else { return };
        let sessions = owner.directory.join("s");
        let draft = owner.directory.join("draft");
        let written = std::fs::write(&draft, &**content)
            .and_then(|()| std::fs::rename(&draft, sessions.join("rom").join(name)));
        if let Err(error) = written {
            // The disk is full, perhaps: its reader is to reach the newest version nevertheless, once it is not.
            self.once_after(AGAIN, Timer::Rom(life, name.to_owned()));
            let Some(owner) = self.lives.get(&life) else { return };
            return crate::voice::tell(format_args!(
                "frost-scenario: the ROM {name} of {} is not as it should be: {error}",
                owner.component
            ));
        }
        // A fifo that nobody reads takes one line only.
        let fifo = self.lives.get(&life).and_then(|life| life.files.as_ref()).map(|files| &files.changed);
        if let Some(fifo) = fifo
            && rustix::io::ioctl_fionread(fifo).is_ok_and(|waits| waits == 0)
        {
            let _ = rustix::io::write(fifo, b"changed\n");
        }
    }

    /// Takes reports for which there was no budget when they came.
    pub(crate) fn take_late(&mut self, life: u64) {
        if let Some(files) = self.lives.get_mut(&life).and_then(|life| life.files.as_mut()) {
            files.is_late = false;
            self.take_all(life);
        }
    }

    fn take_all(&mut self, life: u64) {
        let Some((reports, _)) = self.reports_of(life) else { return };
        let directory = format!("/proc/self/fd/{}/report", reports.as_raw_fd());
        for entry in std::fs::read_dir(directory).into_iter().flatten().flatten() {
            self.take(life, &entry.file_name().to_string_lossy());
        }
    }

    fn reports_of(&self, life: u64) -> Option<&(OwnedFd, i32)> {
        self.lives.get(&life)?.files.as_ref()?.reports.as_ref()
    }

    /// Takes a report that was renamed to its name.
    fn take(&mut self, life: u64, name: &str) {
        let Some(files) = self.lives.get(&life).and_then(|life| life.files.as_ref()) else { return };
        // Files of the same name replace one another while they wait.
        if !is_name(name) || files.is_late {
            return;
        }
        let Some((reports, _)) = &files.reports else { return };
        let taken = format!("taken/{name}");
        // Out of the writer's reach first: it may rename the next one there meanwhile.
        if rustix::fs::renameat(reports, format!("report/{name}"), reports, &taken).is_err() {
            return;
        }
        // Not to be led elsewhere, not to be waited for.
        let flags = OFlags::RDONLY | OFlags::NOFOLLOW | OFlags::NONBLOCK | OFlags::CLOEXEC;
        let file = rustix::fs::openat(reports, &taken, flags, Mode::empty());
        // It may be anything, and must not stand in the way of the next one.
        let gone = rustix::fs::unlinkat(reports, &taken, AtFlags::empty());
        if gone.is_err() {
            let _ = std::fs::remove_dir_all(format!("/proc/self/fd/{}/{taken}", reports.as_raw_fd()));
        }
        let result = file
            .map_err(|errno| format!("{name}: {errno}"))
            .and_then(|file| self.read_report(life, name, file.into()));
        if let Some(wait) = self.spend(life)
            && let Some(files) = self.lives.get_mut(&life).and_then(|life| life.files.as_mut())
        {
            files.is_late = true;
            self.after(wait, Timer::Reports(life));
        }
        if let Err(why) = result {
            let component = self.lives.get(&life).map(|life| life.component.clone()).unwrap_or_default();
            crate::voice::tell(format_args!("frost-scenario: a report of {component} is not taken: {why}"));
            if let Some(slot) = self.slots.get_mut(&component) {
                slot.complaint = Some(why);
            }
            self.is_news = true;
        }
    }

    fn read_report(&mut self, life: u64, name: &str, file: std::fs::File) -> Result<(), String> {
        if !file.metadata().is_ok_and(|meta| meta.is_file()) {
            return Err(format!("{name} is no regular file"));
        }
        let is_known = self.lives.get(&life).is_some_and(|life| life.reports.contains(name));
        if !is_known {
            self.become_writer(life, name)?;
            if let Some(life) = self.lives.get_mut(&life) {
                life.reports.insert(name.to_owned());
            }
        }
        let limit = self.limit(life);
        let mut bytes = Vec::new();
        file.take(limit + 1).read_to_end(&mut bytes).map_err(|error| format!("{name}: {error}"))?;
        if bytes.len() as u64 > limit {
            return Err(format!("{name} is longer than its limit of {limit} bytes; it is as it was"));
        }
        let content = Content::new(&bytes).map_err(|errno| format!("{name}: {errno}"))?;
        self.take_report(life, name, content, None);
        Ok(())
    }

    /// Takes the last reports of a life, and ends its ROMs.
    pub(crate) fn forget_files(&mut self, life: u64) {
        self.find_reports(life);
        self.take_late(life);
        if let Some((_, watch)) = self.reports_of(life) {
            let watch = *watch;
            self.watched.remove(&watch);
            let _ = inotify::remove_watch(&self.watch, watch);
        }
        self.file_readers.retain(|_, readers| {
            readers.retain(|(reader, _)| *reader != life);
            !readers.is_empty()
        });
    }
}

fn parent(path: &Path) -> PathBuf {
    let parent = path.parent().filter(|parent| !parent.as_os_str().is_empty()).unwrap_or(Path::new("."));
    parent.canonicalize().unwrap_or_else(|_| parent.to_owned())
}
