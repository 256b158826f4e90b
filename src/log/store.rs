//! An open store: its directory, its options, its uuid, and the control file that processes share.
//! It imports nothing from the levels above; every level above borrows it.

use std::fmt::Display;

use crate::error::{Error, ErrorKind, Result};
use crate::log::counters::Tally;
use crate::log::fs::directory::Directory;
use crate::log::fs::fork::ForkMark;
use crate::log::fs::names::CONTROL;
use crate::log::fs::{Dir, Disk};
use crate::log::options::Options;
use crate::log::shared::control::Control;
use crate::log::shared::found::FoundControl;
use crate::log::trace;
use crate::threads::LentPool;

/// An open store.
#[derive(Debug)]
pub(crate) struct Store<D: Disk> {
    pub(crate) directory: Directory<D>,
    pub(crate) options: Options,
    pub(crate) uuid: [u8; 16],
    pub(crate) is_read_only: bool,
    /// Whether the store belongs to this handle alone and is removed with it.
    pub(crate) is_temporary: bool,
    /// Counts the work of this handle.
    pub(crate) tally: Tally,
    history: History<D>,
    /// Released in this order.
    locks: Vec<D::Lock>,
    mark: ForkMark,
}

/// Determines the last sequence number that a handle may read.
#[derive(Debug)]
pub(crate) enum History<D: Disk> {
    /// The control file, which all open handles share.
    Shared(Control<D>),
    /// The result of a recovery in memory: the history as recovery would leave it.
    Frozen(Frozen<D::File>),
}

/// A store as recovery would leave it.
#[derive(Debug)]
pub(crate) struct Frozen<F> {
    /// The uuid of the store, if a file of the store contains it.
    pub(crate) uuid: Option<[u8; 16]>,
    /// The last sequence number of the history.
    pub(crate) sequence: u64,
    /// The control file when this handle was opened, if there was one.
    pub(crate) control: Option<FoundControl<F>>,
}

impl<D: Disk> Store<D> {
    /// Creates a `Store`, which holds `locks` until it is closed and then releases them in order.
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
        Ok(Store {
            directory,
            options,
            uuid,
            is_read_only,
            is_temporary,
            tally: Tally::default(),
            history,
            locks,
            mark,
        })
    }

    /// Returns the control file. Fails if this handle reads the store as recovery would leave it.
    pub(crate) fn control(&self) -> Result<&Control<D>> {
        self.shared().ok_or_else(|| Error::ReadOnly { path: self.directory.path().to_path_buf() })
    }

    /// Returns the control file, unless the history is frozen.
    #[inline]
    pub(crate) fn shared(&self) -> Option<&Control<D>> {
        match &self.history {
            History::Shared(control) => Some(control),
            History::Frozen(_) => None,
        }
    }

    /// Returns the last sequence number that is visible now.
    #[inline]
    pub(crate) fn visible(&self) -> u64 {
        match &self.history {
            History::Shared(control) => control.visible(),
            History::Frozen(frozen) => frozen.sequence,
        }
    }

    /// Returns the directory epoch. It rises when a segment is published, and before segments are
    /// unlinked.
    #[inline]
    pub(crate) fn directory_epoch(&self) -> u64 {
        self.shared().map_or(1, Control::directory_epoch)
    }

    /// Returns the thread pool that was set in the options.
    pub(crate) fn pool(&self) -> Option<&LentPool> {
        self.options.thread_pool.as_ref()
    }

    /// Whether reads skip damaged batches. A handle that follows the store never does.
    pub(crate) fn ignores_damage(&self) -> bool {
        self.options.ignore_damage && self.shared().is_none()
    }

    /// Whether this process is a child that was forked after the store was opened.
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

    /// Fails if this handle may not write.
    #[inline]
    pub(crate) fn check_writable(&self) -> Result<()> {
        self.check_process()?;
        if self.is_read_only {
            return Err(Error::ReadOnly { path: self.directory.path().to_path_buf() });
        }
        Ok(())
    }

    /// Fails if the store was recovered since this handle recovered it in memory: other handles can
    /// then write to it, and this handle would not see their batches.
    pub(crate) fn check_frozen(&self) -> Result<()> {
        let History::Frozen(frozen) = &self.history else { return Ok(()) };
        if self.options.ignore_damage {
            return Ok(());
        }
        match self.directory.dir.id_of(CONTROL) {
            Ok(now) if !frozen.control.as_ref().is_some_and(|found| found.is_unchanged(now)) => {
                let why = "the store needed recovery when this handle was opened for reading, and \
                           another handle has opened it for writing since; open it again to read \
                           what was written";
                Err(Error::refused(ErrorKind::Busy, &**self.directory.path(), why))
            }
            _ => Ok(()),
        }
    }

    /// Fails if a sync has failed, since a later sync could not prove anything.
    pub(crate) fn check_sync(&self, control: &Control<D>) -> Result<()> {
        if control.has_sync_failed() {
            return Err(Error::SyncFailed { path: self.directory.path().to_path_buf() });
        }
        Ok(())
    }

    /// Syncs the directory's names to stable storage. Does nothing for a temporary store.
    pub(crate) fn sync_dir(&self, control: &Control<D>) -> Result<()> {
        if self.is_temporary {
            return Ok(());
        }
        self.directory.dir.sync().map_err(|error| control.sync_error(self.directory.path(), error))
    }

    /// Reports an error of work that no caller waits for, and keeps it for the handle's counters.
    pub(crate) fn background_error(&self, task: &'static str, error: &dyn Display) {
        trace::background_error(self.directory.path(), task, error);
        self.tally.failed(task, error, self.directory.disk.now_unix_ms());
    }

    /// Releases the locks, in order.
    pub(crate) fn unlock(&mut self) {
        self.locks.clear();
    }
}
