//! What `/proc/PID/fdinfo` tells of a descriptor.

use crate::proc;
use rustix::fd::{AsFd, AsRawFd, OwnedFd};
use rustix::fs::{Mode, OFlags};
use rustix::io::Result;

/// The text of one `fdinfo` file.
///
/// Its form differs by kind of file; the first lines (`pos`, `flags`, `mnt_id`, since Linux 5.14 `ino`) are common.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct FdInfo(String);

impl FdInfo {
    /// Takes the text of such a file.
    pub fn new(text: impl Into<String>) -> Self {
        Self(text.into())
    }

    /// Reads that of a descriptor of ours.
    pub fn of_ours(fd: impl AsFd) -> Result<Self> {
        let path = format!("/proc/self/fdinfo/{}", fd.as_fd().as_raw_fd());
        let bytes = proc::file(path.as_ref())?;
        Ok(Self(String::from_utf8_lossy(&bytes).into_owned()))
    }

    /// Returns what follows `name:` in the first line that begins with it.
    pub fn field(&self, name: &str) -> Option<&str> {
        self.text().lines().find_map(|line| field_of(line, name))
    }

    /// Returns what follows `name:` in each line that begins with it.
    pub fn fields<'a>(&'a self, name: &'a str) -> impl Iterator<Item = &'a str> {
        self.0.lines().filter_map(move |line| field_of(line, name))
    }

    /// Returns the file offset.
    pub fn position(&self) -> u64 {
        // Printed as signed; a negative one exists only in files that use offsets as cookies.
        self.field("pos").and_then(|text| text.parse::<i64>().ok()).unwrap_or(0) as u64
    }

    /// Returns the open flags, O_CLOEXEC of the descriptor included.
    pub fn flags(&self) -> u32 {
        self.field("flags").and_then(|text| u32::from_str_radix(text, 8).ok()).unwrap_or(0)
    }

    /// Returns the lines as they are.
    pub fn text(&self) -> &str {
        &self.0
    }
}

fn field_of<'a>(line: &'a str, name: &str) -> Option<&'a str> {
    Some(line.strip_prefix(name)?.strip_prefix(':')?.trim())
}

/// The directory `/proc/PID/fdinfo`, of which many files are read.
#[derive(Debug)]
pub struct FdInfos {
    directory: OwnedFd,
    buffer: Vec<u8>,
}

impl FdInfos {
    /// Opens that of process `pid`.
    ///
    /// # Errors
    /// ENOENT if the process is gone.
    pub fn of(pid: i32) -> Result<Self> {
        let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC;
        let directory = rustix::fs::open(proc::path(pid, "fdinfo"), flags, Mode::empty())?;
        Ok(Self { directory, buffer: vec![0; 8192] })
    }

    /// Reads that of descriptor `fd`.
    ///
    /// # Errors
    /// ENOENT if the process or the descriptor is gone.
    pub fn read(&mut self, fd: i32) -> Result<FdInfo> {
        let file = rustix::fs::openat(
            &self.directory,
            fd.to_string(),
            OFlags::RDONLY | OFlags::CLOEXEC,
            Mode::empty(),
        )?;
        let mut text = Vec::new();
        loop {
            let count = rustix::io::read(&file, &mut self.buffer[..])?;
            text.extend_from_slice(&self.buffer[..count]);
            // The text is made as a whole at the first read (single_open, fs/seq_file.c): only its last part is short.
            if count < self.buffer.len() {
                return Ok(FdInfo(String::from_utf8_lossy(&text).into_owned()));
            }
        }
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    #[test]
    fn common_fields_are_found_whatever_follows() {
        let info = FdInfo::new("pos:\t12\nflags:\t02100002\nmnt_id:\t15\neventfd-count:                5\n");
        assert_eq!((info.position(), info.flags()), (12, 0o2_100_002));
        assert_eq!(info.field("eventfd-count"), Some("5"));
        assert_eq!(info.field("eventfd"), None);
        let ours = FdInfo::of_ours(std::io::stdin()).unwrap();
        assert!(ours.field("mnt_id").is_some());
    }
}
