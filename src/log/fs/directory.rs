//! The open directory of a store, and the operations on its files.
//!
//! A [`Directory`] is bound to a directory by its descriptor, not by its path. A renamed store
//! keeps working, and a new directory at the old path is never touched. The path serves only for
//! messages. Before a file is removed or renamed, it is checked to belong to this store: by its
//! identity if this handle has mapped it, otherwise by its header.

use std::io::{self, IoSlice};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use partd_format::control::Fixed;
use partd_format::segment::{DURABLE_END_AT, HEADER_LEN, id_of_file_name};
use partd_format::{SegmentHeader, control};

use crate::error::{Error, ErrorKind, Result, damage};
use crate::log::fs::names::{RESERVE_MIN_BYTES, UNFINISHED_OUTPUT, segment_name};
use crate::log::fs::{Access, Dir, Disk, DiskFile, FileId};

/// An open directory of a store.
#[derive(Debug)]
pub(crate) struct Directory<D: Disk> {
    pub(crate) disk: D,
    pub(crate) dir: D::Dir,
    path: Arc<Path>,
}

impl<D: Disk> Clone for Directory<D> {
    fn clone(&self) -> Directory<D> {
        Directory { disk: self.disk.clone(), dir: self.dir.clone(), path: Arc::clone(&self.path) }
    }
}

/// The kind of a file in a store's directory, judged by its first bytes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Content {
    /// All zeros: nothing was ever stored.
    Blank,
    /// A segment of this store with this id.
    Segment(u64),
    /// A control file of any store. It holds nothing that cannot be rebuilt from the segments.
    Control,
    /// A file of another store.
    Foreign,
    /// Anything else: a file torn by a power cut, or one that does not belong to partd.
    Unknown,
}

impl<D: Disk> Directory<D> {
    pub(crate) fn new(disk: D, dir: D::Dir, path: &Path) -> Directory<D> {
        Directory { disk, dir, path: path.into() }
    }

    /// The path at which the directory was opened.
    pub(crate) fn path(&self) -> &Arc<Path> {
        &self.path
    }

    /// The path of a file, for errors.
    pub(crate) fn path_of(&self, name: &str) -> PathBuf {
        self.path.join(name)
    }

    /// Wraps an I/O error on a file of the store. If the directory was removed, the error says so.
    pub(crate) fn error(&self, doing: &'static str, name: &str, source: io::Error) -> Error {
        if source.kind() == io::ErrorKind::NotFound && self.dir.is_removed().unwrap_or(false) {
            return self.removed();
        }
        Error::io(doing, self.path_of(name), source)
    }

    /// Wraps an I/O error on the directory.
    pub(crate) fn dir_error(&self, doing: &'static str, source: io::Error) -> Error {
        if source.kind() == io::ErrorKind::NotFound && self.dir.is_removed().unwrap_or(false) {
            return self.removed();
        }
        Error::io(doing, &*self.path, source)
    }

    /// The error of a handle whose directory was removed.
    pub(crate) fn removed(&self) -> Error {
        Error::refused(
            ErrorKind::Removed,
            &*self.path,
            "the directory of this store was removed while the store was open; data that was not read before \
             is gone. Another store may now exist at this path; this handle does not touch it",
        )
    }

    /// Draws random bytes.
    pub(crate) fn random<const N: usize>(&self) -> Result<[u8; N]> {
        let mut bytes = [0; N];
        self.disk.random(&mut bytes).map_err(|e| self.dir_error("draw random bytes for", e))?;
        Ok(bytes)
    }

    /// The ids of the segment files, in order.
    pub(crate) fn segment_ids(&self) -> Result<std::collections::BTreeSet<u64>> {
        let listed = self.dir.list().map_err(|e| self.dir_error("list", e))?;
        Ok(listed.iter().filter_map(|name| id_of_file_name(name.as_encoded_bytes())).collect())
    }

    /// The header of a segment, read without mapping it.
    pub(crate) fn header(&self, id: u64) -> Result<SegmentHeader> {
        let name = segment_name(id);
        let mut bytes = [0; DURABLE_END_AT as usize];
        let len = self.dir.read_start(&name, &mut bytes);
        let len = len.map_err(|error| self.error("read", &name, error))?;
        SegmentHeader::decode(&bytes, len).map_err(|error| damage(self.path_of(&name), error))
    }

    /// Fails if any segment has a newer format version: this version must not append beside it.
    pub(crate) fn check_versions(&self) -> Result<()> {
        for id in self.segment_ids()? {
            match self.header(id) {
                Err(error) if error.kind() == ErrorKind::NewerVersion => return Err(error),
                // Any other damage is reported when the segment is read.
                _ => {}
            }
        }
        Ok(())
    }

