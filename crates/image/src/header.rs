//! The header of a manifest file: what can be known of an image without decoding it.
//!
//! 512 bytes in every version of the format, integers little-endian:
//!
//! | offset | bytes | field |
//! |---|---|---|
//! | 0 | 8 | magic: `89 46 52 4f 53 54 1a 0a` (`\x89FROST\x1a\n`) |
//! | 8 | 4 | format version |
//! | 12 | 4 | zero |
//! | 16 | 8 | features needed to read the image |
//! | 24 | 8 | features that may be ignored |
//! | 32 | 16 | architecture, as `uname -m`, padded with zeros |
//! | 48 | 8 | length of the manifest |
//! | 56 | 32 | BLAKE3 of the manifest |
//! | 88 | 8 | length of the block table |
//! | 96 | 8 | length of the pack |
//! | 104 | 32 | BLAKE3 of the pack |
//! | 136 | 64 | name, padded with zeros |
//! | 200 | 4 | version of the image |
//! | 204 | 4 | processes |
//! | 208 | 4 | threads |
//! | 212 | 4 | uid of the user whose program it was |
//! | 216 | 8 | time of the freeze, seconds since 1970 |
//! | 224 | 4 | its nanoseconds |
//! | 228 | 4 | what was to become of the program: 0 it is ended, 1 it goes on |
//! | 232 | 4 | pid of the frozen program's root process |
//! | 236 | 4 | zero |
//! | 240 | 8 | its start time, field 22 of `/proc/PID/stat` |
//! | 248 | 8 | inode of the pid namespace the pid is of |
//! | 256 | 36 | boot id of that machine, ASCII |
//! | 292 | 128 | command, padded with zeros; cut if longer |
//! | 420 | 60 | zero |
//! | 480 | 32 | BLAKE3 of the 480 bytes before |

use crate::blocks::Blocks;
use crate::digest::Digest;
use crate::error::Error;
use crate::manifest::MANIFEST_LIMIT_BYTES;
use crate::name::{ImageId, Name};
use crate::{FEATURE_MACHINE, FEATURE_MACHINE_CHANGED, FEATURE_SPARSE_AREAS, FORMAT, KNOWN_FEATURES};
use frost_model::clock::Timespec;
use frost_model::machine::Machine;
use frost_model::{BytePath, Checkpoint};
use serde::{Deserialize, Serialize};

/// The longest pack that is accepted: the longest file of ext4.
pub const PACK_LIMIT_BYTES: u64 = 1 << 44;

const MAGIC: [u8; 8] = *b"\x89FROST\x1a\n";
const SEALED: usize = Header::LEN_BYTES - Digest::LEN_BYTES;
const BOOT_ID_BYTES: usize = 36;
const COMMAND_BYTES: usize = 128;
const WHAT: &str = "header";

/// What is known of an image without decoding it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Header {
    /// The version of the format.
    pub format: u32,
    /// Features without which it cannot be read.
    pub features_needed: u64,
    /// Features that a reader may ignore.
    pub features_optional: u64,
    /// The processor it runs on, as `uname -m`.
    pub architecture: String,
    /// The length of the manifest, behind the header.
    pub manifest_bytes: u64,
    /// The digest of the manifest.
    pub manifest_digest: Digest,
    /// The pack, and by its length the block table behind the manifest.
    pub pack: PackRef,
    /// The name and the version.
    pub id: ImageId,
    /// How many processes it has, zombies included.
    pub processes: u32,
    /// How many threads it has.
    pub threads: u32,
    /// The user whose program it was.
    pub uid: u32,
    /// When it was frozen (CLOCK_REALTIME).
    pub created: Timespec,
    /// What was to become of the program after the commit.
    pub then: Then,
    /// The root process of the program that was frozen, by which one tells whether it still runs.
    pub origin: Instance,
    /// The command line of the root process, cut after 128 bytes; what is not UTF-8 is replaced.
    pub command: String,
}

/// A pack that an image refers to.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct PackRef {
    /// The BLAKE3 hash of the whole pack.
    pub root: Digest,
    /// Its length.
    pub len_bytes: u64,
    /// How many blocks of 64 KiB that is, the last one maybe shorter.
    pub blocks: u64,
}

