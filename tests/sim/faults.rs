//! Calls of the disk that fail once, on purpose: which can, with which errors, and which one does;
//! or that come late, when something else has happened before.

use std::{fmt, io};

/// A call of the seam that can fail.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Call {
    Create,
    Open,
    Reclaim,
    Rename,
    Replace,
    Unlink,
    List,
    DiskBytes,
    Age,
    CreateDir,
    RemoveDir,
    SyncDir,
    TryLock,
    Unfit,
    BootId,
    Random,
    WriteAt,
    Sync,
    Punch,
}

impl Call {
    /// The errors that the system has for the call. The first is the one that says the least.
    pub fn errors(self) -> &'static [i32] {
        use libc::{EACCES, EDQUOT, EIO, EMFILE, ENOMEM, ENOSPC, EOPNOTSUPP, EROFS};
        match self {
            Call::Create => &[EIO, ENOSPC, EDQUOT, EMFILE, ENOMEM, EACCES, EROFS],
            Call::Open => &[EIO, EMFILE, ENOMEM, EACCES],
            Call::Reclaim => &[EIO, ENOSPC, EMFILE, ENOMEM, EACCES],
            Call::Rename | Call::Replace | Call::CreateDir => &[EIO, ENOSPC, EDQUOT, EACCES, EROFS],
            Call::Unlink | Call::RemoveDir => &[EIO, EACCES, EROFS],
            Call::List => &[EIO, EMFILE, ENOMEM, EACCES],
            Call::DiskBytes | Call::Age | Call::Unfit => &[EIO, EACCES],
            Call::SyncDir => &[EIO, ENOSPC, EDQUOT, EMFILE],
            Call::TryLock => &[EIO, ENOSPC, EDQUOT, EMFILE, ENOMEM, EACCES, EROFS],
            Call::BootId => &[EIO, EMFILE],
            Call::Random => &[EIO],
            Call::WriteAt | Call::Sync => &[EIO, ENOSPC, EDQUOT],
            Call::Punch => &[EIO, ENOSPC, EOPNOTSUPP],
        }
    }

    /// Whether the error says that something was not brought to stable storage. Else it was not
    /// even tried: no file could be opened for it.
    pub fn loses(self, error: i32) -> bool {
        matches!(self, Call::Sync | Call::SyncDir) && error != libc::EMFILE
    }
}

/// Something that happens while a call waits.
pub struct Meanwhile(pub Box<dyn FnOnce() + Send>);

impl fmt::Debug for Meanwhile {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Meanwhile")
    }
}

/// The calls of a process since it was watched, and the one that fails.
#[derive(Debug)]
pub struct Faults {
    pub made: Vec<Call>,
    /// The call, counted from 0, and its error.
    pub fails: Option<(usize, i32)>,
    /// The call, counted from 0, before which something happens.
    pub late: Option<(usize, Meanwhile)>,
}

impl Faults {
    /// What happens before the next call.
    pub fn meanwhile(&mut self) -> Option<Meanwhile> {
        let next = self.made.len();
        self.late.take_if(|(at, _)| *at == next).map(|(_, meanwhile)| meanwhile)
    }

    pub fn pass(&mut self, call: Call) -> io::Result<()> {
        self.made.push(call);
        match self.fails {
            Some((at, error)) if at + 1 == self.made.len() => {
                Err(io::Error::from_raw_os_error(error))
            }
            _ => Ok(()),
        }
    }
}
