//! Scenarios of two writers and a reader, and the checks of what they leave behind.
//!
//! The model's own thread is the reader. Writer 0 may die, with or without a successor.

use std::collections::BTreeSet;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};

use loom::model::Builder;
use loom::thread;

use crate::weaken::Weakness;
use crate::world::{History, Store, Writer};

/// The segments of writer 0, of writer 1, and of later writers.
const FIRST: usize = 1;
const OTHER: usize = 2;
const SECOND: usize = 3;
const LAST: usize = 0;

/// The actions of the writers.
#[derive(Clone, Copy, Debug, Default)]
pub struct Scenario {
    /// Whether writer 0 appends once more, if alive; it then uses its slot for another position.
    pub again: bool,
    /// The step before which writer 0 dies.
    pub dies_at: Option<u32>,
    /// Whether a new process takes the dead writer's slot and appends, concurrently with the
    /// others.
    pub succeeded: bool,
    /// The step before which writer 1 dies.
    pub other_dies_at: Option<u32>,
}

/// The figures of an exploration.
#[derive(Clone, Copy, Debug, Default)]
pub struct Explored {
    /// The number of executions.
    pub executions: u64,
    /// The number of executions in which writer 0 died.
    pub died: u64,
    /// The number of executions in which writer 1 died.
    pub other_died: u64,
}

#[derive(Debug, Default)]
struct Counts {
    executions: AtomicU64,
    died: AtomicU64,
    other_died: AtomicU64,
}

impl Scenario {
    /// Explores every execution with at most `preemptions` preemptions.
    ///
    /// # Panics
    /// Panics if the contract is broken, or if an execution does not end.
    pub fn explore<const PATIENCE: u32>(
        self,
        preemptions: usize,
        weakness: &Arc<Weakness>,
    ) -> Explored {
        let counts = Arc::new(Counts::default());
        let mut builder = Builder::new();
        builder.preemption_bound = Some(preemptions);
        let (weakness, shared) = (Arc::clone(weakness), Arc::clone(&counts));
        builder.check(move || {
            shared.executions.fetch_add(1, Relaxed);
            self.run::<PATIENCE>(&Store::new(&weakness), &shared);
        });
        Explored {
            executions: counts.executions.load(Relaxed),
            died: counts.died.load(Relaxed),
            other_died: counts.other_died.load(Relaxed),
        }
    }

    fn run<const PATIENCE: u32>(self, store: &Arc<Store>, counts: &Arc<Counts>) {
        let first = {
            let (store, counts) = (Arc::clone(store), Arc::clone(counts));
            thread::spawn(move || {
                let writer = Writer::<PATIENCE>::new(&store, 0, self.dies_at);
                let mut told = History::new();
                let lived = writer.live(|writer| {
                    told.insert(writer.append(FIRST), FIRST);
                    if self.again {
                        told.insert(writer.append(SECOND), SECOND);
                    }
                });
                if !lived {
                    counts.died.fetch_add(1, Relaxed);
                }
                if !lived && self.succeeded {
                    // The slot's lock orders the two owners, as one thread does here.
                    let successor = Writer::<PATIENCE>::new(&store, 0, None);
                    successor.succeed(FIRST);
                    told.insert(successor.append(SECOND), SECOND);
                }
                (lived, told)
            })
        };
        let other = {
            let (store, counts) = (Arc::clone(store), Arc::clone(counts));
            thread::spawn(move || {
                let writer = Writer::<PATIENCE>::new(&store, 1, self.other_dies_at);
                let mut told = History::new();
                let lived = writer.live(|writer| {
                    told.insert(writer.append(OTHER), OTHER);
                });
                if !lived {
                    counts.other_died.fetch_add(1, Relaxed);
                }
                told
            })
        };
        let before = store.read();
        let (first_lived, mut told) = first.join().expect("a death does not panic");
        told.extend(other.join().expect("a death does not panic"));
        let between = store.read();
        // The leftovers of the dead do not block later writers.
        let last = Writer::<PATIENCE>::new(store, 0, None);
        last.succeed(if first_lived || self.succeeded { SECOND } else { FIRST });
        told.insert(last.append(LAST), LAST);
        let after = store.read();
        for earlier in [&before, &between, &told] {
            let kept = earlier.iter().all(|(number, batch)| after.get(number) == Some(batch));
            assert!(kept, "a batch that was read or acknowledged is not in the history");
        }
        let once: BTreeSet<usize> = after.values().copied().collect();
        assert_eq!(once.len(), after.len(), "a batch has two numbers");
    }
}
