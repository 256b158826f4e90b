//! Compaction by itself: a thread of a handle that looks when something was removed, or when files
//! came, and compacts if it is worth it; and a short look when the handle closes, since processes
//! that live for a moment have no time for a thread.
//!
//! A handle that only appends keeps no index. Such a one counts small files, and builds an index for
//! the time of a compaction, once there are many.

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

/// The thread looks at most this often; after each error in a row, half as often.
const PAUSE: Duration = Duration::from_millis(200);
/// So many errors in a row make the pause no longer: 51 seconds.
const ERRORS_MAX: u32 = 8;
/// So many small segments are worth a compaction.
const SMALL_MAX: u64 = 64;
/// How long an append that meets the limit of the store waits for another compaction to make room, looking so often.
const GONE_PATIENCE: Duration = Duration::from_millis(500);
const GONE_PAUSE: Duration = Duration::from_millis(2);
/// How long a handle that closes may compact. Most of it is syncs, which take long on a busy disk;
/// given up each time, it would never catch up with the small files that come.
const CLOSING: Duration = Duration::from_secs(5);

/// The thread of a handle that compacts by itself.
#[derive(Debug)]
pub(crate) struct Background {
    shared: Arc<Shared>,
    thread: Mutex<Option<JoinHandle<()>>>,
    /// The newest segment that the handle had made when it last looked.
    newest: AtomicU64,
}

#[derive(Debug)]
struct Shared {
    /// Ends a compaction that is under way.
    stop: Stop,
    /// Why to look, since the thread last looked.
    wakeup: Wakeup<Reason>,
}

/// Why it may be worth a look.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
enum Reason {
    /// The handle has made a segment.
    Files,
    /// The handle has removed something, or there was no room for what it would write.
    Dead,
}

impl Background {
    pub(crate) fn new() -> Background {
        let shared = Shared { stop: Stop::default(), wakeup: Wakeup::new() };
        let (shared, thread) = (Arc::new(shared), Mutex::new(None));
        Background { shared, thread, newest: AtomicU64::new(0) }
    }

    /// Looks soon, since something was removed, or no room was left.
    pub(crate) fn removed<D: Disk>(&self, engine: &Arc<Engine<D>>) {
        self.nudge(engine, Reason::Dead);
    }

    /// Looks soon if the handle has made another segment. The first is none: a process that lives
    /// for a moment pays for no thread.
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
            let (engine, shared) = (Arc::downgrade(engine), Arc::clone(&self.shared));
            let work = move || {
                let mut errors = 0;
                while let Some(why) = shared.wakeup.sleep(PAUSE * 2_u32.pow(errors)) {
                    let Some(engine) = engine.upgrade() else { return };
                    // Nobody to tell: the next call of `compact` meets the same error.
                    errors = match run_once(&engine, why, share, &shared.stop) {
                        Ok(()) => 0,
                        Err(_) => (errors + 1).min(ERRORS_MAX),
                    };
                }
            };
            // Without a thread the store only grows until somebody calls `compact`.
            *thread = std::thread::Builder::new().name("partd-compaction".into()).spawn(work).ok();
            if thread.is_none() {
                // The next reason tries again.
                self.shared.wakeup.take();
            }
        }
    }

    /// Stops the thread and waits for it; then looks for a moment at what it had no time for.
    pub(crate) fn close<D: Disk>(&self, engine: &Engine<D>) {
        self.shared.stop.ask();
        self.shared.wakeup.close();
        let thread = self.thread.lock().unwrap_or_else(PoisonError::into_inner).take();
        if let Some(thread) = thread {
            // A panic in there has been printed; the store is as whole as after a kill.
            let _ = thread.join();
        }
        let Some(share) = engine.store.options.compaction_dead_share else { return };
        if engine.store.is_read_only || engine.store.is_temporary || std::thread::panicking() {
            return;
        }
        let why = match self.shared.wakeup.take() {
            Some(why) => why,
            // One in many handles that live for a moment looks, for all of them.
            None if engine.writer.newest() != 0
                && engine.writer.newest().is_multiple_of(SMALL_MAX) =>
            {
                Reason::Files
            }
            None => return,
        };
        // Nobody to tell, and nothing is worse than before.
        let _ = run_once(engine, why, share, &Stop::after(CLOSING));
    }
}

/// Compacts if it is worth it.
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
        // The handle has had no use for an index so far.
        reader.forget();
        return done;
    }
    Ok(())
}

/// Compacts if more than a share of the store would go, and more than two segments' worth; or
/// if there are many small segments. What open segments hold does not count: it cannot go.
/// Otherwise removes the segments in which all is dead, if any of them is more than a small one.
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

/// Removes the segments in which all is dead, that in which this handle writes among them. Returns whether
/// there may be room now.
pub(crate) fn drop_gone<D: Disk>(engine: &Engine<D>) -> Result<bool> {
    let Engine { store, writer, reader, .. } = engine;
    if store.options.compaction_dead_share.is_none() {
        return Ok(false);
    }
    let control = store.control()?;
    let own = writer.newest();
    let (live, gone) = reader.with_walked_version(store, |version| {
        let is_own = |number: &u32| version.segments[*number as usize].id() == own;
        let live_in = |number| version.index.live_bytes_in(number);
        let live = version.current().find(is_own).map_or(0, live_in);
        (live, version.at_rest().iter().any(AtRest::is_gone))
    })?;
    if !gone && live > 0 {
        return Ok(false);
    }
    if live == 0 {
        // What was to be written does not fit it, and so it would be ended anyway.
        writer.give_up_active(control, 0);
    }
    // Another compaction, perhaps that of this handle's own thread, may be removing them just now.
    let since = Instant::now();
    loop {
        let report = compact(engine, Aim::Gone, &Stop::default())?;
        if report.skipped != Some(Skipped::OtherCompaction) || since.elapsed() > GONE_PATIENCE {
            return Ok(true);
        }
        std::thread::sleep(GONE_PAUSE);
    }
}

/// What the segment files take, without a look into them.
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
    /// How many take less than a quarter of a segment.
    small: u64,
}
