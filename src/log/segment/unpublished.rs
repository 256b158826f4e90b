//! A new segment that has a temporary name until it is published.

use std::io::IoSlice;
use std::sync::Arc;

use partd_format::segment::{HEADER_LEN, Retained, lists_checksum};
use partd_format::{Salt, SegmentHeader};

use crate::error::{Error, Result};
use crate::log::fs::directory::Directory;
use crate::log::fs::names::segment_name;
use crate::log::fs::{Dir, Disk, DiskFile, FileId};
use crate::log::segment::Segment;
use crate::log::segment::claim::ActiveSegment;

/// The purpose of a new segment.
#[derive(Clone, Copy, Debug)]
pub(crate) struct NewSegment<'a> {
    pub(crate) store: [u8; 16],
    /// The slot of the writer that creates it.
    pub(crate) slot: u16,
    /// For the output of a compaction: `max_seq`, the ids of its inputs, and the retained segments.
    pub(crate) output: Option<(u64, &'a [u64], &'a [Retained])>,
}

/// A segment under a temporary name, not yet part of the store.
#[derive(Debug)]
pub(crate) struct Unpublished<'s, D: Disk> {
    directory: &'s Directory<D>,
    temporary: Option<String>,
    file: Option<D::File>,
    id: FileId,
    salt: Salt,
    is_recycled: bool,
}

impl<'s, D: Disk> Unpublished<'s, D> {
    /// Creates and allocates a file. Removes a file of that name that a dead process left
    /// unfinished.
    pub(crate) fn create(
        directory: &'s Directory<D>,
        name: &str,
        len: u64,
        uuid: &[u8; 16],
    ) -> Result<Unpublished<'s, D>> {
        let file = directory.create_replacing_unfinished(name, len, Some(uuid))?;
        Unpublished::of_file(directory, name.to_owned(), file, false)
    }

    /// Takes a file that only this process uses: a reserve of the store, or a recycled segment.
    pub(crate) fn of_file(
        directory: &'s Directory<D>,
        name: String,
        file: D::File,
        is_recycled: bool,
    ) -> Result<Unpublished<'s, D>> {
        let salt = Salt(u64::from_le_bytes(directory.random()?));
        let (id, temporary, file) = (file.id(), Some(name), Some(file));
        Ok(Unpublished { directory, temporary, file, id, salt, is_recycled })
    }

    /// Writes the header and returns the space after it. No other process uses the file yet.
    pub(crate) fn begin(
        &mut self,
        id: u64,
        new: &NewSegment<'_>,
    ) -> Result<ActiveSegment<D::File>> {
        let mut lists = Vec::new();
        if let Some((_, inputs, retained)) = new.output {
            lists.extend(inputs.iter().flat_map(|id| id.to_le_bytes()));
            for keep in retained {
                lists.extend(keep.id.to_le_bytes());
                lists.extend(keep.end.to_le_bytes());
            }
        }
        let Some(file) = self.file.take() else {
            return Err(Error::Invalid("a segment was started twice".into()));
        };
        let header = SegmentHeader {
            store: new.store,
            id,
            len: file.mapping().len(),
            salt: self.salt,
            output: new.output.map(|(max_seq, inputs, retained)| partd_format::segment::Output {
                max_seq,
                inputs: inputs.len() as u32,
                retained: retained.len() as u32,
                lists_checksum: lists_checksum(self.salt, &lists),
            }),
            data_start: HEADER_LEN + lists.len() as u64,
            created_unix_ms: self.directory.disk.now_unix_ms(),
            pid: std::process::id(),
            slot: new.slot.into(),
        };
        let segment = Segment::new(file, Arc::clone(self.directory.path()), header);
        // Not through the mapping: the first store to a fresh page would load the device's whole
        // read-ahead, often megabytes.
        let header = segment.header.encode();
        let mut parts = [IoSlice::new(&header), IoSlice::new(&lists)];
        segment
            .file
            .write_at(&mut parts, 0)
            .map_err(|source| Error::io("write the header of", segment.path(), source))?;
        Ok(ActiveSegment::of_new(segment, self.is_recycled))
    }

    /// Renames the file to its final name, under which other processes find it.
    pub(crate) fn publish(mut self, id: u64) -> Result<()> {
        if let Some(temporary) = self.temporary.take() {
            let name = segment_name(id);
            self.directory.dir.rename(&temporary, &name).map_err(|source| {
                self.temporary = Some(temporary);
                self.directory.error("publish the segment", &name, source)
            })?;
        }
        Ok(())
    }
}

impl<D: Disk> Drop for Unpublished<'_, D> {
    fn drop(&mut self) {
        if let Some(temporary) = &self.temporary {
            // If this fails, the next recovery removes the file.
            let _ = self.directory.unlink_mapped(temporary, self.id);
        }
    }
}
