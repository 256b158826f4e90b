//! Compaction: live entries of sealed segments move into one new segment, the old ones go.
//!
//! One run writes one output: each key's values side by side, sequence numbers kept. The order is
//! what makes it safe: the history up to `U` is synced; the output is written and synced, renamed,
//! the directory synced; only then are the sources unlinked; and only when that is durable may a
//! later run forget a delete. Whoever sees both an output and a segment that it replaces ignores
//! the latter. It runs beside appends, gets, deletes and pops of every process; there is one
//! compaction at a time. Its memory grows with keys and extents, not with bytes.

use std::collections::{BTreeMap, BTreeSet};
use std::io::IoSlice;
use std::ops::Range;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, PoisonError};
use std::time::{Duration, Instant};

use partd_format::batch::{Layout, NewEntry, WORDS_LEN};
use partd_format::control::SLOTS;
use partd_format::segment::{HEADER_LEN, Keep};
use partd_format::{Kind, Link, State};

use super::commit;
use super::control::{Announce, Control};
use super::disk::{Disk, DiskFile};
use super::finder::segment_ids;
use super::index::Extents;
use super::picture::{Segments, chain};
use super::segment::{Claim, Extent, NewSegment, SEAL_LEN, Segment, Unpublished};
use super::writer::{GROUP_BUFFERS, GROUP_BYTES, retire};
use super::{Core, Names};
use crate::Key;
use crate::error::{Error, Result};

/// Entries in one batch of an output.
const BATCH_ENTRIES: usize = 4096;
/// Bytes of values in one batch of an output, unless one value has more.
const BATCH_BYTES: u64 = 32 << 20;
/// How long to wait for pops that are under way.
const POP_PATIENCE: Duration = Duration::from_millis(200);

/// What [`SegmentLog::compact`](crate::SegmentLog::compact) has done.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct Compaction {
    /// The outputs that were written: 0 where there was nothing to do, or another compaction or a
    /// pop that would not end was in the way.
    pub runs: u64,
    /// The segments that were replaced.
    pub segments_replaced: u64,
    /// The bytes of live values that were copied.
    pub bytes_rewritten: u64,
    /// The length of the segments that were replaced, less that of the outputs, in bytes.
    pub bytes_freed: u64,
    /// The pieces in which the copied values lay before.
    pub extents_before: u64,
    /// The pieces in which they lie now.
    pub extents_after: u64,
    /// Deletes that had to be kept, since something older than they are is still there.
    pub deletes_kept: u64,
}

/// Which segments are worth it.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(crate) enum Aim {
    /// All of them: every key's value in as few pieces as can be.
    Everything,
    /// Those in which more than this share of the values' bytes is dead.
    Dead(f64),
}

/// The store as a run sees it: everything up to `upto`.
#[derive(Debug)]
struct Base<F> {
    upto: u64,
    segments: Segments<F>,
    /// Numbers of the segments that are part of the store.
    current: Vec<u32>,
    /// Numbers of those in which more may come.
    open: BTreeSet<u32>,
    /// Bytes of all values in each segment.
    value_bytes: Vec<u64>,
    /// Every key with its extents, and whether it was set; in key order.
    keys: Vec<(Key, Extents, bool)>,
}

/// An entry of the output.
#[derive(Debug)]
struct Planned {
    key: Key,
    kind: Kind,
    sequence: u64,
    /// Which of the key's extents it is made of.
    extents: Option<(Extents, Range<usize>)>,
    len: u64,
}

/// What lies outside of the sources.
#[derive(Debug)]
struct Outside {
    keeps: Vec<Keep>,
    /// No number below this one is outside.
    floor: u64,
}

impl<D: Disk> Core<D> {
    /// Runs compactions until there is nothing more to gain. `stop` ends it early, and cleanly.
    pub(crate) fn compact(&self, aim: Aim, stop: &AtomicBool) -> Result<Compaction> {
        let control = self.control()?;
        let mut report = Compaction::default();
        let path = self.names.compaction_lock();
        let lock = self.disk.try_lock(&path, true).map_err(|e| Error::io("lock", path, e))?;
        let Some(_lock) = lock else { return Ok(report) };
        self.finish_predecessor(control)?;
        let first_new = control.next_segment();
        while !stop.load(Ordering::Relaxed)
            && self.run(control, aim, first_new, stop, &mut report)?
        {}
        Ok(report)
    }

