//! The machine: its disk, its clock, its processes, and the calls that tests use to inspect and
//! control them.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering::Relaxed};
use std::sync::{Arc, Mutex};

use super::counts::Counts;
use super::defect::Defect;
use super::inode::{Inode, poke};
use super::lock;
use super::process::{Process, Sees};
use super::record::{Event, Record};
use crate::sim::image::{FileImage, Image};
use crate::sim::memory::Memory;

/// One process's view of the disk.
#[derive(Clone, Debug)]
pub struct SimDisk {
    pub(super) shared: Arc<Shared>,
    pub(super) process: Arc<Process>,
}

#[derive(Debug)]
pub(super) struct Shared {
    pub(super) state: Mutex<State>,
    pub(super) boot: u64,
    pub(super) defect: Option<Defect>,
    /// Whether operations are logged; otherwise they are only counted.
    pub(super) records: bool,
    /// Whether the store is being opened.
    pub(super) opening: AtomicBool,
    /// Whether the next call of `DiskFile::reserve` fails.
    pub(super) next_reserve_fails: AtomicBool,
    pub(super) counts: Counts,
    pub(super) base: Image,
}

#[derive(Debug, Default)]
pub(super) struct State {
    /// The directories, each with its inode number.
    pub(super) dirs: BTreeMap<PathBuf, u64>,
    /// The last inode number that was assigned.
    pub(super) identities: u64,
    pub(super) names: BTreeMap<PathBuf, Arc<Inode>>,
    /// Milliseconds since 1970.
    pub(super) now_unix_ms: u64,
    /// The inodes of the open files, each with its process.
    pub(super) open: Vec<(u32, u32)>,
    pub(super) locks: Vec<Held>,
    pub(super) log: Vec<Record>,
    pub(super) inodes: u32,
    pub(super) processes: u32,
    pub(super) tickets: u64,
    pub(super) syncs: u64,
    pub(super) random: u64,
    /// Pages of free space, if the disk is limited.
    pub(super) free_pages: Option<u64>,
    /// A process stored to a page that the disk had no space for: SIGBUS.
    pub(super) died_of_sigbus: bool,
    /// A process stored to space that had been freed, which a full disk could not provide.
    pub(super) stored_in_hole: bool,
}

impl State {
    pub(super) fn add_dir(&mut self, path: &Path) {
        let number = self.new_identity();
        self.dirs.insert(path.to_owned(), number);
    }

    /// The number of names of a file.
    pub(super) fn names_of(&self, inode: &Arc<Inode>) -> usize {
        self.names.values().filter(|named| Arc::ptr_eq(named, inode)).count()
    }

    pub(super) fn new_identity(&mut self) -> u64 {
        self.identities += 1;
        self.identities
    }
}

/// The locked object: identified by what it is, not by its name.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Locked {
    Dir(u64),
    Byte(u32, u64),
}

#[derive(Debug)]
pub(super) struct Held {
    pub(super) what: Locked,
    pub(super) exclusive: bool,
    pub(super) process: u32,
    pub(super) ticket: u64,
}

/// Inode numbers from here on belong to files that were built by hand.
const PUT_TOGETHER: u64 = 1 << 48;

/// The time at which every simulated machine boots.
const START_UNIX_MS: u64 = 1_700_000_000_000;

impl SimDisk {
    /// Boots a machine whose disk holds `image`.
    pub fn boot(image: &Image, seed: u64, defect: Option<Defect>) -> SimDisk {
        SimDisk::with(image, seed, defect, true)
    }

    /// Boots a machine without a log, for tests that only count or read.
    pub fn unlogged(image: &Image, seed: u64) -> SimDisk {
        SimDisk::with(image, seed, None, false)
    }

    pub(super) fn with(image: &Image, seed: u64, defect: Option<Defect>, records: bool) -> SimDisk {
        let mut state = State { random: seed, now_unix_ms: START_UNIX_MS, ..State::default() };
        for path in &image.dirs {
            state.add_dir(path);
        }
        let mut inodes: Vec<Arc<Inode>> = Vec::new();
        for (path, file, number) in image.inodes() {
            if let Some(inode) = inodes.get(number as usize) {
                state.names.insert(path.clone(), Arc::clone(inode));
                continue;
            }
            let mapping = Memory::zeroed(file.len);
            for (&page, bytes) in &file.pages {
                let at = u64::from(page) * 4096;
                let room = file.len.saturating_sub(at).min(4096) as usize;
                // Memory is stored in words of 8 bytes; the last word of a file that ends inside it
                // stays zero.
                poke(&mapping, at, &bytes.bytes()[..room & !7]);
            }
            // An image that was built by hand has no inode numbers.
            let identity = file.identity.unwrap_or(PUT_TOGETHER + u64::from(state.inodes));
            if identity < PUT_TOGETHER {
                state.identities = state.identities.max(identity);
            }
            let inode = Arc::new(Inode::new(number, identity, mapping));
            state.inodes = number + 1;
            state.names.insert(path.clone(), Arc::clone(&inode));
            inodes.push(inode);
        }
        let shared = Shared {
            state: Mutex::new(state),
            boot: image.boot,
            defect,
            records,
            opening: AtomicBool::new(false),
            next_reserve_fails: AtomicBool::new(false),
            counts: Counts::default(),
            base: image.clone(),
        };
        let first = SimDisk {
            shared: Arc::new(shared),
            process: Arc::new(Process::new(0, Sees::TheMachine)),
        };
        first.new_process()
    }

