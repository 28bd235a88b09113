//! The network namespace of a program of the runtime, if it has one of its own.

use crate::Keeper;
use crate::cap::Error;
use frost_model::network::{Address, Network, Reach, Setting};
use frost_model::{Obstacle, Pid};
use frost_sys::network::{self, Meant, Whose, census};

/// Means the program's network by what is asked of the kernel from here on.
///
/// # Errors
/// That it cannot be entered.
pub(crate) fn mean(keeper: Option<&dyn Keeper>) -> Result<Option<Meant>, Error> {
    let own = keeper.filter(|keeper| keeper.runtime().network.is_some());
    let meant = own.map(|keeper| network::mean(Whose::Process(keeper.pid())));
    meant.transpose().map_err(|source| Error::Object { object: "its network".to_owned(), source })
}

/// Looks at a network of the program's own: what it is, and what in it is in the way. `root` is the program's first
/// process.
///
/// # Errors
/// That it cannot be looked at.
pub(crate) fn look(
    keeper: Option<&dyn Keeper>,
    root: Option<(Pid, &str)>,
) -> Result<(Option<Network>, Vec<Obstacle>), Error> {
    let Some((keeper, network)) = keeper.and_then(|keeper| Some((keeper, keeper.runtime().network?))) else {
        return Ok((None, Vec::new()));
    };
    let census = census::take(Whose::Process(keeper.pid()))
        .map_err(|source| Error::Object { object: "its network".to_owned(), source })?;
    let (pid, command) = root.unwrap_or((Pid::new(1), "program"));
    let others =
        census.others.iter().filter(|(_, name)| network.reach != Reach::Outside || !is_helpers(name));
    let obstacles = others.map(|(kind, name)| Obstacle {
        pid,
        command: command.to_owned(),
        object: format!("{kind} {name}"),
        reason: "in a network of a program's own, only the loopback interface, its addresses and settings are carried"
            .to_owned(),
        remedy: "let the program remove it first, or start it with the host's network".to_owned(),
        passes: false,
    });
    let obstacles = obstacles.collect();
    let network = Network {
        reach: network.reach,
        up: census.up,
        mtu: census.mtu,
        addresses: census
            .addresses
            .into_iter()
            .map(|address| Address { bytes: address.bytes, prefix: address.prefix, scope: address.scope })
            .collect(),
        settings: census
            .settings
            .into_iter()
            .map(|setting| Setting { name: setting.name, value: setting.value })
            .collect(),
    };
    Ok((Some(network), obstacles))
}

/// Whether something is the interface of the helper outside, or came with it.
fn is_helpers(name: &str) -> bool {
    let interface = frost_keeper::house::OUTWARD;
    name.strip_prefix(interface).is_some_and(|rest| rest.starts_with(" ("))
        || name.ends_with(&format!(" by {interface}"))
}
