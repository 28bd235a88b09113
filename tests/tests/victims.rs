//! Every victim on every journey. A test is named after both: `pipe_full::thawed_twice`.

use frost_tests::{Scene, Who, guest, journey};
use std::path::Path;

fn binary() -> &'static Path {
    Path::new(env!("CARGO_BIN_EXE_victim"))
}

/// A victim whose state is carried.
macro_rules! carried {
    ($($name:ident)*) => {$(
        mod $name {
            use super::*;

            const NAME: &str = stringify!($name);

            #[test]
            fn unfrozen() {
                journey::unfrozen(binary(), NAME);
            }

            #[test]
            fn thawed() {
                journey::thawed(binary(), NAME, Who::Myself);
            }

            #[test]
            fn thawed_by_an_ordinary_user() {
                journey::thawed(binary(), NAME, Who::Ordinary);
            }

            #[test]
            fn thawed_twice() {
                journey::twice(binary(), NAME);
            }

            #[test]
            fn left_running_and_copied() {
                journey::copied(binary(), NAME);
            }
        }
    )*

        const CARRIED: &[&str] = &[$(stringify!($name)),*];
    };
}

/// A victim that has something which cannot be carried, named in the refusal.
macro_rules! refused {
    ($($name:ident $object:literal)*) => {$(
        mod $name {
            use super::*;

            #[test]
            fn unfrozen() {
                journey::unfrozen(binary(), stringify!($name));
            }

            #[test]
            fn refused() {
                journey::refused(binary(), stringify!($name), $object);
            }
        }
    )*

        const REFUSED: &[&str] = &[$(stringify!($name)),*];
    };
}

#[test]
fn each_victim_makes_its_journeys() {
    let output = frost_tests::output_of(std::process::Command::new(binary()).arg("list"));
    let listed: std::collections::BTreeSet<String> = output.lines().map(str::to_owned).collect();
    let tested =
        CARRIED.iter().chain(REFUSED).chain(FILTERED).chain(SPECIAL).map(|name| (*name).to_owned()).collect();
    assert_eq!(listed, tested);
}

/// Few processors have protection keys; that of a guest, which QEMU executes, has them.
#[test]
fn what_this_processor_may_lack_is_carried_in_a_guest() {
    let Some(scene) = Scene::new(Who::Myself) else { return };
    if !guest::kernel_for(&scene) {
        return;
    }
    let victim = binary().to_str().expect("it is text");
    let told = guest::test_in_a_guest(&scene, "ip link set lo up", "keys_", &[victim]);
    println!("{told}");
    assert!(told.contains("test result: ok. ") && !told.contains("skipped: "), "{told}");
}

/// Those that go through what no other does.
const SPECIAL: &[&str] = &[
    "vfork_lasting",
    "outside_pipe",
    "prctl_dispatch",
    "prctl_shut",
    "prctl_segments",
    "pty_locked_settings",
    "pty_discipline",
    "regular_pressure",
    "prctl_landlock",
    "prctl_landlock_of_thread",
    "prctl_keyring_of_process",
    "prctl_keyring_of_thread",
    "inotify_replaced",
    "tcp_full",
    "thread_leader_gone_warned",
    "mqueue_lost",
    "mqueue_used",
    "mqueue_closed",
    "mqueue_unreadable",
    "volatile_lost",
    "volatile_changed",
    "hugetlb_file",
    "filter_few_calls",
    "filter_few_calls_on_a_fiber",
    "filter_few_calls_of_many",
    "filter_no_executable_memory",
    "filter_without_asking",
    "filter_rights_given_up",
    "filter_listener",
    // Of snapshots only: see snapshots.rs.
    "moving_direct",
    "unix_passing",
    "regular_lease_mapped",
    "filter_left_area",
    "thread_executes",
    "thread_own_network",
    // Of root only.
    "fanotify_unlimited_queued",
    "fanotify_permission",
    "raw_router",
    "raw_waiting",
    "packet_waiting",
    "tcp_out_of_band_passed",
    "sysv_segment_unreadable",
    "sysv_semaphores_unreadable",
    "sysv_of_another",
    "sysv_queue_unreadable",
    "shared_locked_hidden",
    "shared_limited_hidden",
];

/// Half of the time something is in the way that goes by itself: both look until they find it gone.
#[test]
fn what_passes_is_waited_for() {
    journey::unfrozen(binary(), "unix_passing");
    for who in [Who::Myself, Who::Ordinary] {
        journey::passing(binary(), "unix_passing", who);
    }
}

/// Nobody's lease is broken by a freeze.
#[test]
fn a_mapped_file_with_a_lease_is_not_opened() {
    journey::unfrozen(binary(), "regular_lease_mapped");
    for who in [Who::Myself, Who::Ordinary] {
        journey::left_running(binary(), "regular_lease_mapped", who);
    }
}

