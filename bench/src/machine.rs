//! The machine that the numbers come from.

use serde::Serialize;
use std::path::Path;

/// A description of the machine and of what was measured on it.
#[derive(Serialize)]
pub(crate) struct Machine {
    cpu: String,
    cpus: usize,
    memory_bytes: u64,
    kernel: String,
    file_system: String,
    huge_pages: String,
    user: &'static str,
    /// How busy it was before the run: the load of one, five and fifteen minutes.
    load: String,
    /// The version of frost, as it says itself.
    frost: String,
    /// Seconds since 1970.
    time: u64,
}

impl Machine {
    /// Describes this one; `directory` is where the files lie.
    pub(crate) fn describe(directory: &Path, frost: String) -> Self {
        let read = |path: &str| std::fs::read_to_string(path).unwrap_or_default();
        let field = |text: &str, name: &str| {
            text.lines()
                .find_map(|line| line.strip_prefix(name)?.split_once(':'))
                .map(|(_, value)| value.trim().to_owned())
                .unwrap_or_default()
        };
        let memory = field(&read("/proc/meminfo"), "MemTotal");
        let memory_kib: u64 = memory.split(' ').next().and_then(|kib| kib.parse().ok()).unwrap_or(0);
        Self {
            cpu: field(&read("/proc/cpuinfo"), "model name"),
            cpus: std::thread::available_parallelism().map_or(0, usize::from),
            memory_bytes: memory_kib * 1024,
            kernel: rustix::system::uname().release().to_string_lossy().into_owned(),
            file_system: file_system(directory),
            huge_pages: read("/sys/kernel/mm/transparent_hugepage/enabled").trim().to_owned(),
            user: if rustix::process::geteuid().is_root() { "root" } else { "ordinary" },
            load: read("/proc/loadavg").split(' ').take(3).collect::<Vec<_>>().join(" "),
            frost,
            time: std::time::SystemTime::now()
                .duration_since(std::time::UNIX_EPOCH)
                .map_or(0, |since| since.as_secs()),
        }
    }

    /// One line for the head of a table.
    pub(crate) fn line(&self) -> String {
        format!(
            "{}, {} CPUs, {} GiB, Linux {}, {}, as {} user, load before {}",
            self.cpu,
            self.cpus,
            self.memory_bytes >> 30,
            self.kernel,
            self.file_system,
            self.user,
            self.load
        )
    }

    /// When it was.
    pub(crate) fn time(&self) -> u64 {
        self.time
    }
}

/// The type of the file system that a directory is on, from the mount table: the longest mount point above it.
fn file_system(directory: &Path) -> String {
    let directory = directory.canonicalize().unwrap_or_else(|_| directory.to_owned());
    let mounts = std::fs::read_to_string("/proc/self/mounts").unwrap_or_default();
    mounts
        .lines()
        .filter_map(|line| {
            let mut fields = line.split(' ').skip(1);
            Some((fields.next()?, fields.next()?))
        })
        .filter(|(point, _)| directory.starts_with(point))
        .max_by_key(|(point, _)| point.len())
        .map_or_else(String::new, |(_, kind)| kind.to_owned())
}
