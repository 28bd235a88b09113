//! The notes of a core: what the process was, its threads, its files.

use frost_model::cap::FileRef;
use frost_model::cpu::{REGISTER_WORDS, Thread};
use frost_model::pd::{Life, SigInfo};
use frost_model::rm::Attachment;
use frost_model::{Checkpoint, PAGE_SIZE, Pid, Process};
use std::borrow::Cow;

const NT_PRSTATUS: u32 = 1;
const NT_FPREGSET: u32 = 2;
const NT_PRPSINFO: u32 = 3;
const NT_AUXV: u32 = 6;
const NT_X86_XSTATE: u32 = 0x202;
const NT_SIGINFO: u32 = 0x5349_4749;
const NT_FILE: u32 = 0x4649_4c45;

/// Length of the area that FXSAVE writes, which begins the xsave area; its last 48 bytes are the kernel's notes.
const FXSAVE: usize = 512;
const FXSAVE_HARDWARE: usize = 464;
/// Length of the header behind it.
const XSAVE_HEADER: usize = 64;

/// Writes all notes, in the kernel's order: the leader's status first, since what follows it until the next status is of
/// that thread.
pub(super) fn all(
    checkpoint: &Checkpoint,
    process: &Process,
    unchanged: impl Fn(&FileRef) -> bool,
) -> Vec<u8> {
    let mut notes = Vec::new();
    let living = process.cpu.threads.iter().filter(|thread| thread.ended.is_none());
    for (index, thread) in living.enumerate() {
        note(&mut notes, b"CORE", NT_PRSTATUS, &status(process, thread));
        if index == 0 {
            note(&mut notes, b"CORE", NT_PRPSINFO, &info(process, thread));
            note(&mut notes, b"CORE", NT_SIGINFO, &signal_info(process, thread));
            note(&mut notes, b"CORE", NT_AUXV, &process.rm.bounds.auxv);
            note(&mut notes, b"CORE", NT_FILE, &files(checkpoint, process, &unchanged));
        }
        if let Some(fxsave) = thread.xstate.get(..FXSAVE) {
            let mut fxsave = fxsave.to_vec();
            fxsave[FXSAVE_HARDWARE..].fill(0);
            note(&mut notes, b"CORE", NT_FPREGSET, &fxsave);
        }
        if thread.xstate.len() >= FXSAVE + XSAVE_HEADER {
            note(&mut notes, b"LINUX", NT_X86_XSTATE, &as_debuggers_know_it(&thread.xstate));
        }
    }
    notes
}

/// Returns an xsave area with its parts where debuggers look for them.
///
/// The processor says where each part lies, and a core does not tell: gdb takes the offsets of Intel's processors (up to
/// 13), or guesses by the length and knows only some (`i387_guess_xsave_layout` since 14). AMD's leave no room for MPX, so
/// that all of AVX-512 lies 256 bytes lower; with or without protection keys, which come last.
fn as_debuggers_know_it(area: &[u8]) -> Cow<'_, [u8]> {
    const AVX512: u64 = 0b1110_0000;
    const AVX_END: usize = 832;
    const MPX: usize = 256;
    // The kernel notes there which parts there are (XCR0), in the bytes that FXSAVE leaves to software.
    let parts = area[FXSAVE_HARDWARE..].first_chunk().map_or(0, |bytes| u64::from_le_bytes(*bytes));
    if parts & AVX512 != AVX512 || !matches!(area.len(), 2432 | 2440) {
        return Cow::Borrowed(area);
    }
    Cow::Owned([&area[..AVX_END], &[0; MPX], &area[AVX_END..]].concat())
}

/// Appends a note: three words, the owner with its NUL, the content, each part filled up to 4 bytes.
fn note(out: &mut Vec<u8>, owner: &[u8], kind: u32, content: &[u8]) {
    let words = [owner.len() as u32 + 1, content.len() as u32, kind];
    words.iter().for_each(|word| out.extend_from_slice(&word.to_le_bytes()));
    out.extend_from_slice(owner);
    out.push(0);
    out.resize(out.len().next_multiple_of(4), 0);
    out.extend_from_slice(content);
    out.resize(out.len().next_multiple_of(4), 0);
}

/// Writes fields at the offsets that a C structure has them.
struct Struct<const N: usize>([u8; N]);

impl<const N: usize> Struct<N> {
    fn new() -> Self {
        Self([0; N])
    }

    fn put(&mut self, at: usize, bytes: &[u8]) {
        self.0[at..at + bytes.len()].copy_from_slice(bytes);
    }

    fn text(&mut self, at: usize, room: usize, text: &[u8]) {
        // The last byte stays NUL.
        self.put(at, &text[..text.len().min(room - 1)]);
    }
}

fn raw(pid: Option<Pid>) -> [u8; 4] {
    pid.map_or(0, Pid::raw).to_le_bytes()
}

/// The signal by which the process stood still: that of job control, if it was stopped so; else none.
fn stopped_by(process: &Process) -> i32 {
    match process.pd.life {
        Life::Stopped { signal } => signal,
        Life::Running | Life::Zombie { .. } => 0,
    }
}