/// What a killed freezer has left is taken away only by calls that the filters let through.
#[test]
fn nothing_forbidden_is_done_to_tidy_up() {
    journey::unfrozen(binary(), "filter_left_area");
    if reads_filters() {
        journey::left_running(binary(), "filter_left_area", Who::Myself);
    }
    journey::refused_in_the_runtime(binary(), "filter_left_area", "forbids calls", Who::Ordinary);
}

#[test]
fn a_lasting_vfork_is_told_by_name() {
    journey::unstoppable(binary(), "vfork_lasting", "vfork");
}

/// Only a thread that is stopped can be asked whether it handles its own calls, so `check` does not know of it.
#[test]
fn a_thread_that_handles_its_own_calls_is_refused_by_name() {
    journey::unfrozen(binary(), "prctl_dispatch");
    journey::refused_at_the_stop(binary(), "prctl_dispatch", "PR_SET_SYSCALL_USER_DISPATCH");
}

/// Who owns an environment may trace all that lives in there, but what the kernel shows of such a process is root's.
#[test]
fn who_shuts_out_all_but_root_is_told_of_in_an_environment() {
    journey::unfrozen(binary(), "prctl_shut");
    if frost_tests::is_root() {
        journey::thawed_in_the_runtime(binary(), "prctl_shut", Who::Myself);
    }
    journey::shut_out_in_the_runtime(binary(), "prctl_shut", Who::Ordinary);
}

/// What a domain forbids is told by nobody; that there is one shows in what its threads may not look at.
#[test]
fn landlock_domains_are_refused() {
    // SAFETY: with this flag, the call takes no address.
    if unsafe { libc::syscall(libc::SYS_landlock_create_ruleset, 0, 0, 1) } < 1 {
        return frost_tests::skip("this kernel has no Landlock");
    }
    for name in ["prctl_landlock", "prctl_landlock_of_thread"] {
        journey::unfrozen(binary(), name);
        journey::refused_at_the_stop(binary(), name, "Landlock domain");
    }
}

/// Only the process itself can be asked for its segments.
#[test]
fn segments_are_refused() {
    let mut none = [0u8; 8];
    // SAFETY: the call fills the 8 bytes that it is told of, at most.
    if unsafe { libc::syscall(libc::SYS_modify_ldt, 0, none.as_mut_ptr(), none.len()) } == -1 {
        return frost_tests::skip("this kernel has no modify_ldt(2)");
    }
    journey::unfrozen(binary(), "prctl_segments");
    journey::refused_at_the_stop(binary(), "prctl_segments", "segments (modify_ldt)");
}

/// The kernel may have no pressure, or may not tell of it.
#[test]
fn triggers_of_pressure_are_refused() {
    let file = std::fs::OpenOptions::new().read(true).write(true).open("/proc/pressure/memory");
    if let Err(error) = file {
        return frost_tests::skip(&format!("pressure of memory cannot be waited for: {error}"));
    }
    journey::unfrozen(binary(), "regular_pressure");
    journey::refused(binary(), "regular_pressure", "with a trigger");
}

/// Only root makes groups that decide who may open files, or of which the queue has no limit.
#[test]
fn fanotify_groups_that_cannot_be_carried_are_refused() {
    if !frost_tests::is_root() {
        return frost_tests::skip("only root makes such groups");
    }
    for (name, object) in
        [("fanotify_permission", "decides who may open"), ("fanotify_unlimited_queued", "unread events")]
    {
        journey::unfrozen(binary(), name);
        journey::refused(binary(), name, object);
    }
}

#[test]
fn another_line_discipline_is_refused() {
    journey::unfrozen(binary(), "pty_discipline");
    journey::refused(binary(), "pty_discipline", "another line discipline");
}

/// Only root may lock settings of a terminal.
#[test]
fn locked_settings_of_a_terminal_are_refused() {
    if !frost_tests::is_root() {
        return frost_tests::skip("only root may lock the settings of a terminal");
    }
    journey::unfrozen(binary(), "pty_locked_settings");
    journey::refused(binary(), "pty_locked_settings", "locked settings");
}

/// Only the process itself can be asked for its keyrings.
#[test]
fn keyrings_that_end_with_the_program_are_refused() {
    for (name, object) in [
        ("prctl_keyring_of_process", "keyring of the process"),
        ("prctl_keyring_of_thread", "keyring of a thread"),
    ] {
        journey::unfrozen(binary(), name);
        journey::refused_at_the_stop(binary(), name, object);
    }
}

/// Only a thread that is stopped can be asked for its parent-death signal.
#[test]
fn one_that_is_to_be_told_of_a_leader_that_has_ended_is_refused() {
    journey::unfrozen(binary(), "thread_leader_gone_warned");
    journey::refused_at_the_stop(binary(), "thread_leader_gone_warned", "parent-death signal");
}

