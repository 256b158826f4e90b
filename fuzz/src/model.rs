//! Runs operations on a store, and compares every answer with a model.
//!
//! The model is a [`Dict`] and the list of all batches, in order. An operation of a process that
//! dies in it may or may not have happened: the next read of the store decides. After a power cut
//! the store equals the model after some number of batches, at or after the last durable one.

use std::panic::{AssertUnwindSafe, catch_unwind, resume_unwind};
use std::path::Path;
use std::sync::Arc;

use partd::{Batch, Dict, Durability, Key, Op as BatchOp, Partd, SegmentLog};

use crate::disk::{Death, MemDisk, World, light_fuse};
use crate::ops::{CHANGES_MAX, Change, OPERATIONS_MAX, Op, TIMES};

/// The number of handles.
const HANDLES: usize = 3;
const STORE: &str = "/store";
/// A key that is deleted only to write a batch, whatever it holds.
const NO_KEY: u8 = u8::MAX;

/// A handle and its process.
#[derive(Debug)]
struct Process {
    disk: MemDisk,
    log: SegmentLog<MemDisk>,
}

/// A run: the store, the open handles, and the model.
#[derive(Debug)]
struct Run {
    world: Arc<World>,
    live: [Option<Process>; HANDLES],
    /// Handles of dead processes: dropped at the end, since a dead process releases nothing.
    dead: Vec<Process>,
    model: Dict,
    history: Vec<Vec<(Change, Vec<u8>)>>,
    /// The number of batches that an acknowledged sync made durable.
    durable: usize,
    tag: u8,
}

/// Runs operations on a store and on the model.
///
/// # Panics
/// Panics if the store's answer differs from the model's: a defect of the engine.
pub fn run(ops: &[Op]) {
    let mut run = Run {
        world: World::new(),
        live: [const { None }; HANDLES],
        dead: Vec::new(),
        model: Dict::new(),
        history: Vec::new(),
        durable: 0,
        tag: 0,
    };
    for op in ops.iter().take(OPERATIONS_MAX) {
        run.step(op);
    }
    for handle in 0..HANDLES as u8 {
        if run.live[usize::from(handle)].is_some() {
            run.compare(handle);
        }
    }
    run.live = [const { None }; HANDLES];
    run.compare(0);
}

fn key(number: u8) -> Key {
    // Short keys, long ones, and ones with zero bytes.
    match number % 12 {
        _ if number == NO_KEY => Key::from("no key"),
        10 => Key::from([0, number]),
        11 => Key::from(vec![b'k'; 40]),
        small => Key::from(format!("k{small}")),
    }
}

/// A prefix of one key, of many, or of none.
fn prefix(number: u8) -> Key {
    let key = key(number);
    let len = usize::from(number / 16) % 4;
    Key::from(&key.as_bytes()[..len.min(key.len())])
}

fn apply(model: &Dict, changes: &[(Change, Vec<u8>)]) {
    model.write(&batch(changes), Durability::Plain).expect("the model accepts every batch");
}

fn batch(changes: &[(Change, Vec<u8>)]) -> Batch<'_> {
    let mut batch = Batch::new();
    for (change, value) in changes {
        batch.push(match change {
            Change::Append(number, _) => BatchOp::Append(key(*number), value),
            Change::Set(number, _) => BatchOp::Set(key(*number), value),
            Change::Delete(number) => BatchOp::Delete(key(*number)),
            Change::Clear => BatchOp::Clear,
            Change::DeletePrefix(number) => BatchOp::DeletePrefix(prefix(*number)),
        });
    }
    batch
}

/// The contents of a store, for a comparison.
fn contents<P: Partd>(store: &P) -> Vec<(Key, Vec<u8>)> {
    let keys = store.keys().expect("keys");
    let values = store.read(&keys).expect("values");
    keys.into_iter().zip(values).collect()
}

