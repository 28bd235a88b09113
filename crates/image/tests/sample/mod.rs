//! A checkpoint with one of each kind of record, for the tests of image and store and as a seed for fuzzing.
#![allow(dead_code, unreachable_pub, clippy::expect_used, reason = "each user takes what it needs")]

use frost_model::cap::{
    Capability, Content, Description, Epoll, EventFd, FileIdentity, FileRef, Inet, Memfd, Message, Objects,
    Outside, OutsideKind, Owner, PidFd, Pipe, PipeEnd, RegularFile, SocketOption, TcpListener, UnixName,
    UnixSocket, UnixState, UnixType, Unnamed, Watch,
};
use frost_model::clock::{Clocks, Timespec};
use frost_model::cpu::{AltStack, CpuState, Registers, Restart, RobustList, Rseq, Scheduling, Thread};
use frost_model::host::Host;
use frost_model::pd::{
    Credentials, Descriptor, IntervalTimers, Life, Limit, PdState, PrctlState, Relation, SIGNALS, SigInfo,
    SignalAction,
};
use frost_model::ram::{Dataspace, DataspaceKind, Pages, Run};
use frost_model::rm::{
    Attachment, Bounds, PageRange, Protection, ProtectionKeys, Region, RegionFlags, RmState,
};
use frost_model::{
    BytePath, Checkpoint, DataspaceId, DescriptionId, ObjectId, Pid, Process, TargetAddr, TargetFd, Tid,
};

/// The length that the pack of [`checkpoint`] must at least have.
pub const PACK_BYTES: u64 = 7 * 4096;

