"""One client of Python's partd, timed by itself. Arguments: address, name, batches, gets.

256 values of 4 KiB in each batch. It says `filled` and waits for a line; says `ready`, waits for a line,
appends, says the seconds; waits for a line, gets, says the seconds; and says `verified` if the server
has what was appended.
"""

import random
import sys
import time

from partd.zmq import Client

address, name, batches, gets = sys.argv[1], sys.argv[2], int(sys.argv[3]), int(sys.argv[4])
values = [random.Random(f"{name}-{i}").randbytes(4096) for i in range(256)]
batch = {f"{name}-{i}": value for i, value in enumerate(values)}
keys = [f"{name}-get-{i}" for i in range(256)]
p = Client(address)
p.append(dict(zip(keys, values)))
# As benches/speed.rs does, so that the server has been in use.
removed = {f"{name}-removed-{i}": value for i, value in enumerate(values)}
for _ in range(batches):
    p.append(removed)
p.get(keys[0])
print("filled", flush=True)
sys.stdin.readline()
p.delete(list(removed))
p.get(keys[0])
print("ready", flush=True)
sys.stdin.readline()
start = time.perf_counter()
for _ in range(batches):
    p.append(batch)
p.get(keys[0])
print(time.perf_counter() - start, flush=True)
sys.stdin.readline()
start = time.perf_counter()
for _ in range(gets):
    got = p.get(keys)
    assert sum(map(len, got)) == 256 * 4096
print(time.perf_counter() - start, flush=True)
assert got == values
for key, value in batch.items():
    assert p.get(key) == value * batches
print("verified", flush=True)
