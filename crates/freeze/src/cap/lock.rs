//! Locks on files.

use super::recognise::Refusal;
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
        _ => {
            return Some(Err(Refusal::new(
                "file with a lease",
                "a lease is a promise that the kernel cannot be asked to renew",
                "let the program give it up first",
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
    fn each_kind_of_lock_is_read_and_a_lease_is_refused() {
        let info = FdInfo::new(
            "pos:\t0\nlock:\t1: POSIX  ADVISORY  WRITE 4127 08:01:77 10 19\n\
             lock:\t2: FLOCK  ADVISORY  READ 4127 08:01:77 0 EOF\nlock:\t3: LEASE  ACTIVE    READ 1 08:01:77 0 EOF\n",
        );
        let locks = parse(&info, Pid::new(7));
        let process =
            Lock { kind: LockKind::Process(Pid::new(7)), exclusive: true, start: 10, end: Some(19) };
        let whole = Lock { kind: LockKind::Flock, exclusive: false, start: 0, end: None };
        assert_eq!(locks[0].clone().unwrap(), process);
        assert_eq!(locks[1].clone().unwrap(), whole);
        assert!(locks[2].is_err());
    }
}
