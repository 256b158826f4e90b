//! The methods of `Options` that open a store.

use std::path::Path;

use crate::error::Result;
use crate::log::fs::{Disk, OsDisk};
use crate::log::options::Options;
use crate::log::{SegmentLog, open, trace};

impl Options {
    /// Opens a store for reading and writing, and creates it if there is none and
    /// [`create`](Options::create) is true.
    ///
    /// # Errors
    ///
    /// Those of [`SegmentLog::open`], and [`Invalid`](crate::ErrorKind::Invalid) if an option is
    /// out of range.
    pub fn open(&self, path: impl AsRef<Path>) -> Result<SegmentLog> {
        self.open_on(OsDisk, path)
    }

    /// Opens a store for reading, and changes no file in it. See [`SegmentLog::open_read_only`].
    ///
    /// # Errors
    ///
    /// Those of [`SegmentLog::open_read_only`].
    pub fn open_read_only(&self, path: impl AsRef<Path>) -> Result<SegmentLog> {
        self.open_read_only_on(OsDisk, path)
    }

    /// Creates a store in the directory for temporary files, and removes it when the handle is
    /// dropped.
    ///
    /// # Errors
    ///
    /// Those of [`open`](Options::open).
    pub fn temporary(&self) -> Result<SegmentLog> {
        self.temporary_in(std::env::temp_dir())
    }

    /// Creates a store inside `dir`, and removes it when the handle is dropped.
    ///
    /// # Errors
    ///
    /// Those of [`open`](Options::open).
    pub fn temporary_in(&self, dir: impl AsRef<Path>) -> Result<SegmentLog> {
        self.temporary_in_on(OsDisk, dir)
    }

    /// Does the same as [`temporary_in`](Options::temporary_in), on another disk than the operating
    /// system's.
    #[doc(hidden)]
    pub fn temporary_in_on<D: Disk>(
        &self,
        disk: D,
        dir: impl AsRef<Path>,
    ) -> Result<SegmentLog<D>> {
        self.check(dir.as_ref())?;
        let opened = open::temporary::temporary(disk, dir.as_ref(), self);
        opened
            .inspect_err(|error| trace::out_of_space(dir.as_ref(), "open", error))
            .map(SegmentLog::of)
    }

    /// Does the same as [`open`](Options::open), on another disk than the operating system's.
    #[doc(hidden)]
    pub fn open_on<D: Disk>(&self, disk: D, path: impl AsRef<Path>) -> Result<SegmentLog<D>> {
        self.check(path.as_ref())?;
        let opened = open::open(disk, path.as_ref(), self);
        opened
            .inspect_err(|error| trace::out_of_space(path.as_ref(), "open", error))
            .map(SegmentLog::of)
    }

    /// Does the same as [`open_read_only`](Options::open_read_only), on another disk than the
    /// operating system's.
    #[doc(hidden)]
    pub fn open_read_only_on<D: Disk>(
        &self,
        disk: D,
        path: impl AsRef<Path>,
    ) -> Result<SegmentLog<D>> {
        open::read_only::open_read_only(disk, path.as_ref(), self).map(SegmentLog::of)
    }
}
