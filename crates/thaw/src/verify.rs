//! The comparison of the pack with its digests, beside the building of the tree.

use crate::build::begin;
use crate::error::Error;
use crate::stage::Stage;
use frost_store::{Image, PackBlocks};
use rustix::fd::{AsFd, OwnedFd};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::thread::JoinHandle;

/// Up to this length a thread costs more than it saves.
const SMALL_PACK_BYTES: u64 = 1 << 20;
/// How much is taken at a time by each of those who compare.
const PIECE_BYTES: u64 = 4 << 20;

/// What was found: nothing, or where in the pack the piece lies that is damaged, and how.
type Found = Result<(), (u64, frost_store::Error)>;

/// A comparison that is to be made before the tree is let go.
pub(crate) struct Verification<'a> {
    image: &'a Image,
    beside: Option<(Arc<Pieces>, JoinHandle<Found>)>,
}

/// What is still to be compared.
struct Pieces {
    blocks: PackBlocks,
    pack: OwnedFd,
    next: AtomicU64,
}

impl Pieces {
    /// Takes pieces until there are none, or one is damaged.
    fn compare(&self) -> Found {
        let len_bytes = self.blocks.len_bytes();
        loop {
            let at = self.next.fetch_add(PIECE_BYTES, Ordering::Relaxed);
            if at >= len_bytes {
                return Ok(());
            }
            let piece = at..at.saturating_add(PIECE_BYTES).min(len_bytes);
            if let Err(error) = self.blocks.verify(self.pack.as_fd(), piece) {
                // All before it is taken, so the first damaged one is found.
                self.end();
                return Err((at, error));
            }
        }
    }

    /// Leaves nothing to take.
    fn end(&self) {
        self.next.store(self.blocks.len_bytes(), Ordering::Relaxed);
    }
}

impl<'a> Verification<'a> {
    /// Notes what is to be compared.
    pub(crate) fn of(image: &'a Image) -> Self {
        Self { image, beside: None }
    }

    /// Starts a thread that compares, if that takes long.
    ///
    /// When all descriptors are open and the tree has its copies: two threads share their descriptor table, which then
    /// grows only after a grace period of RCU (`expand_fdtable`, fs/file.c), some 3 to 20 ms.
    ///
    /// # Errors
    /// The digests are damaged, or the pack is gone.
    pub(crate) fn begin(&mut self) -> Result<(), Error> {
        if self.image.header().pack.len_bytes <= SMALL_PACK_BYTES {
            return Ok(());
        }
        let pieces = Arc::new(Pieces {
            blocks: self.image.blocks()?,
            pack: self.image.pack()?,
            next: AtomicU64::new(0),
        });
        let theirs = Arc::clone(&pieces);
        // If it cannot be started, all is done at the end.
        if let Ok(thread) =
            std::thread::Builder::new().name("frost-verify".to_owned()).spawn(move || theirs.compare())
        {
            self.beside = Some((pieces, thread));
        }
        Ok(())
    }

    /// Compares what is left: the processor that has built the tree has nothing else to do any more.
    ///
    /// # Errors
    /// Names the first block that is not what it was.
    pub(crate) fn finish(mut self) -> Result<(), Error> {
        begin(Stage::Verify)?;
        let Some((pieces, thread)) = self.beside.take() else {
            let pack = self.image.pack()?;
            return Ok(self.image.verify_pack(pack.as_fd())?);
        };
        let ours = pieces.compare();
        let theirs = thread.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic));
        match (ours, theirs) {
            (Ok(()), Ok(())) => Ok(()),
            (Err((_, error)), Ok(())) | (Ok(()), Err((_, error))) => Err(error.into()),
            (Err((at, ours)), Err((other, theirs))) => Err(if at < other { ours } else { theirs }.into()),
        }
    }
}

impl Drop for Verification<'_> {
    fn drop(&mut self) {
        // The tree could not be built: nobody waits for the rest.
        if let Some((pieces, _)) = &self.beside {
            pieces.end();
        }
    }
}
