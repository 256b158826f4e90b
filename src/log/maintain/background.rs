//! Automatic compaction. A background thread of the handle wakes up when the handle has removed
//! data or created segments, and compacts if that is worth the cost. A closing handle may compact
//! once more within a time limit, because a short-lived process has no time for a thread.
//!
//! A handle that only appends keeps no index. It counts small segment files instead, and builds an
//! index for the duration of a compaction once there are many.

use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use crate::error::Result;
use crate::log::fs::Disk;
use crate::log::maintain::compaction::{Aim, Skipped, Stop, compact};
use crate::log::maintain::engine::Engine;
use crate::log::maintain::wakeup::Wakeup;
use crate::log::read::at_rest::AtRest;
use crate::log::segment::space::for_each_segment;
use crate::log::store::Store;

/// The shortest pause between two checks; it doubles with each consecutive error.
const PAUSE: Duration = Duration::from_millis(200);
/// Backoff stops growing after 8 consecutive errors, at 51 seconds.
const ERRORS_MAX: u32 = 8;
/// This many small segments are worth a compaction.
const SMALL_MAX: u64 = 64;
/// How long an append that finds the store full waits for another compaction to make room; it
/// retries every `GONE_PAUSE`.
const GONE_PATIENCE: Duration = Duration::from_millis(500);
const GONE_PAUSE: Duration = Duration::from_millis(2);
/// How long a closing handle may compact. Most of the time goes to syncs, which are slow on a busy
/// disk; with a shorter limit, every attempt might be given up and small files would accumulate.
const CLOSING: Duration = Duration::from_secs(5);

/// The compaction thread of a handle, started on first use.
#[derive(Debug)]
pub(crate) struct Background {
    shared: Arc<Shared>,
    thread: Mutex<Option<JoinHandle<()>>>,
    /// The id of the handle's newest segment at the last call of `wrote`.
    newest: AtomicU64,
}

#[derive(Debug)]
struct Shared {
    /// Ends a running compaction.
    stop: Stop,
    /// The reason to check the store, if one came up since the last check.
    wakeup: Wakeup<Reason>,
}

/// Why a compaction may be worth the cost.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
enum Reason {
    /// The handle has created a segment.
    Files,
    /// The handle has removed data, or an append found no room.
    Dead,
}

impl Background {
    pub(crate) fn new() -> Background {
        let shared = Shared { stop: Stop::default(), wakeup: Wakeup::new() };
        let (shared, thread) = (Arc::new(shared), Mutex::new(None));
        Background { shared, thread, newest: AtomicU64::new(0) }
    }

    /// Schedules a check, because data was removed or an append found no room.
    pub(crate) fn removed<D: Disk>(&self, engine: &Arc<Engine<D>>) {
        self.nudge(engine, Reason::Dead);
    }

    /// Schedules a check if the handle has created a segment since the last call. The handle's
    /// first segment does not count, so that a short-lived process does not pay for a thread.
    #[inline]
    pub(crate) fn wrote<D: Disk>(&self, engine: &Arc<Engine<D>>) {
        let newest = engine.writer.newest();
        if newest != self.newest.load(Ordering::Relaxed)
            && self.newest.swap(newest, Ordering::Relaxed) != 0
        {
            self.nudge(engine, Reason::Files);
        }
    }

    fn nudge<D: Disk>(&self, engine: &Arc<Engine<D>>, why: Reason) {
        let Some(share) = engine.store.options.compaction_dead_share else { return };
        if !self.shared.wakeup.wake(why) {
            return;
        }
        let mut thread = self.thread.lock().unwrap_or_else(PoisonError::into_inner);
        if thread.is_none() {
            let failed = |task, error: &_| engine.store.background_error(task, error);
            let (engine, shared) = (Arc::downgrade(engine), Arc::clone(&self.shared));
            let work = move || {
                let mut errors = 0;
                while let Some(why) = shared.wakeup.sleep(PAUSE * 2_u32.pow(errors)) {
                    let Some(engine) = engine.upgrade() else { return };
                    errors = match run_once(&engine, why, share, &shared.stop) {
                        Ok(()) => 0,
                        Err(error) => {
                            engine.store.background_error("compaction", &error);
                            (errors + 1).min(ERRORS_MAX)
                        }
                    };
                }
            };
            // Not fatal: without a thread the store grows until someone calls `compact`.
            let spawned = std::thread::Builder::new().name("partd-compaction".into()).spawn(work);
            *thread =
                spawned.inspect_err(|error| failed("start of the compaction thread", error)).ok();
            if thread.is_none() {
                // Clear the reason, so that the next one tries to start the thread again.
                self.shared.wakeup.take();
            }
        }
    }