/// `struct elf_prstatus`.
fn status(process: &Process, thread: &Thread) -> [u8; 336] {
    let signal = stopped_by(process);
    let pending = |queue: &[SigInfo]| {
        let bit =
            |info: &SigInfo| u32::try_from(info.signal() - 1).ok().and_then(|shift| 1u64.checked_shl(shift));
        queue.iter().filter_map(bit).fold(0, |set, bit| set | bit)
    };
    let relation = &process.pd.relation;
    let mut status = Struct::new();
    status.put(0, &signal.to_le_bytes()); // pr_info.si_signo
    status.put(12, &(signal as i16).to_le_bytes()); // pr_cursig
    status.put(16, &(pending(&thread.pending) | pending(&process.pd.pending)).to_le_bytes());
    status.put(24, &thread.blocked.to_le_bytes());
    status.put(32, &thread.tid.raw().to_le_bytes());
    status.put(36, &raw(relation.parent));
    status.put(40, &raw(relation.group));
    status.put(44, &raw(relation.session));
    // Four times stand here that an image does not keep.
    for (index, word) in <[u64; REGISTER_WORDS]>::from(thread.registers).iter().enumerate() {
        status.put(112 + index * 8, &word.to_le_bytes());
    }
    status.put(328, &i32::from(thread.xstate.len() >= FXSAVE).to_le_bytes()); // pr_fpvalid
    status.0
}

/// `struct elf_prpsinfo`.
fn info(process: &Process, leader: &Thread) -> [u8; 136] {
    let relation = &process.pd.relation;
    let mut arguments = Vec::new();
    for argument in &process.pd.arguments {
        if !arguments.is_empty() {
            arguments.push(b' ');
        }
        arguments.extend_from_slice(argument.as_bytes());
    }
    let state: u8 = if stopped_by(process) == 0 { 0 } else { 3 };
    let mut info = Struct::new();
    info.put(0, &[state, b"RSDT"[usize::from(state)], 0, leader.scheduling.nice as u8]);
    info.put(16, &process.pd.credentials.uids[0].to_le_bytes());
    info.put(20, &process.pd.credentials.gids[0].to_le_bytes());
    info.put(24, &relation.pid.raw().to_le_bytes());
    info.put(28, &raw(relation.parent));
    info.put(32, &raw(relation.group));
    info.put(36, &raw(relation.session));
    info.text(40, 16, process.pd.command.as_bytes());
    info.text(56, 80, &arguments);
    info.0
}

/// `siginfo_t`: that of the first signal that waits, else of the one that stopped the process.
fn signal_info(process: &Process, leader: &Thread) -> [u8; SigInfo::LEN_BYTES] {
    let mut info = Struct::new();
    match leader.pending.first().or(process.pd.pending.first()) {
        Some(waiting) => info.put(0, &waiting.as_bytes()[..waiting.as_bytes().len().min(SigInfo::LEN_BYTES)]),
        None => info.put(0, &stopped_by(process).to_le_bytes()),
    }
    info.0
}

/// Which files are mapped where: their number, the unit of offsets, then start, end and offset of each, then the paths.
///
/// A debugger reads from a file of that name what has no content in the core. One that is no longer what it was is
/// named so that it is not found, as the kernel does with one that was deleted.
fn files(checkpoint: &Checkpoint, process: &Process, unchanged: &impl Fn(&FileRef) -> bool) -> Vec<u8> {
    let (mut places, mut names, mut count) = (Vec::new(), Vec::new(), 0u64);
    for region in &process.rm.regions {
        let (offset, name) = match &region.attachment {
            Attachment::File { file, offset, .. } => {
                let mut name = file.path.as_bytes().to_vec();
                if !unchanged(file) {
                    name.extend_from_slice(b" (changed)");
                }
                (*offset, name)
            }
            Attachment::Description { description, offset, .. } => {
                let found = checkpoint.descriptions.get(description.index());
                match found.and_then(|found| crate::object::path(checkpoint, &found.capability)) {
                    Some(path) => (*offset, [path.as_bytes(), b" (deleted)"].concat()),
                    None => continue,
                }
            }
            Attachment::Anonymous
            | Attachment::Dataspace { .. }
            | Attachment::Segment { .. }
            | Attachment::Special(_)
            | Attachment::Aio { .. } => continue,
        };
        for word in [region.range.start(), region.range.end(), offset / PAGE_SIZE] {
            places.extend_from_slice(&word.to_le_bytes());
        }
        names.extend_from_slice(&name);
        names.push(0);
        count += 1;
    }
    [&count.to_le_bytes()[..], &PAGE_SIZE.to_le_bytes(), &places, &names].concat()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn parts_of_an_xsave_area_lie_where_debuggers_look_for_them() {
        let mut area = vec![0; 2432];
        area[FXSAVE_HARDWARE..FXSAVE_HARDWARE + 8].copy_from_slice(&0xe7u64.to_le_bytes());
        area[832] = 1;
        area[2431] = 2;
        let moved = as_debuggers_know_it(&area);
        assert_eq!((moved.len(), moved[1088], moved[2687]), (2688, 1, 2));
        area[FXSAVE_HARDWARE] = 0x07;
        assert_eq!(as_debuggers_know_it(&area), area);
    }

    #[test]
    fn each_part_of_a_note_is_aligned() {
        let mut out = Vec::new();
        note(&mut out, b"LINUX", NT_X86_XSTATE, b"abcde");
        assert_eq!(out, b"\x06\0\0\0\x05\0\0\0\x02\x02\0\0LINUX\0\0\0abcde\0\0\0");
    }
}
