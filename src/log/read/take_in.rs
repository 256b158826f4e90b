//! How a version takes in segments: new ones at any time, but compaction outputs only while it is
//! built from the start.

use std::sync::Arc;

use partd_format::segment::Retained;

use crate::error::{Error, ErrorKind, Result};
use crate::log::fs::Disk;
use crate::log::read::compacted::Compacted;
use crate::log::read::cursor::Cursor;
use crate::log::read::version::Version;
use crate::log::segment::Segment;
use crate::log::segment::ahead::HeadsAhead;
use crate::log::segment::chain::BatchRange;
use crate::log::segment::extent::SEGMENT_NUMBERS;
use crate::log::segment::outputs::NewestOutput;
use crate::log::store::Store;

/// The result of one step of a refresh.
pub(crate) enum Advance {
    Done,
    /// A compaction output was published, so the version must be rebuilt.
    Rebuild,
    /// A segment with this id was listed but could not be opened: a compaction has replaced it, so
    /// an output may be missing from the listing.
    Vanished(u64),
}

/// The result of [`discover`](Version::discover).
pub(crate) enum Discovered {
    /// The segments were added. Contains the list of retained segments of the newest output among
    /// them.
    Segments(Vec<Retained>),
    /// The segments cannot be added to this version.
    Changed(Advance),
}

impl<D: Disk> Version<D> {
    /// Opens the new segments and adds them. Compaction outputs can be added only when the version
    /// is built from the start (`is_first`): the segments that they replace are then never read,
    /// and their entries are collected by key.
    pub(crate) fn discover(
        &mut self,
        store: &Store<D>,
        is_first: bool,
        compacted: &mut Compacted,
    ) -> Result<Discovered> {
        let (mut found, known) = (Vec::new(), &mut self.known);
        let vanished = self.discovery.find(store, &mut |id| known.remove(&id), &mut |segment| {
            found.push(segment);
        })?;
        if let Some(id) = vanished {
            return Ok(Discovered::Changed(Advance::Vanished(id)));
        }
        let has_outputs = found.iter().any(|segment| segment.header().output.is_some());
        if has_outputs && !is_first {
            self.known.extend(found.into_iter().map(|segment| (segment.id(), segment)));
            return Ok(Discovered::Changed(Advance::Rebuild));
        }
        let newest = if has_outputs { self.read_lists(&found)? } else { NewestOutput::default() };
        for segment in found {
            // A replaced segment is not needed, and keeping it open would keep its disk space in
            // use.
            if !self.replaced.contains(&segment.id()) {
                self.add(store, segment, compacted)?;
            }
        }
        compacted.sort();
        Ok(Discovered::Segments(newest.retained))
    }

    /// Reads which segments the outputs in `found` replace. Returns the newest output.
    fn read_lists(&mut self, found: &[Arc<Segment<D::File>>]) -> Result<NewestOutput> {
        let mut newest = NewestOutput::default();
        for segment in found {
            self.replaced.extend(newest.see(segment)?);
        }
        let outlived = found.iter().filter(|segment| newest.has_outlived(segment));
        self.replaced.extend(outlived.map(|segment| segment.id()));
        self.max_seq = self.max_seq.max(newest.max_seq);
        Ok(newest)
    }

    /// Adds a segment under the next number. If it is a compaction output, also reads its entries.
    fn add(
        &mut self,
        store: &Store<D>,
        segment: Arc<Segment<D::File>>,
        compacted: &mut Compacted,
    ) -> Result<()> {
        if self.segments.len() >= SEGMENT_NUMBERS {
            let why = format!("the store has more than {SEGMENT_NUMBERS} segments; compact it");
            return Err(Error::refused(ErrorKind::LimitReached, &**store.directory.path(), why));
        }
        let number = self.segments.len() as u32;
        Arc::make_mut(&mut self.segments).push(Arc::clone(&segment));
        self.value_bytes.push(0);
        self.batch_bytes.push(0);
        if segment.header().output.is_none() {
            let next = segment.header().data_start;
            let pending = Vec::new();
            self.open.push(Cursor { segment: number, next, pending, sealed: false, broken: None });
            return Ok(());
        }
        let batches = segment.all_batches(store.ignores_damage())?;
        let mut heads = HeadsAhead::default();
        let span = |i: usize| batches[i].span(&segment);
        for (i, &BatchRange { offset, len }) in batches.iter().enumerate() {
            heads.begin(i, batches.len(), span);
            let batch = match segment.batch(offset, len) {
                Err(_) if store.ignores_damage() => continue,
                batch => batch?,
            };
            heads.record(batch.head_len());
            self.applied.batches += 1;
            self.batch_bytes[number as usize] += len;
            for entry in batch.entries() {
                self.applied.count(&entry);
                self.value_bytes[number as usize] += entry.value_len;
                compacted.add(&entry, number);
            }
        }
        Ok(())
    }
}