    /// Unlinks what outputs have replaced, and makes it durable that it is gone.
    fn finish_predecessor(&self, control: &Control<D>) -> Result<()> {
        let dir = self.names.dir();
        self.disk.sync_dir(dir).map_err(|e| Error::io("sync", dir, e))?;
        let ids = segment_ids(&self.disk, &self.names)?;
        let mut gone = false;
        for &id in &ids {
            let store = Some(&control.fixed.store);
            let segment = match Segment::open(&self.disk, &self.names, id, store, false) {
                Ok(segment) => segment,
                Err(Error::Io { source, .. }) if source.kind() == std::io::ErrorKind::NotFound => {
                    continue;
                }
                Err(error) => return Err(error),
            };
            if segment.header().output.is_none() {
                continue;
            }
            for replaced in segment.lists()?.0.into_iter().filter(|id| ids.contains(id)) {
                if !gone {
                    // Whoever renamed the output may have died before it said so: a picture that
                    // knows the sources alone, this handle's among them, must not go on with them.
                    control.raise_generation();
                }
                self.unlink(replaced)?;
                gone = true;
            }
        }
        if gone {
            self.disk.sync_dir(dir).map_err(|e| Error::io("sync", dir, e))?;
        }
        Ok(())
    }

    fn unlink(&self, id: u64) -> Result<()> {
        let path = self.names.segment(id);
        match self.disk.unlink(&path) {
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => Ok(()),
            done => done.map_err(|error| Error::io("remove", path, error)),
        }
    }

    /// One run. Returns whether another may find something to do.
    fn run(
        &self,
        control: &Control<D>,
        aim: Aim,
        first_new: u64,
        stop: &AtomicBool,
        report: &mut Compaction,
    ) -> Result<bool> {
        self.bury_the_dead(control)?;
        let base = self.base()?;
        // In this order: a pop that is not seen here deletes later than `upto`, or is done.
        if !self.wait_for_pops(control) {
            return Ok(false);
        }
        self.syncer.sync_to(self, base.upto)?;
        let (sources, has_more) = self.choose(&base, aim, first_new);
        if sources.is_empty() {
            return Ok(false);
        }
        let outside = base.outside(&sources)?;
        let (planned, extents) = base.plan(&sources, &outside)?;
        let ids: Vec<u64> = sources.iter().map(|&n| base.segment(n).id()).collect();
        let Some(output_len) =
            self.write_output(control, &base, &planned, &ids, &outside.keeps, stop)?
        else {
            return Ok(false);
        };
        let source_len: u64 = sources.iter().map(|&n| base.segment(n).header().len).sum();
        for &id in &ids {
            self.unlink(id)?;
        }
        control.count_compaction();
        report.runs += 1;
        report.segments_replaced += ids.len() as u64;
        report.bytes_rewritten += planned.iter().map(|entry| entry.len).sum::<u64>();
        report.bytes_freed += source_len.saturating_sub(output_len);
        report.extents_before += extents;
        report.extents_after += planned.iter().filter(|e| e.kind.has_value()).count() as u64;
        report.deletes_kept += planned.iter().filter(|e| !e.kind.has_value()).count() as u64;
        // Makes it durable that the sources are gone, before a later run forgets a delete.
        self.finish_predecessor(control)?;
        Ok(has_more)
    }

