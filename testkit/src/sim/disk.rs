//! The simulated disk: files in anonymous memory, names, locks, and a log of everything that was
//! stored, synced, created, renamed and removed, in one order.
//!
//! A [`SimDisk`] is one process's view of the disk. A process can be stopped after any of its
//! operations, and then resume or die there; a dead process does nothing more, and its locks are
//! released. The disk itself loses nothing; `timeline` computes from the log what a power cut
//! leaves behind.

use std::collections::{BTreeMap, BTreeSet};
use std::ffi::OsString;
use std::fs::File;
use std::io::{self, IoSlice};
use std::os::unix::fs::FileExt;
use std::panic::resume_unwind;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering::Relaxed};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};

use partd::log::fs::{Access, Dir, Disk, DiskFile, FileId, Mapping};
use partd_format::control::{COMMIT_AT, Commit};
use rustix::fs::MemfdFlags;

use super::faults::{Call, Faults, Meanwhile};
use super::image::{FileImage, Image};
use super::memory::Memory;
use super::{Rng, STORE};

/// One operation on the disk, and the process that made it.
#[derive(Clone, Debug)]
pub struct Record {
    pub process: u32,
    pub event: Event,
}

#[derive(Clone, Debug)]
pub enum Event {
    Store {
        inode: u32,
        offset: u64,
        bytes: Box<[u8]>,
    },
    Sync {
        inode: u32,
        /// Only the pages up to here, if set.
        len: Option<u64>,
    },
    /// Disk space was freed; the bytes read as zeros.
    Punch {
        inode: u32,
        offset: u64,
        len: u64,
    },
    /// Data that is not durable yet may never become so: its pages count as clean.
    SyncFailed {
        inode: u32,
    },
    Create {
        path: PathBuf,
        inode: u32,
        /// The inode number that `stat` reports.
        identity: u64,
        len: u64,
    },
    Rename {
        from: PathBuf,
        to: PathBuf,
        inode: u32,
    },
    Unlink {
        path: PathBuf,
        inode: u32,
    },
    MakeDir {
        path: PathBuf,
    },
    SyncDir {
        path: PathBuf,
    },
    /// Later syncs of the directory prove nothing.
    SyncDirFailed {
        path: PathBuf,
    },
    /// The commit word changed; a sequence number taken now belongs to `batch` of the workload.
    Commit {
        word: Commit,
        batch: Option<usize>,
    },
    /// A new control file is in place, for a history of this many batches.
    Recovered {
        sequence: u64,
    },
    /// A call of the store's public API begins; it writes `batch`, if any.
    Begin {
        batch: Option<usize>,
    },
    /// The call has returned without an error.
    End {
        durable: bool,
    },
}

/// A deliberate defect of the disk: a call that has no effect, as if the engine had omitted it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Defect {
    /// `sync` and durable appends sync no file.
    SyncLeftOut,
    /// They sync only every second file.
    EverySecondSyncLeftOut,
    /// A sync covers only what was stored before the API call began.
    SyncTooEarly,
    /// Recovery syncs no file.
    SyncInRecoveryLeftOut,
    /// The directory of the store is never synced.
    SyncOfDirectoryLeftOut,
    /// The directory that contains the store is never synced.
    SyncOfParentLeftOut,
    /// Files are created without allocating their space.
    AllocationLeftOut,
    /// Locks exclude no one.
    LocksLeftOut,
    /// The boot id stays the same after a power cut.
    BootIdStays,
    /// Every random number is the same, so all segments share one salt.
    RandomStays,
    /// A write through the file omits its last byte.
    WriteIsShort,
}

/// Counts of the calls to the disk.
#[derive(Debug, Default)]
pub struct Counts {
    pub loads: AtomicU64,
    pub loaded_bytes: AtomicU64,
    pub stores: AtomicU64,
    pub stored_bytes: AtomicU64,
    pub opens: AtomicU64,
    pub creates: AtomicU64,
    pub names: AtomicU64,
    pub lists: AtomicU64,
    pub locks: AtomicU64,
    pub syncs: AtomicU64,
}

impl Counts {
    /// Loads, bytes loaded, stores, and every other call, in that order.
    pub fn now(&self) -> [u64; 4] {
        let calls =
            [&self.opens, &self.creates, &self.names, &self.lists, &self.locks, &self.syncs];
        let calls = calls.iter().map(|count| count.load(Relaxed)).sum();
        [
            self.loads.load(Relaxed),
            self.loaded_bytes.load(Relaxed),
            self.stores.load(Relaxed),
            calls,
        ]
    }
}

#[derive(Debug)]
struct Shared {
    state: Mutex<State>,
    boot: u64,
    defect: Option<Defect>,
    /// Whether operations are logged; otherwise they are only counted.
    records: bool,
    /// Whether the store is being opened.
    opening: AtomicBool,
    counts: Counts,
    base: Image,
}