impl PackRef {
    /// Describes a pack by its digests.
    pub fn of(blocks: &Blocks) -> Self {
        Self { root: blocks.root(), len_bytes: blocks.len_bytes(), blocks: blocks.count() }
    }
}

/// What becomes of the program after its image was committed.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Then {
    /// It is ended. If it is found running all the same, the freezer died in between: the image is superseded.
    End,
    /// It goes on: the image is a snapshot of an instance that runs.
    GoOn,
}

/// A running process, named so that no other one is taken for it.
#[derive(Clone, Debug, Default, PartialEq, Eq, Hash)]
pub struct Instance {
    /// Its pid in the pid namespace below.
    pub pid: i32,
    /// When it started, in clock ticks since boot: field 22 of `/proc/PID/stat`.
    pub start_time: u64,
    /// The inode of the pid namespace of whoever saw it, from `/proc/self/ns/pid`; 0 if not known.
    pub pid_namespace: u64,
    /// The boot it is of, from `/proc/sys/kernel/random/boot_id`.
    pub boot_id: String,
}

impl Header {
    /// Length of a header in bytes, the same in every version.
    pub const LEN_BYTES: usize = 512;

    /// Describes `checkpoint` under a name; lengths and digests are filled in by [`encode`](crate::encode).
    pub fn describe(id: ImageId, checkpoint: &Checkpoint, origin: Instance, then: Then) -> Self {
        let threads = checkpoint.processes.iter().map(|process| process.cpu.threads.len()).sum::<usize>();
        let count = |number: usize| u32::try_from(number).unwrap_or(u32::MAX);
        Self {
            format: FORMAT,
            features_needed: features(checkpoint),
            features_optional: 0,
            architecture: checkpoint.host.architecture.clone(),
            manifest_bytes: 0,
            manifest_digest: Digest::default(),
            pack: PackRef { root: Digest::default(), len_bytes: 0, blocks: 0 },
            id,
            processes: count(checkpoint.processes.len()),
            threads: count(threads),
            uid: checkpoint.host.uid,
            created: checkpoint.clocks.realtime,
            then,
            origin,
            command: command_of(checkpoint),
        }
    }

    /// Returns the length of the block table, which follows from that of the pack.
    pub fn table_bytes(&self) -> u64 {
        self.pack.blocks * Digest::LEN_BYTES as u64
    }

    /// Returns the length of the whole manifest file.
    pub fn file_bytes(&self) -> u64 {
        Self::LEN_BYTES as u64 + self.manifest_bytes + self.table_bytes()
    }

    /// Writes the header in its 512 bytes. Texts that are too long are cut.
    pub fn encode(&self) -> [u8; Self::LEN_BYTES] {
        let mut bytes = [0; Self::LEN_BYTES];
        let mut at = 0;
        let mut put = |field: &[u8], width: usize| {
            let len = field.len().min(width);
            bytes[at..at + len].copy_from_slice(&field[..len]);
            at += width;
        };
        put(&MAGIC, 8);
        put(&self.format.to_le_bytes(), 8);
        put(&self.features_needed.to_le_bytes(), 8);
        put(&self.features_optional.to_le_bytes(), 8);
        put(self.architecture.as_bytes(), 16);
        put(&self.manifest_bytes.to_le_bytes(), 8);
        put(self.manifest_digest.as_bytes(), 32);
        put(&self.table_bytes().to_le_bytes(), 8);
        put(&self.pack.len_bytes.to_le_bytes(), 8);
        put(self.pack.root.as_bytes(), 32);
        put(self.id.name.as_str().as_bytes(), Name::MAX_BYTES);
        put(&self.id.version.to_le_bytes(), 4);
        put(&self.processes.to_le_bytes(), 4);
        put(&self.threads.to_le_bytes(), 4);
        put(&self.uid.to_le_bytes(), 4);
        put(&self.created.sec.to_le_bytes(), 8);
        put(&(self.created.nsec as u32).to_le_bytes(), 4);
        put(&self.then.code().to_le_bytes(), 4);
        put(&self.origin.pid.to_le_bytes(), 8);
        put(&self.origin.start_time.to_le_bytes(), 8);
        put(&self.origin.pid_namespace.to_le_bytes(), 8);
        put(self.origin.boot_id.as_bytes(), BOOT_ID_BYTES);
        put(cut(&self.command, COMMAND_BYTES).as_bytes(), COMMAND_BYTES);
        let digest = Digest::of(&bytes[..SEALED]);
        bytes[SEALED..].copy_from_slice(digest.as_bytes());
        bytes
    }

