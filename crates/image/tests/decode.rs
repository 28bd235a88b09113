//! What is written is read; what was changed, cut or made up is refused, and by the right name.
#![allow(clippy::unwrap_used, reason = "this is a test")]

mod sample;

use frost_image::{
    Blocks, Digest, Error, FEATURE_MACHINE, FEATURE_MACHINE_CHANGED, FORMAT, Header, ImageId, Instance,
    MANIFEST_LIMIT_BYTES, Manifest, Name, PACK_LIMIT_BYTES, Then, Tree, decode, encode,
};
use frost_model::bundle::Bundled;
use frost_model::cap::{Ipc, MessageQueue, QueuedMessage, Segment, SemaphoreSet, SemaphoreUndo};
use frost_model::host::Runtime;
use frost_model::layer::{Node, Written};
use frost_model::machine::{Changed, Extent};
use frost_model::nest::{Nest, NestNumber};
use frost_model::network::{Address, Network, Setting};
use frost_model::ram::{MemoryPolicy, Pages, Run};
use frost_model::rm::Attachment;
use frost_model::{BytePath, Checkpoint, ObjectId, Pid};
use proptest::prelude::*;

/// A manifest file and its header.
fn written(checkpoint: &Checkpoint, pack_bytes: u64) -> (Header, Vec<u8>) {
    let mut tree = Tree::new();
    tree.push(&vec![7; pack_bytes as usize]);
    let origin = Instance {
        pid: 4127,
        start_time: 812_345,
        pid_namespace: 4_026_531_836,
        boot_id: "11111111-2222-3333-4444-555555555555".to_owned(),
    };
    let id = ImageId { name: Name::new("web").unwrap(), version: 3 };
    let mut header = Header::describe(id, checkpoint, origin, Then::End);
    let bytes = encode(&mut header, checkpoint, &tree.finish()).unwrap();
    (header, bytes)
}

/// Reads a manifest file as the store does.
fn read(file: &[u8]) -> Result<(Header, Manifest, Blocks), Error> {
    let header = Header::decode(file)?;
    let found_bytes = file.len() as u64;
    let expected_bytes = header.file_bytes();
    if found_bytes < expected_bytes {
        return Err(Error::CutShort { what: "manifest file", expected_bytes, found_bytes });
    }
    let (manifest, table) = file[Header::LEN_BYTES..].split_at(header.manifest_bytes as usize);
    let manifest = decode(&header, manifest)?;
    let blocks = Blocks::decode(table, header.pack.len_bytes, &header.pack.root)?;
    Ok((header, manifest, blocks))
}

/// Writes `manifest` behind a header that vouches for it, as somebody with bad intentions would.
fn forged(manifest: &[u8]) -> Result<Manifest, Error> {
    let (mut header, _) = written(&sample::checkpoint(), sample::PACK_BYTES);
    header.manifest_bytes = manifest.len() as u64;
    header.manifest_digest = Digest::of(manifest);
    decode(&Header::decode(&header.encode()).unwrap(), manifest)
}

#[test]
fn what_is_written_is_read() {
    let checkpoint = sample::checkpoint();
    let (header, bytes) = written(&checkpoint, 300_000);
    let (read_header, manifest, blocks) = read(&bytes).unwrap();
    assert_eq!(read_header, header);
    assert_eq!(manifest.checkpoint, checkpoint);
    assert_eq!(manifest.packs, [header.pack]);
    assert_eq!(blocks.count(), 5);
    assert_eq!(written(&checkpoint, 300_000).1, bytes, "the same checkpoint gives the same bytes");
}

#[test]
fn every_changed_byte_is_found() {
    let (_, bytes) = written(&sample::checkpoint(), 100_000);
    for at in 0..bytes.len() {
        for bit in [0, 7] {
            let mut changed = bytes.clone();
            changed[at] ^= 1 << bit;
            match read(&changed) {
                Err(Error::Damaged { .. }) => {}
                Err(Error::NotAnImage) if at < 8 => {}
                other => panic!("byte {at}, bit {bit}: {:?}", other.map(drop)),
            }
        }
    }
}

