//! Disks of guests: what they begin with, and the layer of what a guest wrote.
//!
//! A guest never writes to what its disk began with; a layer in qcow2 lies over it. So copies of one guest share the
//! beginning, and a freeze takes the layer.

use crate::error::{Error, Result};
use crate::program;
use rustix::fd::{AsFd, BorrowedFd};
use rustix::fs::SeekFrom;
use rustix::io::Errno;
use std::fs::{self, File, OpenOptions};
use std::os::unix::fs::{FileExt, OpenOptionsExt};
use std::path::Path;
use std::process::Command;

/// What a root has beside its files: room to write.
const SPARE_BYTES: u64 = 1 << 30;

/// Makes a disk in qcow2 of a directory: a file system with its files, and a GiB or half as much again to write in. It takes
/// the room of the files only. Returns the size of the disk.
///
/// # Errors
/// [`Error::NoProgram`] without e2fsprogs; [`Error::Program`], as for a file that cannot be read.
pub fn from_directory(directory: &Path, image: &Path) -> Result<u64> {
    let used = used_bytes(directory)?;
    // Small files take a block and an inode each, which are counted in `used`.
    let len_bytes = (used + used / 2 + SPARE_BYTES).next_multiple_of(1 << 20);
    let raw = image.with_extension("raw");
    let file = create(&raw)?;
    file.set_len(len_bytes).map_err(Error::file(&raw))?;
    let tool = ["/usr/sbin/mkfs.ext4", "/sbin/mkfs.ext4"].into_iter().find(|path| Path::new(path).exists());
    let mut command = Command::new(tool.unwrap_or("mkfs.ext4"));
    // All is written now, so that the guest's kernel does not do it later, which would fill the layer.
    command.args(["-q", "-F", "-L", "root", "-E", "root_owner=0:0,lazy_itable_init=0,lazy_journal_init=0"]);
    command.arg("-d").arg(directory).arg(&raw);
    program::run(&mut command, "makes file systems of directories", "e2fsprogs")?;
    compact(&file, len_bytes, image)?;
    std::fs::remove_file(&raw).map_err(Error::file(&raw))?;
    Ok(len_bytes)
}

/// The room that the files below a directory take, in blocks and inodes.
fn used_bytes(directory: &Path) -> Result<u64> {
    let mut total = 0;
    let mut directories = vec![directory.to_owned()];
    while let Some(directory) = directories.pop() {
        for entry in fs::read_dir(&directory).map_err(Error::file(&directory))? {
            let entry = entry.map_err(Error::file(&directory))?;
            let data = entry.metadata().map_err(Error::file(entry.path()))?;
            total += data.len().next_multiple_of(4096) + 1024;
            if data.is_dir() {
                directories.push(entry.path());
            }
        }
    }
    Ok(total)
}

/// Makes an empty file that only we may read and write; one that was there is replaced.
pub(crate) fn create(path: &Path) -> Result<File> {
    OpenOptions::new()
        .read(true)
        .write(true)
        .create(true)
        .truncate(true)
        .mode(0o600)
        .open(path)
        .map_err(Error::file(path))
}

/// Makes an empty layer over a disk of `len_bytes`. The disk below has no name in it: QEMU is told at each start.
///
/// # Errors
/// [`Error::File`].
pub fn empty_layer(path: &Path, len_bytes: u64) -> Result<()> {
    write_qcow2(path, len_bytes, &[], None)
}

/// Copies a raw disk into qcow2, without what is a hole in it.
fn compact(raw: &File, len_bytes: u64, path: &Path) -> Result<()> {
    let mut clusters = Vec::new();
    let mut at = 0;
    let failed = |errno: Errno| Error::File { path: path.to_owned(), source: errno.into() };
    while at < len_bytes {
        match rustix::fs::seek(raw, SeekFrom::Data(at)) {
            Ok(data) if data < len_bytes => {
                let hole = rustix::fs::seek(raw, SeekFrom::Hole(data)).map_err(failed)?.min(len_bytes);
                let first = (data / CLUSTER).max(clusters.last().map_or(0, |last| last + 1));
                clusters.extend(first..hole.div_ceil(CLUSTER));
                at = hole;
            }
            // ENXIO: there is only a hole.
            Ok(_) | Err(Errno::NXIO) => break,
            Err(errno) => return Err(failed(errno)),
        }
    }
    write_qcow2(path, len_bytes, &clusters, Some(raw))
}

