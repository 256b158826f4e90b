//! A disk in memory, shared by simulated processes: any of them can die, all of them can be killed
//! at once, and the power can fail.
//!
//! A [`MemDisk`] is one process on a [`World`]. It dies by unwinding out of a disk call or a store
//! to a mapping; from then on its calls do nothing and its locks are free. A power cut creates a
//! new world: some of the last changes of names are lost, each file that was never synced may be
//! empty, and each page has its last synced or its last stored contents. (The simulated disk of the
//! crash tests enumerates far more; this one is built for speed.)

use std::cell::Cell;
use std::collections::BTreeMap;
use std::ffi::OsString;
use std::io::{self, ErrorKind, IoSlice};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering::Relaxed};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use partd::log::fs::{Access, Dir, Disk, DiskFile, FileId, Mapping};

const PAGE: usize = 4096;

thread_local! {
    /// The number of steps until the current thread's process dies; `None` if it does not.
    static FUSE: Cell<Option<u32>> = const { Cell::new(None) };
}

/// The payload with which a dying process unwinds.
#[derive(Debug)]
pub struct Death;

/// Makes the current thread's process die after `steps` steps; `None` lets it live.
pub fn light_fuse(steps: Option<u32>) {
    FUSE.set(steps);
}

/// Files and locks, which outlive processes.
#[derive(Debug)]
pub struct World {
    state: Mutex<State>,
    boot: u8,
}

type Files = BTreeMap<PathBuf, Arc<Contents>>;

#[derive(Debug, Default)]
struct State {
    files: Files,
    /// The names at the last sync, and after each change since.
    names: Vec<Files>,
    locks: BTreeMap<PathBuf, Vec<Held>>,
    next_lock: u64,
    random: u64,
}

#[derive(Debug)]
struct Held {
    id: u64,
    exclusive: bool,
}

