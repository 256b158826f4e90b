//! Spare segments: files of which every byte is dead wait here to be written anew.
//!
//! A fresh file costs the kernel a page to find and fill with zeros for each page that is written;
//! the pages of a spare are there. What makes it safe: a compaction gives a segment that it has
//! replaced another name instead of none; once that is durable, a spare is taken over only if
//! nobody has it open ([`Disk::reclaim`]), so no mapping of its earlier life exists in any process,
//! and published bytes still never change. Its header is emptied, durably, before it gets a new
//! one: after a power cut it is a segment of its new life, or none. What else is left of the
//! earlier life does not parse under the new salt.

use std::path::PathBuf;
use std::sync::{Mutex, MutexGuard, PoisonError};

use partd_format::segment::HEADER_LEN;

use super::disk::{Disk, DiskFile};
use super::{Core, Names};
use crate::error::{Error, Result};

/// The spare segments of one handle.
#[derive(Debug)]
pub(crate) struct Spares<F> {
    files: Mutex<Vec<Spare<F>>>,
}

/// A file that nobody else has open, with an empty header.
#[derive(Debug)]
pub(crate) struct Spare<F> {
    pub(crate) path: PathBuf,
    pub(crate) file: F,
}

impl<F: DiskFile> Spares<F> {
    pub(crate) fn new() -> Spares<F> {
        Spares { files: Mutex::default() }
    }

    fn files(&self) -> MutexGuard<'_, Vec<Spare<F>>> {
        self.files.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Whether there is a spare of `len` bytes.
    pub(crate) fn has(&self, len: u64) -> bool {
        self.files().iter().any(|spare| spare.file.mapping().len() == len)
    }

    /// A spare of `len` bytes, if there is one.
    pub(crate) fn take(&self, len: u64) -> Option<Spare<F>> {
        let mut files = self.files();
        let place = files.iter().position(|spare| spare.file.mapping().len() == len)?;
        Some(files.swap_remove(place))
    }

    pub(crate) fn len(&self) -> u64 {
        self.files().len() as u64
    }

    /// Removes all spares, to give back their space. Returns whether there were any.
    pub(crate) fn remove_all<D: Disk<File = F>>(&self, disk: &D) -> bool {
        let spares = std::mem::take(&mut *self.files());
        for spare in &spares {
            // What stays behind is found by the next compaction.
            let _ = disk.unlink(&spare.path);
        }
        !spares.is_empty()
    }
}

impl<D: Disk> Core<D> {
    /// How many more spares the store may have.
    pub(crate) fn room_for_spares(&self) -> Result<usize> {
        Ok(self.options.spare_segments.saturating_sub(self.spare_paths()?.len()))
    }

    /// Takes over the spare files that nobody has open, whoever has left them; those beyond what the
    /// options allow are removed. The names of all of them must be durable.
    pub(crate) fn gather_spares(&self) -> Result<()> {
        for path in self.spare_paths()? {
            let mut files = self.spares.files();
            if files.iter().any(|spare| spare.path == path) {
                continue;
            }
            // Of another handle, or still read by somebody; or its space cannot be had again.
            let Ok(Some(file)) = self.disk.reclaim(&path) else { continue };
            let is_of_use = file.mapping().len() == self.options.segment_len();
            if files.len() < self.options.spare_segments && is_of_use && empty(&file).is_ok() {
                files.push(Spare { path, file });
            } else {
                drop(files);
                self.disk.unlink(&path).map_err(|e| Error::io("remove", path, e))?;
            }
        }
        Ok(())
    }

    pub(crate) fn spare_paths(&self) -> Result<Vec<PathBuf>> {
        let dir = self.names.dir();
        let listed = self.disk.list(dir).map_err(|e| Error::io("list", dir, e))?;
        Ok(listed.iter().filter(|name| Names::is_spare(name)).map(|name| dir.join(name)).collect())
    }
}

/// Empties the header of a file, durably, with the first words of the batches behind it.
fn empty<F: DiskFile>(file: &F) -> std::io::Result<()> {
    let len = HEADER_LEN + 16;
    for offset in (0..len).step_by(8) {
        file.mapping().store(offset, 0, std::sync::atomic::Ordering::Relaxed);
    }
    file.stored(0, len);
    file.sync_start(len)
}
