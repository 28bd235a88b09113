//! The facts of this host that an image relies on.

use crate::Keeper;
use frost_model::clock::{Clocks, Timespec};
use frost_model::host::Host;
use rustix::time::ClockId;
use std::time::Instant;

fn text(path: &str) -> String {
    String::from_utf8_lossy(&frost_sys::proc::file(path.as_ref()).unwrap_or_default()).into_owned()
}

/// Reads what this processor can do.
pub(crate) fn cpu_features() -> Vec<String> {
    let info = text("/proc/cpuinfo");
    let flags = info
        .lines()
        .find_map(|line| line.strip_prefix("flags")?.split_once(':'))
        .map_or("", |(_, flags)| flags);
    flags.split_ascii_whitespace().map(str::to_owned).collect()
}

/// Describes this host, as it is for process `pid`. `xstate` is the xsave area of any thread, which tells what this processor saves.
pub(crate) fn describe(
    pid: i32,
    xstate: &[u8],
    cpu_features: Vec<String>,
    keeper: Option<&dyn Keeper>,
) -> Host {
    let uname = rustix::system::uname();
    let euid = rustix::process::geteuid();
    Host {
        architecture: uname.machine().to_string_lossy().into_owned(),
        kernel: uname.release().to_string_lossy().into_owned(),
        boot_id: text("/proc/sys/kernel/random/boot_id").trim().to_owned(),
        // The kernel stores xcr0 in the software-reserved bytes of the area it gives to ptrace
        // (`xstate_fx_sw_bytes`, arch/x86/kernel/fpu/regset.c).
        xcr0: xstate.get(464..472).and_then(|bytes| bytes.try_into().ok()).map_or(0, u64::from_le_bytes),
        cpu_features,
        uid: euid.as_raw(),
        privileged: euid.is_root(),
        pid_namespace: namespace("self") != namespace(&pid.to_string()),
        ipc_namespace: !frost_sys::sysv::is_ours(pid),
        runtime: keeper.map(Keeper::runtime),
    }
}

fn namespace(id: &str) -> Option<Vec<u8>> {
    rustix::fs::readlink(format!("/proc/{id}/ns/pid"), Vec::new()).ok().map(|link| link.into_bytes())
}

/// Reads the clocks as a program in the time namespace of `pid` sees them.
pub(crate) fn clocks(pid: i32) -> Clocks {
    let read = |clock| {
        let time = rustix::time::clock_gettime(clock);
        Timespec { sec: time.tv_sec, nsec: time.tv_nsec }
    };
    let (monotonic, boottime) = offsets(pid);
    let (own_monotonic, own_boottime) = offsets(std::process::id() as i32);
    let add =
        |time: Timespec, theirs: i128, ours: i128| Timespec::from_nanos(time.as_nanos() + theirs - ours);
    Clocks {
        monotonic: add(read(ClockId::Monotonic), monotonic, own_monotonic),
        boottime: add(read(ClockId::Boottime), boottime, own_boottime),
        realtime: read(ClockId::Realtime),
    }
}

/// Returns what was left of a timer when its tree had been stopped at `stopped`, which is what the clocks of the image show, of one of
/// which `left` is left now. With what is left later it would expire too early.
pub(crate) fn left_at(stopped: Instant, left: Timespec) -> Timespec {
    match left.is_zero() {
        true => left,
        false => Timespec::from_nanos(left.as_nanos() + stopped.elapsed().as_nanos() as i128),
    }
}

/// Reads the offsets of a process' time namespace in nanoseconds; zero where the kernel has none.
///
/// The file shows those of the namespace for *children*, which is the process' own unless it called unshare(2) and
/// did not fork since (time_namespaces(7)).
fn offsets(pid: i32) -> (i128, i128) {
    let text = frost_sys::proc::read(pid, "timens_offsets").unwrap_or_default();
    let text = String::from_utf8_lossy(&text);
    let find = |name: &str| {
        let line = text.lines().find_map(|line| line.strip_prefix(name))?;
        let mut words = line.split_ascii_whitespace().filter_map(|word| word.parse::<i128>().ok());
        Some(words.next()? * 1_000_000_000 + words.next()?)
    };
    (find("monotonic").unwrap_or(0), find("boottime").unwrap_or(0))
}