/// On a busy machine a thaw may take seconds: those are the program's, whose clocks go on from when it began.
#[test]
fn a_timeout_ends_in_time_however_long_the_thaw_takes() {
    if !frost_tests::is_root() {
        frost_tests::skip("only root knows the thawed program by its old number");
        return;
    }
    const NAMES: [&str; 5] = [
        "restart_nanosleep",
        "restart_clock_nanosleep",
        "restart_futex_timeout",
        "restart_poll_timeout",
        "restart_epoll_wait_timeout",
    ];
    frost_tests::each_below(NAMES.len(), |index| {
        let Some(scene) = frost_tests::Scene::new(Who::Myself) else { return };
        let mut traveller =
            journey::Traveller::set_out(&scene, binary(), NAMES[index], frost_tests::Stdio::Files);
        traveller.freeze();
        let mut command = scene.frost_command(&["thaw", "victim"]);
        command.env("FROST_FAIL_AT", "thaw.arrive:stop").stdout(std::process::Stdio::null());
        let mut command = frost_tests::Started::spawn(&mut command);
        let stands_still = |pid: &i32| {
            let stat = std::fs::read_to_string(format!("/proc/{pid}/stat")).unwrap_or_default();
            stat.contains("(frost) T ")
        };
        let mut builder = None;
        frost_tests::until("the builder stands still", || {
            builder = frost_tests::tree_of(command.pid()).into_iter().find(stands_still);
            builder.is_some()
        });
        // As long as any of the calls has left.
        std::thread::sleep(std::time::Duration::from_secs(3));
        let builder = builder.and_then(rustix::process::Pid::from_raw).expect("it was found");
        rustix::process::kill_process(builder, rustix::process::Signal::CONT).expect("it stands still");
        assert!(command.wait("the thaw", frost_tests::LIMIT).success(), "{}", NAMES[index]);
        traveller.arrive("thawed");
        scene.is_empty_soon();
    });
}

/// The name of the queue that a victim made, as mq_open(3) takes it.
fn queue_of(scene: &frost_tests::Scene) -> std::ffi::CString {
    let name = std::fs::read_to_string(scene.stage("queue")).expect("the victim says how it is called");
    std::ffi::CString::new(name).expect("a name without zeros")
}

/// As after a start of the machine.
#[test]
fn a_message_queue_that_is_gone_is_made_again() {
    journey::unfrozen(binary(), "mqueue_lost");
    for who in [Who::Myself, Who::Ordinary] {
        journey::thawed_after(binary(), "mqueue_lost", who, |scene| {
            // SAFETY: the name ends by a zero.
            assert_eq!(unsafe { libc::mq_unlink(queue_of(scene).as_ptr()) }, 0);
        });
    }
}

/// What somebody else has taken a message from is not the queue that the program knows.
#[test]
fn a_message_queue_that_was_used_meanwhile_is_refused() {
    journey::unfrozen(binary(), "mqueue_used");
    let mut queue = None;
    journey::refused_after(binary(), "mqueue_used", "messages came or went", |scene| {
        let name = queue_of(scene);
        let mut buffer = [0; 32];
        // SAFETY: the name ends by a zero, and the buffer has room for the longest message.
        unsafe {
            let fd = libc::mq_open(name.as_ptr(), libc::O_RDWR);
            let got = libc::mq_receive(fd, buffer.as_mut_ptr().cast(), 32, std::ptr::null_mut());
            assert_eq!(got, 12);
            libc::mq_close(fd);
        }
        queue = Some(name);
    });
    // SAFETY: the name ends by a zero.
    queue.into_iter().for_each(|name| assert_eq!(unsafe { libc::mq_unlink(name.as_ptr()) }, 0));
}

/// In an IPC namespace of its own a queue is the program's, whether it has it open or not; else it stays where it is.
#[test]
fn a_message_queue_that_nobody_has_open_is_carried() {
    journey::unfrozen(binary(), "mqueue_closed");
    for who in [Who::Myself, Who::Ordinary] {
        journey::thawed_in_the_runtime(binary(), "mqueue_closed", who);
    }
    journey::thawed(binary(), "mqueue_closed", Who::Myself);
}

/// Its messages are taken out and put back, for which it has to be opened.
#[test]
fn a_message_queue_that_its_owner_may_not_open_is_carried_by_root() {
    journey::unfrozen(binary(), "mqueue_unreadable");
    if frost_tests::is_root() {
        journey::thawed(binary(), "mqueue_unreadable", Who::Myself);
    }
    journey::refused_for(binary(), "mqueue_unreadable", "(fchmod)", Who::Ordinary);
}

/// The shared memory object that a victim made.
fn object_of(scene: &frost_tests::Scene) -> String {
    std::fs::read_to_string(scene.stage("object")).expect("the victim says where it is")
}

/// As after a start of the machine.
#[test]
fn shared_memory_that_is_gone_is_made_again() {
    journey::unfrozen(binary(), "volatile_lost");
    for who in [Who::Myself, Who::Ordinary] {
        journey::thawed_after(binary(), "volatile_lost", who, |scene| {
            std::fs::remove_file(object_of(scene)).expect("it is there");
        });
    }
}

