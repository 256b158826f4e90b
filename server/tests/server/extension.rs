//! What the extension guarantees beyond the contract of a store.

use std::sync::Mutex;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};

use partd::{
    Batch, Chunks, Dict, Durability, Error, Key, Partd, Pickle, Result, SegmentLog, Snappy,
};
use partd_server::{Client, ErrorKind, Limits, RemoteError, Server};

use crate::common::{Dir, PATIENCE, Served, until};

fn kind(error: &Error) -> Option<ErrorKind> {
    RemoteError::of(error).map(|remote| remote.kind)
}

/// A store that fails while `fails` is set, and counts its writes.
#[derive(Default)]
struct Failing {
    store: Dict,
    fails: AtomicBool,
    writes: AtomicU64,
}

impl Failing {
    fn result(&self) -> Result<()> {
        match self.fails.load(Ordering::Relaxed) {
            false => Ok(()),
            true => Err(Error::Io {
                doing: "append to",
                path: "/store".into(),
                source: std::io::ErrorKind::StorageFull.into(),
            }),
        }
    }
}

impl Partd for Failing {
    fn write(&self, batch: &Batch<'_>, durability: Durability) -> Result<()> {
        self.result()?;
        self.writes.fetch_add(1, Ordering::Relaxed);
        self.store.write(batch, durability)
    }
    fn read(&self, keys: &[Key]) -> Result<Vec<Vec<u8>>> {
        self.store.read(keys)
    }
    fn take(&self, keys: &[Key]) -> Result<Vec<Vec<u8>>> {
        self.result()?;
        self.store.take(keys)
    }
    fn lens(&self, keys: &[Key]) -> Result<Vec<Option<u64>>> {
        self.store.lens(keys)
    }
    fn keys(&self) -> Result<Vec<Key>> {
        self.store.keys()
    }
    fn sync(&self) -> Result<()> {
        self.result()
    }
}

#[test]
fn keys_with_a_prefix_are_listed_and_deleted_and_the_others_stay() {
    let served = Served::dict();
    let client = served.client();
    client.append([("job1/a", "1"), ("job1/b", "2"), ("job2/a", "3")]).unwrap();
    client.append([(("job1", 7), "4")]).unwrap();
    let keys = client.keys_with_prefix("job1/").unwrap();
    assert_eq!(keys, [Key::from("job1/a"), Key::from("job1/b")]);
    client.delete_prefix("job1").unwrap();
    assert_eq!(client.keys().unwrap(), [Key::from("job2/a")]);
}

#[test]
fn keys_of_any_bytes_are_distinct() {
    let served = Served::dict();
    let client = served.client();
    let keys = [Key::from("a-|-b"), Key::from(("a", "b")), Key::from([0, 1, 255]), Key::default()];
    for (i, key) in keys.iter().enumerate() {
        client.append([(key, i.to_string())]).unwrap();
    }
    for (i, key) in keys.iter().enumerate() {
        assert_eq!(client.get(key).unwrap(), i.to_string().as_bytes());
    }
    assert_eq!(client.keys().unwrap().len(), keys.len());
}

#[test]
fn an_error_of_the_store_reaches_the_client_and_the_server_keeps_serving() {
    let store = std::sync::Arc::new(Failing::default());
    let served = Served::of(std::sync::Arc::clone(&store), Server::options());
    let client = served.client();
    client.append([("x", "1")]).unwrap();
    store.fails.store(true, Ordering::Relaxed);
    let error = client.append([("x", "2")]).unwrap_err();
    assert_eq!(kind(&error), Some(ErrorKind::Full));
    assert!(!RemoteError::of(&error).unwrap().may_have_happened);
    assert!(error.to_string().contains("cannot append to /store"), "{error}");
    assert_eq!(served.server.status().health, "failing");
    assert!(client.sync().is_err());
    // The old protocol has no errors: the server closes the connection.
    let mut raw = served.raw();
    raw.send(&[b"append", b"x", b"3"]);
    assert_eq!(raw.receive(), None);
    store.fails.store(false, Ordering::Relaxed);
    client.append([("x", "4")]).unwrap();
    assert_eq!(client.get("x").unwrap(), b"14");
    assert_eq!(served.server.status().health, "ok");
}

#[test]
fn a_later_call_returns_an_error_in_a_pipeline() {
    let store = std::sync::Arc::new(Failing::default());
    let served = Served::of(std::sync::Arc::clone(&store), Server::options());
    let client = served.client();
    let mut pipeline = client.pipeline().unwrap();
    pipeline.append([("x", "1")]).unwrap();
    pipeline.flush().unwrap();
    store.fails.store(true, Ordering::Relaxed);
    pipeline.append([("x", "2")]).unwrap();
    let error = pipeline.flush().unwrap_err();
    assert_eq!(kind(&error), Some(ErrorKind::Full));
    store.fails.store(false, Ordering::Relaxed);
    pipeline.append([("x", "3")]).unwrap();
    pipeline.flush().unwrap();
    drop(pipeline);
    assert_eq!(client.get("x").unwrap(), b"13");
}

