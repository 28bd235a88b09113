"""A component that tries to leave something where its next life, or anybody else, finds it.

Each way is tried twice: `find` says what an earlier life has left there, `leave` leaves it. What it found, and what it was refused,
it reports."""
import ctypes
import fcntl
import mmap
import os
import socket
import struct
import sys

libc = ctypes.CDLL(None, use_errno=True)
libc.syscall.restype = ctypes.c_long
MARK = b"frost-mark-7"
STAMP = 1234567890


def call(number, *arguments):
    done = libc.syscall(number, *arguments)
    if done < 0:
        error = ctypes.get_errno()
        raise OSError(error, os.strerror(error))
    return done


def dial(read_large=True):
    s = socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    s.connect(os.environ["FROST_SESSION"])
    return s


def packet(s):
    data, fds, _, _ = socket.recv_fds(s, 40000, 4)
    if not data:
        sys.exit(0)
    head, _, body = data.partition(b"\n")
    return head.decode().split(" ", 2), body, fds


def ask(s, line, body=b""):
    s.send(line.encode() + b"\n" + body)
    while (answer := packet(s))[0][0] == "changed":
        pass
    return answer


session = dial()
ask(session, "report out")
ask(session, "rom large")
large = ask(session, "get large")[2][0]


def file(path):
    def find():
        return MARK in open(path, "rb").read()

    def leave():
        with open(path, "wb") as f:
            f.write(MARK)
    return find, leave


def times(path):
    def find():
        return int(os.stat(path).st_mtime) == STAMP or int(os.stat(path).st_atime) == STAMP

    def leave():
        os.utime(path, (STAMP, STAMP))
    return find, leave


def mode(path, bit):
    def find():
        return os.stat(path).st_mode & bit != 0

    def leave():
        os.chmod(path, os.stat(path).st_mode | bit)
    return find, leave


def abstract():
    def name():
        return "\0frost-mark-7"

    def find():
        with socket.socket(socket.AF_UNIX) as s:
            s.connect(name())
        return True

    def leave():
        s = socket.socket(socket.AF_UNIX)
        s.bind(name())
        s.listen()
        linger()
    return find, leave


def linger():
    """A process that would outlive us."""
    if os.fork() == 0:
        os.setsid()
        if os.fork() == 0:
            import time
            while True:
                time.sleep(100)
        os._exit(0)
    os.wait()


def shared_memory():
    def find():
        call(29, 0x46726F73, 4096, 0)  # shmget
        return True

    def leave():
        call(29, 0x46726F73, 4096, 0o1666)
    return find, leave


def queue():
    def find():
        fd = call(240, b"frost", os.O_RDONLY, 0, None)  # mq_open
        return fd >= 0

    def leave():
        call(240, b"frost", os.O_RDWR | os.O_CREAT, 0o666, None)
    return find, leave


def keyring(which):
    def find():
        call(250, 10, which, b"user", b"frost", 0)  # keyctl search
        return True

    def leave():
        call(248, b"user", b"frost", MARK, len(MARK), which)  # add_key
    return find, leave


def processes():
    def find():
        others = []
        for pid in filter(str.isdigit, os.listdir("/proc")):
            if int(pid) not in (1, os.getpid()):
                try:
                    others.append(open(f"/proc/{pid}/comm").read())
                except OSError:
                    pass
        return bool(others)
    return find, linger


def descriptors():
    """Whatever it was started with."""
    def each():
        for name in os.listdir("/proc/self/fd"):
            fd = int(name)
            try:
                if fd != session.fileno() and fd != large:
                    yield fd, os.readlink(f"/proc/self/fd/{fd}")
            except OSError:
                pass

    def find():
        for fd, name in each():
            try:
                again = os.open(f"/proc/self/fd/{fd}", os.O_RDONLY | os.O_NONBLOCK)
                if not name.startswith("/dev/") and MARK in os.read(again, 1 << 20):
                    return True
            except OSError:
                pass
            if int(os.fstat(fd).st_mtime) == STAMP:
                return True
        return False

    def leave():
        print(MARK.decode(), flush=True)
        refused = None
        for fd, name in each():
            try:
                os.utime(fd, (STAMP, STAMP))
            except OSError as error:
                refused = error
        if refused:
            raise refused
    return find, leave


# Before anything else is opened: input, output, the session and the document are ours.
table = {}
for fd in os.listdir("/proc/self/fd"):
    try:
        table[int(fd)] = os.readlink(f"/proc/self/fd/{fd}")
    except OSError:
        pass  # That through which they were listed.


def inherited():
    """Whatever else whoever started us had open."""
    def find():
        others = {fd: name for fd, name in table.items() if fd > 2 and fd not in (session.fileno(), large)}
        if others:
            raise SystemError(f"found {others}")
        return False

    def leave():
        raise OSError(0, "nothing to leave")
    return find, leave


