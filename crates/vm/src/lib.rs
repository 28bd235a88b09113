//! Virtual machines: a guest that is started around a program, frozen with all it has, and thawed.
//!
//! [`Vmm`](vmm::Vmm) is what runs one; [`Qemu`](qemu::Qemu) does it, over its [monitor](qmp). The guest is booted from a
//! [kernel] and an [initramfs] that is written here, in which [our own init](wire) runs the program.
//! When it is saved, its [stream] is taken apart: memory becomes the beginning of an image's pack, from which a
//! thaw maps it without reading it.
#![forbid(unsafe_code)]

pub mod accelerator;
pub mod adopt;
pub mod agent;
mod birth;
mod cpio;
pub mod disk;
mod error;
pub mod freeze;
pub mod initramfs;
pub mod keeper;
pub mod kernel;
pub mod place;
mod program;
pub mod qemu;
pub mod qmp;
pub mod run;
pub mod stream;
pub mod thaw;
pub mod vmm;
pub mod wire;

pub use birth::Started;
pub use error::{Error, Result};
