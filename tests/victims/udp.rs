//! UDP sockets.

use crate::Victim;
use crate::stage::{Stage, Verdict};
use std::net::UdpSocket;

pub(crate) const VICTIMS: &[Victim] =
    &[("udp_bound", bound), ("udp_connected", connected), ("udp_v6", v6), ("udp_multicast", multicast)];

fn text<T>(result: std::io::Result<T>) -> Result<T, String> {
    result.map_err(|why| why.to_string())
}

fn exchange(from: &UdpSocket, to: &UdpSocket) -> Verdict {
    let mut bytes = [0; 16];
    text(from.send_to(b"hello", text(to.local_addr())?))?;
    let (len, sender) = text(to.recv_from(&mut bytes))?;
    same!(&bytes[..len], b"hello", "what came through");
    same!(sender, text(from.local_addr())?, "the sender");
    Ok(())
}

fn bound(stage: &Stage) -> Verdict {
    let (one, two) = (text(UdpSocket::bind("127.0.0.1:0"))?, text(UdpSocket::bind("127.0.0.1:0"))?);
    text(one.set_broadcast(true))?;
    text(one.set_ttl(33))?;
    let before = (text(one.local_addr())?, text(two.local_addr())?);
    stage.freeze_here()?;
    same!((text(one.local_addr())?, text(two.local_addr())?), before, "the addresses");
    same!((text(one.broadcast())?, text(one.ttl())?), (true, 33), "the options");
    exchange(&one, &two)?;
    exchange(&two, &one)
}

fn connected(stage: &Stage) -> Verdict {
    let (one, two) = (text(UdpSocket::bind("127.0.0.1:0"))?, text(UdpSocket::bind("127.0.0.1:0"))?);
    text(one.connect(text(two.local_addr())?))?;
    stage.freeze_here()?;
    same!(text(one.peer_addr())?, text(two.local_addr())?, "the peer");
    text(one.send(b"hello"))?;
    let mut bytes = [0; 16];
    same!(text(two.recv(&mut bytes))?, 5, "what came through");
    Ok(())
}

fn v6(stage: &Stage) -> Verdict {
    let Ok(one) = UdpSocket::bind("[::1]:0") else {
        eprintln!("skipped: there is no IPv6 here");
        return stage.freeze_here();
    };
    let two = text(UdpSocket::bind("[::1]:0"))?;
    stage.freeze_here()?;
    exchange(&one, &two)
}

/// A group that was joined on the loopback interface still is.
fn multicast(stage: &Stage) -> Verdict {
    let group = std::net::Ipv4Addr::new(239, 7, 7, 7);
    let (local, any) = (std::net::Ipv4Addr::LOCALHOST, std::net::Ipv4Addr::UNSPECIFIED);
    let one = text(UdpSocket::bind((any, 0)))?;
    text(one.join_multicast_v4(&group, &local))?;
    stage.freeze_here()?;
    // One who is a member cannot become one again.
    check!(one.join_multicast_v4(&group, &local).is_err(), "it is no member any more");
    text(one.leave_multicast_v4(&group, &local))
}
