//! One process on a simulated machine: where it stops, resumes or dies.

use std::sync::{Condvar, Mutex};

use crate::sim::faults::Faults;

#[derive(Debug)]
pub(super) struct Process {
    pub(super) number: u32,
    pub(super) gate: Mutex<Gate>,
    pub(super) moved: Condvar,
    pub(super) batch: Mutex<Option<usize>>,
    pub(super) faults: Mutex<Option<Faults>>,
    pub(super) sees: Sees,
}

/// What a process sees of its machine.
#[derive(Clone, Copy, Debug, Default)]
pub(super) enum Sees {
    #[default]
    TheMachine,
    /// Another boot id, as in some kinds of containers.
    BootId([u8; 16]),
    NoBootId,
    /// A disk on which no store may be created or opened, and the reason.
    Unfit(&'static str),
}

#[derive(Debug)]
pub(super) struct Gate {
    pub(super) steps: u64,
    pub(super) stop_at: Option<u64>,
    pub(super) fate: Fate,
}

/// The state of a process that was asked to stop.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Fate {
    Running,
    Stopped,
    Dead,
    /// The call in which it was to stop has returned.
    Finished,
}

/// The payload that unwinds a dead process's thread at the end.
#[derive(Debug)]
pub struct Killed;

impl Process {
    pub(super) fn new(number: u32, sees: Sees) -> Process {
        let gate = Gate { steps: 0, stop_at: None, fate: Fate::Running };
        Process {
            number,
            gate: Mutex::new(gate),
            moved: Condvar::new(),
            batch: Mutex::new(None),
            faults: Mutex::new(None),
            sees,
        }
    }
}