#[test]
fn every_cut_is_found() {
    let (_, bytes) = written(&sample::checkpoint(), 100_000);
    for len in 0..bytes.len() {
        assert!(matches!(read(&bytes[..len]), Err(Error::CutShort { .. })), "{len} bytes");
    }
}

#[test]
fn what_is_no_image_is_called_so() {
    for bytes in
        [b"\x7fELF\x02\x01\x01".as_slice(), b"hello, this is no image", &[0; 600], b"\x89PNG\r\n\x1a\n"]
    {
        assert_eq!(Header::decode(bytes), Err(Error::NotAnImage));
    }
}

/// Changes bytes of a header and makes its digest right again, as a later version of frost would write it.
fn resealed(change: impl FnOnce(&mut [u8])) -> Result<Header, Error> {
    let (header, _) = written(&sample::checkpoint(), sample::PACK_BYTES);
    let mut bytes = header.encode();
    change(&mut bytes[..480]);
    let digest = Digest::of(&bytes[..480]);
    bytes[480..].copy_from_slice(digest.as_bytes());
    Header::decode(&bytes)
}

#[test]
fn too_new_is_not_damaged() {
    let newer = resealed(|header| {
        header[8..12].copy_from_slice(&(FORMAT + 1).to_le_bytes());
        // Whatever a later version means by the rest.
        header[16..].fill(0xff);
    });
    assert_eq!(newer, Err(Error::TooNew { found: FORMAT + 1, known: FORMAT }));
    let needed = resealed(|header| header[16..24].copy_from_slice(&(1u64 << 63 | 1 << 40).to_le_bytes()));
    assert_eq!(needed, Err(Error::UnknownFeatures { bits: 1 << 63 | 1 << 40 }));
    let optional = resealed(|header| header[24..32].fill(0xff)).unwrap();
    assert_eq!(optional.features_optional, u64::MAX, "what may be ignored is");
    assert!(matches!(resealed(|header| header[8] = 0), Err(Error::Damaged { .. })));
}

#[test]
fn another_architecture_is_not_damaged() {
    let header = resealed(|header| header[32..48].copy_from_slice(b"aarch64\0\0\0\0\0\0\0\0\0")).unwrap();
    let error = header.require_architecture("x86_64").unwrap_err();
    assert_eq!(error, Error::OtherArchitecture { found: "aarch64".into(), host: "x86_64".into() });
    header.require_architecture("aarch64").unwrap();
}

#[test]
fn a_header_that_lies_is_refused() {
    let too_large = |result| matches!(result, Err(Error::TooLarge { .. }));
    assert!(too_large(resealed(|header| header[48..56].fill(0xff))), "manifest");
    assert!(too_large(resealed(|header| header[96..104].fill(0xff))), "pack");
    let limits = [(48, MANIFEST_LIMIT_BYTES + 1), (96, PACK_LIMIT_BYTES + 1)];
    for (at, length) in limits {
        assert!(too_large(resealed(|header| header[at..at + 8].copy_from_slice(&length.to_le_bytes()))));
    }
    let damaged = |result| matches!(result, Err(Error::Damaged { .. }));
    assert!(damaged(resealed(|header| header[88] ^= 1)), "block table");
    for name in [b"../../etc/x".as_slice(), b"", b"12", b"-rf", b"a\0b", b"\xff"] {
        let named = resealed(|header| {
            header[136..200].fill(0);
            header[136..136 + name.len()].copy_from_slice(name);
        });
        assert!(damaged(named), "{name:?}");
    }
    assert!(damaged(resealed(|header| header[200..204].fill(0))), "version");
    assert!(damaged(resealed(|header| header[228] = 9)), "what became of it");
}

