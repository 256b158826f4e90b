//! A disk in memory, shared by simulated processes: any of them can die, all of them can be killed
//! at once, and the power can fail.
//!
//! A [`MemDisk`] is one process on a [`World`]. It dies by unwinding out of a disk call or a store
//! to a mapping; from then on its calls do nothing and its locks are free. A power cut creates a
//! new world: some of the last changes of names are lost, each file that was never synced may be
//! empty, and each page has its last synced or its last stored contents. (The simulated disk of the
//! crash tests enumerates far more; this one is built for speed.)

mod world;

use std::cell::Cell;
use std::ffi::OsString;
use std::io::{self, ErrorKind, IoSlice};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering::Relaxed};
use std::sync::{Arc, Mutex, PoisonError};

pub use self::world::World;
use self::world::{Contents, Held, new_inode, next_random};
use partd::log::fs::{Access, Dir, Disk, DiskFile, FileId, Mapping};

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
        *self.contents.synced.lock().unwrap_or_else(PoisonError::into_inner) = Some(live);
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
