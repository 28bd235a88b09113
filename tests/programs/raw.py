# A program in raw mode that tells every key, its terminal's size, and how it was stopped and continued.
import fcntl, os, select, signal, struct, sys, termios, tty


def say(text):
    os.write(1, text.encode() + b"\r\n")


def size():
    rows, columns, _, _ = struct.unpack("hhhh", fcntl.ioctl(0, termios.TIOCGWINSZ, b"\0" * 8))
    say(f"size {rows} {columns}")


cooked = termios.tcgetattr(0)
tty.setraw(0)
# By a descriptor: a handler of Python's runs only when a call returns, and a signal right before one does not end it.
signals, woken = os.pipe()
os.set_blocking(woken, False)
signal.set_wakeup_fd(woken)
for number in signal.SIGWINCH, signal.SIGCONT:
    signal.signal(number, lambda *_: None)
continued = 0
with open("raw.pid", "w") as file:
    file.write(str(os.getpid()))
say("stands")
while True:
    ready, _, _ = select.select([signals, 0], [], [])
    if signals in ready:
        for number in os.read(signals, 64):
            if number == signal.SIGWINCH:
                size()
            else:
                continued += 1
        continue
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
    if key == b"n":
        say(f"continued {continued} times")
    if key == b"q":
        termios.tcsetattr(0, termios.TCSANOW, cooked)
        sys.exit(7)
