# A program in raw mode that tells every key, its terminal's size, and how it was stopped and continued.
import fcntl, os, signal, struct, sys, termios, tty


def say(text):
    os.write(1, text.encode() + b"\r\n")


def size(*_):
    rows, columns, _, _ = struct.unpack("hhhh", fcntl.ioctl(0, termios.TIOCGWINSZ, b"\0" * 8))
    say(f"size {rows} {columns}")


cooked = termios.tcgetattr(0)
tty.setraw(0)
signal.signal(signal.SIGWINCH, size)
with open("raw.pid", "w") as file:
    file.write(str(os.getpid()))
say("stands")
while True:
    try:
        key = os.read(0, 1)
    except OSError as why:
        key = b""
    if key == b"":
        open("hung.up", "w").close()
        sys.exit(9)
    say(f"key {key[0]}")
    if key == b"z":
        os.killpg(0, signal.SIGTSTP)
        say("again")
    if key == b"q":
        termios.tcsetattr(0, termios.TCSANOW, cooked)
        sys.exit(7)