    /// Stops the thread, waits for it, and handles a reason that it left, within `CLOSING`.
    pub(crate) fn close<D: Disk>(&self, engine: &Engine<D>) {
        self.shared.stop.ask();
        self.shared.wakeup.close();
        let thread = self.thread.lock().unwrap_or_else(PoisonError::into_inner).take();
        if let Some(thread) = thread {
            // The panic hook has printed the panic; the store is as consistent as after a kill.
            if thread.join().is_err() {
                engine.store.background_error("compaction", &"the thread panicked");
            }
        }
        let Some(share) = engine.store.options.compaction_dead_share else { return };
        if engine.store.is_read_only || engine.store.is_temporary || std::thread::panicking() {
            return;
        }
        let why = match self.shared.wakeup.take() {
            Some(why) => why,
            // A short-lived handle starts no thread. One in `SMALL_MAX` of them compacts for all.
            None if engine.writer.newest() != 0
                && engine.writer.newest().is_multiple_of(SMALL_MAX) =>
            {
                Reason::Files
            }
            None => return,
        };
        // A failed compaction leaves the store consistent.
        if let Err(error) = run_once(engine, why, share, &Stop::after(CLOSING)) {
            engine.store.background_error("compaction at close", &error);
        }
    }
}

/// Compacts if that is worth the cost. A handle without an index first decides by the disk space of
/// the files.
fn run_once<D: Disk>(engine: &Engine<D>, why: Reason, share: f64, stop: &Stop) -> Result<()> {
    let Engine { store, reader, .. } = engine;
    if reader.is_built() {
        return compact_if_worth(engine, share, stop);
    }
    let files = files(store)?;
    let is_worth = files.small >= SMALL_MAX
        || why == Reason::Dead && files.bytes >= 2 * store.options.segment_len();
    if is_worth {
        let done = compact_if_worth(engine, share, stop);
        // This handle has not needed an index so far, so it does not keep this one.
        reader.forget();
        return done;
    }
    Ok(())
}

/// Compacts if that frees at least `share` of the store and at least two segments' worth, or if
/// there are many small segments. Open segments do not count, because they cannot be compacted.
/// Otherwise removes the wholly dead segments, if any of them is not small.
fn compact_if_worth<D: Disk>(engine: &Engine<D>, share: f64, stop: &Stop) -> Result<()> {
    let Engine { store, reader, .. } = engine;
    let (at_rest, all) = reader
        .with_walked_version(store, |version| (version.at_rest(), version.all_batch_bytes()))?;
    let segment_len = store.options.segment_len();
    let gain: u64 = at_rest.iter().map(AtRest::gain).sum();
    let small = at_rest.iter().filter(|segment| segment.is_small(segment_len)).count();
    if gain >= 2 * segment_len && gain as f64 >= share * all as f64 || small as u64 >= SMALL_MAX {
        compact(engine, Aim::Dead(share), stop)?;
    } else if at_rest.iter().any(|s| s.is_gone() && !s.is_small(segment_len)) {
        compact(engine, Aim::Gone, stop)?;
    }
    Ok(())
}

/// Removes the wholly dead segments, including those that this handle writes to. Returns whether there
/// may be room now.
pub(crate) fn drop_gone<D: Disk>(engine: &Engine<D>) -> Result<bool> {
    let Engine { store, writer, reader, .. } = engine;
    if store.options.compaction_dead_share.is_none() {
        return Ok(false);
    }
    let control = store.control()?;
    let mut own = writer.active_ids();
    let (is_all_live, gone) = reader.with_walked_version(store, |version| {
        let count = own.len();
        own.retain(|own| {
            let is_it = |number: &u32| version.segments[*number as usize].id() == *own;
            version.current().find(is_it).is_none_or(|n| version.index.live_bytes_in(n) == 0)
        });
        (count > 0 && own.is_empty(), version.at_rest().iter().any(AtRest::is_gone))
    })?;
    if !gone && is_all_live {
        return Ok(false);
    }
    // The pending batch fits into none of them.
    while writer.give_up_active(control, |active| own.contains(&active.segment().id())) {}
    // Another compaction, perhaps on this handle's own thread, may be removing them right now.
    let since = Instant::now();
    loop {
        let report = compact(engine, Aim::Gone, &Stop::default())?;
        if report.skipped != Some(Skipped::OtherCompaction) || since.elapsed() > GONE_PATIENCE {
            return Ok(true);
        }
        std::thread::sleep(GONE_PAUSE);
    }
}

/// Counts the disk space of the segment files, and how many are small, without opening them.
fn files<D: Disk>(store: &Store<D>) -> Result<Files> {
    let mut files = Files::default();
    for_each_segment(store, |bytes| {
        files.bytes += bytes;
        files.small += u64::from(bytes < store.options.segment_len() / 4);
    })?;
    Ok(files)
}

#[derive(Clone, Copy, Debug, Default)]
struct Files {
    bytes: u64,
    /// How many take less disk space than a quarter of a segment.
    small: u64,
}
