//! Plans the output of a run: its entries, the removals that segments outside the inputs still
//! need, and the lengths of the retained chains.

use std::collections::{BTreeMap, BTreeSet};
use std::ops::Range;
use std::sync::Arc;

use partd_format::batch::{Layout, value_offset};
use partd_format::segment::Retained;
use partd_format::{Evidence, Kind, State};

use crate::Key;
use crate::error::{Error, Result};
use crate::log::fs::DiskFile;
use crate::log::maintain::compaction::base::Base;
use crate::log::read::index::Extents;
use crate::log::segment::Segment;
use crate::log::segment::ahead::HeadsAhead;
use crate::log::segment::chain::BatchRange;
use crate::log::segment::extent::Extent;

/// The most entries in one batch of an output.
const BATCH_ENTRIES: usize = 4096;
/// The most value bytes in one batch of an output, unless a single value has more.
const BATCH_BYTES: u64 = 32 << 20;

/// The contents of an output.
#[derive(Debug)]
pub(crate) struct Plan {
    /// In key order.
    pub(crate) entries: Vec<Planned>,
    /// How many extents the entries are copied from.
    pub(crate) extents: u64,
    /// How far the chain of each retained segment reaches.
    pub(crate) retained: Vec<Retained>,
}

/// An entry of the output.
#[derive(Debug)]
pub(crate) struct Planned {
    pub(crate) key: Key,
    pub(crate) kind: Kind,
    pub(crate) sequence: u64,
    /// The range of the key's extents that the entry is copied from.
    pub(crate) extents: Option<(Extents, Range<usize>)>,
    pub(crate) len: u64,
}

/// The newest clear and the newest delete of each key and of each prefix.
#[derive(Debug, Default)]
struct Removals {
    clear: Option<u64>,
    deletes: BTreeMap<Key, u64>,
    prefixes: BTreeMap<Key, u64>,
}

impl Removals {
    /// The sequence number of the newest removal.
    fn newest(&self) -> Option<u64> {
        self.deletes.values().chain(self.prefixes.values()).copied().max().max(self.clear)
    }

    /// The deleted prefixes of a key whose delete is newer than `sequence`. `lens` holds the
    /// lengths of all deleted prefixes.
    fn prefixes_of<'r>(
        &'r self,
        key: &'r [u8],
        lens: &'r BTreeSet<usize>,
        sequence: u64,
    ) -> impl Iterator<Item = (&'r Key, u64)> {
        lens.range(..=key.len())
            .filter_map(|&len| self.prefixes.get_key_value(&key[..len]))
            .map(|(prefix, &delete)| (prefix, delete))
            .filter(move |(_, delete)| *delete > sequence)
    }
}

impl<F: DiskFile> Base<F> {
    /// Plans the entries of the output and its record of the retained segments.
    pub(crate) fn plan(&self) -> Result<Plan> {
        let mut is_input = vec![false; self.segments.len()];
        self.inputs.iter().for_each(|source| is_input[source.number as usize] = true);
        let mut removals = self.removals()?;
        self.drop_needless(&mut removals, &is_input)?;
        let (entries, extents) = self.entries(removals, &is_input);
        Ok(Plan { entries, extents, retained: self.retained(&is_input) })
    }

    fn outside<'a>(&'a self, is_input: &'a [bool]) -> impl Iterator<Item = &'a Arc<Segment<F>>> {
        let outside = self.current.iter().filter(|&&number| !is_input[number as usize]);
        outside.map(|&number| self.segment(number))
    }

    /// How far the chain of each retained segment reaches.
    fn retained(&self, is_input: &[bool]) -> Vec<Retained> {
        let mut retained = Vec::new();
        for segment in self.outside(is_input) {
            let taken = self.taken(segment).last();
            let end = taken.map_or(0, |(offset, len, _)| offset + len);
            if end > 0 || segment.header().output.is_some() {
                retained.push(Retained { id: segment.id(), end });
            }
        }
        retained
    }

    /// The offset, length and sequence number of each batch of a segment up to `max_seq`. A power
    /// cut can leave a broken chain; batches beyond the break were never part of the history.
    fn taken<'a>(&'a self, segment: &'a Segment<F>) -> impl Iterator<Item = (u64, u64, u64)> + 'a {
        let chain = segment.chain(segment.header().data_start).ahead();
        chain.filter_map(|BatchRange { offset, len }| match segment.state(offset) {
            Ok(State::Committed(sequence)) if sequence <= self.max_seq => {
                Some((offset, len, sequence))
            }
            _ => None,
        })
    }

