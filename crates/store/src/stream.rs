//! An image as one stream of bytes, for a file or a pipe.
//!
//! The stream is: 16 bytes of magic and version; the manifest file; the frames of the pack, each 1 MiB compressed
//! behind its length in 4 bytes; the BLAKE3 of all bytes before. It is written and read in one pass with little
//! memory, and nothing of it is visible in the store before all of it was verified.

use crate::draft::{Committed, Place};
use crate::error::{Error, Result};
use crate::frame::{FrameDecoder, FrameEncoder, PackReader, RawWriter};
use crate::image::{Live, PackBlocks, open_manifest, read_blocks, read_live, read_part};
use crate::root::{PACK, fault};
use crate::store::Store;
use frost_image::{Blocks, COMPRESSED_LIMIT_BYTES, Digest, Header, ImageId, Name, SeekTable, decode};
use frost_model::steps::Steps;
use rustix::fd::AsFd;
use rustix::fs;
use std::io::{ErrorKind, Read, Write};
use std::path::Path;

const MAGIC: [u8; 8] = *b"\x89FROSTS\n";
const VERSION: u32 = 1;

/// Magic, version, and four zeros.
const START: usize = 16;

/// How hard frames are compressed for a stream: zstd level 1 is faster than most networks.
const LEVEL: i32 = 1;

/// The highest version that an import keeps.
const VERSION_LIMIT: u32 = 1 << 31;

/// What an import made.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Imported {
    /// The name and version it was exported as.
    pub exported: ImageId,
    /// What it is here. The version differs if the name has that version, or had it.
    pub committed: Committed,
}

impl Store {
    /// Writes an image as one stream; every byte of the pack is verified on the way.
    ///
    /// # Errors
    /// [`Error::Io`] if `out` fails, its path being `output`: a closed pipe is `BrokenPipe` in its source.
    /// [`Error::BlockDamaged`] if the image is damaged; what was written by then cannot be imported.
    pub fn export(&self, id: &ImageId, out: &mut dyn Write) -> Result<()> {
        let (manifest, header) = open_manifest(&self.root, id)?;
        let mut reader = PackReader::open(&self.root, &header)?;
        let table = read_blocks(&self.root, &header, &manifest)?;
        let live = read_live(&self.root, &header, &manifest)?;
        let bytes = read_part(&self.root, id, &manifest, 0, header.file_bytes())?;
        let mut out = Hashed::new(out);
        out.write(&MAGIC)?;
        out.write(&VERSION.to_le_bytes())?;
        out.write(&[0; 4])?;
        out.write(&bytes)?;
        let blocks = PackBlocks::new(table, reader.path().to_owned(), live);
        let mut encoder = FrameEncoder::new(LEVEL).map_err(output)?;
        for index in 0..reader.frames() {
            // What other versions have in the pack is nobody's business: it comes as zeros.
            let frame = encoder.encode(reader.frame(index, &blocks)?).map_err(output)?;
            out.write(&(frame.len() as u32).to_le_bytes())?;
            out.write(frame)?;
            self.root.report(SeekTable::held(index, header.pack.len_bytes).end, header.pack.len_bytes);
        }
        out.finish()
    }

