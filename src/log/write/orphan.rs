//! Seals the segments of dead writers, so that readers wait for no batch in them.

use std::io;

use partd_format::batch::WORDS_LEN;
use partd_format::{Link, State};

use crate::error::{Error, Result};
use crate::log::fs::{Access, Disk};
use crate::log::segment::{SEAL_LEN, Segment};
use crate::log::shared::control::Control;
use crate::log::store::Store;
use crate::log::trace;

/// Seals the segment of a dead writer in a slot and makes its pending batches void.
pub(crate) fn seal_orphan<D: Disk>(
    store: &Store<D>,
    control: &Control<D>,
    slot: u16,
    id: u64,
) -> Result<()> {
    if id == 0 {
        return Ok(());
    }
    let segment =
        match Segment::open(&store.directory, id, Some(&control.fixed.store), Access::Write) {
            Ok(segment) => segment,
            // The writer died before it published the segment, or a compaction has replaced the
            // segment since.
            Err(Error::Io { source, .. }) if source.kind() == io::ErrorKind::NotFound => {
                return Ok(());
            }
            // Readers report damage; it must not prevent others from writing.
            Err(Error::Damage { .. } | Error::Refused { .. }) => return Ok(()),
            Err(error) => return Err(error),
        };
    if segment.header().slot != u32::from(slot) {
        // The dead writer reserved this id but lost the race; the segment belongs to another writer.
        return Ok(());
    }
    let mut chain = segment.chain(segment.header().data_start);
    for batch in &mut chain {
        if segment.state(batch.offset) == Ok(State::Pending) {
            segment.reserve(batch.offset, WORDS_LEN)?;
            segment.void(batch.offset);
        }
    }
    if chain.ending() == Ok(Link::End) {
        let end = chain.at();
        segment.reserve(end, SEAL_LEN)?;
        segment.seal(end);
        segment.punch_behind(end);
        trace::orphan_sealed(&segment.path(), slot, id);
    }
    Ok(())
}
