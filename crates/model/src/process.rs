//! A process, and the checkpoint of a tree of them.

use crate::bundle::Bundled;
use crate::cap::{Description, Objects};
use crate::clock::Clocks;
use crate::cpu::CpuState;
use crate::host::Host;
use crate::layer::Layer;
use crate::machine::Machine;
use crate::nest::Nest;
use crate::pd::PdState;
use crate::ram::Dataspace;
use crate::rm::RmState;
use serde::{Deserialize, Serialize};

/// The state of a process tree at one instant.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Checkpoint {
    /// Where it was frozen.
    pub host: Host,
    /// What its clocks showed.
    pub clocks: Clocks,
    /// The processes, parents before their children; the first is the root of the tree.
    pub processes: Vec<Process>,
    /// Open file descriptions, indexed by [`DescriptionId`](crate::DescriptionId).
    pub descriptions: Vec<Description>,
    /// Objects that lie behind several descriptions.
    pub objects: Objects,
    /// Memory shared between processes or behind descriptors, indexed by [`DataspaceId`](crate::DataspaceId).
    pub dataspaces: Vec<Dataspace>,
    /// The virtual machine, if it is one: then there is no process, and none of what processes have.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub machine: Option<Machine>,
    /// Directories of which it had a view of its own.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub layers: Vec<Layer>,
    /// Files that it brings along, by ascending path, the root directory first.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub bundle: Vec<Bundled>,
    /// What was run by `frost run` in it, each with a keeper of its own.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub nests: Vec<Nest>,
}

impl Checkpoint {
    /// Returns the nest in which a process or thread lives, by the number that the root sees.
    pub fn nest_of(&self, outer: crate::Pid) -> Option<&Nest> {
        self.nests.iter().find(|nest| nest.inner(outer).is_some())
    }

    /// Returns the number of a process or thread for one who lives where `viewer` does; `None` if it has none there.
    pub fn seen_by(&self, viewer: crate::Pid, outer: crate::Pid) -> Option<crate::Pid> {
        match self.nest_of(viewer) {
            Some(nest) => nest.inner(outer),
            None => Some(outer),
        }
    }

    /// Returns the nest of which a process is the keeper.
    pub fn kept_by(&self, keeper: crate::Pid) -> Option<&Nest> {
        self.nests.iter().find(|nest| nest.keeper == keeper)
    }

    /// Returns whether a path leads into a layer, where the program is alone.
    pub fn is_layered(&self, path: &crate::BytePath) -> bool {
        self.layers.iter().any(|layer| path.as_path().starts_with(layer.directory.as_path()))
    }
}

/// One process.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Process {
    /// Its protection domain: all that is not threads or memory.
    pub pd: PdState,
    /// Its threads. Empty for a zombie.
    pub cpu: CpuState,
    /// Its region map. Empty for a zombie.
    pub rm: RmState,
}