#[test]
fn enormous_counts_allocate_nothing() {
    let good = {
        let (header, bytes) = written(&sample::checkpoint(), sample::PACK_BYTES);
        bytes[Header::LEN_BYTES..][..header.manifest_bytes as usize].to_vec()
    };
    assert!(forged(&good).is_ok());
    // Every array, map, byte string and text in turn claims 2^63 - 1 elements, and a great number that fits memory.
    let mut claims = 0;
    for (at, byte) in good.iter().enumerate().step_by(3) {
        let (major, count) = (byte >> 5, byte & 31);
        if !(2..=5).contains(&major) || count > 27 {
            continue;
        }
        for claim in [u64::MAX, 1 << 31] {
            let mut bytes = good[..at].to_vec();
            bytes.push(major << 5 | 27);
            bytes.extend(claim.to_be_bytes());
            bytes.extend(&good[at + 1..]);
            // Where the byte was content and not a count the rest may still make sense; and a tuple, whose length
            // the reader knows, is read without regard to the count.
            claims += u32::from(forged(&bytes).is_err());
        }
    }
    assert!(claims > 1000);
    assert!(peak_bytes() < 64 << 20, "{} bytes were needed", peak_bytes());
}

/// The most memory this process ever had.
fn peak_bytes() -> u64 {
    let status = std::fs::read_to_string("/proc/self/status").unwrap();
    let line = status.lines().find_map(|line| line.strip_prefix("VmHWM:")).unwrap();
    line.trim().trim_end_matches(" kB").parse::<u64>().unwrap() * 1024
}

#[test]
fn deep_nesting_does_not_overflow_the_stack() {
    for byte in [0x81, 0xa1, 0xc0, 0x9f, 0xbf] {
        assert!(forged(&vec![byte; 1 << 20]).is_err());
    }
}

#[test]
fn a_checkpoint_that_cannot_be_obeyed_is_refused() {
    let refuse = |change: &dyn Fn(&mut Checkpoint)| {
        let mut checkpoint = sample::checkpoint();
        change(&mut checkpoint);
        let (_, bytes) = written(&checkpoint, sample::PACK_BYTES);
        assert!(matches!(read(&bytes), Err(Error::Malformed { .. })));
    };
    refuse(&|checkpoint| checkpoint.processes.clear());
    refuse(&|checkpoint| checkpoint.processes.swap(0, 1));
    refuse(&|checkpoint| checkpoint.descriptions.truncate(3));
    refuse(&|checkpoint| checkpoint.dataspaces.clear());
    refuse(&|checkpoint| checkpoint.processes[0].rm.regions.reverse());
    refuse(&|checkpoint| checkpoint.dataspaces[0].pages.runs[0].pack_offset = 7 * 4096);
    refuse(&|checkpoint| checkpoint.dataspaces[0].pages.runs[0].len_bytes = u64::MAX - 4095);
    let mut other = sample::checkpoint();
    other.host.architecture = "aarch64".to_owned();
    let (header, _) = written(&other, sample::PACK_BYTES);
    assert_eq!(header.architecture, "aarch64");
}

/// Something that an image brings along.
fn bundled(path: &str, mode: u32, node: Node) -> Bundled {
    let file = Written {
        path: BytePath::new(path),
        mode,
        uid: 0,
        gid: 0,
        modified: Default::default(),
        attributes: Vec::new(),
        node,
    };
    Bundled { file, identity: Default::default(), digest: [0; 32] }
}

