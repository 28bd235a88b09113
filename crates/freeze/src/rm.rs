//! Capture of the RM session: what is attached where.

use crate::cap::FALL_BACK;
use crate::file;
use frost_model::Obstacle;
use frost_model::cap::FileRef;
use frost_model::id::{DataspaceId, DescriptionId, ObjectId};
use frost_model::path::BytePath;
use frost_model::rm::{
    Attachment, Bounds, PageRange, Protection, ProtectionKeys, Region, RegionFlags, SpecialRegion, Vdso,
};
use frost_sys::proc::{self, Mapping, Stat};
use rustix::fs::{FileType, Mode, OFlags};
use std::borrow::Cow;
use std::collections::{HashMap, HashSet};

/// What a mapping shows, before it is known how the image refers to it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Backing {
    Anonymous,
    File(FileRef),
    /// Shared memory without a name: shared anonymous memory or a memfd; by device and inode.
    Shared {
        device: u64,
        inode: u64,
    },
    /// A file that was deleted, by device and inode.
    Deleted {
        device: u64,
        inode: u64,
    },
    /// A System V segment, by its identifier.
    Segment(i32),
    Special(SpecialRegion),
    /// The ring of a context of asynchronous I/O.
    Aio,
}

/// How an image refers to memory that lies behind descriptors.
pub(crate) trait Behind {
    /// The dataspace of a shared memory object.
    fn dataspace(&self, device: u64, inode: u64) -> Option<DataspaceId>;
    /// A description of a file without a name.
    fn description(&self, device: u64, inode: u64) -> Option<DescriptionId>;
    /// A System V segment.
    fn segment(&self, id: i32) -> Option<ObjectId>;
}

/// Files that were looked at already: a library is mapped some five times in each process.
#[derive(Debug, Default)]
pub(crate) struct FileCache {
    named: HashMap<Vec<u8>, Result<FileRef, String>>,
    /// Other names of files whose names were deleted.
    renamed: HashMap<(u64, u64), Option<Vec<u8>>>,
}

/// Whether a path leads to the file that is mapped.
fn leads_to(name: &[u8], mapping: &Mapping) -> bool {
    let path = frost_sys::sight::of(proc::as_path(name));
    rustix::fs::stat(path).is_ok_and(|found| found.st_ino == mapping.inode)
}

/// Bounds how many newlines of a name are looked at: each doubles what it may be called.
const MOST_NEWLINES: usize = 6;

/// Returns the name of a mapped file that was not shown as what it is: one with `\012` in it, which is how the kernel shows a
/// newline.
fn misread(mapping: &Mapping) -> Option<Vec<u8>> {
    if !mapping.name.starts_with(b"/") || !mapping.name.contains(&b'\n') {
        return None;
    }
    let parts: Vec<&[u8]> = mapping.name.split(|byte| *byte == b'\n').collect();
    let newlines = parts.len() - 1;
    if newlines > MOST_NEWLINES {
        return None;
    }
    let spelled = |literal: u32| {
        let mut name = parts[0].to_vec();
        for (at, part) in parts[1..].iter().enumerate() {
            name.extend_from_slice(if literal >> at & 1 == 1 { proc::NEWLINE } else { b"\n" });
            name.extend_from_slice(part);
        }
        name
    };
    let literal = (0..1 << newlines).find(|literal| leads_to(&spelled(*literal), mapping))?;
    (literal != 0).then(|| spelled(literal))
}

/// Whether the file that is mapped was deleted: its name says so, and is not that of a file which is called like that.
fn is_deleted(mapping: &Mapping) -> bool {
    mapping.name.ends_with(file::DELETED) && !leads_to(&mapping.name, mapping)
}

/// Gives mapped files whose names were deleted the other names that they have, as far as these can be found, and others the
/// names that they have if they are shown as others.
pub(crate) fn named<'a>(mappings: &'a [Mapping], pid: i32, files: &mut FileCache) -> Cow<'a, [Mapping]> {
    let mut named = Cow::Borrowed(mappings);
    for (index, mapping) in mappings.iter().enumerate() {
        if let Some(name) = misread(mapping) {
            named.to_mut()[index].name = name;
            continue;
        }
        let name = mapping.name.as_slice();
        if !name.ends_with(file::DELETED)
            || name == b"/dev/zero (deleted)"
            || name.starts_with(b"/memfd:")
            || name == HUGE
            || segment_id(mapping).is_some()
            || !is_deleted(mapping)
        {
            continue;
        }
        let key = (mapping.device, mapping.inode);
        let other = files.renamed.entry(key).or_insert_with(|| {
            // Only root is told how many names it has.
            let link = proc::path(pid, &format!("map_files/{:x}-{:x}", mapping.start, mapping.end));
            let gone = rustix::fs::stat(&link).is_ok_and(|found| found.st_nlink == 0);
            if gone { None } else { file::other_name(name, key) }
        });
        if let Some(other) = other {
            named.to_mut()[index].name.clone_from(other);
        }
    }
    named
}

