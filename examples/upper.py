"""A component: reports its ROM `text` in capitals, as `loud`."""
import os
import socket

s = socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET)
s.connect(os.environ["FROST_SESSION"])
def packet():
    data, fds, _, _ = socket.recv_fds(s, 40000, 1)
    head, _, body = data.partition(b"\n")
    if fds:
        body = os.pread(fds[0], os.fstat(fds[0]).st_size, 0)
        os.close(fds[0])
    return head.decode().split(" ", 2), body
def ask(line, body=b""):
    s.send(line.encode() + b"\n" + body)
    while (answer := packet())[0][0] == "changed":
        pass
    return answer
ask("report loud"); ask("rom text")
while True:
    (verb, *_), text = ask("get text")
    if verb == "version":
        ask("submit loud", text.upper())
    while packet()[0][0] != "changed":
        pass
