"""Lets pgbench call a PostgreSQL server again and again, and counts the transactions that were acknowledged.

`load_postgres.py SOCKETS PORT`: until a file `stop` appears; then it writes how many into `sums`.
"""
import os
import re
import subprocess
import sys

sockets, port = sys.argv[1:]
acknowledged = 0
while not os.path.exists("stop"):
    # Each transaction by a connection of its own: one that breaks ends the run, and the next one begins.
    told = subprocess.run(
        ["pgbench", "-n", "-C", "-h", sockets, "-p", port, "-U", "frost", "-c", "2", "-t", "10", "postgres"],
        stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True).stdout
    if "refused" in told or "No such file" in told:
        sys.exit(f"nobody keeps its socket: {told}")
    done = re.search(r"actually processed: (\d+)", told)
    acknowledged += int(done[1]) if done else 0
    with open("answered.new", "w") as file:
        file.write(str(acknowledged))
    os.rename("answered.new", "answered")
with open("sums.new", "w") as file:
    file.write(str(acknowledged))
os.rename("sums.new", "sums")