#[test]
fn what_is_brought_along_stays_below_its_directory() {
    let directory = |path: &str| bundled(path, 0o040_755, Node::Directory { opaque: false });
    let file = |path: &str| bundled(path, 0o100_644, Node::File { len_bytes: 0, pages: Pages::default() });
    let link = |path: &str| bundled(path, 0o120_777, Node::Symlink(BytePath::new("/etc")));
    let is_read = |bundle: Vec<Bundled>| {
        let checkpoint = Checkpoint { bundle, ..sample::checkpoint() };
        let (_, bytes) = written(&checkpoint, sample::PACK_BYTES);
        match read(&bytes) {
            Ok(_) => true,
            Err(Error::Malformed { .. }) => false,
            Err(error) => panic!("{error}"),
        }
    };
    assert!(is_read(vec![directory(""), directory("usr"), file("usr/a"), link("usr/b")]));
    for bundle in [
        vec![directory("usr")],
        vec![directory(""), file("usr/a")],
        vec![directory(""), file("../a")],
        vec![directory(""), file("/a")],
        vec![directory(""), directory(".."), file("../a")],
        vec![directory(""), directory("a/"), file("a//b")],
        vec![directory(""), file("a\0b")],
        // Through a link it would be made elsewhere.
        vec![directory(""), link("a"), file("a/passwd")],
        vec![directory(""), link("a"), directory("a"), file("a/passwd")],
        vec![directory(""), file("b"), file("a")],
        vec![directory(""), bundled("a", 0o100_644, Node::Link(0))],
        vec![directory(""), bundled("a", 0o020_666, Node::Removed)],
        vec![directory(""), bundled("a", 0o104_755, Node::Directory { opaque: false })],
        vec![file("")],
    ] {
        assert!(!is_read(bundle.clone()), "{bundle:?}");
    }
    let run = Run { offset: 0, len_bytes: 4096, pack_offset: sample::PACK_BYTES };
    let pages = Pages { runs: vec![run] };
    let beyond = bundled("a", 0o100_644, Node::File { len_bytes: 4096, pages });
    assert!(!is_read(vec![directory(""), beyond]));
}

#[test]
fn a_nest_has_all_that_lives_below_its_keeper_and_nothing_else() {
    let number = |outer, inner| NestNumber { outer: Pid::new(outer), inner: Pid::new(inner) };
    let nest = |keeper, numbers: &[NestNumber]| Nest {
        keeper: Pid::new(keeper),
        user: true,
        numbers: numbers.to_vec(),
        ptys: Vec::new(),
        console: None,
    };
    // Process 100 has made keeper 103, and that 104.
    let is_read = |nests: Vec<Nest>| {
        let mut checkpoint = Checkpoint { nests, ..sample::checkpoint() };
        checkpoint.host.runtime = Some(Runtime::default());
        for (pid, parent) in [(103, 100), (104, 103)] {
            let mut process = checkpoint.processes[0].clone();
            process.pd.relation.pid = Pid::new(pid);
            process.pd.relation.parent = Some(Pid::new(parent));
            process.cpu.threads.truncate(1);
            process.cpu.threads[0].tid = Pid::new(pid).into();
            checkpoint.processes.push(process);
        }
        let (_, bytes) = written(&checkpoint, sample::PACK_BYTES);
        match read(&bytes) {
            Ok(_) => true,
            Err(Error::Malformed { .. }) => false,
            Err(error) => panic!("{error}"),
        }
    };
    let both = [number(103, 1), number(104, 2)];
    assert!(is_read(Vec::new()));
    assert!(is_read(vec![nest(103, &both)]));
    // The number of a session whose leader has ended.
    assert!(is_read(vec![nest(103, &[number(90, 7), both[0], both[1]])]));
    for wrong in [
        vec![nest(103, &both[..1])],
        vec![nest(103, &[both[1], both[0]])],
        vec![nest(103, &[number(103, 2), number(104, 1)])],
        vec![nest(103, &[number(103, 1), number(104, 1)])],
        vec![nest(103, &[number(103, 1), number(104, -2)])],
        vec![nest(103, &[number(101, 3), both[0], both[1]])],
        vec![nest(100, &[number(100, 1), number(101, 2), number(102, 3), both[0], both[1]])],
        vec![nest(103, &both), nest(104, &[number(104, 1)])],
        vec![nest(105, &both)],
        vec![Nest { ptys: vec![ObjectId::new(0)], ..nest(103, &both) }],
        vec![Nest { console: Some(BytePath::new("dev/pts/0")), ..nest(103, &both) }],
        vec![Nest { console: Some(BytePath::new("/dev/../0")), ..nest(103, &both) }],
    ] {
        assert!(!is_read(wrong.clone()), "{wrong:?}");
    }
}

