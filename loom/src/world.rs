//! A store on loom's atomics: the words of the control file and of the segments, and the bytes.
//!
//! Bytes are relaxed atomics, so that an unsynchronized reader can see old ones. Each operation of
//! a writer is a step; a writer dies before the chosen step by unwinding.

use std::cell::Cell;
use std::collections::BTreeMap;
use std::panic::{AssertUnwindSafe, Location, catch_unwind, resume_unwind};
use std::sync::Arc;

use loom::sync::atomic::AtomicU64;
use loom::sync::atomic::Ordering::{self, AcqRel, Acquire, Relaxed, Release};
use partd::log::shared::commit::{Commit, Position, Word, Words, commit, take_over};

use crate::weaken::Weakness;

/// The state word of a void batch.
const VOID: u64 = u64::MAX;
/// The number of words of bytes in a batch.
const BYTES: usize = 2;
/// The number of segments in the store.
const SEGMENTS: usize = 4;

/// A store.
#[derive(Debug)]
pub struct Store {
    commit: AtomicU64,
    /// The segment and the offset of the batch that a slot is committing.
    slots: [[AtomicU64; 2]; 2],
    segments: [Segment; SEGMENTS],
    /// The last number acknowledged to the owner of a slot, stored after everything else.
    acknowledged: [AtomicU64; 2],
    weakness: Arc<Weakness>,
}

/// A segment with room for one batch. The offset of the batch depends on the segment's number, so
/// that a mixture of two positions points to free space.
#[derive(Debug)]
struct Segment {
    link: AtomicU64,
    state: AtomicU64,
    bytes: [AtomicU64; BYTES],
}

/// The position of the only batch of a segment.
fn position(segment: usize) -> Position {
    Position { segment: segment as u64, offset: 16 * segment as u64 + 8 }
}

fn bytes_of(segment: usize, i: usize) -> u64 {
    (segment as u64 + 1) << 8 | (i as u64 + 1)
}

/// The batches by their sequence numbers.
pub type History = BTreeMap<u64, usize>;

impl Store {
    /// An empty store.
    pub fn new(weakness: &Arc<Weakness>) -> Arc<Store> {
        let word = || AtomicU64::new(0);
        let start = Commit { sequence: 0, slot: 0, done: true };
        Arc::new(Store {
            commit: AtomicU64::new(start.encode()),
            slots: std::array::from_fn(|_| [word(), word()]),
            segments: std::array::from_fn(|_| Segment {
                link: word(),
                state: word(),
                bytes: std::array::from_fn(|_| word()),
            }),
            acknowledged: [word(), word()],
            weakness: Arc::clone(weakness),
        })
    }

    #[track_caller]
    fn load(&self, word: &AtomicU64, order: Ordering) -> u64 {
        word.load(self.weakness.order(Location::caller(), order))
    }

    /// Reads the store as a reader does, and checks it against the contract.
    ///
    /// # Panics
    /// Panics if the contract is broken.
    pub fn read(&self) -> History {
        // Everything acknowledged before the read began must be in it. How the reader learned of it
        // is not part of the protocol, so these loads are never weakened.
        let acknowledged = self.acknowledged.each_ref().map(|word| word.load(Acquire));
        let commit = self.load(&self.commit, Acquire);
        let visible = Commit::decode(commit).visible();
        let mut history = History::new();
        for (number, segment) in self.segments.iter().enumerate() {
            let link = self.load(&segment.link, Acquire);
            if link == 0 {
                continue;
            }
            let state = self.load(&segment.state, Acquire);
            if state == 0 || state == VOID || state > visible {
                continue;
            }
            for (i, bytes) in segment.bytes.iter().enumerate() {
                let bytes = bytes.load(Relaxed);
                assert_eq!(bytes, bytes_of(number, i), "batch {state} is not whole");
            }
            let other = history.insert(state, number);
            assert_eq!(other, None, "number {state} names two batches");
        }
        let numbers: Vec<u64> = history.keys().copied().collect();
        let dense: Vec<u64> = (1..=visible).collect();
        assert_eq!(numbers, dense, "the history has a hole");
        for sequence in acknowledged {
            assert!(sequence <= visible, "acknowledged batch {sequence} is not visible");
        }
        history
    }
}

/// A writing process. `PATIENCE` is how long it waits for others before it helps.
#[derive(Debug)]
pub struct Writer<'s, const PATIENCE: u32> {
    store: &'s Store,
    slot: u16,
    /// The number of steps until it dies.
    left: Cell<Option<u32>>,
    /// The commit word as last loaded.
    commit_seen: Cell<u64>,
}

/// The payload with which a dying writer unwinds.
struct Death;

impl<'s, const PATIENCE: u32> Writer<'s, PATIENCE> {
    /// A writer that owns a slot and dies before step `dies_at`, if any.
    pub fn new(store: &'s Store, slot: u16, dies_at: Option<u32>) -> Self {
        Writer { store, slot, left: Cell::new(dies_at), commit_seen: Cell::new(0) }
    }

