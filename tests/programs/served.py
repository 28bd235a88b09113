"""Uses a file on a file system of FUSE whose server is a child of it (`inside`), or has left it (`outside`).

It is to be run in a mount namespace of its own. `ready` tells the number of the server, `told` how often it went on."""

import ctypes
import os
import struct
import sys
import time

where = sys.argv[1]
os.mkdir("served")
place = os.path.abspath("served")
device = os.open("/dev/fuse", os.O_RDWR)
options = f"fd={device},rootmode=40000,user_id=0,group_id=0".encode()
libc = ctypes.CDLL(None, use_errno=True)
if libc.mount(b"frost-test", place.encode(), b"fuse", 0, options) != 0:
    sys.exit(f"mount: {os.strerror(ctypes.get_errno())}")

# Operations of include/uapi/linux/fuse.h.
LOOKUP, FORGET, GETATTR, SETATTR, OPEN, WRITE, STATFS, RELEASE, FSYNC = 1, 2, 3, 4, 14, 16, 17, 18, 20
FLUSH, INIT, OPENDIR, RELEASEDIR, ACCESS, INTERRUPT, BATCH_FORGET = 25, 26, 27, 29, 34, 36, 42
VALID = 3600


def attributes(node):
    mode = 0o40755 if node == 1 else 0o100644
    return struct.pack("<6Q10I", node, 0, 0, 0, 0, 0, 0, 0, 0, mode, 1, 0, 0, 0, 4096, 0)


def answer(operation, node, data):
    if operation == INIT:
        return struct.pack("<IIIIHHIIHHI28x", 7, 31, 0, 0, 0, 0, 4096, 1, 1, 0, 0)
    if operation in (GETATTR, SETATTR):
        return struct.pack("<QII", VALID, 0, 0) + attributes(node)
    if operation == LOOKUP:
        return struct.pack("<QQQQII", 2, 0, VALID, VALID, 0, 0) + attributes(2)
    if operation in (OPEN, OPENDIR):
        return struct.pack("<QII", 1, 0, 0)
    if operation == WRITE:
        return struct.pack("<II", struct.unpack_from("<QQI", data)[2], 0)
    if operation == STATFS:
        return bytes(80)
    if operation in (RELEASE, RELEASEDIR, FLUSH, FSYNC, ACCESS):
        return b""
    return None


def serve():
    while True:
        try:
            request = os.read(device, 1 << 17)
        except OSError:
            return
        length, operation, unique, node = struct.unpack_from("<IIQQ", request)
        if operation in (FORGET, BATCH_FORGET, INTERRUPT):
            continue
        body = answer(operation, node, request[40:length])
        error = 0 if body is not None else -38
        body = body or b""
        os.write(device, struct.pack("<IiQ", 16 + len(body), error, unique) + body)


reader, writer = os.pipe()
child = os.fork()
if child == 0:
    if where == "outside" and os.fork() != 0:
        os._exit(0)
    os.setsid()
    os.write(writer, str(os.getpid()).encode())
    os.close(writer)
    serve()
    os._exit(0)
server = os.read(reader, 16).decode()
# Else our own end would wait for an answer, as long as we have it open ourselves.
os.close(device)
if where == "outside":
    os.waitpid(child, 0)
file = open("served/file", "w")
file.write("content")
file.flush()
with open("ready.draft", "w") as ready:
    ready.write(server)
os.rename("ready.draft", "ready")
count = 0
while True:
    count += 1
    with open("told.draft", "w") as told:
        told.write(str(count))
    os.rename("told.draft", "told")
    time.sleep(0.002)