#[test]
fn a_network_has_addresses_and_settings_that_lead_nowhere_else() {
    let is_read = |network: Network| {
        let mut checkpoint = sample::checkpoint();
        checkpoint.host.runtime = Some(Runtime { network: Some(network), ..Default::default() });
        let (_, bytes) = written(&checkpoint, sample::PACK_BYTES);
        match read(&bytes) {
            Ok(_) => true,
            Err(Error::Malformed { .. }) => false,
            Err(error) => panic!("{error}"),
        }
    };
    let setting = |name: &str| Setting { name: name.to_owned(), value: b"1".to_vec() };
    let with = |names: &[&str]| Network {
        settings: names.iter().map(|name| setting(name)).collect(),
        ..Network::default()
    };
    assert!(is_read(with(&["core/somaxconn", "ipv4/ip_forward"])));
    for name in ["", "/etc/passwd", "../kernel/core_pattern", "ipv4/../../kernel/x", "a//b", "a/./b", "a\0"] {
        assert!(!is_read(with(&[name])), "{name}");
    }
    assert!(!is_read(with(&["b", "a"])));
    assert!(!is_read(with(&["a", "a"])));
    let address = |len: usize, prefix| Address { bytes: vec![1; len], prefix, scope: 0 };
    let at = |address| Network { addresses: vec![address], ..Network::default() };
    assert!(is_read(at(address(4, 32))) && is_read(at(address(16, 128))));
    assert!(!is_read(at(address(4, 33))) && !is_read(at(address(5, 8))) && !is_read(at(address(16, 129))));
}

/// With one object of System V of each kind, the segment attached.
/// A checkpoint with processes of these numbers and sessions whose parent is the keeper.
fn with_orphans(runtime: bool, orphans: &[(i32, i32)]) -> Checkpoint {
    let mut checkpoint = sample::checkpoint();
    checkpoint.host.runtime = runtime.then(Default::default);
    for (pid, session) in orphans {
        let mut process = checkpoint.processes[0].clone();
        process.pd.relation.pid = Pid::new(*pid);
        process.pd.relation.session = Some(Pid::new(*session));
        process.cpu.threads.truncate(1);
        process.cpu.threads[0].tid = Pid::new(*pid).into();
        checkpoint.processes.push(process);
    }
    checkpoint
}

#[test]
fn only_a_program_of_the_runtime_has_processes_without_parents_and_their_session_s_leader_comes_first() {
    let is_read = |checkpoint: &Checkpoint| {
        let (_, bytes) = written(checkpoint, sample::PACK_BYTES);
        match read(&bytes) {
            Ok(_) => true,
            Err(Error::Malformed { .. }) => false,
            Err(error) => panic!("{error}"),
        }
    };
    assert!(is_read(&with_orphans(true, &[(9000, 9000), (9001, 9000), (9002, 7)])));
    assert!(!is_read(&with_orphans(false, &[(9000, 9000)])));
    assert!(!is_read(&with_orphans(true, &[(9001, 9000), (9000, 9000)])));
    let mut ended = with_orphans(true, &[(9000, 9000)]);
    let last = ended.processes.last_mut().unwrap();
    last.cpu.threads.clear();
    last.pd.life = frost_model::pd::Life::Zombie { status: 0 };
    assert!(!is_read(&ended));
}

#[test]
fn memory_policies_name_nodes_that_there_may_be_by_ascending_number() {
    let is_read = |nodes: &[u32], of_region: bool| {
        let mut checkpoint = sample::checkpoint();
        let policy = Some(MemoryPolicy { mode: u32::MAX, nodes: nodes.to_vec() });
        let process = &mut checkpoint.processes[0];
        match of_region {
            true => process.rm.regions[0].policy = policy,
            false => process.cpu.threads[0].scheduling.memory_policy = policy,
        }
        let (_, bytes) = written(&checkpoint, sample::PACK_BYTES);
        match read(&bytes) {
            Ok(read) => {
                assert_eq!(read.1.checkpoint, checkpoint);
                true
            }
            Err(Error::Malformed { .. }) => false,
            Err(error) => panic!("{error}"),
        }
    };
    for of_region in [true, false] {
        assert!(is_read(&[], of_region) && is_read(&[0, 63, 64, 1023], of_region));
        for hostile in [&[1024][..], &[u32::MAX], &[3, 3], &[4, 3], &[0, 1, u32::MAX]] {
            assert!(!is_read(hostile, of_region), "{hostile:?}");
        }
    }
}

