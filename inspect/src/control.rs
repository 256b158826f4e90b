//! The control file as a reader from outside sees it, and who holds the store.
//!
//! It takes no lock, not even to test one: `/proc/locks` says who holds what, and disturbs nobody.

use std::fs;
use std::io;
use std::os::unix::fs::MetadataExt;
use std::path::Path;

use byteorder::{ByteOrder, LittleEndian as Le};
use partd_format::control::{self as layout, Commit, Fixed};
use partd_format::{Error, Evidence};

/// The words of a control file whose fixed fields are good.
#[derive(Clone, Debug)]
pub struct Control {
    /// What never changes: the store, the boot, the versions.
    pub fixed: Fixed,
    /// The commit word.
    pub commit: Commit,
    /// The id of the next segment.
    pub next_segment: u64,
    /// The generation of the directory.
    pub generation: u64,
    /// The mark, or why its word cannot be read.
    pub synced: Result<u64, Error>,
    /// Whether a sync of the store has failed.
    pub sync_failed: bool,
    /// Whether the last handle closed it.
    pub clean: bool,
    /// The writer slots that are taken.
    pub slots: Vec<Slot>,
}

/// A writer slot with a process in it.
#[derive(Clone, Debug)]
pub struct Slot {
    /// The number of the slot.
    pub slot: u16,
    /// The process that took it.
    pub pid: u32,
    /// The segment that the writer claims its batches in; 0 for none.
    pub active: u64,
}

impl Control {
    /// Reads the control file of the store in `dir`: `None` if there is none, an error of the format
    /// if it is not one.
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
        Ok(Some(Control::decode(&fs::read(&path)?)))
    }

    /// Reads the words out of the bytes of the file.
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
        let (next_segment, synced) = (word(layout::NEXT_SEGMENT_AT), word(layout::SYNCED_AT));
        let stamp = layout::clean_stamp(&fixed.store, commit, next_segment, synced);
        let slots = (0..layout::SLOTS).filter_map(|slot| {
            let at = layout::slot_at(slot);
            let pid = Le::read_u32(&bytes[(at + layout::SLOT_PID_AT) as usize..]);
            let active = word(at + layout::SLOT_ACTIVE_AT);
            (pid != 0).then_some(Slot { slot, pid, active })
        });
        Ok(Control {
            fixed,
            commit: Commit::decode(commit),
            next_segment,
            generation: word(layout::GENERATION_AT),
            synced: layout::decode_synced(&fixed.store, synced),
            sync_failed: word(layout::SYNC_FAILED_AT) == layout::SYNC_FAILED,
            clean: word(layout::CLEAN_AT) == stamp && Commit::decode(commit).done,
            slots: slots.collect(),
        })
    }
}

/// The boot id of the running system, as control files hold it.
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

/// Whether a process holds a slot.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Life {
    /// Its lock is held.
    Alive,
    /// Nobody holds its lock.
    Dead,
    /// The system does not say who holds locks.
    Unknown,
}

impl Life {
    /// The word for it in tables and in JSON.
    pub fn name(self) -> &'static str {
        match self {
            Life::Alive => "alive",
            Life::Dead => "dead",
            Life::Unknown => "unknown",
        }
    }
}

/// The file locks of the system, as `/proc/locks` lists them.
#[derive(Clone, Debug)]
pub struct Locks(Option<Vec<Lock>>);

/// One lock: the file's device and inode, and the process that took it.
#[derive(Clone, Copy, Debug)]
struct Lock {
    device: u64,
    inode: u64,
    pid: u32,
}

impl Locks {
    /// Reads `/proc/locks`.
    pub fn read() -> Locks {
        let parse = |line: &str| {
            // 1: FLOCK  ADVISORY  WRITE 1234 fd:01:131085 0 EOF
            let words: Vec<&str> = line.split_ascii_whitespace().collect();
            let at = words.iter().position(|word| word.matches(':').count() == 2)?;
            let mut parts = words[at].split(':');
            let hex = |text: &str| u64::from_str_radix(text, 16).ok();
            let (major, minor) = (hex(parts.next()?)?, hex(parts.next()?)?);
            let pid = words[at.checked_sub(1)?].parse().unwrap_or(0);
            Some(Lock { device: major << 20 | minor, inode: parts.next()?.parse().ok()?, pid })
        };
        Locks(
            fs::read_to_string("/proc/locks")
                .ok()
                .map(|text| text.lines().filter_map(parse).collect()),
        )
    }

    /// Whether anybody holds a lock on the file.
    pub fn holds(&self, path: &Path) -> Life {
        match self.on(path) {
            None => Life::Unknown,
            Some(locks) if locks.is_empty() => Life::Dead,
            Some(_) => Life::Alive,
        }
    }

    /// The processes that hold a lock on the file, as far as the system says.
    pub fn holders(&self, path: &Path) -> Vec<u32> {
        let locks = self.on(path).unwrap_or_default();
        let mut pids: Vec<u32> =
            locks.iter().map(|lock| lock.pid).filter(|pid| *pid != 0).collect();
        pids.sort_unstable();
        pids.dedup();
        pids
    }

    /// The locks on a file; `None` if the system does not say.
    fn on(&self, path: &Path) -> Option<Vec<Lock>> {
        let locks = self.0.as_ref()?;
        let Ok(metadata) = fs::metadata(path) else { return Some(Vec::new()) };
        let dev = metadata.dev();
        // As glibc packs them: 12 bits of the major number above 8 of the minor, the rest on top.
        let major = dev >> 8 & 0xFFF | dev >> 32 & 0xFFFF_F000;
        let minor = dev & 0xFF | dev >> 12 & 0xFFFF_FF00;
        let here = |lock: &&Lock| {
            // Some file systems show another device number in /proc/locks; the inode is theirs.
            lock.inode == metadata.ino() && (lock.device == major << 20 | minor || major == 0)
        };
        Some(locks.iter().filter(here).copied().collect())
    }

    /// Whether the writer in a slot lives.
    pub fn writer(&self, dir: &Path, slot: &Slot) -> Life {
        match self.holds(&dir.join(format!("writer-{:04}.lock", slot.slot))) {
            Life::Unknown if Path::new(&format!("/proc/{}", slot.pid)).exists() => Life::Alive,
            Life::Unknown => Life::Dead,
            life => life,
        }
    }
}
