# Three threads multiply matrices; the digest of the results must not depend on what happened meanwhile.
import hashlib
import os
import sys
import threading

import numpy

ROUNDS = int(sys.argv[1])
done = [0, 0, 0]
results = [None, None, None]


def work(index):
    random = numpy.random.default_rng(index)
    a = random.standard_normal((160, 160))
    b = random.standard_normal((160, 160))
    total = numpy.zeros((160, 160))
    for _ in range(ROUNDS):
        b = a @ b
        b /= numpy.abs(b).max()
        total += numpy.sin(b)
        done[index] += 1
    results[index] = total


threads = [threading.Thread(target=work, args=(index,)) for index in range(3)]
for thread in threads:
    thread.start()
written = -1
while any(thread.is_alive() for thread in threads):
    threads[0].join(0.005)
    if sum(done) > written:
        written = sum(done)
        # One byte for each step, appended.
        with open("progress", "wb") as progress:
            progress.write(b"x" * written)
for thread in threads:
    thread.join()
digest = hashlib.sha256(b"".join(result.tobytes() for result in results)).hexdigest()
with open("draft", "w") as draft:
    draft.write(digest + "\n")
os.rename("draft", "done")