#[test]
fn a_pipeline_keeps_its_order() {
    let served = Served::dict();
    let client = served.client();
    let mut pipeline = client.pipeline().unwrap();
    let mut expected = Vec::new();
    for n in 0..5000 {
        let piece = format!("{n},");
        expected.extend_from_slice(piece.as_bytes());
        pipeline.append([("x", piece)]).unwrap();
    }
    pipeline.flush().unwrap();
    assert_eq!(client.get("x").unwrap(), expected);
    assert_eq!(client.seq(), 5000);
}

#[test]
fn a_value_larger_than_a_message_is_read_in_chunks_through_a_file() {
    let mut limits = Limits::default();
    limits.message_bytes = 1 << 20;
    limits.client_bytes = 2 << 20;
    limits.in_flight_bytes = 4 << 20;
    limits.answer_bytes = 1 << 20;
    let served = Served::limited(limits);
    let client = served.client();
    let piece: Vec<u8> = (0..1_000_000_u32).map(|n| n as u8).collect();
    for _ in 0..20 {
        client.append([("x", &piece)]).unwrap();
    }
    let value = client.get_many(["x", "missing", "x"]).unwrap();
    assert!(value[0] == piece.repeat(20) && value[1].is_empty() && value[2] == value[0]);
    assert_eq!(served.server.status().in_flight_bytes, 0);
    // The server must keep popped values in memory until the client has them.
    let error = client.pop(["x"]).unwrap_err();
    assert!(error.to_string().contains("pop"), "{error}");
    assert_eq!(client.len_of("x").unwrap(), 20_000_000);
}

#[test]
fn sequence_numbers_count_all_writes_and_durable_writes() {
    let served = Served::of(SegmentLog::temporary().unwrap(), Server::options());
    let client = served.client();
    client.append([("x", "1")]).unwrap();
    client.append([("x", "2")]).unwrap();
    assert_eq!((client.seq(), client.durable_seq()), (2, 0));
    client.append_durable([("x", "3")]).unwrap();
    assert_eq!((client.seq(), client.durable_seq()), (3, 3));
    client.append([("x", "4")]).unwrap();
    assert_eq!((client.seq(), client.durable_seq()), (4, 3));
    client.sync().unwrap();
    assert_eq!(client.durable_seq(), 4);
    let status = client.status().unwrap();
    assert_eq!((status.seq, status.durable_seq), (4, 4));
    assert_eq!((status.health.as_str(), status.connections), ("ok", 1));
}

#[test]
fn the_records_of_durable_writes_are_hidden_and_survive_a_clear() {
    let dir = Dir::new();
    let store = dir.join("store");
    let served = Served::of(SegmentLog::open(&store).unwrap(), Server::options());
    let client = served.client();
    client.append_durable([("x", "1")]).unwrap();
    assert_eq!(client.keys().unwrap(), [Key::from("x")]);
    client.clear().unwrap();
    assert_eq!(client.keys().unwrap(), []);
    let reserved = Key::from(b"\x00\xFEpartd-server\x00\x00\x00");
    let error = client.get(&reserved).unwrap_err();
    assert_eq!(kind(&error), Some(ErrorKind::Forbidden));
    assert!(client.delete([&reserved]).is_err());
    // The store contains the reserved key nevertheless.
    let engine = SegmentLog::open_read_only(&store).unwrap();
    assert_eq!(engine.keys().unwrap(), [reserved]);
}

#[test]
fn a_batch_of_mixed_operations_is_applied_whole() {
    let served = Served::dict();
    let client = served.client();
    client.append([("old", "1"), ("kept", "2")]).unwrap();
    let mut batch = Batch::new();
    batch.delete("old").append("new", b"3").set("once", b"4").append("kept", b"5");
    client.write(&batch, Durability::Plain).unwrap();
    let values = client.get_many(["old", "new", "once", "kept"]).unwrap();
    assert_eq!(values, [&b""[..], b"3", b"4", b"25"]);
}

#[test]
fn threads_of_a_client_share_its_connections_and_wait_for_them() {
    let served = Served::dict();
    let client = Client::options().connections(2).timeout(PATIENCE);
    let client = client.connect(served.server.address()).unwrap();
    std::thread::scope(|scope| {
        for thread in 0..8 {
            let client = &client;
            scope.spawn(move || {
                for n in 0..50 {
                    client.append([(thread.to_string(), format!("{n},"))]).unwrap();
                }
            });
        }
    });
    for thread in 0..8 {
        assert_eq!(
            client.get(thread.to_string()).unwrap().iter().filter(|b| **b == b',').count(),
            50
        );
    }
    assert!(served.server.status().connections <= 2);
}

