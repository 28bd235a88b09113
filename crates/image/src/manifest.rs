//! The manifest: all of an image but its pages.

use crate::blocks::Blocks;
use crate::digest::Digest;
use crate::error::Error;
use crate::header::features;
use crate::header::{Header, PackRef};
use crate::{FEATURE_MACHINE, FEATURE_MACHINE_CHANGED};
use frost_model::Checkpoint;
use serde::{Deserialize, Serialize};

/// The longest manifest that is accepted. A program of 2,000 threads and 64 GiB in 4 KiB pieces stays below it.
pub const MANIFEST_LIMIT_BYTES: u64 = 1 << 30;

/// How deep values of a manifest may lie in each other; those that are written lie less than half as deep.
const DEPTH_LIMIT: usize = 64;

const WHAT: &str = "manifest";

/// All of an image but its pages: what it refers to, and the checkpoint.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Manifest {
    /// The packs that its pages lie in; exactly one in this version.
    pub packs: Vec<PackRef>,
    /// The image this one holds only the differences to; none in this version.
    pub parent: Option<Parent>,
    /// The program.
    pub checkpoint: Checkpoint,
}

/// The image that another one holds only the differences to.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Parent {
    /// The digest of its manifest.
    pub manifest: Digest,
}

/// The manifest as it is written, without a copy of the checkpoint.
#[derive(Serialize)]
struct ManifestRef<'a> {
    packs: [PackRef; 1],
    parent: Option<Parent>,
    checkpoint: &'a Checkpoint,
}

/// Writes a manifest file: header, manifest, block table.
///
/// The lengths and digests of `header` are set to those of what is written, also in the header given.
/// The same arguments give the same bytes. Nothing is checked here: a freezer calls [`Checkpoint::validate`] before.
///
/// # Errors
/// [`Error::TooLarge`] if no version of frost would read the manifest.
pub fn encode(header: &mut Header, checkpoint: &Checkpoint, blocks: &Blocks) -> Result<Vec<u8>, Error> {
    let pack = PackRef::of(blocks);
    let mut bytes = vec![0; Header::LEN_BYTES];
    ciborium::into_writer(&ManifestRef { packs: [pack], parent: None, checkpoint }, &mut bytes)
        .map_err(|error| Error::damaged(WHAT, error.to_string()))?;
    let manifest_bytes = (bytes.len() - Header::LEN_BYTES) as u64;
    if manifest_bytes > MANIFEST_LIMIT_BYTES {
        return Err(Error::TooLarge {
            what: WHAT,
            found_bytes: manifest_bytes,
            limit_bytes: MANIFEST_LIMIT_BYTES,
        });
    }
    header.manifest_bytes = manifest_bytes;
    header.manifest_digest = Digest::of(&bytes[Header::LEN_BYTES..]);
    header.pack = pack;
    bytes.extend_from_slice(&blocks.encode());
    bytes[..Header::LEN_BYTES].copy_from_slice(&header.encode());
    Ok(bytes)
}

/// Decodes the manifest that `header` describes, and validates the checkpoint in it.
///
/// `bytes` is the manifest alone, without header and block table.
///
/// # Errors
/// [`CutShort`](Error::CutShort) and [`Damaged`](Error::Damaged) if these are not the bytes that the header
/// describes; [`Malformed`](Error::Malformed) if they are, and cannot be obeyed.
pub fn decode(header: &Header, bytes: &[u8]) -> Result<Manifest, Error> {
    let found_bytes = bytes.len() as u64;
    if found_bytes < header.manifest_bytes {
        return Err(Error::CutShort { what: WHAT, expected_bytes: header.manifest_bytes, found_bytes });
    }
    if found_bytes > header.manifest_bytes {
        return Err(Error::damaged(WHAT, "it is longer than the header says"));
    }
    if Digest::of(bytes) != header.manifest_digest {
        return Err(Error::damaged(WHAT, "its digest is not the one in the header"));
    }
    let mut rest = bytes;
    // An announced count allocates nothing: serde reserves at most 1 MiB ahead of what was really read
    // (serde_core, private/size_hint.rs), and ciborium grows byte strings as they come, 4 KiB at a time.
    let manifest: Manifest = ciborium::de::from_reader_with_recursion_limit(&mut rest, DEPTH_LIMIT)
        .map_err(|error| Error::damaged(WHAT, error.to_string()))?;
    if !rest.is_empty() {
        return Err(Error::damaged(WHAT, "bytes follow its end"));
    }
    if manifest.packs != [header.pack] {
        return Err(Error::damaged(WHAT, "it names another pack than the header"));
    }
    if manifest.parent.is_some() {
        return Err(Error::damaged(WHAT, "it has a parent, and the header needs no feature for that"));
    }
    let of_content = FEATURE_MACHINE | FEATURE_MACHINE_CHANGED;
    if features(&manifest.checkpoint) & of_content != header.features_needed & of_content {
        return Err(Error::damaged(
            WHAT,
            "it is of a virtual machine, and the header does not say so, or the reverse",
        ));
    }
    if manifest.checkpoint.host.architecture != header.architecture {
        return Err(Error::damaged(WHAT, "it names another architecture than the header"));
    }
    manifest.checkpoint.validate(header.pack.len_bytes)?;
    Ok(manifest)
}
