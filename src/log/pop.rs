//! Pop: a read and a removal as one step of the history, without losing a byte.
//!
//! Everything that can fail is done first: `take` writes the delete but does not commit it, reads
//! the values, and maps every segment that holds a batch before the delete. It then commits the
//! delete only if no segment was published meanwhile. So every batch that other writers commit
//! before the delete is in a mapped segment, and reading it after the commit needs no call that can
//! fail.

use crate::Key;
use crate::error::{Error, ErrorKind, Result};
use crate::log::fs::Disk;
use crate::log::read::reader::Reader;
use crate::log::read::snapshot::Snapshot;
use crate::log::store::Store;
use crate::log::write::Writer;
use crate::partd::{Batch, Durability};

/// As long as at least this many bytes were appended since the last read, a pop reads them without
/// holding the version's lock, up to `UNLOCKED_READS` times.
const UNLOCKED_MIN_BYTES: u64 = 1 << 20;
const UNLOCKED_READS: usize = 4;
/// How many times a pop tries again because a segment was published between its last refresh and
/// its commit, which are microseconds apart.
const TRIES: usize = 1000;

/// Reads and deletes keys in one step of the history.
///
/// If the process dies after the delete is committed, the values are lost. An error after the
/// commit has only one possible cause: damage to bytes that another handle committed microseconds
/// before.
pub(crate) fn take<D: Disk>(
    store: &Store<D>,
    reader: &Reader<D>,
    writer: &Writer<D>,
    keys: &[Key],
) -> Result<Vec<Vec<u8>>> {
    let control = store.control()?;
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
    let mut known = reader.snapshot(store, &distinct)?.releasing();
    known.check_read(store)?;
    let mut values = known.values(store.pool(), &[])?;
    for _ in 0..UNLOCKED_READS {
        let now = reader.snapshot(store, &distinct)?.releasing();
        if now.new_bytes(&known) < UNLOCKED_MIN_BYTES {
            break;
        }
        now.bring_up(&known, &mut values)?;
        known = now;
    }
    known.check_read(store)?;
    let mut delete = writer.prepare(store, &batch, Durability::Plain)?;
    let mut version = reader.version_mut();
    for _ in 0..TRIES {
        version.refresh(store, false)?;
        let now = Snapshot::of_keys(store, &version, &distinct).releasing();
        now.bring_up(&known, &mut values)?;
        known = now;
        let is_complete = || version.knows_all_segments(control.directory_epoch());
        let Some(at) = writer.commit(store, &mut delete, is_complete)? else { continue };
        let extents = version.catch_up(store, at, &distinct)?;
        let covered = Snapshot::new(&version, extents, store.options.verify_on_read, true);
        drop(version);
        covered.bring_up(&known, &mut values)?;
        // If a key is passed more than once, only its first position gets the value.
        let value = |key| match distinct.binary_search(key) {
            Ok(found) => std::mem::take(&mut values[found]),
            Err(_) => Vec::new(),
        };
        return Ok(keys.iter().map(value).collect());
    }
    let why = "new segments were published faster than the pop could read them; nothing was \
               removed, try again";
    Err(Error::refused(ErrorKind::Busy, &**store.directory.path(), why))
}
