# Drives an interactive shell on a pseudoterminal, in which a program is run by frost as a job: argument 1 is frost.
# Ends with status 0 if all was as without frost.
import os, pty, select, signal, sys, time

frost = sys.argv[1]
shell, terminal = pty.fork()
if shell == 0:
    os.environ["PS1"] = "PROMPT>"
    # Who was started in the background by a shell without jobs is not to take the keys' signals, nor is its shell.
    for number in signal.SIGINT, signal.SIGQUIT:
        signal.signal(number, signal.SIG_DFL)
    os.execvp("bash", ["bash", "--norc", "--noprofile", "-i"])


def stands():
    # Of each process of the terminal: its state, group, that in the foreground, and where it waits.
    told = []
    for pid in filter(str.isdigit, os.listdir("/proc")):
        try:
            name, rest = open(f"/proc/{pid}/stat").read().rsplit(") ", 1)
            state, parent, group, session, _, foreground = rest.split()[:6]
            if int(session) == shell:
                wchan = open(f"/proc/{pid}/wchan").read()
                told.append(f"{name}) {state} below {parent}, group {group} of {foreground}, in {wchan}")
        except OSError:
            pass
    return "\n".join(told)


def until(wanted):
    got, end = b"", time.time() + 100
    while wanted not in got:
        if not select.select([terminal], [], [], max(0, end - time.time()))[0]:
            sys.exit(f"waited for {wanted!r}, got {got!r}\n{stands()}")
        got += os.read(terminal, 4096)
    return got


def line(text, wanted=b"PROMPT>"):
    os.write(terminal, text.encode() + b"\n")
    return until(wanted)


def expect(got, *wanted):
    for text in wanted:
        if text not in got:
            sys.exit(f"no {text!r} in {got!r}")


def jobs(wanted):
    end = time.time() + 100
    while wanted not in line("jobs"):
        if time.time() > end:
            sys.exit(f"no job is {wanted!r}")


until(b"PROMPT>")
expect(line(f"{frost} run -- sh -c 'tty; stty size; ps -o tpgid= -p $$'"), b"/dev/console", b"2\r\n")

# A job in the foreground is stopped, continued in the background, stopped there since it reads, and continued.
line(f"{frost} run -- sh -c 'echo REA''DY; exec cat'", b"READY")
line("hello", b"hello\r\nhello")
os.write(terminal, b"\x1a")
until(b"PROMPT>")
jobs(b"Stopped")
line("fg", b"cat'")
line("again", b"again\r\nagain")
os.write(terminal, b"\x1a")
until(b"PROMPT>")
line("bg")
jobs(b"Stopped")
line("fg", b"cat'")
line("third", b"third\r\nthird")
os.write(terminal, b"\x03")
until(b"PROMPT>")
line("echo status $?", b"status 130")

# One that was started in the background.
line(f"{frost} run -- cat &")
jobs(b"Stopped")
line("fg", b"cat")
line("fourth", b"fourth\r\nfourth")
os.write(terminal, b"\x04")
until(b"PROMPT>")

# A shell in there has jobs of its own.
line(f"{frost} run -- bash --norc --noprofile -i")
expect(line("sleep 1000 &"), b"[1]")
jobs(b"Running")
line("kill %1")

# One that it thaws and stays with is such a job, below the keeper that it had or a new one. A kept one is none that could be
# stopped: its parent is in another session.
line(f"{frost} run --detach --name within -- cat")
line(f"{frost} freeze within")
for kept in True, False:
    line(f"{frost} thaw within --attach", b"of this command")
    line("fifth", b"fifth\r\nfifth")
    if not kept:
        os.write(terminal, b"\x1a")
        until(b"PROMPT>")
        jobs(b"Stopped")
        line("fg", b"attach")
        line("sixth", b"sixth\r\nsixth")
    os.write(terminal, b"\x04")
    until(b"PROMPT>")
    line("echo status $?", b"status 0")
line(f"{frost} rm within")
line("exit 5")
line("echo status $?", b"status 5")
os.write(terminal, b"exit\n")
