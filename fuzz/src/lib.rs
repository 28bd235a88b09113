//! Feeds every decoder with bytes that nobody wrote.
//!
//! A [`Target`] is a function of bytes that must return, whatever they are: without a panic, within a second, and
//! within the memory that its input deserves. Where a decoder begins with a digest, the target makes the digest
//! right after the bytes were changed, since whoever changes an image on purpose does so too.
//!
//! `frost-fuzz TARGET --seconds N` mutates seeds and the files below `corpus/TARGET`, on stable Rust, without
//! coverage feedback. The functions have the signature that cargo-fuzz wants, so a coverage-guided run is
//! `fuzz_target!(|data: &[u8]| frost_fuzz::fuzz_header(data))` away.
#![forbid(unsafe_code)]

pub mod mutate;
#[path = "../../crates/image/tests/sample/mod.rs"]
mod sample;

use frost_image::{
    Blocks, Digest, Header, ImageId, Instance, Manifest, Name, SeekTable, Then, Tree, decode, encode,
};
use frost_model::pd::filter::{self, Filter};
use frost_store::{OpenOptions, Store};
use std::sync::OnceLock;

/// One decoder under attack.
pub struct Target {
    /// Its name, and that of its directory below `corpus`.
    pub name: &'static str,
    /// What it does with bytes.
    pub run: fn(&[u8]),
    /// Bytes that it accepts.
    pub seeds: fn() -> Vec<Vec<u8>>,
}

/// All targets.
pub const TARGETS: [Target; 9] = [
    Target { name: "header", run: fuzz_header, seeds: header_seeds },
    Target { name: "manifest", run: fuzz_manifest, seeds: manifest_seeds },
    Target { name: "blocks", run: fuzz_blocks, seeds: blocks_seeds },
    Target { name: "seek", run: fuzz_seek, seeds: seek_seeds },
    Target { name: "import", run: fuzz_import, seeds: import_seeds },
    Target { name: "names", run: fuzz_names, seeds: names_seeds },
    Target { name: "machine", run: fuzz_machine, seeds: machine_seeds },
    Target { name: "guest", run: fuzz_guest, seeds: guest_seeds },
    Target { name: "filters", run: fuzz_filters, seeds: filters_seeds },
];

const HEADER: usize = Header::LEN_BYTES;

/// What an accepted header says is written as it was read.
pub fn fuzz_header(data: &[u8]) {
    for bytes in [data.to_vec(), sealed(data.to_vec(), 0)] {
        if let Ok(header) = Header::decode(&bytes) {
            let _ = header.require_architecture(std::env::consts::ARCH);
            assert!(header.file_bytes() >= HEADER as u64);
            // A feature that may be ignored is kept; nothing else can be lost.
            assert_eq!(Header::decode(&header.encode()), Ok(header));
        }
    }
}

/// What is left of a machine's stream is one itself, without the memory.
pub fn fuzz_machine(data: &[u8]) {
    struct Nowhere(u64);
    impl frost_vm::stream::Pages for Nowhere {
        fn page(&mut self, offset: u64, _: &[u8; 4096]) -> frost_vm::Result<()> {
            assert!(offset + 4096 <= self.0 && offset.is_multiple_of(4096));
            Ok(())
        }
    }
    let take = |data: &[u8]| frost_vm::stream::take_apart(data, "ram", 8192, false, &mut Nowhere(8192));
    if let Ok(rest) = take(data) {
        assert!(take(&rest).is_ok_and(|again| again == rest));
    }
}

fn machine_seeds() -> Vec<Vec<u8>> {
    let mut bytes = b"QEVM\0\0\0\x03\x07\0\0\0\x03q35\x01\0\0\0\x02\x03ram\0\0\0\0\0\0\0\x04".to_vec();
    // Two memories, a page of each, the second by reference to the first; then devices.
    bytes.extend_from_slice(&(12288u64 | 4).to_be_bytes());
    bytes.extend_from_slice(b"\x03ram\0\0\0\0\0\0\x20\0\x04bios\0\0\0\0\0\0\x10\0");
    bytes.extend_from_slice(&(4096u64 | 8).to_be_bytes());
    bytes.extend_from_slice(b"\x03ram");
    bytes.extend_from_slice(&[7; 4096]);
    bytes.extend_from_slice(&(32u64 | 2).to_be_bytes());
    bytes.push(0);
    bytes.extend_from_slice(&8u64.to_be_bytes());
    bytes.extend_from_slice(b"\x04bios");
    bytes.extend_from_slice(&[9; 4096]);
    bytes.extend_from_slice(&16u64.to_be_bytes());
    bytes.extend_from_slice(b"\x7e\0\0\0\x02\x04devices\0");
    vec![bytes]
}

