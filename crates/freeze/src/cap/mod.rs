//! Capture of descriptors by kind.

use frost_model::cap::{Description, Objects};
use frost_model::pd::Descriptor;
use frost_model::ram::Dataspace;
use frost_model::{DataspaceId, DescriptionId, Obstacle, Pid};
use frost_store::PackWriter;
use rustix::fd::BorrowedFd;

/// A process whose descriptors are looked at.
#[derive(Clone, Copy, Debug)]
pub struct Observed<'a> {
    /// Its pid as we see it.
    pub pid: Pid,
    /// Its pid in its own namespace.
    pub inner: Pid,
    /// Its command name.
    pub command: &'a str,
    /// The process.
    pub pidfd: BorrowedFd<'a>,
}

/// The descriptors of a tree.
#[derive(Debug)]
pub struct Catalog;

/// Why descriptors could not be captured.
#[derive(Debug, thiserror::Error)]
pub enum Error {}

/// What a capture gives.
#[derive(Debug)]
pub struct Captured {
    /// Open file descriptions.
    pub descriptions: Vec<Description>,
    /// Objects behind them.
    pub objects: Objects,
    /// Memory behind them.
    pub dataspaces: Vec<Dataspace>,
}

impl Catalog {
    /// Looks at every descriptor.
    pub fn survey(_processes: &[Observed<'_>]) -> Result<(Self, Vec<Obstacle>), Error> {
        Ok((Self, Vec::new()))
    }

    /// Returns the descriptor table of a process.
    pub fn descriptors(&self, _inner: Pid) -> Vec<Descriptor> {
        Vec::new()
    }

    /// Returns the dataspace of a memfd.
    pub fn dataspace_of(&self, _device: u64, _inode: u64) -> Option<DataspaceId> {
        None
    }

    /// Returns a description of an unnamed file.
    pub fn description_of(&self, _device: u64, _inode: u64) -> Option<DescriptionId> {
        None
    }

    /// Reads contents.
    pub fn capture(self, _pack: &mut PackWriter) -> Result<Captured, Error> {
        Ok(Captured { descriptions: Vec::new(), objects: Objects::default(), dataspaces: Vec::new() })
    }
}
