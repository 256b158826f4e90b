//! An open store, as far as everything above it needs to know: its directory, its options, who it is, and
//! the words that processes share. It knows nobody above; every floor borrows it.

use crate::error::{Error, ErrorKind, Result};
use crate::log::fs::directory::Directory;
use crate::log::fs::fork::ForkMark;
use crate::log::fs::names::CONTROL;
use crate::log::fs::{Dir, Disk, FileId};
use crate::log::options::Options;
use crate::log::shared::control::Control;
use crate::threads::LentPool;

/// What a handle has opened.
#[derive(Debug)]
pub(crate) struct Store<D: Disk> {
    pub(crate) directory: Directory<D>,
    pub(crate) options: Options,
    pub(crate) uuid: [u8; 16],
    pub(crate) is_read_only: bool,
    /// Whether the store belongs to this handle alone and is removed with it.
    pub(crate) is_temporary: bool,
    history: History<D>,
    /// In the order in which they are given back.
    locks: Vec<D::Lock>,
    mark: ForkMark,
}

/// Where a handle learns how far the history goes.
#[derive(Debug)]
pub(crate) enum History<D: Disk> {
    /// From the control file, which all who have the store open share.
    Shared(Control<D>),
    /// From its own look at a store that needs recovery: the history as recovery would leave it.
    Frozen(Frozen),
}

/// A store as recovery would leave it.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Frozen {
    /// The uuid of the store, where anything says it.
    pub(crate) uuid: Option<[u8; 16]>,
    /// The last number of the history.
    pub(crate) sequence: u64,
    /// The control file that was there.
    pub(crate) control: Option<FileId>,
}

impl<D: Disk> Store<D> {
    /// An opened store; `locks` are held until it is closed, and given back in their order.
    pub(crate) fn new(
        directory: Directory<D>,
        options: Options,
        history: History<D>,
        locks: Vec<D::Lock>,
        is_temporary: bool,
    ) -> Result<Store<D>> {
        let mark = ForkMark::new().map_err(|e| directory.dir_error("map a page for", e))?;
        let (uuid, is_read_only) = match &history {
            History::Shared(control) => (control.fixed.store, !control.is_writable()),
            History::Frozen(frozen) => (frozen.uuid.unwrap_or_default(), true),
        };
        Ok(Store { directory, options, uuid, is_read_only, is_temporary, history, locks, mark })
    }

    /// The words that processes share; an error where the store is read as recovery would leave it.
    pub(crate) fn control(&self) -> Result<&Control<D>> {
        self.shared().ok_or_else(|| Error::ReadOnly { path: self.directory.path().to_path_buf() })
    }

    /// The words that processes share, if the handle follows them.
    #[inline]
    pub(crate) fn shared(&self) -> Option<&Control<D>> {
        match &self.history {
            History::Shared(control) => Some(control),
            History::Frozen(_) => None,
        }
    }

    /// The last sequence number that is visible now.
    #[inline]
    pub(crate) fn visible(&self) -> u64 {
        match &self.history {
            History::Shared(control) => control.visible(),
            History::Frozen(frozen) => frozen.sequence,
        }
    }

    /// How many publishing renames there were.
    #[inline]
    pub(crate) fn directory_epoch(&self) -> u64 {
        self.shared().map_or(1, Control::directory_epoch)
    }

    /// The pool that the handle was lent.
    pub(crate) fn pool(&self) -> Option<&LentPool> {
        self.options.thread_pool.as_ref()
    }

    /// Whether damage is read around; only where nobody else has the store open.
    pub(crate) fn ignores_damage(&self) -> bool {
        self.options.ignore_damage && self.shared().is_none()
    }

    /// Whether this is a child that was forked after the store was opened.
    #[inline]
    pub(crate) fn is_forked(&self) -> bool {
        self.mark.is_forked()
    }

    /// Fails in a child that was forked after the store was opened.
    #[inline]
    pub(crate) fn check_process(&self) -> Result<()> {
        if self.is_forked() {
            return Err(Error::Forked { path: self.directory.path().to_path_buf() });
        }
        Ok(())
    }

    /// Fails where nothing may be written through this handle.
    #[inline]
    pub(crate) fn check_writable(&self) -> Result<()> {
        self.check_process()?;
        if self.is_read_only {
            return Err(Error::ReadOnly { path: self.directory.path().to_path_buf() });
        }
        Ok(())
    }

    /// Fails if the store was recovered since this handle has worked out how: others then write to it, and this
    /// handle would not see it.
    pub(crate) fn check_frozen(&self) -> Result<()> {
        let History::Frozen(frozen) = &self.history else { return Ok(()) };
        if self.options.ignore_damage {
            return Ok(());
        }
        match self.directory.dir.id_of(CONTROL) {
            Ok(now) if Some(now) != frozen.control => {
                let why = "the store needed recovery when this handle was opened for reading, and somebody has \
                           opened it for writing since; open it again to see what was written";
                Err(Error::refused(ErrorKind::Busy, &**self.directory.path(), why))
            }
            _ => Ok(()),
        }
    }

    /// Whether a sync can still prove anything.
    pub(crate) fn check_sync(&self, control: &Control<D>) -> Result<()> {
        if control.has_sync_failed() {
            return Err(Error::SyncFailed { path: self.directory.path().to_path_buf() });
        }
        Ok(())
    }

    /// Brings the names in the directory to stable storage.
    pub(crate) fn sync_dir(&self, control: &Control<D>) -> Result<()> {
        if self.is_temporary {
            return Ok(());
        }
        self.directory.dir.sync().map_err(|error| control.sync_error(self.directory.path(), error))
    }

    /// Gives back the locks, in their order.
    pub(crate) fn unlock(&mut self) {
        self.locks.clear();
    }
}
