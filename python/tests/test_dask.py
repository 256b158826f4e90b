"""dask on partd: unchanged, with `enable`, with processes, and with workers of `distributed`."""

import os

import partd
import pytest

dask = pytest.importorskip("dask")
pd = pytest.importorskip("pandas")
np = pytest.importorskip("numpy")
import dask.bag as db  # noqa: E402
import dask.dataframe as dd  # noqa: E402
import partd.dask  # noqa: E402


@pytest.fixture
def enabled():
    partd.dask.enable()
    yield
    partd.dask.disable()


def frame(n=3000):
    rng = np.random.default_rng(1)
    return pd.DataFrame(
        {
            "id": rng.integers(0, 100, n),
            "x": rng.random(n),
            "name": rng.choice(["alpha", "beta", None], n),
            "when": pd.date_range("2020", periods=n, freq="h"),
            "kind": pd.Categorical(rng.choice(list("abc"), n)),
        }
    )


def shuffled(scheduler, method="disk", **kwargs):
    df = dd.from_pandas(frame(), npartitions=4)
    with dask.config.set(scheduler=scheduler, num_workers=2):
        return dask.compute(
            *df.shuffle("id", npartitions=6, shuffle_method=method).to_delayed(), **kwargs
        )


def check(parts):
    got = pd.concat(parts)
    expected = dd.from_pandas(frame(), npartitions=1).compute()  # with dask's type of strings
    columns = list(expected.columns)
    pd.testing.assert_frame_equal(
        got.sort_values(columns), expected.sort_values(columns), check_freq=False
    )
    homes = [set(part.id) for part in parts]
    assert sum(map(len, homes)) == len(set.union(*homes))


@pytest.mark.parametrize("scheduler", ["sync", "threads", "processes"])
def test_a_shuffle_on_disk(scheduler, tmp_path):
    with dask.config.set(temporary_directory=str(tmp_path)):
        check(shuffled(scheduler))


@pytest.mark.parametrize("compression", ["Snappy", "ZLib", "Blosc", "LZ4"])
def test_a_shuffle_with_compression(compression):
    with dask.config.set({"dataframe.shuffle.compression": compression}):
        check(shuffled("threads"))


def test_the_split_with_a_sort_gives_the_same_result(enabled):
    assert partd.dask.is_enabled()
    plain = shuffled("sync")
    partd.dask.disable()
    for a, b in zip(plain, shuffled("sync"), strict=True):
        # The order of rows depends on the order in which dask splits the partitions.
        pd.testing.assert_frame_equal(a.sort_index(), b.sort_index())


def test_the_split_uses_pandas_for_columns_that_are_not_integers(enabled):
    df = frame(50)
    p, q = partd.PandasBlocks(partd.Dict()), partd.PandasBlocks(partd.Dict())
    from dask.dataframe.dask_expr._shuffle import DiskShuffle

    for column, groups in [("id", range(100)), ("name", ["alpha"]), (["id", "kind"], [])]:
        DiskShuffle._shuffle_group(df, column, list(groups), p)
        partd.dask.disable()
        DiskShuffle._shuffle_group(df, column, list(groups), q)
        partd.dask.enable()
        for group in groups:
            pd.testing.assert_frame_equal(p.get(group), q.get(group))
    with pytest.raises(KeyError):
        DiskShuffle._shuffle_group(df, "no such column", [], p)
    assert p.keys() == [] or p.get("alpha").empty, "dask drops the store after an error"


def test_groups_equal_those_of_groupby():
    df = frame(500)
    groups = df.groupby("id")
    pieces = partd.dask.split_sorted(df, df.id)
    assert list(pieces) == list(groups.groups)
    for group, piece in pieces.items():
        pd.testing.assert_frame_equal(piece, groups.get_group(group))
    assert partd.dask.split_sorted(df.iloc[:0], df.id.iloc[:0]) == {}
    with pytest.raises(TypeError):
        partd.dask.split_sorted(df, df.name)


@pytest.mark.parametrize("scheduler", ["sync", "processes"])
def test_bags_are_grouped_on_disk(scheduler, tmp_path):
    bag = db.from_sequence(range(1000), npartitions=4)
    with dask.config.set(scheduler=scheduler, num_workers=2, temporary_directory=str(tmp_path)):
        groups = dict(bag.groupby(lambda x: x % 7, npartitions=3, shuffle="disk").compute())
    assert {k: sorted(v) for k, v in groups.items()} == {
        k: list(range(k, 1000, 7)) for k in range(7)
    }


@pytest.mark.parametrize("shared", [True, False])
def test_workers_of_distributed_shuffle_through_partd(shared, tmp_path):
    distributed = pytest.importorskip("distributed")
    import partd.distributed

    with (
        dask.config.set({"distributed.worker.daemon": True}),
        distributed.LocalCluster(2, threads_per_worker=1, processes=True, dashboard_address=None,
                                 local_directory=str(tmp_path / "workers")) as cluster,
        distributed.Client(cluster) as client,
    ):  # fmt: skip
        directory = str(tmp_path / "shared") if shared else None
        plugin = partd.distributed.ShufflePlugin(directory)
        client.register_plugin(plugin)
        df = dd.from_pandas(frame(), npartitions=4).shuffle(
            "id", npartitions=6, shuffle_method="disk"
        )
        check(client.gather(client.compute(df.to_delayed())))
        kinds = set(client.run(partd.distributed.last_kind).values()) - {None}
        assert kinds == ({"File"} if shared else {"Client"})
    if shared:
        assert os.listdir(tmp_path / "shared") == []