#[derive(Debug, Default)]
struct State {
    /// The directories, each with its inode number.
    dirs: BTreeMap<PathBuf, u64>,
    /// The last inode number that was assigned.
    identities: u64,
    names: BTreeMap<PathBuf, Arc<Inode>>,
    /// Milliseconds since 1970.
    now_unix_ms: u64,
    /// The inodes of the open files, each with its process.
    open: Vec<(u32, u32)>,
    locks: Vec<Held>,
    log: Vec<Record>,
    inodes: u32,
    processes: u32,
    tickets: u64,
    syncs: u64,
    random: u64,
    /// Pages of free space, if the disk is limited.
    free_pages: Option<u64>,
    /// A process stored to a page that the disk had no space for: SIGBUS.
    died_of_sigbus: bool,
    /// A process stored to space that had been freed, which a full disk could not provide.
    stored_in_hole: bool,
}

#[derive(Debug)]
struct Inode {
    number: u32,
    /// The inode number that `stat` reports: unchanged by a death and by a reboot.
    identity: u64,
    mapping: Memory,
    /// Pages whose disk space was freed.
    holes: Mutex<BTreeSet<u64>>,
    /// Without allocation: the pages that have space.
    backed: Option<Mutex<BTreeSet<u64>>>,
    /// Failed writebacks. Each open file reports a failure once; a file opened later reports the
    /// last failure if no one has seen it and the inode stayed open.
    failures: Mutex<Failures>,
}

#[derive(Clone, Copy, Debug, Default)]
struct Failures {
    count: u64,
    was_told: bool,
}

/// The locked object: identified by what it is, not by its name.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Locked {
    Dir(u64),
    Byte(u32, u64),
}

#[derive(Debug)]
struct Held {
    what: Locked,
    exclusive: bool,
    process: u32,
    ticket: u64,
}

/// One process's view of the disk.
#[derive(Clone, Debug)]
pub struct SimDisk {
    shared: Arc<Shared>,
    process: Arc<Process>,
}

#[derive(Debug)]
struct Process {
    number: u32,
    gate: Mutex<Gate>,
    moved: Condvar,
    batch: Mutex<Option<usize>>,
    faults: Mutex<Option<Faults>>,
}

#[derive(Debug)]
struct Gate {
    steps: u64,
    stop_at: Option<u64>,
    fate: Fate,
}

/// The state of a process that was asked to stop.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Fate {
    Running,
    Stopped,
    Dead,
    /// The call in which it was to stop has returned.
    Finished,
}

/// Inode numbers from here on belong to files that were built by hand.
const PUT_TOGETHER: u64 = 1 << 48;

/// The time at which every simulated machine boots.
const START_UNIX_MS: u64 = 1_700_000_000_000;

/// The payload that unwinds a dead process's thread at the end.
#[derive(Debug)]
pub struct Killed;

pub fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

impl SimDisk {
    /// Boots a machine whose disk holds `image`.
    pub fn boot(image: &Image, seed: u64, defect: Option<Defect>) -> SimDisk {
        SimDisk::with(image, seed, defect, true)
    }

    /// Boots a machine without a log, for tests that only count or read.
    pub fn unlogged(image: &Image, seed: u64) -> SimDisk {
        SimDisk::with(image, seed, None, false)
    }

    fn with(image: &Image, seed: u64, defect: Option<Defect>, records: bool) -> SimDisk {
        let mut state = State { random: seed, now_unix_ms: START_UNIX_MS, ..State::default() };
        for path in &image.dirs {
            state.add_dir(path);
        }
        for (path, file) in &image.files {
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
            let inode = Arc::new(Inode::new(state.inodes, identity, mapping));
            state.inodes += 1;
            state.names.insert(path.clone(), inode);
        }
        let shared = Shared {
            state: Mutex::new(state),
            boot: image.boot,
            defect,
            records,
            opening: AtomicBool::new(false),
            counts: Counts::default(),
            base: image.clone(),
        };
        let first = SimDisk { shared: Arc::new(shared), process: Arc::new(Process::new(0)) };
        first.new_process()
    }

