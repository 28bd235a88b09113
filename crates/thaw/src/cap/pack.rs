//! Content on its way out of the pack.

use frost_model::ram::Pages;
use rustix::fd::{BorrowedFd, OwnedFd};
use rustix::io::{Errno, Result};

/// Copies `pages` to the file behind `to`, not beyond `len_bytes`.
///
/// # Errors
/// EIO if the pack ends before the pages do.
pub(crate) fn copy(pack: BorrowedFd<'_>, pages: &Pages, to: &OwnedFd, len_bytes: u64) -> Result<()> {
    let mut buffer = Vec::new();
    let is_huge = frost_sys::hugetlb::page_shift(to).is_some();
    for run in &pages.runs {
        let end = run.len_bytes.min(len_bytes.saturating_sub(run.offset));
        if is_huge {
            frost_sys::hugetlb::fill(to, run.offset, (pack, run.pack_offset), end)?;
            continue;
        }
        let mut done = 0;
        while done < end {
            let (mut from, mut at) = (run.pack_offset + done, run.offset + done);
            let part = (end - done).min(1 << 30) as usize;
            // Within the kernel where it can; a file system may even share the blocks.
            match rustix::fs::copy_file_range(pack, Some(&mut from), to, Some(&mut at), part) {
                Ok(copied) if copied > 0 => {
                    done += copied as u64;
                    continue;
                }
                Ok(_) | Err(_) => {}
            }
            if buffer.is_empty() {
                buffer.resize(1 << 20, 0);
            }
            let part = part.min(buffer.len());
            let got = rustix::io::pread(pack, &mut buffer[..part], run.pack_offset + done)?;
            if got == 0 {
                return Err(Errno::IO);
            }
            let mut written = 0;
            while written < got {
                let at = run.offset + done + written as u64;
                written += rustix::io::pwrite(to, &buffer[written..got], at)?;
            }
            done += got as u64;
        }
    }
    Ok(())
}
