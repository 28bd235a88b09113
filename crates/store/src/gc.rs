//! Collection: freeing what nobody needs or stands there twice, and packing what is needed seldom.

use crate::cold::{Compressed, compress, reclaim};
use crate::draft::versions;
use crate::duplicates::Duplicates;
use crate::error::{Error, Result};
use crate::image::read_header;
use crate::root::{COLD, PACK, STATE, dir_of};
use crate::state::{State, state_of};
use crate::store::{Leftover, Store};
use frost_image::{ImageId, Name};
use std::collections::BTreeMap;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

/// What a collection may do beyond removing leftovers.
#[derive(Clone, Debug)]
pub struct GcOptions {
    /// Compresses the packs of images that were neither frozen nor thawed for so long; `None` compresses nothing.
    pub compress_after: Option<Duration>,
    /// The level of zstd, 1 to 19; 3 is its default, and inflates as fast as any.
    pub level: i32,
    /// Reads all packs that are raw for pages that several have, and lets them share these if the file system can.
    pub duplicates: bool,
}

impl Default for GcOptions {
    fn default() -> Self {
        Self { compress_after: None, level: 3, duplicates: false }
    }
}

/// What a collection did.
#[derive(Debug, Default)]
pub struct Collected {
    /// What dead processes had left; also what was found when the store was opened.
    pub leftovers: Vec<Leftover>,
    /// Directories of images without a manifest, which were removed.
    pub strays: Vec<ImageId>,
    /// Packs that were compressed.
    pub compressed: Vec<Compressed>,
    /// Bytes of disk that no image referred to any more, in packs that several versions share or shared.
    pub reclaimed_bytes: u64,
    /// What several packs have, if it was asked for.
    pub duplicates: Option<Duplicates>,
    /// Bytes of disk that all this freed.
    pub freed_bytes: u64,
    /// Images that could not be compressed, and why: a damaged one stays as it is.
    pub problems: Vec<(ImageId, Error)>,
}

impl Store {
    /// Removes what is left over, compresses what is cold, and shares what is there twice.
    ///
    /// # Errors
    /// [`Error::Io`], [`Error::Busy`]. What was done by then stays done.
    pub fn gc(&self, options: &GcOptions) -> Result<Collected> {
        let mut done = Collected { leftovers: self.swept().to_vec(), ..Collected::default() };
        done.leftovers.extend(crate::store::sweep(&self.root));
        done.freed_bytes = done.leftovers.iter().map(|leftover| leftover.freed_bytes).sum();
        let now = SystemTime::now();
        for name in self.names()? {
            {
                let _lock = self.root.lock()?;
                done.strays.append(&mut self.remove_strays(&name)?);
            }
            for group in self.groups(&name)? {
                let Some(id) = group.last().cloned() else { continue };
                let cold = |after| group.iter().all(|id| self.is_cold_enough(id, now, after));
                let outcome = if options.compress_after.is_some_and(cold) {
                    compress(&self.root, &group, options.level)
                } else {
                    Ok(None)
                };
                let outcome = match outcome {
                    Ok(Some(compressed)) => {
                        done.freed_bytes += compressed.before_bytes.saturating_sub(compressed.after_bytes);
                        done.compressed.push(compressed);
                        continue;
                    }
                    Ok(None) => reclaim(&self.root, &group),
                    Err(error) => Err(error),
                };
                match outcome {
                    Ok(freed) => {
                        done.reclaimed_bytes += freed;
                        done.freed_bytes += freed;
                    }
                    // It was removed meanwhile.
                    Err(Error::NoSuchImage { .. }) => {}
                    Err(error)
                        if error.is_not_found() && !group.iter().all(|id| self.root.exists(dir_of(id))) => {}
                    Err(error) => done.problems.push((id, error)),
                }
            }
        }
        if options.duplicates {
            let found = self.share_duplicates()?;
            done.freed_bytes += found.shared_bytes;
            done.duplicates = Some(found);
        }
        Ok(done)
    }

    /// Returns the images of a name whose packs are raw, those together that share one, the one that has all of it last.
    pub(crate) fn groups(&self, name: &Name) -> Result<Vec<Vec<ImageId>>> {
        let mut groups: BTreeMap<(u64, u64), Vec<ImageId>> = BTreeMap::new();
        for version in versions(&self.root, name)? {
            let id = ImageId { name: name.clone(), version };
            if let Some(file) = self.root.identity(dir_of(&id).join(PACK)) {
                groups.entry(file).or_default().push(id);
            }
        }
        Ok(groups.into_values().collect())
    }

    /// Whether an image is frozen, and was neither made nor thawed in the time before `now`.
    fn is_cold_enough(&self, id: &ImageId, now: SystemTime, after: Duration) -> bool {
        if !self.root.exists(dir_of(id).join(PACK)) && self.root.exists(dir_of(id).join(COLD)) {
            return false;
        }
        let Ok(header) = read_header(&self.root, id) else { return false };
        if !matches!(state_of(&self.root, &header), Ok(State::Frozen)) {
            return false;
        }
        let created = UNIX_EPOCH + Duration::from_secs(header.created.sec.max(0).cast_unsigned());
        let used = self.root.modified(dir_of(id).join(STATE)).map_or(created, |thawed| thawed.max(created));
        // One of the future is not old.
        now.duration_since(used).is_ok_and(|age| age >= after)
    }
}
