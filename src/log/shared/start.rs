//! Creation of a control file: it is written under a temporary name and renamed, so that nobody
//! ever maps an incomplete one.

use std::io::{self, IoSlice};

use partd_format::control::{self as layout, Commit, Fixed};

use crate::error::Result;
use crate::log::fs::directory::Directory;
use crate::log::fs::names::{CONTROL, UNFINISHED_CONTROL};
use crate::log::fs::{Access, Dir, Disk, DiskFile, is_full};

/// The initial contents of a control file.
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
            // Filled in when the file is created.
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

    /// Overwrites the first `len` bytes of a control file. The bytes after them must be zeros.
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
        // Write instead of storing to the mapping: a store into a hole of a copied file raises
        // SIGBUS on a full disk. Write the fixed fields last, so that a partly overwritten file is
        // not valid.
        let (fixed, words) = bytes.split_at(layout::FIXED_LEN);
        file.write_at(&mut [IoSlice::new(&[0; layout::FIXED_LEN])], 0)?;
        file.write_at(&mut [IoSlice::new(words)], layout::FIXED_LEN as u64)?;
        file.write_at(&mut [IoSlice::new(fixed)], 0)
    }

    /// Creates the control file and replaces the existing one. The caller is alone.
    ///
    /// If the disk has no space for a second file, overwrites the existing one. Nobody uses it then,
    /// unless it has another name in another directory.
    pub(crate) fn create<D: Disk>(&self, directory: &Directory<D>) -> Result<()> {
        let uuid = Some(&self.fixed.store);
        let made = directory
            .create_replacing_unfinished(UNFINISHED_CONTROL, layout::FILE_LEN, uuid)
            .and_then(|file| {
                let written = self.write(&file, layout::SLOTS_AT);
                written.map_err(|error| directory.error("write", UNFINISHED_CONTROL, error))?;
                let renamed = directory.dir.replace(UNFINISHED_CONTROL, CONTROL);
                renamed.map_err(|error| directory.error("make the control file", CONTROL, error))
            });
        let Err(error) = made else { return Ok(()) };
        // Remove the incomplete file; report the first error.
        let _ = directory.unlink_unfinished(UNFINISHED_CONTROL, uuid);
        match directory.dir.open(CONTROL, Access::Write) {
            Ok(file)
                if is_full(&error)
                    && file.mapping().len() == layout::FILE_LEN
                    && directory.dir.links(CONTROL).is_ok_and(|links| links == 1) =>
            {
                let written = self.write(&file, layout::FILE_LEN);
                written.map_err(|error| directory.error("write", CONTROL, error))
            }
            _ => Err(error),
        }
    }
}