/// A tree of two processes, one a zombie, that uses all 7 pages of its pack.
pub fn checkpoint() -> Checkpoint {
    let file = |path: &str| FileRef {
        path: BytePath::new(path),
        identity: FileIdentity {
            device: 0xfe00,
            inode: 42,
            mode: 0o100_755,
            len_bytes: 65536,
            modified: Timespec { sec: 1_700_000_000, nsec: 5 },
            removed: false,
            build_id: Some(vec![1, 2, 3]),
            ..FileIdentity::default()
        },
    };
    let pages = |run: [u64; 3]| Pages {
        runs: vec![Run { offset: run[0] * 4096, len_bytes: run[1] * 4096, pack_offset: run[2] * 4096 }],
    };
    let region = |start: u64, count: u64, attachment, private| Region {
        range: PageRange::new(start, start + count * 4096).expect("aligned"),
        protection: Protection { read: true, write: true, ..Protection::default() },
        attachment,
        flags: RegionFlags::default(),
        private,
        guards: Vec::new(),
        policy: None,
        huge_shift: None,
    };
    let thread = |tid| Thread {
        tid: Tid::new(tid),
        name: BytePath::new("sample"),
        registers: Registers { rip: 0x40_1000, rsp: 0x7fff_0000, orig_rax: u64::MAX, ..Registers::default() },
        restart: Restart::Reissue { remaining: Some(Timespec { sec: 1, nsec: 2 }) },
        xstate: vec![0x5a; 832],
        blocked: 1 << 13,
        pending: vec![SigInfo::new([7; SigInfo::LEN_BYTES])],
        alt_stack: AltStack { address: 0x7000, flags: 0, len_bytes: 8192 },
        robust_list: Some(RobustList { head: TargetAddr::new(0x5000), len_bytes: 24 }),
        rseq: Some(Rseq {
            address: TargetAddr::new(0x6000),
            len_bytes: 32,
            signature: 0x5305_3053,
            flags: 0,
        }),
        clear_child_tid: TargetAddr::new(0x5010),
        credentials: None,
        scheduling: Scheduling { affinity: vec![0, 1], ..Scheduling::default() },
        parent_death_signal: 0,
        settings: Default::default(),
        ended: None,
        filters: Vec::new(),
    };
    let process = |pid: i32, parent: Option<i32>, life, cpu, rm, descriptors| Process {
        pd: PdState {
            relation: Relation {
                pid: Pid::new(pid),
                parent: parent.map(Pid::new),
                group: Some(Pid::new(100)),
                session: None,
                controls_terminal: false,
                exit_signal: 17,
                subreaper: false,
            },
            life,
            command: BytePath::new("sample"),
            arguments: vec![BytePath::new("sample"), BytePath::new(b"--n\xffn-utf8".to_vec())],
            exe: Some(file("/usr/bin/sample")),
            credentials: Credentials { groups: vec![4, 24], ..Credentials::default() },
            cwd: Some(file("/")),
            root: Some(file("/")),
            umask: 0o22,
            actions: vec![SignalAction::default(); SIGNALS],
            pending: Vec::new(),
            limits: vec![Limit { soft: 1024, hard: u64::MAX }; 16],
            interval_timers: IntervalTimers::default(),
            posix_timers: Vec::new(),
            prctl: PrctlState::default(),
            descriptors,
        },
        cpu,
        rm,
    };
    let describe =
        |capability| Description { flags: 2, owner: None, locks: Vec::new(), node: None, capability };
    let descriptor = |(fd, description)| Descriptor {
        fd: TargetFd::new(fd),
        close_on_exec: fd == 5,
        description: DescriptionId::new(description),
    };
    let regions = vec![
        region(
            0x40_0000,
            4,
            Attachment::File { file: file("/usr/bin/sample"), offset: 4096, shared: false, may_write: true },
            pages([1, 1, 0]),
        ),
        region(0x60_0000, 16, Attachment::Anonymous, pages([2, 3, 1])),
        region(
            0x80_0000,
            2,
            Attachment::Dataspace {
                dataspace: DataspaceId::new(0),
                offset: 0,
                shared: true,
                may_write: true,
            },
            Pages::default(),
        ),
    ];
    let identity = |len_bytes| FileIdentity { len_bytes, ..FileIdentity::default() };
    Checkpoint {
        host: Host {
            runtime: None,
            architecture: std::env::consts::ARCH.to_owned(),
            kernel: "6.18.0".to_owned(),
            boot_id: "11111111-2222-3333-4444-555555555555".to_owned(),
            xcr0: 7,
            cpu_features: vec!["fpu".to_owned(), "avx2".to_owned()],
            uid: 1000,
            privileged: false,
            pid_namespace: false,
            ipc_namespace: false,
        },
        clocks: Clocks {
            monotonic: Timespec { sec: 1000, nsec: 1 },
            boottime: Timespec { sec: 2000, nsec: 2 },
            realtime: Timespec { sec: 1_700_000_000, nsec: 3 },
        },
        processes: vec![
            process(
                100,
                None,
                Life::Running,
                CpuState { threads: vec![thread(100), thread(102)] },
                RmState {
                    regions,
                    bounds: Bounds { auxv: vec![6; 16], ..Bounds::default() },
                    vdso: None,
                    keys: ProtectionKeys::default(),
                },
                (0..9).map(|number| descriptor((number, number as u32))).collect(),
            ),
            process(
                101,
                Some(100),
                Life::Zombie { status: 256 },
                CpuState::default(),
                RmState::default(),
                vec![],
            ),
        ],
        descriptions: vec![
            Description {
                flags: 0,
                owner: Some(Owner { kind: 1, id: 100, signal: 0 }),
                locks: Vec::new(),
                node: None,
                capability: Capability::Regular(RegularFile {
                    content: Content::Unnamed(ObjectId::new(0)),
                    position: 10,
                }),
            },
            describe(Capability::Pipe(PipeEnd { pipe: ObjectId::new(0) })),
            describe(Capability::EventFd(EventFd { count: 3, semaphore: true })),
            describe(Capability::Epoll(Epoll {
                watches: vec![Watch {
                    fd: TargetFd::new(2),
                    description: DescriptionId::new(2),
                    events: 1,
                    data: u64::MAX,
                }],
                busy_poll: None,
            })),
            describe(Capability::Memfd(Memfd { dataspace: DataspaceId::new(0), position: 0 })),
            describe(Capability::PidFd(PidFd { pid: Some(Pid::new(101)), thread: false, status: None })),
            describe(Capability::Unix(UnixSocket {
                inode: 9,
                kind: UnixType::Stream,
                name: Some(UnixName::Abstract(b"sample\0".to_vec())),
                state: UnixState::PeerClosed,
                queue: vec![Message {
                    data: b"hello".to_vec(),
                    rights: vec![DescriptionId::new(0)],
                    sender: None,
                    credentials: None,
                }],
                shut_read: false,
                shut_write: true,
                options: Vec::new(),
                credentials: None,
                places: Vec::new(),
            })),
            describe(Capability::TcpListener(TcpListener {
                inet: Inet {
                    v6: false,
                    protocol: 6,
                    local: Some(std::net::SocketAddr::from(([127, 0, 0, 1], 8080))),
                    options: vec![SocketOption { level: 1, name: 2, value: vec![1, 0, 0, 0] }],
                },
                backlog: Some(128),
            })),
            describe(Capability::Outside(Outside {
                kind: OutsideKind::Pipe { inode: 77, capacity_bytes: 65536, content: b"left".to_vec() },
                peer: Some((Pid::new(7), "sh".to_owned())),
            })),
        ],
        objects: Objects {
            pipes: vec![Pipe {
                capacity_bytes: 65536,
                content: vec![serde_bytes::ByteBuf::from(b"queued".to_vec())],
                readers: true,
                writers: true,
                node: None,
            }],
            ptys: Vec::new(),
            unnamed: vec![Unnamed {
                path: BytePath::new("/tmp/gone"),
                identity: identity(4100),
                pages: Pages { runs: vec![Run { offset: 0, len_bytes: 4100, pack_offset: 4 * 4096 }] },
                marks: None,
            }],
            ..Objects::default()
        },
        dataspaces: vec![Dataspace {
            kind: DataspaceKind::Memfd {
                name: BytePath::new("shared"),
                seals: 0,
                mode: 0o777,
                huge_shift: 0,
                identity: None,
                marks: None,
            },
            len_bytes: 8192,
            pages: pages([1, 1, 6]),
        }],
        machine: None,
        layers: Vec::new(),
        bundle: Vec::new(),
        nests: Vec::new(),
    }
}
