//! A parent in vfork(2) does not stop until its child executes or ends.

use crate::Victim;
use crate::call::{c, until, zeroed};
use crate::stage::{Stage, Verdict};

pub(crate) const VICTIMS: &[Victim] =
    &[("vfork_soon_over", soon_over), ("vfork_lasting", lasting), ("vfork_and_exec_in_turn", in_turn)];

/// A thread that is not the caller of vfork(2) says `ready` while the call goes on.
fn amid(stage: &Stage, naps: u32, status: i32) -> Verdict {
    let sleeper = [c("sh"), c("-c"), c(&format!("sleep 0.3; exit {status}"))];
    let arguments = [sleeper[0].as_ptr(), sleeper[1].as_ptr(), sleeper[2].as_ptr(), std::ptr::null()];
    std::thread::scope(|scope| {
        let helper = scope.spawn(|| {
            until("there is a child", has_child)?;
            stage.ready();
            stage.wait();
            Ok::<_, String>(())
        });
        // CLONE_VM | CLONE_VFORK with a stack of its own is vfork(2) as posix_spawn(3) makes it.
        let child = unsafe { vfork_exec(naps, &arguments) };
        check!(child > 0, "vfork: {}", std::io::Error::last_os_error());
        let mut found = 0;
        same!(sys!(waitpid(child, &mut found, 0))?, child, "the child waited for");
        same!(found, status << 8, "its status");
        helper.join().map_err(|_| "the helper panicked".to_owned())?
    })
}

fn has_child() -> bool {
    let pid = unsafe { libc::getpid() };
    std::fs::read_to_string(format!("/proc/{pid}/task/{pid}/children")).is_ok_and(|list| !list.is_empty())
}

/// The child of a vfork that still lives when the freeze begins, and executes a little later.
fn soon_over(stage: &Stage) -> Verdict {
    amid(stage, 200, 5)
}

/// A child that does not execute for longer than any freeze waits.
fn lasting(stage: &Stage) -> Verdict {
    amid(stage, 8000, 6)
}

struct Orders {
    naps: u32,
    arguments: *const *const libc::c_char,
}

extern "C" fn child(orders: *mut libc::c_void) -> i32 {
    unsafe {
        let orders = &*orders.cast::<Orders>();
        // Nothing else may be done here: the memory is the parent's.
        for _ in 0..orders.naps {
            let time = libc::timespec { tv_sec: 0, tv_nsec: 2_000_000 };
            libc::nanosleep(&time, std::ptr::null_mut());
        }
        libc::execvp(*orders.arguments, orders.arguments);
        libc::_exit(127)
    }
}

unsafe fn vfork_exec(naps: u32, arguments: &[*const libc::c_char]) -> i32 {
    let mut stack = vec![0u8; 256 * 1024];
    let orders = Orders { naps, arguments: arguments.as_ptr() };
    let flags = libc::CLONE_VM | libc::CLONE_VFORK | libc::SIGCHLD;
    unsafe {
        let top = stack.as_mut_ptr().add(stack.len() - 64);
        let top = top.sub(top as usize % 16);
        libc::clone(child, top.cast(), flags, (&raw const orders).cast_mut().cast())
    }
}

/// A program that starts others without pause: there is always a vfork or an exec going on.
fn in_turn(stage: &Stage) -> Verdict {
    let mut started = 0;
    stage.ready();
    while !stage.gone() || started < 20 {
        let status = std::process::Command::new("true").status().map_err(|why| why.to_string())?;
        check!(status.success(), "true(1) ended with {status}");
        started += 1;
    }
    let mut info: libc::siginfo_t = zeroed();
    until(
        "nothing is left",
        || unsafe { libc::waitid(libc::P_ALL, 0, &mut info, libc::WEXITED | libc::WNOHANG) } == -1,
    )
}
