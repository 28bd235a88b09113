//! The bounds that the kernel keeps of an address space.

use serde::{Deserialize, Serialize};

/// The fields of `struct prctl_mm_map` (PR_SET_MM_MAP) that are addresses, and the auxiliary vector.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[allow(missing_docs, reason = "the names are those of struct prctl_mm_map")]
pub struct Bounds {
    pub start_code: u64,
    pub end_code: u64,
    pub start_data: u64,
    pub end_data: u64,
    pub start_brk: u64,
    /// The current break, as brk(0) returns it.
    pub brk: u64,
    pub start_stack: u64,
    pub arg_start: u64,
    pub arg_end: u64,
    pub env_start: u64,
    pub env_end: u64,
    /// The bytes of `/proc/PID/auxv`.
    #[serde(with = "serde_bytes")]
    pub auxv: Vec<u8>,
}