/// A file of hugetlbfs, which takes no write(2).
#[test]
fn a_file_of_huge_pages_is_used_again_or_made_again() {
    journey::unfrozen(binary(), "hugetlb_file");
    for who in [Who::Myself, Who::Ordinary] {
        journey::thawed(binary(), "hugetlb_file", who);
        journey::thawed_after(binary(), "hugetlb_file", who, |scene| {
            // There is none where no hugetlbfs is mounted.
            if scene.stage("object").exists() {
                std::fs::remove_file(object_of(scene)).expect("it is there");
            }
        });
    }
}

/// As by an earlier thaw of the same image: another file, with the same content.
#[test]
fn shared_memory_with_the_same_content_is_used() {
    journey::thawed_after(binary(), "volatile_lost", Who::Myself, |scene| {
        let (path, copy) = (object_of(scene), format!("{}-copy", object_of(scene)));
        std::fs::copy(&path, &copy).expect("it is there");
        std::fs::rename(copy, path).expect("it is there");
    });
}

/// Written by a mapping, which does not change the time of such a file.
#[test]
fn shared_memory_that_was_changed_meanwhile_is_refused() {
    journey::unfrozen(binary(), "volatile_changed");
    let mut object = None;
    journey::refused_after(binary(), "volatile_changed", "its content changed", |scene| {
        use std::os::unix::fs::FileExt;
        let file = std::fs::OpenOptions::new().write(true).open(object_of(scene)).expect("it is there");
        let before = file.metadata().and_then(|metadata| metadata.modified()).expect("it has a time");
        file.write_at(b"changed", 5000).expect("we may write to it");
        file.set_modified(before).expect("it is ours");
        object = Some(object_of(scene));
    });
    object.into_iter().for_each(|object| std::fs::remove_file(object).expect("it was left as it was"));
}

/// Standard input and output are pipes of the harness, whose other ends no thaw can find again: the program sees an
/// ordinary end.
#[test]
fn pipes_to_the_outside_end() {
    journey::unfrozen(binary(), "outside_pipe");
    journey::thawed_from_pipes(binary(), "outside_pipe");
}

/// One watched file is replaced while the program is away, one is deleted, and one is as it was.
#[test]
fn a_watched_file_that_is_gone_is_told_of() {
    journey::unfrozen(binary(), "inotify_replaced");
    for who in [Who::Myself, Who::Ordinary] {
        journey::thawed_after(binary(), "inotify_replaced", who, |scene| {
            let at = |name: &str| scene.stage("watched").join(name);
            std::fs::write(at("new"), "new").expect("our own directory");
            std::fs::rename(at("new"), at("replaced")).expect("our own directory");
            std::fs::remove_file(at("deleted")).expect("our own directory");
        });
    }
}

/// What a sender could not get rid of is shown to root only; anybody else is told so.
#[test]
fn a_full_connection_is_carried_by_root() {
    journey::unfrozen(binary(), "tcp_full");
    if frost_tests::is_root() {
        journey::thawed(binary(), "tcp_full", Who::Myself);
        journey::twice(binary(), "tcp_full");
    }
    journey::refused_for(binary(), "tcp_full", "receiver does not read", Who::Ordinary);
}

/// An environment has a /proc of its own.
#[test]
fn files_of_proc_in_an_environment() {
    for who in [Who::Myself, Who::Ordinary] {
        journey::thawed_in_the_runtime(binary(), "regular_proc_global", who);
        for name in ["regular_proc", "regular_proc_of_others", "regular_proc_paths"] {
            journey::thawed_in_the_runtime(binary(), name, who);
        }
    }
}

/// The numbers that sockets and terminals tell are those of the pid namespace of an environment.
#[test]
fn numbers_in_an_environment() {
    for who in [Who::Myself, Who::Ordinary] {
        let told = |name: &&&str| name.starts_with("peers_") || name.starts_with("pty_foreground");
        // There, who has lost its parent is not outside.
        for name in CARRIED.iter().filter(told).filter(|name| **name != "peers_outside") {
            journey::thawed_in_the_runtime(binary(), name, who);
        }
    }
}

/// Filters of system calls: root reads them; an ordinary user's are remembered by the keeper.
macro_rules! filtered {
    ($($name:ident)*) => {$(
        mod $name {
            use super::*;

            const NAME: &str = stringify!($name);

            #[test]
            fn unfrozen() {
                journey::unfrozen(binary(), NAME);
            }

            #[test]
            fn thawed() {
                if reads_filters() {
                    journey::thawed(binary(), NAME, Who::Myself);
                }
            }

            #[test]
            fn thawed_twice() {
                if reads_filters() {
                    journey::twice(binary(), NAME);
                }
            }

            #[test]
            fn left_running_and_copied() {
                if reads_filters() {
                    journey::copied(binary(), NAME);
                }
            }

            #[test]
            fn in_the_runtime() {
                journey::thawed_in_the_runtime(binary(), NAME, Who::Myself);
            }

            #[test]
            fn in_the_runtime_of_an_ordinary_user() {
                journey::thawed_in_the_runtime(binary(), NAME, Who::Ordinary);
            }
        }
    )*

        const FILTERED: &[&str] = &[$(stringify!($name)),*];
    };
}

