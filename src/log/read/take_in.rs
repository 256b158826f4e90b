//! How a picture takes in segments: those that are new, and the outputs of compactions, which only a
//! picture that is begun can take in.

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

/// What a step of a refresh has led to.
pub(crate) enum Advance {
    Done,
    /// An output of a compaction has come: the picture must be begun anew.
    Rebuild,
    /// A segment with this id was listed, and cannot be opened: so one is about to come.
    Vanished(u64),
}

/// What came of looking for segments.
pub(crate) enum Discovered {
    /// They were taken in; these are what the newest output among them found beside it.
    Segments(Vec<Retained>),
    /// They cannot be taken into this picture.
    Changed(Advance),
}

impl<D: Disk> Version<D> {
    /// Opens the segments that are new, and takes them in. The outputs of compactions can only be
    /// taken in by a picture that is begun: what they replace is then never looked at, and their
    /// entries are laid out for each key.
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
            // A segment that was replaced would only keep its disk space.
            if !self.replaced.contains(&segment.id()) {
                self.add(store, segment, compacted)?;
            }
        }
        compacted.sort();
        Ok(Discovered::Segments(newest.retained))
    }

    /// Reads what the outputs among some segments replace; returns the newest of them.
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

    /// Gives a segment its number; takes in what it holds if it is an output.
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
