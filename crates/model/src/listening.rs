//! Which sockets of a program can be kept while it is frozen, so that whoever connects waits meanwhile.

use crate::Checkpoint;
use crate::cap::{Capability, TcpPeer, UnixName, UnixState};
use std::net::SocketAddr;

impl Checkpoint {
    /// Returns whether a description is a socket that can wait, as it is, for the program to be thawed.
    ///
    /// Those are sockets at which it is called: of TCP if they have an address, of unix if they listen and can be reached.
    /// What must be made anew at the same address is in the way: a connection within the program that was accepted there, or
    /// waits to be; and a name in a layer, whose files are put there anew by a thaw.
    pub fn is_keepable(&self, index: usize) -> bool {
        let id = |id: crate::DescriptionId| id.index() == index;
        let mut others = self.descriptions.iter().enumerate().filter(|(other, _)| *other != index);
        match self.descriptions.get(index).map(|description| &description.capability) {
            Some(Capability::TcpListener(listener)) => {
                let Some(port) = listener.inet.local.as_ref().map(SocketAddr::port) else { return false };
                !others.any(|(_, other)| match &other.capability {
                    Capability::TcpStream(stream) => match stream.inside.as_ref().map(|inside| inside.peer) {
                        Some(TcpPeer::Description(_)) => {
                            stream.inet.local.is_some_and(|local| local.port() == port)
                        }
                        Some(TcpPeer::Listener(listener)) => id(listener),
                        Some(TcpPeer::Closed) | None => false,
                    },
                    _ => false,
                })
            }
            Some(Capability::Unix(socket)) => {
                let UnixState::Listening { pending, .. } = &socket.state else { return false };
                let reachable = match &socket.name {
                    Some(UnixName::Abstract(_)) => true,
                    Some(UnixName::Path { path, directory, present, .. }) => {
                        let full = match directory {
                            Some(directory) => {
                                crate::BytePath::from(&*directory.as_path().join(path.as_path()))
                            }
                            None => path.clone(),
                        };
                        *present && full.as_path().is_absolute() && !self.is_layered(&full)
                    }
                    None => false,
                };
                // What was accepted there has its name too; without a peer it can do with another one.
                let named = |other: &Capability| match other {
                    Capability::Unix(other) => {
                        other.name == socket.name
                            && !matches!(other.state, UnixState::PeerClosed | UnixState::PeerReset)
                    }
                    _ => false,
                };
                reachable && pending.is_empty() && !others.any(|(_, other)| named(&other.capability))
            }
            _ => false,
        }
    }
}
