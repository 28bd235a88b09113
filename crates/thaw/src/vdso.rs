//! The vDSO of this kernel, which a program must find again as it was: it has taken addresses inside of it.

use std::sync::OnceLock;

/// Our own vDSO.
#[derive(Clone, Debug)]
pub(crate) struct Own {
    /// The bytes of its code pages.
    pub(crate) code: Vec<u8>,
}

/// Reads it once.
pub(crate) fn own() -> Option<&'static Own> {
    static OWN: OnceLock<Option<Own>> = OnceLock::new();
    OWN.get_or_init(read).as_ref()
}

fn read() -> Option<Own> {
    let maps = frost_sys::proc::file("/proc/self/maps".as_ref()).ok()?;
    let maps = String::from_utf8_lossy(&maps);
    let line = maps.lines().find(|line| line.ends_with("[vdso]"))?;
    let (start, end) = line.split_whitespace().next()?.split_once('-')?;
    let start = u64::from_str_radix(start, 16).ok()?;
    let end = u64::from_str_radix(end, 16).ok()?;
    let memory = std::fs::File::open("/proc/self/mem").ok()?;
    let mut code = vec![0; usize::try_from(end.checked_sub(start)?).ok()?];
    std::os::unix::fs::FileExt::read_exact_at(&memory, &mut code, start).ok()?;
    Some(Own { code })
}

/// Returns the digest of its code pages.
pub(crate) fn digest() -> Option<[u8; 32]> {
    own().map(|own| *blake3::hash(&own.code).as_bytes())
}