/// What a guest sends is cut into frames, of which none is longer than what came, and nothing else is kept of it.
pub fn fuzz_guest(data: &[u8]) {
    let Ok((mut agent, guest)) = frost_vm::agent::Agent::pair() else { return };
    // Something is on its way that can be acknowledged.
    (0..3).for_each(|_| agent.send(frost_vm::wire::INPUT, b"typed"));
    for part in data.chunks(4096) {
        if rustix::io::write(&guest, part).is_err() {
            return;
        }
        let Ok(frames) = agent.frames() else { return };
        let bytes: usize = frames.iter().map(|frame| 1 + frame.content.len()).sum();
        assert!(bytes <= data.len() && agent.waiting() <= 3);
    }
}

fn guest_seeds() -> Vec<Vec<u8>> {
    use frost_vm::wire::{ACK, END, ESCAPE};
    let acknowledged = [ACK, 1, 1, END, ACK, 1, 2, END, ACK, 0, 0, END];
    let spoken = [b'o', b'o', b'n', ESCAPE, 1, b'e', END, END, b'x', END];
    vec![acknowledged.to_vec(), spoken.to_vec(), [b'o'; 9000].to_vec()]
}

/// Notes of filters are read up to the first that is damaged, and any filter can be followed to its end.
pub fn fuzz_filters(data: &[u8]) {
    let notes = frost_keeper::notes::read(data);
    let bytes: usize = notes.iter().map(|note| 32 + note.code.len()).sum();
    assert!(bytes <= data.len());
    for note in notes {
        let filter = Filter { logs: false, code: note.code };
        // Whatever it answers; that it is sized is what the kernel asks of it first.
        let _ = (filter.is_sized(), filter.allows(11, &[Some(4096), Some(1), None, None, None, None]));
        let _ = filter::installation(&[&filter], u64::from(note.flags));
    }
}

fn filters_seeds() -> Vec<Vec<u8>> {
    let instruction = |code: u16, yes: u8, no: u8, value: u32| -> Vec<u8> {
        [&code.to_le_bytes()[..], &[yes, no], &value.to_le_bytes()].concat()
    };
    // The number of the call; munmap and what has the right first argument is let through, all else is not.
    let code = [
        instruction(0x20, 0, 0, 0),
        instruction(0x15, 3, 0, 11),
        instruction(0x20, 0, 0, 16),
        instruction(0x45, 1, 0, 1),
        instruction(0x06, 0, 0, 0x0005_0001),
        instruction(0x06, 0, 0, 0x7fff_0000),
    ];
    let words = [frost_keeper::protocol::NOTE_MAGIC, 7, 7, 1, 0, 1, code.len() as u32, 0];
    let head: Vec<u8> = words.iter().flat_map(|word| word.to_le_bytes()).collect();
    let note = [head, code.concat()].concat();
    vec![note.clone(), [note.clone(), note].concat()]
}

/// An accepted manifest holds a checkpoint that is valid, and is written again as one that is accepted.
pub fn fuzz_manifest(data: &[u8]) {
    let (mut header, _, blocks) = image();
    header.manifest_bytes = data.len() as u64;
    header.manifest_digest = Digest::of(data);
    if let Ok(manifest) = decode(&header, data) {
        assert!(manifest.checkpoint.validate(header.pack.len_bytes).is_ok());
        let again = encode(&mut header, &manifest.checkpoint, &blocks).unwrap_or_default();
        let bytes = &again[HEADER..][..header.manifest_bytes as usize];
        let again: Option<Manifest> = decode(&header, bytes).ok();
        assert_eq!(again.as_ref(), Some(&manifest));
    }
}

