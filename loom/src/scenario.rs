//! Two writers and a reader in each scenario, and what must hold of what they leave behind.
//!
//! The thread of the model is the reader. Writer 0 may die, and then has a successor or none.

use std::collections::BTreeSet;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};

use loom::model::Builder;
use loom::thread;

use crate::weaken::Weakness;
use crate::world::{History, Store, Writer};

/// Segments of writer 0, of writer 1, and of whoever comes later.
const FIRST: usize = 1;
const OTHER: usize = 2;
const SECOND: usize = 3;
const LAST: usize = 0;

/// What the writers do.
#[derive(Clone, Copy, Debug, Default)]
pub struct Scenario {
    /// Whether writer 0 appends once more, alive; it then uses its slot for another position.
    pub again: bool,
    /// The step before which writer 0 dies.
    pub dies_at: Option<u32>,
    /// Whether a new process takes the slot of the dead and appends, beside the others.
    pub succeeded: bool,
    /// The step before which writer 1 dies.
    pub other_dies_at: Option<u32>,
}

/// What an exploration has come to.
#[derive(Clone, Copy, Debug, Default)]
pub struct Explored {
    /// How many executions there are.
    pub executions: u64,
    /// In how many of them writer 0 died.
    pub died: u64,
    /// In how many of them writer 1 died.
    pub other_died: u64,
}

#[derive(Debug, Default)]
struct Counts {
    executions: AtomicU64,
    died: AtomicU64,
    other_died: AtomicU64,
}

impl Scenario {
    /// Explores every execution with at most so many preemptions.
    ///
    /// # Panics
    /// When the contract is broken, or an execution does not end.
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
                    // The lock of the slot orders the two owners, as one thread does here.
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
        let (first_lived, mut told) = first.join().expect("a death is no panic");
        told.extend(other.join().expect("a death is no panic"));
        let between = store.read();
        // What the dead have left is no obstacle to those who come later.
        let last = Writer::<PATIENCE>::new(store, 0, None);
        last.succeed(if first_lived || self.succeeded { SECOND } else { FIRST });
        told.insert(last.append(LAST), LAST);
        let after = store.read();
        for earlier in [&before, &between, &told] {
            let kept = earlier.iter().all(|(number, batch)| after.get(number) == Some(batch));
            assert!(kept, "what was read or acknowledged is not in the history");
        }
        let once: BTreeSet<usize> = after.values().copied().collect();
        assert_eq!(once.len(), after.len(), "a batch has two numbers");
    }
}
