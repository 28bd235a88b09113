//! The facts of a host that an image relies on.

use serde::{Deserialize, Serialize};

/// The host on which a program was frozen.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Host {
    /// `uname -m`.
    pub architecture: String,
    /// `uname -r`, for people.
    pub kernel: String,
    /// `/proc/sys/kernel/random/boot_id`: tells whether pids and the clock are of this boot.
    pub boot_id: String,
    /// Bits of XCR0: the state components whose content is in the saved xstate.
    pub xcr0: u64,
    /// Feature names of `/proc/cpuinfo`, which the program may have tested at its start.
    pub cpu_features: Vec<String>,
    /// The user whose program it was.
    pub uid: u32,
    /// Whether the freezer had the privileges of root over the program.
    pub privileged: bool,
    /// Whether the program lived in a pid namespace other than the freezer's: its pids mean nothing outside.
    pub pid_namespace: bool,
    /// Whether it lived in an IPC namespace other than the freezer's: all objects in there were its own.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub ipc_namespace: bool,
    /// The environment that it lived in, if it was one of the runtime's.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub runtime: Option<Runtime>,
}

/// What a program of the runtime gets again where it is thawed.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Runtime {
    /// The kinds of system calls that are refused to others and were open to it, by their names.
    pub allowed: Vec<String>,
    /// Whether its keeper held a terminal for it.
    pub terminal: bool,
    /// How its capabilities are obtained again, where that is not to be as usual; the first rule that fits decides.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub routes: Vec<crate::route::Rule>,
    /// Whether it has the descriptors by which it may ask for notices.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub notices: bool,
    /// How much it may use of the machine.
    #[serde(default, skip_serializing_if = "Budget::is_unlimited")]
    pub budget: Budget,
    /// Its network, if that was not the host's.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub network: Option<crate::network::Network>,
    /// The session of that terminal, if a process of the runtime led it, which is not in the tree.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub session: Option<crate::Pid>,
}

/// How much a program may use of the machine; what is absent is not limited.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Budget {
    /// Bytes of memory.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub ram_bytes: Option<u64>,
    /// Processor time, in hundredths of one processor.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub cpu_percent: Option<u32>,
}

impl Budget {
    /// Returns whether nothing is limited.
    pub fn is_unlimited(&self) -> bool {
        *self == Self::default()
    }
}