    /// Another process on the same machine.
    pub fn new_process(&self) -> SimDisk {
        self.process_that(Sees::TheMachine)
    }

    /// Another process, in a container that has a boot id of its own, or none.
    pub fn new_process_with_boot_id(&self, id: Option<[u8; 16]>) -> SimDisk {
        self.process_that(id.map_or(Sees::NoBootId, Sees::BootId))
    }

    /// Another process, which sees its directories on a file system that is unfit for stores.
    pub fn new_process_on_unfit(&self, why: &'static str) -> SimDisk {
        self.process_that(Sees::Unfit(why))
    }

    fn process_that(&self, sees: Sees) -> SimDisk {
        let mut state = lock(&self.shared.state);
        state.processes += 1;
        let process = Arc::new(Process::new(state.processes, sees));
        SimDisk { shared: Arc::clone(&self.shared), process }
    }

    /// The current contents of the disk, as if every file and name had been synced.
    pub fn snapshot(&self) -> Image {
        let state = lock(&self.shared.state);
        let file = |inode: &Arc<Inode>| {
            let mut bytes = vec![0; inode.mapping.len() as usize];
            inode.mapping.copy_out(0, &mut bytes);
            FileImage { identity: Some(inode.identity), ..FileImage::of(&bytes) }
        };
        let files = state.names.iter().map(|(path, inode)| (path.clone(), file(inode))).collect();
        Image { boot: self.shared.boot, dirs: state.dirs.keys().cloned().collect(), files }
    }

    /// The contents of the disk at boot.
    pub fn base(&self) -> &Image {
        &self.shared.base
    }

    pub fn defect(&self) -> Option<Defect> {
        self.shared.defect
    }

    /// The log so far.
    pub fn log(&self) -> Vec<Record> {
        lock(&self.shared.state).log.clone()
    }

    /// The length of the log so far.
    pub fn log_len(&self) -> usize {
        lock(&self.shared.state).log.len()
    }

    /// The log, which continues empty.
    pub fn take_log(&self) -> Vec<Record> {
        std::mem::take(&mut lock(&self.shared.state).log)
    }

    /// Whether the log has an event.
    pub fn has_logged(&self, is_meant: impl Fn(&Event) -> bool) -> bool {
        lock(&self.shared.state).log.iter().any(|record| is_meant(&record.event))
    }

    /// The commit events from position `from` of the log on, and the end of the log.
    pub fn commits(&self, from: usize) -> (Vec<Event>, usize) {
        let state = lock(&self.shared.state);
        let is_of_history =
            |event: &&Event| matches!(event, Event::Commit { .. } | Event::Recovered { .. });
        let events = state.log[from..].iter().map(|record| &record.event);
        (events.filter(is_of_history).cloned().collect(), state.log.len())
    }

    pub fn counts(&self) -> &Counts {
        &self.shared.counts
    }

    /// Limits the free space of the disk to `bytes`.
    pub fn limit(&self, bytes: u64) {
        lock(&self.shared.state).free_pages = Some(bytes / 4096);
    }

    /// Whether a process died because it stored to a page without space.
    pub fn died_of_sigbus(&self) -> bool {
        lock(&self.shared.state).died_of_sigbus
    }

    /// Whether a process stored to space that had been freed.
    pub fn stored_in_hole(&self) -> bool {
        lock(&self.shared.state).stored_in_hole
    }

    /// Sets whether the store is being opened, for defects of recovery.
    pub fn set_opening(&self, opening: bool) {
        self.shared.opening.store(opening, Relaxed);
    }

    /// Records that an API call begins.
    pub fn begin(&self, batch: Option<usize>) {
        *lock(&self.process.batch) = batch;
        self.record(Event::Begin { batch });
    }

    /// Records that a backup into a directory is complete, as of a sequence number.
    pub fn backed_up(&self, path: &Path, sequence: u64) {
        self.record(Event::BackedUp { path: path.to_owned(), sequence });
    }

    /// Records that the API call has returned.
    pub fn end(&self, durable: bool) {
        self.record(Event::End { durable });
    }

    pub(super) fn record(&self, event: Event) {
        if self.shared.records {
            lock(&self.shared.state).log.push(Record { process: self.process.number, event });
        }
    }

    pub(super) fn count(&self, count: impl Fn(&Counts) -> &AtomicU64) {
        count(&self.shared.counts).fetch_add(1, Relaxed);
    }

    /// Advances the clock.
    pub fn pass(&self, ms: u64) {
        lock(&self.shared.state).now_unix_ms += ms;
    }
}
