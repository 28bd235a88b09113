//! What a program can read about itself, as text, to be compared before and after.

use crate::call::{errno, zeroed};
use crate::stage::Verdict;
use std::collections::BTreeMap;

/// Named facts about the calling process.
pub(crate) struct Facts(BTreeMap<String, String>);

impl Facts {
    pub(crate) fn look() -> Self {
        let mut facts = BTreeMap::new();
        let mut add = |name: &str, value: String| {
            facts.insert(name.to_owned(), value);
        };
        unsafe {
            add("pid", libc::getpid().to_string());
            add("tid", libc::gettid().to_string());
            add("session", libc::getsid(0).to_string());
            add("group", libc::getpgrp().to_string());
            let umask = libc::umask(0);
            libc::umask(umask);
            add("umask", format!("{umask:o}"));
            let mut mask: libc::sigset_t = zeroed();
            libc::sigprocmask(libc::SIG_BLOCK, std::ptr::null(), &mut mask);
            add(
                "blocked",
                (1..=64)
                    .filter(|s| libc::sigismember(&mask, *s) == 1)
                    .fold(String::new(), |t, s| t + " " + &s.to_string()),
            );
            let mut stack: libc::stack_t = zeroed();
            libc::sigaltstack(std::ptr::null(), &mut stack);
            add("alternate stack", format!("{:p} {:#x} {}", stack.ss_sp, stack.ss_flags, stack.ss_size));
            add("no_new_privs", libc::prctl(libc::PR_GET_NO_NEW_PRIVS, 0, 0, 0, 0).to_string());
            add("dumpable", libc::prctl(libc::PR_GET_DUMPABLE, 0, 0, 0, 0).to_string());
            add("parent death signal", {
                let mut signal = 0;
                libc::prctl(libc::PR_GET_PDEATHSIG, &mut signal);
                signal.to_string()
            });
        }
        for signal in 1..=64 {
            add(&format!("action of signal {signal}"), action(signal));
        }
        for (name, path) in
            [("cwd", "/proc/self/cwd"), ("root", "/proc/self/root"), ("exe", "/proc/self/exe")]
        {
            let target = std::fs::read_link(path);
            add(name, target.map_or_else(|why| why.to_string(), |path| path.display().to_string()));
        }
        for name in [
            "cmdline",
            "environ",
            "comm",
            "auxv",
            "limits",
            "oom_score_adj",
            "coredump_filter",
            "timerslack_ns",
            "personality",
        ] {
            let bytes = std::fs::read(format!("/proc/self/{name}")).unwrap_or_default();
            add(name, String::from_utf8_lossy(&bytes).into_owned());
        }
        let status = std::fs::read_to_string("/proc/self/status").unwrap_or_default();
        for line in status.lines() {
            let (key, value) = line.split_once(':').unwrap_or((line, ""));
            if [
                "Name",
                "Umask",
                "Uid",
                "Gid",
                "Groups",
                "Threads",
                "SigPnd",
                "ShdPnd",
                "SigBlk",
                "SigIgn",
                "SigCgt",
                "NoNewPrivs",
                "Seccomp",
                "Seccomp_filters",
                "THP_enabled",
                "Cpus_allowed",
                "TracerPid",
            ]
            .contains(&key)
            {
                add(&format!("status {key}"), value.trim().to_owned());
            }
        }
        descriptors(&mut facts);
        Self(facts)
    }

    pub(crate) fn compare(&self, after: &Self) -> Verdict {
        let names = self.0.keys().chain(after.0.keys().filter(|name| !self.0.contains_key(*name)));
        let differences: Vec<String> = names
            .filter_map(|name| {
                let (old, new) = (self.0.get(name), after.0.get(name));
                (old != new).then(|| format!("{name} was {old:?} and is {new:?}"))
            })
            .collect();
        check!(differences.is_empty(), "the program sees a difference: {}", differences.join("; "));
        Ok(())
    }
}

fn action(signal: i32) -> String {
    // The kernel's own structure: the C library hides the restorer and refuses signals 32 and 33.
    let mut action = [0u64; 4];
    let returned = unsafe { libc::syscall(libc::SYS_rt_sigaction, signal, 0, action.as_mut_ptr(), 8) };
    if returned == 0 { format!("{action:x?}") } else { format!("errno {}", errno()) }
}