    /// Reads an image from a stream, to its end, and makes it the next version of its name, or of `name`.
    ///
    /// The version it had is kept if the name had neither that one nor a later one here. Sizes in the stream are
    /// claims: they are compared with limits and with the space that is free, and memory grows with what was read.
    ///
    /// # Errors
    /// [`Error::Image`], its path being `input`, if the stream is cut short, damaged, too new, or no image;
    /// [`Error::Io`] if `input` fails; [`Error::NoSpace`]. There is no new image then.
    pub fn import(&self, input: &mut dyn Read, name: Option<&Name>) -> Result<Imported> {
        let mut steps = Steps::start();
        let mut input = Hashed::new(input);
        let start = input.upto(START as u64)?;
        // What is short and begins otherwise was never an image.
        let begin = start.len().min(MAGIC.len());
        if start[..begin] != MAGIC[..begin] {
            return Err(bad(frost_image::Error::NotAnImage));
        }
        let start: [u8; START] =
            start.try_into().map_err(|start: Vec<u8>| cut("stream", START as u64, &start))?;
        match u32::from_le_bytes([start[8], start[9], start[10], start[11]]) {
            VERSION => {}
            0 => return Err(damaged("stream", "there is no stream version 0")),
            found => return Err(bad(frost_image::Error::TooNew { found, known: VERSION })),
        }
        let mut bytes = input.take("header", Header::LEN_BYTES as u64)?;
        let mut header = Header::decode(&bytes).map_err(bad)?;
        bytes.append(&mut input.take("manifest", header.manifest_bytes)?);
        let manifest = decode(&header, &bytes[Header::LEN_BYTES..]).map_err(bad)?;
        let pack_bytes = header.pack.len_bytes;
        let live = Live::of(&header, &manifest.checkpoint).map_err(|malformed| bad(malformed.into()))?;
        drop(manifest);

        let exported = header.id.clone();
        if let Some(name) = name {
            header.id.name = name.clone();
        }
        // A version near the end of all numbers would leave none for those to come.
        if header.id.version > VERSION_LIMIT {
            header.id.version = 1;
        }
        let place = Place::new(&self.root, "import", &header.id.name)?;
        let (file, path) = (place.create(PACK)?, place.show(PACK));
        let mut table = input.take("block table", header.table_bytes())?;
        let blocks = Blocks::decode(&table, pack_bytes, &header.pack.root).map_err(bad)?;
        bytes.append(&mut table);

        let writer = RawWriter::new(file.as_fd(), &path, pack_bytes)?;
        let digests = PackBlocks::new(blocks.clone(), INPUT.into(), live);
        let mut decoder = FrameDecoder::new(&path)?;
        for index in 0..SeekTable::count_for(pack_bytes) {
            let held = SeekTable::held(index, pack_bytes);
            let len = u64::from(u32::from_le_bytes(input.array("pack")?));
            if len > COMPRESSED_LIMIT_BYTES {
                return Err(digests.frame_error(Path::new(INPUT), held));
            }
            let frame = input.take("pack", len)?;
            let first = held.start / frost_image::BLOCK_BYTES;
            let Some(raw) = decoder.decode(&frame, (held.end - held.start) as usize) else {
                return Err(digests.frame_error(Path::new(INPUT), held));
            };
            digests.verify_frame(Path::new(INPUT), first, raw)?;
            digests.clear_dead(first, raw);
            writer.write(raw, held.start)?;
            self.root.report(held.end, pack_bytes);
        }
        input.finish()?;
        steps.end("store.receive");
        let sync = || {
            fault("store.import.sync", &path, pack_bytes)?;
            fs::fdatasync(&file)
                .map_err(|errno| Error::write(&path, errno, pack_bytes, || self.root.free_bytes()))
        };
        let committed = place.publish(header, bytes, &blocks, sync, steps)?;
        Ok(Imported { exported, committed })
    }
}

const INPUT: &str = "the stream";

fn bad(source: frost_image::Error) -> Error {
    Error::Image { path: INPUT.into(), source }
}

fn damaged(what: &'static str, why: &str) -> Error {
    bad(frost_image::Error::Damaged { what, why: why.to_owned() })
}

fn cut(what: &'static str, expected_bytes: u64, found: &[u8]) -> Error {
    bad(frost_image::Error::CutShort { what, expected_bytes, found_bytes: found.len() as u64 })
}

fn output(source: std::io::Error) -> Error {
    Error::io("write", Path::new("output"), source)
}

/// One end of a stream, hashing what passes.
struct Hashed<T> {
    end: T,
    hasher: blake3::Hasher,
}

impl<T> Hashed<T> {
    fn new(end: T) -> Self {
        Self { end, hasher: blake3::Hasher::new() }
    }
}

impl Hashed<&mut dyn Write> {
    fn write(&mut self, bytes: &[u8]) -> Result<()> {
        self.hasher.update(bytes);
        self.end.write_all(bytes).map_err(output)
    }

    fn finish(self) -> Result<()> {
        let digest = self.hasher.finalize();
        self.end.write_all(digest.as_bytes()).map_err(output)?;
        self.end.flush().map_err(output)
    }
}

impl Hashed<&mut dyn Read> {
    /// Reads `len_bytes`.
    fn take(&mut self, what: &'static str, len_bytes: u64) -> Result<Vec<u8>> {
        let bytes = self.upto(len_bytes)?;
        if (bytes.len() as u64) < len_bytes { Err(cut(what, len_bytes, &bytes)) } else { Ok(bytes) }
    }

    /// Reads `len_bytes`, or less if the stream ends; memory grows as they come.
    fn upto(&mut self, len_bytes: u64) -> Result<Vec<u8>> {
        let mut bytes = Vec::new();
        (&mut *self.end)
            .take(len_bytes)
            .read_to_end(&mut bytes)
            .map_err(|source| Error::io("read", Path::new(INPUT), source))?;
        self.hasher.update(&bytes);
        Ok(bytes)
    }

    fn array<const N: usize>(&mut self, what: &'static str) -> Result<[u8; N]> {
        let mut array = [0; N];
        array.copy_from_slice(&self.take(what, N as u64)?);
        Ok(array)
    }

    /// Reads the digest of all that was read, and then the end.
    fn finish(mut self) -> Result<()> {
        let expected = Digest::new(*self.hasher.finalize().as_bytes());
        let found = Digest::new(self.array("stream")?);
        if found != expected {
            return Err(damaged("stream", "its digest is not that of its bytes"));
        }
        loop {
            match self.end.read(&mut [0]) {
                Ok(0) => return Ok(()),
                Ok(_) => return Err(damaged("stream", "bytes follow its end")),
                Err(error) if error.kind() == ErrorKind::Interrupted => {}
                Err(source) => return Err(Error::io("read", Path::new(INPUT), source)),
            }
        }
    }
}
