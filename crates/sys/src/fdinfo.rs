//! What `/proc/PID/fdinfo` tells of a descriptor.

use crate::proc;
use rustix::fd::{AsFd, AsRawFd};
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

    /// Reads that of descriptor `fd` of process `pid`.
    ///
    /// # Errors
    /// ENOENT if the process or the descriptor is gone.
    pub fn of(pid: i32, fd: i32) -> Result<Self> {
        let bytes = proc::read(pid, &format!("fdinfo/{fd}"))?;
        Ok(Self(String::from_utf8_lossy(&bytes).into_owned()))
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
