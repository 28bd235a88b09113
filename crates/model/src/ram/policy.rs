//! From which nodes of a machine memory is taken.

use serde::{Deserialize, Serialize};

/// The highest number of a node, and one more (MAX_NUMNODES of x86-64).
pub const MOST_NODES: u32 = 1024;

/// A memory policy (set_mempolicy(2), mbind(2)).
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct MemoryPolicy {
    /// MPOL_ number and MPOL_F_ flags.
    pub mode: u32,
    /// The nodes it names, by ascending number.
    pub nodes: Vec<u32>,
}