    /// Seals the segments of writers that are gone, so that they can be compacted.
    fn bury_the_dead(&self, control: &Control<D>) -> Result<()> {
        let open: Vec<_> = self.with_picture(|picture| {
            let segment = |number: u32| Arc::clone(&picture.segments[number as usize]);
            picture.open.iter().map(|cursor| segment(cursor.segment)).collect()
        })?;
        for segment in open {
            let Ok(slot) = u16::try_from(segment.header().slot) else { continue };
            if slot >= SLOTS {
                continue;
            }
            let path = self.names.writer_lock(slot);
            let lock = self.disk.try_lock(&path, true).map_err(|e| Error::io("lock", path, e))?;
            if lock.is_some() {
                // Nobody holds the slot: whoever made the segment in it is gone.
                commit::take_over(control, slot)?;
                retire(self, control, segment.id())?;
            } else if segment.id() < control.first_segment(slot) {
                // The holder came later, and has taken over what was open.
                retire(self, control, segment.id())?;
            }
        }
        Ok(())
    }

    /// The store as it is now.
    fn base(&self) -> Result<Base<D::File>> {
        let mut base = self.with_picture(|picture| Base {
            upto: picture.sequence,
            segments: Arc::clone(&picture.segments),
            current: (0..picture.segments.len() as u32)
                .filter(|&n| !picture.replaced.contains(&picture.segments[n as usize].id()))
                .collect(),
            open: picture.open.iter().map(|cursor| cursor.segment).collect(),
            value_bytes: picture.value_bytes.clone(),
            keys: picture
                .index
                .slots()
                .map(|slot| (slot.key.clone(), slot.extents.clone(), slot.is_set))
                .collect(),
        })?;
        base.keys.sort_unstable_by(|a, b| a.0.cmp(&b.0));
        Ok(base)
    }

    /// Whether every pop that began before is done; dead ones do not count.
    fn wait_for_pops(&self, control: &Control<D>) -> bool {
        let since = Instant::now();
        (0..SLOTS).all(|slot| {
            while control.pops(slot) > 0 {
                let dead = self.disk.try_lock(&self.names.writer_lock(slot), true);
                if matches!(dead, Ok(Some(_))) {
                    break;
                }
                if since.elapsed() > POP_PATIENCE {
                    return false;
                }
                std::thread::sleep(Duration::from_millis(1));
            }
            true
        })
    }

    /// The segments to rewrite, and whether some are left for another run.
    fn choose(&self, base: &Base<D::File>, aim: Aim, first_new: u64) -> (Vec<u32>, bool) {
        let mut live = vec![0_u64; base.segments.len()];
        for (_, extents, _) in &base.keys {
            for extent in extents.iter() {
                live[extent.segment() as usize] += extent.len();
            }
        }
        let dead = |n: u32| base.value_bytes[n as usize] - live[n as usize];
        let mut eligible: Vec<u32> = base
            .current
            .iter()
            .copied()
            .filter(|n| !base.open.contains(n) && base.segment(*n).id() < first_new)
            .filter(|&n| match aim {
                Aim::Everything => true,
                // A small segment is worth joining to others: it holds little and costs a file.
                Aim::Dead(share) => {
                    let values = base.value_bytes[n as usize];
                    dead(n) as f64 >= share * values as f64
                        || values < self.options.segment_len() / 4
                }
            })
            .collect();
        // Those with the least to copy first: they free the most for the least space.
        eligible.sort_by_key(|&n| (live[n as usize], base.segment(n).id()));
        let mut sources = Vec::new();
        let mut bytes = 0;
        for &n in &eligible {
            if !sources.is_empty() && bytes + live[n as usize] > self.options.compaction_run_bytes {
                break;
            }
            bytes += live[n as usize];
            sources.push(n);
        }
        let has_more = sources.len() < eligible.len();
        // One output alone, with nothing dead in it, is as good as it gets.
        if let [only] = sources[..]
            && base.segment(only).header().output.is_some()
            && dead(only) == 0
        {
            sources.clear();
        }
        (sources, has_more)
    }

