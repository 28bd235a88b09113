//! A `frost run` within the program: its keeper, which is pid 1 of namespaces of its own, and what lives in these.

use crate::id::{ObjectId, Pid};
use crate::path::BytePath;
use serde::{Deserialize, Serialize};

/// The namespaces of a keeper within the tree: pid, mount, IPC and host name, and maybe user.
///
/// Wherever else a checkpoint names a process or thread, it is by the number that the root of the tree sees.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Nest {
    /// The keeper, as the root sees it.
    pub keeper: Pid,
    /// Whether it has a user namespace of its own, in which user and group are themselves.
    pub user: bool,
    /// All that have a number in it, by ascending number of the root: processes, threads, and groups and sessions whose
    /// leaders have ended.
    pub numbers: Vec<NestNumber>,
    /// The pseudoterminals that lie in its `/dev/pts`.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub ptys: Vec<ObjectId>,
    /// The path outside of it of the terminal that is `/dev/console` in it, if there is one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub console: Option<BytePath>,
}

/// The number of a process or thread in a nest.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct NestNumber {
    /// As the root sees it.
    pub outer: Pid,
    /// As whoever is in there sees it; 1 is the keeper.
    pub inner: Pid,
}

impl Nest {
    /// Returns the number in here of a process or thread; `None` if it lives elsewhere.
    pub fn inner(&self, outer: Pid) -> Option<Pid> {
        let at = self.numbers.binary_search_by_key(&outer, |number| number.outer).ok()?;
        Some(self.numbers[at].inner)
    }
}