impl Run {
    fn step(&mut self, op: &Op) {
        match op {
            Op::Write { handle, changes, durable, fuse } => {
                let changes = self.valued(changes);
                let durability = if *durable { Durability::Durable } else { Durability::Plain };
                let told =
                    self.change(*handle, changes, *fuse, |log, batch| log.write(batch, durability));
                if told && *durable {
                    self.durable = self.history.len();
                }
            }
            Op::Repeat { handle, key, value, times } => {
                for _ in 0..times % TIMES {
                    let changes = self.valued(&[Change::Append(*key, *value)]);
                    self.change(*handle, changes, None, |log, batch| {
                        log.write(batch, Durability::Plain)
                    });
                }
            }
            Op::Pop { handle, keys, fuse } => self.pop(*handle, *keys, *fuse),
            Op::Read { handle, keys } => self.read(*handle, keys),
            Op::Verify { handle } => self.compare(*handle),
            Op::Sync { handle, fuse } => {
                let log = self.log(*handle);
                let synced = dying(*fuse, || log.sync());
                match synced {
                    Some(synced) => {
                        synced.expect("a sync in memory succeeds");
                        self.durable = self.history.len();
                    }
                    None => self.bury(*handle),
                }
            }
            Op::Compact { handle, fuse } => {
                let log = self.log(*handle);
                match dying(*fuse, || log.compact()) {
                    Some(done) => {
                        done.expect("a compaction in memory succeeds");
                        self.compare(*handle);
                    }
                    None => self.bury(*handle),
                }
            }
            Op::Reopen { handle, fuse } => {
                let place = usize::from(*handle) % HANDLES;
                if let Some(process) = self.live[place].take() {
                    // The log is dropped inside the call, whether or not its process dies.
                    let disk = process.disk.clone();
                    if dying(*fuse, move || drop(process)).is_none() {
                        disk.kill();
                    }
                }
                self.open(place, *fuse);
            }
            Op::Kill { handle } => self.bury(*handle),
            Op::ReadOnly => {
                let log = SegmentLog::options()
                    .open_read_only_on(MemDisk::new(&self.world), Path::new(STORE));
                match log {
                    Ok(log) => assert!(contents(&log) == contents(&self.model), "read-only"),
                    Err(error) => assert!(self.history.is_empty(), "read-only: {error}"),
                }
            }
            Op::KillAll => self.restart(self.world.after_kill()),
            Op::PowerCut { seed } => {
                self.restart(self.world.after_power_cut(u64::from(*seed)));
                self.find_prefix();
            }
            Op::SpoilControl { how, at } => {
                self.restart(self.world.after_kill());
                let control = Path::new(STORE).join("control");
                match how % 4 {
                    0 => self.world.remove(&control),
                    1 => self.world.change(&control, |bytes| bytes.fill(0)),
                    2 => self.world.change(&control, |bytes| bytes[..64].fill(*how)),
                    // The fixed fields have a checksum; a store whose control file is damaged opens
                    // as after a reboot. The version is left alone: the engine must refuse a newer
                    // one.
                    _ => self.world.change(&control, |bytes| {
                        let at = usize::from(*at) % 60;
                        bytes[if (8..12).contains(&at) { at + 8 } else { at }] ^= 1;
                    }),
                }
            }
        }
    }

    fn valued(&mut self, changes: &[Change]) -> Vec<(Change, Vec<u8>)> {
        let valued = changes.iter().take(CHANGES_MAX).map(|change| {
            self.tag = self.tag.wrapping_add(37);
            match change {
                Change::Append(_, value) | Change::Set(_, value) => {
                    (*change, value.bytes(self.tag))
                }
                Change::Delete(_) | Change::Clear | Change::DeletePrefix(_) => {
                    (*change, Vec::new())
                }
            }
        });
        valued.collect()
    }

    /// The handle; opens it if necessary.
    fn log(&mut self, handle: u8) -> &SegmentLog<MemDisk> {
        let place = usize::from(handle) % HANDLES;
        if self.live[place].is_none() {
            self.open(place, None);
        }
        &self.live[place].as_ref().expect("it was opened").log
    }

    /// Opens a handle; with a fuse the process may die, and then there is no handle.
    fn open(&mut self, place: usize, fuse: Option<u8>) {
        let disk = MemDisk::new(&self.world);
        // Compactions run only as operations; otherwise runs would not be reproducible.
        let options = SegmentLog::options().segment_len_bytes(64 << 10).compaction_dead_share(None);
        let opened = dying(fuse, || options.open_on(disk.clone(), Path::new(STORE)));
        match opened {
            Some(log) => {
                let log = log.expect("a store opens");
                self.live[place] = Some(Process { disk, log });
            }
            None => disk.kill(),
        }
    }

    fn bury(&mut self, handle: u8) {
        if let Some(process) = self.live[usize::from(handle) % HANDLES].take() {
            process.disk.kill();
            self.dead.push(process);
        }
    }

    /// Continues in another world, with no process alive.
    fn restart(&mut self, world: Arc<World>) {
        self.live = [const { None }; HANDLES];
        self.dead.clear();
        self.world = world;
    }

