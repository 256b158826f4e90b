"""A plugin with which workers of `dask.distributed` shuffle on disk through partd.

dask makes the store of a shuffle on disk in one worker and sends its path to the others. If the
workers do not share that disk, rows are lost. With this plugin,

    from distributed import Client
    from partd.distributed import ShufflePlugin

    client = Client(…)
    client.register_plugin(ShufflePlugin('/scratch/of/all/workers'))   # they share a disk
    client.register_plugin(ShufflePlugin())                            # they do not
    df.shuffle('id', shuffle_method='disk')

a shuffle goes through a store in a directory that all workers share, or through a `Server` in the
worker that starts the shuffle, to which the others connect. The plugin also calls
`partd.dask.enable`.

The server has no authentication: every process that can reach its TCP port can read and write.
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
    """Returns the class name of the last store that this worker made for a shuffle, or None."""
    return _last_kind


class ShufflePlugin(WorkerPlugin):
    """Makes the workers of a cluster shuffle on disk through one store.

    `directory` must be the same directory in every worker; the workers create it if it is missing.
    Without it, the worker that starts a shuffle serves the others, and buffers `available_memory`
    bytes in front of its disk.
    """

    name = "partd-shuffle"

    def __init__(self, directory=None, available_memory=1e9):
        self.directory = directory
        self.available_memory = available_memory
        self.idempotent = True

    def setup(self, worker):
        """Installs the plugin in a worker; distributed calls this."""
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
        """Closes the worker's servers and removes its stores; distributed calls this at the end."""
        global _plugin, _original
        from dask.dataframe.shuffle import maybe_buffered_partd

        if _original is not None:
            maybe_buffered_partd.__call__ = _original
            _plugin = _original = None
        for close in self.stores:
            close()
        self.stores.clear()

    def make_store(self):
        """Makes the store of one shuffle, which dask pickles to the other workers."""
        if self.directory is not None:
            path = tempfile.mkdtemp(suffix=".partd", dir=self.directory)
            self.stores.append(lambda: shutil.rmtree(path, ignore_errors=True))
            return File(path)
        # Import it here: only a server needs pyzmq.
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
    """Makes the store of a shuffle; replaces a method of dask."""
    global _last_kind
    try:
        get_worker()
    except ValueError:  # not running in a task of a worker
        return _original(self, *args, **kwargs)
    store = _plugin.make_store()
    _last_kind = type(store).__name__
    return self.encode_cls(store) if self.encode_cls is not None else PandasBlocks(store)