    /// Reads a header from the beginning of `bytes`; more may follow.
    ///
    /// The architecture is not compared: an image of another one can be listed, verified and exported.
    /// [`Header::require_architecture`] compares it.
    ///
    /// # Errors
    /// [`NotAnImage`](Error::NotAnImage), [`CutShort`](Error::CutShort), [`Damaged`](Error::Damaged) if the header's
    /// own digest is not right, and only when it is: [`TooNew`](Error::TooNew),
    /// [`UnknownFeatures`](Error::UnknownFeatures), [`TooLarge`](Error::TooLarge).
    pub fn decode(bytes: &[u8]) -> Result<Self, Error> {
        let begin = bytes.len().min(MAGIC.len());
        if bytes[..begin] != MAGIC[..begin] {
            return Err(Error::NotAnImage);
        }
        let Some(bytes) = bytes.first_chunk::<{ Self::LEN_BYTES }>() else {
            return Err(Error::CutShort {
                what: WHAT,
                expected_bytes: Self::LEN_BYTES as u64,
                found_bytes: bytes.len() as u64,
            });
        };
        if Digest::of(&bytes[..SEALED]).as_bytes() != &bytes[SEALED..] {
            return Err(Error::damaged(WHAT, "its digest is not that of its bytes"));
        }
        let mut fields = Fields { bytes, at: MAGIC.len() };
        let format = fields.u32();
        fields.u32();
        // A later version keeps the place of what stands above and of the digest, and of nothing else.
        if format > FORMAT {
            return Err(Error::TooNew { found: format, known: FORMAT });
        }
        if format == 0 {
            return Err(Error::damaged(WHAT, "there is no format version 0"));
        }
        let features_needed = fields.u64();
        if features_needed & !KNOWN_FEATURES != 0 {
            return Err(Error::UnknownFeatures { bits: features_needed & !KNOWN_FEATURES });
        }
        fields.header(format, features_needed)
    }

    /// Compares the architecture with that of this machine.
    ///
    /// # Errors
    /// [`Error::OtherArchitecture`].
    pub fn require_architecture(&self, host: &str) -> Result<(), Error> {
        if self.architecture == host {
            Ok(())
        } else {
            Err(Error::OtherArchitecture { found: self.architecture.clone(), host: host.to_owned() })
        }
    }
}

impl Then {
    const fn code(self) -> u32 {
        match self {
            Self::End => 0,
            Self::GoOn => 1,
        }
    }
}

/// Reads the fields of a header one after another; their widths are constants, so none reaches beyond the end.
struct Fields<'a> {
    bytes: &'a [u8; Header::LEN_BYTES],
    at: usize,
}

