//! The guarantees of `Buffer` beyond the contract: its limit, its flush order, failures of the slow
//! store.

use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::thread;
use std::time::Duration;

use partd::{Batch, Buffer, Dict, Durability, Error, Key, MemoryStore, Partd, Result, SegmentLog};

/// A slow store that can be told to fail, and that records the calls it gets.
#[derive(Default)]
struct Probe {
    inner: Dict,
    fails: AtomicBool,
    /// The number of writes that still succeed before all fail; 0 means no limit.
    writes_left: AtomicU64,
    writes: AtomicU64,
    syncs: AtomicU64,
}

impl Probe {
    fn check(&self) -> Result<()> {
        match self.fails.load(Ordering::SeqCst) {
            true => Err(Error::Invalid("the probe was told to fail".to_owned())),
            false => Ok(()),
        }
    }
}

impl Partd for Probe {
    fn write(&self, batch: &Batch<'_>, durability: Durability) -> Result<()> {
        self.check()?;
        if self.writes_left.load(Ordering::SeqCst) > 0
            && self.writes_left.fetch_sub(1, Ordering::SeqCst) == 1
        {
            self.fails.store(true, Ordering::SeqCst);
        }
        self.writes.fetch_add(1, Ordering::SeqCst);
        self.inner.write(batch, durability)
    }
    fn read(&self, keys: &[Key]) -> Result<Vec<Vec<u8>>> {
        self.check()?;
        self.inner.read(keys)
    }
    fn take(&self, keys: &[Key]) -> Result<Vec<Vec<u8>>> {
        self.check()?;
        self.inner.take(keys)
    }
    fn lens(&self, keys: &[Key]) -> Result<Vec<Option<u64>>> {
        self.check()?;
        self.inner.lens(keys)
    }
    fn keys(&self) -> Result<Vec<Key>> {
        self.check()?;
        self.inner.keys()
    }
    fn sync(&self) -> Result<()> {
        self.check()?;
        self.syncs.fetch_add(1, Ordering::SeqCst);
        Ok(())
    }
}

impl MemoryStore for Probe {
    fn memory_bytes(&self) -> u64 {
        self.inner.memory_bytes()
    }
}

fn buffer(limit_bytes: u64) -> Buffer<Dict, Probe> {
    Buffer::new(Dict::new(), Probe::default(), limit_bytes)
}

#[test]
fn values_that_fit_stay_in_memory_and_reach_the_slow_store_on_flush_sync_and_drop() {
    let slow = Dict::new();
    let p = Buffer::new(Dict::new(), &slow, 2 << 30);
    assert_eq!(p.limit_bytes(), 2 << 30);
    p.append([("a", "1"), ("b", "2")]).unwrap();
    p.iset("c", "3").unwrap();
    assert_eq!(p.stats(), Default::default());
    assert!(slow.keys().unwrap().is_empty());
    p.flush().unwrap();
    assert_eq!(slow.get_many(["a", "b", "c"]).unwrap(), [b"1", b"2", b"3"]);
    assert_eq!((p.stats().slow_bytes, p.stats().flushes), (3, 1));
    assert_eq!(p.memory_bytes(), 0);
    p.append([("a", "4")]).unwrap();
    p.sync().unwrap();
    assert_eq!(slow.get("a").unwrap(), b"14");
    p.append([("a", "5")]).unwrap();
    drop(p);
    assert_eq!(slow.get("a").unwrap(), b"145");
}

#[test]
fn a_durable_append_flushes_everything_before_it_and_syncs_once() {
    let p = buffer(1 << 20);
    p.append([("a", "1"), ("b", "2")]).unwrap();
    p.append_durable([("a", "3")]).unwrap();
    assert_eq!(p.slow().inner.get_many(["a", "b"]).unwrap(), [&b"13"[..], b"2"]);
    assert_eq!(p.slow().syncs.load(Ordering::SeqCst), 1);
    assert!(p.fast().keys().unwrap().is_empty());
}

#[test]
fn memory_stays_within_the_limit_under_many_threads() {
    for limit_bytes in [30 << 10, 300 << 10, 2 << 20] {
        let p = buffer(limit_bytes);
        let done = AtomicBool::new(false);
        thread::scope(|scope| {
            let writers: Vec<_> = (0..4_u32)
                .map(|writer| {
                    let p = &p;
                    scope.spawn(move || {
                        for i in 0..3000_u32 {
                            let value = vec![1; (i.wrapping_mul(2_654_435_761) >> 22) as usize];
                            let key = (i * 7 + writer) % [5, 100, 100_000][i as usize % 3];
                            p.append([(key, &value), (key + 1, &value)]).unwrap();
                            if i % 10 == 0 {
                                p.iset((key, "set"), &value).unwrap();
                            }
                        }
                    })
                })
                .collect();
            scope.spawn(|| {
                while !done.load(Ordering::Acquire) {
                    let held_bytes = p.memory_bytes();
                    assert!(held_bytes <= limit_bytes, "{held_bytes} bytes held of {limit_bytes}");
                }
            });
            writers.into_iter().for_each(|writer| writer.join().unwrap());
            done.store(true, Ordering::Release);
        });
        assert!(p.stats().flushes > 1);
    }
}