    /// Another process on the same machine.
    pub fn new_process(&self) -> SimDisk {
        let mut state = lock(&self.shared.state);
        state.processes += 1;
        let process = Arc::new(Process::new(state.processes));
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

    /// Records that the API call has returned.
    pub fn end(&self, durable: bool) {
        self.record(Event::End { durable });
    }

    /// Stops this process right after its `at`th operation from now on, counted from 1.
    pub fn stop_at(&self, at: u64) {
        let mut gate = lock(&self.process.gate);
        *gate = Gate { steps: 0, stop_at: Some(at), fate: Fate::Running };
    }

    /// Records that the call that was to be stopped has returned.
    pub fn finished(&self) {
        let mut gate = lock(&self.process.gate);
        gate.stop_at = None;
        gate.fate = Fate::Finished;
        self.process.moved.notify_all();
    }

    /// Waits until the process has stopped, or its call has returned.
    pub fn wait(&self) -> Fate {
        let mut gate = lock(&self.process.gate);
        while gate.fate == Fate::Running {
            gate = self.process.moved.wait(gate).unwrap_or_else(PoisonError::into_inner);
        }
        gate.fate
    }

    /// Resumes a stopped process.
    pub fn resume(&self) {
        let mut gate = lock(&self.process.gate);
        if gate.fate == Fate::Stopped {
            gate.stop_at = None;
            gate.fate = Fate::Running;
            self.process.moved.notify_all();
        }
    }

    /// Resumes a stopped process until its `at`th operation from now on.
    pub fn go_on_until(&self, at: u64) {
        self.stop_at(at);
        self.process.moved.notify_all();
    }

    /// Releases the locks of a killed process, which never resumes.
    pub fn kill(&self) {
        let mut state = lock(&self.shared.state);
        state.locks.retain(|held| held.process != self.process.number);
        state.open.retain(|(_, process)| *process != self.process.number);
    }

    /// Records the fallible calls of this process from now on, and fails one of them if asked to.
    pub fn watch(&self, fails: Option<(usize, i32)>) {
        *lock(&self.process.faults) = Some(Faults { fails, ..Faults::default() });
    }

    /// Records the calls, and fails all from number `at` on.
    pub fn fail_for_good(&self, at: usize, error: i32) {
        let for_good = Some((at, error));
        *lock(&self.process.faults) = Some(Faults { for_good, ..Faults::default() });
    }

    /// Records the calls, and fails the first of a kind.
    pub fn fail_first(&self, call: Call, error: i32) {
        let first = Some((call, error));
        *lock(&self.process.faults) = Some(Faults { first, ..Faults::default() });
    }

    /// Records the calls, and runs `meanwhile` before one of them.
    pub fn interrupt(&self, at: usize, meanwhile: impl FnOnce() + Send + 'static) {
        let late = Some((at, Meanwhile(Box::new(meanwhile))));
        *lock(&self.process.faults) = Some(Faults { late, ..Faults::default() });
    }

    /// Stops recording, and returns the recorded calls.
    pub fn watched(&self) -> Vec<Call> {
        lock(&self.process.faults).take().map_or_else(Vec::new, |faults| faults.made)
    }

    /// Fails a writeback by the kernel, outside of any sync.
    pub fn fail_writeback(&self, path: &Path) {
        let inode = lock(&self.shared.state).names.get(path).cloned().expect("a file");
        let mut failures = lock(&inode.failures);
        *failures = Failures { count: failures.count + 1, was_told: false };
        drop(failures);
        self.record(Event::SyncFailed { inode: inode.number });
    }

    /// Whether any process has a file open.
    pub fn is_open(&self, path: &Path) -> bool {
        lock(&self.shared.state).names.get(path).is_some_and(|inode| Arc::strong_count(inode) > 1)
    }

    /// The number of open files of this process, counting repeated opens.
    pub fn open_files(&self) -> usize {
        let state = lock(&self.shared.state);
        state.open.iter().filter(|(_, process)| *process == self.process.number).count()
    }

    /// Runs a call that can fail.
    fn fallible(&self, call: Call) -> io::Result<()> {
        let meanwhile = lock(&self.process.faults).as_mut().and_then(Faults::meanwhile);
        if let Some(Meanwhile(happens)) = meanwhile {
            happens();
        }
        lock(&self.process.faults).as_mut().map_or(Ok(()), |faults| faults.pass(call))
    }

    /// Ends the thread of a killed process. Its unwinding still stores to mappings, so call this
    /// only after the last check of the disk.
    pub fn bury(&self) {
        let mut gate = lock(&self.process.gate);
        gate.fate = Fate::Dead;
        self.process.moved.notify_all();
    }

    fn record(&self, event: Event) {
        if self.shared.records {
            lock(&self.shared.state).log.push(Record { process: self.process.number, event });
        }
    }

    /// Ends an operation; a process can be stopped here.
    fn step(&self) {
        let mut gate = lock(&self.process.gate);
        gate.steps += 1;
        if gate.stop_at == Some(gate.steps) && !std::thread::panicking() {
            gate.fate = Fate::Stopped;
            self.process.moved.notify_all();
            while gate.fate == Fate::Stopped {
                gate = self.process.moved.wait(gate).unwrap_or_else(PoisonError::into_inner);
            }
            if gate.fate == Fate::Dead {
                drop(gate);
                resume_unwind(Box::new(Killed));
            }
        }
    }

    fn count(&self, count: impl Fn(&Counts) -> &AtomicU64) {
        count(&self.shared.counts).fetch_add(1, Relaxed);
    }

    fn file(&self, inode: Arc<Inode>) -> SimFile {
        lock(&self.shared.state).open.push((inode.number, self.process.number));
        let Failures { count, was_told } = *lock(&inode.failures);
        // The directory and this call hold two references; any other one is an open file.
        let is_open = Arc::strong_count(&inode) > 2;
        let told = if is_open && !was_told { count.saturating_sub(1) } else { count };
        SimFile { disk: self.clone(), inode, told: AtomicU64::new(told) }
    }

    fn rename_dir(&self, from: &Path, to: &Path) {
        let mut state = lock(&self.shared.state);
        let number = state.dirs.remove(from).unwrap_or_default();
        state.dirs.insert(to.to_owned(), number);
        let inside: Vec<PathBuf> =
            state.names.keys().filter(|path| path.parent() == Some(from)).cloned().collect();
        let mut moved = Vec::new();
        for old in inside {
            if let (Some(name), Some(inode)) = (old.file_name(), state.names.remove(&old)) {
                let new = to.join(name);
                moved.push(Event::Rename { from: old, to: new.clone(), inode: inode.number });
                state.names.insert(new, inode);
            }
        }
        drop(state);
        self.record(Event::MakeDir { path: to.to_owned() });
        moved.into_iter().for_each(|event| self.record(event));
    }

    fn rename_over(&self, from: &Path, to: &Path, may_replace: bool) -> io::Result<()> {
        self.fallible(if may_replace { Call::Replace } else { Call::Rename })?;
        self.count(|counts| &counts.names);
        let mut state = lock(&self.shared.state);
        if !may_replace && state.names.contains_key(to) {
            return Err(io::ErrorKind::AlreadyExists.into());
        }
        if state.dirs.contains_key(from) {
            drop(state);
            self.rename_dir(from, to);
            self.step();
            return Ok(());
        }
        let inode = state.names.remove(from).ok_or(io::ErrorKind::NotFound)?;
        let number = inode.number;
        let recovered = to
            .ends_with("control")
            .then(|| Commit::decode(inode.mapping.load(COMMIT_AT, Relaxed)).sequence);
        state.names.insert(to.to_owned(), inode);
        drop(state);
        self.record(Event::Rename { from: from.to_owned(), to: to.to_owned(), inode: number });
        if let Some(sequence) = recovered {
            self.record(Event::Recovered { sequence });
        }
        self.step();
        Ok(())
    }
}

impl Inode {
    fn new(number: u32, identity: u64, mapping: Memory) -> Inode {
        Inode {
            number,
            identity,
            mapping,
            holes: Mutex::default(),
            backed: None,
            failures: Mutex::default(),
        }
    }
}

impl Process {
    fn new(number: u32) -> Process {
        let gate = Gate { steps: 0, stop_at: None, fate: Fate::Running };
        Process {
            number,
            gate: Mutex::new(gate),
            moved: Condvar::new(),
            batch: Mutex::new(None),
            faults: Mutex::new(None),
        }
    }
}

impl Inode {
    /// The number of pages that the file takes on disk.
    fn pages(&self) -> u64 {
        self.mapping.len().div_ceil(4096) - lock(&self.holes).len() as u64
    }
}

/// Stores bytes to a mapping, word by word.
pub fn poke(mapping: &Mapping, offset: u64, bytes: &[u8]) {
    let (mut offset, mut bytes) = (offset, bytes);
    while offset % 8 == 0
        && let Some((word, rest)) = bytes.split_first_chunk()
    {
        mapping.store(offset, u64::from_le_bytes(*word), Relaxed);
        offset += 8;
        bytes = rest;
    }
    while !bytes.is_empty() {
        let skip = (offset & 7) as usize;
        let (part, rest) = bytes.split_at(bytes.len().min(8 - skip));
        let mut word = [0; 8];
        if part.len() < 8 {
            word = mapping.load(offset & !7, Relaxed).to_le_bytes();
        }
        word[skip..skip + part.len()].copy_from_slice(part);
        mapping.store(offset & !7, u64::from_le_bytes(word), Relaxed);
        offset += part.len() as u64;
        bytes = rest;
    }
}

/// An open directory of the simulated disk.
#[derive(Clone, Debug)]
pub struct SimDir {
    disk: SimDisk,
    path: PathBuf,
    number: u64,
}

impl State {
    fn add_dir(&mut self, path: &Path) {
        let number = self.new_identity();
        self.dirs.insert(path.to_owned(), number);
    }