    /// The entries in key order, and the number of extents that they are copied from.
    fn entries(&self, removals: Removals, is_input: &[bool]) -> (Vec<Planned>, u64) {
        let Removals { clear, mut deletes, prefixes } = removals;
        let mut planned = Vec::new();
        let remove = |key, kind, sequence| Planned { key, kind, sequence, extents: None, len: 0 };
        planned.extend(clear.map(|sequence| remove(Key::default(), Kind::Clear, sequence)));
        let prefixes = prefixes.into_iter();
        planned.extend(prefixes.map(|(prefix, seq)| remove(prefix, Kind::DeletePrefix, seq)));
        let mut count = 0;
        for (key, extents, is_set) in &self.keys {
            // First the deletes of all keys up to and including this one.
            while let Some(entry) = deletes.first_entry()
                && entry.key() <= key
            {
                let (key, sequence) = entry.remove_entry();
                planned.push(remove(key, Kind::Delete, sequence));
            }
            let in_source = |extent: &Extent| is_input[extent.segment() as usize];
            let mut next = 0;
            while next < extents.len() {
                let first = next;
                next += 1;
                if !in_source(&extents[first]) {
                    continue;
                }
                // A set stays an entry of its own: what follows it was appended.
                let kind = if *is_set && first == 0 { Kind::Set } else { Kind::Append };
                let mut len = extents[first].len();
                // A long value stays aligned: it only joins a whole number of alignment units.
                while kind == Kind::Append
                    && let Some(extent) = extents.get(next).filter(|extent| in_source(extent))
                    && value_offset(len, extent.len()) == len
                {
                    len += extent.len();
                    next += 1;
                }
                count += (next - first) as u64;
                planned.push(Planned {
                    key: key.clone(),
                    kind,
                    // The lowest number, so that the first extent of a value keeps its number: it
                    // tells a reader whether a value has grown or was rewritten. No removal and no
                    // set lies between the merged extents, so any of their numbers would replay to
                    // the same value.
                    sequence: extents[first].sequence(),
                    extents: Some((Arc::clone(extents), first..next)),
                    len,
                });
            }
        }
        planned.extend(deletes.into_iter().map(|(key, seq)| remove(key, Kind::Delete, seq)));
        (planned, count)
    }

    /// The newest removals in the inputs.
    fn removals(&self) -> Result<Removals> {
        let mut found = Removals::default();
        for source in &self.inputs {
            let segment = self.segment(source.number);
            let mut seen = 0;
            let batches = segment.all_batches(false)?;
            let mut heads = HeadsAhead::default();
            let span = |i: usize| batches[i].span(segment);
            for (i, &BatchRange { offset, len }) in batches.iter().enumerate() {
                heads.begin(i, batches.len(), span);
                let of_batch = match segment.state(offset) {
                    Ok(State::Committed(sequence)) => sequence,
                    Ok(_) => continue,
                    Err(error) => return Err(segment.damage(error)),
                };
                seen += len;
                let batch = segment.batch(offset, len)?;
                heads.record(batch.head_len());
                for entry in batch.entries() {
                    let sequence = entry.sequence.unwrap_or(of_batch);
                    match entry.kind {
                        Kind::Clear => found.clear = found.clear.max(Some(sequence)),
                        Kind::Delete => {
                            let newest = found.deletes.entry(Key::from(entry.key)).or_insert(0);
                            *newest = sequence.max(*newest);
                        }
                        Kind::DeletePrefix => {
                            let newest = found.prefixes.entry(Key::from(entry.key)).or_insert(0);
                            *newest = sequence.max(*newest);
                        }
                        Kind::Append | Kind::Set => {}
                    }
                }
            }
            // Batches that were never synced can still be lost if the disk fails and memory is
            // short.
            if seen != source.batch_bytes {
                return Err(segment.damage(partd_format::Error {
                    offset: segment.header().data_start,
                    what: "bytes of committed batches",
                    expected: Evidence::Number(source.batch_bytes),
                    found: Evidence::Number(seen),
                }));
            }
        }
        let clear = found.clear;
        found.deletes.retain(|_, sequence| Some(*sequence) > clear);
        found.prefixes.retain(|_, sequence| Some(*sequence) > clear);
        Ok(found)
    }

    /// Drops the removals that are no longer needed: those for which no segment outside the inputs
    /// holds an older value that they remove. Such values in the inputs disappear with the same
    /// rename.
    fn drop_needless(&self, removals: &mut Removals, is_input: &[bool]) -> Result<()> {
        let Some(newest) = removals.newest() else { return Ok(()) };
        let prefix_lens: BTreeSet<usize> = removals.prefixes.keys().map(Key::len).collect();
        let mut needed = Removals::default();
        for segment in self.outside(is_input) {
            let is_output = segment.header().output.is_some();
            for (offset, len, of_batch) in self.taken(segment) {
                // Entries of an output have their own sequence numbers; the batch's number does not
                // bound them from below.
                if !is_output && of_batch >= newest {
                    continue;
                }
                for entry in segment.batch(offset, len)?.entries() {
                    let sequence = entry.sequence.unwrap_or(of_batch);
                    if !entry.kind.has_value() {
                        continue;
                    }
                    needed.clear = needed.clear.max(removals.clear.filter(|c| *c > sequence));
                    if let Some((key, delete)) = removals.deletes.get_key_value(entry.key)
                        && *delete > sequence
                        && !needed.deletes.contains_key(key)
                    {
                        needed.deletes.insert(key.clone(), *delete);
                    }
                    for (prefix, delete) in removals.prefixes_of(entry.key, &prefix_lens, sequence)
                    {
                        if !needed.prefixes.contains_key(prefix) {
                            needed.prefixes.insert(prefix.clone(), delete);
                        }
                    }
                }
            }
        }
        *removals = needed;
        Ok(())
    }
}

/// Splits the entries into batches.
pub(crate) fn split(planned: &[Planned]) -> Result<Vec<(&[Planned], Layout)>> {
    let mut batches = Vec::new();
    let mut rest = planned;
    while !rest.is_empty() {
        let mut layout = Layout::with_sequences();
        let mut len = 0;
        for entry in rest.iter().take(BATCH_ENTRIES) {
            if len > 0 && layout.values_len() + entry.len > BATCH_BYTES {
                break;
            }
            layout
                .add(entry.key.len() as u64, entry.len)
                .map_err(|error| Error::Invalid(error.to_string()))?;
            len += 1;
        }
        let (batch, behind) = rest.split_at(len);
        batches.push((batch, layout));
        rest = behind;
    }
    Ok(batches)
}