#[test]
fn flushes_move_the_largest_keys_and_keep_the_small_ones() {
    let p = buffer(1 << 20);
    for _ in 0..40 {
        p.append((0..100).map(|i| (i, [0; 20]))).unwrap();
        p.append([("large", vec![0; 60_000])]).unwrap();
    }
    assert!(p.stats().flushes >= 2);
    assert_eq!(p.slow().inner.keys().unwrap(), [Key::from("large")]);
}

#[test]
fn flushes_are_few_and_their_batches_large() {
    let p = buffer(1 << 20);
    for _ in 0..8000 {
        p.append((0..8).map(|i| (i, [0; 128]))).unwrap();
    }
    let stats = p.stats();
    assert!(stats.slow_bytes > 7 << 20);
    assert!(stats.flushes <= 8 * 4, "{stats:?}");
    assert!(stats.slow_bytes / stats.slow_batches > 32 << 10, "{stats:?}");
}

#[test]
fn a_batch_above_the_limit_is_flushed_at_once_with_the_buffered_values_of_its_keys() {
    let p = buffer(100 << 10);
    p.append([("a", "1"), ("b", "2"), ("other", "stays")]).unwrap();
    p.iset("c", "3").unwrap();
    let large = vec![b'x'; 200 << 10];
    p.append([("a", &large), ("c", &large)]).unwrap();
    assert_eq!(p.slow().writes.load(Ordering::SeqCst), 1);
    assert_eq!(p.slow().inner.keys().unwrap(), ["a", "c"].map(Key::from));
    assert_eq!(p.fast().keys().unwrap(), ["b", "other"].map(Key::from));
    assert!(p.get("a").unwrap() == [b"1", &large[..]].concat());
    assert!(p.get("c").unwrap() == [b"3", &large[..]].concat());
}

#[test]
fn sets_that_accompany_every_append_stay_buffered() {
    let p = buffer(1 << 20);
    for _ in 0..1000 {
        let mut batch = Batch::new();
        for key in 0..20 {
            batch.set((key, "dtype"), b"float64").append(key, b"12345678");
        }
        p.write(&batch, Durability::Plain).unwrap();
    }
    assert_eq!(p.slow().writes.load(Ordering::SeqCst), 0);
    assert_eq!(p.get((7, "dtype")).unwrap(), b"float64");
    assert_eq!(p.get(7).unwrap(), b"12345678".repeat(1000));
}

#[test]
fn the_slow_store_decides_whether_a_deferred_set_counts() {
    let p = buffer(1 << 20);
    p.slow().inner.iset("set", "first").unwrap();
    p.slow().inner.append([("appended", "gone")]).unwrap();
    for key in ["set", "appended", "new"] {
        p.iset(key, "late").unwrap();
        p.append([(key, "+")]).unwrap();
    }
    assert_eq!(p.slow().writes.load(Ordering::SeqCst), 0);
    let values = p.get_many(["set", "appended", "new"]).unwrap();
    assert_eq!(values, [&b"first+"[..], b"late+", b"late+"]);
}

#[test]
fn very_many_deferred_sets_stay_within_the_limit_too() {
    let p = buffer(200 << 10);
    for i in 0..20_000 {
        p.iset(i, "value").unwrap();
        assert!(p.memory_bytes() <= p.limit_bytes());
    }
    assert!((5..50).contains(&p.stats().flushes), "{:?}", p.stats());
    assert_eq!(p.keys().unwrap().len(), 20_000);
    assert_eq!(p.get(19_999).unwrap(), b"value");
}

