//! System calls that an isolated component is refused: those by which it could keep something, or reach somebody, past its
//! sessions, and those that make namespaces in which it would have rights again.
//!
//! What is refused to programs of the runtime is refused here as well.

use frost_keeper::admission::KINDS;
use frost_sys::seccomp::{Filter, Rule, When};

/// Makes the filter of an isolated component.
pub(crate) fn filter(network: bool) -> Filter {
    let mut rules: Vec<Rule> = KINDS
        .iter()
        .flat_map(|kind| kind.calls)
        .map(|(_, number, errno)| Rule { call: *number as u32, when: When::Always, errno: *errno })
        .collect();
    let mut refuse = |calls: &[libc::c_long], when: When, errno: i32| {
        rules.extend(calls.iter().map(|call| Rule { call: *call as u32, when, errno }));
    };
    // Keyrings are inherited from whoever started the scenario, and outlive all that is in it. ENOSYS, as on a kernel without
    // them: programs go without.
    let keys = [libc::SYS_keyctl, libc::SYS_add_key, libc::SYS_request_key];
    refuse(&keys, When::Always, libc::ENOSYS);
    // The seals of a document keep its bytes, not its times, mode and attributes; and readers share the memory.
    let attributes = [
        libc::SYS_chmod,
        libc::SYS_fchmod,
        libc::SYS_fchmodat,
        libc::SYS_fchmodat2,
        libc::SYS_chown,
        libc::SYS_fchown,
        libc::SYS_lchown,
        libc::SYS_fchownat,
        libc::SYS_utime,
        libc::SYS_utimes,
        libc::SYS_futimesat,
        libc::SYS_utimensat,
        libc::SYS_setxattr,
        libc::SYS_lsetxattr,
        libc::SYS_fsetxattr,
        libc::SYS_removexattr,
        libc::SYS_lremovexattr,
        libc::SYS_fremovexattr,
        SETXATTRAT,
        REMOVEXATTRAT,
        FILE_SETATTR,
    ];
    refuse(&attributes, When::Always, libc::EPERM);
    // Hints belong to the file, leases keep its owner waiting: F_SETLEASE, F_NOTIFY, F_SET_RW_HINT, F_SET_FILE_RW_HINT.
    for command in [1024, 1026, 1036, 1038] {
        refuse(&[libc::SYS_fcntl], When::Is(1, command), libc::EINVAL);
    }
    // In a new user namespace it would have all rights over what else is new.
    let spaces = (libc::CLONE_NEWUSER
        | libc::CLONE_NEWNS
        | libc::CLONE_NEWPID
        | libc::CLONE_NEWNET
        | libc::CLONE_NEWIPC
        | libc::CLONE_NEWUTS
        | libc::CLONE_NEWCGROUP) as u32;
    refuse(&[libc::SYS_clone], When::Bits(0, spaces), libc::EPERM);
    refuse(&[libc::SYS_unshare], When::Bits(0, spaces | CLONE_NEWTIME), libc::EPERM);
    // Its flags lie in memory, where no filter can look: without it, the C library takes clone(2).
    refuse(&[libc::SYS_clone3], When::Always, libc::ENOSYS);
    let mounts = [
        libc::SYS_setns,
        libc::SYS_mount,
        libc::SYS_umount2,
        libc::SYS_pivot_root,
        libc::SYS_chroot,
        libc::SYS_open_tree,
        libc::SYS_move_mount,
        libc::SYS_fsopen,
        libc::SYS_fsconfig,
        libc::SYS_fsmount,
        libc::SYS_fspick,
        libc::SYS_mount_setattr,
        libc::SYS_syslog,
        libc::SYS_swapon,
        libc::SYS_swapoff,
        libc::SYS_quotactl,
        libc::SYS_acct,
        libc::SYS_reboot,
        libc::SYS_kexec_load,
        libc::SYS_open_by_handle_at,
    ];
    refuse(&mounts, When::Always, libc::EPERM);
    // Not every family has network namespaces: AF_VSOCK reaches the host of a virtual machine.
    let families: &'static [u32] =
        &[libc::AF_UNIX as u32, libc::AF_INET as u32, libc::AF_INET6 as u32, libc::AF_NETLINK as u32];
    if !network {
        refuse(&[libc::SYS_socket, libc::SYS_socketpair], When::IsNot(0, families), libc::EAFNOSUPPORT);
    }
    Filter::confining(&rules)
}

/// Linux 5.6, `include/uapi/linux/sched.h`; it shares its bit with CSIGNAL, so clone(2) has no way to say it.
const CLONE_NEWTIME: u32 = 0x80;
/// Linux 6.13 and 6.17, `arch/x86/entry/syscalls/syscall_64.tbl`.
const SETXATTRAT: libc::c_long = 463;
const REMOVEXATTRAT: libc::c_long = 466;
const FILE_SETATTR: libc::c_long = 469;