/// Whether the kernel gives us the filters of others.
fn reads_filters() -> bool {
    frost_tests::is_root() || {
        frost_tests::skip("only root can read filters of system calls");
        false
    }
}

filtered! {
    filter_one
    filter_by_prctl
    filter_stacked
    filter_for_all
    filter_of_threads
    filter_of_one_thread
    filter_forked
    filter_executed
    filter_failed
    filter_large
    filter_traps
}

/// Whoever looks at its namespaces by its own number finds none.
#[test]
fn a_program_of_the_runtime_may_have_no_main_thread() {
    for who in [Who::Myself, Who::Ordinary] {
        journey::thawed_in_the_runtime(binary(), "thread_leader_gone_root", who);
    }
}

/// Only root may enter one.
#[test]
fn a_thread_in_a_network_of_its_own_is_refused_by_name() {
    if !frost_tests::is_root() {
        return frost_tests::skip("only root may make a network namespace without others");
    }
    journey::unfrozen(binary(), "thread_own_network");
    journey::refused(binary(), "thread_own_network", "a network namespace of its own");
}

/// Nobody but root gets them back, where no keeper was told of them.
#[test]
fn an_ordinary_user_s_filters_are_refused_by_name_outside_of_the_runtime() {
    journey::refused_for(binary(), "filter_one", "system call filter", Who::Ordinary);
}

/// Root may suspend filters; for anybody else a process whose filters forbid what a freeze asks of it is out of reach.
#[test]
fn filters_that_forbid_a_freeze_are_suspended_by_root() {
    let few = ["filter_few_calls", "filter_few_calls_on_a_fiber", "filter_few_calls_of_many"];
    for name in few.into_iter().chain(["filter_no_executable_memory"]) {
        journey::unfrozen(binary(), name);
        if reads_filters() {
            journey::thawed(binary(), name, Who::Myself);
            journey::left_running(binary(), name, Who::Myself);
            journey::thawed_in_the_runtime(binary(), name, Who::Myself);
        }
        journey::refused_in_the_runtime(binary(), name, "forbids calls", Who::Ordinary);
    }
}

/// What no mapping shows of shared memory is shown by a view that the process makes, beside all else that is done to it.
#[test]
fn what_no_mapping_shows_of_shared_memory_is_kept() {
    for who in [Who::Myself, Who::Ordinary] {
        for name in
            ["shared_end_hidden", "shared_start_hidden", "shared_memfd_hidden", "shared_hidden_in_child"]
        {
            journey::copied_by(binary(), name, who);
            journey::thawed_in_the_runtime(binary(), name, who);
        }
    }
}

/// Who reads a hole of shared memory through a mapping fills it: a freeze does not.
#[test]
fn holes_of_shared_memory_stay_holes() {
    for who in [Who::Myself, Who::Ordinary] {
        journey::copied_by(binary(), "shared_sparse", who);
        journey::thawed_in_the_runtime(binary(), "shared_sparse", who);
    }
}

/// A view of what is locked would be locked as well, and one takes room: only root sees all of that, and nobody else is kept
/// in the dark.
#[test]
fn who_cannot_see_all_of_shared_memory_is_told() {
    let reasons =
        [("shared_locked_hidden", "it is locked in memory"), ("shared_limited_hidden", "has no room")];
    for (name, reason) in reasons {
        journey::unfrozen(binary(), name);
        if frost_tests::is_root() {
            journey::thawed(binary(), name, Who::Myself);
        }
        journey::warned(binary(), name, reason, Who::Ordinary);
    }
}

/// Who waits for a signal by a call that a stop interrupts is not told of the stop, but of the signal.
#[test]
fn signals_that_come_amid_the_stop_end_calls() {
    for who in [Who::Myself, Who::Ordinary] {
        journey::signalled_in_the_stop(binary(), "restart_calls_signalled", who);
    }
}

/// CAP_SYS_ADMIN is what it takes beside no_new_privs.
#[test]
fn filters_of_the_privileged_come_back_if_they_still_are() {
    journey::unfrozen(binary(), "filter_without_asking");
    if reads_filters() {
        journey::thawed(binary(), "filter_without_asking", Who::Myself);
        journey::refused(binary(), "filter_rights_given_up", "rights that the program has given up");
    }
    journey::unfrozen(binary(), "filter_rights_given_up");
}

/// Whether anything waits behind that byte is looked at in a program that stands still, so `check` does not know of it.
#[test]
fn what_waits_behind_a_byte_out_of_band_is_refused_by_name() {
    journey::unfrozen(binary(), "tcp_out_of_band_passed");
    journey::refused_at_the_stop(
        binary(),
        "tcp_out_of_band_passed",
        "out of band amid what was not read yet",
    );
}

