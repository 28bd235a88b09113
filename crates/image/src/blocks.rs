//! The digests of a pack: one for each block, and the root over them.
//!
//! The root is the BLAKE3 hash of the whole pack, what `b3sum pack` prints. BLAKE3 is a binary tree over chunks of
//! 1 KiB; a block of 64 KiB is one subtree of it, and its digest is the chaining value of that subtree. So blocks
//! are hashed one by one, while others are still being written, and their digests prove themselves against the
//! root: no second hash, and a flipped bit is located to its block.

use crate::digest::Digest;
use crate::error::Error;
use blake3::hazmat::{self, HasherExt, Mode};

/// Bytes in a block of a pack; the last block may be shorter.
pub const BLOCK_BYTES: u64 = 64 * 1024;

/// The digests of all blocks of a pack, 32 bytes for 64 KiB.
///
/// In a pack of a single block that block's digest is the root, since BLAKE3 treats the top of its tree apart.
#[derive(Clone, PartialEq, Eq)]
pub struct Blocks {
    digests: Vec<Digest>,
    len_bytes: u64,
}

impl Blocks {
    /// Returns the number of blocks of a pack of `len_bytes`.
    pub const fn count_for(len_bytes: u64) -> u64 {
        len_bytes.div_ceil(BLOCK_BYTES)
    }

    /// Reads the digests of a pack of `len_bytes` and proves them against its `root`.
    ///
    /// # Errors
    /// [`Error::Damaged`] if the length is not that of so many digests, or if they have another root.
    pub fn decode(bytes: &[u8], len_bytes: u64, root: &Digest) -> Result<Self, Error> {
        let (digests, rest) = bytes.as_chunks::<{ Digest::LEN_BYTES }>();
        if !rest.is_empty() || digests.len() as u64 != Self::count_for(len_bytes) {
            return Err(Error::damaged("block table", "its length does not fit that of the pack"));
        }
        let blocks = Self { digests: digests.iter().map(|bytes| Digest::new(*bytes)).collect(), len_bytes };
        if blocks.root() != *root {
            return Err(Error::damaged("block table", "its digests do not lead to the digest of the pack"));
        }
        Ok(blocks)
    }

    /// Returns the digests one after another, as they are stored.
    pub fn encode(&self) -> Vec<u8> {
        self.digests.iter().flat_map(|digest| *digest.as_bytes()).collect()
    }

    /// Returns the length of the pack.
    pub fn len_bytes(&self) -> u64 {
        self.len_bytes
    }

    /// Returns the number of blocks.
    pub fn count(&self) -> u64 {
        self.digests.len() as u64
    }

    /// Returns where block `index` lies in the pack: its first byte, and the one behind its last.
    pub fn range(&self, index: u64) -> std::ops::Range<u64> {
        let start = index.saturating_mul(BLOCK_BYTES).min(self.len_bytes);
        start..start.saturating_add(BLOCK_BYTES).min(self.len_bytes)
    }

    /// Returns the digest of block `index`, if there is such a block.
    pub fn digest(&self, index: u64) -> Option<Digest> {
        self.digests.get(usize::try_from(index).ok()?).copied()
    }

    /// Returns whether `bytes` are what block `index` was when it was written; false for a block that is not there.
    pub fn verify(&self, index: u64, bytes: &[u8]) -> bool {
        let range = self.range(index);
        let digest = usize::try_from(index).ok().and_then(|index| self.digests.get(index));
        match digest {
            Some(digest) if bytes.len() as u64 == range.end - range.start => {
                *digest == if self.count() == 1 { Digest::of(bytes) } else { chaining_value(index, bytes) }
            }
            _ => false,
        }
    }

    /// Computes the digest of the whole pack.
    pub fn root(&self) -> Digest {
        let mut stack: Vec<[u8; 32]> = Vec::new();
        let mut last = match self.digests.as_slice() {
            [] => return Digest::of(&[]),
            [only] => return *only,
            [.., last] => *last.as_bytes(),
        };
        // A subtree is whole as soon as 2^n blocks of it are there, and not joined further before another block
        // follows, since the topmost join is of another kind (the root).
        for (index, digest) in self.digests[..self.digests.len() - 1].iter().enumerate() {
            let mut joined = *digest.as_bytes();
            for _ in 0..(index + 1).trailing_zeros() {
                if let Some(left) = stack.pop() {
                    joined = hazmat::merge_subtrees_non_root(&left, &joined, Mode::Hash);
                }
            }
            stack.push(joined);
        }
        while let Some(left) = stack.pop() {
            if stack.is_empty() {
                return Digest::new(*hazmat::merge_subtrees_root(&left, &last, Mode::Hash).as_bytes());
            }
            last = hazmat::merge_subtrees_non_root(&left, &last, Mode::Hash);
        }
        Digest::new(last)
    }
}

impl std::fmt::Debug for Blocks {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Blocks").field("len_bytes", &self.len_bytes).field("root", &self.root()).finish()
    }
}

/// Hashes the blocks of a pack as they come.
#[derive(Clone, Default)]
pub struct Tree {
    digests: Vec<Digest>,
    len_bytes: u64,
    /// The digest of the first block as the only one, which it may turn out to be.
    alone: Digest,
}

impl Tree {
    /// Begins with an empty pack.
    pub fn new() -> Self {
        Self::default()
    }

    /// Goes on behind the whole blocks of a pack that was hashed before; its last block, if it is a short one, is hashed
    /// anew with what follows.
    pub fn resume(blocks: &Blocks) -> Self {
        // The digest of an only block is of another kind.
        let whole = if blocks.count() == 1 { 0 } else { blocks.len_bytes / BLOCK_BYTES };
        Self {
            digests: blocks.digests[..whole as usize].to_vec(),
            len_bytes: whole * BLOCK_BYTES,
            alone: Digest::default(),
        }
    }

