//! A buffer with a memory budget never holds more than it reserved, and gives back what it frees.

use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Barrier};
use std::thread;

use partd::{
    Batch, Buffer, Dict, Durability, Error, FixedBudget, Key, MemoryBudget, Partd, Result,
};

/// A budget that counts what it has granted and can be set to refuse.
#[derive(Default)]
struct Account {
    refuses: AtomicBool,
    granted: AtomicU64,
    calls: AtomicU64,
}

impl Account {
    fn granted(&self) -> u64 {
        self.granted.load(Ordering::SeqCst)
    }
}

impl MemoryBudget for Account {
    fn try_grow(&self, bytes: u64) -> bool {
        self.calls.fetch_add(1, Ordering::SeqCst);
        let grows = !self.refuses.load(Ordering::SeqCst);
        if grows {
            self.granted.fetch_add(bytes, Ordering::SeqCst);
        }
        grows
    }

    fn shrink(&self, bytes: u64) {
        let before = self.granted.fetch_sub(bytes, Ordering::SeqCst);
        assert!(before >= bytes, "more is given back than was granted");
    }
}

fn buffer(limit_bytes: u64) -> (Buffer<Dict, Dict>, Arc<Account>) {
    let account = Arc::new(Account::default());
    (Buffer::with_budget(Dict::new(), Dict::new(), limit_bytes, Arc::clone(&account)), account)
}

#[test]
fn a_buffer_holds_at_most_what_its_budget_granted_and_asks_for_it_in_steps() {
    let (p, account) = buffer(64 << 20);
    let empty = p.memory_bytes();
    for i in 0..20_000_u64 {
        p.append([(i % 300, [7; 1000])]).unwrap();
        assert!(p.memory_bytes() <= account.granted());
    }
    assert!(p.memory_bytes() > 20_000_000 + empty);
    assert!(account.granted() < 40_000_000, "{} bytes are reserved", account.granted());
    let calls = account.calls.load(Ordering::SeqCst);
    assert!(calls < 100, "the budget was asked {calls} times");
    assert_eq!(p.stats().flushes, 0);
}

#[test]
fn a_refused_buffer_moves_its_largest_values_and_loses_nothing() {
    let (p, account) = buffer(64 << 20);
    p.append([("large", vec![1; 3_000_000])]).unwrap();
    p.append((0..1000).map(|i| (i, [2; 100]))).unwrap();
    account.refuses.store(true, Ordering::SeqCst);
    let mut expected = vec![1; 3_000_000];
    for i in 0..5_000_u64 {
        p.append([("large", vec![i as u8; 1000])]).unwrap();
        expected.extend(vec![i as u8; 1000]);
        assert!(p.memory_bytes() <= account.granted());
    }
    assert!(p.stats().flushes > 0);
    assert_eq!(p.get("large").unwrap(), expected);
    assert_eq!(p.get(7).unwrap(), [2; 100]);
    assert!(p.slow().len_of("large").unwrap() > 3_000_000);
    assert_eq!(p.slow().len_of(7).unwrap(), 0, "small values stay in memory");
}

#[test]
fn a_buffer_whose_budget_grants_nothing_writes_straight_through() {
    let (p, account) = buffer(64 << 20);
    account.refuses.store(true, Ordering::SeqCst);
    p.append([("a", "1"), ("b", "2")]).unwrap();
    p.iset("a", "0").unwrap();
    p.append([("a", "3")]).unwrap();
    assert_eq!(p.slow().get("a").unwrap(), b"03");
    assert_eq!(p.get_many(["a", "b"]).unwrap(), [&b"03"[..], b"2"]);
    assert_eq!(account.granted(), 0);
}

#[test]
fn flush_shrink_pop_clear_and_drop_give_the_memory_back() {
    let (p, account) = buffer(256 << 20);
    let fill = || p.append((0..100).map(|i| (i, vec![3; 200_000]))).unwrap();
    fill();
    assert!(account.granted() >= 20_000_000);
    p.shrink_to(10_000_000).unwrap();
    assert!(p.memory_bytes() <= 10_000_000);
    assert_eq!(account.granted(), p.memory_bytes());
    p.flush().unwrap();
    assert!(account.granted() < 100_000, "{} bytes after a flush", account.granted());

    fill();
    let values = p.pop(0..100).unwrap();
    assert!(values.iter().all(|value| value.len() == 400_000));
    let left = account.granted();
    assert!(left < 5_000_000, "{left} bytes after a pop");

    fill();
    p.clear().unwrap();
    assert!(account.granted() < 5_000_000, "{} bytes after a clear", account.granted());

    fill();
    p.write(Batch::new().append("k", b"v"), Durability::Durable).unwrap();
    assert!(account.granted() < 5_000_000, "{} bytes after a durable append", account.granted());

    fill();
    drop(p);
    assert_eq!(account.granted(), 0);
}