impl Fields<'_> {
    fn take<const N: usize>(&mut self) -> [u8; N] {
        let mut field = [0; N];
        field.copy_from_slice(&self.bytes[self.at..self.at + N]);
        self.at += N;
        field
    }

    fn u32(&mut self) -> u32 {
        u32::from_le_bytes(self.take())
    }

    fn u64(&mut self) -> u64 {
        u64::from_le_bytes(self.take())
    }

    /// A text up to the first zero; only zeros may follow it.
    fn text<const N: usize>(&mut self, field: &'static str) -> Result<String, Error> {
        let bytes = self.take::<N>();
        let len = bytes.iter().position(|byte| *byte == 0).unwrap_or(N);
        let text = std::str::from_utf8(&bytes[..len]).ok();
        let padded = bytes[len..].iter().all(|byte| *byte == 0);
        match text {
            Some(text) if padded => Ok(text.to_owned()),
            _ => Err(Error::damaged(WHAT, format!("its {field} is no text"))),
        }
    }

    fn header(mut self, format: u32, features_needed: u64) -> Result<Header, Error> {
        let features_optional = self.u64();
        let architecture = self.text::<16>("architecture")?;
        let manifest_bytes = self.u64();
        bounded("manifest", manifest_bytes, MANIFEST_LIMIT_BYTES)?;
        let manifest_digest = Digest::new(self.take());
        let table_bytes = self.u64();
        let len_bytes = self.u64();
        let pack =
            PackRef { root: Digest::new(self.take()), len_bytes, blocks: Blocks::count_for(len_bytes) };
        bounded("pack", len_bytes, PACK_LIMIT_BYTES)?;
        if table_bytes != pack.blocks * Digest::LEN_BYTES as u64 {
            return Err(Error::damaged(WHAT, "the lengths of pack and block table do not fit together"));
        }
        let name = self.text::<{ Name::MAX_BYTES }>("name")?;
        let name = Name::new(&name).map_err(|rule| Error::damaged(WHAT, rule.to_string()))?;
        let version = self.u32();
        if version == 0 {
            return Err(Error::damaged(WHAT, "there is no version 0 of an image"));
        }
        let processes = self.u32();
        let threads = self.u32();
        let uid = self.u32();
        let sec = self.u64().cast_signed();
        let nsec = i64::from(self.u32());
        let then = match self.u32() {
            0 => Then::End,
            1 => Then::GoOn,
            _ => return Err(Error::damaged(WHAT, "it does not say what became of the program")),
        };
        let pid = self.u32().cast_signed();
        self.u32();
        let origin = Instance {
            pid,
            start_time: self.u64(),
            pid_namespace: self.u64(),
            boot_id: self.text::<BOOT_ID_BYTES>("boot id")?,
        };
        let command = self.text::<COMMAND_BYTES>("command")?;
        Ok(Header {
            format,
            features_needed,
            features_optional,
            architecture,
            manifest_bytes,
            manifest_digest,
            pack,
            id: ImageId { name, version },
            processes,
            threads,
            uid,
            created: Timespec { sec, nsec },
            then,
            origin,
            command,
        })
    }
}

fn bounded(what: &'static str, found_bytes: u64, limit_bytes: u64) -> Result<(), Error> {
    if found_bytes > limit_bytes { Err(Error::TooLarge { what, found_bytes, limit_bytes }) } else { Ok(()) }
}

/// What a reader must know because of what is in a checkpoint.
pub(crate) fn features(checkpoint: &Checkpoint) -> u64 {
    match &checkpoint.machine {
        Some(machine) if !machine.memory.changed.is_empty() => FEATURE_MACHINE | FEATURE_MACHINE_CHANGED,
        Some(_) => FEATURE_MACHINE,
        None if has_areas(checkpoint) => FEATURE_SPARSE_AREAS,
        None => 0,
    }
}

fn has_areas(checkpoint: &Checkpoint) -> bool {
    let mut threads = checkpoint.processes.iter().flat_map(|process| &process.cpu.threads);
    threads.any(|thread| !thread.xstate.is_empty())
}

fn command_of(checkpoint: &Checkpoint) -> String {
    let arguments = |arguments: &[BytePath]| arguments.iter().map(ToString::to_string).collect();
    let parts: Vec<_> = match (&checkpoint.machine, checkpoint.processes.first()) {
        (Some(Machine { guest: Some(guest), .. }), _) => arguments(&guest.command),
        (Some(machine), _) => arguments(&machine.arguments),
        (None, Some(root)) if root.pd.arguments.is_empty() => vec![root.pd.command.to_string()],
        (None, Some(root)) => arguments(&root.pd.arguments),
        (None, None) => return String::new(),
    };
    // A zero would end the field, and whoever lists images prints this.
    let line: String = parts.join(" ").chars().map(|c| if c.is_control() { ' ' } else { c }).collect();
    cut(&line, COMMAND_BYTES).to_owned()
}

/// The longest beginning of `text` of at most `limit` bytes.
fn cut(text: &str, limit: usize) -> &str {
    let mut end = text.len().min(limit);
    while !text.is_char_boundary(end) {
        end -= 1;
    }
    &text[..end]
}
