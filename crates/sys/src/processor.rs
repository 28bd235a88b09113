//! The processor.

/// Reads XCR0: the state components that the kernel saves for a thread; 0 if the processor has none.
///
/// Source: XGETBV with ecx 0, Intel SDM volume 2; CPUID.01H:ECX.OSXSAVE tells whether it may be used.
pub fn xcr0() -> u64 {
    const OSXSAVE: u32 = 1 << 27;
    if std::arch::x86_64::__cpuid(1).ecx & OSXSAVE == 0 {
        return 0;
    }
    let (low, high): (u32, u32);
    // SAFETY: OSXSAVE is set, so the instruction exists and the kernel lets us use it; it only writes eax and edx.
    unsafe {
        std::arch::asm!("xgetbv", in("ecx") 0, out("eax") low, out("edx") high, options(nomem, nostack));
    }
    u64::from(low) | u64::from(high) << 32
}