/// Who may not make such sockets loses nothing.
#[test]
fn packets_that_wait_in_raw_and_packet_sockets_are_told_of() {
    for name in ["raw_waiting", "packet_waiting"] {
        journey::unfrozen(binary(), name);
        if frost_tests::is_root() {
            journey::warned(binary(), name, "packets wait in a", Who::Myself);
        }
    }
}

/// Who may not make raw sockets routes nothing.
#[test]
fn multicast_routers_are_refused_by_name() {
    journey::unfrozen(binary(), "raw_router");
    if frost_tests::is_root() {
        journey::refused(binary(), "raw_router", "multicast router");
    }
}

#[test]
fn filters_with_a_listener_are_refused_by_name() {
    journey::unfrozen(binary(), "filter_listener");
    if reads_filters() {
        journey::refused_at_the_stop(binary(), "filter_listener", "SECCOMP_RET_USER_NOTIF");
    }
}

refused! {
    mqueue_notified "POSIX message queue"
    unix_datagram_disconnected "error that was not read yet"
    unix_out_of_band "out of band"
    unix_peer_reset_left "error that was not read yet"
    unix_pending_data "not accepted"
    tcp_pending_data "not accepted"
    tcp_out_of_band "out of band that was not read yet"
    tcp_sends_told "what it sent that was not read yet"
    tcp_sends_under_way "MSG_ZEROCOPY"
    tcp_keys "TCP_MD5SIG"
    udp_errors_told "what it sent that was not read yet"
    udp_times_told "what it sent that was not read yet"
    udp_label_leased "label of flows"
    unix_pending_closed "closed before it was accepted"
    unix_pending_closed_data "closed before it was accepted"
    netlink_unread "unread messages"
    udp_error "error that was not read yet"
    udp_begun "datagram that is not sent yet"
    netlink_generic "netlink socket of protocol 16"
    tree_traced "trac"
    limits_full_address_space "limit of its address space"
    directory_watched "F_NOTIFY"
    memfd_secret "secretmem"
    regular_namespace_of_another "namespace uts"
    place_of_process "directory of a process"
    thread_own_directory "CLONE_FS"
    thread_own_descriptors "CLONE_FILES"
}