    /// Writes, syncs and publishes the output; returns its length, or `None` if it was stopped.
    fn write_output(
        &self,
        control: &Control<D>,
        base: &Base<D::File>,
        planned: &[Planned],
        replaces: &[u64],
        keeps: &[Keep],
        stop: &AtomicBool,
    ) -> Result<Option<u64>> {
        let batches = split(planned)?;
        let lists_len = replaces.len() as u64 * 8 + keeps.len() as u64 * 16;
        let data_len: u64 = batches.iter().map(|(_, layout)| layout.batch_len()).sum();
        let len = (HEADER_LEN + lists_len + data_len + SEAL_LEN).next_multiple_of(4096);
        let mut new = Unpublished::create(&self.disk, &self.names, "output", len)?;
        let id = control.take_segment_id(Announce::Output)?;
        let store = control.fixed.store;
        let output = Some((base.upto, replaces, keeps));
        let mut tail = new.begin(id, &NewSegment { store, slot: 0, output })?;
        let segment = Arc::clone(tail.segment());
        let mut pace = Pace::new(self.options.compaction_bytes_per_second);
        for (entries, layout) in batches {
            let mut claim = tail
                .claim(layout.batch_len())
                .ok_or_else(|| Error::Invalid("the output of a compaction is too short".into()))?;
            if !copy(base, &mut claim, entries, &layout, &mut pace, stop)? {
                control.clear_output();
                return Ok(None);
            }
            segment.settle(claim.offset(), base.upto)?;
        }
        tail.close();
        segment.file().sync().map_err(|e| Error::io("sync", segment.path(), e))?;
        new.publish(id)?;
        let dir = self.names.dir();
        let synced = self.disk.sync_dir(dir).map_err(|e| Error::io("sync", dir, e));
        control.raise_generation();
        control.clear_output();
        synced?;
        Ok(Some(len))
    }
}

impl Names {
    fn compaction_lock(&self) -> std::path::PathBuf {
        self.dir().join("compaction.lock")
    }
}

impl<F: DiskFile> Base<F> {
    fn segment(&self, number: u32) -> &Arc<Segment<F>> {
        &self.segments[number as usize]
    }

    /// What lies beside the sources: how far each chain reaches, and the lowest number there.
    fn outside(&self, sources: &[u32]) -> Result<Outside> {
        let mut outside = Outside { keeps: Vec::new(), floor: u64::MAX };
        for &number in self.current.iter().filter(|n| !sources.contains(n)) {
            let segment = self.segment(number);
            let mut end = 0;
            let is_output = segment.header().output.is_some();
            let mut next = segment.header().data_start;
            while let Ok(Link::Batch(len)) = segment.link(next) {
                if let Ok(State::Committed(sequence)) = segment.state(next)
                    && sequence <= self.upto
                {
                    end = next + len;
                    // An output holds entries of any age.
                    outside.floor = outside.floor.min(if is_output { 0 } else { sequence });
                }
                next += len;
            }
            if end > 0 || is_output {
                outside.keeps.push(Keep { id: segment.id(), end });
            }
        }
        Ok(outside)
    }

    /// The entries of the output in key order, and how many extents they are made of.
    fn plan(&self, sources: &[u32], outside: &Outside) -> Result<(Vec<Planned>, u64)> {
        let mut is_source = vec![false; self.segments.len()];
        sources.iter().for_each(|&n| is_source[n as usize] = true);
        let (clear, mut deletes) = self.removals(sources, outside.floor)?;
        let mut planned = Vec::new();
        let remove = |key, kind, sequence| Planned { key, kind, sequence, extents: None, len: 0 };
        planned.extend(clear.map(|sequence| remove(Key::default(), Kind::Clear, sequence)));
        let mut count = 0;
        for (key, extents, is_set) in &self.keys {
            // Deletes of keys that sort before it, and its own, come first.
            while let Some(entry) = deletes.first_entry()
                && entry.key() <= key
            {
                let (key, sequence) = entry.remove_entry();
                planned.push(remove(key, Kind::Delete, sequence));
            }
            let in_source = |extent: &Extent| is_source[extent.segment() as usize];
            let mut next = 0;
            while next < extents.len() {
                let first = next;
                next += 1;
                if !in_source(&extents[first]) {
                    continue;
                }
                // A set stands alone: moved to a later number it could lose to another.
                let kind = if *is_set && first == 0 { Kind::Set } else { Kind::Append };
                while kind == Kind::Append && next < extents.len() && in_source(&extents[next]) {
                    next += 1;
                }
                count += (next - first) as u64;
                planned.push(Planned {
                    key: key.clone(),
                    kind,
                    sequence: extents[next - 1].sequence(),
                    extents: Some((Arc::clone(extents), first..next)),
                    len: extents[first..next].iter().map(Extent::len).sum(),
                });
            }
        }
        planned.extend(deletes.into_iter().map(|(key, seq)| remove(key, Kind::Delete, seq)));
        Ok((planned, count))
    }

