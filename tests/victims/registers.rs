//! All registers of a thread, held in a loop that touches none of them.

use crate::Victim;
use crate::stage::{Stage, Verdict};
use std::sync::atomic::AtomicU32;
use std::sync::atomic::Ordering::SeqCst;

pub(crate) const VICTIMS: &[Victim] = &[
    ("registers_of_leader", leader),
    ("registers_of_threads", threads),
    ("registers_segment_base", segment_base),
];

/// What is loaded, and what was found. Offsets are known to the assembly below.
#[repr(C, align(64))]
#[derive(Clone)]
struct Area {
    vectors: [[u8; 64]; 32], // 0
    masks: [u64; 8],         // 2048
    x87: [[u8; 16]; 8],      // 2112
    mxcsr: u32,              // 2240
    control: u32,            // 2244
    wide: u64,               // 2248
    unused: [u64; 6],        // 2256
    general: [u64; 15],      // 2304: rax rbx rcx rdx rsi rbp r8..r15 rdi
    flags: u64,              // 2424
    go: *const AtomicU32,    // 2432
}

// The thread's two areas are found through its stack pointer, the one register that keeps its own value.
std::arch::global_asm!(
    "victim_hold:", // rdi: what to load, rsi: where to store
    "push rbx; push rbp; push r12; push r13; push r14; push r15",
    "push rsi; push [rdi + 2432]",
    "cmp qword ptr [rdi + 2248], 0",
    "je 1f",
    ".irp n,0,1,2,3,4,5,6,7,8,9,10,11,12,13,14,15,16,17,18,19,20,21,22,23,24,25,26,27,28,29,30,31",
    "vmovdqu64 zmm\\n, [rdi + 64 * \\n]",
    ".endr",
    ".irp n,0,1,2,3,4,5,6,7",
    "kmovq k\\n, [rdi + 2048 + 8 * \\n]",
    ".endr",
    "jmp 2f",
    "1:",
    ".irp n,0,1,2,3,4,5,6,7,8,9,10,11,12,13,14,15",
    "vmovdqu ymm\\n, [rdi + 64 * \\n]",
    ".endr",
    "2:",
    "fninit",
    "fldcw [rdi + 2244]",
    ".irp n,7,6,5,4,3,2,1,0",
    "fld tbyte ptr [rdi + 2112 + 16 * \\n]",
    ".endr",
    "ldmxcsr [rdi + 2240]",
    "mov rax, [rdi + 2304]",
    "mov rbx, [rdi + 2312]",
    "mov rcx, [rdi + 2320]",
    "mov rdx, [rdi + 2328]",
    "mov rsi, [rdi + 2336]",
    "mov rbp, [rdi + 2344]",
    "mov r8, [rdi + 2352]",
    "mov r9, [rdi + 2360]",
    "mov r10, [rdi + 2368]",
    "mov r11, [rdi + 2376]",
    "mov r12, [rdi + 2384]",
    "mov r13, [rdi + 2392]",
    "mov r14, [rdi + 2400]",
    "mov r15, [rdi + 2408]",
    "mov rdi, [rdi + 2416]",
    "std",
    // [rsp] holds the address of the word that says go; a second word on the stack would need a register.
    "3:",
    "push rax",
    "mov rax, [rsp + 8]",
    "cmp dword ptr [rax], 0",
    "pop rax",
    "je 3b",
    "pushfq",
    "push rdi",
    "mov rdi, [rsp + 24]",
    "mov [rdi + 2304], rax",
    "pop rax",
    "mov [rdi + 2416], rax",
    "pop rax",
    "mov [rdi + 2424], rax",
    "cld",
    "mov [rdi + 2312], rbx",
    "mov [rdi + 2320], rcx",
    "mov [rdi + 2328], rdx",
    "mov [rdi + 2336], rsi",
    "mov [rdi + 2344], rbp",
    "mov [rdi + 2352], r8",
    "mov [rdi + 2360], r9",
    "mov [rdi + 2368], r10",
    "mov [rdi + 2376], r11",
    "mov [rdi + 2384], r12",
    "mov [rdi + 2392], r13",
    "mov [rdi + 2400], r14",
    "mov [rdi + 2408], r15",
    "cmp qword ptr [rdi + 2248], 0",
    "je 4f",
    ".irp n,0,1,2,3,4,5,6,7,8,9,10,11,12,13,14,15,16,17,18,19,20,21,22,23,24,25,26,27,28,29,30,31",
    "vmovdqu64 [rdi + 64 * \\n], zmm\\n",
    ".endr",
    ".irp n,0,1,2,3,4,5,6,7",
    "kmovq [rdi + 2048 + 8 * \\n], k\\n",
    ".endr",
    "jmp 5f",
    "4:",
    ".irp n,0,1,2,3,4,5,6,7,8,9,10,11,12,13,14,15",
    "vmovdqu [rdi + 64 * \\n], ymm\\n",
    ".endr",
    "5:",
    "stmxcsr [rdi + 2240]",
    "fnstcw [rdi + 2244]",
    ".irp n,0,1,2,3,4,5,6,7",
    "fstp tbyte ptr [rdi + 2112 + 16 * \\n]",
    ".endr",
    "fninit",
    "vzeroupper",
    "push 0x1f80",
    "ldmxcsr [rsp]",
    "add rsp, 24",
    "pop r15; pop r14; pop r13; pop r12; pop rbp; pop rbx",
    "ret",
);

