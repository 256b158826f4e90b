//! A new control file. It is made under a temporary name and renamed, so that nobody ever maps half of one.

use std::io::{self, IoSlice};

use partd_format::control::{self as layout, Commit, Fixed};

use crate::error::Result;
use crate::log::fs::directory::Directory;
use crate::log::fs::names::{CONTROL, UNFINISHED_CONTROL};
use crate::log::fs::{Access, Dir, Disk, DiskFile, is_full};

/// What a new control file begins with.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Start {
    pub(crate) fixed: Fixed,
    pub(crate) sequence: u64,
    pub(crate) next_segment: u64,
    pub(crate) directory_epoch: u64,
    pub(crate) durable_seq: u64,
    pub(crate) sync_failed: bool,
}

impl Start {
    /// The control file of a store without a history.
    pub(crate) fn of_new_store(
        uuid: [u8; 16],
        boot: [u8; 16],
        now_unix_ms: u64,
        temporary: bool,
    ) -> Start {
        let fixed = Fixed {
            store: uuid,
            boot,
            created_unix_ms: now_unix_ms,
            // Of the file that is made.
            device: 0,
            inode: 0,
            temporary,
        };
        Start {
            fixed,
            sequence: 0,
            next_segment: 1,
            directory_epoch: 1,
            durable_seq: 0,
            sync_failed: false,
        }
    }

    /// Writes the first `len` bytes of a control file, whatever is in them. What lies behind must be zeros.
    fn write<F: DiskFile>(&self, file: &F, len: u64) -> io::Result<()> {
        let id = file.id();
        let fixed = Fixed { device: id.device, inode: id.inode, ..self.fixed };
        let mut bytes = vec![0; len as usize];
        bytes[..layout::FIXED_LEN].copy_from_slice(&fixed.encode());
        let commit = Commit { sequence: self.sequence, slot: 0, done: true };
        for (offset, word) in [
            (layout::COMMIT_AT, commit.encode()),
            (layout::NEXT_SEGMENT_AT, self.next_segment),
            (layout::DIRECTORY_EPOCH_AT, self.directory_epoch),
            (
                layout::DURABLE_SEQ_AT,
                layout::encode_durable_seq(&self.fixed.store, self.durable_seq),
            ),
            (layout::SYNC_FAILED_AT, if self.sync_failed { layout::SYNC_FAILED } else { 0 }),
        ] {
            bytes[offset as usize..offset as usize + 8].copy_from_slice(&word.to_le_bytes());
        }
        // Through the file: a store into a hole of a copied file is a SIGBUS on a full disk. The fixed fields
        // come last, so that a file that was half written over does not count.
        let (fixed, words) = bytes.split_at(layout::FIXED_LEN);
        file.write_at(&mut [IoSlice::new(&[0; layout::FIXED_LEN])], 0)?;
        file.write_at(&mut [IoSlice::new(words)], layout::FIXED_LEN as u64)?;
        file.write_at(&mut [IoSlice::new(fixed)], 0)
    }

    /// Makes the control file anew, in place of the one that is there. The caller is alone.
    ///
    /// Where the disk has no space for another file, the one that is there is written over: nobody maps it.
    pub(crate) fn create<D: Disk>(&self, directory: &Directory<D>) -> Result<()> {
        let uuid = Some(&self.fixed.store);
        let made =
            directory.create_anew(UNFINISHED_CONTROL, layout::FILE_LEN, uuid).and_then(|file| {
                let written = self.write(&file, layout::SLOTS_AT);
                written.map_err(|error| directory.error("write", UNFINISHED_CONTROL, error))?;
                let renamed = directory.dir.replace(UNFINISHED_CONTROL, CONTROL);
                renamed.map_err(|error| directory.error("make the control file", CONTROL, error))
            });
        let Err(error) = made else { return Ok(()) };
        // Half a control file is of no use to anyone; the error that counts is the first.
        let _ = directory.unlink_unfinished(UNFINISHED_CONTROL, uuid);
        match directory.dir.open(CONTROL, Access::Write) {
            Ok(file) if is_full(&error) && file.mapping().len() == layout::FILE_LEN => {
                let written = self.write(&file, layout::FILE_LEN);
                written.map_err(|error| directory.error("write", CONTROL, error))
            }
            _ => Err(error),
        }
    }
}
