//! Files and locks, which outlive processes, and what a kill or a power cut leaves of them.

use std::collections::BTreeMap;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use partd::log::fs::Mapping;

const PAGE: usize = 4096;

/// Files and locks, which outlive processes.
#[derive(Debug)]
pub struct World {
    pub(super) state: Mutex<State>,
    pub(super) boot: u8,
}

pub(super) type Files = BTreeMap<PathBuf, Arc<Contents>>;

#[derive(Debug, Default)]
pub(super) struct State {
    pub(super) files: Files,
    /// The names at the last sync, and after each change since.
    pub(super) names: Vec<Files>,
    pub(super) locks: BTreeMap<PathBuf, Vec<Held>>,
    pub(super) next_lock: u64,
    pub(super) random: u64,
}

#[derive(Debug)]
pub(super) struct Held {
    pub(super) id: u64,
    pub(super) exclusive: bool,
}

#[derive(Debug)]
pub(super) struct Contents {
    /// The same in every world; 0 for the initial files of a world.
    pub(super) inode: u64,
    pub(super) mapping: Mapping,
    /// The contents at the last sync; before the first one, the file may be empty.
    pub(super) synced: Mutex<Option<Vec<u8>>>,
}

impl World {
    /// A world with no files.
    pub fn new() -> Arc<World> {
        World::holding(1, [])
    }

    /// A world with these files, all of them synced.
    pub fn holding<'a>(
        boot: u8,
        files: impl IntoIterator<Item = (PathBuf, &'a [u8])>,
    ) -> Arc<World> {
        let files = files.into_iter().map(|(path, bytes)| (path, Contents::synced(bytes, 0)));
        World::of(boot, files.collect(), 0)
    }

    pub(super) fn of(boot: u8, files: Files, random: u64) -> Arc<World> {
        let state = State { names: vec![files.clone()], files, random, ..State::default() };
        Arc::new(World { state: Mutex::new(state), boot })
    }

    pub(super) fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The world after every process is killed: everything that was stored, and no locks.
    pub fn after_kill(&self) -> Arc<World> {
        let state = self.state();
        let kept = |contents: &Contents| Contents::synced(&contents.live(), contents.inode);
        let files = state.files.iter().map(|(path, contents)| (path.clone(), kept(contents)));
        World::of(self.boot, files.collect(), state.random)
    }

    /// The world after a power cut. A seed of 0 loses everything that can be lost.
    pub fn after_power_cut(&self, seed: u64) -> Arc<World> {
        let state = self.state();
        let mut random = seed;
        let mut draw = |of: u64| if seed == 0 { 0 } else { next_random(&mut random) % of };
        // A prefix of the changes of names survives.
        let names = &state.names[draw(state.names.len() as u64) as usize];
        let mut left = |contents: &Contents| {
            let mut bytes = contents.live();
            let synced = contents.synced.lock().unwrap_or_else(PoisonError::into_inner);
            match &*synced {
                None if draw(4) == 0 => bytes.clear(),
                None => {
                    let lost = bytes.chunks_mut(PAGE).filter(|_| draw(2) == 0);
                    lost.for_each(|page| page.fill(0));
                }
                Some(synced) => {
                    let pages = bytes.chunks_mut(PAGE).zip(synced.chunks(PAGE));
                    let lost = pages.filter(|_| draw(2) == 0);
                    lost.for_each(|(page, old)| page.copy_from_slice(old));
                }
            }
            Contents::synced(&bytes, contents.inode)
        };
        let files = names.iter().map(|(path, contents)| (path.clone(), left(contents)));
        World::of(self.boot.wrapping_add(1), files.collect(), state.random)
    }

    /// Changes a file's bytes while no process is alive; does nothing if the file does not exist.
    pub fn change(&self, path: &Path, change: impl FnOnce(&mut [u8])) {
        if let Some(contents) = self.state().files.get(path) {
            let mut bytes = contents.live();
            change(&mut bytes);
            contents.store(0, &bytes);
        }
    }

    /// Removes a file while no process is alive.
    pub fn remove(&self, path: &Path) {
        let mut state = self.state();
        state.files.remove(path);
        state.names = vec![state.files.clone()];
    }

    pub(super) fn release(&self, path: &Path, id: u64) {
        if let Some(held) = self.state().locks.get_mut(path) {
            held.retain(|held| held.id != id);
        }
    }
}

/// An unused inode number.
pub(super) fn new_inode() -> u64 {
    static INODES: AtomicU64 = AtomicU64::new(1);
    INODES.fetch_add(1, Relaxed)
}

pub(super) fn next_random(state: &mut u64) -> u64 {
    *state = state.wrapping_add(0x9E37_79B9_7F4A_7C15);
    let mixed = (*state ^ (*state >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
    mixed ^ (mixed >> 29)
}

impl State {
    /// Records a change of names.
    pub(super) fn renamed(&mut self) {
        let now = self.files.clone();
        self.names.push(now);
    }
}

impl Contents {
    pub(super) fn new(len: u64, inode: u64) -> io::Result<Contents> {
        let mapping = Mapping::anonymous(len.next_multiple_of(8))?;
        Ok(Contents { inode, mapping, synced: Mutex::new(None) })
    }

    pub(super) fn synced(bytes: &[u8], inode: u64) -> Arc<Contents> {
        let contents = Contents::new(bytes.len() as u64, inode).expect("memory for a file");
        contents.store(0, bytes);
        *contents.synced.lock().unwrap_or_else(PoisonError::into_inner) = Some(contents.live());
        Arc::new(contents)
    }

    pub(super) fn live(&self) -> Vec<u8> {
        let mut bytes = vec![0; self.mapping.len() as usize];
        self.mapping.copy_out(0, &mut bytes);
        bytes
    }

    /// Stores bytes as whole words: the engine guarantees that no one else stores to the same
    /// words.
    pub(super) fn store(&self, offset: u64, bytes: &[u8]) {
        let (mut offset, mut rest) = (offset, bytes);
        while !rest.is_empty() {
            let (at, skip) = (offset & !7, (offset & 7) as usize);
            let (part, behind) = rest.split_at(rest.len().min(8 - skip));
            let mut word = self.mapping.load(at, Relaxed).to_le_bytes();
            word[skip..skip + part.len()].copy_from_slice(part);
            self.mapping.store(at, u64::from_le_bytes(word), Relaxed);
            offset += part.len() as u64;
            rest = behind;
        }
    }
}