    /// The kind of a file, from its first bytes. `uuid` is that of this store; if `None`, a segment
    /// of any store is accepted.
    pub(crate) fn content(&self, name: &str, uuid: Option<&[u8; 16]>) -> io::Result<Content> {
        let mut bytes = [0; HEADER_LEN as usize];
        let len = self.dir.read_start(name, &mut bytes)?;
        Ok(Directory::<D>::content_of(&bytes, len, uuid))
    }

    /// The kind of a file of `len` bytes, from its first bytes.
    fn content_of(bytes: &[u8; HEADER_LEN as usize], len: u64, uuid: Option<&[u8; 16]>) -> Content {
        if bytes.iter().all(|&byte| byte == 0) {
            return Content::Blank;
        }
        let is_ours = |found: [u8; 16]| uuid.is_none_or(|uuid| *uuid == found);
        match SegmentHeader::decode(&bytes[..DURABLE_END_AT as usize], len) {
            Ok(header) if is_ours(header.store) => return Content::Segment(header.id),
            Ok(_) => return Content::Foreign,
            Err(error) if is_newer(&error) => return Content::Foreign,
            Err(_) => {}
        }
        match Fixed::decode(&bytes[..control::FIXED_LEN]) {
            Ok(_) => Content::Control,
            // A file of a newer format version may belong to another store.
            Err(error) if is_newer(&error) => Content::Foreign,
            Err(_) => Content::Unknown,
        }
    }

    /// Returns an error if the name of a segment no longer refers to the file that this handle
    /// uses.
    pub(crate) fn check_in_place(&self, id: u64, file: FileId) -> Result<()> {
        let name = segment_name(id);
        match self.dir.id_of(&name) {
            Ok(now) if now == file => return Ok(()),
            Err(error) if error.kind() != io::ErrorKind::NotFound => {
                return Err(self.error("examine", &name, error));
            }
            _ => {}
        }
        Err(self.moved(id))
    }

    /// The error for a segment that was removed or replaced while this handle used it.
    pub(crate) fn moved(&self, id: u64) -> Error {
        if self.dir.is_removed().unwrap_or(false) {
            return self.removed();
        }
        Error::refused(
            ErrorKind::Removed,
            self.path_of(&segment_name(id)),
            "this segment was removed, moved away or replaced while the store was open; the batches \
             in it are no longer in the store",
        )
    }

    /// Removes the file of a segment that this handle has mapped. Does nothing if its name is gone
    /// or now refers to another file.
    pub(crate) fn unlink_mapped(&self, name: &str, id: FileId) -> Result<()> {
        match self.dir.id_of(name) {
            Ok(now) if now == id => self.unlink(name),
            Ok(_) => Ok(()),
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(()),
            Err(error) => Err(self.error("examine", name, error)),
        }
    }

    /// Removes the file of segment `id` if it is blank or its header identifies it as that segment
    /// of this store. Returns whether the name is now free.
    pub(crate) fn unlink_segment(&self, id: u64, uuid: &[u8; 16]) -> Result<bool> {
        let name = segment_name(id);
        match self.content(&name, Some(uuid)) {
            Ok(Content::Segment(found)) if found == id => self.unlink(&name).map(|()| true),
            Ok(Content::Blank) => self.unlink(&name).map(|()| true),
            Ok(_) => Ok(false),
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(true),
            Err(error) if error.kind() == io::ErrorKind::InvalidInput => Ok(false),
            Err(error) => Err(self.error("open", &name, error)),
        }
    }

    /// Removes an unfinished file, unless it belongs to another store.
    pub(crate) fn unlink_unfinished(&self, name: &str, uuid: Option<&[u8; 16]>) -> Result<()> {
        match self.content(name, uuid) {
            Ok(Content::Foreign) => Ok(()),
            // A process that died while it wrote this file may have left anything in it.
            Ok(_) => self.unlink(name),
            Err(error)
                if matches!(
                    error.kind(),
                    io::ErrorKind::NotFound | io::ErrorKind::InvalidInput
                ) =>
            {
                Ok(())
            }
            Err(error) => Err(self.error("open", name, error)),
        }
    }

