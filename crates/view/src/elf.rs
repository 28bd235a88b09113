//! An ELF core of a frozen process, as the kernel would have written it had the process died there.
//!
//! Every region becomes one or more segments (PT_LOAD). What the image holds is content; what it leaves to a file is left
//! to the file here too, as the kernel does: a segment without content, and the file named in NT_FILE. Zeros are holes of
//! the output where it can have some.
//!
//! Sources: elf(5), core(5); `fs/binfmt_elf.c` and `include/linux/elfcore.h` of Linux 6.18 for the notes;
//! `bfd/elf.c` and `gdb/corelow.c` of gdb for how they are read.

mod layout;
mod notes;
mod sink;

pub use sink::{FileSink, Sink, StreamSink};

use crate::Error;
use crate::memory::{self, Base, Piece, Source};
use frost_model::cap::FileRef;
use frost_model::rm::{Attachment, SpecialRegion};
use frost_model::{BytePath, Checkpoint, PAGE_SIZE, Process};
use frost_store::{Image, PackPages};
use layout::Segment;
use rustix::fd::OwnedFd;
use std::collections::BTreeMap;
use std::os::fd::AsFd;

/// How much is copied at a time.
const CHUNK_BYTES: u64 = 256 * 1024;

/// Holes up to this length between stored pages are written as part of a segment, so that a fragmented heap does not
/// become as many segments as it has pages.
const JOIN_BYTES: u64 = 1 << 20;

/// A core that can be written.
#[derive(Debug)]
pub struct Core<'a> {
    image: &'a Image,
    head: Vec<u8>,
    segments: Vec<Segment>,
    files: Files<'a>,
    vdso: Option<Vec<u8>>,
}

impl<'a> Core<'a> {
    /// Plans the core of one process of an image. A zombie has no memory and no threads, and makes no core.
    pub fn plan(image: &'a Image, process: &'a Process) -> Option<Self> {
        if process.cpu.threads.is_empty() {
            return None;
        }
        let checkpoint = image.checkpoint();
        let mut files = Files::default();
        let vdso = vdso(process);
        let mut segments = Vec::new();
        for region in &process.rm.regions {
            let base = memory::base(checkpoint, region);
            // Not even the kernel lets a process unmap it, and it lies beyond all that a core describes.
            if matches!(base, Base::Kernel(SpecialRegion::Vsyscall)) {
                continue;
            }
            let file = match base {
                Base::File(file, _) => files.open(file),
                _ => None,
            };
            let begins_elf = region.private.runs.first().is_none_or(|run| run.offset > 0)
                && matches!(base, Base::File(_, 0))
                && file.is_some_and(is_elf);
            let is_deleted = matches!(region.attachment, Attachment::Description { .. });
            let has_vdso = vdso.is_some() && matches!(base, Base::Kernel(SpecialRegion::Vdso));
            let pieces = memory::pieces(checkpoint, region).into_iter().map(|piece| {
                // A debugger recognises a binary by the build-id on its first page, whatever lies at its path by then.
                let stored = match piece.source {
                    Source::Pack(_) => piece.len_bytes,
                    Source::File(0) if begins_elf => PAGE_SIZE.min(piece.len_bytes),
                    Source::Kernel if has_vdso => piece.len_bytes,
                    // A debugger takes a file that it cannot find for unknown, and not for what the segment says.
                    Source::Zeros if is_deleted => piece.len_bytes,
                    Source::File(_) | Source::Zeros | Source::Kernel => 0,
                };
                let fillable = match piece.source {
                    Source::File(_) => file.is_some(),
                    Source::Kernel => false,
                    Source::Pack(_) | Source::Zeros => true,
                };
                layout::Part { piece, stored, fillable }
            });
            layout::segments(region, pieces, JOIN_BYTES, &mut segments);
        }
        let notes = notes::all(checkpoint, process, |file| files.is_unchanged(file));
        let head = layout::head(&notes, &mut segments);
        Some(Self { image, head, segments, files, vdso })
    }

    /// Returns the length of the core in bytes, its holes included.
    pub fn len_bytes(&self) -> u64 {
        self.segments.iter().fold(self.head.len() as u64, |end, segment| end + segment.file_bytes)
    }

    /// Returns the files that the process had mapped and that are not what they were, or not there: where the process had
    /// not written to them, the core has nothing.
    pub fn changed_files(&self) -> impl Iterator<Item = &BytePath> {
        self.files.opened.iter().filter(|(_, opened)| opened.is_none()).map(|(path, _)| *path)
    }

