//! The names on a simulated disk: renames, removals, and directory syncs, by the engine and by
//! tests.

use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::Ordering::Relaxed;

use partd_format::control::{COMMIT_AT, Commit};

use super::defect::Defect;
use super::inode::{Inode, poke};
use super::lock;
use super::machine::SimDisk;
use super::record::Event;
use crate::sim::faults::Call;
use crate::sim::memory::Memory;
use crate::sim::{STORE, is_control};

impl SimDisk {
    /// Whether any process has a file open.
    pub fn is_open(&self, path: &Path) -> bool {
        let state = lock(&self.shared.state);
        let inode = state.names.get(path);
        inode.is_some_and(|inode| Arc::strong_count(inode) > state.names_of(inode))
    }

    /// The number of open files of this process, counting repeated opens.
    pub fn open_files(&self) -> usize {
        let state = lock(&self.shared.state);
        state.open.iter().filter(|(_, process)| *process == self.process.number).count()
    }

    pub(super) fn rename_dir(&self, from: &Path, to: &Path) {
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

    pub(super) fn rename_over(&self, from: &Path, to: &Path, may_replace: bool) -> io::Result<()> {
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
        let recovered =
            is_control(to).then(|| Commit::decode(inode.mapping.load(COMMIT_AT, Relaxed)).sequence);
        state.names.insert(to.to_owned(), inode);
        drop(state);
        self.record(Event::Rename { from: from.to_owned(), to: to.to_owned(), inode: number });
        if let Some(sequence) = recovered {
            self.record(Event::Recovered { sequence });
        }
        self.step();
        Ok(())
    }

    /// Removes a file, even if it is open.
    pub fn remove_name(&self, path: &Path) -> io::Result<()> {
        self.count(|counts| &counts.names);
        let mut state = lock(&self.shared.state);
        let inode = state.names.remove(path).ok_or(io::ErrorKind::NotFound)?;
        let is_last = state.names_of(&inode) == 0;
        if let Some(free) = state.free_pages.as_mut().filter(|_| is_last) {
            *free += inode.pages();
        }
        drop(state);
        self.record(Event::Unlink { path: path.to_owned(), inode: inode.number });
        self.step();
        Ok(())
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
        let inode = Inode::new(number, identity, copy);
        state.names.insert(path.to_owned(), Arc::new(inode));
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

    pub(super) fn sync_dir(&self, dir: &Path) -> io::Result<()> {
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
