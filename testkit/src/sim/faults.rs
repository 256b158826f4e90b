//! Injected failures of disk calls: which calls can fail, with which errors, once or permanently;
//! and events that are injected before a call.
//!
//! EINTR is not among the errors. The real disk retries an interrupted `pwritev` or `fallocate`
//! (`retry` in `src/log/fs/linux_file.rs`; its unit test for writes is
//! `a_short_or_interrupted_write_continues_where_it_stopped`), the standard library retries
//! `open` and `fsync`, a try-lock does not wait, and a local file system interrupts nothing else.

use std::{fmt, io};

/// A disk call that can fail.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Call {
    Create,
    Open,
    Rename,
    Replace,
    Link,
    Unlink,
    List,
    Stat,
    OpenDir,
    LockByte,
    CreateDir,
    RemoveDir,
    SyncDir,
    TryLock,
    BootId,
    Random,
    WriteAt,
    Sync,
    Punch,
}

impl Call {
    /// The errors that the system can return for the call. The first is the least specific.
    pub fn errors(self) -> &'static [i32] {
        use libc::{
            EACCES, EDQUOT, EIO, EMFILE, EMLINK, ENFILE, ENOLCK, ENOMEM, ENOSPC, EOPNOTSUPP, EPERM,
            EROFS, EXDEV,
        };
        match self {
            Call::Create => &[EIO, ENOSPC, EDQUOT, EMFILE, ENFILE, ENOMEM, EACCES, EROFS],
            Call::Open => &[EIO, EMFILE, ENFILE, ENOMEM, EACCES],
            Call::Rename | Call::Replace | Call::CreateDir => &[EIO, ENOSPC, EDQUOT, EACCES, EROFS],
            Call::Link => &[EIO, EXDEV, EPERM, EMLINK, ENOSPC, EDQUOT, EACCES, EROFS],
            Call::Unlink | Call::RemoveDir => &[EIO, EACCES, EROFS],
            Call::List => &[EIO, EMFILE, ENFILE, ENOMEM, EACCES],
            Call::Stat => &[EIO, EACCES],
            Call::OpenDir => &[EIO, EMFILE, ENFILE, ENOMEM, EACCES],
            Call::SyncDir => &[EIO, ENOSPC, EDQUOT, EMFILE, ENFILE],
            Call::TryLock => &[EIO, ENOLCK, EMFILE, ENFILE, ENOMEM, EACCES],
            Call::LockByte => &[EIO, ENOLCK, EMFILE, ENFILE, ENOMEM, EACCES, EROFS],
            Call::BootId => &[EIO, EMFILE, ENFILE],
            Call::Random => &[EIO],
            Call::WriteAt | Call::Sync => &[EIO, ENOSPC, EDQUOT],
            Call::Punch => &[EIO, ENOSPC, EOPNOTSUPP],
        }
    }

    /// Whether the error means that data may not have reached stable storage. Otherwise the sync
    /// was not even tried: no file could be opened for it.
    pub fn loses(self, error: i32) -> bool {
        matches!(self, Call::Sync | Call::SyncDir) && ![libc::EMFILE, libc::ENFILE].contains(&error)
    }
}

/// An event that happens before a call.
pub struct Meanwhile(pub Box<dyn FnOnce() + Send>);

impl fmt::Debug for Meanwhile {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Meanwhile")
    }
}

/// The calls of a process since recording began, and the injected failure.
#[derive(Debug, Default)]
pub struct Faults {
    pub made: Vec<Call>,
    /// The call to fail, counted from 0, and its error.
    pub fails: Option<(usize, i32)>,
    /// The call, counted from 0, from which on all fail, and their error.
    pub for_good: Option<(usize, i32)>,
    /// The kind of call of which the first fails, and its error.
    pub first: Option<(Call, i32)>,
    /// The call, counted from 0, before which the event happens.
    pub late: Option<(usize, Meanwhile)>,
}

impl Faults {
    /// The event to run before the next call.
    pub fn meanwhile(&mut self) -> Option<Meanwhile> {
        let next = self.made.len();
        self.late.take_if(|(at, _)| *at == next).map(|(_, meanwhile)| meanwhile)
    }

    pub fn pass(&mut self, call: Call) -> io::Result<()> {
        self.made.push(call);
        let by_number = self.fails.take_if(|(at, _)| *at + 1 == self.made.len());
        let by_kind = self.first.take_if(|(kind, _)| *kind == call);
        let for_good = self.for_good.filter(|(at, _)| *at < self.made.len());
        let error = by_number.or(for_good).map(|(_, error)| error);
        let error = error.or(by_kind.map(|(_, error)| error));
        error.map_or(Ok(()), |error| Err(io::Error::from_raw_os_error(error)))
    }
}