    /// Runs the writer's work; false if it died.
    pub fn live(&self, work: impl FnOnce(&Self)) -> bool {
        match catch_unwind(AssertUnwindSafe(|| work(self))) {
            Ok(()) => true,
            Err(reason) if reason.is::<Death>() => false,
            Err(reason) => resume_unwind(reason),
        }
    }

    fn step(&self) {
        match self.left.get() {
            Some(0) => resume_unwind(Box::new(Death)),
            left => self.left.set(left.map(|left| left - 1)),
        }
    }

    fn word<'a>(&'a self, role: Role, atomic: &'a AtomicU64) -> WriterWord<'a, PATIENCE> {
        WriterWord { writer: self, role, atomic }
    }

    /// Claims the batch of a segment, copies, commits, and acknowledges the number that it returns.
    pub fn append(&self, segment: usize) -> u64 {
        let batch = &self.store.segments[segment];
        let link = self.word(Role::Other, &batch.link);
        link.store(1, Release);
        for (i, bytes) in batch.bytes.iter().enumerate() {
            self.step();
            bytes.store(bytes_of(segment, i), Relaxed);
        }
        let sequence = commit(self, self.slot, position(segment)).expect("helping reaches all");
        self.step();
        self.store.acknowledged[usize::from(self.slot)].store(sequence, Release);
        sequence
    }

    /// Starts as the next owner of the slot; its predecessor died with `segment`.
    pub fn succeed(&self, segment: usize) {
        if !self.store.weakness.no_take_over {
            take_over(self, self.slot).expect("helping reaches all");
        }
        let batch = &self.store.segments[segment];
        let link = self.word(Role::Other, &batch.link);
        let state = self.word(Role::Other, &batch.state);
        if link.load(Acquire) != 0 && state.load(Acquire) == 0 {
            let _ = state.compare_exchange(0, VOID, AcqRel, Acquire);
        }
    }
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Role {
    Commit,
    Other,
}

/// A word as a writer sees it.
#[derive(Debug)]
pub struct WriterWord<'a, const PATIENCE: u32> {
    writer: &'a Writer<'a, PATIENCE>,
    role: Role,
    atomic: &'a AtomicU64,
}

impl<const PATIENCE: u32> Word for WriterWord<'_, PATIENCE> {
    #[track_caller]
    fn load(&self, order: Ordering) -> u64 {
        let at = Location::caller();
        let weakness = &self.writer.store.weakness;
        if self.role == Role::Commit && weakness.no_second_look && is_second_look(at) {
            return self.writer.commit_seen.get();
        }
        self.writer.step();
        let value = self.atomic.load(weakness.order(at, order));
        if self.role == Role::Commit {
            self.writer.commit_seen.set(value);
        }
        value
    }

    #[track_caller]
    fn store(&self, value: u64, order: Ordering) {
        let order = self.writer.store.weakness.order(Location::caller(), order);
        self.writer.step();
        self.atomic.store(value, order);
    }

    #[track_caller]
    fn compare_exchange(
        &self,
        current: u64,
        new: u64,
        success: Ordering,
        failure: Ordering,
    ) -> Result<u64, u64> {
        let weakness = &self.writer.store.weakness;
        let (success, failure) = weakness.orders(Location::caller(), success, failure);
        self.writer.step();
        self.atomic.compare_exchange(current, new, success, failure)
    }
}

/// Whether a load is the one in `help` that compares the commit word with its earlier value.
fn is_second_look(at: &'static Location<'static>) -> bool {
    let mut lines = include_str!("../../src/log/shared/commit.rs").lines();
    at.file().ends_with("commit.rs")
        && lines.nth(at.line() as usize - 1).is_some_and(|line| line.contains("!= seen"))
}

impl<const PATIENCE: u32> Words for Writer<'_, PATIENCE> {
    type Word<'a>
        = WriterWord<'a, PATIENCE>
    where
        Self: 'a;
    type Error = Position;
    const PATIENCE: u32 = PATIENCE;

    fn commit(&self) -> WriterWord<'_, PATIENCE> {
        self.word(Role::Commit, &self.store.commit)
    }

    fn position(&self, slot: u16) -> (WriterWord<'_, PATIENCE>, WriterWord<'_, PATIENCE>) {
        let [segment, offset] = &self.store.slots[usize::from(slot)];
        (self.word(Role::Other, segment), self.word(Role::Other, offset))
    }

    fn mark_committed(&self, place: Position, sequence: u64) -> Result<(), Position> {
        let Some(batch) = self.store.segments.get(place.segment as usize) else {
            return Err(place);
        };
        let link = self.word(Role::Other, &batch.link);
        if place != position(place.segment as usize) || link.load(Acquire) == 0 {
            return Err(place);
        }
        let state = self.word(Role::Other, &batch.state);
        let _ = state.compare_exchange(0, sequence, AcqRel, Acquire);
        Ok(())
    }

    fn relax(&self) {
        loom::thread::yield_now();
    }
}