#[test]
fn threads_and_buffers_that_share_a_budget_stay_within_it_and_lose_nothing() {
    const LIMIT: u64 = 4 << 20;
    let budget = Arc::new(FixedBudget::new(LIMIT));
    let buffers: Vec<Buffer<Dict, Dict>> = (0..3)
        .map(|_| Buffer::with_budget(Dict::new(), Dict::new(), LIMIT, Arc::clone(&budget)))
        .collect();
    thread::scope(|scope| {
        for (i, p) in buffers.iter().enumerate() {
            for thread in 0..2 {
                let budget = &budget;
                scope.spawn(move || {
                    for j in 0..3000_u64 {
                        p.append([((thread, j % 17), vec![i as u8; 500])]).unwrap();
                        assert!(budget.used_bytes() <= LIMIT);
                    }
                });
            }
        }
    });
    for (i, p) in buffers.iter().enumerate() {
        let keys = p.keys().unwrap();
        assert_eq!(keys.len(), 34);
        let bytes = p.get_many(&keys).unwrap().concat();
        assert_eq!(bytes, vec![i as u8; 2 * 3000 * 500]);
    }
    drop(buffers);
    assert_eq!(budget.used_bytes(), 0);
}

/// A slow store that fails every write and every take while it is told to.
#[derive(Default)]
struct Failing {
    inner: Dict,
    works: AtomicBool,
}

impl Failing {
    fn check(&self) -> Result<()> {
        match self.works.load(Ordering::SeqCst) {
            true => Ok(()),
            false => Err(Error::Invalid("the store was told to fail".to_owned())),
        }
    }
}

impl Partd for Failing {
    fn write(&self, batch: &Batch<'_>, durability: Durability) -> Result<()> {
        self.check()?;
        self.inner.write(batch, durability)
    }
    fn read(&self, keys: &[Key]) -> Result<Vec<Vec<u8>>> {
        self.inner.read(keys)
    }
    fn take(&self, keys: &[Key]) -> Result<Vec<Vec<u8>>> {
        self.check()?;
        self.inner.take(keys)
    }
    fn lens(&self, keys: &[Key]) -> Result<Vec<Option<u64>>> {
        self.inner.lens(keys)
    }
    fn keys(&self) -> Result<Vec<Key>> {
        self.inner.keys()
    }
    fn sync(&self) -> Result<()> {
        self.check()
    }
}

#[test]
fn a_batch_that_fails_in_the_slow_store_leaves_nothing_reserved() {
    const LIMIT: u64 = 1 << 20;
    let account = Arc::new(Account::default());
    let p = Buffer::with_budget(Dict::new(), Failing::default(), LIMIT, Arc::clone(&account));
    let spare = |p: &Buffer<Dict, Failing>| account.granted() - p.memory_bytes();
    p.append([("k", vec![1; 2 << 20])]).unwrap_err();
    assert_eq!(account.granted(), 0, "more than the limit");
    p.append([("k", vec![1; 400 << 10])]).unwrap();
    let held = p.memory_bytes();
    p.append([("other", vec![1; 500 << 10]), ("k", vec![1; 200 << 10])]).unwrap_err();
    assert!(spare(&p) <= 16 << 10, "{} bytes to spare after a failed write", spare(&p));
    p.write(Batch::new().append("k", b"v"), Durability::Durable).unwrap_err();
    assert_eq!((p.memory_bytes(), spare(&p)), (held, 0));
    p.pop(["k"]).unwrap_err();
    assert_eq!((p.memory_bytes(), spare(&p)), (held, 0));
    p.slow().works.store(true, Ordering::SeqCst);
    assert_eq!(p.pop(["k"]).unwrap(), [vec![1; 400 << 10]]);
}

