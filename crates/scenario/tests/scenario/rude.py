"""A component without manners: what it may send that is no request. At last it reports that it was served nevertheless."""
import array
import mmap
import os
import socket

PATH = os.environ["FROST_SESSION"]


def dial():
    s = socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    s.settimeout(20)
    s.connect(PATH)
    return s


def send(s, data, *fds):
    s.sendmsg([data], [(socket.SOL_SOCKET, socket.SCM_RIGHTS, array.array("i", fds))] if fds else [])


def answer(s):
    try:
        return s.recv(40000).partition(b"\n")[0].decode()
    except (ConnectionError, socket.timeout) as error:
        return f"no answer: {error}"


told = []
for what in [b"", b"\n", b"\xff\xfe\n", b"get\n", b"get in\n", b"rom ../in\n", b"rom " + b"x" * 65 + b"\n", b"report a/b\n",
             b"report .out\n", b"submit out\nx", b"close in\n", b"no such thing\n", b"x" * 33000, b"next in\n" * 3,
             b"rom in " + b"y" * 1000 + b"\n", b"alive\n"]:
    s = dial()
    send(s, what)
    s.close()

s = dial()
send(s, b"report out\n")
told.append(answer(s))
pipe = os.pipe()
send(s, b"submit out\n", pipe[1])
told.append(answer(s))
held = os.memfd_create("x", os.MFD_ALLOW_SEALING)
os.ftruncate(held, 4096)
mapped = mmap.mmap(held, 4096)
send(s, b"submit out\n", held)
told.append(answer(s))
mapped.close()
large = os.memfd_create("x", os.MFD_ALLOW_SEALING)
os.ftruncate(large, 1 << 40)
send(s, b"submit out\n", large)
told.append(answer(s))
send(s, b"submit out\nx", pipe[0], held, pipe[1])
told.append(answer(s))
# Many connections, and one that never reads its answers.
crowd = []
for _ in range(200):
    try:
        crowd.append(dial())
    except OSError:
        break
closed = 0
for one in crowd:
    try:
        send(one, b"rom nothing\n")
        closed += one.recv(4096) == b""
    except OSError:
        closed += 1
told.append(f"closed {len(crowd) > 20 and closed >= len(crowd) - 16}")
for one in crowd:
    one.close()
deaf = None
for _ in range(100):
    try:
        deaf = dial()
        send(deaf, b"rom in\n")
        break
    except OSError:
        deaf = None
if deaf:
    deaf.setblocking(False)
    try:
        for _ in range(100000):
            send(deaf, b"get in\n")
    except OSError:
        pass
print("noise " * 500000, flush=True)
send(s, b"submit out\n" + "\n".join(told).encode())
while True:
    if answer(s) in ("", "no answer: timed out"):
        break
