//! Whom unix sockets take for their peers (SO_PEERCRED, SO_PEERGROUPS), and messages for their senders (SCM_CREDENTIALS).

use crate::Victim;
use crate::call::{c, errno, read_all, read_some, until, write_all, zeroed};
use crate::credentials::is_root;
use crate::stage::{Stage, Verdict};
use crate::unix::{receive_descriptor, send_descriptor};
use libc::{SOCK_DGRAM, SOCK_SEQPACKET, SOCK_STREAM, SOL_SOCKET};

pub(crate) const VICTIMS: &[Victim] = &[
    ("peers_of_pairs", of_pairs),
    ("peers_that_ended", that_ended),
    ("peers_not_reaped", not_reaped),
    ("peers_connected", connected),
    ("peers_waiting", waiting),
    ("peers_before_a_change", before_a_change),
    ("peers_that_sent", that_sent),
    ("peers_outside", outside),
];

/// What a socket tells of its peer.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Told {
    pid: i32,
    ids: (u32, u32),
    groups: Vec<u32>,
}

fn told(fd: i32) -> Result<Told, String> {
    let (mut found, mut len) = (zeroed::<libc::ucred>(), size_of::<libc::ucred>() as u32);
    sys!(getsockopt(fd, SOL_SOCKET, libc::SO_PEERCRED, (&raw mut found).cast(), &mut len))?;
    let mut groups = vec![0u32; 64];
    let mut len = 4 * groups.len() as u32;
    match sys!(getsockopt(fd, SOL_SOCKET, libc::SO_PEERGROUPS, groups.as_mut_ptr().cast(), &mut len)) {
        // Nobody was taken down.
        Err(_) if errno() == libc::ENODATA => groups.clear(),
        other => {
            other?;
            groups.truncate(len as usize / 4);
        }
    }
    Ok(Told { pid: found.pid, ids: (found.uid, found.gid), groups })
}

