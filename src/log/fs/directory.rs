//! The open directory of a store, and what is done to the files in it.
//!
//! A [`Directory`] is bound to the directory that it opened, by descriptor and not by path: a store that was
//! renamed goes on, and a directory that appears at the old path is never touched. The path is kept for
//! messages only. A file is removed or renamed only if it is known to be a file of this store: by the
//! identity of a file that this handle has mapped, or by the header in it.

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

/// What a file of a store's directory is, by its first bytes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Content {
    /// Nothing that was ever stored: all zeros.
    Blank,
    /// A segment of this store with this id.
    Segment(u64),
    /// A control file, of whatever store: it holds nothing that the segments do not.
    Control,
    /// A file of another store.
    Foreign,
    /// Something else: what a power cut has torn, or what somebody has put there.
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

    /// An error of the operating system about a file of the store. Where the directory itself was removed,
    /// that is what the error says.
    pub(crate) fn error(&self, doing: &'static str, name: &str, source: io::Error) -> Error {
        if source.kind() == io::ErrorKind::NotFound && self.dir.is_removed().unwrap_or(false) {
            return self.removed();
        }
        Error::io(doing, self.path_of(name), source)
    }

    /// An error of the operating system about the directory.
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
            "the directory of this store was removed while the store was open; what was not read before is \
             gone. Another store may be at this path by now: this handle leaves it alone",
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

    /// Fails if a segment is of a newer format: nothing may be appended beside it.
    pub(crate) fn check_versions(&self) -> Result<()> {
        for id in self.segment_ids()? {
            match self.header(id) {
                Err(error) if error.kind() == ErrorKind::NewerVersion => return Err(error),
                // Whoever reads the segment reports whatever else is wrong with it.
                _ => {}
            }
        }
        Ok(())
    }

    /// What a file is, by its first bytes. `uuid` is that of this store; without it, that of any store will do.
    pub(crate) fn content(&self, name: &str, uuid: Option<&[u8; 16]>) -> io::Result<Content> {
        let mut bytes = [0; HEADER_LEN as usize];
        let len = self.dir.read_start(name, &mut bytes)?;
        Ok(Directory::<D>::content_of(&bytes, len, uuid))
    }

    /// The same for the first bytes of a file of `len` bytes.
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
            // A newer version of the format may belong to anybody.
            Err(error) if is_newer(&error) => Content::Foreign,
            Err(_) => Content::Unknown,
        }
    }

    /// An error unless the name of a segment still leads to the file that this handle uses.
    pub(crate) fn check_in_place(&self, id: u64, file: FileId) -> Result<()> {
        let name = segment_name(id);
        match self.dir.id_of(&name) {
            Ok(now) if now == file => return Ok(()),
            Err(error) if error.kind() != io::ErrorKind::NotFound => {
                return Err(self.error("look at", &name, error));
            }
            _ => {}
        }
        Err(self.moved(id))
    }

    /// The error of a handle under which a segment was removed or replaced.
    pub(crate) fn moved(&self, id: u64) -> Error {
        if self.dir.is_removed().unwrap_or(false) {
            return self.removed();
        }
        Error::refused(
            ErrorKind::Removed,
            self.path_of(&segment_name(id)),
            "this segment was removed, moved away or replaced while the store was open, and what was appended \
             to it is no longer in the store",
        )
    }

    /// Removes the file of a segment that this handle has mapped; nothing happens if its name leads to another
    /// file by now, or to none.
    pub(crate) fn unlink_mapped(&self, name: &str, id: FileId) -> Result<()> {
        match self.dir.id_of(name) {
            Ok(now) if now == id => self.unlink(name),
            Ok(_) => Ok(()),
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(()),
            Err(error) => Err(self.error("look at", name, error)),
        }
    }

    /// Removes the file of segment `id` if its header says that it is that segment of this store. Returns
    /// whether the name is free.
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

    /// Removes a file that was never finished, if it is not of another store.
    pub(crate) fn unlink_unfinished(&self, name: &str, uuid: Option<&[u8; 16]>) -> Result<()> {
        match self.content(name, uuid) {
            Ok(Content::Foreign) => Ok(()),
            // A file that a dead maker has left half written may hold anything.
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

    /// Removes a name that is known to be one of this store; it may be gone already.
    pub(crate) fn unlink(&self, name: &str) -> Result<()> {
        match self.dir.unlink(name) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(()),
            done => done.map_err(|error| self.error("remove", name, error)),
        }
    }

    /// Gives this store a file of its own for a segment of which other directories have names too, as in a
    /// copy made with `cp -al`: what is stored to it then does not reach those. The caller is alone.
    pub(crate) fn own_segment(&self, id: u64) -> Result<()> {
        const PIECE_BYTES: u64 = 1 << 20;
        let name = segment_name(id);
        let links = self.dir.links(&name).map_err(|error| self.error("look at", &name, error))?;
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
        copied().map_err(|error| self.error("make a copy of its own of", &name, error))
    }

    /// Makes a file in place of one of the same name that was never finished.
    pub(crate) fn create_anew(
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

    /// Takes a reserve under another name, if it has `len` bytes at least. What it holds is zeros.
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
        // A copy may have holes where the original had space, and a store into a hole needs space.
        let is_allocated =
            self.dir.disk_bytes(name).is_ok_and(|bytes| bytes >= file.mapping().len());
        if is_blank && is_allocated && file.mapping().len() >= len {
            return Ok(Some(file));
        }
        // Too short for this: the next one may find it long enough.
        let _ = self.dir.rename(name, reserve);
        Ok(None)
    }

    /// Makes a reserve of `len` bytes, or of as many as there are, if there is none, and in place of one that is
    /// shorter or more than twice as long. Without one, only a full disk is harder to get out of. `unfinished` is
    /// a name that the caller alone uses.
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
        // The new one first: a disk that is nearly full keeps the old one.
        if self.create_anew(unfinished, len, Some(uuid)).is_ok() {
            let _ = self.dir.replace(unfinished, name);
        }
    }
}

/// Whether a file is of a newer version of the format. Version 0 is what a power cut leaves where the magic came
/// to the disk and the rest did not: taken for another's file, it would stand in the way of every open.
fn is_newer(error: &partd_format::Error) -> bool {
    let partd_format::Evidence::Number(found) = error.found else { return false };
    error.what == "format version" && found > partd_format::VERSION.into()
}
