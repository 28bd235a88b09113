# `FROST attach NAME` at a terminal of its own: ended by each signal that asks for that, and over a freeze in which that gets
# another size.
import fcntl, os, pty, signal, struct, subprocess, sys, termios, time

frost, name = sys.argv[1:]
master, slave = pty.openpty()
before = termios.tcgetattr(slave)


def resize(rows, columns):
    fcntl.ioctl(slave, termios.TIOCSWINSZ, struct.pack("HHHH", rows, columns, 0, 0))


def attach():
    attached = subprocess.Popen([frost, "attach", name], stdin=slave, stdout=slave, stderr=subprocess.DEVNULL)
    while termios.tcgetattr(slave)[3] & termios.ICANON:
        assert attached.poll() is None, attached.returncode
        time.sleep(0.01)
    return attached


def shown(size):
    while not os.path.exists("size") or open("size").read() != size:
        time.sleep(0.01)


resize(30, 100)
for number in (signal.SIGTERM, signal.SIGHUP, signal.SIGINT, signal.SIGQUIT):
    attached = attach()
    attached.send_signal(number)
    assert attached.wait() == -number, attached.returncode
    assert termios.tcgetattr(slave) == before, number
attached = attach()
shown("30 100\n")
subprocess.run([frost, "freeze", name], check=True)
resize(40, 120)
attached.send_signal(signal.SIGWINCH)
subprocess.run([frost, "thaw", name], check=True)
shown("40 120\n")
os.write(master, b"\x10\x11")
assert attached.wait() == 0