/// A block table is accepted only with the root that it has.
pub fn fuzz_blocks(data: &[u8]) {
    let Some((len, table)) = data.split_first_chunk() else { return };
    let len = u64::from_le_bytes(*len);
    let (_, _, known) = image();
    if let Ok(blocks) = Blocks::decode(table, len, &known.root()) {
        assert_eq!(blocks.root(), known.root());
        assert_eq!(blocks.encode(), table);
    }
    let _ = known.verify(len, table);
    let _ = known.range(len);
}

/// The frames of an accepted seek table lie one after another, and fill the file.
pub fn fuzz_seek(data: &[u8]) {
    let Some((lengths, tail)) = data.split_first_chunk::<16>() else { return };
    let number = |at: usize| u64::from_le_bytes(std::array::from_fn(|index| lengths[at + index]));
    let (file, pack) = (number(0), number(8) % (frost_image::PACK_LIMIT_BYTES + 1));
    if let Ok(table) = SeekTable::decode(tail, file, pack) {
        let mut end = 0;
        for index in 0..SeekTable::count_for(pack) {
            let range = table.range(index).map(|range| (range.start, range.end));
            assert!(range.is_some_and(|(start, after)| start == end && after > end));
            end = range.map_or(end, |(_, after)| after);
        }
        assert!(table.pack_bytes() >= pack && end <= file);
        assert_eq!(table.encode(table.pack_bytes()), tail);
    }
}

/// A stream is imported as a whole, or leaves nothing; what was imported verifies.
pub fn fuzz_import(data: &[u8]) {
    let Some(store) = store() else { return };
    for bytes in [data.to_vec(), resealed_stream(data.to_vec())] {
        if let Ok(imported) = store.import(&mut bytes.as_slice(), None) {
            let id = imported.committed.id;
            assert!(store.verify(&id).is_ok_and(|problems| problems.is_empty()));
            assert!(store.remove_name(&id.name).is_ok());
        }
    }
    assert!(store.list().is_ok_and(|images| images.is_empty()));
}

/// A name is one file name, and is read as it is written.
pub fn fuzz_names(data: &[u8]) {
    let derived = Name::from_command(data);
    assert_eq!(Name::new(derived.as_str()).as_ref(), Ok(&derived));
    let Ok(text) = std::str::from_utf8(data) else { return };
    if let Ok(name) = Name::new(text) {
        let path = std::path::Path::new(name.as_str());
        assert!(path.components().count() == 1 && path.file_name().is_some());
    }
    if let Ok((name, version)) = ImageId::parse_spec(text) {
        let written = match version {
            None => name.to_string(),
            Some(version) => ImageId { name, version }.to_string(),
        };
        assert_eq!(written, text);
    }
}

fn header_seeds() -> Vec<Vec<u8>> {
    vec![image().1[..HEADER].to_vec()]
}

fn manifest_seeds() -> Vec<Vec<u8>> {
    let (header, bytes, _) = image();
    vec![bytes[HEADER..][..header.manifest_bytes as usize].to_vec()]
}

fn blocks_seeds() -> Vec<Vec<u8>> {
    let (_, _, blocks) = image();
    vec![[blocks.len_bytes().to_le_bytes().to_vec(), blocks.encode()].concat()]
}

fn seek_seeds() -> Vec<Vec<u8>> {
    let mut table = SeekTable::new();
    [1000, 1 << 20, 5].iter().for_each(|len| table.push(*len));
    let pack = 2 * frost_image::FRAME_BYTES + 4096;
    let tail = table.encode(pack);
    let file = 1005 + (1 << 20) + tail.len() as u64;
    vec![[&file.to_le_bytes(), &pack.to_le_bytes(), tail.as_slice()].concat()]
}

fn import_seeds() -> Vec<Vec<u8>> {
    let Some(store) = store() else { return Vec::new() };
    let mut stream = Vec::new();
    let name = image().0.id.name;
    let committed = store.begin(&name).and_then(|mut draft| {
        draft.pack().append(&pack())?;
        draft.commit(&sample::checkpoint(), Instance::default(), Then::End)
    });
    let exported = committed.and_then(|committed| store.export(&committed.id, &mut stream));
    let removed = store.remove_name(&name);
    if exported.is_ok() && removed.is_ok() { vec![stream] } else { Vec::new() }
}

fn names_seeds() -> Vec<Vec<u8>> {
    ["web", "web@2", "a.b_c-d@4294967295", "12", "-x", "x@0", "../x"]
        .map(|text| text.as_bytes().to_vec())
        .into()
}