const CLUSTER: u64 = 1 << 16;

/// Writes a disk in qcow2 that has these clusters of `source`, ascending, and holes else.
///
/// Source: `docs/interop/qcow2.txt` of QEMU, version 3. In clusters of 64 KiB there follow each other: the header; a table
/// of counts, and its blocks of 32768 counts each; the first table of addresses; for each of its entries that is not zero a
/// table of the second level with 8192 addresses; the data.
fn write_qcow2(path: &Path, len_bytes: u64, clusters: &[u64], source: Option<&File>) -> Result<()> {
    const COPIED: u64 = 1 << 63; // counted once, so that it may be written in place
    let addresses = CLUSTER / 8;
    let first_entries = len_bytes.div_ceil(CLUSTER * addresses).max(1);
    let first_clusters = (first_entries * 8).div_ceil(CLUSTER);
    let mut seconds: Vec<u64> = clusters.iter().map(|cluster| cluster / addresses).collect();
    seconds.dedup();
    let fixed = 2 + first_clusters + seconds.len() as u64 + clusters.len() as u64;
    // The blocks of counts are counted, too.
    let mut blocks = 1;
    while blocks * (CLUSTER / 2) < fixed + blocks {
        blocks += 1;
    }
    let first_at = (2 + blocks) * CLUSTER;
    let seconds_at = first_at + first_clusters * CLUSTER;
    let data_at = seconds_at + seconds.len() as u64 * CLUSTER;

    let mut header = Vec::new();
    let put32 = |bytes: &mut Vec<u8>, value: u32| bytes.extend_from_slice(&value.to_be_bytes());
    let put64 = |bytes: &mut Vec<u8>, value: u64| bytes.extend_from_slice(&value.to_be_bytes());
    header.extend_from_slice(b"QFI\xfb");
    put32(&mut header, 3);
    put64(&mut header, 0); // no name of a disk below
    put32(&mut header, 0);
    put32(&mut header, CLUSTER.trailing_zeros());
    put64(&mut header, len_bytes);
    put32(&mut header, 0); // no encryption
    put32(&mut header, first_entries as u32);
    put64(&mut header, first_at);
    put64(&mut header, CLUSTER); // the table of counts
    put32(&mut header, 1);
    put32(&mut header, 0); // no snapshots
    put64(&mut header, 0);
    put64(&mut header, 0); // features: needed, that may be ignored, that are cleared by writers
    put64(&mut header, 0);
    put64(&mut header, 0);
    put32(&mut header, 4); // counts of 16 bits
    put32(&mut header, 104);

    let file = create(path)?;
    let write = |bytes: &[u8], offset: u64| file.write_all_at(bytes, offset).map_err(Error::file(path));
    let words = |words: &mut dyn Iterator<Item = u64>| words.flat_map(u64::to_be_bytes).collect::<Vec<u8>>();
    file.set_len((fixed + blocks) * CLUSTER).map_err(Error::file(path))?;
    write(&header, 0)?;
    write(&words(&mut (2..2 + blocks).map(|block| block * CLUSTER)), CLUSTER)?;
    let counts: Vec<u8> = (0..fixed + blocks).flat_map(|_| 1u16.to_be_bytes()).collect();
    write(&counts, 2 * CLUSTER)?;
    let mut buffer = vec![0; CLUSTER as usize];
    let mut next = 0;
    for (index, second) in seconds.iter().enumerate() {
        let at = seconds_at + index as u64 * CLUSTER;
        write(&(at | COPIED).to_be_bytes(), first_at + second * 8)?;
        while let Some(cluster) = clusters.get(next).filter(|cluster| *cluster / addresses == *second) {
            let data = data_at + next as u64 * CLUSTER;
            write(&(data | COPIED).to_be_bytes(), at + cluster % addresses * 8)?;
            if let Some(source) = source {
                let len = (len_bytes - cluster * CLUSTER).min(CLUSTER) as usize;
                let part = &mut buffer[..len];
                source.read_exact_at(part, cluster * CLUSTER).map_err(Error::file(path))?;
                write(part, data)?;
            }
            next += 1;
        }
    }
    Ok(())
}

