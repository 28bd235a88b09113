//! The RM session: which dataspace is attached where.

mod bounds;
mod region;

pub use bounds::Bounds;
pub use region::{
    Attachment, PROTECTION_KEYS, PageRange, Protection, ProtectionKeys, Region, RegionFlags, RmState,
    SpecialRegion, Vdso,
};
