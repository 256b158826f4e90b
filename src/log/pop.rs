//! A read and a removal as one step of the history, in which no byte is lost.
//!
//! Everything that may fail is done first: the delete is written, the values are read, and every
//! segment that holds a batch before the delete is mapped. The delete is then committed on one
//! condition: that no segment has come since. So whatever other writers commit in between lies in
//! segments that are mapped, and is read from memory after the delete without a call that may fail.

use std::sync::PoisonError;

use crate::Key;
use crate::error::{Error, ErrorKind, Result};
use crate::log::Core;
use crate::log::fs::Disk;
use crate::log::read::snapshot::Snapshot;
use crate::partd::Batch;

/// What was appended while the values were read is read without the picture's lock while it is more
/// than so many bytes, so often at most.
const UNLOCKED_MIN_BYTES: u64 = 1 << 20;
const UNLOCKED_READS: usize = 4;
/// How often a segment may come between the last refresh and the commit, some microseconds later.
const TRIES: usize = 1000;

impl<D: Disk> Core<D> {
    /// Gets and deletes keys as one step of the history.
    ///
    /// A handle that dies after the delete was committed takes the bytes with it. Of an error that
    /// is returned after it, the one reason is damage: of bytes that another handle committed
    /// microseconds before.
    pub(crate) fn take(&self, keys: &[Key]) -> Result<Vec<Vec<u8>>> {
        let control = self.control()?;
        let mut distinct: Vec<Key> = keys.to_vec();
        distinct.sort_unstable();
        distinct.dedup();
        if distinct.is_empty() {
            return Ok(Vec::new());
        }
        let mut batch = Batch::with_capacity(distinct.len());
        for key in &distinct {
            batch.delete(key);
        }
        let mut known = self.snapshot(&distinct)?.releasing();
        self.check_read(&known)?;
        let mut values = known.values(self.pool())?;
        for _ in 0..UNLOCKED_READS {
            let now = self.snapshot(&distinct)?.releasing();
            if now.new_bytes(&known) < UNLOCKED_MIN_BYTES {
                break;
            }
            now.bring_up(&known, &mut values)?;
            known = now;
        }
        self.check_read(&known)?;
        let mut delete = self.writer.prepare(self, &batch)?;
        let mut version = self.version.write().unwrap_or_else(PoisonError::into_inner);
        for _ in 0..TRIES {
            version.refresh(self, false)?;
            let now = self.snapshot_of(&version, &distinct).releasing();
            now.bring_up(&known, &mut values)?;
            known = now;
            let is_complete = || version.knows_all_segments(control.directory_epoch());
            let Some(at) = self.writer.commit(self, &mut delete, is_complete)? else { continue };
            let extents = version.catch_up(self, at, &distinct)?;
            let covered = Snapshot::new(&version, extents, self.options.verify_on_read, true);
            drop(version);
            covered.bring_up(&known, &mut values)?;
            // A key that is asked for twice is there the first time.
            let value = |key| match distinct.binary_search(key) {
                Ok(found) => std::mem::take(&mut values[found]),
                Err(_) => Vec::new(),
            };
            return Ok(keys.iter().map(value).collect());
        }
        let why = "segments come so fast that a pop found no moment between two; nothing was \
                   removed, try again";
        Err(Error::refused(ErrorKind::Busy, &**self.store.path(), why))
    }
}
