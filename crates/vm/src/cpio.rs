//! Archives in cpio's "newc" format, which the kernel unpacks as its first root.
//!
//! Source: `Documentation/driver-api/early-userspace/buffer-format.rst` of Linux. Times are zero and inode numbers count
//! from 1, so the same content gives the same bytes.

use std::io::{self, Write};

/// The kinds of a node and its bits, as of stat(2).
const DIRECTORY: u32 = 0o040_000;
const REGULAR: u32 = 0o100_000;
const LINK: u32 = 0o120_000;

/// Writes an archive.
#[derive(Debug)]
pub(crate) struct Archive<W: Write> {
    out: W,
    inode: u32,
    written: usize,
}

impl<W: Write> Archive<W> {
    /// Begins one.
    pub(crate) fn new(out: W) -> Self {
        Self { out, inode: 1, written: 0 }
    }

    /// Adds a directory; those above it come first.
    ///
    /// # Errors
    /// Those of writing.
    pub(crate) fn directory(&mut self, path: &str, bits: u32) -> io::Result<()> {
        self.node(path, DIRECTORY | bits, &[])
    }

    /// Adds a file.
    ///
    /// # Errors
    /// Those of writing.
    pub(crate) fn file(&mut self, path: &str, bits: u32, content: &[u8]) -> io::Result<()> {
        self.node(path, REGULAR | bits, content)
    }

    /// Adds a symbolic link.
    ///
    /// # Errors
    /// Those of writing.
    pub(crate) fn link(&mut self, path: &str, target: &str) -> io::Result<()> {
        self.node(path, LINK | 0o777, target.as_bytes())
    }

    /// Ends the archive.
    ///
    /// # Errors
    /// Those of writing.
    pub(crate) fn finish(mut self) -> io::Result<W> {
        self.node("TRAILER!!!", 0, &[])?;
        self.out.flush()?;
        Ok(self.out)
    }

    fn node(&mut self, path: &str, mode: u32, content: &[u8]) -> io::Result<()> {
        let path = path.trim_start_matches('/');
        let len = u32::try_from(content.len()).map_err(|_| io::ErrorKind::FileTooLarge)?;
        // Magic; inode, mode, uid, gid, links, time, length; two device numbers; length of the name, checksum.
        let links = if mode & DIRECTORY == DIRECTORY { 2 } else { 1 };
        let fields = [self.inode, mode, 0, 0, links, 0, len, 0, 0, 0, 0, path.len() as u32 + 1, 0];
        self.inode += 1;
        self.put(b"070701")?;
        for field in fields {
            self.put(format!("{field:08X}").as_bytes())?;
        }
        self.put(path.as_bytes())?;
        self.put(b"\0")?;
        self.align()?;
        self.put(content)?;
        self.align()
    }

    fn put(&mut self, bytes: &[u8]) -> io::Result<()> {
        self.written += bytes.len();
        self.out.write_all(bytes)
    }

    fn align(&mut self) -> io::Result<()> {
        let missing = self.written.next_multiple_of(4) - self.written;
        self.put(&[0; 3][..missing])
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_part_begins_at_a_multiple_of_four() {
        let mut archive = Archive::new(Vec::new());
        archive.directory("bin", 0o755).unwrap();
        archive.file("/bin/abc", 0o755, b"12345").unwrap();
        archive.link("bin/x", "abc").unwrap();
        let bytes = archive.finish().unwrap();
        let text = String::from_utf8(bytes).unwrap();
        assert_eq!(text.len() % 4, 0);
        let starts: Vec<usize> = text.match_indices("070701").map(|(at, _)| at).collect();
        assert_eq!(starts.len(), 4);
        assert!(starts.iter().all(|at| at % 4 == 0), "{starts:?}");
        assert!(text.contains("bin/abc\0") && text.contains("12345\0\0\0"));
        assert!(text.starts_with("070701 00000001".replace(' ', "").as_str()));
    }
}
