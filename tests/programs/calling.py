"""Calls a server that has no room yet, by a thread that waits and by a socket that does not; tells what came of both."""

import os
import select
import socket
import sys
import threading

at = ("127.0.0.1", int(sys.argv[1]))
told = []
thread = threading.Thread(target=lambda: told.append(socket.socket().connect_ex(at)))
thread.start()
own = socket.socket()
own.setblocking(False)
own.connect_ex(at)
# connect(2) of x86-64.
while not open(f"/proc/self/task/{thread.native_id}/syscall").read().startswith("42 "):
    pass
open("ready", "w").close()
thread.join()
select.select([], [own], [])
told.append(own.getsockopt(socket.SOL_SOCKET, socket.SO_ERROR))
with open("draft", "w") as file:
    file.write(" ".join(map(str, told)))
# What says that it has ended as it should.
os.rename("draft", "result")
