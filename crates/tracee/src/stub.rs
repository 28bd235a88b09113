//! A process that is nothing but a tape: the ELF file that a process to be thawed starts as.
//!
//! It holds the interpreter and a first short tape. That maps a second memfd, the control area, in which the real
//! tapes lie, and jumps there; the pages of this file can then be unmapped with all else, so that the kernel lets
//! go of it as the process' executable (replace_mm_exe_file, `kernel/fork.c`, refuses while it is mapped).

use crate::interpreter;
use crate::tape::Tape;
use frost_abi::tape::Entry;

/// Where a stub finds its tapes.
#[derive(Clone, Copy, Debug)]
pub struct Stub {
    /// The page-aligned address the stub itself is loaded at.
    pub load: u64,
    /// The inherited descriptor of the control area.
    pub control_fd: i32,
    /// The page-aligned address the control area is mapped at. Its first page starts with the interpreter
    /// and is mapped executable; the rest is writable and shared with whoever else maps it.
    pub control: u64,
    /// The length of the control area in bytes, a multiple of the page size.
    pub control_bytes: u64,
    /// The address of the first tape inside it.
    pub tape: u64,
}

const EHDR_BYTES: usize = 64;
const PHDR_BYTES: usize = 56;
const PAGE: u64 = 4096;

impl Stub {
    /// Builds the ELF file.
    pub fn to_elf(self) -> Vec<u8> {
        // lea rsp, [rip + distance]: 48 8d 25 rel32; then the interpreter follows directly.
        const LEA_BYTES: usize = 7;
        let entry_at = EHDR_BYTES + PHDR_BYTES;
        let tape_at = (entry_at + LEA_BYTES + interpreter::code().len()).next_multiple_of(16);
        let mut tape = Tape::at(self.load + tape_at as u64);
        let fd = self.control_fd as u64;
        let fixed = (libc::MAP_SHARED | libc::MAP_FIXED_NOREPLACE) as u64;
        let executable = (libc::PROT_READ | libc::PROT_EXEC) as u64;
        let writable = (libc::PROT_READ | libc::PROT_WRITE) as u64;
        let exit = Entry::call(libc::SYS_exit_group as u64, [99, 0, 0, 0, 0, 0]);
        let code = tape.call(libc::SYS_mmap, &[self.control, PAGE, executable, fixed, fd, 0]);
        let tapes = tape.call(
            libc::SYS_mmap,
            &[self.control + PAGE, self.control_bytes - PAGE, writable, fixed, fd, PAGE],
        );
        tape.push(Entry::leave(self.control, self.tape, 0, 0, 0));
        let failed = tape.push(exit);
        tape.on_error(code, failed);
        tape.on_error(tapes, failed);

        let mut file = Vec::with_capacity(PAGE as usize);
        file.extend(elf_header(self.load + entry_at as u64));
        file.extend(program_header(self.load, PAGE));
        file.extend([0x48, 0x8d, 0x25]);
        file.extend(((tape_at - entry_at - LEA_BYTES) as u32).to_le_bytes());
        file.extend(interpreter::code());
        file.resize(tape_at, 0);
        file.extend(tape.to_bytes());
        file.resize(PAGE as usize, 0);
        file
    }
}

/// An `Elf64_Ehdr` with one program header behind it (elf.h).
fn elf_header(entry: u64) -> Vec<u8> {
    let mut header = vec![0x7f, b'E', b'L', b'F', 2, 1, 1, 0, 0, 0, 0, 0, 0, 0, 0, 0];
    header.extend(2u16.to_le_bytes()); // ET_EXEC: loaded where it says
    header.extend(62u16.to_le_bytes()); // EM_X86_64
    header.extend(1u32.to_le_bytes());
    header.extend(entry.to_le_bytes());
    header.extend((EHDR_BYTES as u64).to_le_bytes()); // e_phoff
    header.extend(0u64.to_le_bytes()); // e_shoff
    header.extend(0u32.to_le_bytes());
    for half in [EHDR_BYTES as u16, PHDR_BYTES as u16, 1, 0, 0, 0] {
        header.extend(half.to_le_bytes());
    }
    header
}

/// An `Elf64_Phdr`: the whole file, readable, writable and executable.
fn program_header(load: u64, len_bytes: u64) -> Vec<u8> {
    let mut header = Vec::new();
    header.extend(1u32.to_le_bytes()); // PT_LOAD
    header.extend(7u32.to_le_bytes()); // PF_R | PF_W | PF_X
    for word in [0, load, load, len_bytes, len_bytes, PAGE] {
        header.extend(word.to_le_bytes());
    }
    header
}

#[cfg(test)]
mod tests {
    use super::*;
    use frost_abi::tape::ENTRY_BYTES;
    use rustix::fd::AsRawFd;
    use std::os::unix::process::{CommandExt, ExitStatusExt};

    #[test]
    fn a_stub_runs_the_tape_in_its_control_area() {
        let control = rustix::fs::memfd_create("control", rustix::fs::MemfdFlags::empty()).unwrap();
        let base = 0x1000_0000;
        let mut tape = Tape::at(base + PAGE);
        let failing = tape.call(libc::SYS_close, &[-1i64 as u64]);
        tape.call(libc::SYS_exit_group, &[1]);
        let pid = tape.call(libc::SYS_getpid, &[]);
        let exit = tape.call(libc::SYS_exit_group, &[0]);
        tape.on_error(failing, pid);
        tape.forward(pid, exit, 0);
        let mut page = interpreter::code().to_vec();
        page.resize(PAGE as usize, 0);
        page.extend(tape.to_bytes());
        rustix::fs::ftruncate(&control, 2 * PAGE).unwrap();
        rustix::io::pwrite(&control, &page, 0).unwrap();
        let stub = Stub {
            load: 0x2000_0000,
            control_fd: control.as_raw_fd(),
            control: base,
            control_bytes: 2 * PAGE,
            tape: base + PAGE,
        };
        let elf = rustix::fs::memfd_create("stub", rustix::fs::MemfdFlags::CLOEXEC).unwrap();
        rustix::io::write(&elf, &stub.to_elf()).unwrap();
        let mut child = std::process::Command::new(format!("/proc/self/fd/{}", elf.as_raw_fd()))
            .arg0("stub")
            .spawn()
            .unwrap();
        let pid = child.id();
        let status = child.wait().unwrap();
        assert_eq!((status.signal(), status.code()), (None, Some((pid & 0xff) as i32)));
        let mut result = [0u8; ENTRY_BYTES];
        rustix::io::pread(&control, &mut result, PAGE).unwrap();
        assert_eq!(Tape::result_in(&result, failing), Some(-i64::from(libc::EBADF)));
    }
}
