//! The RAM session: what is in memory.

mod dataspace;
mod pages;

pub use dataspace::{Dataspace, DataspaceKind};
pub use pages::{Pages, Run};