/// The size of the disk that a file in qcow2 holds; `None` if it is not in that format.
pub(crate) fn qcow2_bytes(file: &File) -> Option<u64> {
    let mut header = [0; 32];
    file.read_exact_at(&mut header, 0).ok()?;
    let size: [u8; 8] = header[24..32].try_into().ok()?;
    (header[..4] == *b"QFI\xfb").then(|| u64::from_be_bytes(size))
}

/// Copies `len_bytes` between files, leaving out what is a hole in the source; the target is sparse there already. File
/// systems that can share blocks between files share them.
///
/// # Errors
/// Those of the calls.
pub(crate) fn copy_sparse(
    from: impl AsFd,
    from_offset: u64,
    to: BorrowedFd<'_>,
    to_offset: u64,
    len_bytes: u64,
) -> std::result::Result<(), Errno> {
    let from = from.as_fd();
    let end = from_offset + len_bytes;
    let mut at = from_offset;
    while at < end {
        let data = match rustix::fs::seek(from, SeekFrom::Data(at)) {
            Ok(data) if data < end => data,
            // ENXIO: there is only a hole.
            Ok(_) | Err(Errno::NXIO) => break,
            Err(errno) => return Err(errno),
        };
        let hole = rustix::fs::seek(from, SeekFrom::Hole(data))?.min(end);
        let mut start = data;
        while start < hole {
            let (mut reads, mut writes) = (start, to_offset + (start - from_offset));
            let len = usize::try_from(hole - start).unwrap_or(1 << 30).min(1 << 30);
            match rustix::fs::copy_file_range(from, Some(&mut reads), to, Some(&mut writes), len) {
                Ok(0) => return Err(Errno::IO),
                Ok(count) => start += count as u64,
                Err(Errno::INTR) => {}
                // Between file systems that have nothing to do with each other.
                Err(Errno::XDEV | Errno::OPNOTSUPP | Errno::INVAL) => {
                    start += copy_some(from, start, to, to_offset + (start - from_offset), hole - start)?;
                }
                Err(errno) => return Err(errno),
            }
        }
        at = hole;
    }
    Ok(())
}

fn copy_some(
    from: BorrowedFd<'_>,
    from_offset: u64,
    to: BorrowedFd<'_>,
    to_offset: u64,
    len_bytes: u64,
) -> std::result::Result<u64, Errno> {
    let mut buffer = vec![0; len_bytes.min(1 << 20) as usize];
    let count = rustix::io::pread(from, &mut buffer, from_offset)?;
    let mut written = 0;
    while written < count {
        match rustix::io::pwrite(to, &buffer[written..count], to_offset + written as u64)? {
            0 => return Err(Errno::NOSPC),
            more => written += more,
        }
    }
    if count == 0 { Err(Errno::IO) } else { Ok(count as u64) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_layer_tells_the_size_of_its_disk() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("layer");
        for len_bytes in [1 << 20, 3 << 30, 1 << 45] {
            empty_layer(&path, len_bytes).unwrap();
            assert_eq!(qcow2_bytes(&File::open(&path).unwrap()), Some(len_bytes));
        }
    }

    #[test]
    fn holes_stay_holes_and_data_is_copied_whole() {
        use std::os::unix::fs::MetadataExt;
        let directory = tempfile::tempdir().unwrap();
        let (from, to) = (directory.path().join("a"), directory.path().join("b"));
        let source = create(&from).unwrap();
        source.set_len(64 << 20).unwrap();
        source.write_all_at(&[7; 5000], 3 << 20).unwrap();
        source.write_all_at(&[8; 5000], (64 << 20) - 5000).unwrap();
        let target = create(&to).unwrap();
        target.set_len(65 << 20).unwrap();
        copy_sparse(&source, 0, target.as_fd(), 1 << 20, 64 << 20).unwrap();
        let mut bytes = vec![0; 64 << 20];
        target.read_exact_at(&mut bytes, 1 << 20).unwrap();
        let mut wanted = vec![0; 64 << 20];
        source.read_exact_at(&mut wanted, 0).unwrap();
        assert!(bytes == wanted);
        assert!(target.metadata().unwrap().blocks() * 512 < 4 << 20);
    }
}
