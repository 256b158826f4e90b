//! The contract of `Partd`: a client of a server over each kind of store, with and without layers.
//!
//! Runs the behaviours of the engine's own contract tests.

use partd::{Batch, Buffer, Dict, Durability, Key, Partd, Result, SegmentLog, compression};
use partd_server::{Client, Limits, Server};
use partd_testkit::contract;

use crate::common::{Dir, PATIENCE};

/// A client, and the server and directory that must outlive it.
struct Remote {
    client: Client,
    _server: Server,
    _dir: Dir,
}

impl Remote {
    fn of(store: impl Partd + 'static, limits: Limits) -> Remote {
        let dir = Dir::new();
        let options = Server::options().limits(limits).spool(dir.path());
        let server = options.bind(dir.address()).serve(store).unwrap();
        let client = Client::options().timeout(PATIENCE).connect(server.address()).unwrap();
        assert!(client.is_extended());
        Remote { client, _server: server, _dir: dir }
    }
}

impl Partd for Remote {
    fn write(&self, batch: &Batch<'_>, durability: Durability) -> Result<()> {
        self.client.write(batch, durability)
    }
    fn read(&self, keys: &[Key]) -> Result<Vec<Vec<u8>>> {
        self.client.read(keys)
    }
    fn take(&self, keys: &[Key]) -> Result<Vec<Vec<u8>>> {
        self.client.take(keys)
    }
    fn lens(&self, keys: &[Key]) -> Result<Vec<Option<u64>>> {
        self.client.lens(keys)
    }
    fn present(&self, keys: &[Key]) -> Result<Vec<bool>> {
        self.client.present(keys)
    }
    fn keys(&self) -> Result<Vec<Key>> {
        self.client.keys()
    }
    fn sync(&self) -> Result<()> {
        self.client.sync()
    }
    fn check(&self, durability: Durability) -> Result<()> {
        self.client.check(durability)
    }
}

fn small_segments() -> SegmentLog {
    SegmentLog::options().segment_len_bytes(64 << 10).temporary().unwrap()
}

fn remote(store: impl Partd + 'static) -> Remote {
    Remote::of(store, Limits::default())
}

/// Serves a store such that an answer of more than 16 bytes goes through a file.
fn spooling(store: impl Partd + 'static) -> Remote {
    let mut limits = Limits::default();
    limits.answer_bytes = 16;
    Remote::of(store, limits)
}

contract! {
    dict: remote(Dict::new());
    segment_log: remote(small_segments());
    buffer_over_segment_log: remote(Buffer::new(Dict::new(), small_segments(), 60 << 10));
    snappy_over_segment_log: remote(compression("snappy", Box::new(small_segments())).unwrap());
    answers_through_files: spooling(small_segments());
    snappy_over_a_client: compression("snappy", Box::new(remote(Dict::new()))).unwrap();
    buffer_over_a_client: Buffer::new(Dict::new(), remote(small_segments()), 60 << 10);
    a_client_over_a_client: remote(remote(Dict::new()));
}