    fn new_identity(&mut self) -> u64 {
        self.identities += 1;
        self.identities
    }
}

impl Disk for SimDisk {
    type Dir = SimDir;
    type File = SimFile;
    type Lock = SimLock;

    fn open_dir(&self, path: &Path) -> io::Result<SimDir> {
        self.fallible(Call::OpenDir)?;
        self.count(|counts| &counts.opens);
        let number = lock(&self.shared.state).dirs.get(path).copied();
        let number = number.ok_or(io::ErrorKind::NotFound)?;
        Ok(SimDir { disk: self.clone(), path: path.to_owned(), number })
    }

    fn create_dir(&self, dir: &Path) -> io::Result<()> {
        self.fallible(Call::CreateDir)?;
        self.count(|counts| &counts.names);
        let mut missing: Vec<&Path> = Vec::new();
        for path in dir.ancestors() {
            if !lock(&self.shared.state).dirs.contains_key(path) {
                missing.push(path);
            }
        }
        for path in missing.into_iter().rev() {
            lock(&self.shared.state).add_dir(path);
            self.record(Event::MakeDir { path: path.to_owned() });
            self.step();
        }
        Ok(())
    }

    fn boot_id(&self) -> io::Result<[u8; 16]> {
        self.fallible(Call::BootId)?;
        let mut id = [0xB0; 16];
        if self.shared.defect != Some(Defect::BootIdStays) {
            id[..8].copy_from_slice(&self.shared.boot.to_le_bytes());
        }
        Ok(id)
    }