carried! {
    aio_idle
    aio_events_waiting
    aio_wrapped
    aio_several
    aio_blocked
    aio_forked
    anonymous_filled
    anonymous_sparse
    anonymous_forked
    anonymous_forked_shared
    anonymous_protections
    anonymous_unreadable
    anonymous_guards
    anonymous_guard_regions
    anonymous_guard_regions_shared
    anonymous_reservation
    anonymous_advice
    anonymous_locked
    anonymous_lock_future
    anonymous_lock_future_on_fault
    anonymous_sealed
    anonymous_droppable
    anonymous_discarded
    anonymous_huge_pages
    anonymous_heap
    anonymous_stack
    anonymous_growsdown
    anonymous_many_mappings
    anonymous_executable
    anonymous_of_zero
    anonymous_memory_policies
    clock_continues
    clock_cpu_time
    credentials_plain
    credentials_dropped
    credentials_capabilities
    credentials_of_threads
    credentials_of_each_thread
    device_made_anew
    device_stateless
    directory_open
    directory_half_read
    directory_removed
    directory_paths
    epoll_watches
    epoll_edge
    epoll_oneshot
    epoll_oneshot_hung_up
    epoll_nested
    epoll_nested_deep
    epoll_wakeup
    epoll_busy_poll
    epoll_many
    epoll_other_number
    epoll_other_numbers
    epoll_shared
    epoll_exclusive
    epoll_in_flight
    epoll_closed_elsewhere
    eventfd_count
    eventfd_semaphore
    eventfd_shared
    eventfd_full
    eventfd_blocked_reader
    eventfd_blocked_writer
    fanotify_marks
    fanotify_ignored
    fanotify_queued
    fanotify_queued_directories
    fanotify_changed
    fanotify_deleted
    fanotify_epoll
    fanotify_blocked_reader
    fanotify_shared
    fanotify_mounts
    fanotify_files
    fanotify_unlimited
    fifo_deleted
    fifo_open
    fifo_one_end
    fifo_writer_gone
    fifo_reader_gone
    fifo_full
    fifo_blocked_reader
    fifo_packets
    fifo_renamed
    fifo_made_anew
    flight_counters
    flight_files
    flight_files_of_processes
    flight_locked
    flight_owned
    flight_processes
    flight_sockets
    flight_terminals
    flight_ends
    file_private_untouched
    file_private_written
    file_private_read_only
    file_shared
    file_shared_read_only
    file_deleted_mapped
    file_deleted_closed
    file_deleted_hidden
    file_deleted_in_memory
    file_beyond_end
    inotify_watches
    inotify_numbers
    inotify_flags
    inotify_queued
    inotify_changed
    inotify_gone
    inotify_epoll
    inotify_blocked_reader
    inotify_deleted
    inotify_closed_number
    inotify_elsewhere
    keys_of_memory
    keys_of_threads
    keys_execute_only
    limits_soft
    limits_hard
    limits_tight_files
    limits_tight_size
    limits_most_files
    limits_crossed_files
    mqueue_empty
    mqueue_half_full
    mqueue_full
    mqueue_removed
    mqueue_name_taken
    mqueue_descriptions
    mqueue_blocked_reader
    mqueue_blocked_writer
    mqueue_in_flight
    mqueue_epoll
    hugetlb_private
    hugetlb_forked
    hugetlb_unreserved
    hugetlb_shared
    hugetlb_memfd
    hugetlb_memfd_closed
    hugetlb_memfd_private
    hugetlb_file_deleted
    hugetlb_segment
    memfd_plain
    memfd_shared
    memfd_private
    memfd_sealed
    memfd_seals
    memfd_closed
    memfd_read_only
    memfd_sparse
    netlink_route
    netlink_groups
    netlink_unbound
    netlink_audit
    netlink_filter
    moving_counters
    moving_leader
    moving_locks
    moving_leaders_end
    moving_mappings
    moving_remapped
    moving_shared
    moving_stack
    moving_file
    outside_standard
    pidfd_child
    pidfd_self
    pidfd_zombie
    pidfd_gone
    pidfd_gone_told
    pidfd_sibling
    pidfd_thread
    pipe_empty
    pipe_half_full
    pipe_full
    pipe_large
    pipe_packets
    pipe_no_writer
    pipe_no_reader
    pipe_blocked_reader
    pipe_blocked_writer
    pipe_reopened
    pipe_stream
    pipe_packet_alone
    pipe_packets_full
    pipe_spliced
    pipe_both_ends
    pipe_blocked_several
    pipe_permissions
    binary_deleted
    binary_replaced
    binary_linked
    binary_denoted
    binary_memory
    binary_memory_open
    place_directory
    place_deleted_directory
    place_deleted_with_parent
    place_deleted_root
    place_umask
    place_root
    prctl_settings
    prctl_not_dumpable
    prctl_membarrier
    prctl_of_threads
    prctl_memory_denied
    prctl_memory_merge
    prctl_personalities
    prctl_huge_pages_advised
    pty_settings
    pty_many
    pty_typed
    pty_typed_raw
    pty_output
    pty_output_full
    pty_stopped
    pty_packets
    pty_exclusive
    pty_locked
    pty_unopened
    pty_slave_closed
    pty_hung_up
    pty_several
    pty_epoll
    pty_blocked_readers
    pty_blocked_writer
    pty_session
    pty_own_session
    pty_foreground
    pty_foreground_ended
    pty_foreground_not_reaped
    pty_background_stopped
    pty_dev_tty
    pty_nested
    pty_packet_status
    pty_typed_full
    pty_two_sessions
    pty_stopped_writer
    pty_quote
    pty_column
    registers_of_leader
    registers_of_threads
    registers_segment_base
    regular_offset
    regular_append
    regular_read_only
    regular_path_only
    regular_shared_offset
    regular_shared_offset_fork
    regular_deleted
    regular_odd_names
    regular_deleted_large
    regular_deleted_mapped_sparse
    regular_deleted_marks
    regular_deleted_shared
    regular_tmpfile
    regular_renamed
    regular_linked
    regular_high_numbers
    regular_thousand
    regular_locks
    regular_locks_of_description
    regular_locks_of_processes
    regular_lease_read
    regular_lease_write
    regular_lease_breaking
    regular_lease_lowered
    regular_lease_lowered_writer
    regular_owner
    regular_deleted_mapped_and_written
    regular_deleted_mapped_locked
    regular_proc
    regular_proc_global
    regular_proc_of_others
    regular_proc_paths
    regular_namespaces
    regular_link_itself
    regular_tmpfile_linked_later
    regular_replaced
    regular_flags
    regular_names
    regular_against_mode
    restart_nanosleep
    restart_nanosleep_interrupted
    restart_clock_nanosleep
    restart_clock_nanosleep_absolute
    restart_clock_nanosleep_realtime
    restart_poll_timeout
    restart_stopped_before
    restart_ppoll_timeout
    restart_select_timeout
    restart_pselect_timeout
    restart_futex_timeout
    restart_futex_absolute
    restart_epoll_wait_timeout
    restart_epoll_pwait2_timeout
    restart_sigtimedwait
    restart_semtimedop
    restart_recv_timeout
    restart_poll
    restart_select
    restart_futex
    restart_epoll_wait
    restart_sigwaitinfo
    restart_recv
    restart_recv_all
    restart_accept
    restart_read_pipe
    restart_write_pipe
    restart_write_in_part
    restart_send_in_part
    restart_sendfile_in_part
    restart_open_fifo
    restart_wait4
    restart_calls_signalled
    restart_waitid
    restart_nanosleep_signalled
    restart_on_small_stacks
    restart_on_small_stacks_signalled
    restart_on_fiber
    restart_on_fiber_for_a_signal
    restart_on_alternate_stack
    restart_on_alternate_stack_for_a_signal
    restart_pause
    restart_sigsuspend
    restart_flock
    restart_fcntl_lock
    restart_in_threads
    restart_in_threads_at_least
    shared_alone
    shared_between_processes
    shared_sparse
    shared_part_unmapped
    shared_end_hidden
    shared_start_hidden
    shared_memfd_hidden
    shared_unreadable_hidden
    shared_most_hidden
    shared_hidden_in_child
    shared_memfd_cut
    signalfd_pending
    signalfd_epoll
    signalfd_blocked_reader
    signals_actions
    signals_pending_process
    signals_pending_thread
    signals_pending_many
    signals_pending_unqueued
    signals_alternate_stack
    signals_in_handler
    signals_ignored_stop
    sysv_segment
    sysv_segment_key
    sysv_segment_parts
    sysv_segment_removed
    sysv_segment_detached
    sysv_segment_unreadable_attached
    sysv_segment_sparse
    sysv_segments_many
    sysv_semaphores
    sysv_semaphore_waiters
    sysv_semaphore_undo
    sysv_creators
    sysv_queue_empty
    sysv_queue_half_full
    sysv_queue_full
    sysv_queue_waiters
    sysv_queue_users
    tcp_listening
    tcp_listening_v6
    tcp_options
    tcp_unconnected
    tcp_bound
    tcp_established
    tcp_accepting_server
    tcp_without_listener
    tcp_queued
    tcp_much_queued
    tcp_backlog_full
    tcp_between_processes
    tcp_half_closed
    tcp_peer_closed
    tcp_both_closed
    tcp_pending
    tcp_both_versions
    tcp_connecting
    tcp_deferred
    tcp_reset
    tcp_out_of_band_read
    tcp_filtered
    tcp_own_peer
    tcp_own_peer_v6
    thread_executing
    thread_local_storage
    thread_two_hundred
    thread_parents
    thread_joined_later
    thread_leader_gone
    thread_leader_gone_root
    thread_leader_gone_status
    thread_rseq
    thread_robust_mutex
    thread_robust_mutex_process
    thread_names_and_masks
    thread_default_slack
    thread_scheduling
    thread_scheduling_ranked
    thread_memory_policies
    thread_conditions
    thread_storm
    timerfd_far
    timerfd_interval
    timerfd_expired
    timerfd_absolute
    timerfd_unarmed
    timerfd_due
    timerfd_blocked_reader
    timerfd_cancelled
    timerfd_never_early
    timers_interval_real
    timers_interval_cpu
    timers_interval_far
    timers_alarm
    timers_posix_signal
    timers_posix_thread
    timers_posix_none
    timers_posix_ids
    timers_posix_many
    timers_posix_pending
    timers_posix_pending_thread
    timers_posix_overrun
    timers_posix_often
    tree_storm
    tree_deep
    tree_fifty
    tree_groups
    tree_sessions
    tree_group_without_leader
    tree_session_without_leader
    tree_zombies
    tree_zombie_of_another
    tree_zombie_group_leader
    tree_stopped_child
    tree_stopped_unseen
    tree_orphan
    tree_death_signal
    tree_exit_signal
    tree_mourned
    udp_bound
    udp_connected
    udp_v6
    udp_blocked
    udp_lite
    udp_multicast
    udp_shut_down
    udp_shut_for_writing
    udp_queued
    udp_queued_connected
    udp_queued_full
    udp_queued_aimed
    udp_queued_aimed_v6
    udp_queued_orphan
    udp_queued_segments
    udp_queued_v6
    udp_times_not_told
    options_netlink
    options_raw
    options_owner
    options_tcp
    options_udp
    options_unix
    packet_bound
    packet_memberships
    packet_unbound
    raw_connected
    raw_icmp
    raw_ping
    raw_v6
    peers_of_pairs
    peers_that_ended
    peers_not_reaped
    peers_connected
    peers_waiting
    peers_before_a_change
    peers_outside
    peers_that_sent
    unix_stream
    unix_datagram
    unix_seqpacket
    unix_between_processes
    unix_shutdown
    unix_peer_closed
    unix_listening
    unix_pending_connection
    unix_abstract
    unix_datagram_named
    unix_rights_in_flight
    unix_options
    unix_unconnected
    unix_full
    unix_rights_nested
    unix_rights_of_itself
    unix_many_to_one
    unix_bound_over
    unix_moved
    unix_moved_datagram
    unix_credentials
    unix_backlog_full
    unix_datagram_full
    unix_seqpacket_shutdown
    unix_shutdown_read
    unix_shutdown_both
    unix_peer_reset
    unix_datagram_peer_closed
    unix_rights_listener
    unix_rights_many
    unix_rights_cycle
    unix_seqpacket_listening
    unix_both_full
    volatile_open
    volatile_mapped
    volatile_sparse
    volatile_shared
    volatile_semaphore
    unix_listener_credentials
    vfork_soon_over
    vfork_and_exec_in_turn
}
