//! The engine's file-system abstraction over a simulated disk: its directories and locks.

use std::ffi::OsString;
use std::fs::File;
use std::io;
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex};

use partd::log::fs::{Access, Dir, Disk, FileId};
use rustix::fs::MemfdFlags;

use super::defect::Defect;
use super::file::SimFile;
use super::inode::Inode;
use super::lock;
use super::machine::{Held, Locked, SimDisk};
use super::process::Sees;
use super::record::Event;
use crate::sim::Rng;
use crate::sim::faults::Call;
use crate::sim::memory::Memory;

/// An open directory of the simulated disk.
#[derive(Clone, Debug)]
pub struct SimDir {
    pub(super) disk: SimDisk,
    pub(super) path: PathBuf,
    pub(super) number: u64,
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
        match self.process.sees {
            Sees::BootId(id) => return Ok(id),
            Sees::NoBootId => return Err(io::ErrorKind::NotFound.into()),
            Sees::TheMachine | Sees::Unfit(_) => {}
        }
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
    pub(super) fn at(&self, name: &str) -> io::Result<PathBuf> {
        match lock(&self.disk.shared.state).dirs.get(&self.path) {
            Some(number) if *number == self.number => Ok(self.path.join(name)),
            _ => Err(io::ErrorKind::NotFound.into()),
        }
    }

    pub(super) fn inode(&self, name: &str) -> io::Result<Arc<Inode>> {
        let path = self.at(name)?;
        let inode = lock(&self.disk.shared.state).names.get(&path).cloned();
        inode.ok_or_else(|| io::ErrorKind::NotFound.into())
    }

    pub(super) fn lock_on(&self, what: Locked, exclusive: bool) -> Option<SimLock> {
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
    pub(super) fn inode_to_lock(&self, name: &str, id: FileId) -> io::Result<Arc<Inode>> {
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
        let new = Inode::new(number, identity, Memory::zeroed(len));
        let inode = Arc::new(Inode { backed, ..new });
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

    fn links(&self, name: &str) -> io::Result<u64> {
        self.disk.fallible(Call::Stat)?;
        let inode = self.inode(name)?;
        let shared = &self.disk.shared;
        Ok(match shared.defect {
            Some(Defect::LinksUncounted) => 1,
            _ => lock(&shared.state).names_of(&inode) as u64,
        })
    }

    fn link(&self, name: &str, id: FileId, to: &SimDir, new: &str) -> io::Result<()> {
        let disk = &self.disk;
        disk.fallible(Call::Link)?;
        disk.count(|counts| &counts.names);
        let (inode, path) = (self.known_inode(name, id)?, to.at(new)?);
        let number = inode.number;
        let mut state = lock(&disk.shared.state);
        if state.names.contains_key(&path) {
            return Err(io::ErrorKind::AlreadyExists.into());
        }
        state.names.insert(path.clone(), inode);
        drop(state);
        disk.record(Event::Link { path, inode: number });
        disk.step();
        Ok(())
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
        Ok(match self.disk.process.sees {
            Sees::Unfit(why) => Some(why.to_owned()),
            _ => None,
        })
    }
}

/// A lock that is held until it is dropped or its process is killed.
#[derive(Debug)]
pub struct SimLock {
    pub(super) disk: SimDisk,
    pub(super) ticket: u64,
}

impl Drop for SimLock {
    fn drop(&mut self) {
        lock(&self.disk.shared.state).locks.retain(|held| held.ticket != self.ticket);
    }
}