    fn random(&self, bytes: &mut [u8]) -> io::Result<()> {
        self.fallible(Call::Random)?;
        if self.shared.defect == Some(Defect::RandomStays) {
            bytes.fill(0x5A);
            return Ok(());
        }
        let mut state = lock(&self.shared.state);
        let mut rng = Rng(state.random);
        for chunk in bytes.chunks_mut(8) {
            chunk.copy_from_slice(&rng.next().to_le_bytes()[..chunk.len()]);
        }
        state.random = rng.0;
        Ok(())
    }

    fn now_unix_ms(&self) -> u64 {
        lock(&self.shared.state).now_unix_ms
    }
}

impl SimDir {
    /// The path of an entry, if the directory still exists.
    fn at(&self, name: &str) -> io::Result<PathBuf> {
        match lock(&self.disk.shared.state).dirs.get(&self.path) {
            Some(number) if *number == self.number => Ok(self.path.join(name)),
            _ => Err(io::ErrorKind::NotFound.into()),
        }
    }

    fn inode(&self, name: &str) -> io::Result<Arc<Inode>> {
        let path = self.at(name)?;
        let inode = lock(&self.disk.shared.state).names.get(&path).cloned();
        inode.ok_or_else(|| io::ErrorKind::NotFound.into())
    }

    fn lock_on(&self, what: Locked, exclusive: bool) -> Option<SimLock> {
        let disk = &self.disk;
        let mut state = lock(&disk.shared.state);
        let is_in_the_way = |held: &Held| held.what == what && (exclusive || held.exclusive);
        if disk.shared.defect != Some(Defect::LocksLeftOut) && state.locks.iter().any(is_in_the_way)
        {
            return None;
        }
        state.tickets += 1;
        let (ticket, process) = (state.tickets, disk.process.number);
        state.locks.push(Held { what, exclusive, process, ticket });
        Some(SimLock { disk: disk.clone(), ticket })
    }

    /// The inode of a file, if the name still refers to it.
    fn known_inode(&self, name: &str, id: FileId) -> io::Result<Arc<Inode>> {
        let inode = self.inode(name)?;
        match inode.identity == id.inode {
            true => Ok(inode),
            false => Err(io::ErrorKind::StaleNetworkFileHandle.into()),
        }
    }

    /// The inode of the file in which a byte is to be locked, if the name still refers to it.
    fn inode_to_lock(&self, name: &str, id: FileId) -> io::Result<Arc<Inode>> {
        self.disk.fallible(Call::LockByte)?;
        self.disk.count(|counts| &counts.locks);
        self.known_inode(name, id)
    }
}

impl Dir for SimDir {
    type File = SimFile;
    type Lock = SimLock;

    fn create(&self, name: &str, len: u64) -> io::Result<SimFile> {
        let disk = &self.disk;
        disk.fallible(Call::Create)?;
        disk.count(|counts| &counts.creates);
        let path = self.at(name)?;
        let mut state = lock(&disk.shared.state);
        if state.names.contains_key(&path) {
            return Err(io::ErrorKind::AlreadyExists.into());
        }
        let mut backed = None;
        if disk.shared.defect == Some(Defect::AllocationLeftOut) {
            backed = Some(Mutex::default());
        } else if let Some(free) = &mut state.free_pages {
            *free = free.checked_sub(len.div_ceil(4096)).ok_or(io::ErrorKind::StorageFull)?;
        }
        let number = state.inodes;
        state.inodes += 1;
        let identity = state.new_identity();
        let inode = Arc::new(Inode { backed, ..Inode::new(number, identity, Memory::zeroed(len)) });
        state.names.insert(path.clone(), Arc::clone(&inode));
        drop(state);
        disk.record(Event::Create { path, inode: number, identity, len });
        disk.step();
        Ok(disk.file(inode))
    }

