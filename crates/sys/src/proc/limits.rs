//! `/proc/PID/limits`.

use rustix::io::Result;

/// Names in the order of the RLIMIT_ numbers (`lnames`, fs/proc/base.c).
const NAMES: [&str; 16] = [
    "Max cpu time",
    "Max file size",
    "Max data size",
    "Max stack size",
    "Max core file size",
    "Max resident set",
    "Max processes",
    "Max open files",
    "Max locked memory",
    "Max address space",
    "Max file locks",
    "Max pending signals",
    "Max msgqueue size",
    "Max nice priority",
    "Max realtime priority",
    "Max realtime timeout",
];

/// Reads soft and hard limits, indexed by the RLIMIT_ number; `u64::MAX` is RLIM_INFINITY.
///
/// # Errors
/// ENOENT or ESRCH if the process is gone.
pub fn limits(pid: i32) -> Result<Vec<(u64, u64)>> {
    Ok(parse(&String::from_utf8_lossy(&super::read(pid, "limits")?)))
}

fn parse(text: &str) -> Vec<(u64, u64)> {
    let value = |word: Option<&str>| word.and_then(|word| word.parse().ok()).unwrap_or(u64::MAX);
    NAMES
        .iter()
        .map(|name| {
            let line = text.lines().find_map(|line| line.strip_prefix(name)).unwrap_or_default();
            let mut words = line.split_ascii_whitespace();
            (value(words.next()), value(words.next()))
        })
        .collect()
}

#[cfg(test)]
mod tests {
    #[test]
    fn limits_are_those_of_the_kernel() {
        let limits = super::limits(std::process::id() as i32).unwrap();
        let files = rustix::process::getrlimit(rustix::process::Resource::Nofile);
        assert_eq!(limits[7].0, files.current.unwrap_or(u64::MAX));
        assert_eq!(
            limits[3].1,
            rustix::process::getrlimit(rustix::process::Resource::Stack).maximum.unwrap_or(u64::MAX)
        );
    }
}
