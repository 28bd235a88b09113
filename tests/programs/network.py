"""Serves and asks itself in a network of its own, again and again, by every kind of socket.

It has ports and names that everybody has who runs it. It prints how often it has looked, or what was wrong."""

import os
import socket
import struct
import sys
import time

# A low one is its own too.
PORT = 80

listener = socket.socket()
listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
listener.bind(("127.0.0.1", PORT))
listener.listen()
old = socket.create_connection(("127.0.0.1", PORT))
old_peer, _ = listener.accept()
old.sendall(b"unread")
six = socket.socket(socket.AF_INET6)
six.bind(("::1", PORT))
six.listen()
udp = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
udp.bind(("127.0.0.1", 53))
name = socket.socket(socket.AF_UNIX)
name.bind("\0frost-network")
name.listen()
netlink = socket.socket(socket.AF_NETLINK, socket.SOCK_RAW, socket.NETLINK_ROUTE)
netlink.bind((0, 0))
address = netlink.getsockname()


def links():
    """Lists the interfaces, as the kernel tells them (RTM_GETLINK)."""
    netlink.send(struct.pack("=IHHIIBxHiII", 32, 18, 0x301, 1, 0, 0, 0, 0, 0, 0))
    found, done = [], False
    while not done:
        data = netlink.recv(65536)
        while data:
            length, kind = struct.unpack_from("=IH", data)
            if kind == 3:
                done = True
                break
            found.append(struct.unpack_from("=i", data, 20)[0])
            data = data[(length + 3) & ~3 :]
    return found


def ask(family, where):
    with socket.socket(family) as client:
        client.settimeout(20)
        client.connect(where)
        server = {socket.AF_INET: listener, socket.AF_INET6: six, socket.AF_UNIX: name}[family]
        accepted, _ = server.accept()
        with accepted:
            accepted.sendall(b"hello")
            return client.recv(5)


def setting(path):
    with open("/proc/sys/net/" + path) as file:
        return file.read().split()


usual = [setting("ipv4/ip_unprivileged_port_start"), setting("core/somaxconn")]
count = 0
while True:
    assert ask(socket.AF_INET, ("127.0.0.1", PORT)) == b"hello"
    assert ask(socket.AF_INET6, ("::1", PORT)) == b"hello"
    assert ask(socket.AF_UNIX, "\0frost-network") == b"hello"
    udp.sendto(b"datagram", udp.getsockname())
    assert udp.recv(100) == b"datagram"
    old_peer.sendall(b"old")
    assert old.recv(100) == b"old"
    assert netlink.getsockname() == address
    assert 1 in links()
    now = [setting("ipv4/ip_unprivileged_port_start"), setting("core/somaxconn")]
    assert now == usual, (now, usual)
    for extra in sys.argv[1:]:
        with socket.socket() as probe:
            probe.bind((extra, 0))
    if count % 2:
        assert old_peer.recv(6) == b"unread"
        old.sendall(b"unread")
    count += 1
    print(count, flush=True)
    time.sleep(0.01)
