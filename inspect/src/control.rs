//! Reads the control file of a store.

use std::fs::{self, File};
use std::io::{self, Read};
use std::os::unix::fs::MetadataExt;
use std::path::Path;

use byteorder::{ByteOrder, LittleEndian as Le};
use partd_format::control::{self as layout, Commit, Fixed};
use partd_format::{Error, Evidence};

/// A control file whose fixed fields are good.
#[derive(Clone, Debug)]
pub struct Control {
    /// The fixed fields: the store, the boot, the identity of the file.
    pub fixed: Fixed,
    /// Whether the file is a copy of the one that the engine created: it does not name its own device
    /// and inode. The words of a copy say nothing about the processes of this machine.
    pub is_copy: bool,
    /// The commit word.
    pub commit: Commit,
    /// The id of the next segment.
    pub next_segment: u64,
    /// The directory epoch.
    pub directory_epoch: u64,
    /// The word `durable_seq`, or why it cannot be decoded.
    pub durable_seq: Result<u64, Error>,
    /// Whether a sync of the store has failed.
    pub sync_failed: bool,
    /// Whether the last handle closed the store.
    pub clean: bool,
    /// The writer slots that name a process.
    pub slots: Vec<WriterSlot>,
}

/// A writer slot that names a process.
#[derive(Clone, Debug)]
pub struct WriterSlot {
    /// The number of the slot.
    pub slot: u16,
    /// The process that leased it last.
    pub pid: u32,
    /// The segment in which the writer claims its batches; 0 for none.
    pub active: u64,
}

impl Control {
    /// Reads the control file of the store in `dir`; `None` if there is none. The inner result is an
    /// error if the file violates the format.
    ///
    /// # Errors
    /// If the operating system cannot read the file.
    pub fn read(dir: &Path) -> io::Result<Option<Result<Control, Error>>> {
        let path = dir.join("control");
        let metadata = match fs::metadata(&path) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
            other => other?,
        };
        if metadata.len() != layout::FILE_LEN {
            return Ok(Some(Err(Error {
                offset: 0,
                what: "length of control file",
                expected: Evidence::Number(layout::FILE_LEN),
                found: Evidence::Number(metadata.len()),
            })));
        }
        let mut file = match File::open(&path) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
            other => other?,
        };
        let metadata = file.metadata()?;
        let mut bytes = Vec::with_capacity(layout::FILE_LEN as usize);
        file.by_ref().take(layout::FILE_LEN).read_to_end(&mut bytes)?;
        Ok(Some(Control::decode(&bytes).map(|control| {
            let recorded = (control.fixed.device, control.fixed.inode);
            Control { is_copy: recorded != (metadata.dev(), metadata.ino()), ..control }
        })))
    }

    /// Whether the store is temporary: it belongs to one process and ends with it.
    #[must_use]
    pub fn is_temporary(&self) -> bool {
        self.fixed.temporary
    }

    /// Decodes the bytes of a control file, which is assumed to be the original.
    ///
    /// # Errors
    /// If the length or the fixed fields are wrong.
    pub fn decode(bytes: &[u8]) -> Result<Control, Error> {
        let fixed = Fixed::decode(bytes)?;
        if (bytes.len() as u64) < layout::FILE_LEN {
            return Err(Error {
                offset: 0,
                what: "length of control file",
                expected: Evidence::Number(layout::FILE_LEN),
                found: Evidence::Number(bytes.len() as u64),
            });
        }
        let word = |at: u64| Le::read_u64(&bytes[at as usize..]);
        let commit = word(layout::COMMIT_AT);
        let (next_segment, durable_seq) =
            (word(layout::NEXT_SEGMENT_AT), word(layout::DURABLE_SEQ_AT));
        let stamp = layout::clean_stamp(&fixed.store, commit, next_segment, durable_seq);
        let slots = (0..layout::SLOTS).filter_map(|slot| {
            let at = layout::slot_at(slot);
            let pid = Le::read_u32(&bytes[(at + layout::SLOT_PID_AT) as usize..]);
            let active = word(at + layout::SLOT_ACTIVE_AT);
            (pid != 0).then_some(WriterSlot { slot, pid, active })
        });
        Ok(Control {
            fixed,
            is_copy: false,
            commit: Commit::decode(commit),
            next_segment,
            directory_epoch: word(layout::DIRECTORY_EPOCH_AT),
            durable_seq: layout::decode_durable_seq(&fixed.store, durable_seq),
            sync_failed: word(layout::SYNC_FAILED_AT) == layout::SYNC_FAILED,
            clean: word(layout::CLEAN_AT) == stamp && Commit::decode(commit).done,
            slots: slots.collect(),
        })
    }
}

/// Reads the boot id of the running system, in the form that control files hold.
///
/// # Errors
/// If `/proc` cannot be read or holds no boot id.
pub fn boot_id() -> io::Result<[u8; 16]> {
    let text = fs::read_to_string("/proc/sys/kernel/random/boot_id")?;
    let mut id = [0; 16];
    let mut digits = text.chars().filter_map(|digit| digit.to_digit(16));
    for byte in &mut id {
        match (digits.next(), digits.next()) {
            (Some(high), Some(low)) => *byte = (high << 4 | low) as u8,
            _ => return Err(io::Error::new(io::ErrorKind::InvalidData, "boot_id is too short")),
        }
    }
    Ok(id)
}
