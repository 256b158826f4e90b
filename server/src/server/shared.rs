//! The state that the connections of a server share.

use std::collections::HashMap;
use std::path::PathBuf;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError, RwLock};
use std::time::{Duration, Instant};

use partd::{Durability, Op, Partd, Result};

use super::budget::Budget;
use super::records::{Records, removes_records};
use super::sessions::Sessions;
use super::stats::{MemoryGauge, Stats, Status};
use crate::limits::Limits;
use crate::net::socket::{Socket, end, end_input};

/// The most warnings to log in one second. A client must not be able to fill the disk with log
/// messages.
const WARNINGS_PER_SECOND: u64 = 20;

/// The state that all connections share.
pub(crate) struct Shared {
    pub(crate) store: Arc<dyn Partd>,
    memory: MemoryGauge,
    pub(crate) limits: Limits,
    pub(crate) spool: PathBuf,
    pub(crate) budget: Arc<Budget>,
    pub(crate) stats: Stats,
    pub(crate) sessions: Sessions,
    pub(crate) records: Records,
    /// A durable write with a record holds this lock shared. A batch that removes the records holds
    /// it exclusively, because it must write all of them again.
    pub(crate) clearing: RwLock<()>,
    connections: Mutex<HashMap<u64, Socket>>,
    /// Notified when a connection has ended.
    changed: Condvar,
    /// Whether a client or the owner has asked the server to stop.
    ending: Mutex<bool>,
    end_asked: Condvar,
    warnings: AtomicU64,
}

impl std::fmt::Debug for Shared {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Shared").field("limits", &self.limits).finish_non_exhaustive()
    }
}

impl Shared {
    pub(crate) fn new(
        store: Arc<dyn Partd>,
        memory: MemoryGauge,
        limits: Limits,
        spool: PathBuf,
        run: u64,
    ) -> Result<Shared> {
        let records = Records::read(&*store)?;
        Ok(Shared {
            budget: Budget::new(limits.in_flight_bytes),
            store,
            memory,
            limits,
            spool,
            stats: Stats::new(run),
            sessions: Sessions::default(),
            records,
            clearing: RwLock::new(()),
            connections: Mutex::default(),
            changed: Condvar::new(),
            ending: Mutex::new(false),
            end_asked: Condvar::new(),
            warnings: AtomicU64::new(0),
        })
    }

    fn connections(&self) -> MutexGuard<'_, HashMap<u64, Socket>> {
        self.connections.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn ending(&self) -> MutexGuard<'_, bool> {
        self.ending.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Registers a connection. Returns `false` if the limit is reached.
    pub(crate) fn enter(&self, number: u64, socket: &Socket) -> bool {
        let mut connections = self.connections();
        if connections.len() >= self.limits.connections {
            return false;
        }
        connections.insert(number, socket.share());
        self.stats.connections.store(connections.len() as u64, Ordering::Relaxed);
        true
    }

    /// Removes a connection that has ended.
    pub(crate) fn exit(&self, number: u64) {
        let mut connections = self.connections();
        connections.remove(&number);
        self.stats.connections.store(connections.len() as u64, Ordering::Relaxed);
        drop(connections);
        self.changed.notify_all();
    }

    /// Asks the server to stop.
    pub(crate) fn ask_end(&self) {
        *self.ending() = true;
        self.end_asked.notify_all();
    }

    pub(crate) fn is_ending(&self) -> bool {
        *self.ending()
    }

    /// Waits until a client or the owner asks the server to stop.
    pub(crate) fn wait_for_end(&self) {
        let mut ending = self.ending();
        while !*ending {
            ending = self.end_asked.wait(ending).unwrap_or_else(PoisonError::into_inner);
        }
    }

    /// Ends all connections. Each finishes the requests that have arrived, within the grace period.
    pub(crate) fn end_connections(&self) {
        self.connections().values().for_each(|socket| end_input(socket.fd()));
        if !self.wait_for_connections(self.limits.grace) {
            let left = self.connections().len();
            tracing::warn!(connections = left, "closing connections that did not finish in time");
            self.connections().values().for_each(|socket| end(socket.fd()));
            // Long enough for connections that only wait for their client. It does not help if the
            // store is stuck.
            self.wait_for_connections(Duration::from_secs(2));
        }
    }

    fn wait_for_connections(&self, time: Duration) -> bool {
        let deadline = Instant::now() + time;
        let mut connections = self.connections();
        while !connections.is_empty() {
            let left = deadline.saturating_duration_since(Instant::now());
            if left.is_zero() {
                return false;
            }
            let waited = self.changed.wait_timeout(connections, left);
            connections = waited.unwrap_or_else(PoisonError::into_inner).0;
        }
        true
    }

    /// Counts a warning, and returns whether it may still be logged in this second.
    pub(crate) fn may_warn(&self) -> bool {
        self.warnings.fetch_add(1, Ordering::Relaxed) < WARNINGS_PER_SECOND
    }

    /// Updates the rates, forgets old sessions, frees memory that was kept and resets the count of
    /// warnings. Called once a second.
    pub(crate) fn tick(&self) {
        self.stats.tick();
        self.budget.tick();
        self.sessions.tick();
        let warnings = self.warnings.swap(0, Ordering::Relaxed);
        if let Some(left_out @ 1..) = warnings.checked_sub(WARNINGS_PER_SECOND) {
            tracing::warn!(left_out, "further warnings about connections were not logged");
        }
    }

    pub(crate) fn status(&self) -> Status {
        let mut status = self.stats.status();
        status.buffer_bytes = self.memory.bytes();
        status.in_flight_bytes = self.budget.held();
        if self.is_ending() {
            "stopping".clone_into(&mut status.health);
        }
        status
    }

    /// Writes a batch without a record. A batch that would remove the records also writes
    /// all of them again.
    pub(crate) fn write(&self, ops: Vec<Op<'_>>, durability: Durability) -> Result<()> {
        let is_clearing = ops.iter().any(removes_records);
        if !is_clearing {
            return self.store.write(&batch_of(ops), durability);
        }
        let _alone = self.clearing.write().unwrap_or_else(PoisonError::into_inner);
        let records = self.records.all();
        let mut ops = ops;
        ops.extend(records.iter().map(|(key, record)| Op::Append(key.clone(), record)));
        self.store.write(&batch_of(ops), durability)
    }
}

/// Makes a batch of the operations.
pub(crate) fn batch_of(ops: Vec<Op<'_>>) -> partd::Batch<'_> {
    let mut batch = partd::Batch::with_capacity(ops.len());
    for op in ops {
        batch.push(op);
    }
    batch
}