#[test]
fn a_failed_flush_loses_nothing_and_undoes_the_append() {
    let p = buffer(100 << 10);
    let mut expected = vec![Vec::new(); 50];
    let (mut errors, mut appended) = (0, 0);
    for i in 0..4000_u32 {
        // Some fail at once, some in the middle of a flush of several batches.
        match i % 100 {
            50 => p.slow().fails.store(true, Ordering::SeqCst),
            70 => p.slow().writes_left.store(2, Ordering::SeqCst),
            0 => p.slow().fails.store(false, Ordering::SeqCst),
            _ => {}
        }
        let value = vec![i as u8; 97];
        let key = (i % 50) as usize;
        match p.append([(key, &value), ((key + 25) % 50, &value)]) {
            Ok(()) => {
                expected[key].extend_from_slice(&value);
                expected[(key + 25) % 50].extend_from_slice(&value);
                appended += 1;
            }
            Err(error) => {
                assert_eq!(error.to_string(), "the probe was told to fail");
                errors += 1;
            }
        }
        assert!(p.memory_bytes() <= p.limit_bytes());
    }
    assert!(errors > 100 && appended > 1000, "{errors} errors, {appended} appends");
    p.slow().fails.store(false, Ordering::SeqCst);
    p.slow().writes_left.store(0, Ordering::SeqCst);
    assert!(p.get_many(0..50).unwrap() == expected);
    p.flush().unwrap();
    assert!(p.slow().inner.get_many(0..50).unwrap() == expected);
}

#[test]
fn a_failed_pop_delete_or_set_changes_nothing() {
    let p = buffer(1 << 20);
    p.append([("a", "1"), ("b", "2")]).unwrap();
    p.flush().unwrap();
    p.append([("a", "+"), ("c", "3")]).unwrap();
    p.iset("d", "4").unwrap();
    p.slow().fails.store(true, Ordering::SeqCst);
    assert!(p.pop(["a", "c", "d"]).is_err());
    assert!(p.delete(["a", "c"]).is_err());
    assert!(p.iset("c", "set").is_err());
    assert!(p.clear().is_err());
    assert!(p.get("d").is_err());
    assert!(p.append_durable([("a", "lost")]).is_err());
    assert!(p.flush().is_err());
    p.slow().fails.store(false, Ordering::SeqCst);
    let values = p.pop(["a", "b", "c", "d"]).unwrap();
    assert_eq!(values, [&b"1+"[..], b"2", b"3", b"4"]);
}

/// A waiting rayon worker runs other tasks: if it held a lock, it could deadlock with itself.
#[test]
fn rayon_tasks_read_list_and_append_concurrently_without_a_deadlock() {
    let p = Buffer::new(Dict::new(), SegmentLog::temporary().unwrap(), 400 << 10);
    rayon::scope(|scope| {
        for task in 0..100_usize {
            let p = &p;
            scope.spawn(move |_| {
                p.append((0..20).map(|key| (key, vec![task as u8; 3000]))).unwrap();
                assert!(p.get_many(0..20).unwrap().iter().all(|value| !value.is_empty()));
                assert_eq!(p.keys().unwrap().len(), 20);
                let mut lent = 0;
                p.visit(&[Key::from(3)], &mut |values| {
                    lent = values[0].concat().len();
                    Ok(())
                })
                .unwrap();
                assert!(lent as u64 <= p.len_of(3).unwrap());
            });
        }
    });
    assert!(p.get_many(0..20).unwrap().iter().all(|value| value.len() == 300_000));
}

/// A pop holds the lock; all workers that its parallel part would need may be waiting for that
/// lock.
#[test]
fn a_pop_needs_no_rayon_worker_that_is_blocked_on_the_buffer() {
    let p = Buffer::new(Dict::new(), SegmentLog::temporary().unwrap(), 1 << 20);
    let done = AtomicBool::new(false);
    thread::scope(|scope| {
        scope.spawn(|| {
            rayon::scope(|tasks| {
                for _ in 0..rayon::current_num_threads() * 2 {
                    tasks.spawn(|_| {
                        while !done.load(Ordering::Acquire) {
                            p.append((0..20).map(|key| (key, vec![1; 6000]))).unwrap();
                        }
                    });
                }
            });
        });
        for _ in 0..30 {
            thread::sleep(Duration::from_millis(10));
            for value in p.pop(0..20).unwrap() {
                assert_eq!(value.len() % 6000, 0);
            }
        }
        done.store(true, Ordering::Release);
    });
}

#[test]
fn a_pop_whose_fast_half_fails_gives_the_slow_half_its_bytes_back() {
    let (fast, slow) = (Probe::default(), Dict::new());
    let p = Buffer::new(&fast, &slow, 2 << 30);
    p.append([("k", "old "), ("only slow", "s")]).unwrap();
    p.flush().unwrap();
    p.append([("k", "new")]).unwrap();
    fast.fails.store(true, Ordering::SeqCst);
    assert!(p.pop(["k", "only slow"]).is_err());
    fast.fails.store(false, Ordering::SeqCst);
    assert_eq!(p.get_many(["k", "only slow"]).unwrap(), [&b"old new"[..], b"s"]);
    assert_eq!(p.pop(["k", "only slow"]).unwrap(), [&b"old new"[..], b"s"]);
    assert_eq!(p.pop(["k", "only slow"]).unwrap(), [b"", b""]);
}
