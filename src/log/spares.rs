//! Spare segments: files of which every byte is dead wait here to be written anew.
//!
//! A fresh file costs the kernel a page to find and fill with zeros for each page that is written;
//! the pages of a spare are there. What makes it safe: a compaction gives a segment that it has
//! replaced another name instead of none; once that is durable, a spare is taken over only if
//! nobody has it open ([`Disk::reclaim`]), so no mapping of its earlier life exists in any process,
//! and published bytes still never change. Its header is emptied, durably, before it gets a new
//! one: after a power cut it is a segment of its new life, or none; so one in which somebody has
//! begun and died is removed. What else is left of the earlier life does not parse under the new
//! salt.
//!
//! A spare belongs to nobody: a handle knows those that its compactions have left, and whoever needs
//! their space may remove them.

use std::io;
use std::path::{Path, PathBuf};
use std::sync::atomic::Ordering::Relaxed;
use std::sync::{Mutex, MutexGuard, PoisonError};

use partd_format::SegmentHeader;
use partd_format::segment::HEADER_LEN;

use super::disk::{Disk, DiskFile};
use super::{Core, Names};
use crate::error::{Error, Result};

/// The spares that a handle knows of: all of its options' length, with an empty header.
#[derive(Debug, Default)]
pub(crate) struct Spares {
    paths: Mutex<Vec<PathBuf>>,
}

impl Spares {
    fn paths(&self) -> MutexGuard<'_, Vec<PathBuf>> {
        self.paths.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub(crate) fn len(&self) -> u64 {
        self.paths().len() as u64
    }

    /// Removes those that the handle knows of.
    pub(crate) fn remove<D: Disk>(&self, disk: &D) -> Result<()> {
        let paths = std::mem::take(&mut *self.paths());
        paths.into_iter().try_for_each(|path| unlink(disk, path))
    }
}

impl<D: Disk> Core<D> {
    /// Takes a spare of `len` bytes, if there is one that nobody has taken or removed meanwhile.
    pub(crate) fn take_spare(&self, len: u64) -> Option<(PathBuf, D::File)> {
        if len != self.options.segment_len() {
            return None;
        }
        loop {
            let path = self.spares.paths().pop()?;
            let Ok(Some(file)) = self.disk.reclaim(&path) else { continue };
            if is_empty(&file) {
                return Some((path, file));
            }
            // Another that knew it has begun in it, and died before it gave it a name.
            let _ = unlink(&self.disk, path);
        }
    }

    /// How many more spares the store may have.
    pub(crate) fn room_for_spares(&self) -> Result<usize> {
        Ok(self.options.spare_segments.saturating_sub(self.spare_paths()?.len()))
    }

    /// Makes spares ready, whoever has left them; those beyond what the options allow are removed.
    /// The names of all of them are durable.
    pub(crate) fn gather_spares(&self) -> Result<()> {
        for path in self.spare_paths()? {
            let mut paths = self.spares.paths();
            if paths.contains(&path) {
                continue;
            }
            // Still read by somebody; or its space cannot be had again.
            let Ok(Some(file)) = self.disk.reclaim(&path) else { continue };
            let is_of_use = file.mapping().len() == self.options.segment_len()
                && (is_empty(&file) || self.is_source(&file, &path));
            if paths.len() < self.options.spare_segments && is_of_use && empty(&file).is_ok() {
                paths.push(path);
            } else {
                drop(paths);
                unlink(&self.disk, path)?;
            }
        }
        Ok(())
    }

    /// Whether the header of a spare is still that of the segment it was, and not one that somebody
    /// has begun and left: that may be on stable storage, where the first of the two no longer is.
    fn is_source(&self, file: &D::File, path: &Path) -> bool {
        let mut bytes = [0; HEADER_LEN as usize];
        file.mapping().copy_out(0, &mut bytes);
        SegmentHeader::decode(&bytes, file.mapping().len())
            .is_ok_and(|header| self.names.spare(header.id) == path)
    }

    /// Removes every spare of the store, to give back its space. Returns whether there were any.
    pub(crate) fn remove_spares(&self) -> Result<bool> {
        self.spares.paths().clear();
        let paths = self.spare_paths()?;
        let any = !paths.is_empty();
        paths.into_iter().try_for_each(|path| unlink(&self.disk, path))?;
        Ok(any)
    }

    /// The paths of all spares of the store.
    pub(crate) fn spare_paths(&self) -> Result<Vec<PathBuf>> {
        let dir = self.names.dir();
        let listed = self.disk.list(dir).map_err(|e| Error::io("list", dir, e))?;
        Ok(listed.iter().filter(|name| Names::is_spare(name)).map(|name| dir.join(name)).collect())
    }
}

fn unlink<D: Disk>(disk: &D, path: PathBuf) -> Result<()> {
    match disk.unlink(&path) {
        // Another was quicker.
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(()),
        done => done.map_err(|error| Error::io("remove", path, error)),
    }
}

/// What is empty in a spare: the header, and the first words of the batches behind it.
const EMPTY_LEN: u64 = HEADER_LEN + 16;

/// Whether a file is empty where a spare is.
fn is_empty<F: DiskFile>(file: &F) -> bool {
    (0..EMPTY_LEN).step_by(8).all(|offset| file.mapping().load(offset, Relaxed) == 0)
}

/// Empties the beginning of a file, durably.
fn empty<F: DiskFile>(file: &F) -> io::Result<()> {
    for offset in (0..EMPTY_LEN).step_by(8) {
        file.mapping().store(offset, 0, Relaxed);
    }
    file.stored(0, EMPTY_LEN);
    file.sync_start(EMPTY_LEN)
}
