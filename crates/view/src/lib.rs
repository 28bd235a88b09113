//! A frozen program looked at without thawing it.
//!
//! An image holds an address space as regions, the pages that were its own, objects that several regions show, and files
//! that stay where they are. [`memory`] puts these together to what the program saw at an address; [`elf`] writes it as a
//! core that a debugger opens, and [`difference`](mod@difference) tells what changed from one image to another.
//!
//! The pack is read frame by frame and never whole, and nothing is written to the store. Files are read only if they are
//! still what they were when the program was frozen.
#![forbid(unsafe_code)]

pub mod difference;
pub mod elf;
pub mod ipc;
pub mod memory;
pub mod object;

pub use difference::{Difference, difference};
pub use elf::Core;

/// Why an image could not be looked at.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The image cannot be read.
    #[error(transparent)]
    Store(#[from] frost_store::Error),
    /// What was made of it cannot be written.
    #[error("the output cannot be written")]
    Output {
        /// Why.
        #[source]
        source: std::io::Error,
    },
    /// A file that the program had mapped can no longer be read.
    #[error("{path} cannot be read")]
    File {
        /// Which.
        path: String,
        /// Why.
        #[source]
        source: std::io::Error,
    },
}