    /// Writes it, from the first byte to the last. `progress` is told how many bytes of it are done.
    ///
    /// # Errors
    /// [`Error::Store`] if the image is damaged; [`Error::Output`], [`Error::File`].
    pub fn write(&self, out: &mut dyn Sink, progress: &mut dyn FnMut(u64)) -> Result<(), Error> {
        let mut pages = self.image.pages()?;
        let output = |source| Error::Output { source };
        out.bytes(&self.head).map_err(output)?;
        let mut done = self.head.len() as u64;
        let mut buffer = vec![0; CHUNK_BYTES as usize];
        for segment in &self.segments {
            let end = segment.address + segment.file_bytes;
            for piece in segment.pieces.iter().filter(|piece| piece.start < end) {
                let stop = (piece.start + piece.len_bytes).min(end);
                if piece.source == Source::Zeros {
                    out.hole(stop - piece.start).map_err(output)?;
                    done += stop - piece.start;
                    continue;
                }
                let mut at = piece.start;
                while at < stop {
                    let len = (stop - at).min(CHUNK_BYTES);
                    let bytes = &mut buffer[..len as usize];
                    self.read(segment, piece, at - piece.start, &mut pages, bytes)?;
                    if bytes.iter().all(|byte| *byte == 0) {
                        out.hole(len).map_err(output)?;
                    } else {
                        out.bytes(bytes).map_err(output)?;
                    }
                    at += len;
                    done += len;
                    progress(done);
                }
            }
        }
        out.finish().map_err(output)
    }

    fn read(
        &self,
        segment: &Segment,
        piece: &Piece,
        skip: u64,
        pages: &mut PackPages,
        out: &mut [u8],
    ) -> Result<(), Error> {
        match piece.source {
            Source::Pack(offset) => pages.read(offset + skip, out)?,
            Source::File(offset) => {
                let opened = segment.file.as_ref().and_then(|path| self.files.opened.get(path)?.as_ref());
                match opened {
                    Some(file) => read_file(file, offset + skip, out).map_err(|source| Error::File {
                        path: segment.file.as_ref().map(ToString::to_string).unwrap_or_default(),
                        source: source.into(),
                    })?,
                    None => out.fill(0),
                }
            }
            Source::Kernel => {
                let begin = (piece.start - segment.region_start + skip) as usize;
                let code = self.vdso.as_deref().and_then(|code| code.get(begin..)).unwrap_or_default();
                let len = code.len().min(out.len());
                out[..len].copy_from_slice(&code[..len]);
                out[len..].fill(0);
            }
            Source::Zeros => out.fill(0),
        }
        Ok(())
    }
}

/// The files that a process has mapped, each opened once; `None` for those that changed.
#[derive(Debug, Default)]
struct Files<'a> {
    opened: BTreeMap<&'a BytePath, Option<OwnedFd>>,
}

impl<'a> Files<'a> {
    fn open(&mut self, file: &'a FileRef) -> Option<&OwnedFd> {
        self.opened.entry(&file.path).or_insert_with(|| memory::open_unchanged(file)).as_ref()
    }

    fn is_unchanged(&self, file: &FileRef) -> bool {
        self.opened.get(&file.path).is_some_and(Option::is_some)
    }
}

fn is_elf(file: &OwnedFd) -> bool {
    let mut magic = [0; 4];
    read_file(file, 0, &mut magic).is_ok() && magic == *b"\x7fELF"
}

/// Reads all of `out`; zeros behind the end of the file, as in its last page when it is mapped.
fn read_file(file: &OwnedFd, offset: u64, out: &mut [u8]) -> rustix::io::Result<()> {
    let mut done = 0;
    while done < out.len() {
        match rustix::io::pread(file.as_fd(), &mut out[done..], offset + done as u64) {
            Ok(0) => {
                out[done..].fill(0);
                break;
            }
            Ok(count) => done += count,
            Err(rustix::io::Errno::INTR) => {}
            Err(errno) => return Err(errno),
        }
    }
    Ok(())
}

/// The code of the process' vDSO, if it is that of this kernel: an image has only its digest.
///
/// Without it a debugger cannot unwind a thread that stood in it.
fn vdso(process: &Process) -> Option<Vec<u8>> {
    let wanted = process.rm.vdso.as_ref()?;
    let maps = std::fs::read_to_string("/proc/self/maps").ok()?;
    let line = maps.lines().find(|line| line.ends_with("[vdso]"))?;
    let (start, end) = line.split_whitespace().next()?.split_once('-')?;
    let (start, end) = (u64::from_str_radix(start, 16).ok()?, u64::from_str_radix(end, 16).ok()?);
    let memory = std::fs::File::open("/proc/self/mem").ok()?;
    let mut code = vec![0; usize::try_from(end.checked_sub(start)?).ok()?];
    std::os::unix::fs::FileExt::read_exact_at(&memory, &mut code, start).ok()?;
    (*blake3::hash(&code).as_bytes() == wanted.digest).then_some(code)
}

/// The processes of a checkpoint that a core can be made of.
pub fn processes(checkpoint: &Checkpoint) -> impl Iterator<Item = &Process> {
    checkpoint.processes.iter().filter(|process| !process.cpu.threads.is_empty())
}
