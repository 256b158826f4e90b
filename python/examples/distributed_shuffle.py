"""Shuffles on worker processes of dask.distributed, through a directory and through a server.

    python examples/distributed_shuffle.py [ROWS]

Needs `dask[dataframe]`, `distributed` and `pyzmq`. Prints the time of each, and checks that no row
is lost and that each id is in one partition.
"""

import sys
import tempfile
import time

import dask.dataframe as dd
import numpy as np
import pandas as pd
from distributed import Client, LocalCluster
from partd.distributed import ShufflePlugin, last_kind


def shuffle(client, rows):
    """Shuffles rows by id, checks the result, and returns the number of rows."""
    source = np.random.default_rng(1)
    frame = pd.DataFrame({"id": source.integers(0, 10_000, rows), "x": source.random(rows)})
    df = dd.from_pandas(frame, npartitions=8).shuffle("id", npartitions=16, shuffle_method="disk")
    parts = client.gather(
        client.compute(df.map_partitions(lambda d: d.id.value_counts()).to_delayed())
    )
    ids = pd.concat(parts)
    assert ids.index.is_unique, "an id is in two partitions"
    assert ids.sort_index().equals(frame.id.value_counts().sort_index()), (
        "rows were lost or doubled"
    )
    return sum(ids)


def main():
    rows = int(sys.argv[1]) if len(sys.argv) > 1 else 200_000
    with tempfile.TemporaryDirectory() as directory:
        for where in [directory, None]:
            with (
                LocalCluster(
                    2, threads_per_worker=1, processes=True, dashboard_address=None
                ) as cluster,
                Client(cluster) as client,
            ):
                client.register_plugin(ShufflePlugin(where))
                began = time.perf_counter()
                found = shuffle(client, rows)
                seconds = time.perf_counter() - began
                kinds = set(client.run(last_kind).values()) - {None}
                print(f"{found:,} rows through {', '.join(kinds)} in {seconds:.2f} s")


if __name__ == "__main__":
    main()
