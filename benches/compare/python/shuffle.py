"""Polars and DuckDB as sides of the shuffle of a CSV file.

    shuffle.py polars|duckdb INPUT OUT MEGABYTES
    shuffle.py version

Columns are read as text, so that every row is written as it was read.
"""

import sys

PARTITIONS = 64
BY = "dest"


def with_polars(source, out, _):
    import polars as pl

    rows = pl.scan_csv(source, infer_schema=False, empty_string_is_null=False)
    key = (pl.col(BY).hash() % PARTITIONS).alias("partition")
    rows.sink_csv(pl.PartitionBy(out, key=key, include_key=False), quote_style="never", mkdir=True)


def with_duckdb(source, out, megabytes):
    import duckdb

    connection = duckdb.connect(config={"memory_limit": f"{megabytes}MB", "temp_directory": out + ".tmp"})
    # The order of the rows does not matter here, and preserving it costs memory.
    connection.execute("SET preserve_insertion_order = false")
    connection.execute(
        f"""COPY (SELECT *, hash({BY}) % {PARTITIONS} AS partition
                  FROM read_csv('{source}', all_varchar = true, header = true))
            TO '{out}' (FORMAT csv, HEADER, PARTITION_BY (partition))"""
    )


if __name__ == "__main__":
    if sys.argv[1:] == ["version"]:
        import platform
        from importlib.metadata import version

        print(f"{platform.python_version()}, polars {version('polars')}, duckdb {version('duckdb')}")
    else:
        side, source, out, megabytes = sys.argv[1:]
        {"polars": with_polars, "duckdb": with_duckdb}[side](source, out, megabytes)
