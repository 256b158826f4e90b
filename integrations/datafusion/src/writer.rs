//! The writer of a spill file: gathers what an operator writes, and appends it in whole messages.
//!
//! Invariant: the bytes that wait in a writer are a message that is not complete yet, or fewer than
//! `GATHER_BYTES` for which the budget has granted memory.

use std::io;
use std::sync::Arc;
use std::sync::atomic::Ordering::Relaxed;

use datafusion_common::{Result, exec_datafusion_err};
use datafusion_execution::SpillWriter;
use partd::{Batch, Op};

use crate::error::{into_io, of_store};
use crate::file::File;
use crate::framing::Framing;

/// Shorter messages are gathered until they are this long together.
const GATHER_BYTES: usize = 16 << 10;
/// The memory that gathering takes: the bytes themselves, and their copy for readers.
pub(crate) const GATHER_BUDGET_BYTES: u64 = 2 * GATHER_BYTES as u64;
/// The length in which bytes are appended that are no messages.
const OTHER_BYTES: usize = 256 << 10;
/// A longer message is appended in pieces.
const PENDING_MAX_BYTES: usize = 8 << 20;
/// The memory that a writer keeps for the next message.
const KEEP_BYTES: usize = 1 << 20;

/// Appends to a spill file.
#[derive(Debug)]
pub(crate) struct Writer {
    file: Arc<File>,
    pending: Vec<u8>,
    framing: Framing,
    /// How many of the pending bytes readers see.
    shown: usize,
    /// Whether the budget has granted memory.
    has_budget: bool,
    is_open: bool,
    has_failed: bool,
}

impl Writer {
    pub(crate) fn new(file: &Arc<File>) -> Result<Writer> {
        file.begin_writer()?;
        Ok(Writer {
            file: Arc::clone(file),
            pending: Vec::new(),
            framing: Framing::default(),
            shown: 0,
            has_budget: false,
            is_open: true,
            has_failed: false,
        })
    }

    fn check_open(&self) -> Result<()> {
        let why = match (self.is_open, self.has_failed) {
            (true, false) => return Ok(()),
            (_, true) => "an earlier write to the spill file failed",
            (false, _) => "the spill file is finished",
        };
        Err(exec_datafusion_err!("{}: {why}", self.file.description))
    }

    fn push(&mut self, bytes: &[u8]) -> Result<()> {
        self.check_open()?;
        let pushed = self.try_push(bytes);
        self.has_failed |= pushed.is_err();
        pushed
    }

    fn try_push(&mut self, bytes: &[u8]) -> Result<()> {
        self.file.core.usage.add(bytes.len() as u64, &self.file.description)?;
        self.file.len_bytes.fetch_add(bytes.len() as u64, Relaxed);
        let mut rest = bytes;
        while !rest.is_empty() {
            let room = PENDING_MAX_BYTES - self.pending.len();
            let (now, later) = rest.split_at(room.min(rest.len()));
            self.pending.extend_from_slice(now);
            rest = later;
            self.framing.advance(&self.pending);
            let is_due = match self.framing.is_other() {
                true => self.pending.len() >= OTHER_BYTES,
                false => self.framing.is_at_end(&self.pending) && !self.may_gather(),
            };
            if is_due || self.pending.len() == PENDING_MAX_BYTES {
                self.store()?;
            }
        }
        Ok(())
    }

    /// Whether the pending bytes may wait for more.
    fn may_gather(&mut self) -> bool {
        if self.pending.len() >= GATHER_BYTES {
            return false;
        }
        self.has_budget = self.has_budget || self.file.core.budget.try_grow(GATHER_BUDGET_BYTES);
        self.has_budget
    }

    /// Appends the pending bytes as one batch.
    fn store(&mut self) -> Result<()> {
        if self.pending.is_empty() {
            return Ok(());
        }
        let append = |piece| Op::Append(self.file.name.clone(), piece);
        let batch: Batch<'_> = self.framing.pieces(&self.pending).into_iter().map(append).collect();
        if let Err(error) = self.file.core.write(&batch) {
            self.has_failed = true;
            return Err(of_store(error).context(self.file.description.clone()));
        }
        self.file.stored(self.pending.len());
        self.framing.stored(self.pending.len());
        self.pending.clear();
        self.pending.shrink_to(KEEP_BYTES);
        self.shown = 0;
        self.give_back();
        Ok(())
    }

    fn give_back(&mut self) {
        if std::mem::take(&mut self.has_budget) {
            self.file.core.budget.shrink(GATHER_BUDGET_BYTES);
        }
    }

    /// Makes what was written visible to readers.
    fn show(&mut self) -> Result<()> {
        self.check_open()?;
        if self.shown == self.pending.len() {
            return Ok(());
        }
        if !self.may_gather() {
            return self.store();
        }
        self.file.extend_tail(&self.pending[self.shown..]);
        self.shown = self.pending.len();
        Ok(())
    }

    fn close(&mut self) -> Result<()> {
        let stored = self.store();
        self.give_back();
        self.is_open = false;
        self.file.end_writer(self.has_failed);
        stored
    }
}

impl io::Write for Writer {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.push(bytes).map_err(into_io)?;
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        self.show().map_err(into_io)
    }
}

impl SpillWriter for Writer {
    fn finish(&mut self) -> Result<()> {
        self.check_open()?;
        self.close()
    }
}

impl Drop for Writer {
    fn drop(&mut self) {
        if self.is_open {
            if self.has_failed {
                // What is pending is lost, and readers are told.
                self.pending.clear();
            }
            // An error is a reader's.
            let _ = self.close();
        }
    }
}