def document(how):
    """The memory of a document, which all of its readers share."""
    path = f"/proc/self/fd/{large}"
    if how == "bytes":
        def find():
            return os.pread(large, len(MARK), 0) == MARK

        def leave():
            fd = os.open(path, os.O_RDWR)
            mmap.mmap(fd, 4096)[: len(MARK)] = MARK
    elif how == "attributes":
        def find():
            return os.getxattr(path, "user.frost") == MARK

        def leave():
            os.setxattr(path, "user.frost", MARK)
    elif how == "hint":
        def find():
            return struct.unpack("Q", fcntl.fcntl(large, 1035, struct.pack("Q", 0)))[0] == 3

        def leave():
            fcntl.fcntl(large, 1036, struct.pack("Q", 3))
    elif how == "lock":
        def find():
            try:
                fcntl.flock(large, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                return True
            return False

        def leave():
            fcntl.flock(large, fcntl.LOCK_EX)
    return find, leave


def namespace(flag):
    def find():
        return False

    def leave():
        call(272, flag)  # unshare
        raise SystemError("it has made a namespace")
    return find, leave


def by_clone(number):
    def find():
        return False

    def leave():
        if number == 56:
            pid = call(56, 0x10000000 | 17, None, None, None, None)
        else:
            pid = call(435, struct.pack("11Q", 0x10000000, 0, 0, 0, 17, 0, 0, 0, 0, 0, 0), 88)
        if pid == 0:
            os._exit(0)
        raise SystemError("it has made a namespace")
    return find, leave


def network(family, kind, address):
    def find():
        return False

    def leave():
        with socket.socket(family, kind) as s:
            s.settimeout(5)
            s.connect(address)
        raise SystemError("it has connected")
    return find, leave


def second_session():
    """What another connection holds goes with it, and no report of another component is ours."""
    def find():
        return False

    def leave():
        s = dial()
        if ask(s, "report other")[0][0] == "report":
            raise SystemError("it reports what it does not own")
        raise OSError(0, "denied")
    return find, leave


PLACES = {
    "tmp": file("/tmp/mark"),
    "shm": file("/dev/shm/mark"),
    "var-tmp": file("/var/tmp/mark"),
    "run": file("/run/mark"),
    "sessions": file("/run/frost/mark"),
    "rom": file("/run/frost/rom/mark"),
    "report": file("/run/frost/report/mark"),
    "usr": file("/usr/mark"),
    "root": file("/mark"),
    "home": file(os.path.expanduser("~") + "/mark"),
    "core-pattern": file("/proc/sys/kernel/core_pattern"),
    "hostname": file("/proc/sys/kernel/hostname"),
    "domainname": file("/proc/sys/kernel/domainname"),
    "kmsg": file("/dev/kmsg"),
    "terminal": file("/dev/tty"),
    "times-null": times("/dev/null"),
    "times-program": times(sys.executable),
    "times-usr": times("/usr"),
    "times-document": times(f"/proc/self/fd/{large}"),
    "mode-null": mode("/dev/null", 0o1000),
    "mode-document": mode(f"/proc/self/fd/{large}", 0o1000),
    "abstract": abstract(),
    "shared-memory": shared_memory(),
    "queue": queue(),
    "key-session": keyring(-3),
    "key-user": keyring(-4),
    "key-user-session": keyring(-5),
    "key-process": keyring(-2),
    "processes": processes(),
    "descriptors": descriptors(),
    "inherited": inherited(),
    "document-bytes": document("bytes"),
    "document-attributes": document("attributes"),
    "document-hint": document("hint"),
    "document-lock": document("lock"),
    "user-namespace": namespace(0x10000000),
    "mount-namespace": namespace(0x00020000),
    "clone": by_clone(56),
    "clone3": by_clone(435),
    "tcp": network(socket.AF_INET, socket.SOCK_STREAM, ("127.0.0.1", 9)),
    "vsock": network(getattr(socket, "AF_VSOCK", 40), socket.SOCK_STREAM, (2, 9)),
    "second-session": second_session(),
}

lines = []
for name, (find, _) in PLACES.items():
    try:
        found = "found" if find() else "nothing"
    except SystemError as error:
        found = str(error)
    except Exception as error:
        found = f"nothing: {error}"
    lines.append(f"find {name} {found}")
for name, (_, leave) in PLACES.items():
    try:
        leave()
        left = "left"
    except OSError as error:
        left = f"refused: {error}"
    except SystemError as error:
        left = f"done: {error}"
    except Exception as error:
        left = f"refused: {error}"
    lines.append(f"leave {name} {left}")
lines.append("end")
ask(session, "submit out", "\n".join(lines).encode())
while True:
    packet(session)
