"""Reads from a file system of FUSE past the page cache without pause: its server writes straight to the memory of the reader.

It is to be run in a mount namespace of its own. `ready` tells the number of the server; when `go` is there, `result` tells
whether all that was read is in its place."""

import mmap
import os
import struct

import fuse

SLOTS = 64
server = fuse.mount("outside", direct=True)
file = os.open("served/file", os.O_RDONLY)
memory = mmap.mmap(-1, fuse.READ_BYTES * SLOTS, flags=mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS)
memory.write(bytes([1]) * len(memory))
slots = [memoryview(memory)[slot * fuse.READ_BYTES :][: fuse.READ_BYTES] for slot in range(SLOTS)]
was_read = [None] * SLOTS


def wrong():
    for slot, expected in zip(slots, was_read):
        found = {struct.unpack_from("<Q", slot, page)[0] for page in range(0, fuse.READ_BYTES, mmap.PAGESIZE)}
        if expected is not None and found != {expected}:
            return f"what read {expected} gave is {sorted(found)}"
    return None


fuse.announce("ready", server)
step, why = 0, None
while not os.path.exists("go") and not why:
    step += 1
    slot = step * 7 % SLOTS
    if os.preadv(file, [slots[slot]], 0) != fuse.READ_BYTES:
        why = "a read was short"
    was_read[slot] = struct.unpack_from("<Q", slots[slot])[0]
    why = why or wrong()
fuse.announce("result", why or "ok")
