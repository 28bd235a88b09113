//! Frames the records of a checkpoint: the manifest file of an image.
//!
//! A manifest file is a [`Header`] of fixed size, which can be read without decoding the rest, then the
//! [`Manifest`] in deterministic CBOR, then the [`Blocks`] of the pack, one digest for every 64 KiB. The pack
//! itself, the raw pages, is a file beside it that this crate never touches: it makes no system call.
//!
//! All bytes are hostile. A length is compared with what is there before anything is allocated by it; digests
//! are compared before decoding; and [`Checkpoint::validate`](frost_model::Checkpoint::validate) is part of
//! decoding, so that a decoded checkpoint can be obeyed. Digests find damage, not malice: whoever can write the
//! file can also compute them.
//!
//! "Too new", "another architecture", "damaged" and "cut short" are different [errors](Error): a header says
//! what it needs before it is believed in anything else, and its own digest says whether it may be believed.
//!
//! The format is specified in `docs/image.md`.
#![forbid(unsafe_code)]

mod blocks;
mod digest;
mod error;
mod header;
mod manifest;
mod name;
mod seek;

pub use blocks::{BLOCK_BYTES, Blocks, Tree};
pub use digest::Digest;
pub use error::Error;
pub use header::{Header, Instance, PACK_LIMIT_BYTES, PackRef, Then};
pub use manifest::{MANIFEST_LIMIT_BYTES, Manifest, Parent, decode, encode};
pub use name::{ImageId, Name, NameError};
pub use seek::{COMPRESSED_LIMIT_BYTES, FRAME_BYTES, SeekTable};

/// The version of the image format that is written, and the newest that is read.
pub const FORMAT: u32 = 1;

/// A feature: the pack also has what earlier versions of the image have written, which may be gone. Only blocks that the
/// checkpoint refers to can be verified.
pub const PARTIAL_PACK: u64 = 1 << 0;

/// A feature: it is of a virtual machine, and whoever knows processes only cannot thaw it.
pub const FEATURE_MACHINE: u64 = 1 << 1;

/// A feature: a virtual machine's memory is not all at the beginning of the pack; some of it has changed since.
pub const FEATURE_MACHINE_CHANGED: u64 = 1 << 2;

/// A feature: xsave areas are without what is zero in them.
pub const FEATURE_SPARSE_AREAS: u64 = 1 << 3;

/// The features that this version knows.
pub const KNOWN_FEATURES: u64 =
    PARTIAL_PACK | FEATURE_MACHINE | FEATURE_MACHINE_CHANGED | FEATURE_SPARSE_AREAS;
