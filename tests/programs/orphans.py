# A tree with processes whose parents have ended. Each tells in a file of its own name who and where it is, and counts.
import os, time


def live(name):
    round = 0
    while True:
        round += 1
        place = f"{os.getpid()} {os.getppid()} {os.getsid(0)} {os.getpgrp()}"
        with open(f"{name}.new", "w") as file:
            file.write(f"{round} {place}")
        os.rename(f"{name}.new", name)
        time.sleep(0.01)


def forked(work):
    pid = os.fork()
    if pid == 0:
        work()
        os._exit(0)
    return pid


def orphan(work):
    """Runs `work` in a process whose parent ends before it begins."""
    def bear():
        parent = os.getpid()
        def begin():
            while os.getppid() == parent:
                time.sleep(0.001)
            work()
        forked(begin)
    os.waitpid(forked(bear), 0)


def daemon():
    # In the session of the one that has ended.
    os.setsid()
    orphan(lambda: (forked(lambda: live("worker")), live("daemon")))


def leader():
    os.setsid()
    orphan(lambda: live("guest"))
    orphan(lambda: (os.setpgid(0, 0), live("group")))
    live("leader")


def lone():
    os.setsid()
    orphan(lambda: live("guest-of-orphan"))
    live("lone")


held = bytearray(b"held in common" * 4096)
orphan(lambda: live("plain"))
orphan(lambda: (forked(lambda: live("plain-child")), live("plain-parent")))
orphan(lone)
os.waitpid(forked(daemon), 0)
forked(leader)
live("root")