/// Refers to the binary of a process; `None` for one that has no name any more, as after an upgrade, or never had one. That is
/// what is mapped where its code begins.
///
/// # Errors
/// Why it cannot be found again.
pub(crate) fn binary(
    pid: i32,
    mappings: &[Mapping],
    files: &mut FileCache,
) -> Result<Option<FileRef>, String> {
    let link = proc::path(pid, "exe");
    let why = match file::behind_link(&link) {
        Ok(found) => return Ok(Some(found)),
        Err(why) => why,
    };
    let Ok(found) = rustix::fs::stat(&link) else { return Err(why) };
    let start = proc::stat(pid).map_or(0, |stat| stat.startcode);
    let is_binary = |mapping: &&Mapping| {
        (mapping.device, mapping.inode) == (found.st_dev, found.st_ino)
            && (mapping.start..mapping.end).contains(&start)
            && !mapping.shared
    };
    match mappings.iter().find(is_binary).map(|mapping| backing(mapping, pid, files)) {
        // It has another name.
        Some(Ok(Backing::File(file))) => Ok(Some(file)),
        Some(Ok(Backing::Deleted { .. } | Backing::Shared { .. })) => Ok(None),
        _ => Err(why),
    }
}

/// What a mapping of MAP_HUGETLB without a file shows (`ksys_mmap_pgoff`, mm/mmap.c).
const HUGE: &[u8] = b"/anon_hugepage (deleted)";

/// Returns the logarithm of the page size of a mapping of huge pages of hugetlbfs.
pub(crate) fn huge_shift(mapping: &Mapping) -> Option<u32> {
    mapping.flags.has(*b"ht").then(|| mapping.page_bytes.trailing_zeros())
}

/// Says what a mapping of process `pid` shows.
///
/// # Errors
/// Why it cannot be carried, and what to do.
pub(crate) fn backing(
    mapping: &Mapping,
    pid: i32,
    files: &mut FileCache,
) -> Result<Backing, (String, String)> {
    let refuse = |why: &str, remedy: &str| Err((why.to_owned(), remedy.to_owned()));
    let (device, inode) = (mapping.device, mapping.inode);
    match mapping.name.as_slice() {
        b"[vvar]" => return Ok(Backing::Special(SpecialRegion::Vvar)),
        b"[vvar_vclock]" => return Ok(Backing::Special(SpecialRegion::VvarVclock)),
        b"[vdso]" => return Ok(Backing::Special(SpecialRegion::Vdso)),
        b"[vsyscall]" => return Ok(Backing::Special(SpecialRegion::Vsyscall)),
        _ => {}
    }
    if mapping.flags.has(*b"io") || mapping.flags.has(*b"pf") {
        return refuse("it maps a device", "end what uses the device, or run the program without it");
    }
    if mapping.flags.has(*b"ss") {
        return refuse("it is a shadow stack", "run the program without shadow stacks");
    }
    if mapping.flags.has(*b"um") || mapping.flags.has(*b"uw") {
        return refuse("the program handles its page faults by userfaultfd", "run it without userfaultfd");
    }
    // Also where the descriptor it was mapped from is closed.
    if mapping.shared && mapping.name == b"/secretmem (deleted)" {
        return refuse(
            "it is secret memory, which nobody but the program may read",
            "run the program without it",
        );
    }
    let name = mapping.name.as_slice();
    if inode == 0 && !mapping.shared && (name.is_empty() || name.starts_with(b"[")) {
        return Ok(Backing::Anonymous);
    }
    if !mapping.shared && is_zero_device(mapping) {
        return Ok(Backing::Anonymous);
    }
    if name == crate::aio::NAME {
        return Ok(Backing::Aio);
    }
    if let Some(id) = segment_id(mapping) {
        if huge_shift(mapping).is_some() && mapping.offset > 0 {
            return refuse(
                "it is a part of a segment of huge pages",
                "let the program attach all of it (shmat)",
            );
        }
        return Ok(Backing::Segment(id));
    }
    if name == HUGE && !mapping.shared {
        return Ok(Backing::Anonymous);
    }
    if name == b"/dev/zero (deleted)" || name.starts_with(b"/memfd:") || name == HUGE {
        return Ok(Backing::Shared { device, inode });
    }
    if name.starts_with(b"anon_inode:") {
        return refuse("it maps an object whose state the kernel does not give back", FALL_BACK);
    }
    // Where hugetlbfs is mounted as a rule.
    let is_data = name.starts_with(b"/dev/shm/") || mapping.flags.has(*b"ht");
    if !name.starts_with(b"/") || name.starts_with(b"/dev/") && !is_data {
        return refuse("it maps an object that is not a file", "end what uses it before freezing");
    }
    if is_deleted(mapping) {
        return Ok(Backing::Deleted { device, inode });
    }
    match files.named.entry(name.to_vec()).or_insert_with(|| look(name, mapping, pid)) {
        Ok(file) if file.identity.inode == inode => Ok(Backing::File(file.clone())),
        Ok(_) => {
            refuse("the file was replaced by another of the same name", "restart the program, then freeze it")
        }
        Err(why) => Err((why.clone(), "make the file reachable by this path again".to_owned())),
    }
}