    /// The newest clear and the newest delete of each key in the sources, as far as they are
    /// still needed: something older than they are lies outside.
    fn removals(&self, sources: &[u32], floor: u64) -> Result<(Option<u64>, BTreeMap<Key, u64>)> {
        let (mut clear, mut deletes) = (None, BTreeMap::new());
        for &number in sources {
            let segment = self.segment(number);
            for (offset, len) in chain(segment)? {
                let Ok(State::Committed(of_batch)) = segment.state(offset) else { continue };
                for entry in segment.batch(offset, len)?.entries() {
                    let sequence = entry.sequence.unwrap_or(of_batch);
                    if sequence <= floor {
                        continue;
                    }
                    match entry.kind {
                        Kind::Clear => clear = clear.max(Some(sequence)),
                        Kind::Delete => {
                            let newest = deletes.entry(Key::from(entry.key)).or_insert(0);
                            *newest = sequence.max(*newest);
                        }
                        Kind::Append | Kind::Set => {}
                    }
                }
            }
        }
        deletes.retain(|_, sequence| Some(*sequence) > clear);
        Ok((clear, deletes))
    }
}

/// Cuts the entries into batches.
fn split(planned: &[Planned]) -> Result<Vec<(&[Planned], Layout)>> {
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

/// Copies entries into a batch of the output, each byte verified and checksummed anew on the way.
/// Returns whether it came to the end before it was stopped.
fn copy<F: DiskFile>(
    base: &Base<F>,
    claim: &mut Claim<F>,
    entries: &[Planned],
    layout: &Layout,
    pace: &mut Pace,
    stop: &AtomicBool,
) -> Result<bool> {
    let salt = claim.segment().salt();
    let path = claim.segment().path();
    let mut at = layout.values_start();
    let mut checksums = Vec::with_capacity(entries.len());
    let mut group: Vec<IoSlice<'_>> = Vec::with_capacity(GROUP_BUFFERS);
    let mut group_len = 0;
    let mut write = |group: &mut Vec<IoSlice<'_>>, len: &mut usize| -> Result<()> {
        claim.write(at, group).map_err(|e| Error::io("write to the segment", &path, e))?;
        at += *len as u64;
        pace.keep(*len as u64);
        group.clear();
        *len = 0;
        Ok(())
    };
    for entry in entries {
        let Some((extents, range)) = &entry.extents else {
            checksums.push(0);
            continue;
        };
        let mut hasher = salt.value_hasher();
        for extent in &extents[range.clone()] {
            let segment = base.segment(extent.segment());
            let mut check = segment.salt().value_hasher();
            for piece in segment.value(extent).chunks(GROUP_BYTES) {
                check.update(piece);
                hasher.update(piece);
                group.push(IoSlice::new(piece));
                group_len += piece.len();
                if group_len >= GROUP_BYTES || group.len() == GROUP_BUFFERS {
                    if stop.load(Ordering::Relaxed) {
                        return Ok(false);
                    }
                    write(&mut group, &mut group_len)?;
                }
            }
            segment.compare(extent, check.finalize())?;
        }
        checksums.push(hasher.finalize());
    }
    if group_len > 0 {
        write(&mut group, &mut group_len)?;
    }
    let mut head = vec![0; (layout.values_start() - WORDS_LEN) as usize];
    let new = entries.iter().zip(checksums).map(|(entry, value_checksum)| NewEntry {
        kind: entry.kind,
        key: entry.key.as_bytes(),
        value_len: entry.len,
        value_checksum,
        sequence: entry.sequence,
    });
    layout
        .encode(salt, claim.offset(), 0, new, &mut head)
        .map_err(|error| Error::Invalid(error.to_string()))?;
    claim.put(WORDS_LEN, &head);
    Ok(true)
}