    fn open(&self, name: &str, _access: Access) -> io::Result<SimFile> {
        self.disk.fallible(Call::Open)?;
        self.disk.count(|counts| &counts.opens);
        let path = self.at(name)?;
        let inode = lock(&self.disk.shared.state).names.get(&path).cloned();
        Ok(self.disk.file(inode.ok_or(io::ErrorKind::NotFound)?))
    }

    /// Returns a file in memory with the bytes of now; those that are published do not change.
    fn open_unmapped(&self, name: &str, id: FileId) -> io::Result<File> {
        self.disk.fallible(Call::Open)?;
        self.disk.count(|counts| &counts.opens);
        let inode = self.known_inode(name, id)?;
        let mut bytes = vec![0; inode.mapping.len() as usize];
        inode.mapping.copy_out(0, &mut bytes);
        let file = File::from(rustix::fs::memfd_create("partd-sim", MemfdFlags::CLOEXEC)?);
        file.write_all_at(&bytes, 0)?;
        Ok(file)
    }

    fn rename(&self, from: &str, to: &str) -> io::Result<()> {
        self.disk.rename_over(&self.at(from)?, &self.at(to)?, false)
    }

    fn replace(&self, from: &str, to: &str) -> io::Result<()> {
        self.disk.rename_over(&self.at(from)?, &self.at(to)?, true)
    }

    fn unlink(&self, name: &str) -> io::Result<()> {
        self.disk.fallible(Call::Unlink)?;
        self.disk.remove_name(&self.at(name)?)
    }

    fn list(&self) -> io::Result<Vec<OsString>> {
        self.disk.fallible(Call::List)?;
        self.disk.count(|counts| &counts.lists);
        self.at("")?;
        let state = lock(&self.disk.shared.state);
        let paths = state.names.keys().chain(state.dirs.keys());
        let in_dir = paths.filter(|path| path.parent() == Some(&*self.path));
        Ok(in_dir.filter_map(|path| path.file_name().map(ToOwned::to_owned)).collect())
    }

    fn id_of(&self, name: &str) -> io::Result<FileId> {
        self.disk.fallible(Call::Stat)?;
        let path = self.at(name)?;
        let state = lock(&self.disk.shared.state);
        if let Some(number) = state.dirs.get(&path) {
            return Ok(FileId { device: 1, inode: *number });
        }
        let inode = state.names.get(&path).ok_or(io::ErrorKind::NotFound)?;
        Ok(FileId { device: 1, inode: inode.identity })
    }

    fn disk_bytes(&self, name: &str) -> io::Result<u64> {
        self.disk.fallible(Call::Stat)?;
        Ok(self.inode(name)?.pages() * 4096)
    }

    fn is_removed(&self) -> io::Result<bool> {
        Ok(self.at("").is_err())
    }

    fn open_dir(&self, name: &str) -> io::Result<SimDir> {
        self.disk.open_dir(&self.at(name)?)
    }

    fn remove_dir(&self, name: &str, dir: &SimDir) -> io::Result<()> {
        self.disk.fallible(Call::RemoveDir)?;
        self.disk.count(|counts| &counts.names);
        let path = self.at(name)?;
        let mut state = lock(&self.disk.shared.state);
        match state.dirs.get(&path) {
            None => return Err(io::ErrorKind::NotFound.into()),
            Some(number) if *number != dir.number => {
                return Err(io::ErrorKind::StaleNetworkFileHandle.into());
            }
            Some(_) => {}
        }
        if state.names.keys().any(|file| file.parent() == Some(&*path)) {
            return Err(io::ErrorKind::DirectoryNotEmpty.into());
        }
        state.dirs.remove(&path);
        Ok(())
    }

    fn sync(&self) -> io::Result<()> {
        self.disk.sync_dir(&self.path)
    }

    fn sync_name(&self) -> io::Result<()> {
        self.path.parent().map_or(Ok(()), |parent| self.disk.sync_dir(parent))
    }

    fn try_lock(&self, exclusive: bool) -> io::Result<Option<SimLock>> {
        self.disk.fallible(Call::TryLock)?;
        self.disk.count(|counts| &counts.locks);
        Ok(self.lock_on(Locked::Dir(self.number), exclusive))
    }

    fn try_lock_byte(
        &self,
        name: &str,
        id: FileId,
        bytes: &mut dyn Iterator<Item = u64>,
        exclusive: bool,
    ) -> io::Result<Option<(u64, SimLock)>> {
        let number = self.inode_to_lock(name, id)?.number;
        for at in bytes {
            if let Some(lock) = self.lock_on(Locked::Byte(number, at), exclusive) {
                return Ok(Some((at, lock)));
            }
        }
        Ok(None)
    }

    fn is_byte_locked(&self, name: &str, id: FileId, at: u64) -> io::Result<bool> {
        let what = Locked::Byte(self.inode_to_lock(name, id)?.number, at);
        Ok(lock(&self.disk.shared.state).locks.iter().any(|held| held.what == what))
    }

