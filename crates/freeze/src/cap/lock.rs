//! Locks on files.

use super::recognise::{CLOSE_FIRST, Refusal};
use frost_model::Pid;
use frost_model::cap::{Lock, LockKind};
use frost_sys::fdinfo::FdInfo;

/// Reads the locks that `holder` has through one of its descriptors, out of that descriptor's fdinfo.
///
/// Each is a line as `lock: 1: POSIX  ADVISORY  WRITE 4127 08:01:77 0 EOF`. Locks of a process are shown only in that
/// process' own fdinfo, those of a description in that of every descriptor of it (show_fd_locks, fs/locks.c).
pub(super) fn parse(info: &FdInfo, holder: Pid) -> Vec<Result<Lock, Refusal>> {
    info.fields("lock").filter_map(|line| parse_line(line, holder)).collect()
}

fn parse_line(line: &str, holder: Pid) -> Option<Result<Lock, Refusal>> {
    let fields: Vec<&str> = line.split_whitespace().collect();
    // A request that waits behind a held lock is shown with an arrow; the call that waits is issued again.
    let [_, kind, _, access, .., start, end] = fields[..] else { return None };
    if kind == "->" {
        return None;
    }
    let kind = match kind {
        "POSIX" => LockKind::Process(holder),
        "OFDLCK" => LockKind::Description,
        "FLOCK" => LockKind::Flock,
        // One that is to be given up, since another waits to open the file: the other is not there any more at thaw, and
        // had it been, the kernel would not have waited longer than /proc/sys/fs/lease-break-time.
        "LEASE" if access == "UNLCK" => return None,
        "LEASE" => LockKind::Lease,
        _ => {
            return Some(Err(Refusal::new(
                format!("file with a lock of kind {kind}"),
                "frost does not know this kind of lock",
                CLOSE_FIRST,
            )));
        }
    };
    let start = start.parse().ok()?;
    let end = if end == "EOF" { None } else { Some(end.parse().ok()?) };
    Some(Ok(Lock { kind, exclusive: access == "WRITE", start, end }))
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    #[test]
    fn each_kind_of_lock_is_read_and_an_unknown_one_is_refused() {
        let info = FdInfo::new(
            "pos:\t0\nlock:\t1: POSIX  ADVISORY  WRITE 4127 08:01:77 10 19\n\
             lock:\t2: FLOCK  ADVISORY  READ 4127 08:01:77 0 EOF\nlock:\t3: LEASE  ACTIVE    READ 1 08:01:77 0 EOF\n\
             lock:\t4: LEASE  BREAKING  UNLCK 1 08:01:77 0 EOF\nlock:\t5: DELEG  ACTIVE    READ 1 08:01:77 0 EOF\n",
        );
        let locks = parse(&info, Pid::new(7));
        let process =
            Lock { kind: LockKind::Process(Pid::new(7)), exclusive: true, start: 10, end: Some(19) };
        let whole = Lock { kind: LockKind::Flock, exclusive: false, start: 0, end: None };
        assert_eq!(locks[0].clone().unwrap(), process);
        assert_eq!(locks[1].clone().unwrap(), whole);
        let lease = Lock { kind: LockKind::Lease, exclusive: false, start: 0, end: None };
        assert_eq!(locks[2].clone().unwrap(), lease);
        assert!(locks[3].is_err());
        assert_eq!(locks.len(), 4);
    }
}