fn with_sysv() -> Checkpoint {
    let mut checkpoint = sample::checkpoint();
    let pids = vec![Pid::new(17), Pid::new(0)];
    let ipc = |id| Ipc { id, key: 77, uid: 1000, gid: 1000, mode: 0o640, creator: None, pids: pids.clone() };
    checkpoint.objects.segments.push(Segment {
        ipc: ipc(5),
        len_bytes: 8000,
        pages: Pages { runs: vec![Run { offset: 4096, len_bytes: 4096, pack_offset: 4096 }] },
        digest: [7; 32],
        huge_shift: None,
        first_key: 77,
        removed: false,
        locked: true,
    });
    let pid = checkpoint.processes[0].pd.relation.pid;
    checkpoint.objects.semaphores.push(SemaphoreSet {
        ipc: ipc(5),
        values: vec![0, 32_767],
        operated: true,
        undo: vec![SemaphoreUndo { pid, adjust: vec![-32_768, 1] }],
    });
    checkpoint.objects.queues.push(MessageQueue {
        ipc: ipc(0),
        capacity_bytes: 16_384,
        messages: vec![QueuedMessage { kind: 3, data: b"message".to_vec() }],
    });
    let region = checkpoint.processes[0].rm.regions.last_mut().unwrap();
    assert_eq!(region.range.len_bytes(), 8192);
    region.attachment = Attachment::Segment { segment: ObjectId::new(0), offset: 0, may_write: true };
    checkpoint
}

#[test]
fn objects_of_system_v_are_read_and_checked() {
    let checkpoint = with_sysv();
    let (_, bytes) = written(&checkpoint, sample::PACK_BYTES);
    assert_eq!(read(&bytes).unwrap().1.checkpoint, checkpoint);
    let refuse = |change: &dyn Fn(&mut Checkpoint)| {
        let mut checkpoint = with_sysv();
        change(&mut checkpoint);
        let (_, bytes) = written(&checkpoint, sample::PACK_BYTES);
        assert!(matches!(read(&bytes), Err(Error::Malformed { .. })));
    };
    refuse(&|checkpoint| checkpoint.objects.segments.clear());
    refuse(&|checkpoint| checkpoint.objects.segments[0].len_bytes = 4096);
    refuse(&|checkpoint| checkpoint.objects.segments[0].len_bytes = u64::MAX);
    refuse(&|checkpoint| checkpoint.objects.segments[0].pages.runs[0].pack_offset = 7 * 4096);
    refuse(&|checkpoint| checkpoint.objects.segments[0].ipc.id = -1);
    refuse(&|checkpoint| checkpoint.objects.segments[0].ipc.mode = 0o1640);
    refuse(&|checkpoint| {
        let twin = checkpoint.objects.queues[0].clone();
        checkpoint.objects.queues.push(twin);
    });
    refuse(&|checkpoint| checkpoint.objects.semaphores[0].values.clear());
    refuse(&|checkpoint| checkpoint.objects.semaphores[0].ipc.pids.truncate(1));
    refuse(&|checkpoint| checkpoint.objects.segments[0].ipc.pids[1] = Pid::new(-1));
    refuse(&|checkpoint| checkpoint.objects.semaphores[0].values[0] = 32_768);
    refuse(&|checkpoint| checkpoint.objects.semaphores[0].undo[0].adjust[1] = 32_768);
    refuse(&|checkpoint| checkpoint.objects.semaphores[0].undo[0].adjust.truncate(1));
    refuse(&|checkpoint| checkpoint.objects.semaphores[0].undo[0].pid = Pid::new(4711));
    refuse(&|checkpoint| checkpoint.objects.queues[0].messages[0].kind = 0);
    refuse(&|checkpoint| {
        let region = checkpoint.processes[0].rm.regions.last_mut().unwrap();
        region.attachment = Attachment::Segment { segment: ObjectId::new(0), offset: 4096, may_write: true };
    });
}

