//! A read and a removal as one step of the history, in which no byte is lost.
//!
//! Everything that may fail is done first: the delete is written, the values are read, and every
//! segment that holds a batch before the delete is mapped. The delete is then committed on one
//! condition: that no segment has come since. So whatever other writers commit in between lies in
//! segments that are mapped, and is read from memory after the delete without a call that may fail.

use crate::Key;
use crate::error::{Error, ErrorKind, Result};
use crate::log::fs::Disk;
use crate::log::read::reader::Reader;
use crate::log::read::snapshot::Snapshot;
use crate::log::store::Store;
use crate::log::write::Writer;
use crate::partd::Batch;

/// What was appended while the values were read is read without the picture's lock while it is more
/// than so many bytes, so often at most.
const UNLOCKED_MIN_BYTES: u64 = 1 << 20;
const UNLOCKED_READS: usize = 4;
/// How often a segment may come between the last refresh and the commit, some microseconds later.
const TRIES: usize = 1000;

/// Gets and deletes keys as one step of the history.
///
/// A handle that dies after the delete was committed takes the bytes with it. Of an error that
/// is returned after it, the one reason is damage: of bytes that another handle committed
/// microseconds before.
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
    let mut values = known.values(store.pool())?;
    for _ in 0..UNLOCKED_READS {
        let now = reader.snapshot(store, &distinct)?.releasing();
        if now.new_bytes(&known) < UNLOCKED_MIN_BYTES {
            break;
        }
        now.bring_up(&known, &mut values)?;
        known = now;
    }
    known.check_read(store)?;
    let mut delete = writer.prepare(store, &batch)?;
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
        // A key that is asked for twice is there the first time.
        let value = |key| match distinct.binary_search(key) {
            Ok(found) => std::mem::take(&mut values[found]),
            Err(_) => Vec::new(),
        };
        return Ok(keys.iter().map(value).collect());
    }
    let why = "segments come so fast that a pop found no moment between two; nothing was \
               removed, try again";
    Err(Error::refused(ErrorKind::Busy, &**store.directory.path(), why))
}
