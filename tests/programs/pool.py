# Four hundred pieces of work for three processes, collected through a dictionary that lives in a fourth one.
import hashlib
import multiprocessing
import os
import sys


def piece(arguments):
    number, shared = arguments
    state = str(number).encode()
    for _ in range(4000):
        state = hashlib.sha256(state).digest()
    shared[number] = state.hex()
    with counter.get_lock():
        counter.value += 1
    with open("progress", "a") as progress:
        progress.write(".")
    return number


def keep(value):
    global counter
    counter = value


if __name__ == "__main__":
    pieces = int(sys.argv[1])
    counter = multiprocessing.Value("i", 0)
    with multiprocessing.Manager() as manager, multiprocessing.Pool(3, keep, (counter,)) as pool:
        shared = manager.dict()
        order = sorted(pool.imap_unordered(piece, ((number, shared) for number in range(pieces))))
        assert order == list(range(pieces)), order
        assert counter.value == pieces, counter.value
        total = hashlib.sha256("".join(shared[number] for number in range(pieces)).encode()).hexdigest()
    with open("draft", "w") as draft:
        draft.write(total)
    os.rename("draft", "done")