#[test]
fn bytes_behind_the_manifest_are_found() {
    let (header, bytes) = written(&sample::checkpoint(), sample::PACK_BYTES);
    let mut manifest = bytes[Header::LEN_BYTES..][..header.manifest_bytes as usize].to_vec();
    manifest.push(0);
    assert!(matches!(forged(&manifest), Err(Error::Damaged { .. })));
    assert!(matches!(decode(&header, &manifest), Err(Error::Damaged { .. })));
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(500))]

    #[test]
    fn no_change_makes_a_manifest_panic(at in any::<prop::sample::Index>(), with in prop::collection::vec(any::<u8>(), 0..12), cut in 0usize..12) {
        let (header, bytes) = written(&sample::checkpoint(), sample::PACK_BYTES);
        let mut manifest = bytes[Header::LEN_BYTES..][..header.manifest_bytes as usize].to_vec();
        let at = at.index(manifest.len());
        let end = (at + cut).min(manifest.len());
        manifest.splice(at..end, with);
        if let Ok(manifest) = forged(&manifest) {
            manifest.checkpoint.validate(sample::PACK_BYTES).unwrap();
        }
    }

    #[test]
    fn no_bytes_make_a_header_panic(bytes in prop::collection::vec(any::<u8>(), 480)) {
        let _ = resealed(|header| header[8..].copy_from_slice(&bytes[8..]));
        let _ = Header::decode(&bytes);
    }

    #[test]
    fn a_header_says_what_it_was_told(
        name in "[A-Za-z_][A-Za-z0-9._-]{0,63}",
        version in 1u32..,
        command in ".{0,300}",
        pid: i32,
        start_time: u64,
        sec: i64,
        goes_on: bool,
    ) {
        let (mut header, _) = written(&sample::checkpoint(), sample::PACK_BYTES);
        header.id = ImageId { name: Name::new(&name).unwrap(), version };
        header.command = command.replace('\0', "");
        header.origin.pid = pid;
        header.origin.start_time = start_time;
        header.created.sec = sec;
        header.then = if goes_on { Then::GoOn } else { Then::End };
        let read = Header::decode(&header.encode()).unwrap();
        prop_assert!(header.command.starts_with(&read.command) && read.command.len() <= 128);
        prop_assert!(header.command.len() - read.command.len() < 300 * 4);
        header.command = read.command.clone();
        prop_assert_eq!(read, header);
    }
}

fn extent(offset: u64, len_bytes: u64) -> Extent {
    Extent { offset, len_bytes }
}

/// A virtual machine with a disk of each kind.
fn machine() -> Checkpoint {
    use frost_model::BytePath;
    use frost_model::clock::Timespec;
    use frost_model::machine::{Disk, DiskBase, Forward, Guest, Machine, MachineMemory};
    let file = DiskBase::File {
        path: BytePath::new("/disks/a.qcow2"),
        format: "qcow2".to_owned(),
        file_bytes: 9,
        modified: Timespec { sec: 1, nsec: 2 },
        digest: vec![3; 32].into(),
    };
    Checkpoint {
        processes: Vec::new(),
        descriptions: Vec::new(),
        objects: frost_model::cap::Objects::default(),
        dataspaces: Vec::new(),
        machine: Some(Machine {
            vmm: "qemu".to_owned(),
            vmm_version: "7.2.22".to_owned(),
            board: "pc-q35-7.2".to_owned(),
            processor: "Nehalem".to_owned(),
            accelerator: "tcg".to_owned(),
            cpus: 2,
            memory: MachineMemory::flat("ram", 8192),
            disks: vec![
                Disk { base: DiskBase::Pack(extent(8192, 100)), layer: Some(extent(12288, 5)), len_bytes: 7 },
                Disk { base: file, layer: None, len_bytes: 8 },
            ],
            forwards: vec![Forward { host: 8080, guest: 80 }],
            guest: Some(Guest { command: vec![BytePath::new("/bin/server")], ..Guest::default() }),
            arguments: Vec::new(),
            ignore_shared: true,
            devices: vec![1, 2, 3].into(),
        }),
        ..sample::checkpoint()
    }
}

