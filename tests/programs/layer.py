"""Writes into a layer in every way, and looks again and again whether all of it is as it was left.

The directory of the layer is the working directory. It prints how often it has looked, or what was wrong."""

import mmap
import os
import shutil
import socket
import sys
import time

first = os.getcwd()

changed = open("low", "r+")
changed.write("LOW")
changed.flush()
kept = open("sub/keep")
os.remove("removed")
shutil.rmtree("replaced")
os.mkdir("replaced")
os.chmod("sub", 0o751)
os.mkdir("made")
file = open("made/file", "w+")
file.write("x" * 100)
file.flush()
os.link("made/file", "made/link")
os.symlink("nowhere", "made/symlink")
os.mkfifo("made/fifo", 0o640)
os.chmod("made/file", 0o604)
os.setxattr("made/file", "user.frost", b"value")
os.utime("made/link", ns=(1, 1_234_567_890))
sparse = open("made/sparse", "wb")
sparse.truncate(1 << 30)
sparse.seek(1 << 29)
sparse.write(b"y")
sparse.flush()
secret = open("made/secret", "w")
secret.write("secret")
secret.close()
os.chmod("made/secret", 0)
mapped = open("mapped", "w+b")
mapped.write(bytes(8192))
mapped.flush()
memory = mmap.mmap(mapped.fileno(), 8192)
os.chdir("made")
unnamed = open("unnamed", "w+")
unnamed.write("unnamed")
unnamed.flush()
os.remove("unnamed")
directory = os.open(".", os.O_RDONLY)
server = socket.socket(socket.AF_UNIX)
server.bind(first + "/made/socket")
server.listen()


def is_one(file, *names):
    """Whether all are one file. Its number is another one behind a thaw, which may come between two of these calls."""
    for _ in range(8):
        numbers = {os.stat(name).st_ino for name in names} | {os.fstat(file.fileno()).st_ino}
        if len(numbers) == 1:
            return True
    return False


def seen():
    stat = os.stat("file")
    unnamed.seek(0)
    kept.seek(0)
    file.seek(0)
    return {
        "listing": sorted(os.listdir(first)),
        "replaced": os.listdir(first + "/replaced"),
        "made": sorted(os.listdir(".")),
        "by descriptor": sorted(os.listdir(directory)),
        "mode": oct(stat.st_mode),
        "of sub": oct(os.stat(first + "/sub").st_mode),
        "links": stat.st_nlink,
        "one file": is_one(file, "file", "link"),
        "owner": (stat.st_uid, stat.st_gid),
        "attribute": os.getxattr("link", "user.frost"),
        "symlink": os.readlink("symlink"),
        "fifo": oct(os.stat("fifo").st_mode),
        "length": os.stat("sparse").st_size,
        "holes": os.stat("sparse").st_blocks < 1000,
        "secret": oct(os.stat("secret").st_mode),
        "low": open(first + "/low").read(),
        "kept": kept.read(),
        "unnamed": unnamed.read(),
        "unnamed links": os.fstat(unnamed.fileno()).st_nlink,
        "cwd": os.getcwd(),
        "written": open("file").read()[:9] == file.read(9),
    }


expected = seen()
modified = os.stat("link").st_mtime_ns
assert modified == 1_234_567_890, modified
os.utime("symlink", ns=(1, 5), follow_symlinks=False)
count = 0
while True:
    count += 1
    memory[0:8] = count.to_bytes(8, "little")
    now = seen()
    wrong = [f"{name}: {now[name]} for {expected[name]}" for name in expected if now[name] != expected[name]]
    if open(first + "/mapped", "rb").read(8) != count.to_bytes(8, "little"):
        wrong.append("what is written to memory is not in the file")
    if os.stat("link").st_mtime_ns != modified or os.lstat("symlink").st_mtime_ns != 5:
        wrong.append("a time has changed")
    client = socket.socket(socket.AF_UNIX)
    client.connect("socket")
    client.close()
    server.accept()[0].close()
    print("; ".join(wrong) if wrong else count, flush=True)
    if wrong:
        sys.exit(1)
    time.sleep(0.002)
