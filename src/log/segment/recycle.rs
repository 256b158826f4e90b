//! Recycling: a temporary store reuses its dead segments instead of creating files.
//!
//! For a fresh file, the kernel must find and zero every page; a dead segment has its pages
//! already. Recycling is safe because a temporary store has one handle, refuses every other opener,
//! and never survives its process: no other process maps the file, and no recovery reads it. A
//! child of `fork` inherits the mappings and the views on them, so nothing is recycled after a
//! fork. Old bytes in a recycled segment do not parse under its new salt.

use std::sync::atomic::{AtomicUsize, Ordering::Relaxed};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use crate::error::Result;
use crate::log::fs::fork::forks;
use crate::log::fs::names::{recycled_name, segment_name};
use crate::log::fs::{Access, Dir, Disk, DiskFile};
use crate::log::segment::Segment;
use crate::log::store::Store;

/// The dead segments of a temporary store that are ready to be reused.
#[derive(Debug)]
pub(crate) struct Recycler<F> {
    /// The number of forks of this process when the store was opened; `None` if the system cannot
    /// count them.
    forks: Option<u64>,
    files: Mutex<Vec<(String, F)>>,
    len: AtomicUsize,
}

impl<F> Recycler<F> {
    pub(crate) fn new() -> Recycler<F> {
        Recycler { forks: forks(), files: Mutex::new(Vec::new()), len: AtomicUsize::new(0) }
    }

    fn files(&self) -> MutexGuard<'_, Vec<(String, F)>> {
        self.files.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The number of segments that are ready.
    pub(crate) fn len(&self) -> u64 {
        self.len.load(Relaxed) as u64
    }

    /// Takes a segment and its file name.
    pub(crate) fn take(&self) -> Option<(String, F)> {
        let mut files = self.files();
        let taken = files.pop();
        self.len.store(files.len(), Relaxed);
        taken
    }

    fn put(&self, name: String, file: F) {
        let mut files = self.files();
        files.push((name, file));
        self.len.store(files.len(), Relaxed);
    }
}

impl<F: DiskFile> Recycler<F> {
    /// Takes a recycled segment of `len` bytes, if there is one.
    pub(crate) fn take_of_len<D: Disk<File = F>>(
        &self,
        store: &Store<D>,
        len: u64,
    ) -> Option<(String, F)> {
        (len == store.options.segment_len()).then(|| self.take())?
    }

    /// Unlinks a dead segment, or keeps it for reuse. `segment` must be the last reference of this
    /// handle, except for those of views.
    pub(crate) fn recycle_or_unlink<D: Disk<File = F>>(
        &self,
        store: &Store<D>,
        segment: Arc<Segment<F>>,
    ) -> Result<()> {
        let directory = &store.directory;
        let (id, file_id) = (segment.id(), segment.file().id());
        let name = segment_name(id);
        let is_wanted = store.is_temporary
            && segment.header().len == store.options.segment_len()
            && self.len() < store.options.recycled_segments as u64;
        // Reuse must not change the bytes under a view.
        let is_free = is_wanted
            && self.forks.is_some()
            && self.forks == forks()
            && Arc::into_inner(segment).is_some();
        let recycled = recycled_name(id);
        if is_free
            && directory.dir.id_of(&name).is_ok_and(|now| now == file_id)
            && directory.dir.rename(&name, &recycled).is_ok()
        {
            match directory.dir.open(&recycled, Access::Write) {
                Ok(file) if file.id() == file_id => self.put(recycled, file),
                _ => directory.unlink_mapped(&recycled, file_id)?,
            }
            return Ok(());
        }
        directory.unlink_mapped(&name, file_id)
    }

    /// Unlinks the segments that wait for reuse, to free their space. Returns whether there were
    /// any.
    pub(crate) fn drop_all<D: Disk<File = F>>(&self, store: &Store<D>) -> Result<bool> {
        let mut any = false;
        while let Some((name, file)) = self.take() {
            store.directory.unlink_mapped(&name, file.id())?;
            any = true;
        }
        Ok(any)
    }

    /// The disk space of the segments that wait for reuse, in bytes.
    pub(crate) fn disk_bytes<D: Disk<File = F>>(&self, store: &Store<D>) -> u64 {
        let files = self.files();
        files.iter().map(|(name, _)| store.directory.dir.disk_bytes(name).unwrap_or(0)).sum()
    }
}