/// Two blocks and a bit.
fn pack() -> Vec<u8> {
    (0..140_000u32).map(|at| (at / 700) as u8).collect()
}

/// A header, its manifest file and its blocks.
fn image() -> (Header, Vec<u8>, Blocks) {
    static IMAGE: OnceLock<(Header, Vec<u8>, Blocks)> = OnceLock::new();
    let make = || {
        let mut tree = Tree::new();
        tree.push(&pack());
        let blocks = tree.finish();
        let id = ImageId { name: Name::from_command(b"web"), version: 3 };
        let mut header = Header::describe(id, &sample::checkpoint(), Instance::default(), Then::End);
        let bytes = encode(&mut header, &sample::checkpoint(), &blocks).unwrap_or_default();
        (header, bytes, blocks)
    };
    IMAGE.get_or_init(make).clone()
}

/// A store that goes with this process.
fn store() -> Option<&'static Store> {
    static STORE: OnceLock<Option<(tempfile::TempDir, Store)>> = OnceLock::new();
    let make = || {
        // In memory if that can be: each import syncs what it wrote.
        let dir = tempfile::tempdir_in("/dev/shm").or_else(|_| tempfile::tempdir()).ok()?;
        let store = Store::open(&OpenOptions { root: dir.path().to_owned(), trust_owner: false }).ok()?;
        Some((dir, store))
    };
    STORE.get_or_init(make).as_ref().map(|(_, store)| store)
}

/// Makes the digest of a header right that lies at `at`, if there is room for one.
fn sealed(mut bytes: Vec<u8>, at: usize) -> Vec<u8> {
    if let Some(header) = bytes.get_mut(at..).and_then(|rest| rest.first_chunk_mut::<HEADER>()) {
        let (fields, digest) = header.split_at_mut(HEADER - Digest::LEN_BYTES);
        digest.copy_from_slice(Digest::of(fields).as_bytes());
    }
    bytes
}

/// Makes all digests of a stream right that somebody who forges one could make right.
fn resealed_stream(mut bytes: Vec<u8>) -> Vec<u8> {
    const START: usize = 16;
    bytes = sealed(bytes, START);
    if let Some(Ok(header)) = bytes.get(START..).map(Header::decode) {
        let manifest = START + HEADER;
        let end = manifest.saturating_add(usize::try_from(header.manifest_bytes).unwrap_or(usize::MAX));
        if let Some(digest) = bytes.get(manifest..end).map(Digest::of) {
            bytes[START + 56..][..Digest::LEN_BYTES].copy_from_slice(digest.as_bytes());
        }
        bytes = sealed(bytes, START);
    }
    if let Some(end) = bytes.len().checked_sub(Digest::LEN_BYTES) {
        let digest = Digest::of(&bytes[..end]);
        bytes[end..].copy_from_slice(digest.as_bytes());
    }
    bytes
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn seeds_are_accepted_and_mutations_do_no_harm() {
        for target in &TARGETS {
            let seeds = (target.seeds)();
            assert!(!seeds.is_empty(), "{}", target.name);
            let mut mutator = mutate::Mutator::new(1, seeds.clone());
            seeds.iter().for_each(|seed| (target.run)(seed));
            for _ in 0..200 {
                (target.run)(&mutator.next_input());
            }
        }
    }

    #[test]
    fn what_crashed_once_does_not_again() {
        for target in &TARGETS {
            mutate::corpus(target.name).iter().for_each(|input| (target.run)(input));
        }
    }

    #[test]
    fn seeds_are_not_refused_at_the_door() {
        let (header, manifest) = (&header_seeds()[0], &manifest_seeds()[0]);
        assert!(Header::decode(header).is_ok_and(|header| decode(&header, manifest).is_ok()));
        let seek = &seek_seeds()[0];
        assert!(SeekTable::decode(&seek[16..], 1005 + (1 << 20) + 41, 2 * (1 << 20) + 4096).is_ok());
        let Some(store) = store() else { return };
        let imported = store.import(&mut import_seeds()[0].as_slice(), None);
        assert!(imported.is_ok_and(|imported| store.remove_name(&imported.committed.id.name).is_ok()));
    }
}
