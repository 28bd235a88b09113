//! Whether the program of an image runs, so that it never runs twice by accident.
//!
//! What runs is found by looking, not by remembering: an image records the process that it was frozen from, and the
//! file `state` beside it the process that it was last thawed to, each with start time and boot id. If that very
//! process runs, the image is superseded, or running; if not, it is frozen, whoever died in between. Therefore
//! nothing has to be written when a program ends, and `state` need not survive a power loss, which no process does.

use crate::draft::versions;
use crate::error::{Error, Result};
use crate::image::read_header;
use crate::instance::{Liveness, liveness};
use crate::root::{Root, STATE, dir_of, read_full_at, write_all_at};
use crate::store::Store;
use frost_image::{Header, ImageId, Instance, Name, Then};
use rustix::fd::AsFd;
use rustix::fs::OFlags;
use std::os::unix::ffi::OsStrExt;

/// The longest `state` file that is read.
const STATE_BYTES: usize = 256;

/// How the program of an image stands.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum State {
    /// It does not run; it can be thawed.
    Frozen,
    /// It runs: it was thawed from this image, or went on after the freeze.
    Running(Instance),
    /// It runs since its freezer died after the commit and before it ended the program. The next freeze of that
    /// program under this name removes the image.
    Superseded(Instance),
}

impl State {
    /// Returns the process that runs.
    pub fn instance(&self) -> Option<&Instance> {
        match self {
            Self::Frozen => None,
            Self::Running(instance) | Self::Superseded(instance) => Some(instance),
        }
    }
}

impl Store {
    /// Tells whether the program of an image runs.
    ///
    /// A process seen from another pid namespace cannot be looked up here. One that the image was thawed to is
    /// then taken to run; one that it was frozen from is taken to have ended, as it was meant to.
    ///
    /// # Errors
    /// [`Error::NoSuchImage`]; [`Error::Image`] if the header cannot be read; [`Error::Io`].
    pub fn state(&self, id: &ImageId) -> Result<State> {
        let header = read_header(&self.root, id)?;
        state_of(&self.root, &header)
    }

    /// Marks an image as running as `instance`, unless it runs already; of two that try, one succeeds.
    ///
    /// A thaw calls this (not for a clone) when its processes are built and before it opens the gate. If they never
    /// run, the mark means nothing.
    ///
    /// # Errors
    /// [`Error::Runs`] if it runs already or is superseded; else as [`state`](Self::state). The mark is then as
    /// it was.
    pub fn claim(&self, id: &ImageId, instance: &Instance) -> Result<()> {
        let _lock = self.root.lock()?;
        if let Some(running) = self.state(id)?.instance().filter(|running| *running != instance) {
            return Err(Error::Runs { id: id.clone(), instance: running.clone() });
        }
        write(&self.root, id, instance)
    }

    /// Takes a mark away, for a thaw that failed after its claim.
    ///
    /// # Errors
    /// [`Error::Io`].
    pub fn release(&self, id: &ImageId) -> Result<()> {
        let _lock = self.root.lock()?;
        self.root.unlink(dir_of(id).join(STATE))
    }

    /// Finds the image that the process `instance` was thawed from, for instance to freeze it under that name again.
    ///
    /// # Errors
    /// [`Error::Io`]. Images that cannot be read are passed over.
    pub fn thawed_from(&self, instance: &Instance) -> Result<Option<ImageId>> {
        for name in self.names()? {
            for version in versions(&self.root, &name)? {
                let id = ImageId { name: name.clone(), version };
                if read(&self.root, &id)?.as_ref() == Some(instance) {
                    return Ok(Some(id));
                }
            }
        }
        Ok(None)
    }

    /// Finds an image of that name that is of another program than `instance`: not made of it, and not thawed to it.
    ///
    /// # Errors
    /// [`Error::Io`]. Images that cannot be read are passed over.
    pub fn of_another(&self, name: &Name, instance: &Instance) -> Result<Option<Header>> {
        let mut other = None;
        for version in versions(&self.root, name)? {
            let id = ImageId { name: name.clone(), version };
            let Ok(header) = read_header(&self.root, &id) else { continue };
            if header.origin == *instance || read(&self.root, &id)?.as_ref() == Some(instance) {
                return Ok(None);
            }
            other = Some(header);
        }
        Ok(other)
    }
}

pub(crate) fn state_of(root: &Root, header: &Header) -> Result<State> {
    if let Some(instance) = read(root, &header.id)?
        && liveness(&instance)? != Liveness::Ended
    {
        return Ok(State::Running(instance));
    }
    Ok(match (liveness(&header.origin)?, header.then) {
        (Liveness::Runs, Then::End) => State::Superseded(header.origin.clone()),
        (Liveness::Runs, Then::GoOn) => State::Running(header.origin.clone()),
        (Liveness::Ended | Liveness::Unknown, _) => State::Frozen,
    })
}

/// Reads the mark of an image. One that cannot be understood was torn by a power loss and denotes no process.
fn read(root: &Root, id: &ImageId) -> Result<Option<Instance>> {
    let relative = dir_of(id).join(STATE);
    let Some((file, _)) = root.open_file(&relative)? else { return Ok(None) };
    let mut bytes = [0; STATE_BYTES];
    let len = read_full_at(file.as_fd(), &mut bytes, 0)
        .map_err(|errno| Error::io("read", &root.show(&relative), errno))?;
    Ok(parse(&bytes[..len]))
}

fn write(root: &Root, id: &ImageId, instance: &Instance) -> Result<()> {
    let relative = dir_of(id).join(STATE);
    let mut new = relative.as_os_str().as_bytes().to_vec();
    new.extend_from_slice(b".new");
    let new = std::path::PathBuf::from(std::ffi::OsStr::from_bytes(&new));
    let file = root.create(&new, OFlags::WRONLY | OFlags::TRUNC)?;
    let Instance { pid, start_time, pid_namespace, boot_id } = instance;
    let text = format!("running {pid} {start_time} {pid_namespace} {boot_id}\n");
    write_all_at(file.as_fd(), text.as_bytes(), 0).map_err(|errno| {
        Error::write(&root.show(&relative), errno, text.len() as u64, || root.free_bytes())
    })?;
    root.rename(&new, &relative)
}

fn parse(bytes: &[u8]) -> Option<Instance> {
    let text = std::str::from_utf8(bytes).ok()?.strip_suffix('\n')?;
    let mut words = text.split(' ');
    if words.next()? != "running" {
        return None;
    }
    let instance = Instance {
        pid: words.next()?.parse().ok()?,
        start_time: words.next()?.parse().ok()?,
        pid_namespace: words.next()?.parse().ok()?,
        boot_id: words.next()?.to_owned(),
    };
    words.next().is_none().then_some(instance)
}