/// Returns whether a private mapping shows `/dev/zero`: it is anonymous memory then, of which the file's name alone is left
/// (`mmap_zero`, drivers/char/mem.c).
fn is_zero_device(mapping: &Mapping) -> bool {
    mapping.name.ends_with(b"/zero")
        && rustix::fs::stat(frost_sys::sight::of(proc::as_path(&mapping.name))).is_ok_and(|found| {
            found.st_ino == mapping.inode
                && FileType::from_raw_mode(found.st_mode) == FileType::CharacterDevice
                && found.st_rdev == rustix::fs::makedev(1, 5)
        })
}

/// Returns the identifier of the System V segment that is attached there, which the kernel shows as the inode
/// (`newseg`, ipc/shm.c).
pub(crate) fn segment_id(mapping: &Mapping) -> Option<i32> {
    let named = mapping.name.starts_with(b"/SYSV") && mapping.name.ends_with(file::DELETED) && mapping.shared;
    named.then(|| i32::try_from(mapping.inode).ok()).flatten()
}

/// Returns the key that the name of an attachment shows (`SYSV%08x`); 0 if it shows none.
pub(crate) fn segment_key(mapping: &Mapping) -> i32 {
    let digits = mapping.name.get(5..13).and_then(|digits| std::str::from_utf8(digits).ok());
    digits.and_then(|digits| u32::from_str_radix(digits, 16).ok()).unwrap_or(0) as i32
}

/// Looks at a file that is mapped without opening it: that would break a lease on it (F_SETLEASE), and to read which there
/// are takes some 10 ms, as the kernel waits for all processors then (`locks_start`, fs/locks.c).
fn look(name: &[u8], mapping: &Mapping, pid: i32) -> Result<FileRef, String> {
    let path = frost_sys::sight::of(proc::as_path(name));
    let found = rustix::fs::open(&path, OFlags::PATH | OFlags::CLOEXEC, Mode::empty());
    let found = found.map_err(|errno| format!("the file cannot be opened: {errno}"))?;
    let stat = rustix::fs::fstat(&found).map_err(|errno| errno.to_string())?;
    let mut identity = file::identity(&stat);
    if mapping.offset == 0 {
        // A linker puts the note near the headers, so that they are mapped together.
        identity.build_id = frost_sys::elf::build_id_by(|bytes, offset| {
            let rest = (mapping.end - mapping.start).checked_sub(offset)?;
            let len = usize::try_from(rest).map_or(bytes.len(), |rest| rest.min(bytes.len()));
            frost_sys::memory::read(pid, mapping.start + offset, &mut bytes[..len]).ok()
        });
    }
    Ok(FileRef { path: BytePath::new(name), identity })
}

/// Lists every mapping of a process that cannot be carried, which we see as `through`. `linked` are files that have another name than the one that
/// was deleted.
pub(crate) fn survey(
    through: i32,
    pid: frost_model::Pid,
    command: &str,
    mappings: &[Mapping],
    linked: &HashSet<(u64, u64)>,
    files: &mut FileCache,
) -> Vec<Obstacle> {
    let mut obstacles: Vec<Obstacle> = Vec::new();
    for mapping in mappings {
        let why = match backing(mapping, through, files) {
            Ok(Backing::Deleted { device, inode }) if linked.contains(&(device, inode)) => Some((
                "this name of the mapped file was deleted, while it has another one, which the kernel does not tell"
                    .to_owned(),
                "give it this name again with ln(1), or delete the other one".to_owned(),
            )),
            Ok(_) => None,
            Err(why) => Some(why),
        };
        if let Some((reason, remedy)) = why {
            let name = String::from_utf8_lossy(&mapping.name);
            let object = format!("memory {:x}-{:x} {name}", mapping.start, mapping.end).trim_end().to_owned();
            // A library is mapped in several pieces; one line tells of all of them.
            let same = |other: &Obstacle| other.reason == reason && other.object.ends_with(name.as_ref());
            if name.is_empty() || !obstacles.iter().any(same) {
                obstacles.push(Obstacle {
                    pid,
                    command: command.to_owned(),
                    object,
                    reason,
                    remedy,
                    passes: false,
                });
            }
        }
    }
    obstacles
}

