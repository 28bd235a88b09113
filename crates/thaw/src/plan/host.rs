//! Whether this host is like the one the program was frozen on, as far as the program can tell.

use super::obstacle;
use crate::baseline::Baseline;
use crate::compile::{MOST_TIMER_STEPS, least_aio_ring};
use crate::vdso;
use frost_model::ram::{DataspaceKind, Pages, Run};
use frost_model::rm::Attachment;
use frost_model::{Checkpoint, Obstacle};
use frost_sys::{hugetlb, processor};
use rustix::io::Errno;
use std::collections::{BTreeMap, HashSet};

/// State components by their bit in XCR0 (Intel SDM volume 1, 13.1).
const COMPONENTS: [&str; 20] = [
    "x87",
    "SSE",
    "AVX",
    "MPX bounds",
    "MPX configuration",
    "AVX-512 masks",
    "AVX-512 upper halves",
    "AVX-512 upper registers",
    "processor trace",
    "protection keys",
    "PASID",
    "shadow stack, user",
    "shadow stack, supervisor",
    "HDC",
    "user interrupts",
    "LBR",
    "HWP",
    "AMX configuration",
    "AMX tiles",
    "APX",
];

/// Names of `/proc/cpuinfo` that a program can find by CPUID and then rely on; the others are the kernel's business.
fn is_for_programs(name: &str) -> bool {
    const EXACT: [&str; 44] = [
        "fpu",
        "tsc",
        "cx8",
        "cmov",
        "mmx",
        "fxsr",
        "syscall",
        "lm",
        "cx16",
        "lahf_lm",
        "abm",
        "popcnt",
        "aes",
        "pclmulqdq",
        "fma",
        "fma4",
        "f16c",
        "movbe",
        "rdrand",
        "rdseed",
        "adx",
        "sha_ni",
        "vaes",
        "vpclmulqdq",
        "gfni",
        "erms",
        "fsrm",
        "rdtscp",
        "fsgsbase",
        "clflush",
        "clflushopt",
        "clwb",
        "clzero",
        "rdpid",
        "serialize",
        "movdiri",
        "movdir64b",
        "waitpkg",
        "rtm",
        "hle",
        "pku",
        "ospke",
        "xop",
        "tbm",
    ];
    const PREFIXES: [&str; 9] = ["sse", "ssse3", "avx", "bmi", "xsave", "amx_", "3dnow", "mmxext", "xgetbv"];
    EXACT.contains(&name) || PREFIXES.iter().any(|prefix| name.starts_with(prefix))
}