fn descriptors(facts: &mut BTreeMap<String, String>) {
    let mut numbers: Vec<i32> = std::fs::read_dir("/proc/self/fd")
        .map(|entries| entries.flatten().filter_map(|e| e.file_name().to_str()?.parse().ok()).collect())
        .unwrap_or_default();
    numbers.sort_unstable();
    for fd in numbers {
        // The directory that was just read is in its own list, but no longer open.
        let flags = unsafe { libc::fcntl(fd, libc::F_GETFL) };
        if flags == -1 {
            continue;
        }
        // That a file never had a name is history: one that is made again under its old path has had one.
        let flags = if flags & libc::O_TMPFILE == libc::O_TMPFILE { flags & !libc::O_TMPFILE } else { flags };
        let target = std::fs::read_link(format!("/proc/self/fd/{fd}")).unwrap_or_default();
        let mut target = target.display().to_string();
        // A pipe or socket made anew has another inode.
        if let Some((kind, _)) = target.split_once(":[") {
            target = kind.to_owned();
        }
        // One that never had a name is called by its inode.
        if let (Some((directory, number)), true) = (target.rsplit_once("/#"), target.ends_with(" (deleted)"))
            && number.trim_end_matches(" (deleted)").bytes().all(|byte| byte.is_ascii_digit())
        {
            target = format!("{directory}/# (deleted)");
        }
        // So may a terminal get another number, where its own is taken; one of /dev/tty comes back by its own name.
        if target.starts_with("/dev/pts/") || target == "/dev/tty" {
            target = "a terminal".to_owned();
        }
        let close_on_exec = unsafe { libc::fcntl(fd, libc::F_GETFD) };
        let position = unsafe { libc::lseek(fd, 0, libc::SEEK_CUR) };
        // O_LARGEFILE (0o100000) shows whether a 64-bit open was made by libc or by the kernel; no program can tell.
        let flags = flags & !0o100000;
        // O_CLOEXEC (0o2000000) belongs to the descriptor; only mq_open leaves it in the description as well.
        let flags = flags & !0o2000000;
        facts.insert(
            format!("descriptor {fd}"),
            format!("{target}, flags {flags:#o}, close on exec {close_on_exec}, position {position}"),
        );
    }
}

const MAPS_LEN: usize = 4 << 20;
static mut MAPS: [[u8; MAPS_LEN]; 2] = [[0; MAPS_LEN]; 2];

/// `/proc/self/maps`, read without allocating, since that would change it.
pub(crate) struct Maps(&'static [u8]);

impl Maps {
    pub(crate) fn look(slot: usize) -> Self {
        unsafe {
            let buffer = (&raw mut MAPS).cast::<u8>().add(slot * MAPS_LEN);
            let fd = libc::open(c"/proc/self/maps".as_ptr(), libc::O_RDONLY | libc::O_CLOEXEC);
            let mut len = 0;
            while len < MAPS_LEN {
                let got = libc::read(fd, buffer.add(len).cast(), MAPS_LEN - len);
                if got <= 0 {
                    break;
                }
                len += got as usize;
            }
            libc::close(fd);
            Self(std::slice::from_raw_parts(buffer, len))
        }
    }

    /// Compares what a program could notice: where what lies, with which rights.
    pub(crate) fn compare(&self, after: &Self) -> Verdict {
        let (before, after) = (self.regions(), after.regions());
        let lost: Vec<&String> = before.iter().filter(|region| !after.contains(*region)).collect();
        let new: Vec<&String> = after.iter().filter(|region| !before.contains(*region)).collect();
        check!(lost.is_empty() && new.is_empty(), "the mappings differ: lost {lost:#?}, new {new:#?}");
        Ok(())
    }

    /// The regions, neighbours of anonymous memory with equal rights joined, as the kernel may join them.
    fn regions(&self) -> std::collections::BTreeSet<String> {
        let mut regions: Vec<(u64, u64, String)> = Vec::new();
        for line in String::from_utf8_lossy(self.0).lines() {
            let mut words = line.split_ascii_whitespace();
            let (Some(range), Some(rights), Some(offset)) = (words.next(), words.next(), words.next()) else {
                continue;
            };
            let name = words.skip(2).collect::<Vec<_>>().join(" ");
            let Some((start, end)) = range.split_once('-') else { continue };
            let (Ok(mut start), Ok(end)) = (u64::from_str_radix(start, 16), u64::from_str_radix(end, 16))
            else {
                continue;
            };
            if name == "[stack]" {
                start = 0;
            }
            // What MAP_HUGETLB made without a file is a file of its own for each mapping, if it is private, and comes back as a
            // memfd of that name, if it is shared.
            let name = name.replace("/memfd:anon_hugepage", "/anon_hugepage");
            let huge = name == "/anon_hugepage (deleted)" && rights.ends_with('p');
            let anonymous = name.is_empty() || name == "[heap]" || name == "[stack]" || huge;
            let label =
                if anonymous { format!("{rights} {name}") } else { format!("{rights} {offset} {name}") };
            match regions.last_mut() {
                Some((_, last_end, last)) if anonymous && *last_end == start && *last == label => {
                    *last_end = end
                }
                _ => regions.push((start, end, label)),
            }
        }
        regions.into_iter().map(|(start, end, label)| format!("{start:x}-{end:x} {label}")).collect()
    }
}
