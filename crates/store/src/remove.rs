//! Removing images.

use crate::draft::{Place, last_version, versions};
use crate::error::{Error, Result};
use crate::root::{IMAGES, LAST, MANIFEST, dir_of, dir_of_name, fault};
use crate::store::Store;
use frost_image::{ImageId, Name};

/// What a removal took away.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Removed {
    /// Which images.
    pub ids: Vec<ImageId>,
    /// Bytes of disk that are free again, but for files that somebody has open.
    pub freed_bytes: u64,
}

impl Store {
    /// Removes one image. Its number is not given again while the name lives.
    ///
    /// A program that runs does not need its image; whoever has it open reads on.
    ///
    /// # Errors
    /// [`Error::NoSuchImage`]; else the image is there as before, or, if only its files could not all be removed,
    /// gone, and the next command removes the rest.
    pub fn remove(&self, id: &ImageId) -> Result<Removed> {
        let lock = self.root.lock()?;
        let present = versions(&self.root, &id.name)?;
        if !present.contains(&id.version) {
            return Err(Error::NoSuchImage { spec: id.to_string(), versions: present });
        }
        let last = present.last().copied().unwrap_or(0);
        if last > last_version(&self.root, &id.name)? {
            self.write_last(&id.name, last)?;
        }
        fault("store.remove", &self.path_of(id), 0)?;
        let place = Place::adopt(&self.root, &id.name, &dir_of(id))?;
        self.root.sync_dir(dir_of_name(&id.name))?;
        drop(lock);
        Ok(Removed { ids: vec![id.clone()], freed_bytes: place.clear()? })
    }

    /// Removes all images of a name, and the name: its versions begin with 1 again.
    ///
    /// # Errors
    /// [`Error::NoSuchImage`]; else as [`remove`](Self::remove).
    pub fn remove_name(&self, name: &Name) -> Result<Removed> {
        let lock = self.root.lock()?;
        let present = versions(&self.root, name)?;
        if present.is_empty() {
            return Err(Error::NoSuchImage { spec: name.to_string(), versions: present });
        }
        let place = Place::adopt(&self.root, name, &dir_of_name(name))?;
        self.root.sync_dir(IMAGES)?;
        drop(lock);
        let ids = present.into_iter().map(|version| ImageId { name: name.clone(), version }).collect();
        Ok(Removed { ids, freed_bytes: place.clear()? })
    }

    /// Removes the directories of versions that have no manifest, which no command makes. The caller holds the lock.
    pub(crate) fn remove_strays(&self, name: &Name) -> Result<Vec<ImageId>> {
        let mut strays = Vec::new();
        for version in versions(&self.root, name)? {
            let id = ImageId { name: name.clone(), version };
            if !self.root.exists(dir_of(&id).join(MANIFEST)) {
                Place::adopt(&self.root, name, &dir_of(&id))?.clear()?;
                strays.push(id);
            }
        }
        Ok(strays)
    }

    /// Remembers the highest version of a name, before it may vanish.
    ///
    /// The text of a symbolic link that leads nowhere is kept in its inode, so this needs no room for data, and is
    /// made and replaced at once. The sync of the directory that follows the removal covers it.
    fn write_last(&self, name: &Name, version: u32) -> Result<()> {
        let new = dir_of_name(name).join("last.new");
        self.root.unlink(&new)?;
        self.root.make_link(&version.to_string(), &new)?;
        self.root.rename(&new, dir_of_name(name).join(LAST))
    }
}