/// Turns what a mapping shows into what an image says of it.
///
/// `None` only for an object that [`survey`] would have refused.
pub(crate) fn attachment(mapping: &Mapping, backing: Backing, behind: &dyn Behind) -> Option<Attachment> {
    let (offset, shared) = (mapping.offset, mapping.shared);
    // `mw`: PROT_WRITE may be set; of a private mapping always.
    let may_write = mapping.flags.has(*b"mw");
    Some(match backing {
        Backing::Anonymous => Attachment::Anonymous,
        Backing::Special(special) => Attachment::Special(special),
        // What waits in it is read by whoever knows the process.
        Backing::Aio => Attachment::Aio { events: Vec::new() },
        Backing::File(file) => Attachment::File { file, offset, shared, may_write },
        Backing::Shared { device, inode } => {
            let dataspace = behind.dataspace(device, inode)?;
            Attachment::Dataspace { dataspace, offset, shared, may_write }
        }
        Backing::Segment(id) => Attachment::Segment { segment: behind.segment(id)?, offset, may_write },
        Backing::Deleted { device, inode } => {
            let description = behind.description(device, inode)?;
            Attachment::Description { description, offset, shared, may_write }
        }
    })
}

/// Returns the rights of a mapping.
pub(crate) fn protection(mapping: &Mapping) -> Protection {
    Protection {
        read: mapping.read,
        write: mapping.write,
        execute: mapping.execute,
        key: mapping.protection_key,
    }
}

/// Returns the keys of an address space in which the program has allocated those of `allocated`.
pub(crate) fn keys(regions: &[Region], allocated: Option<u32>) -> ProtectionKeys {
    let keys = ProtectionKeys { allocated: allocated.unwrap_or(0), execute_only: 0 };
    // A key that the program does not have any more may lie on memory like this, too; then nothing tells the difference.
    let execute_only = regions
        .iter()
        .map(|region| region.protection)
        .find(|protection| protection.key != 0 && protection.is_execute_only() && !keys.has(protection.key));
    ProtectionKeys { execute_only: execute_only.map_or(0, |protection| protection.key), ..keys }
}

/// Returns the flags of a mapping.
pub(crate) fn flags(mapping: &Mapping) -> RegionFlags {
    let has = |flag: &[u8; 2]| mapping.flags.has(*flag);
    RegionFlags {
        grows_down: has(b"gd"),
        locked: has(b"lo"),
        lock_on_fault: has(b"lf"),
        dont_fork: has(b"dc"),
        wipe_on_fork: has(b"wf"),
        dont_dump: has(b"dd"),
        huge_page: has(b"hg"),
        no_huge_page: has(b"nh"),
        mergeable: has(b"mg"),
        sequential: has(b"sr"),
        random: has(b"rr"),
        no_reserve: has(b"nr"),
        hugetlb: has(b"ht"),
        sealed: has(b"sl"),
        droppable: has(b"dp"),
    }
}

/// Returns the range of a mapping; `None` for one that is not made of whole pages, which the kernel does not give.
pub(crate) fn range(mapping: &Mapping) -> Option<PageRange> {
    PageRange::new(mapping.start, mapping.end)
}

/// Returns the bounds of an address space.
pub(crate) fn bounds(pid: i32, stat: &Stat, brk: u64) -> Bounds {
    Bounds {
        start_code: stat.startcode,
        end_code: stat.endcode,
        start_data: stat.start_data,
        end_data: stat.end_data,
        start_brk: stat.start_brk,
        brk,
        start_stack: stat.startstack,
        arg_start: stat.arg_start,
        arg_end: stat.arg_end,
        env_start: stat.env_start,
        env_end: stat.env_end,
        auxv: proc::read(pid, "auxv").unwrap_or_default(),
    }
}

/// Describes the vDSO among the mappings, if there is one.
pub(crate) fn vdso(pid: i32, mappings: &[Mapping]) -> Option<Vdso> {
    let code = mappings.iter().find(|mapping| mapping.name == b"[vdso]")?;
    let first = mappings.iter().find(|mapping| mapping.name == b"[vvar]").unwrap_or(code);
    let mut bytes = vec![0u8; (code.end - code.start) as usize];
    frost_sys::memory::read(pid, code.start, &mut bytes).ok()?;
    Some(Vdso { address: first.start, code: code.start, digest: blake3::hash(&bytes).into() })
}
