//! What tests do to a process and its calls: stop it, resume it, kill it, fail a call of it.

use std::io;
use std::panic::resume_unwind;
use std::path::Path;
use std::sync::PoisonError;
use std::sync::atomic::Ordering::Relaxed;

use super::inode::Failures;
use super::lock;
use super::machine::SimDisk;
use super::process::{Fate, Gate, Killed};
use super::record::Event;
use crate::sim::faults::{Call, Faults, Meanwhile};

impl SimDisk {
    /// Stops this process right after its `at`th operation from now on, counted from 1.
    pub fn stop_at(&self, at: u64) {
        let mut gate = lock(&self.process.gate);
        *gate = Gate { steps: 0, stop_at: Some(at), fate: Fate::Running };
    }

    /// Records that the call that was to be stopped has returned.
    pub fn finished(&self) {
        let mut gate = lock(&self.process.gate);
        gate.stop_at = None;
        gate.fate = Fate::Finished;
        self.process.moved.notify_all();
    }

    /// Waits until the process has stopped, or its call has returned.
    pub fn wait(&self) -> Fate {
        let mut gate = lock(&self.process.gate);
        while gate.fate == Fate::Running {
            gate = self.process.moved.wait(gate).unwrap_or_else(PoisonError::into_inner);
        }
        gate.fate
    }

    /// Resumes a stopped process.
    pub fn resume(&self) {
        let mut gate = lock(&self.process.gate);
        if gate.fate == Fate::Stopped {
            gate.stop_at = None;
            gate.fate = Fate::Running;
            self.process.moved.notify_all();
        }
    }

    /// Resumes a stopped process until its `at`th operation from now on.
    pub fn go_on_until(&self, at: u64) {
        self.stop_at(at);
        self.process.moved.notify_all();
    }

    /// Releases the locks of a killed process, which never resumes.
    pub fn kill(&self) {
        let mut state = lock(&self.shared.state);
        state.locks.retain(|held| held.process != self.process.number);
        state.open.retain(|(_, process)| *process != self.process.number);
    }

    /// Ends the thread of a killed process. Its unwinding still stores to mappings, so call this
    /// only after the last check of the disk.
    pub fn bury(&self) {
        let mut gate = lock(&self.process.gate);
        gate.fate = Fate::Dead;
        self.process.moved.notify_all();
    }

    /// Ends an operation; a process can be stopped here.
    pub(super) fn step(&self) {
        let mut gate = lock(&self.process.gate);
        gate.steps += 1;
        if gate.stop_at == Some(gate.steps) && !std::thread::panicking() {
            gate.fate = Fate::Stopped;
            self.process.moved.notify_all();
            while gate.fate == Fate::Stopped {
                gate = self.process.moved.wait(gate).unwrap_or_else(PoisonError::into_inner);
            }
            if gate.fate == Fate::Dead {
                drop(gate);
                resume_unwind(Box::new(Killed));
            }
        }
    }

    /// Records the fallible calls of this process from now on, and fails one of them if asked to.
    pub fn watch(&self, fails: Option<(usize, i32)>) {
        *lock(&self.process.faults) = Some(Faults { fails, ..Faults::default() });
    }

    /// Records the calls, and fails all from number `at` on.
    pub fn fail_for_good(&self, at: usize, error: i32) {
        let for_good = Some((at, error));
        *lock(&self.process.faults) = Some(Faults { for_good, ..Faults::default() });
    }

    /// Records the calls, and fails the first of a kind.
    pub fn fail_first(&self, call: Call, error: i32) {
        let first = Some((call, error));
        *lock(&self.process.faults) = Some(Faults { first, ..Faults::default() });
    }

    /// Records the calls, and runs `meanwhile` before one of them.
    pub fn interrupt(&self, at: usize, meanwhile: impl FnOnce() + Send + 'static) {
        let late = Some((at, Meanwhile(Box::new(meanwhile))));
        *lock(&self.process.faults) = Some(Faults { late, ..Faults::default() });
    }

    /// Stops recording, and returns the recorded calls.
    pub fn watched(&self) -> Vec<Call> {
        lock(&self.process.faults).take().map_or_else(Vec::new, |faults| faults.made)
    }

    /// Fails the next reservation of disk space for stores, as a full copy-on-write disk does.
    pub fn fail_next_reserve(&self) {
        self.shared.next_reserve_fails.store(true, Relaxed);
    }

    /// Fails a writeback by the kernel, outside of any sync.
    pub fn fail_writeback(&self, path: &Path) {
        let inode = lock(&self.shared.state).names.get(path).cloned().expect("a file");
        let mut failures = lock(&inode.failures);
        *failures = Failures { count: failures.count + 1, was_told: false };
        drop(failures);
        self.record(Event::SyncFailed { inode: inode.number });
    }

    /// Runs a call that can fail.
    pub(super) fn fallible(&self, call: Call) -> io::Result<()> {
        let meanwhile = lock(&self.process.faults).as_mut().and_then(Faults::meanwhile);
        if let Some(Meanwhile(happens)) = meanwhile {
            happens();
        }
        lock(&self.process.faults).as_mut().map_or(Ok(()), |faults| faults.pass(call))
    }
}
