//! The RAM session: what is in memory.

mod dataspace;
mod pages;
mod policy;

pub use dataspace::{Dataspace, DataspaceKind};
pub use pages::{Pages, Run};
pub use policy::{MOST_NODES, MemoryPolicy};
