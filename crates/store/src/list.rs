//! What is in a store.

use crate::draft::versions;
use crate::error::Result;
use crate::image::read_header;
use crate::root::{COLD, MANIFEST, PACK, dir_of};
use crate::state::{State, state_of};
use crate::store::Store;
use frost_image::{Header, ImageId};
use std::collections::HashMap;

/// One image, as much of it as its header tells.
#[derive(Debug)]
pub struct Summary {
    /// Its name and version.
    pub id: ImageId,
    /// The room it takes on disk; in a list, what it shares with earlier versions is counted there.
    pub disk_bytes: u64,
    /// Whether its pack is compressed.
    pub cold: bool,
    /// When it was frozen, its command, its processes, ...; or why that cannot be read.
    pub header: Result<Header>,
    /// Whether its program runs; [`State::Frozen`] if the header cannot be read.
    pub state: State,
}

impl Store {
    /// Returns all images, by name and ascending version. It reads 512 bytes of each.
    ///
    /// # Errors
    /// [`Error::Io`](crate::Error::Io) if a directory cannot be read. An image that cannot be read is listed, with its own error.
    pub fn list(&self) -> Result<Vec<Summary>> {
        let mut summaries = Vec::new();
        for name in self.names()? {
            let mut counted = HashMap::new();
            for version in versions(&self.root, &name)? {
                let id = ImageId { name: name.clone(), version };
                let mut summary = self.summary(&id);
                self.count_own(&mut summary, &mut counted);
                summaries.push(summary);
            }
        }
        Ok(summaries)
    }

    /// Takes from the room of an image what it shares with earlier versions, `counted` by file.
    fn count_own(&self, summary: &mut Summary, counted: &mut HashMap<(u64, u64), u64>) {
        let Ok(header) = &summary.header else { return };
        for file in [PACK, COLD].map(|file| dir_of(&summary.id).join(file)) {
            let Some(identity) = self.root.identity(&file) else { continue };
            if self.root.names_of_file(&file) > 1 {
                let before = counted.insert(identity, header.pack.len_bytes).unwrap_or(0);
                let whole = self.root.disk_bytes(&file);
                let own = header.pack.len_bytes.saturating_sub(before).min(whole);
                summary.disk_bytes = summary.disk_bytes - whole + own;
            }
        }
    }

    /// Returns what the header of one image tells; one that does not exist has an error in its header.
    pub fn summary(&self, id: &ImageId) -> Summary {
        let dir = dir_of(id);
        let header = read_header(&self.root, id);
        let state = header.as_ref().ok().and_then(|header| state_of(&self.root, header).ok());
        let (hot_bytes, cold_bytes) =
            (self.root.disk_bytes(dir.join(PACK)), self.root.disk_bytes(dir.join(COLD)));
        Summary {
            id: id.clone(),
            disk_bytes: self.root.disk_bytes(dir.join(MANIFEST)) + hot_bytes + cold_bytes,
            cold: !self.root.exists(dir.join(PACK)) && self.root.exists(dir.join(COLD)),
            header,
            state: state.unwrap_or(State::Frozen),
        }
    }
}
