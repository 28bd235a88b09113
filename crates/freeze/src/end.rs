//! The end of a tree, behind the commit of its image: of all of it, also if the guardian dies amid it.

use crate::Keeper;
use frost_store::{Ending, Name, Store};
use frost_sys::fault;
use frost_tracee::seize::{StoppedProcess, StoppedTree};

/// Notes which processes will be ended, before the commit: behind that there is no failure any more. A single one without a
/// keeper, who must know why it ended, needs no note, since one call ends it.
///
/// # Errors
/// As for any write to the store.
pub(crate) fn note(
    store: &Store,
    name: &Name,
    tree: &StoppedTree,
    keeper: Option<&dyn Keeper>,
) -> frost_store::Result<Option<Ending>> {
    let living = tree.processes().iter().filter(|process| !process.zombie);
    let processes: Vec<_> = living.map(|process| (process.pid, process.stat.starttime)).collect();
    (processes.len() > 1 || keeper.is_some()).then(|| store.ending(name, &processes)).transpose()
}

/// Ends a tree.
pub(crate) fn end(tree: StoppedTree, noted: Option<&Ending>, keeper: Option<&dyn Keeper>) {
    // Until here it goes on if we die.
    let _ = fault::point("freeze.announced");
    if let (Some(ending), Some(keeper)) = (noted, keeper) {
        keeper.ending(ending.note(), Ending::KILLS);
    }
    // Without a word of it nobody would let go on what is stopped.
    let noted = noted.filter(|ending| ending.stops().is_ok());
    if let Some(ending) = noted {
        let behind = |process: &StoppedProcess| {
            let _ = ending.holds(process.pid);
            let _ = fault::point("freeze.hold");
        };
        tree.hold(|process| ending.aims_at(process.pid).is_ok(), behind);
        let _ = ending.kills();
    }
    tree.kill(|| _ = fault::point("freeze.ending"));
}
