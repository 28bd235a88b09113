"""Serves one request at a time from the file `ask`, each by an answer in `answer`: what it can do with what it has open.

`routed.py [ADDRESS PORT]`: opens `log` for appending and `book` for reading, and connects to an address if one is given.
"""
import os
import socket
import sys
import time

log = os.open("log", os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o644)
book = os.open("book", os.O_RDONLY)
peer = socket.create_connection((sys.argv[1], int(sys.argv[2]))) if len(sys.argv) > 2 else None


def act(what, word):
    if what == "log":
        return os.write(log, word.encode() + b"\n")
    if what == "book":
        return os.read(book, int(word)).decode()
    if what == "send":
        return peer.send(word.encode() + b"\n")
    if what == "out":
        return os.write(1, word.encode() + b"\n")
    return "?"


def answer(text):
    with open("answer.new", "w") as file:
        file.write(text)
    os.rename("answer.new", "answer")


answer("ready")
while True:
    try:
        with open("ask") as file:
            number, what, word = file.read().split()
        os.unlink("ask")
    except FileNotFoundError:
        time.sleep(0.005)
        continue
    try:
        answer(f"{number} {act(what, word)}")
    except OSError as error:
        answer(f"{number} error {error.errno}")
