//! `/proc/PID/smaps`: the mappings of a process with their flags.

use rustix::io::{Errno, Result};

/// One mapping.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Mapping {
    /// Its first address.
    pub start: u64,
    /// The address behind it.
    pub end: u64,
    /// PROT_READ.
    pub read: bool,
    /// PROT_WRITE.
    pub write: bool,
    /// PROT_EXEC.
    pub execute: bool,
    /// MAP_SHARED, or one that may become writable and shared.
    pub shared: bool,
    /// Offset in the file in bytes.
    pub offset: u64,
    /// Device of the file, as `st_dev` encodes it.
    pub device: u64,
    /// Inode of the file, 0 for none.
    pub inode: u64,
    /// The path, or a name in brackets; empty for plain anonymous memory. ` (deleted)` is still behind it. A newline may be
    /// one, or the four characters `\012`, which the kernel shows alike.
    pub name: Vec<u8>,
    /// `VmFlags`.
    pub flags: VmFlags,
    /// `ProtectionKey`, 0 by default.
    pub protection_key: u32,
    /// `KernelPageSize` in bytes: larger than a page for hugetlb.
    pub page_bytes: u64,
}

/// The two-letter flags of `VmFlags` in smaps, see `Documentation/filesystems/proc.rst`.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct VmFlags(Vec<[u8; 2]>);

impl VmFlags {
    /// Returns whether a flag is set.
    pub fn has(&self, flag: [u8; 2]) -> bool {
        self.0.contains(&flag)
    }

    /// Reads them as [`letters`](Self::letters) gives them.
    pub fn of_letters(letters: &[u8]) -> Self {
        Self(letters.as_chunks().0.to_vec())
    }

    /// Returns them one behind the other.
    pub fn letters(&self) -> &[u8] {
        self.0.as_flattened()
    }

    /// Takes a flag away.
    pub fn remove(&mut self, flag: [u8; 2]) {
        self.0.retain(|other| *other != flag);
    }
}

/// Reads all mappings with their flags, in ascending order.
///
/// Costs a walk over the page tables: 20 ms for each GiB of 4 KiB pages.
///
/// # Errors
/// ENOENT or ESRCH if the process is gone, EACCES without the right to read it.
pub fn mappings(pid: i32) -> Result<Vec<Mapping>> {
    parse(&super::read(pid, "smaps")?).ok_or(Errno::IO)
}

/// Reads all mappings without their flags: no walk over the page tables.
///
/// # Errors
/// As [`mappings`].
pub fn bare_mappings(pid: i32) -> Result<Vec<Mapping>> {
    parse(&super::read(pid, "maps")?).ok_or(Errno::IO)
}

fn parse(text: &[u8]) -> Option<Vec<Mapping>> {
    let mut mappings: Vec<Mapping> = Vec::new();
    for line in text.split(|byte| *byte == b'\n') {
        // A line of a field starts with a capital and its name ends in a colon; one of a mapping starts with
        // lower-case hexadecimal digits.
        if line.first().is_some_and(u8::is_ascii_uppercase) {
            let mapping = mappings.last_mut()?;
            if let Some(flags) = line.strip_prefix(b"VmFlags:") {
                mapping.flags = VmFlags(
                    flags.split(|byte| *byte == b' ').filter_map(|word| word.try_into().ok()).collect(),
                );
            } else if let Some(key) = line.strip_prefix(b"ProtectionKey:") {
                mapping.protection_key = std::str::from_utf8(key).ok()?.trim().parse().ok()?;
            } else if let Some(size) = line.strip_prefix(b"KernelPageSize:") {
                let kib = std::str::from_utf8(size).ok()?.split_ascii_whitespace().next()?;
                mapping.page_bytes = kib.parse::<u64>().ok()? * 1024;
            }
        } else if !line.is_empty() {
            mappings.push(parse_head(line)?);
        }
    }
    Some(mappings)
}

fn parse_head(line: &[u8]) -> Option<Mapping> {
    let mut fields = line.splitn(6, |byte| *byte == b' ');
    let mut text = || std::str::from_utf8(fields.next()?).ok();
    let (start, end) = text()?.split_once('-')?;
    let rights = text()?.as_bytes();
    let offset = text()?;
    let (major, minor) = text()?.split_once(':')?;
    let inode = text()?;
    let hex = |digits| u64::from_str_radix(digits, 16).ok();
    Some(Mapping {
        start: hex(start)?,
        end: hex(end)?,
        read: rights.first() == Some(&b'r'),
        write: rights.get(1) == Some(&b'w'),
        execute: rights.get(2) == Some(&b'x'),
        shared: rights.get(3) == Some(&b's'),
        offset: hex(offset)?,
        device: rustix::fs::makedev(hex(major)? as u32, hex(minor)? as u32),
        inode: inode.parse().ok()?,
        name: fields.next().map(|name| decoded(name.trim_ascii_start())).unwrap_or_default(),
        flags: VmFlags::default(),
        protection_key: 0,
        page_bytes: 4096,
    })
}

/// How a newline in a name is shown. Nothing else is escaped, not even a backslash (`get_vma_name`, fs/proc/task_mmu.c, gives
/// "\n" as the set to escape).
pub const NEWLINE: &[u8] = b"\\012";

fn decoded(name: &[u8]) -> Vec<u8> {
    let mut decoded = Vec::with_capacity(name.len());
    let mut rest = name;
    while let [first, tail @ ..] = rest {
        let newline = rest.strip_prefix(NEWLINE);
        decoded.push(newline.map_or(*first, |_| b'\n'));
        rest = newline.unwrap_or(tail);
    }
    decoded
}

#[cfg(test)]
mod tests {
    #[test]
    fn nothing_but_a_newline_is_decoded() {
        assert_eq!(super::decoded(b"/a\\012b\\134\\040\\01"), b"/a\nb\\134\\040\\01");
    }

    use super::*;

    #[test]
    fn a_mapping_is_parsed() {
        let text = b"7f0000000000-7f0000002000 r-xp 00001000 fe:01 77                         /lib/a b\n\
            Size:                  8 kB\nKernelPageSize:        4 kB\nProtectionKey:         0\n\
            VmFlags: rd ex mr mw me sd \n\
            7f0000003000-7f0000004000 rw-p 00000000 00:00 0 \nVmFlags: rd wr\n";
        let mappings = parse(text).unwrap();
        assert_eq!(mappings.len(), 2);
        assert_eq!(mappings[0].name, b"/lib/a b");
        assert_eq!((mappings[0].offset, mappings[0].inode), (0x1000, 77));
        assert!(mappings[0].flags.has(*b"ex") && !mappings[0].flags.has(*b"wr"));
        assert!(mappings[1].name.is_empty() && mappings[1].flags.has(*b"wr"));
    }
}
