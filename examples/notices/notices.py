# Run it as `frost run --notices -- python3 notices.py`.
import os, socket

notices = socket.socket(fileno=int(os.environ["FROST_NOTICES"]))
notices.sendall(b"freezing\nthawed\n")
print("asked", flush=True)
for line in notices.makefile():
    print(line, end="", flush=True)
    if line.startswith("freezing"):
        # Here the program becomes quiet: ends transactions, closes connections.
        notices.sendall(b"ready\n")