/// A store whose writes wait until the gate is unlocked.
struct Slow {
    store: Dict,
    gate: Mutex<()>,
}

impl Partd for Slow {
    fn write(&self, batch: &Batch<'_>, durability: Durability) -> Result<()> {
        let _wait = self.gate.lock().unwrap();
        self.store.write(batch, durability)
    }
    fn read(&self, keys: &[Key]) -> Result<Vec<Vec<u8>>> {
        self.store.read(keys)
    }
    fn take(&self, keys: &[Key]) -> Result<Vec<Vec<u8>>> {
        self.store.take(keys)
    }
    fn lens(&self, keys: &[Key]) -> Result<Vec<Option<u64>>> {
        self.store.lens(keys)
    }
    fn keys(&self) -> Result<Vec<Key>> {
        self.store.keys()
    }
    fn sync(&self) -> Result<()> {
        Ok(())
    }
    fn visit(
        &self,
        keys: &[Key],
        visit: &mut dyn FnMut(&[Chunks<'_>]) -> Result<()>,
    ) -> Result<()> {
        self.store.visit(keys, visit)
    }
}

#[test]
fn a_call_times_out_if_the_store_does_not_answer() {
    let store = std::sync::Arc::new(Slow { store: Dict::new(), gate: Mutex::new(()) });
    let served = Served::of(std::sync::Arc::clone(&store), Server::options());
    let options = Client::options().timeout(std::time::Duration::from_millis(300));
    let client = options.connect(served.server.address()).unwrap();
    let closed = store.gate.lock().unwrap();
    let error = client.append([("x", "1")]).unwrap_err();
    let remote = RemoteError::of(&error).unwrap();
    assert_eq!((remote.kind, remote.may_have_happened), (ErrorKind::TimedOut, true));
    // The server still answers other requests.
    assert_eq!(client.get("x").unwrap(), b"");
    drop(closed);
    until("the write happens in the end", || client.get("x").unwrap() == b"1");
}

#[test]
fn layers_compose_on_a_client() {
    let served = Served::dict();
    let p = Pickle::<i64, _>::new(Snappy::new(served.client()));
    p.append([("x", vec![1, 2]), ("y", vec![])]).unwrap();
    p.append([("x", vec![3])]).unwrap();
    assert_eq!(p.get("x").unwrap(), [1, 2, 3]);
}

#[test]
fn a_request_above_a_limit_is_refused_and_the_connection_stays_open() {
    let mut limits = Limits::default();
    limits.keys = 3;
    limits.value_bytes = 100;
    limits.key_bytes = 10;
    limits.message_bytes = 8192;
    let served = Served::limited(limits);
    let client = served.client();
    let many = client.get_many(["a", "b", "c", "d"]).unwrap_err();
    let long_value = client.append([("x", vec![0; 101])]).unwrap_err();
    let long_key = client.append([("x".repeat(11), "")]).unwrap_err();
    let long_prefix = client.delete_prefix("x".repeat(11)).unwrap_err();
    let long_listing = client.keys_with_prefix("x".repeat(11)).unwrap_err();
    let long_message = client.get("x".repeat(9000)).unwrap_err();
    for error in [many, long_value, long_key, long_prefix, long_listing, long_message] {
        assert_eq!(kind(&error), Some(ErrorKind::TooLarge), "{error}");
    }
    client.append([("x", "1")]).unwrap();
    assert_eq!(served.server.status().connections_total, 1);
}

#[test]
fn the_values_of_a_pop_are_kept_only_until_the_client_has_them() {
    let served = Served::dict();
    let client = served.client();
    client.append([("x", vec![1; 3 << 20])]).unwrap();
    assert_eq!(client.pop(["x"]).unwrap()[0].len(), 3 << 20);
    until("the server releases them", || served.server.status().in_flight_bytes == 0);
    client.append([("x", "1")]).unwrap();
    assert_eq!(client.pop(["x", "y"]).unwrap(), [&b"1"[..], b""]);
}

#[test]
fn infinite_timeouts_do_not_overflow() {
    let mut limits = Limits::default();
    limits.idle = std::time::Duration::MAX;
    limits.message = std::time::Duration::MAX;
    limits.handshake = std::time::Duration::MAX;
    let served = Served::limited(limits);
    let client = Client::options().timeout(std::time::Duration::MAX);
    let client = client.connect(served.server.address()).unwrap();
    client.append([("x", "1")]).unwrap();
    assert_eq!(client.get("x").unwrap(), b"1");
}
