"""Writes numbers to pages all over its memory, and ends when a single one is not what it must be."""

import mmap
import os
import random

PAGES = 8192
SIZE = 4096
memory = mmap.mmap(-1, PAGES * SIZE, flags=mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS)


def place(page):
    return slice(page * SIZE + 64, page * SIZE + 72)


def write(page, number):
    memory[place(page)] = number.to_bytes(8, "little")
    expected[page] = number


expected = [0] * PAGES
for page in range(PAGES):
    write(page, page + 1)
turn = 0
while True:
    turn += 1
    for page in random.sample(range(PAGES), 20):
        write(page, turn * PAGES + page)
    if turn % 7 == 0:
        # Given back, so that what is written there next is another page.
        page = random.randrange(PAGES - 3)
        memory.madvise(mmap.MADV_DONTNEED, page * SIZE, 3 * SIZE)
        for gone in range(page, page + 3):
            expected[gone] = 0
    for page in range(PAGES):
        found = int.from_bytes(memory[place(page)], "little")
        if found != expected[page]:
            with open("broken", "w") as out:
                out.write(f"page {page} holds {found}, not {expected[page]}, in turn {turn}\n")
            raise SystemExit(1)
    # No file is open when it is frozen, which another image might miss.
    try:
        os.unlink("turn.new")
    except FileNotFoundError:
        pass
    try:
        os.symlink(str(turn), "turn.new")
        os.rename("turn.new", "turn")
    except OSError:
        # Frozen in between, and another image has gone on here.
        pass