pub(super) fn obstacles(
    checkpoint: &Checkpoint,
    baseline: &Baseline,
    of_segments: &BTreeMap<u32, u64>,
) -> Vec<Obstacle> {
    let root = &checkpoint.processes[0];
    let host = &checkpoint.host;
    let mut found = Vec::new();
    if host.architecture != std::env::consts::ARCH {
        let reason = format!("it is of {}, this machine is {}", host.architecture, std::env::consts::ARCH);
        let remedy = "thaw it on a machine of that architecture";
        found.push(obstacle(root, "the processor", reason, remedy));
        return found;
    }
    let missing = host.xcr0 & !processor::xcr0();
    if missing != 0 {
        let named = (0..64).filter(|bit| missing & (1 << bit) != 0).map(|bit| {
            COMPONENTS.get(bit).map_or_else(|| format!("component {bit}"), |name| (*name).to_owned())
        });
        let reason = format!("it has no {} state", named.collect::<Vec<_>>().join(", no "));
        found.push(obstacle(
            root,
            "the processor",
            reason,
            "thaw it on a machine with a processor like the old one",
        ));
    }
    let info = frost_sys::proc::file("/proc/cpuinfo".as_ref()).unwrap_or_default();
    let info = String::from_utf8_lossy(&info);
    let flags = info.lines().find_map(|line| line.strip_prefix("flags")?.split_once(':'));
    let ours: HashSet<&str> = flags.map_or("", |(_, flags)| flags).split_ascii_whitespace().collect();
    let missing: Vec<&str> = host
        .cpu_features
        .iter()
        .map(String::as_str)
        .filter(|name| is_for_programs(name) && !ours.contains(name))
        .collect();
    if !missing.is_empty() {
        let reason = format!("it lacks {}", missing.join(", "));
        found.push(obstacle(
            root,
            "the processor",
            reason,
            "thaw it on a machine with a processor like the old one",
        ));
    }
    for process in &checkpoint.processes {
        if let Some(want) = &process.rm.vdso
            && vdso::digest() != Some(want.digest)
        {
            let reason = "this kernel has another vDSO than the program was started with".to_owned();
            let remedy = format!("boot the kernel it was frozen on ({})", host.kernel);
            found.push(obstacle(process, "its vDSO", reason, remedy));
            break;
        }
    }
    for process in &checkpoint.processes {
        let highest = process.pd.posix_timers.iter().map(|timer| timer.id).max().unwrap_or(0);
        if !baseline.timer_ids && highest > MOST_TIMER_STEPS {
            let reason = "this kernel cannot make a timer of a chosen number";
            found.push(obstacle(process, format!("timer {highest}"), reason, "use Linux 6.15 or later"));
        }
        for region in &process.rm.regions {
            if matches!(region.attachment, Attachment::Aio { .. })
                && region.range.len_bytes() < least_aio_ring(possible_processors())
            {
                let reason = "this machine has so many processors that the kernel makes longer rings";
                let remedy = "thaw it on a machine with fewer processors";
                found.push(obstacle(process, super::region_text(region), reason, remedy));
            }
        }
    }
    if frost_sys::probe::executable_memfd() == Err(Errno::ACCESS)
        && let Some(root) = checkpoint.processes.first()
    {
        let reason = "it is started from memory, which may not be executed here (vm.memfd_noexec is 2)";
        found.push(obstacle(root, "its start", reason, "as root: sysctl vm.memfd_noexec=0"));
    }
    found.extend(huge_pages(checkpoint, of_segments));
    found
}

/// Finds what this machine lacks of huge pages, which come from pools that somebody has to fill. `of_segments` are those that
/// System V segments take.
fn huge_pages(checkpoint: &Checkpoint, of_segments: &BTreeMap<u32, u64>) -> Vec<Obstacle> {
    let root = &checkpoint.processes[0];
    let lacks = needed_pages(checkpoint, of_segments).into_iter().filter_map(|(shift, needed)| {
        let size = format!("{} MiB", 1_u64.checked_shl(shift).unwrap_or(0) >> 20);
        let directory = hugetlb::pool_directory(shift);
        let (reason, remedy) = match hugetlb::pool(shift) {
            Some(pool) if pool.free >= needed => return None,
            Some(pool) => {
                let enough = pool.overcommit.saturating_add(needed - pool.free);
                (
                    format!("it takes {needed} of {size}, and {} are free here", pool.free),
                    format!("as root: echo {enough} > {}/nr_overcommit_hugepages", directory.display()),
                )
            }
            None => (
                format!("it has pages of {size}, and this machine none of that size"),
                "thaw it on a machine that has them".to_owned(),
            ),
        };
        Some(obstacle(root, "huge pages", reason, remedy))
    });
    lacks.collect()
}

