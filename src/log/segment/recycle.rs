//! Recycling: a temporary store writes its dead segments again instead of fresh files.
//!
//! A fresh file costs the kernel a page to find and to fill with zeros for each page that is written; the
//! pages of a dead segment are there. It is safe because a temporary store has one handle, which refuses every
//! other opener and never survives its process: nobody else has the file mapped, and no recovery will read it.
//! A child of `fork` inherits the mappings, and views on them: after a fork nothing is recycled any more.
//! What is left of the earlier life does not parse under the salt of the new one.

use std::sync::atomic::{AtomicUsize, Ordering::Relaxed};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use crate::error::Result;
use crate::log::Core;
use crate::log::fs::mapping::forks;
use crate::log::fs::names::{recycled_name, segment_name};
use crate::log::fs::{Access, Dir, Disk, DiskFile};
use crate::log::segment::Segment;

/// The dead segments of a temporary store, ready to be written.
#[derive(Debug)]
pub(crate) struct Recycler<F> {
    /// How often this process had forked when the store was made; none where the system cannot tell.
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

    /// How many segments are ready.
    pub(crate) fn len(&self) -> u64 {
        self.len.load(Relaxed) as u64
    }

    /// Takes a segment that is ready, with its name.
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

impl<D: Disk> Core<D> {
    /// Takes a recycled segment of `len` bytes, if there is one.
    pub(crate) fn take_recycled(&self, len: u64) -> Option<(String, D::File)> {
        (len == self.options.segment_len()).then(|| self.recycler.take())?
    }

    /// Removes a dead segment, or keeps it to be written again. `segment` is the last reference of this handle
    /// if no view holds another.
    pub(crate) fn recycle_or_unlink(&self, segment: Arc<Segment<D::File>>) -> Result<()> {
        let (id, file_id) = (segment.id(), segment.file().id());
        let name = segment_name(id);
        let is_wanted = self.is_temporary
            && segment.header().len == self.options.segment_len()
            && self.recycler.len() < self.options.recycled_segments as u64;
        // Nobody may see other bytes under a view.
        let is_free = is_wanted
            && self.recycler.forks.is_some()
            && self.recycler.forks == forks()
            && Arc::into_inner(segment).is_some();
        let recycled = recycled_name(id);
        if is_free
            && self.store.dir.id_of(&name).is_ok_and(|now| now == file_id)
            && self.store.dir.rename(&name, &recycled).is_ok()
        {
            match self.store.dir.open(&recycled, Access::Write) {
                Ok(file) if file.id() == file_id => self.recycler.put(recycled, file),
                _ => self.store.unlink_mapped(&recycled, file_id)?,
            }
            return Ok(());
        }
        self.store.unlink_mapped(&name, file_id)
    }

    /// Removes the segments that wait to be recycled, to give back their space. Returns whether there were any.
    pub(crate) fn drop_recycled(&self) -> Result<bool> {
        let mut any = false;
        while let Some((name, file)) = self.recycler.take() {
            self.store.unlink_mapped(&name, file.id())?;
            any = true;
        }
        Ok(any)
    }

    /// The disk space of the segments that wait to be recycled, in bytes.
    pub(crate) fn recycled_bytes(&self) -> u64 {
        let files = self.recycler.files();
        files.iter().map(|(name, _)| self.store.dir.disk_bytes(name).unwrap_or(0)).sum()
    }
}