    fn unfit(&self) -> io::Result<Option<String>> {
        self.disk.fallible(Call::Stat)?;
        Ok(None)
    }
}

impl SimDisk {
    /// Removes a file, even if it is open.
    pub fn remove_name(&self, path: &Path) -> io::Result<()> {
        self.count(|counts| &counts.names);
        let mut state = lock(&self.shared.state);
        let inode = state.names.remove(path).ok_or(io::ErrorKind::NotFound)?;
        if let Some(free) = &mut state.free_pages {
            *free += inode.pages();
        }
        drop(state);
        self.record(Event::Unlink { path: path.to_owned(), inode: inode.number });
        self.step();
        Ok(())
    }

    /// Opens a file by its path.
    pub fn open_path(&self, path: &Path) -> io::Result<SimFile> {
        let inode = lock(&self.shared.state).names.get(path).cloned();
        Ok(self.file(inode.ok_or(io::ErrorKind::NotFound)?))
    }

    /// Replaces a file with a copy that has the same bytes.
    pub fn replace_with_copy(&self, path: &Path) {
        let mut state = lock(&self.shared.state);
        let Some(old) = state.names.get(path).cloned() else { return };
        let copy = Memory::zeroed(old.mapping.len());
        let mut bytes = vec![0; old.mapping.len() as usize];
        old.mapping.copy_out(0, &mut bytes);
        poke(&copy, 0, &bytes);
        let number = state.inodes;
        state.inodes += 1;
        let identity = state.new_identity();
        state.names.insert(path.to_owned(), Arc::new(Inode::new(number, identity, copy)));
    }

    /// Gives a file a second name, replacing the file that has it.
    pub fn put_in_place(&self, from: &Path, to: &Path) {
        let mut state = lock(&self.shared.state);
        if let Some(inode) = state.names.get(from).cloned() {
            state.names.insert(to.to_owned(), inode);
        }
    }

    /// The names of the files in a directory.
    pub fn names_in(&self, dir: &Path) -> Vec<PathBuf> {
        let state = lock(&self.shared.state);
        state.names.keys().filter(|path| path.parent() == Some(dir)).cloned().collect()
    }

    /// Advances the clock.
    pub fn pass(&self, ms: u64) {
        lock(&self.shared.state).now_unix_ms += ms;
    }

    fn sync_dir(&self, dir: &Path) -> io::Result<()> {
        if let Err(error) = self.fallible(Call::SyncDir) {
            if Call::SyncDir.loses(error.raw_os_error().unwrap_or(0)) {
                self.record(Event::SyncDirFailed { path: dir.to_owned() });
            }
            return Err(error);
        }
        self.count(|counts| &counts.syncs);
        let is_store = dir == Path::new(STORE);
        let left_out = match self.shared.defect {
            Some(Defect::SyncOfDirectoryLeftOut) => is_store,
            Some(Defect::SyncOfParentLeftOut) => !is_store,
            _ => false,
        };
        if !left_out {
            self.record(Event::SyncDir { path: dir.to_owned() });
        }
        self.step();
        Ok(())
    }
}

/// An open file of the simulated disk.
#[derive(Debug)]
pub struct SimFile {
    disk: SimDisk,
    inode: Arc<Inode>,
    /// The number of failures that this file has reported.
    told: AtomicU64,
}

impl SimFile {
    /// Fails if a failure is injected, or if a writeback has failed that this file has not
    /// reported.
    fn write_back(&self) -> io::Result<()> {
        let mut failures = lock(&self.inode.failures);
        let failed = self.disk.fallible(Call::Sync);
        failures.count += u64::from(failed.is_err());
        if self.told.swap(failures.count, Relaxed) < failures.count {
            failures.was_told = true;
            self.disk.record(Event::SyncFailed { inode: self.inode.number });
            return Err(failed.err().unwrap_or_else(|| io::Error::from_raw_os_error(libc::EIO)));
        }
        Ok(())
    }

    /// Allocates pages at their first store, if they have no space.
    fn back(&self, offset: u64, len: u64) {
        let Some(backed) = &self.inode.backed else { return };
        let mut backed = lock(backed);
        let mut state = lock(&self.disk.shared.state);
        for page in offset / 4096..(offset + len).div_ceil(4096) {
            if backed.insert(page)
                && let Some(free) = state.free_pages
            {
                state.died_of_sigbus |= free == 0;
                state.free_pages = Some(free.saturating_sub(1));
            }
        }
    }
}

impl DiskFile for SimFile {
    fn mapping(&self) -> &Mapping {
        &self.inode.mapping
    }

    fn id(&self) -> FileId {
        FileId { device: 1, inode: self.inode.identity }
    }

    /// True for every second file, so that both ways of writing into an existing file are used.
    fn is_cached(&self, _: u64) -> bool {
        self.inode.number.is_multiple_of(2)
    }

