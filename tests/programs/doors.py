"""A server with several kinds of doors, each shared by two processes, that repeats what it is told and says how its door is.

It listens at a path, at an abstract name, and at ports that it writes into `ports`: one that two sockets share
(SO_REUSEPORT), one that it closes when a file `close` appears; the third it holds without listening.
"""
import os
import random
import select
import socket
import sys

directory = sys.argv[1]
os.chdir(directory)


def listen(family, address, *options):
    door = socket.socket(family, socket.SOCK_STREAM | socket.SOCK_NONBLOCK)
    for option in options:
        door.setsockopt(socket.SOL_SOCKET, option, 1)
    door.bind(address)
    door.listen(20)
    return door


def choose(bind):
    """Binds to a port that is free, and that no connection gets by itself while nobody has it."""
    while True:
        try:
            return bind(("127.0.0.1", random.randrange(20000, 32768)))
        except OSError:
            pass


path = listen(socket.AF_UNIX, "door")
name = listen(socket.AF_UNIX, "\0" + directory)
first = choose(lambda address: listen(socket.AF_INET, address, socket.SO_REUSEPORT))
shared = first.getsockname()[1]
second = listen(socket.AF_INET, ("127.0.0.1", shared), socket.SO_REUSEPORT)
closing = choose(lambda address: listen(socket.AF_INET, address))
held = socket.socket()
choose(held.bind)
doors = [path, name, first, second, closing]

by_number = {door.fileno(): door for door in doors}
is_parent = os.fork() > 0
# Each has its own.
watch = select.epoll()
for door in doors:
    watch.register(door, select.EPOLLIN | select.EPOLLEXCLUSIVE)
if is_parent:
    with open("ports.new", "w") as file:
        file.write(f"{shared} {closing.getsockname()[1]} {held.getsockname()[1]}")
    os.rename("ports.new", "ports")


def facts(door):
    reuse = [door.getsockopt(socket.SOL_SOCKET, option) for option in (socket.SO_REUSEADDR, socket.SO_REUSEPORT)]
    return f"{int(not door.getblocking())} {reuse[0]} {reuse[1]}"


answered = []
while True:
    for number, _ in watch.poll(0.02):
        try:
            client, _ = by_number[number].accept()
        except BlockingIOError:
            continue
        word = client.recv(100).decode()
        client.sendall(f"{word} {facts(by_number[number])}\n".encode())
        answered.append(client)
    # Who was answered closes first: else the port would be kept for a minute (TIME_WAIT).
    for client in list(answered):
        try:
            if client.recv(1, socket.MSG_DONTWAIT) == b"":
                answered.remove(client)
                client.close()
        except BlockingIOError:
            pass
        except ConnectionError:
            answered.remove(client)
            client.close()
    if closing.fileno() in by_number and os.path.exists("close"):
        del by_number[closing.fileno()]
        watch.unregister(closing)
        closing.close()
        open(f"closed.{os.getpid()}", "w").close()
