//! Changes bytes at random, in the ways in which formats break.

use std::path::PathBuf;

/// Numbers that lengths and counts go wrong at.
const EDGES: [u64; 12] =
    [0, 1, 0x7f, 0xff, 0x1000, 0xffff, 0x7fff_ffff, 0xffff_ffff, 1 << 32, 1 << 44, i64::MAX as u64, u64::MAX];

/// Makes inputs from seeds, the same ones from the same number.
pub struct Mutator {
    state: u64,
    inputs: Vec<Vec<u8>>,
}

impl Mutator {
    /// Begins with a number and at least one input.
    pub fn new(seed: u64, inputs: Vec<Vec<u8>>) -> Self {
        Self { state: seed, inputs }
    }

    /// Returns the next input: a known one, changed in one to eight places.
    pub fn next_input(&mut self) -> Vec<u8> {
        let chosen = self.below(self.inputs.len());
        let mut bytes = self.inputs.get(chosen).cloned().unwrap_or_default();
        for _ in 0..=self.below(8) {
            self.change(&mut bytes);
        }
        bytes
    }

    fn change(&mut self, bytes: &mut Vec<u8>) {
        let at = self.below(bytes.len() + 1);
        let len = 1 + self.below(16);
        let end = (at + len).min(bytes.len());
        match self.below(9) {
            0 if at < bytes.len() => bytes[at] ^= 1 << self.below(8),
            1 if at < bytes.len() => bytes[at] = self.random() as u8,
            2 => bytes.truncate(at),
            3 => drop(bytes.drain(at..end)),
            4 => {
                let new: Vec<u8> = (0..len).map(|_| self.random() as u8).collect();
                bytes.splice(at..at, new);
            }
            5 => {
                let copy = bytes[at..end].to_vec();
                let to = self.below(bytes.len() + 1);
                bytes.splice(to..to, copy);
            }
            6 => {
                let other = self.below(self.inputs.len());
                let other = self.inputs.get(other).cloned().unwrap_or_default();
                let from = self.below(other.len() + 1);
                let part = &other[from..(from + 4 * len).min(other.len())];
                bytes.splice(at..end, part.iter().copied());
            }
            7 => self.write_edge(bytes, at),
            // A count of CBOR: an array, map, text or byte string of very many.
            _ if at < bytes.len() => {
                let claim = EDGES[self.below(EDGES.len())].to_be_bytes();
                let major = bytes[at] & 0xe0;
                bytes.splice(at..=at, [major | 27].into_iter().chain(claim));
            }
            _ => bytes.push(self.random() as u8),
        }
    }

    /// Writes a number that is hard to bear, in either byte order and any width, near or at an edge.
    fn write_edge(&mut self, bytes: &mut [u8], at: usize) {
        let edge = EDGES[self.below(EDGES.len())].wrapping_add(self.random() % 3).wrapping_sub(1);
        let width = 1 << self.below(4);
        let number =
            if self.below(2) == 0 { edge.to_le_bytes() } else { edge.rotate_right(8 * width).to_be_bytes() };
        for (byte, new) in
            bytes.iter_mut().skip(at & !(width as usize - 1)).zip(number.iter().take(width as usize))
        {
            *byte = *new;
        }
    }

    fn below(&mut self, bound: usize) -> usize {
        (self.random() % bound.max(1) as u64) as usize
    }

    /// SplitMix64, which needs no state but its number.
    fn random(&mut self) -> u64 {
        self.state = self.state.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.state;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ (z >> 31)
    }
}

/// Where the inputs of a target lie that were worth keeping.
pub fn corpus_dir(target: &str) -> PathBuf {
    PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("corpus").join(target)
}

/// Reads the inputs of a target that were worth keeping.
pub fn corpus(target: &str) -> Vec<Vec<u8>> {
    let Ok(entries) = std::fs::read_dir(corpus_dir(target)) else { return Vec::new() };
    let mut paths: Vec<_> = entries.filter_map(|entry| Some(entry.ok()?.path())).collect();
    paths.sort();
    paths.iter().filter_map(|path| std::fs::read(path).ok()).collect()
}
