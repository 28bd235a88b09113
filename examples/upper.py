"""A component: reports its ROM `text` in capitals, as `loud`."""
import os
import socket

s = socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET)
s.connect(os.environ["FROST_SESSION"])
def packet():
    data, fds, _, _ = socket.recv_fds(s, 40000, 1)
    if not data:
        raise SystemExit
    head, _, body = data.partition(b"\n")
    if head == b"heartbeat":
        s.send(b"alive\n")
    if fds:
        body = os.pread(fds[0], os.fstat(fds[0]).st_size, 0)
        os.close(fds[0])
    return head.decode().split(" ", 2), body
def ask(line, body=b""):
    global news
    s.send(line.encode() + b"\n" + body)
    while (answer := packet())[0][0] in ("changed", "heartbeat"):
        news |= answer[0][0] == "changed"
    return answer
news = False
ask("report loud"); ask("rom text")
while True:
    if not news:
        news = packet()[0][0] == "changed"
        continue
    news = False
    (verb, *_), text = ask("get text")
    if verb == "version":
        ask("submit loud", text.upper())
