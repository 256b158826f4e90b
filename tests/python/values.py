"""The values that the Rust and Python tests exchange: see make_golden.py and read_back.py.

testkit/src/values.rs has the same values.
"""
import numpy as np

TEXT = "".join(f"{i},{i * i % 97},EWR\n" for i in range(500)).encode()
BINARY = bytes((i * i * 31 + i // 7) % 256 for i in range(3000))
BYTES = [TEXT, b"", BINARY, bytes(70000), b"x"]

INTS = [0, 1, -1, 255, 256, 65535, 65536, 2**31 - 1, 2**31, -(2**31), 2**62, -(2**63), 2**63 - 1]
LISTS = {
    "ints": [INTS, [], [7] * 2500],
    "unsigned": [[2**63, 2**64 - 1], [1]],
    "floats": [[0.0, -1.5, 1e300], [float("inf")]],
    "strings": [["EWR", "JFK", "EWR", "", "naïve ☃"], ["EWR", "x" * 300]],
    "rows": [[(1, "EWR", 2.5), (2, "JFK", -0.5)], [(3, "LGA", 0.0)]],
    "optional": [[1, None, 3], [None]],
    "dicts": [[{"dest": "BOS", "miles": 200}], [{"dest": "SFO", "miles": 2586}]],
    "nested": [[[1, 2], [], [3]], [[4]]],
    "bytes": [[b"\x00\xff", b""], [b"y" * 300]],
    "bools": [[True, False], [True]],
}
SETS = [[{1, 2, 3}], [{4}, set()]]
SHARED = ["shared", "list"]
TWICE = [[SHARED, SHARED], [SHARED]]

ARRAYS = {
    "i1": np.array([-128, 0, 127], "i1"),
    "i2": np.array([-(2**15), 0, 2**15 - 1], "i2"),
    "i4": np.array([-(2**31), 0, 2**31 - 1], "i4"),
    "i8": np.array([-(2**63), 0, 2**63 - 1], "i8"),
    "u1": np.array([0, 1, 255], "u1"),
    "u2": np.array([0, 1, 2**16 - 1], "u2"),
    "u4": np.array([0, 1, 2**32 - 1], "u4"),
    "u8": np.array([0, 1, 2**64 - 1], "u8"),
    "f2": np.array([-1.5, 0.0, 3.25], "f2"),
    "f4": np.array([-1.5, 0.0, 3.25], "f4"),
    "f8": np.array([-1.5, 0.0, 1e300], "f8"),
    "c8": np.array([1 + 2j, -0.5j], "c8"),
    "c16": np.array([1 + 2j, -0.5j], "c16"),
    "b1": np.array([True, False, True]),
    "datetime-ns": np.array([0, 1_700_000_000_000_000_000, -1], "M8[ns]"),
    "datetime-25s": np.array([0, 3], "M8[25s]"),
    "timedelta-us": np.array([5, -5], "m8[us]"),
}
