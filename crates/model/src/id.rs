//! Identifiers, each a type of its own.

use serde::{Deserialize, Serialize};
use std::fmt;

macro_rules! identifier {
    ($(#[$doc:meta])* $name:ident($inner:ty)) => {
        $(#[$doc])*
        #[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
        #[serde(transparent)]
        pub struct $name($inner);

        impl $name {
            /// Wraps a raw number; what it denotes is up to where it came from.
            pub const fn new(raw: $inner) -> Self {
                Self(raw)
            }

            /// Returns the raw number.
            pub const fn raw(self) -> $inner {
                self.0
            }
        }

        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                self.0.fmt(f)
            }
        }
    };
}

identifier! {
    /// A process (thread group) in the pid namespace it was seen in.
    ///
    /// A number is no hold on a process: it can be reused as soon as the process was reaped. Code that acts
    /// on a running one keeps a pidfd beside it.
    Pid(i32)
}
identifier! {
    /// A thread, in the pid namespace it was seen in.
    Tid(i32)
}
identifier! {
    /// A descriptor number in a target; it means nothing in our own table.
    TargetFd(i32)
}
identifier! {
    /// An address in a target. It is a claim about that address space, never a pointer of ours.
    TargetAddr(u64)
}
identifier! {
    /// An open file description of a checkpoint, an index into [`Checkpoint::descriptions`](crate::Checkpoint).
    DescriptionId(u32)
}
identifier! {
    /// An object behind descriptions (a pipe, an inode without a name), an index into the table of its kind.
    ObjectId(u32)
}
identifier! {
    /// A shared dataspace of a checkpoint, an index into [`Checkpoint::dataspaces`](crate::Checkpoint).
    DataspaceId(u32)
}

impl From<Pid> for Tid {
    /// The leader thread of a process has the number of the process.
    fn from(pid: Pid) -> Self {
        Tid(pid.0)
    }
}

impl DescriptionId {
    /// Returns the identifier as an index.
    pub const fn index(self) -> usize {
        self.0 as usize
    }
}

impl ObjectId {
    /// Returns the identifier as an index.
    pub const fn index(self) -> usize {
        self.0 as usize
    }
}

impl DataspaceId {
    /// Returns the identifier as an index.
    pub const fn index(self) -> usize {
        self.0 as usize
    }
}