#[test]
fn a_batch_larger_than_the_limit_reserves_nothing_while_it_is_written_through() {
    /// A slow store that records how much is reserved during a write.
    struct Watching(Arc<Account>, AtomicU64);
    impl Partd for Watching {
        fn write(&self, _: &Batch<'_>, _: Durability) -> Result<()> {
            self.1.store(self.0.granted(), Ordering::SeqCst);
            Ok(())
        }
        fn read(&self, keys: &[Key]) -> Result<Vec<Vec<u8>>> {
            Ok(vec![Vec::new(); keys.len()])
        }
        fn take(&self, keys: &[Key]) -> Result<Vec<Vec<u8>>> {
            self.read(keys)
        }
        fn lens(&self, keys: &[Key]) -> Result<Vec<Option<u64>>> {
            Ok(vec![None; keys.len()])
        }
        fn keys(&self) -> Result<Vec<Key>> {
            Ok(Vec::new())
        }
        fn sync(&self) -> Result<()> {
            Ok(())
        }
    }
    let account = Arc::new(Account::default());
    let slow = Watching(Arc::clone(&account), AtomicU64::new(u64::MAX));
    let p = Buffer::with_budget(Dict::new(), slow, 1 << 20, Arc::clone(&account));
    p.append([("k", vec![1; 2 << 20])]).unwrap();
    assert_eq!(p.slow().1.load(Ordering::SeqCst), 0);
}

#[test]
fn threads_that_grow_at_the_same_time_reserve_at_most_the_limit() {
    /// A budget whose first two calls meet, so that both threads have seen the same room.
    struct Meeting {
        account: Account,
        barrier: Barrier,
    }
    impl MemoryBudget for Meeting {
        fn try_grow(&self, bytes: u64) -> bool {
            let grows = self.account.try_grow(bytes);
            if self.account.calls.load(Ordering::SeqCst) <= 2 {
                self.barrier.wait();
            }
            grows
        }
        fn shrink(&self, bytes: u64) {
            self.account.shrink(bytes);
        }
    }
    const LIMIT: u64 = 1 << 20;
    let budget = Arc::new(Meeting { account: Account::default(), barrier: Barrier::new(2) });
    let p = Buffer::with_budget(Dict::new(), Dict::new(), LIMIT, Arc::clone(&budget));
    thread::scope(|scope| {
        for key in ["a", "b"] {
            let p = &p;
            scope.spawn(move || p.append([(key, vec![1; 450 << 10])]).unwrap());
        }
    });
    assert!(budget.account.granted() <= LIMIT, "{} are reserved", budget.account.granted());
    assert!(p.memory_bytes() <= budget.account.granted());
    assert_eq!(p.get_many(["a", "b"]).unwrap(), [vec![1; 450 << 10], vec![1; 450 << 10]]);
    drop(p);
    assert_eq!(budget.account.granted(), 0);
}

#[test]
fn a_store_that_is_full_when_the_buffer_is_created_is_reserved_or_moved() {
    let full = || {
        let fast = Dict::new();
        fast.append((0..100).map(|i| (i, [7; 10_000]))).unwrap();
        fast
    };
    let account = Arc::new(Account::default());
    let p = Buffer::with_budget(full(), Dict::new(), 4 << 20, Arc::clone(&account));
    assert!(p.memory_bytes() >= 1_000_000 && account.granted() >= p.memory_bytes());
    drop(p);
    assert_eq!(account.granted(), 0);

    account.refuses.store(true, Ordering::SeqCst);
    let p = Buffer::with_budget(full(), Dict::new(), 4 << 20, Arc::clone(&account));
    assert_eq!((p.memory_bytes(), account.granted()), (0, 0));
    assert_eq!(p.slow().len_of(99).unwrap(), 10_000);

    account.refuses.store(false, Ordering::SeqCst);
    let p = Buffer::with_budget(full(), Dict::new(), 400_000, Arc::clone(&account));
    assert!(p.memory_bytes() <= account.granted() && account.granted() <= 400_000);
    assert_eq!(p.get(7).unwrap(), [7; 10_000]);
}

#[test]
fn a_fixed_budget_does_not_wrap_around_if_too_much_is_given_back() {
    let budget = FixedBudget::new(100);
    assert!(budget.try_grow(60));
    budget.shrink(70);
    assert_eq!(budget.used_bytes(), 0);
    assert!(budget.try_grow(100) && !budget.try_grow(1));
}
