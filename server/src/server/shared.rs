//! What the connections of a server share.

use std::collections::HashMap;
use std::path::PathBuf;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError, RwLock};
use std::time::{Duration, Instant};

use partd::{Durability, Op, Partd, Result};

use super::budget::Budget;
use super::records::Records;
use super::sessions::Sessions;
use super::stats::{MemoryGauge, Stats, Status};
use crate::limits::Limits;
use crate::net::socket::{Socket, end, end_input};

/// Warnings in one second; a client that causes more of them must not fill the disk with its log.
const WARNINGS_PER_SECOND: u64 = 20;

/// What the connections share.
pub(crate) struct Shared {
    pub(crate) store: Arc<dyn Partd>,
    memory: MemoryGauge,
    pub(crate) limits: Limits,
    pub(crate) spool: PathBuf,
    pub(crate) budget: Arc<Budget>,
    pub(crate) stats: Stats,
    pub(crate) sessions: Sessions,
    pub(crate) records: Records,
    /// Held shared by durable writes that write a record, alone by batches that remove every key,
    /// which write all records again.
    pub(crate) clearing: RwLock<()>,
    connections: Mutex<HashMap<u64, Socket>>,
    /// A connection has ended, or the server is to end.
    changed: Condvar,
    /// Whether a client or the owner has asked for the end.
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

    /// A connection begins, unless there are as many as there may be.
    pub(crate) fn enter(&self, number: u64, socket: &Socket) -> bool {
        let mut connections = self.connections();
        if connections.len() >= self.limits.connections {
            return false;
        }
        connections.insert(number, socket.share());
        self.stats.connections.store(connections.len() as u64, Ordering::Relaxed);
        true
    }

    /// A connection has ended.
    pub(crate) fn exit(&self, number: u64) {
        let mut connections = self.connections();
        connections.remove(&number);
        self.stats.connections.store(connections.len() as u64, Ordering::Relaxed);
        drop(connections);
        self.changed.notify_all();
    }

    /// Asks for the end of the server.
    pub(crate) fn ask_end(&self) {
        *self.ending() = true;
        self.end_asked.notify_all();
    }

    pub(crate) fn is_ending(&self) -> bool {
        *self.ending()
    }

    /// Waits until somebody asks for the end.
    pub(crate) fn wait_for_end(&self) {
        let mut ending = self.ending();
        while !*ending {
            ending = self.end_asked.wait(ending).unwrap_or_else(PoisonError::into_inner);
        }
    }

    /// Ends all connections: each finishes what has arrived, within the grace.
    pub(crate) fn end_connections(&self) {
        self.connections().values().for_each(|socket| end_input(socket.fd()));
        if !self.wait_for_connections(self.limits.grace) {
            let left = self.connections().len();
            tracing::warn!(connections = left, "connections did not finish in time and are cut");
            self.connections().values().for_each(|socket| end(socket.fd()));
            // Long enough for what only waits for its client; a store that is stuck stays so.
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

    /// Whether another warning may be logged in this second.
    pub(crate) fn may_warn(&self) -> bool {
        self.warnings.fetch_add(1, Ordering::Relaxed) < WARNINGS_PER_SECOND
    }

    /// Once a second: rates, sessions of clients that are gone, warnings.
    pub(crate) fn tick(&self) {
        self.stats.tick();
        self.sessions.tick();
        let warnings = self.warnings.swap(0, Ordering::Relaxed);
        if let Some(left_out @ 1..) = warnings.checked_sub(WARNINGS_PER_SECOND) {
            tracing::warn!(left_out, "more connections failed than are logged");
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

    /// Writes a batch that holds no record; one that removes every key writes all records again.
    pub(crate) fn write(&self, ops: Vec<Op<'_>>, durability: Durability) -> Result<()> {
        let is_clearing = ops.iter().any(|op| matches!(op, Op::Clear));
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

/// A batch of the operations.
pub(crate) fn batch_of(ops: Vec<Op<'_>>) -> partd::Batch<'_> {
    let mut batch = partd::Batch::with_capacity(ops.len());
    for op in ops {
        batch.push(op);
    }
    batch
}