/// Counts the huge pages that it takes at least, by the logarithm of their size: a child may share them with its parent.
fn needed_pages(checkpoint: &Checkpoint, of_segments: &BTreeMap<u32, u64>) -> BTreeMap<u32, u64> {
    let mut needed = of_segments.clone();
    let mut counted = HashSet::new();
    let regions = || checkpoint.processes.iter().flat_map(|process| &process.rm.regions);
    for region in regions() {
        let Some(shift) = region.huge_shift else { continue };
        if !matches!(region.attachment, Attachment::Anonymous) || !counted.insert(region.range) {
            continue;
        }
        // All of it is reserved, or none.
        let pages = if region.flags.no_reserve {
            populated(&region.private, shift)
        } else {
            region.range.len_bytes() >> shift
        };
        let needed = needed.entry(shift).or_default();
        *needed = needed.saturating_add(pages);
    }
    for (index, dataspace) in checkpoint.dataspaces.iter().enumerate() {
        if let DataspaceKind::Memfd { huge_shift: shift @ 1..64, .. } = dataspace.kind {
            let mut pages = dataspace.pages.clone();
            // What is mapped is reserved, too.
            for region in regions().filter(|region| !region.flags.no_reserve) {
                if let Attachment::Dataspace { dataspace: mapped, offset, shared: true, .. } =
                    region.attachment
                    && mapped.index() == index
                {
                    let end = offset.saturating_add(region.range.len_bytes()).min(dataspace.len_bytes);
                    let len_bytes = end.saturating_sub(offset);
                    pages.runs.extend((len_bytes > 0).then_some(Run { offset, len_bytes, pack_offset: 0 }));
                }
            }
            pages.runs.sort_by_key(|run| run.offset);
            let needed = needed.entry(shift).or_default();
            *needed = needed.saturating_add(populated(&pages, shift));
        }
    }
    needed
}

/// How many huge pages runs of pages lie in.
fn populated(pages: &Pages, shift: u32) -> u64 {
    let mut next = 0;
    let mut count = 0;
    for run in &pages.runs {
        let first = (run.offset >> shift).max(next);
        next = next.max(((run.offset + run.len_bytes - 1) >> shift) + 1);
        count += next.saturating_sub(first);
    }
    count
}

/// The number of processors that this machine may ever have: the ends of ranges as `0-3,8-11` count.
fn possible_processors() -> u64 {
    let text = std::fs::read_to_string("/sys/devices/system/cpu/possible").unwrap_or_default();
    let last = text.trim().rsplit([',', '-']).next().and_then(|last| last.parse::<u64>().ok());
    last.map_or(1, |last| last + 1)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::synthetic;
    use frost_model::id::DataspaceId;
    use frost_model::ram::Dataspace;
    use frost_model::rm::PageRange;

    /// Of four pages of a memfd the first has content, the second and third are mapped, by two processes.
    #[test]
    fn pages_that_are_mapped_count_though_they_are_empty() {
        const SHIFT: u32 = 21;
        let process = |pid: i32| {
            let mut process = synthetic::process(pid, None, std::path::Path::new("/counters"), 0, &[]);
            let mut region = process.rm.regions[0].clone();
            region.range = PageRange::new(2 << 40, (2 << 40) + (2 << SHIFT)).unwrap();
            region.huge_shift = Some(SHIFT);
            let dataspace = DataspaceId::new(0);
            region.attachment =
                Attachment::Dataspace { dataspace, offset: 1 << SHIFT, shared: true, may_write: true };
            process.rm.regions.push(region);
            process
        };
        let mut checkpoint = synthetic::checkpoint(vec![process(10), process(11)]);
        checkpoint.dataspaces.push(Dataspace {
            kind: DataspaceKind::Memfd {
                name: frost_model::BytePath::new(*b"huge"),
                seals: 0,
                mode: 0o600,
                huge_shift: SHIFT,
                identity: None,
                marks: None,
            },
            len_bytes: 4 << SHIFT,
            pages: Pages { runs: vec![Run { offset: 4096, len_bytes: 4096, pack_offset: 0 }] },
        });
        assert_eq!(needed_pages(&checkpoint, &BTreeMap::new()), BTreeMap::from([(SHIFT, 3)]));
        // Those of segments come on top.
        assert_eq!(needed_pages(&checkpoint, &BTreeMap::from([(SHIFT, 5)])), BTreeMap::from([(SHIFT, 8)]));
    }
}
