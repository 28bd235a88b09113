"""Uses a file on a file system of FUSE whose server is a child of it (`inside`), or has left it (`outside`).

It is to be run in a mount namespace of its own. `ready` tells the number of the server, `told` how often it went on."""

import sys
import time

import fuse

server = fuse.mount(sys.argv[1])
file = open("served/file", "w")
file.write("content")
file.flush()
fuse.announce("ready", server)
count = 0
while True:
    count += 1
    fuse.announce("told", str(count))
    time.sleep(0.002)