    /// Returns how many bytes were hashed.
    pub fn len_bytes(&self) -> u64 {
        self.len_bytes
    }

    /// Hashes the next bytes: whole blocks, except at the end of the pack.
    pub fn push(&mut self, bytes: &[u8]) {
        debug_assert!(self.len_bytes.is_multiple_of(BLOCK_BYTES), "nothing follows a short block");
        for block in bytes.chunks(BLOCK_BYTES as usize) {
            let index = self.digests.len() as u64;
            if index == 0 {
                self.alone = Digest::of(block);
            }
            self.digests.push(chaining_value(index, block));
            self.len_bytes += block.len() as u64;
        }
    }

    /// Hashes a block once more, whose bytes were changed; nothing happens if it was not hashed before.
    pub fn replace(&mut self, index: u64, bytes: &[u8]) {
        let Some(digest) = usize::try_from(index).ok().and_then(|index| self.digests.get_mut(index)) else {
            return;
        };
        if index == 0 {
            self.alone = Digest::of(bytes);
        }
        *digest = chaining_value(index, bytes);
    }

    /// Returns the digests, the pack being complete.
    pub fn finish(mut self) -> Blocks {
        if let [only] = self.digests.as_mut_slice() {
            *only = self.alone;
        }
        Blocks { digests: self.digests, len_bytes: self.len_bytes }
    }
}

/// Hashes one block as a subtree at its place. `bytes` is never empty and never longer than a block.
fn chaining_value(index: u64, bytes: &[u8]) -> Digest {
    let mut hasher = blake3::Hasher::new();
    hasher.set_input_offset(index * BLOCK_BYTES);
    hasher.update(bytes);
    Digest::new(hasher.finalize_non_root())
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn blocks_of(bytes: &[u8]) -> Blocks {
        let mut tree = Tree::new();
        tree.push(bytes);
        tree.finish()
    }

    fn sample(len: usize) -> Vec<u8> {
        (0..len).map(|i| (i as u64).wrapping_mul(0x9e37_79b9_7f4a_7c15).to_le_bytes()[7]).collect()
    }

    #[test]
    fn the_root_is_the_hash_of_the_whole() {
        let block = BLOCK_BYTES as usize;
        for len in
            [0, 1, 1024, block - 1, block, block + 1, 2 * block, 3 * block, 7 * block + 4096, 16 * block]
        {
            let bytes = sample(len);
            assert_eq!(blocks_of(&bytes).root(), Digest::of(&bytes), "{len} bytes");
        }
        for count in 1..40 {
            let bytes = sample(count * block);
            assert_eq!(blocks_of(&bytes).root(), Digest::of(&bytes), "{count} blocks");
        }
    }

    #[test]
    fn a_pack_that_grows_has_the_digests_of_one_written_at_once() {
        let block = BLOCK_BYTES as usize;
        for len in [0, 4096, block, block + 4096, 2 * block, 5 * block + 8192] {
            for more in [0, 4096, 3 * block] {
                // What follows begins at a block of its own.
                let grown = len.next_multiple_of(block);
                let mut bytes = sample(len);
                bytes.resize(grown, 0);
                bytes.extend(sample(more));
                let mut tree = Tree::resume(&blocks_of(&bytes[..len]));
                let hashed = tree.len_bytes() as usize;
                tree.push(&bytes[hashed..]);
                assert_eq!(tree.finish(), blocks_of(&bytes), "{len} and {more} bytes");
            }
        }
    }

    #[test]
    fn a_block_that_was_changed_is_hashed_anew() {
        for len in [100, 3 * BLOCK_BYTES as usize + 5] {
            let mut bytes = sample(len);
            let mut tree = Tree::new();
            tree.push(&bytes);
            for index in [0, 3] {
                let block: Vec<usize> = (0..len).skip(index * BLOCK_BYTES as usize).collect();
                block.iter().take(10).for_each(|at| bytes[*at] ^= 0xff);
                let end = len.min((index + 1) * BLOCK_BYTES as usize);
                tree.replace(index as u64, bytes.get(index * BLOCK_BYTES as usize..end).unwrap_or(&[]));
            }
            assert_eq!(tree.finish().root(), Digest::of(&bytes), "{len} bytes");
        }
    }

    #[test]
    fn a_block_verifies_at_its_own_place_only() {
        let bytes = sample(3 * BLOCK_BYTES as usize + 5);
        let blocks = blocks_of(&bytes);
        for index in 0..4 {
            let range = blocks.range(index);
            let block = &bytes[range.start as usize..range.end as usize];
            assert!(blocks.verify(index, block));
            assert!(!blocks.verify((index + 1) % 4, block));
            assert!(!blocks.verify(u64::MAX, block));
            assert!(!blocks.verify(index, &block[1..]));
        }
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(32))]
        #[test]
        fn a_table_with_a_changed_byte_is_told(len in 1usize..400_000, at in any::<prop::sample::Index>(), bit in 0u8..8) {
            let bytes = sample(len);
            let blocks = blocks_of(&bytes);
            let mut table = blocks.encode();
            prop_assert_eq!(&Blocks::decode(&table, len as u64, &blocks.root()).unwrap(), &blocks);
            let at = at.index(table.len());
            table[at] ^= 1 << bit;
            prop_assert!(Blocks::decode(&table, len as u64, &blocks.root()).is_err());
        }
    }
}