#[derive(Debug)]
struct Contents {
    /// The same in every world; 0 for the initial files of a world.
    inode: u64,
    mapping: Mapping,
    /// The contents at the last sync; before the first one, the file may be empty.
    durable_seq: Mutex<Option<Vec<u8>>>,
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
        let files = files.into_iter().map(|(path, bytes)| (path, Contents::durable_seq(bytes, 0)));
        World::of(boot, files.collect(), 0)
    }

    fn of(boot: u8, files: Files, random: u64) -> Arc<World> {
        let state = State { names: vec![files.clone()], files, random, ..State::default() };
        Arc::new(World { state: Mutex::new(state), boot })
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The world after every process is killed: everything that was stored, and no locks.
    pub fn after_kill(&self) -> Arc<World> {
        let state = self.state();
        let kept = |contents: &Contents| Contents::durable_seq(&contents.live(), contents.inode);
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
            let durable_seq = contents.durable_seq.lock().unwrap_or_else(PoisonError::into_inner);
            match &*durable_seq {
                None if draw(4) == 0 => bytes.clear(),
                None => {
                    let lost = bytes.chunks_mut(PAGE).filter(|_| draw(2) == 0);
                    lost.for_each(|page| page.fill(0));
                }
                Some(durable_seq) => {
                    let pages = bytes.chunks_mut(PAGE).zip(durable_seq.chunks(PAGE));
                    let lost = pages.filter(|_| draw(2) == 0);
                    lost.for_each(|(page, old)| page.copy_from_slice(old));
                }
            }
            Contents::durable_seq(&bytes, contents.inode)
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
}

/// An unused inode number.
fn new_inode() -> u64 {
    static INODES: AtomicU64 = AtomicU64::new(1);
    INODES.fetch_add(1, Relaxed)
}

fn next_random(state: &mut u64) -> u64 {
    *state = state.wrapping_add(0x9E37_79B9_7F4A_7C15);
    let mixed = (*state ^ (*state >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
    mixed ^ (mixed >> 29)
}

impl State {
    /// Records a change of names.
    fn renamed(&mut self) {
        let now = self.files.clone();
        self.names.push(now);
    }
}

impl Contents {
    fn new(len: u64, inode: u64) -> io::Result<Contents> {
        let mapping = Mapping::anonymous(len.next_multiple_of(8))?;
        Ok(Contents { inode, mapping, durable_seq: Mutex::new(None) })
    }

    fn durable_seq(bytes: &[u8], inode: u64) -> Arc<Contents> {
        let contents = Contents::new(bytes.len() as u64, inode).expect("memory for a file");
        contents.store(0, bytes);
        *contents.durable_seq.lock().unwrap_or_else(PoisonError::into_inner) =
            Some(contents.live());
        Arc::new(contents)
    }

    fn live(&self) -> Vec<u8> {
        let mut bytes = vec![0; self.mapping.len() as usize];
        self.mapping.copy_out(0, &mut bytes);
        bytes
    }

    /// Stores bytes as whole words: the engine guarantees that no one else stores to the same
    /// words.
    fn store(&self, offset: u64, bytes: &[u8]) {
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

/// One process on a world.
#[derive(Clone, Debug)]
pub struct MemDisk {
    world: Arc<World>,
    is_dead: Arc<AtomicBool>,
    /// The locks that the process holds.
    held: Arc<Mutex<Vec<(PathBuf, u64)>>>,
    calls: Arc<AtomicU64>,
}

impl MemDisk {
    /// A new process.
    pub fn new(world: &Arc<World>) -> MemDisk {
        MemDisk {
            world: Arc::clone(world),
            is_dead: Arc::default(),
            held: Arc::default(),
            calls: Arc::default(),
        }
    }

    /// Kills the process: its locks are released, and its calls do nothing.
    pub fn kill(&self) {
        self.is_dead.store(true, Relaxed);
        let held = std::mem::take(&mut *self.held.lock().unwrap_or_else(PoisonError::into_inner));
        for (path, id) in held {
            self.world.release(&path, id);
        }
    }

    fn step(&self) -> io::Result<()> {
        if self.is_dead.load(Relaxed) {
            return Err(io::Error::other("the process is dead"));
        }
        burn(&self.is_dead);
        self.calls.fetch_add(1, Relaxed);
        Ok(())
    }
}

/// Counts one step; dies if it was the last.
fn burn(is_dead: &AtomicBool) {
    match FUSE.get() {
        Some(0) => {
            FUSE.set(None);
            is_dead.store(true, Relaxed);
            std::panic::resume_unwind(Box::new(Death));
        }
        fuse => FUSE.set(fuse.map(|left| left - 1)),
    }
}

impl World {
    fn release(&self, path: &Path, id: u64) {
        if let Some(held) = self.state().locks.get_mut(path) {
            held.retain(|held| held.id != id);
        }
    }
}

/// A held lock.
#[derive(Debug)]
pub struct MemLock {
    world: Arc<World>,
    path: PathBuf,
    id: u64,
}

impl Drop for MemLock {
    fn drop(&mut self) {
        self.world.release(&self.path, self.id);
    }
}

/// An open file.
#[derive(Debug)]
pub struct MemFile {
    contents: Arc<Contents>,
    is_dead: Arc<AtomicBool>,
    world: Arc<World>,
}

impl DiskFile for MemFile {
    fn mapping(&self) -> &Mapping {
        &self.contents.mapping
    }

    fn id(&self) -> FileId {
        FileId { device: 0, inode: self.contents.inode }
    }

    fn stored(&self, _offset: u64, _len: u64) {
        if !self.is_dead.load(Relaxed) {
            burn(&self.is_dead);
        }
    }

    fn write_at(&self, buffers: &mut [IoSlice<'_>], mut offset: u64) -> io::Result<()> {
        for buffer in buffers {
            self.contents.store(offset, buffer);
            offset += buffer.len() as u64;
            self.stored(offset, 0);
        }
        Ok(())
    }

    fn sync(&self) -> io::Result<()> {
        self.stored(0, 0);
        let live = self.contents.live();
        *self.contents.durable_seq.lock().unwrap_or_else(PoisonError::into_inner) = Some(live);
        Ok(())
    }

    fn punch(&self, offset: u64, len: u64) -> io::Result<()> {
        self.stored(0, 0);
        self.contents.store(offset, &vec![0; len as usize]);
        Ok(())
    }
}

impl Disk for MemDisk {
    type Dir = MemDir;
    type File = MemFile;
    type Lock = MemLock;

    fn open_dir(&self, path: &Path) -> io::Result<MemDir> {
        self.step()?;
        Ok(MemDir { disk: self.clone(), path: path.to_owned() })
    }

    fn create_dir(&self, _path: &Path) -> io::Result<()> {
        self.step()
    }

    fn boot_id(&self) -> io::Result<[u8; 16]> {
        Ok([self.world.boot; 16])
    }

    fn random(&self, bytes: &mut [u8]) -> io::Result<()> {
        let mut state = self.world.state();
        for byte in bytes {
            *byte = (next_random(&mut state.random) >> 24) as u8;
        }
        Ok(())
    }

    fn now_unix_ms(&self) -> u64 {
        0
    }
}

/// An open directory; every directory exists.
#[derive(Clone, Debug)]
pub struct MemDir {
    disk: MemDisk,
    path: PathBuf,
}

impl MemDir {
    fn contents(&self, name: &str) -> io::Result<Arc<Contents>> {
        let state = self.disk.world.state();
        let contents = state.files.get(&self.path.join(name)).ok_or(ErrorKind::NotFound)?;
        Ok(Arc::clone(contents))
    }

    fn file(&self, contents: Arc<Contents>) -> MemFile {
        let (is_dead, world) = (Arc::clone(&self.disk.is_dead), Arc::clone(&self.disk.world));
        MemFile { contents, is_dead, world }
    }

    /// Takes a lock that has its own name.
    fn lock(&self, lock: PathBuf, exclusive: bool) -> Option<MemLock> {
        let mut state = self.disk.world.state();
        state.next_lock += 1;
        let id = state.next_lock;
        let held = state.locks.entry(lock.clone()).or_default();
        if held.iter().any(|held| exclusive || held.exclusive) {
            return None;
        }
        held.push(Held { id, exclusive });
        drop(state);
        let mut mine = self.disk.held.lock().unwrap_or_else(PoisonError::into_inner);
        mine.push((lock.clone(), id));
        Some(MemLock { world: Arc::clone(&self.disk.world), path: lock, id })
    }

    /// The name of the lock on a byte of a file, if the name still refers to the same file.
    fn byte_lock(&self, name: &str, id: FileId, at: u64) -> io::Result<PathBuf> {
        match self.contents(name)?.inode == id.inode {
            true => Ok(self.path.join(format!("{name} at {at}"))),
            false => Err(ErrorKind::StaleNetworkFileHandle.into()),
        }
    }
}

impl Dir for MemDir {
    type File = MemFile;
    type Lock = MemLock;

    fn create(&self, name: &str, len: u64) -> io::Result<MemFile> {
        self.disk.step()?;
        let path = self.path.join(name);
        let mut state = self.disk.world.state();
        if state.files.contains_key(&path) {
            return Err(ErrorKind::AlreadyExists.into());
        }
        let contents = Arc::new(Contents::new(len, new_inode())?);
        state.files.insert(path, Arc::clone(&contents));
        state.renamed();
        drop(state);
        Ok(self.file(contents))
    }

    fn open(&self, name: &str, _access: Access) -> io::Result<MemFile> {
        self.disk.step()?;
        Ok(self.file(self.contents(name)?))
    }

    fn rename(&self, from: &str, to: &str) -> io::Result<()> {
        if self.contents(to).is_ok() {
            return Err(ErrorKind::AlreadyExists.into());
        }
        self.replace(from, to)
    }

    fn replace(&self, from: &str, to: &str) -> io::Result<()> {
        self.disk.step()?;
        let mut state = self.disk.world.state();
        let contents = state.files.remove(&self.path.join(from)).ok_or(ErrorKind::NotFound)?;
        state.files.insert(self.path.join(to), contents);
        state.renamed();
        Ok(())
    }

    fn unlink(&self, name: &str) -> io::Result<()> {
        self.disk.step()?;
        let mut state = self.disk.world.state();
        state.files.remove(&self.path.join(name)).ok_or(ErrorKind::NotFound)?;
        state.renamed();
        Ok(())
    }

    fn list(&self) -> io::Result<Vec<OsString>> {
        self.disk.step()?;
        let state = self.disk.world.state();
        let files = state.files.keys().filter(|path| path.parent() == Some(&*self.path));
        Ok(files.filter_map(|path| path.file_name().map(ToOwned::to_owned)).collect())
    }

    fn id_of(&self, name: &str) -> io::Result<FileId> {
        self.disk.step()?;
        Ok(FileId { device: 0, inode: self.contents(name)?.inode })
    }

    fn disk_bytes(&self, name: &str) -> io::Result<u64> {
        self.disk.step()?;
        Ok(self.contents(name)?.mapping.len())
    }

    fn is_removed(&self) -> io::Result<bool> {
        Ok(false)
    }

    fn open_dir(&self, name: &str) -> io::Result<MemDir> {
        self.disk.open_dir(&self.path.join(name))
    }

    fn remove_dir(&self, _name: &str, _dir: &MemDir) -> io::Result<()> {
        self.disk.step()
    }

    fn sync(&self) -> io::Result<()> {
        self.disk.step()?;
        let mut state = self.disk.world.state();
        state.names = vec![state.files.clone()];
        Ok(())
    }

    fn sync_name(&self) -> io::Result<()> {
        self.disk.step()
    }

    fn try_lock(&self, exclusive: bool) -> io::Result<Option<MemLock>> {
        self.disk.step()?;
        Ok(self.lock(self.path.clone(), exclusive))
    }

    fn try_lock_byte(
        &self,
        name: &str,
        id: FileId,
        bytes: &mut dyn Iterator<Item = u64>,
        exclusive: bool,
    ) -> io::Result<Option<(u64, MemLock)>> {
        self.disk.step()?;
        for at in bytes {
            if let Some(lock) = self.lock(self.byte_lock(name, id, at)?, exclusive) {
                return Ok(Some((at, lock)));
            }
        }
        Ok(None)
    }

    fn is_byte_locked(&self, name: &str, id: FileId, at: u64) -> io::Result<bool> {
        self.disk.step()?;
        let lock = self.byte_lock(name, id, at)?;
        Ok(self.disk.world.state().locks.get(&lock).is_some_and(|held| !held.is_empty()))
    }

    fn unfit(&self) -> io::Result<Option<String>> {
        Ok(None)
    }
}
