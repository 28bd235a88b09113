//! The network of a program that does not live in its host's.

use serde::{Deserialize, Serialize};

/// A network namespace of the program's own: its loopback interface, and what was set in it. All else in one is made by
/// the kernel, or is in the way of a freeze.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Network {
    /// How far it reaches.
    pub reach: Reach,
    /// Whether the loopback interface is up.
    pub up: bool,
    /// How long packets on it may be.
    pub mtu: u32,
    /// All addresses of the loopback interface.
    pub addresses: Vec<Address>,
    /// Settings (sysctl(8)) that differ from those of a new network namespace, by ascending name.
    pub settings: Vec<Setting>,
}

/// How far a network of a program's own reaches.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub enum Reach {
    /// Nowhere: it has a loopback interface.
    #[default]
    Loopback,
    /// Where the host's network reaches, by way of a helper outside.
    Outside,
}

/// An address of the loopback interface.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Address {
    /// 4 bytes of IPv4 or 16 of IPv6.
    #[serde(with = "serde_bytes")]
    pub bytes: Vec<u8>,
    /// How many bits of it tell the network.
    pub prefix: u8,
    /// RT_SCOPE_...
    pub scope: u8,
}

/// A setting.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Setting {
    /// Its path below `/proc/sys/net`.
    pub name: String,
    /// Its value.
    #[serde(with = "serde_bytes")]
    pub value: Vec<u8>,
}

impl Network {
    /// Makes one as programs get it at their start.
    pub fn new(reach: Reach) -> Self {
        Self { reach, ..Self::default() }
    }
}

impl Setting {
    /// Whether its name is one: below the place of all settings, and leading nowhere else.
    pub fn is_named(&self) -> bool {
        self.name.len() < 512
            && !self.name.contains('\0')
            && self.name.split('/').all(|part| !part.is_empty() && part != "." && part != "..")
    }
}