    fn stored(&self, offset: u64, len: u64) {
        let shared = &self.disk.shared;
        shared.counts.stores.fetch_add(1, Relaxed);
        shared.counts.stored_bytes.fetch_add(len, Relaxed);
        self.back(offset, len);
        let pages = offset / 4096..(offset + len).div_ceil(4096);
        if lock(&self.inode.holes).range(pages).next().is_some() {
            lock(&shared.state).stored_in_hole = true;
        }
        if shared.records && len > 0 {
            let mut bytes = vec![0; len as usize].into_boxed_slice();
            self.inode.mapping.copy_out(offset, &mut bytes);
            let process = self.disk.process.number;
            let inode = self.inode.number;
            let mut state = lock(&shared.state);
            let control = state.names.get(&Path::new(STORE).join("control"));
            let is_commit = offset == COMMIT_AT && control.is_some_and(|c| c.number == inode);
            let word = is_commit.then(|| <[u8; 8]>::try_from(&bytes[..]).ok()).flatten();
            state.log.push(Record { process, event: Event::Store { inode, offset, bytes } });
            if let Some(word) = word {
                let word = Commit::decode(u64::from_le_bytes(word));
                let batch = *lock(&self.disk.process.batch);
                state.log.push(Record { process, event: Event::Commit { word, batch } });
            }
        }
        self.disk.step();
    }

    fn loaded(&self, _offset: u64, len: u64) {
        self.disk.count(|counts| &counts.loads);
        self.disk.shared.counts.loaded_bytes.fetch_add(len, Relaxed);
    }

    fn write_at(&self, buffers: &mut [IoSlice<'_>], offset: u64) -> io::Result<()> {
        let mut bytes: Vec<u8> = buffers.iter().flat_map(|buffer| buffer.iter().copied()).collect();
        if self.disk.shared.defect == Some(Defect::WriteIsShort) {
            bytes.pop();
        }
        if self.inode.mapping.len() < offset + bytes.len() as u64 {
            return Err(io::ErrorKind::InvalidInput.into());
        }
        let failed = self.disk.fallible(Call::WriteAt);
        if failed.is_err() {
            // A part was written.
            bytes.truncate(bytes.len() / 2);
        }
        poke(&self.inode.mapping, offset, &bytes);
        self.stored(offset, bytes.len() as u64);
        failed
    }

    fn sync(&self) -> io::Result<()> {
        let shared = &self.disk.shared;
        self.write_back()?;
        self.disk.count(|counts| &counts.syncs);
        let mut state = lock(&shared.state);
        state.syncs += 1;
        let (syncs, opening) = (state.syncs, shared.opening.load(Relaxed));
        drop(state);
        let left_out = match shared.defect {
            Some(Defect::SyncLeftOut) => !opening,
            Some(Defect::SyncInRecoveryLeftOut) => opening,
            Some(Defect::EverySecondSyncLeftOut) => syncs.is_multiple_of(2),
            _ => false,
        };
        if !left_out {
            self.disk.record(Event::Sync { inode: self.inode.number, len: None });
        }
        self.disk.step();
        Ok(())
    }

    fn punch(&self, offset: u64, len: u64) -> io::Result<()> {
        self.disk.fallible(Call::Punch)?;
        let end = offset.checked_add(len).filter(|end| *end <= self.inode.mapping.len());
        let end = end.ok_or(io::ErrorKind::InvalidInput)?;
        let mapping: &Mapping = &self.inode.mapping;
        let mut word = offset;
        // The range has many words, most of them already zero.
        while word < end {
            if mapping.load(word, Relaxed) != 0 {
                mapping.store(word, 0, Relaxed);
            }
            word += 8;
        }
        let mut holes = lock(&self.inode.holes);
        let before = holes.len();
        holes.extend(offset.div_ceil(4096)..end / 4096);
        let given = (holes.len() - before) as u64;
        drop(holes);
        if let Some(free) = &mut lock(&self.disk.shared.state).free_pages {
            *free += given;
        }
        self.disk.record(Event::Punch { inode: self.inode.number, offset, len });
        self.disk.step();
        Ok(())
    }
}

impl Drop for SimFile {
    fn drop(&mut self) {
        let mut state = lock(&self.disk.shared.state);
        let this = (self.inode.number, self.disk.process.number);
        // The entry is gone if the process was killed.
        if let Some(place) = state.open.iter().position(|open| *open == this) {
            state.open.swap_remove(place);
        }
    }
}

/// A lock that is held until it is dropped or its process is killed.
#[derive(Debug)]
pub struct SimLock {
    disk: SimDisk,
    ticket: u64,
}

impl Drop for SimLock {
    fn drop(&mut self) {
        lock(&self.disk.shared.state).locks.retain(|held| held.ticket != self.ticket);
    }
}