    /// Removes a file that belongs to this store; succeeds if it is already gone.
    pub(crate) fn unlink(&self, name: &str) -> Result<()> {
        match self.dir.unlink(name) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(()),
            done => done.map_err(|error| self.error("remove", name, error)),
        }
    }

    /// Replaces a hard-linked segment by a private copy, so that stores to it do not reach the
    /// other directories that share the file, as after `cp -al`. The caller is alone in the store.
    pub(crate) fn own_segment(&self, id: u64) -> Result<()> {
        const PIECE_BYTES: u64 = 1 << 20;
        let name = segment_name(id);
        let links = self.dir.links(&name).map_err(|error| self.error("examine", &name, error))?;
        if links == 1 {
            return Ok(());
        }
        let copied = || {
            let shared = self.dir.open(&name, Access::Read)?;
            let len = shared.mapping().len();
            let own = self.dir.create(UNFINISHED_OUTPUT, len)?;
            let mut piece = vec![0; len.min(PIECE_BYTES) as usize];
            for offset in (0..len).step_by(piece.len().max(1)) {
                let piece = &mut piece[..(len - offset).min(PIECE_BYTES) as usize];
                shared.loaded(offset, piece.len() as u64);
                shared.mapping().copy_out(offset, piece);
                own.write_at(&mut [IoSlice::new(piece)], offset)?;
            }
            own.sync()?;
            self.dir.replace(UNFINISHED_OUTPUT, &name)
        };
        self.unlink_unfinished(UNFINISHED_OUTPUT, None)?;
        copied().map_err(|error| self.error("make a private copy of", &name, error))
    }

    /// Creates a file, and first removes an unfinished file of the same name.
    pub(crate) fn create_replacing_unfinished(
        &self,
        name: &str,
        len: u64,
        uuid: Option<&[u8; 16]>,
    ) -> Result<D::File> {
        let made = match self.dir.create(name, len) {
            Err(error) if error.kind() == io::ErrorKind::AlreadyExists => {
                self.unlink_unfinished(name, uuid)?;
                self.dir.create(name, len)
            }
            made => made,
        };
        made.map_err(|error| self.error("allocate", name, error))
    }

    /// Renames a reserve to `name` and opens it, if it has at least `len` bytes. It holds only
    /// zeros.
    pub(crate) fn take_reserve(
        &self,
        reserve: &str,
        name: &str,
        len: u64,
        uuid: &[u8; 16],
    ) -> Result<Option<D::File>> {
        self.unlink_unfinished(name, Some(uuid))?;
        match self.dir.rename(reserve, name) {
            Err(error)
                if matches!(
                    error.kind(),
                    io::ErrorKind::NotFound | io::ErrorKind::AlreadyExists
                ) =>
            {
                return Ok(None);
            }
            renamed => renamed.map_err(|error| self.error("rename", reserve, error))?,
        }
        let file =
            self.dir.open(name, Access::Write).map_err(|error| self.error("open", name, error))?;
        let is_blank = self.content(name, Some(uuid)).is_ok_and(|found| found == Content::Blank);
        // In a copied store the reserve may be sparse, and a store into a hole needs disk space.
        let is_allocated =
            self.dir.disk_bytes(name).is_ok_and(|bytes| bytes >= file.mapping().len());
        if is_blank && is_allocated && file.mapping().len() >= len {
            return Ok(Some(file));
        }
        // Too short for this caller; the next one may need less.
        let _ = self.dir.rename(name, reserve);
        Ok(None)
    }

    /// Creates a reserve of `len` bytes if there is none, halving the length until it fits the free
    /// space. Replaces a blank reserve that is shorter than `len` or more than twice as long.
    /// Errors are ignored: without a reserve, it is only harder to free space on a full disk. No
    /// other process may use the name `unfinished`.
    pub(crate) fn keep_reserve(&self, name: &str, len: u64, unfinished: &str, uuid: &[u8; 16]) {
        let old = match self.dir.disk_bytes(name) {
            Ok(old) => old,
            Err(error) if error.kind() == io::ErrorKind::NotFound => {
                let halves = std::iter::successors(Some(len), |len| Some(len / 2));
                let mut lens = halves.take_while(|&len| len >= RESERVE_MIN_BYTES);
                lens.find(|len| self.dir.create(name, len.next_multiple_of(4096)).is_ok());
                return;
            }
            Err(_) => return,
        };
        let is_blank = || self.content(name, Some(uuid)).is_ok_and(|it| it == Content::Blank);
        if (len..=len * 2).contains(&old) || !is_blank() {
            return;
        }
        // Create the new reserve first: if the disk is nearly full, the old one stays.
        if self.create_replacing_unfinished(unfinished, len, Some(uuid)).is_ok() {
            let _ = self.dir.replace(unfinished, name);
        }
    }
}

/// Whether a file has a newer format version. Version 0 is not newer: a power cut leaves it if the
/// magic reached the disk and the rest did not. Treated as foreign, such a file would block every
/// open.
fn is_newer(error: &partd_format::Error) -> bool {
    let partd_format::Evidence::Number(found) = error.found else { return false };
    error.what == "format version" && found > partd_format::VERSION.into()
}
