//! What is mounted where, as `/proc/PID/mountinfo` tells it.

use crate::proc;

/// A line of proc_pid_mountinfo(5): `36 35 98:0 /mnt1 /mnt2 rw,noatime shared:1 - ext3 /dev/root rw`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Mount {
    /// The number by which fdinfo names it.
    pub id: u64,
    /// The device of its file system, 12 bits of major and 20 bits of minor number.
    pub device: u32,
    /// The directory of the file system that is seen there.
    pub root: Vec<u8>,
    /// Where it is.
    pub path: Vec<u8>,
    /// The type of the file system.
    pub file_system: String,
    /// What it was mounted from.
    pub source: Vec<u8>,
}

/// Lists what a process, by its number or `self`, has mounted: of several at one place the one that is seen comes last.
pub fn of(process: &str) -> Vec<Mount> {
    let text = proc::file(format!("/proc/{process}/mountinfo").as_ref()).unwrap_or_default();
    text.split(|byte| *byte == b'\n').filter_map(parse).collect()
}

fn parse(line: &[u8]) -> Option<Mount> {
    let text = |word: &[u8]| std::str::from_utf8(word).map(str::to_owned).ok();
    let mut fields = line.split(|byte| *byte == b' ');
    let id = text(fields.next()?)?.parse().ok()?;
    let device = text(fields.nth(1)?)?;
    let (major, minor) = device.split_once(':')?;
    let device = major.parse::<u32>().ok()? << 20 | minor.parse::<u32>().ok()?;
    let (root, path) = (proc::unescape(fields.next()?), proc::unescape(fields.next()?));
    let mut rest = fields.skip_while(|word| *word != b"-").skip(1);
    let (file_system, source) = (text(rest.next()?)?, proc::unescape(rest.next()?));
    Some(Mount { id, device, root, path, file_system, source })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_mount_point_with_a_space_is_read() {
        let mount = parse(br"36 35 0:42 / /a\040b\134c rw shared:1 - fuse.sshfs host:\040 rw")
            .map(|mount| (mount.id, mount.device, mount.path, mount.file_system, mount.source));
        assert_eq!(mount, Some((36, 42, br"/a b\c".to_vec(), "fuse.sshfs".to_owned(), b"host: ".to_vec())));
        assert!(parse(b"").is_none());
        assert!(of("self").iter().any(|mount| mount.path == b"/proc"));
    }
}
