//! The RM session: which dataspace is attached where.

mod bounds;
mod region;

pub use bounds::Bounds;
pub use region::{Attachment, PageRange, Protection, Region, RegionFlags, RmState, SpecialRegion, Vdso};
