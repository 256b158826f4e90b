//! Checks every checksum of every segment of the store, including those of dead values.

use std::sync::{Arc, Mutex, PoisonError};

use partd_format::segment::DURABLE_END_AT;
use partd_format::{Evidence, SegmentHeader, State};

use crate::error::Result;
use crate::log::fs::{Disk, DiskFile};
use crate::log::read::reader::Reader;
use crate::log::segment::Segment;
use crate::log::segment::ahead::{Ahead, Span};
use crate::log::segment::chain::BatchRange;
use crate::log::segment::extent::Extent;
use crate::log::store::Store;
use crate::threads;

/// The counts of what [`SegmentLog::verify`](crate::SegmentLog::verify) checked and found intact.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct Verified {
    /// The segments of the store. The header and the chain of batches of each were checked.
    pub segments: u64,
    /// The batches in those segments, including those in compaction outputs.
    pub batches: u64,
    /// The values whose checksums were compared, including deleted values.
    pub extents: u64,
    /// The bytes of those values.
    pub bytes: u64,
}

pub(crate) fn verify<D: Disk>(store: &Store<D>, reader: &Reader<D>) -> Result<Verified> {
    let (segments, applied_bytes, sequence) = reader.with_version(store, |version| {
        (Arc::clone(&version.segments), version.batch_bytes.clone(), version.sequence)
    })?;
    threads::spread(store.pool(), |team| {
        let to_walk = segments.iter().zip(applied_bytes).collect();
        let walked =
            team.try_map(to_walk, |(segment, applied)| walk(segment, applied, sequence))?;
        let batches: Vec<(&Segment<_>, ScannedBatch)> = segments
            .iter()
            .zip(walked)
            .flat_map(|(segment, found)| found.into_iter().map(move |batch| (&**segment, batch)))
            .collect();
        let all = Mutex::new(Verified { segments: segments.len() as u64, ..Verified::default() });
        let spans = batches.iter().map(|&(segment, ScannedBatch { offset, len, .. })| Span {
            segment,
            offset,
            len,
        });
        // The check reads each page only once, so it drops the pages that it fetched from disk.
        let ahead = Ahead::new(spans, true);
        team.in_order(batches.iter().collect(), |_, &(segment, found): &(&Segment<_>, _)| {
            ahead.begin(found.len);
            let one = check_values(segment, found)?;
            let mut all = all.lock().unwrap_or_else(PoisonError::into_inner);
            all.batches += 1;
            all.extents += one.extents;
            all.bytes += one.bytes;
            Ok(())
        })?;
        Ok(all.into_inner().unwrap_or_else(PoisonError::into_inner))
    })
}

/// A committed batch: its offset and length in its segment, and its sequence number.
#[derive(Clone, Copy, Debug)]
struct ScannedBatch {
    offset: u64,
    len: u64,
    sequence: u64,
}

/// Checks a segment's header and walks its chain. Returns its committed batches up to sequence
/// number `visible`.
///
/// A chain may end at a write that a power cut tore; nothing after it was ever part of the history.
/// But the batches that the index was built from, `applied_bytes` long in all, must be intact, and
/// so must everything below the segment's durable watermark, which is on stable storage.
fn walk<F: DiskFile>(
    segment: &Segment<F>,
    applied_bytes: u64,
    visible: u64,
) -> Result<Vec<ScannedBatch>> {
    let mut bytes = [0; DURABLE_END_AT as usize];
    segment.file().loaded(0, DURABLE_END_AT);
    segment.file().mapping().copy_out(0, &mut bytes);
    let header = SegmentHeader::decode(&bytes, segment.file().mapping().len());
    if header.map_err(|error| segment.damage(error))? != *segment.header() {
        return Err(segment.damage(partd_format::Error {
            offset: 0,
            what: "header",
            expected: Evidence::Text("the header that was read when the segment was opened"),
            found: Evidence::Text("a different one"),
        }));
    }
    if segment.header().output.is_some() {
        segment.lists()?;
    }
    let durable_end = segment.durable_end();
    let mut found = Vec::new();
    let mut found_bytes = 0;
    let mut chain = segment.chain(segment.header().data_start).ahead();
    loop {
        let must_be_whole = chain.at() < durable_end || found_bytes < applied_bytes;
        let Some(BatchRange { offset, len }) = chain.next() else {
            match chain.ending() {
                Err(error) if must_be_whole => return Err(segment.damage(error)),
                _ => break,
            }
        };
        match segment.state(offset) {
            Ok(State::Committed(sequence)) if sequence <= visible => {
                found.push(ScannedBatch { offset, len, sequence });
                found_bytes += len;
            }
            Err(error) if must_be_whole => return Err(segment.damage(error)),
            Ok(_) | Err(_) => {}
        }
    }
    match found_bytes == applied_bytes {
        true => Ok(found),
        false => Err(segment.damage(partd_format::Error {
            offset: segment.header().data_start,
            what: "bytes of committed batches",
            expected: Evidence::Number(applied_bytes),
            found: Evidence::Number(found_bytes),
        })),
    }
}

/// Compares the checksums of a batch's head and of its values.
fn check_values<F: DiskFile>(segment: &Segment<F>, found: ScannedBatch) -> Result<Verified> {
    let mut checked = Verified::default();
    for entry in segment.batch(found.offset, found.len)?.entries() {
        if entry.kind.has_value() {
            // The check does not use the segment's number, so any will do.
            let value = segment.checked_value(&Extent::of(&entry, 0, found.sequence))?;
            checked.extents += 1;
            checked.bytes += value.len() as u64;
        }
    }
    Ok(checked)
}