unsafe extern "C" {
    fn victim_hold(load: *const Area, store: *mut Area);
}

fn area(seed: u8, go: &AtomicU32) -> Area {
    let wide = is_x86_feature_detected!("avx512f") && is_x86_feature_detected!("avx512bw");
    let byte = |a: usize, b: usize| (a * 67 + b * 13) as u8 ^ seed ^ 0xa5;
    let vector_count = if wide { 32 } else { 16 };
    let vector_len = if wide { 64 } else { 32 };
    Area {
        vectors: std::array::from_fn(|i| {
            std::array::from_fn(|j| if i < vector_count && j < vector_len { byte(i, j) } else { 0 })
        }),
        masks: std::array::from_fn(|i| {
            if wide { 0x0123_4567_89ab_cdef_u64.rotate_left(i as u32 * 7) } else { 0 }
        }),
        x87: std::array::from_fn(|i| {
            let mut value = [0; 16];
            value[..8].copy_from_slice(
                &(0x8000_1234_5678_9abc_u64 + i as u64 + (u64::from(seed) << 32)).to_le_bytes(),
            );
            value[8..10].copy_from_slice(&(0x3fff + i as u16).to_le_bytes());
            value
        }),
        mxcsr: 0xffe0,   // rounds towards zero, flushes to zero, all masked, inexact raised
        control: 0x0e7f, // rounds towards zero, double precision, all masked
        wide: wide.into(),
        unused: [0; 6],
        general: std::array::from_fn(|i| {
            (0xfeed_0000_0000_0001 + ((i as u64) << 16)).rotate_left(i as u32) ^ u64::from(seed)
        }),
        flags: 0,
        go,
    }
}

fn hold(seed: u8, go: &AtomicU32) -> Verdict {
    if !is_x86_feature_detected!("avx") {
        return Err("this test needs AVX".to_owned());
    }
    let load = area(seed, go);
    let mut found = load.clone();
    found.vectors = [[0; 64]; 32];
    found.masks = [0; 8];
    found.x87 = [[0; 16]; 8];
    found.general = [0; 15];
    (found.mxcsr, found.control) = (0, 0);
    unsafe { victim_hold(&load, &mut found) };
    for (index, name) in "rax rbx rcx rdx rsi rbp r8 r9 r10 r11 r12 r13 r14 r15 rdi".split(' ').enumerate() {
        check!(
            found.general[index] == load.general[index],
            "{name} is {:#x}, expected {:#x}",
            found.general[index],
            load.general[index]
        );
    }
    for index in 0..32 {
        same!(found.vectors[index], load.vectors[index], "vector register {index}");
    }
    same!(found.masks, load.masks, "mask registers");
    same!(found.x87, load.x87, "the x87 stack");
    same!(found.mxcsr, load.mxcsr, "mxcsr");
    same!(found.control & 0xffff, load.control, "the x87 control word");
    check!(found.flags & 0x400 != 0, "the direction flag is lost: flags {:#x}", found.flags);
    Ok(())
}

/// The first thread holds, another one waits.
fn leader(stage: &Stage) -> Verdict {
    let go = AtomicU32::new(0);
    std::thread::scope(|scope| {
        scope.spawn(|| {
            crate::call::nap(std::time::Duration::from_millis(20));
            stage.ready();
            stage.wait();
            go.store(1, SeqCst);
        });
        hold(1, &go)
    })
}

/// Three threads hold, each its own values.
fn threads(stage: &Stage) -> Verdict {
    let go = AtomicU32::new(0);
    std::thread::scope(|scope| {
        let holders: Vec<_> = (1..4)
            .map(|seed| {
                scope.spawn({
                    let go = &go;
                    move || hold(seed * 40, go)
                })
            })
            .collect();
        crate::call::nap(std::time::Duration::from_millis(20));
        let seen = stage.freeze_amid_threads();
        go.store(1, SeqCst);
        holders
            .into_iter()
            .try_for_each(|holder| holder.join().map_err(|_| "a thread panicked".to_owned())?)?;
        seen
    })
}

/// The base of gs, which programs may use as they like.
fn segment_base(stage: &Stage) -> Verdict {
    const ARCH_SET_GS: i32 = 0x1001;
    let words = [0x1234_5678_9abc_def0_u64, 0x0fed_cba9_8765_4321];
    if unsafe { libc::syscall(libc::SYS_arch_prctl, ARCH_SET_GS, words.as_ptr()) } != 0 {
        return Err("arch_prctl(ARCH_SET_GS)".to_owned());
    }
    stage.freeze_here()?;
    let found: u64;
    unsafe { std::arch::asm!("mov {}, gs:[8]", out(reg) found) };
    same!(found, words[1], "what stands at gs:8");
    Ok(())
}
