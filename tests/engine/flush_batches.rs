//! A large flush of a `Buffer` writes several batches at a time.

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::{Condvar, Mutex};
use std::thread;
use std::time::Duration;

use partd::{Batch, Buffer, Dict, Durability, Error, Key, Partd, Result};

/// A slow store whose writes wait for another one, and that refuses batches with a certain key.
#[derive(Default)]
struct Paired {
    inner: Dict,
    refused: Option<Key>,
    /// Whether it panics instead of returning an error.
    panics: bool,
    /// Writes that have not returned, and the largest number of them so far.
    under_way: Mutex<(usize, usize)>,
    changed: Condvar,
}

impl Partd for Paired {
    fn write(&self, batch: &Batch<'_>, durability: Durability) -> Result<()> {
        let mut under_way = self.under_way.lock().unwrap();
        under_way.0 += 1;
        under_way.1 = under_way.1.max(under_way.0);
        self.changed.notify_all();
        // The last write may be alone.
        let wait = Duration::from_millis(500);
        let (under_way, _) =
            self.changed.wait_timeout_while(under_way, wait, |(_, most)| *most < 2).unwrap();
        drop(under_way);
        let has = |key: &Key| batch.ops().iter().any(|op| op.key() == Some(key));
        let result = match self.refused.as_ref().is_some_and(has) {
            true => Err(Error::Invalid("the key is refused".to_owned())),
            false => self.inner.write(batch, durability),
        };
        self.under_way.lock().unwrap().0 -= 1;
        assert!(result.is_ok() || !self.panics, "the key is refused");
        result
    }
    fn read(&self, keys: &[Key]) -> Result<Vec<Vec<u8>>> {
        self.inner.read(keys)
    }
    fn take(&self, keys: &[Key]) -> Result<Vec<Vec<u8>>> {
        self.inner.take(keys)
    }
    fn lens(&self, keys: &[Key]) -> Result<Vec<Option<u64>>> {
        self.inner.lens(keys)
    }
    fn keys(&self) -> Result<Vec<Key>> {
        self.inner.keys()
    }
    fn sync(&self) -> Result<()> {
        Ok(())
    }
}

const PAIRED_KEYS: usize = 16;

fn fill_paired(p: &Buffer<Dict, Paired>) {
    for round in 0..2_u8 {
        p.append((0..PAIRED_KEYS).map(|key| (key, vec![round; 1 << 20]))).unwrap();
    }
}

fn has_all(p: &impl Partd) -> bool {
    let whole = [vec![0; 1 << 20], vec![1; 1 << 20]].concat();
    (0..PAIRED_KEYS).all(|key| p.get(key).unwrap() == whole)
}

#[test]
fn a_large_flush_writes_several_batches_at_a_time() {
    let p = Buffer::new(Dict::new(), Paired::default(), 256 << 20);
    fill_paired(&p);
    p.flush().unwrap();
    let several = thread::available_parallelism().is_ok_and(|cores| cores.get() > 1);
    assert_eq!(p.slow().under_way.lock().unwrap().1 > 1, several);
    assert!(has_all(p.slow()));
    let stats = p.stats();
    assert_eq!((stats.slow_bytes, stats.flushes), (32 << 20, 1));
    assert!(stats.slow_batches > 1);
}

/// Checks that the refused key, and every key that was not written, is in the buffer alone.
fn check_refused(p: &Buffer<Dict, Paired>, refused: &Key) {
    assert!(p.fast().contains(refused).unwrap());
    for key in (0..PAIRED_KEYS).map(Key::from) {
        let places = [p.fast().contains(&key).unwrap(), p.slow().contains(&key).unwrap()];
        assert_ne!(places[0], places[1], "{key:?} is in one store");
    }
    let written = p.slow().lens(&p.slow().keys().unwrap()).unwrap();
    assert_eq!(p.stats().slow_bytes, written.into_iter().flatten().sum::<u64>());
    assert!(has_all(p));
}

#[test]
fn a_batch_that_fails_beside_others_keeps_its_keys_buffered() {
    let refused = Key::from(7);
    let slow = Paired { refused: Some(refused.clone()), ..Paired::default() };
    let p = Buffer::new(Dict::new(), slow, 256 << 20);
    fill_paired(&p);
    assert!(p.flush().unwrap_err().to_string().contains("refused"));
    check_refused(&p, &refused);
}

#[test]
fn a_panic_in_one_of_several_batches_leaves_no_bytes_in_both_stores() {
    let refused = Key::from(7);
    let slow = Paired { refused: Some(refused.clone()), panics: true, ..Paired::default() };
    let p = Buffer::new(Dict::new(), slow, 256 << 20);
    fill_paired(&p);
    assert!(catch_unwind(AssertUnwindSafe(|| p.flush())).is_err());
    check_refused(&p, &refused);
    // The drop flushes once more.
    assert!(catch_unwind(AssertUnwindSafe(|| drop(p))).is_err());
}

#[test]
fn deferred_sets_count_for_the_length_of_a_batch() {
    let p = Buffer::new(Dict::new(), Paired::default(), 256 << 20);
    for key in 0..PAIRED_KEYS {
        p.iset(key, vec![1; 2 << 20]).unwrap();
    }
    p.flush().unwrap();
    assert!(p.stats().slow_batches > 1, "{:?}", p.stats());
    assert!((0..PAIRED_KEYS).all(|key| p.get(key).unwrap() == vec![1; 2 << 20]));
}