    /// Writes a batch; false if the process died.
    fn change(
        &mut self,
        handle: u8,
        changes: Vec<(Change, Vec<u8>)>,
        fuse: Option<u8>,
        write: impl FnOnce(&SegmentLog<MemDisk>, &Batch<'_>) -> partd::Result<()>,
    ) -> bool {
        let log = self.log(handle);
        let written = dying(fuse, || write(log, &batch(&changes)));
        match &written {
            Some(written) => {
                assert!(written.is_ok(), "memory is not full: {written:?}");
                self.add(changes);
            }
            None => self.settle(handle, changes),
        }
        written.is_some()
    }

    /// Adds a batch to the model. One without operations takes no sequence number.
    fn add(&mut self, changes: Vec<(Change, Vec<u8>)>) {
        if !changes.is_empty() {
            apply(&self.model, &changes);
            self.history.push(changes);
        }
    }

    /// Determines whether the batch of a dead writer is in the store. It may be committed but not
    /// visible yet: the next commit of any writer makes it visible.
    fn settle(&mut self, handle: u8, changes: Vec<(Change, Vec<u8>)>) {
        self.bury(handle);
        let before = self.history.len() as u64;
        let nothing = vec![(Change::Delete(NO_KEY), Vec::new())];
        let log = self.log(handle.wrapping_add(1));
        log.write(&batch(&nothing), Durability::Plain).expect("memory is not full");
        let batches = log.stats().expect("stats").sequence - before;
        assert!(batches == 1 || batches == 2, "{batches} batches, but one or two were written");
        if batches == 2 {
            self.add(changes);
        }
        self.add(nothing);
        self.compare(handle.wrapping_add(1));
    }

    fn replay(&self, batches: usize) -> Dict {
        let model = Dict::new();
        self.history[..batches].iter().for_each(|changes| apply(&model, changes));
        model
    }

    fn pop(&mut self, handle: u8, keys: [u8; 2], fuse: Option<u8>) {
        let names = keys.map(key);
        let log = self.log(handle);
        let changes: Vec<_> =
            keys.iter().map(|number| (Change::Delete(*number), Vec::new())).collect();
        match dying(fuse, || log.take(&names)) {
            Some(popped) => {
                let expected = self.model.take(&names).expect("the model");
                assert!(popped.expect("memory is whole") == expected, "pop");
                self.history.push(changes);
            }
            None => self.settle(handle, changes),
        }
    }

    fn read(&mut self, handle: u8, keys: &[u8]) {
        let keys: Vec<Key> = keys.iter().take(20).map(|number| key(*number)).collect();
        let (values, lens) = (self.model.read(&keys).unwrap(), self.model.lens(&keys).unwrap());
        let log = self.log(handle);
        assert!(log.read(&keys).expect("read") == values, "values");
        assert!(log.lens(&keys).expect("lens") == lens, "lengths");
        for (key, value) in keys.iter().zip(&values) {
            let view = log.view(key).expect("a view");
            let chunks: Vec<&[u8]> = view.chunks().collect();
            assert!(chunks.concat() == *value && view.len() == value.len() as u64, "view");
        }
    }

    fn compare(&mut self, handle: u8) {
        let expected = contents(&self.model);
        let batches = self.history.len() as u64;
        let log = self.log(handle);
        assert!(contents(log) == expected, "contents");
        let verified = log.verify().expect("verify");
        let stats = log.stats().expect("stats");
        let bytes: usize = expected.iter().map(|(_, value)| value.len()).sum();
        assert!(stats.live_bytes == bytes as u64, "live bytes");
        // Deleted values are verified too while their segment exists.
        assert!(verified.bytes == stats.live_bytes + stats.dead_bytes, "bytes");
        assert!(stats.keys == expected.len() as u64, "number of keys");
        assert!(stats.sequence >= stats.durable_seq && stats.sequence == batches, "sequence");
    }

    /// After a power cut: finds the number of remaining batches by comparing with each prefix.
    fn find_prefix(&mut self) {
        let sequence = self.log(0).stats().expect("stats").sequence as usize;
        let now = contents(self.log(0));
        assert!(sequence >= self.durable, "a durable batch is lost");
        assert!(sequence <= self.history.len(), "more batches than were written");
        self.model = self.replay(sequence);
        assert!(now == contents(&self.model), "the store is no prefix of its history");
        self.history.truncate(sequence);
        self.durable = self.history.len();
    }
}

/// Runs `work` with a fuse; `None` if the process died.
fn dying<T>(fuse: Option<impl Into<u32>>, work: impl FnOnce() -> T) -> Option<T> {
    light_fuse(fuse.map(Into::into));
    let result = catch_unwind(AssertUnwindSafe(work));
    light_fuse(None);
    match result {
        Ok(done) => Some(done),
        Err(reason) if reason.is::<Death>() => None,
        Err(reason) => resume_unwind(reason),
    }
}
