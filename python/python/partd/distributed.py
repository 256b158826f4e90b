"""Workers of `dask.distributed` that shuffle through partd.

dask makes the store of a shuffle on disk in one worker and sends its path to the others. That works
where all workers share the disk, and loses rows where they do not. With this plugin,

    from distributed import Client
    from partd.distributed import ShufflePlugin

    client = Client(…)
    client.register_plugin(ShufflePlugin('/scratch/of/all/workers'))   # they share a disk
    client.register_plugin(ShufflePlugin())                            # they do not
    df.shuffle('id', shuffle_method='disk')

a shuffle goes through one store in a directory that all workers have, or through a `Server` in the
worker that begins it, to which the others connect. The plugin also calls `partd.dask.enable`.

Nobody is authenticated by the server: it listens on the address of its worker, and every process
that reaches it can read and write.
"""

import os
import shutil
import tempfile

from distributed import WorkerPlugin, get_worker

from .buffer import Buffer
from .dict import Dict
from .file import File
from .pandas import PandasBlocks

__all__ = ["ShufflePlugin", "last_kind"]

_plugin = None
_last_kind = None
_original = None


def last_kind():
    """The class of the store that this worker made for a shuffle last; None if it made none."""
    return _last_kind


class ShufflePlugin(WorkerPlugin):
    """Has the workers of a cluster shuffle on disk through one store.

    `directory` is one that every worker has under this path, and makes if it is missing. Without
    it, the worker that begins a shuffle serves the others, with `available_memory` bytes before its
    disk.
    """

    name = "partd-shuffle"

    def __init__(self, directory=None, available_memory=1e9):
        self.directory = directory
        self.available_memory = available_memory
        self.idempotent = True

    def setup(self, worker):
        """Called by distributed when a worker gets the plugin."""
        global _plugin, _original
        from dask.dataframe.shuffle import maybe_buffered_partd

        from . import dask

        dask.enable()
        self.host = worker.address.split("://")[-1].rsplit(":", 1)[0] if worker.address else None
        self.stores = []
        if self.directory is not None:
            os.makedirs(self.directory, exist_ok=True)
        if _original is None:
            _original = maybe_buffered_partd.__call__
            maybe_buffered_partd.__call__ = _make_store
        _plugin = self

    def teardown(self, worker):
        """Called by distributed when a worker ends: closes its servers, removes its stores."""
        global _plugin, _original
        from dask.dataframe.shuffle import maybe_buffered_partd

        if _original is not None:
            maybe_buffered_partd.__call__ = _original
            _plugin = _original = None
        for close in self.stores:
            close()
        self.stores.clear()

    def make_store(self):
        """A store for one shuffle, which is pickled to the other workers."""
        if self.directory is not None:
            path = tempfile.mkdtemp(suffix=".partd", dir=self.directory)
            self.stores.append(lambda: shutil.rmtree(path, ignore_errors=True))
            return File(path)
        # Servers need pyzmq, shared directories do not.
        from .zmq import Client, Server

        local = File()
        server = Server(Buffer(Dict(), local, self.available_memory), hostname=self.host)

        def close():
            server.close()
            local.__exit__()

        self.stores.append(close)
        return Client(server.address)

    def __getstate__(self):
        return {"directory": self.directory, "available_memory": self.available_memory}

    def __setstate__(self, state):
        self.__init__(**state)


def _make_store(self, *args, **kwargs):
    """What dask calls for the store of a shuffle."""
    global _last_kind
    try:
        get_worker()
    except ValueError:  # not in a task of a worker
        return _original(self, *args, **kwargs)
    store = _plugin.make_store()
    _last_kind = type(store).__name__
    return self.encode_cls(store) if self.encode_cls is not None else PandasBlocks(store)