/// Sockets and what they told before.
#[derive(Default)]
struct Sockets(Vec<(&'static str, i32, Told)>);

impl Sockets {
    fn add(&mut self, what: &'static str, fd: i32) -> Verdict {
        self.0.push((what, fd, told(fd)?));
        Ok(())
    }

    /// With `held` the numbers are those of processes that are there still, which nobody else can have.
    fn check(&self, held: bool) -> Verdict {
        for (what, fd, before) in &self.0 {
            let now = told(*fd)?;
            // An ordinary user comes back in a user namespace, in which most groups have no number.
            let groups = if is_root() { &before.groups } else { &now.groups };
            same!((now.ids, &now.groups), (before.ids, groups), "{what}");
            if held || has_numbers_of_its_own() {
                same!(now.pid, before.pid, "the process of {what}");
            }
        }
        Ok(())
    }
}

/// Whether all processes but the first are those that were frozen, so that no other took the number of one that ended.
pub(crate) fn has_numbers_of_its_own() -> bool {
    std::fs::read("/proc/1/comm").is_ok_and(|name| name.starts_with(b"frost"))
}

/// Becomes somebody else, if it may.
fn become_another(user: u32) -> Verdict {
    if is_root() {
        let groups = [user + 20, user + 30];
        sys!(setgroups(2, groups.as_ptr()))?;
        sys!(setresgid(user + 10, user + 1, user + 10))?;
        sys!(setresuid(user, user, user))?;
    }
    Ok(())
}

/// Lets those whom we become tell why they failed.
fn open_to_all(stage: &Stage) -> Verdict {
    let dir = c(&stage.path("").to_string_lossy());
    sys!(chmod(dir.as_ptr(), 0o777)).map(drop)
}

fn pair(kind: i32) -> Result<[i32; 2], String> {
    let mut pair = [0; 2];
    sys!(socketpair(libc::AF_UNIX, kind | libc::SOCK_CLOEXEC, 0, pair.as_mut_ptr()))?;
    Ok(pair)
}

fn socket(kind: i32) -> Result<i32, String> {
    sys!(socket(libc::AF_UNIX, kind | libc::SOCK_CLOEXEC, 0))
}

/// An address: a path, or an abstract name if `hidden`.
fn address(stage: &Stage, name: &str, hidden: bool) -> Result<(libc::sockaddr_un, u32), String> {
    let mut bytes = stage.path(name).to_string_lossy().into_owned().into_bytes();
    bytes.insert(if hidden { 0 } else { bytes.len() }, 0);
    let mut address: libc::sockaddr_un = zeroed();
    address.sun_family = libc::AF_UNIX as u16;
    check!(bytes.len() <= address.sun_path.len(), "the directory's name is too long");
    bytes.iter().enumerate().for_each(|(index, byte)| address.sun_path[index] = *byte as libc::c_char);
    Ok((address, 2 + bytes.len() as u32))
}

fn listener(stage: &Stage, kind: i32, name: &str, hidden: bool) -> Result<i32, String> {
    let (fd, (address, len)) = (socket(kind)?, address(stage, name, hidden)?);
    sys!(bind(fd, (&raw const address).cast(), len))?;
    sys!(listen(fd, 5))?;
    if !hidden {
        sys!(chmod(address.sun_path.as_ptr(), 0o777))?;
    }
    Ok(fd)
}

fn connect(stage: &Stage, kind: i32, name: &str, hidden: bool) -> Result<i32, String> {
    let (fd, (address, len)) = (socket(kind)?, address(stage, name, hidden)?);
    sys!(connect(fd, (&raw const address).cast(), len))?;
    Ok(fd)
}

fn accept(fd: i32) -> Result<i32, String> {
    sys!(accept4(fd, std::ptr::null_mut(), std::ptr::null_mut(), libc::SOCK_CLOEXEC))
}

/// Waits for the other side of a link to go on, or to be closed.
fn stand(link: i32) -> Verdict {
    read_some(link, 1).map(drop)
}

/// Pairs of each type, of ours and of a child that lives and is somebody else.
fn of_pairs(stage: &Stage) -> Verdict {
    open_to_all(stage)?;
    let [link, childs_link] = pair(SOCK_SEQPACKET)?;
    let kinds = [SOCK_STREAM, SOCK_SEQPACKET, SOCK_DGRAM];
    let mut sockets = Sockets::default();
    for kind in kinds {
        let [one, two] = pair(kind)?;
        sockets.add("one end of ours", one)?;
        sockets.add("the other end of ours", two)?;
    }
    let child = stage.fork(|| {
        sys!(close(link))?;
        become_another(1100)?;
        let mut own = Sockets::default();
        for kind in kinds {
            let [one, two] = pair(kind)?;
            own.add("an end of its own", one)?;
            send_descriptor(childs_link, two)?;
        }
        stand(childs_link)?;
        own.check(true)
    })?;
    sys!(close(childs_link))?;
    for _ in kinds {
        sockets.add("an end of the child's", receive_descriptor(link)?)?;
    }
    same!(sockets.0.last().map(|(_, _, told)| told.pid), Some(child), "whose it is");
    sockets.add("a fresh socket", socket(SOCK_STREAM)?)?;
    stage.freeze_here()?;
    sockets.check(true)?;
    sys!(close(link))?;
    stage.reap(child)
}

/// Makes sockets in a child that ends, and returns it.
fn made_by_a_child(stage: &Stage, sockets: &mut Sockets) -> Result<i32, String> {
    open_to_all(stage)?;
    let [link, childs_link] = pair(SOCK_SEQPACKET)?;
    let place = listener(stage, SOCK_DGRAM, "place", true);
    check!(place.is_err(), "a datagram socket listens");
    let child = stage.fork(|| {
        become_another(1200)?;
        for kind in [SOCK_STREAM, SOCK_SEQPACKET, SOCK_DGRAM] {
            let [one, two] = pair(kind)?;
            send_descriptor(childs_link, one)?;
            send_descriptor(childs_link, two)?;
        }
        // One of a pair, whose other is gone; one that left its pair; one that has another peer now.
        let [alone, _] = pair(SOCK_STREAM)?;
        send_descriptor(childs_link, alone)?;
        let [left, gone] = pair(SOCK_DGRAM)?;
        sys!(close(gone))?;
        let nowhere = libc::sockaddr { sa_family: libc::AF_UNSPEC as u16, sa_data: [0; 14] };
        sys!(connect(left, &nowhere, 2))?;
        send_descriptor(childs_link, left)?;
        for hidden in [false, true] {
            let name = if hidden { "hidden" } else { "shown" };
            send_descriptor(childs_link, listener(stage, SOCK_STREAM, name, hidden)?)?;
        }
        // What has not been accepted, and what has.
        send_descriptor(childs_link, connect(stage, SOCK_STREAM, "ours", true)?)?;
        send_descriptor(childs_link, connect(stage, SOCK_STREAM, "ours", true)?)
    })?;
    let names = ["stream", "stream", "seqpacket", "seqpacket", "datagram", "datagram"];
    let names =
        names.into_iter().chain(["one alone", "one that left its pair", "a listening one", "a hidden one"]);
    for name in names {
        sockets.add(name, receive_descriptor(link)?)?;
    }
    check!(sockets.0.iter().all(|(_, _, told)| told.pid == child), "who made them: {:?}", sockets.0);
    Ok(link)
}

fn that_ended(stage: &Stage) -> Verdict {
    of_a_child(stage, true)
}

/// Its number is still its own.
fn not_reaped(stage: &Stage) -> Verdict {
    of_a_child(stage, false)
}

fn of_a_child(stage: &Stage, reaped: bool) -> Verdict {
    let ours = listener(stage, SOCK_STREAM, "ours", true)?;
    let mut sockets = Sockets::default();
    let link = made_by_a_child(stage, &mut sockets)?;
    let child = sockets.0[0].2.pid;
    let clients = [receive_descriptor(link)?, receive_descriptor(link)?];
    for client in clients {
        sockets.add("a client of ours", client)?;
    }
    sockets.add("one that was accepted", accept(ours)?)?;
    if reaped {
        stage.reap(child)?;
    } else {
        until("the child ends", || crate::call::state_of(child) == Some('Z'))?;
    }
    stage.freeze_here()?;
    let check = |sockets: &Sockets| {
        // What tells of us is not the child's.
        let (ours, its): (Vec<_>, Vec<_>) =
            sockets.0.iter().cloned().partition(|(_, _, told)| told.pid != child);
        Sockets(ours).check(true)?;
        Sockets(its).check(!reaped)
    };
    check(&sockets)?;
    for hidden in [false, true] {
        let name = if hidden { "hidden" } else { "shown" };
        let fd = connect(stage, SOCK_STREAM, name, hidden)?;
        let listens = sockets.0.iter().find(|(what, ..)| *what == "a hidden one");
        let wanted = listens.map(|(_, _, told)| told.clone()).ok_or("no listener")?;
        check(&Sockets(vec![("a new client", fd, wanted)]))?;
    }
    // They are what they were for the rest, too.
    let (one, two) = (sockets.0[0].1, sockets.0[1].1);
    write_all(one, b"through")?;
    same!(read_some(two, 10)?, b"through", "what came through");
    if !reaped {
        stage.reap(child)?;
    }
    Ok(())
}

/// A server and a client, each somebody else, that have each other, and new clients find the server.
fn connected(stage: &Stage) -> Verdict {
    open_to_all(stage)?;
    let kinds =
        [(SOCK_STREAM, "stream", false), (SOCK_STREAM, "hidden", true), (SOCK_SEQPACKET, "packets", false)];
    let [link, servers_link] = pair(SOCK_SEQPACKET)?;
    let server = stage.fork(|| {
        sys!(close(link))?;
        become_another(1300)?;
        let mut own = Sockets::default();
        for (kind, name, hidden) in kinds {
            let listening = listener(stage, kind, name, hidden)?;
            own.add("the listening one", listening)?;
            write_all(servers_link, b"listens")?;
            let accepted = accept(listening)?;
            own.add("the accepted one", accepted)?;
            send_descriptor(servers_link, accepted)?;
        }
        stand(servers_link)?;
        own.check(true)
    })?;
    sys!(close(servers_link))?;
    let [clients_end, end] = pair(SOCK_SEQPACKET)?;
    let client = stage.fork(|| {
        sys!(close(end))?;
        become_another(1400)?;
        let mut own = Sockets::default();
        for (kind, name, hidden) in kinds {
            read_some(link, 10)?;
            own.add("the client", connect(stage, kind, name, hidden)?)?;
            // For the parent, which reads from the same link.
            write_all(clients_end, b"connected")?;
            stand(clients_end)?;
        }
        stand(clients_end)?;
        own.check(true)
    })?;
    sys!(close(clients_end))?;
    let mut sockets = Sockets::default();
    for _ in kinds {
        read_some(end, 10)?;
        sockets.add("the accepted one, here", receive_descriptor(link)?)?;
        write_all(end, b"next")?;
    }
    check!(sockets.0.iter().all(|(_, _, told)| told.pid == client), "who connected: {:?}", sockets.0);
    stage.freeze_here()?;
    sockets.check(true)?;
    for (kind, name, hidden) in kinds {
        let fd = connect(stage, kind, name, hidden)?;
        let now = told(fd)?;
        same!(now.pid, server, "who listens");
        if is_root() {
            same!((now.ids, now.groups), ((1300, 1301), vec![1320, 1330]), "as whom it listens");
        }
        same!(process_behind(fd)?.unwrap_or(server), server, "the process that listens");
    }
    sys!(close(link))?;
    sys!(close(end))?;
    stage.reap(client)?;
    stage.reap(server)
}

/// Which process the descriptor denotes that the kernel gives of a peer; `None` before Linux 6.5.
fn process_behind(socket: i32) -> Result<Option<i32>, String> {
    const SO_PEERPIDFD: i32 = 77;
    let (mut pidfd, mut len) = (0i32, 4);
    if sys!(getsockopt(socket, SOL_SOCKET, SO_PEERPIDFD, (&raw mut pidfd).cast(), &mut len)).is_err() {
        return if errno() == libc::ENOPROTOOPT {
            Ok(None)
        } else {
            Err("no descriptor of the peer".to_owned())
        };
    }
    let info =
        std::fs::read_to_string(format!("/proc/self/fdinfo/{pidfd}")).map_err(|why| why.to_string())?;
    sys!(close(pidfd))?;
    let pid = info.lines().find_map(|line| line.strip_prefix("Pid:"));
    Ok(Some(pid.and_then(|pid| pid.trim().parse().ok()).ok_or("no process behind it")?))
}

/// Clients that were not accepted yet, some from before the socket was let listen by another.
fn waiting(stage: &Stage) -> Verdict {
    open_to_all(stage)?;
    let listening = listener(stage, SOCK_STREAM, "listener", false)?;
    let [link, childs_link] = pair(SOCK_SEQPACKET)?;
    let mut children = Vec::new();
    let mut add = |user: u32, relisten: bool| {
        let child = stage.fork(|| {
            sys!(close(link))?;
            become_another(user)?;
            let mut own = Sockets::default();
            if relisten {
                sys!(listen(listening, 5))?;
            } else {
                sys!(close(listening))?;
                own.add("one that waits", connect(stage, SOCK_STREAM, "listener", false)?)?;
            }
            write_all(childs_link, b"done")?;
            stand(childs_link)?;
            own.check(true)
        })?;
        read_some(link, 10)?;
        children.push(child);
        Ok::<_, String>(child)
    };
    let first = add(1500, false)?;
    let other = add(1600, true)?;
    let second = add(1700, false)?;
    same!(told(listening)?.pid, other, "who listens");
    stage.freeze_here()?;
    let now = told(connect(stage, SOCK_STREAM, "listener", false)?)?;
    same!(now.pid, other, "who listens");
    if is_root() {
        same!((now.ids, now.groups), ((1600, 1601), vec![1620, 1630]), "as whom it listens");
    }
    for (client, user) in [(first, 1500), (second, 1700)] {
        let now = told(accept(listening)?)?;
        same!(now.pid, client, "who waited");
        if is_root() {
            same!((now.ids, now.groups), ((user, user + 1), vec![user + 20, user + 30]), "as whom");
        }
    }
    for _ in &children {
        write_all(link, b"go")?;
    }
    children.into_iter().try_for_each(|child| stage.reap(child))
}

/// A service that lets its sockets listen and then gives up root.
fn before_a_change(stage: &Stage) -> Verdict {
    open_to_all(stage)?;
    let shown = listener(stage, SOCK_STREAM, "shown", false)?;
    let hidden = listener(stage, SOCK_STREAM, "hidden", true)?;
    let mut sockets = Sockets::default();
    let early = connect(stage, SOCK_STREAM, "shown", false)?;
    let [one, two] = pair(SOCK_STREAM)?;
    for (what, fd) in
        [("a path", shown), ("a name", hidden), ("a client", early), ("a pair", one), ("it", two)]
    {
        sockets.add(what, fd)?;
    }
    sockets.add("one that was accepted", accept(shown)?)?;
    let before = told(shown)?;
    become_another(1800)?;
    stage.freeze_here()?;
    let groups = |told: &mut Told| told.groups.clear();
    for (_, fd, before) in &sockets.0 {
        let (mut now, mut before) = (told(*fd)?, before.clone());
        // It is no root any more, and may not know.
        if std::fs::read("/proc/self/setgroups").is_ok_and(|text| text == b"deny\n") {
            groups(&mut now);
            groups(&mut before);
        }
        same!(now, before, "what it tells");
    }
    let new = told(connect(stage, SOCK_STREAM, "hidden", true)?)?;
    same!((new.pid, new.ids), (before.pid, before.ids), "what a new client is told");
    Ok(())
}

/// One message with who sent it.
fn receive(fd: i32) -> Result<(Vec<u8>, libc::ucred, Option<i32>), String> {
    let (mut bytes, mut control) = ([0u8; 64], [0u64; 16]);
    let mut part = libc::iovec { iov_base: bytes.as_mut_ptr().cast(), iov_len: bytes.len() };
    let mut message: libc::msghdr = zeroed();
    (message.msg_iov, message.msg_iovlen) = (&mut part, 1);
    (message.msg_control, message.msg_controllen) = (control.as_mut_ptr().cast(), size_of_val(&control));
    let got = sys!(recvmsg(fd, &mut message, libc::MSG_DONTWAIT))?;
    let (mut sender, mut right) = (None, None);
    let mut header = unsafe { libc::CMSG_FIRSTHDR(&message) };
    while !header.is_null() {
        unsafe {
            match (*header).cmsg_type {
                libc::SCM_CREDENTIALS => {
                    sender = Some(libc::CMSG_DATA(header).cast::<libc::ucred>().read_unaligned())
                }
                libc::SCM_RIGHTS => right = Some(libc::CMSG_DATA(header).cast::<i32>().read_unaligned()),
                _ => {}
            }
            header = libc::CMSG_NXTHDR(&message, header);
        }
    }
    Ok((bytes[..got as usize].to_vec(), sender.ok_or("a message bears no credentials")?, right))
}

/// Messages of several senders in each type of queue: of nobody, of us, of one that lives, and of one that ended.
fn that_sent(stage: &Stage) -> Verdict {
    open_to_all(stage)?;
    let kinds = [SOCK_STREAM, SOCK_SEQPACKET, SOCK_DGRAM];
    let mut queues = Vec::new();
    for kind in kinds {
        let [from, to] = pair(kind)?;
        write_all(from, b"nobody")?;
        let on = 1i32;
        sys!(setsockopt(to, SOL_SOCKET, libc::SO_PASSCRED, (&raw const on).cast(), 4))?;
        write_all(from, b"us")?;
        queues.push((from, to));
    }
    let [link, childs_link] = pair(SOCK_SEQPACKET)?;
    let send = |user: u32, text: &[u8]| {
        become_another(user)?;
        queues.iter().try_for_each(|(from, _)| write_all(*from, text))
    };
    let child = stage.fork(|| {
        sys!(close(link))?;
        send(1900, b"child")?;
        write_all(childs_link, b"sent")?;
        stand(childs_link)
    })?;
    read_some(link, 10)?;
    let gone = stage.fork(|| send(2000, b"gone"))?;
    stage.reap(gone)?;
    // With a descriptor on its way.
    queues.iter().try_for_each(|(from, _)| send_descriptor(*from, childs_link))?;
    stage.freeze_here()?;
    let own = unsafe { (libc::getpid(), libc::getuid(), libc::getgid()) };
    let ids = |user: u32| if is_root() { (user, user + 10) } else { (own.1, own.2) };
    for (from, to) in queues {
        for (text, pid, (uid, gid)) in [
            (&b"nobody"[..], 0, (65_534, 65_534)),
            (b"us", own.0, (own.1, own.2)),
            (b"child", child, ids(1900)),
            (b"gone", gone, ids(2000)),
            (b"d", own.0, (own.1, own.2)),
        ] {
            let (bytes, sender, right) = receive(to)?;
            let name = String::from_utf8_lossy(text);
            same!(bytes, text, "a message");
            if pid != gone || has_numbers_of_its_own() {
                same!(sender.pid, pid, "who sent {name}");
            }
            same!((sender.uid, sender.gid), (uid, gid), "as whom {name} was sent");
            same!(right.is_some(), text == b"d", "descriptors");
        }
        // What is sent now is ours.
        write_all(from, b"later")?;
        same!(receive(to)?.1.pid, own.0, "who sends");
    }
    write_all(link, b"go")?;
    stage.reap(child)
}

/// One who lives outside of the program, as another user where that may be, and has sent something.
fn outside(stage: &Stage) -> Verdict {
    open_to_all(stage)?;
    let listening = listener(stage, SOCK_STREAM, "listener", false)?;
    // It loses its parent, and with that its place in the tree.
    let between = stage.fork(|| {
        if sys!(fork())? > 0 {
            return Ok(());
        }
        sys!(close(listening))?;
        become_another(1300)?;
        let socket = connect(stage, SOCK_STREAM, "listener", false)?;
        write_all(socket, b"said before")?;
        // Until the other end is gone.
        stand(socket)?;
        unsafe { libc::_exit(0) }
    })?;
    let accepted = accept(listening)?;
    stage.reap(between)?;
    sys!(close(listening))?;
    let before = told(accepted)?;
    crate::call::until("it has lost its parent", || {
        let stat = std::fs::read_to_string(format!("/proc/{}/stat", before.pid)).unwrap_or_default();
        let parent = stat.rsplit_once(')').and_then(|(_, rest)| rest.split_whitespace().nth(1)?.parse().ok());
        parent != Some(between)
    })?;
    stage.freeze_without_facts()?;
    let now = told(accepted)?;
    same!((now.ids, now.groups), (before.ids, before.groups), "as whom it connected");
    same!(read_all(accepted, 11)?, b"said before", "what it has said");
    if stage.was_thawed() {
        same!(read_some(accepted, 1)?, b"", "what follows");
    }
    sys!(close(accepted))?;
    Ok(())
}