#[test]
fn a_virtual_machine_needs_a_feature_and_no_processes() {
    const PACK_BYTES: u64 = 16384;
    let whole = machine();
    let (header, bytes) = written(&whole, PACK_BYTES);
    assert_eq!(header.features_needed, FEATURE_MACHINE);
    assert_eq!((header.processes, header.command.as_str()), (0, "/bin/server"));
    let (_, manifest, _) = read(&bytes).unwrap();
    assert_eq!(manifest.checkpoint, whole);
    // All that is in the pack is known, so that nothing of it is taken for another version's.
    assert_eq!(whole.stored(PACK_BYTES).unwrap(), [0..8292, 12288..12293]);

    let refused = |change: &dyn Fn(&mut frost_model::machine::Machine)| {
        let mut changed = machine();
        changed.machine.iter_mut().for_each(change);
        let (_, bytes) = written(&changed, PACK_BYTES);
        assert!(matches!(read(&bytes), Err(Error::Malformed { .. })), "{changed:?}");
    };
    refused(&|machine| machine.memory.bytes.len_bytes = 0);
    refused(&|machine| machine.memory.bytes.len_bytes = PACK_BYTES + 4096);
    refused(&|machine| machine.memory.bytes.offset = 4096);
    refused(&|machine| machine.cpus = 0);
    refused(&|machine| machine.disks[0].layer.iter_mut().for_each(|layer| layer.offset = 12289));
    refused(&|machine| machine.disks[0].layer.iter_mut().for_each(|layer| layer.len_bytes = u64::MAX));

    // What has changed of its memory needs a feature of its own, since it would be overlooked.
    let change = |at, offset, len_bytes| Changed { at, bytes: extent(offset, len_bytes) };
    let with = |changes: &[Changed]| {
        let mut changed = machine();
        changed.machine.iter_mut().for_each(|machine| machine.memory.changed = changes.to_vec());
        written(&changed, PACK_BYTES)
    };
    let (header, bytes) = with(&[change(0, 12288, 4096), change(4096, 8192, 4096)]);
    assert_eq!(header.features_needed, FEATURE_MACHINE | FEATURE_MACHINE_CHANGED);
    let (_, manifest, _) = read(&bytes).unwrap();
    let stored = manifest.checkpoint.stored(PACK_BYTES).unwrap();
    assert!(matches!(stored.as_slice(), [all] if *all == (0..16384)), "{stored:?}");
    for bad in [
        &[change(4096, 8192, 4096), change(0, 12288, 4096)][..],
        &[change(0, 8192, 8192), change(4096, 12288, 4096)],
        &[change(8192, 8192, 4096)],
        &[change(0, 16384, 4096)],
        &[change(0, 8192, 0)],
        &[change(1, 8192, 4096)],
        &[change(0, 8192, 4095)],
        &[change(u64::MAX - 4095, 8192, 8192)],
    ] {
        assert!(matches!(read(&with(bad).1), Err(Error::Malformed { .. })), "{bad:?}");
    }
    let (mut header, bytes) = with(&[change(0, 12288, 4096)]);
    header.features_needed = FEATURE_MACHINE;
    let manifest = &bytes[Header::LEN_BYTES..][..header.manifest_bytes as usize];
    assert!(matches!(decode(&header, manifest), Err(Error::Damaged { .. })));

    let beside = Checkpoint { machine: whole.machine.clone(), ..sample::checkpoint() };
    assert!(matches!(read(&written(&beside, sample::PACK_BYTES).1), Err(Error::Malformed { .. })));

    // A header that does not say so is refused before anything is obeyed.
    let (mut header, bytes) = written(&whole, PACK_BYTES);
    header.features_needed = 0;
    let manifest = &bytes[Header::LEN_BYTES..][..header.manifest_bytes as usize];
    assert!(matches!(decode(&header, manifest), Err(Error::Damaged { .. })));
}