/// Holds a rate, so that appends are not starved.
#[derive(Debug)]
struct Pace {
    bytes_per_second: Option<u64>,
    start: Instant,
    bytes: u64,
}

impl Pace {
    fn new(bytes_per_second: Option<u64>) -> Pace {
        Pace { bytes_per_second, start: Instant::now(), bytes: 0 }
    }

    fn keep(&mut self, bytes: u64) {
        self.bytes += bytes;
        let Some(rate) = self.bytes_per_second else { return };
        let due = Duration::from_secs_f64(self.bytes as f64 / rate.max(1) as f64);
        std::thread::sleep(due.saturating_sub(self.start.elapsed()));
    }
}

/// The thread of a handle that compacts by itself when enough is dead.
#[derive(Debug)]
pub(crate) struct Background {
    shared: Arc<Shared>,
    thread: std::sync::Mutex<Option<std::thread::JoinHandle<()>>>,
}

#[derive(Debug, Default)]
struct Shared {
    stop: AtomicBool,
    /// Whether something was removed since the thread last looked.
    nudged: std::sync::Mutex<bool>,
    wake: std::sync::Condvar,
}

/// The thread looks at most this often.
const PAUSE: Duration = Duration::from_millis(200);

impl Background {
    pub(crate) fn new() -> Background {
        Background { shared: Arc::default(), thread: std::sync::Mutex::new(None) }
    }

    /// Tells the thread that something was removed; starts it the first time.
    pub(crate) fn nudge<D: Disk>(&self, core: &Arc<Core<D>>, share: f64) {
        let mut nudged = self.shared.nudged.lock().unwrap_or_else(PoisonError::into_inner);
        if *nudged {
            return;
        }
        *nudged = true;
        drop(nudged);
        self.shared.wake.notify_one();
        let mut thread = self.thread.lock().unwrap_or_else(PoisonError::into_inner);
        if thread.is_none() {
            let (core, shared) = (Arc::downgrade(core), Arc::clone(&self.shared));
            let work = move || {
                while shared.wait() {
                    let Some(core) = core.upgrade() else { return };
                    // Nobody to tell: the next call of `compact` meets the same error.
                    let _ = core.compact_if_dead(share, &shared.stop);
                }
            };
            // Without a thread the store only grows until somebody calls `compact`.
            *thread = std::thread::Builder::new().name("partd-compaction".into()).spawn(work).ok();
        }
    }

    /// Stops the thread and waits for it.
    pub(crate) fn stop(&self) {
        self.shared.stop.store(true, Ordering::Relaxed);
        self.shared.wake.notify_one();
        let thread = self.thread.lock().unwrap_or_else(PoisonError::into_inner).take();
        if let Some(thread) = thread {
            // A panic in there has been printed; the store is as whole as after a kill.
            let _ = thread.join();
        }
    }
}

impl Shared {
    /// Waits until something was removed, and a pause; false to end.
    fn wait(&self) -> bool {
        let stopped = || self.stop.load(Ordering::Relaxed);
        let guard = self.nudged.lock().unwrap_or_else(PoisonError::into_inner);
        let guard = self
            .wake
            .wait_while(guard, |nudged| !*nudged && !stopped())
            .unwrap_or_else(PoisonError::into_inner);
        let (mut guard, _) = self
            .wake
            .wait_timeout_while(guard, PAUSE, |_| !stopped())
            .unwrap_or_else(PoisonError::into_inner);
        *guard = false;
        !stopped()
    }
}

impl<D: Disk> Core<D> {
    /// Compacts if more than a share of the store is dead, and more than two segments' worth.
    fn compact_if_dead(&self, share: f64, stop: &AtomicBool) -> Result<()> {
        let (values, live) =
            self.with_picture(|p| (p.value_bytes.iter().sum::<u64>(), p.index.live_bytes()))?;
        let dead = values.saturating_sub(live);
        if dead >= 2 * self.options.segment_len() && dead as f64 >= share * values as f64 {
            self.compact(Aim::Dead(share), stop)?;
        }
        Ok(())
    }
}
