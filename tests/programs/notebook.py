"""A client of a kernel of Jupyter's, which it starts: five sockets of ZeroMQ between the two."""

import os
import time

from jupyter_client import KernelManager

manager = KernelManager()
manager.start_kernel()
client = manager.client()
client.start_channels()
client.wait_for_ready(timeout=120)
said = ""


def hear(message):
    global said
    if message["msg_type"] == "stream":
        said += message["content"]["text"]


for n in range(1, 10**9):
    said = ""
    client.execute_interactive("x = globals().get('x', 0) + 1; print(x)", timeout=120, output_hook=hear)
    assert int(said) == n, (said, n)
    with open("count.new", "w") as file:
        file.write(f"{n}\n")
    os.rename("count.new", "count")
    time.sleep(0.05)
