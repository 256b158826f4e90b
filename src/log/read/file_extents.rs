//! A key's value as byte ranges of open files, for system calls that take a descriptor.
//!
//! A mapping needs no descriptor, so the segments have none; they are opened again by name. A
//! compaction may unlink a segment between the snapshot and the open. It publishes its output
//! first, so a new snapshot finds the value there. Once all files are open, an unlink no longer
//! matters, and the snapshot keeps the segments from being recycled.

use std::collections::BTreeMap;
use std::io;
use std::slice;

use partd_format::Salt;

use crate::Key;
use crate::error::{Error, Result};
use crate::log::fs::names::segment_name;
use crate::log::fs::{Dir, Disk, DiskFile, File, OsDisk};
use crate::log::read::reader::Reader;
use crate::log::read::snapshot::{Snapshot, total};
use crate::log::segment::extent::Extent;
use crate::log::store::Store;

/// A key's value as byte ranges of open files, in order; together they are the value.
///
/// Created by [`SegmentLog::extents`](crate::SegmentLog::extents). It is meant for `sendfile`,
/// `copy_file_range`, `splice` or a plain `pread`. Nothing has read or checked the bytes; the
/// receiver can check each range with [`FileExtent::crc32`].
///
/// The ranges keep their bytes as long as this value lives, whatever is appended, deleted or
/// compacted meanwhile, and even after the handle of the store is dropped. In a store at a path, a
/// duplicate of a file's descriptor keeps that file's bytes, too. A [temporary
/// store](crate::SegmentLog::temporary) overwrites dead segments that no `FileExtents` or
/// [`View`](crate::View) uses: there, keep this value until the duplicate is no longer needed.
///
/// It holds one descriptor for each segment that the value lies in. After a
/// [compaction](crate::SegmentLog::compact) these are few.
#[derive(Debug)]
pub struct FileExtents<D: Disk = OsDisk> {
    snapshot: Snapshot<D::File>,
    /// The open files by segment number.
    files: BTreeMap<u32, File>,
}

/// A byte range of a file: a part of a value.
#[derive(Clone, Copy, Debug)]
pub struct FileExtent<'e> {
    file: &'e File,
    extent: &'e Extent,
    salt: Salt,
}

/// Why not all files could be opened.
enum Unopened {
    /// The segment with this id is no longer under its name.
    Gone(u64),
    Failed(Error),
}

impl<D: Disk> FileExtents<D> {
    /// Opens the files of a key's current value.
    pub(crate) fn of_key(store: &Store<D>, reader: &Reader<D>, key: &Key) -> Result<Self> {
        let mut tried = None;
        loop {
            let snapshot = reader.snapshot(store, slice::from_ref(key))?;
            match open_files(store, &snapshot) {
                Ok(files) => return Ok(FileExtents { snapshot, files }),
                Err(Unopened::Failed(error)) => return Err(error),
                // A compaction raises the directory epoch before it unlinks a segment, so the new
                // snapshot is from a rebuilt version. If it is not, something else removed the
                // file.
                Err(Unopened::Gone(id)) if tried == Some(snapshot.rebuilds()) => {
                    return Err(store.directory.moved(id));
                }
                Err(Unopened::Gone(_)) => tried = Some(snapshot.rebuilds()),
            }
        }
    }

    /// Returns the byte ranges in order. Like the [chunks of a
    /// view](crate::View#chunks-and-appends), a range never splits an append.
    #[must_use]
    pub fn iter(&self) -> impl ExactSizeIterator<Item = FileExtent<'_>> {
        self.snapshot.extents_of_first().iter().map(|extent| FileExtent {
            file: &self.files[&extent.segment()],
            extent,
            salt: self.snapshot.segment(extent).salt(),
        })
    }

    /// Returns the length of the value in bytes.
    #[must_use]
    pub fn len(&self) -> u64 {
        total(self.snapshot.extents_of_first())
    }

    /// Returns whether the value has no bytes.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }
}

/// Opens the segments of a snapshot of one key.
fn open_files<D: Disk>(
    store: &Store<D>,
    snapshot: &Snapshot<D::File>,
) -> Result<BTreeMap<u32, File>, Unopened> {
    let mut files = BTreeMap::new();
    for extent in snapshot.extents_of_first() {
        if files.contains_key(&extent.segment()) {
            continue;
        }
        let segment = snapshot.segment(extent);
        let name = segment_name(segment.id());
        let file = store.directory.dir.open_unmapped(&name, segment.file().id());
        let file = file.map_err(|error| match error.kind() {
            io::ErrorKind::NotFound | io::ErrorKind::StaleNetworkFileHandle => {
                Unopened::Gone(segment.id())
            }
            _ => Unopened::Failed(store.directory.error("open", &name, error)),
        })?;
        files.insert(extent.segment(), file);
    }
    Ok(files)
}

impl<'e> FileExtent<'e> {
    /// Returns the file, which is open for reading only.
    ///
    /// Other extents use the same file, so give each call its offset instead of moving the file's
    /// position.
    #[must_use]
    pub fn file(&self) -> &'e File {
        self.file
    }

    /// Returns the offset of the range in the file, in bytes.
    #[must_use]
    pub fn offset(&self) -> u64 {
        self.extent.offset()
    }

    /// Returns the length of the range in bytes.
    #[must_use]
    pub fn len(&self) -> u64 {
        self.extent.len()
    }

    /// Returns whether the range has no bytes.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// Returns the CRC-32 that the bytes must have, as zlib, gzip and `crc32fast` compute it.
    ///
    /// It is derived from the checksum in the store, without reading the bytes, so it is the one
    /// that they were written with.
    #[must_use]
    pub fn crc32(&self) -> u32 {
        self.salt.unsalted_checksum(self.extent.checksum(), self.extent.len())
    }
}
