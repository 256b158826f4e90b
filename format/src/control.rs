//! The control file: the state that the processes on a store share while they live.
//!
//! It holds fixed fields with one checksum, then words that are changed atomically, each in a cache
//! line of its own, then one slot for each writer. All of it can be rebuilt from the segments.

use byteorder::{ByteOrder, LittleEndian as Le};

use crate::error::Error;
use crate::word::{Salt, State};
use crate::{SEQUENCE_MAX, VERSION};

/// The first bytes of a control file.
pub const MAGIC: [u8; 8] = *b"PARTDCTL";
/// The length of the fixed fields in bytes.
pub const FIXED_LEN: usize = 128;
/// The length of the file in bytes.
pub const FILE_LEN: u64 = SLOTS_AT + SLOTS as u64 * SLOT_LEN;

/// Offset of the word that tells whether the last handle closed the store: 0 while it is open, else
/// [`clean_stamp`].
pub const CLEAN_AT: u64 = 128;
/// Offset of the commit word, see [`Commit`].
pub const COMMIT_AT: u64 = 192;
/// Offset of the id of the next segment to be created.
pub const NEXT_SEGMENT_AT: u64 = 256;
/// Offset of the directory epoch: it rises after every rename that publishes a file, and before any
/// unlink.
pub const DIRECTORY_EPOCH_AT: u64 = 320;
/// Offset of the sequence number up to which the history is durable, see [`encode_durable_seq`].
pub const DURABLE_SEQ_AT: u64 = 384;
/// Offset of the directory epoch at which the directory was last made durable.
pub const DURABLE_DIRECTORY_EPOCH_AT: u64 = 448;
/// Offset of the word that is [`SYNC_FAILED`] once a sync has failed.
pub const SYNC_FAILED_AT: u64 = 512;
/// The word at [`SYNC_FAILED_AT`] once a sync has failed.
pub const SYNC_FAILED: u64 = u64::from_le_bytes(*b"NOSYNC!!");
/// Offset of the id of the segment that a compaction is about to publish; 0 for none.
pub const OUTPUT_AT: u64 = 576;
/// Offset of the number of compactions that have published an output since the file was created.
pub const COMPACTIONS_AT: u64 = 640;
/// Offset of the first writer slot.
pub const SLOTS_AT: u64 = 1024;
/// The length of a writer slot in bytes.
pub const SLOT_LEN: u64 = 64;
/// The number of writer slots, and so of writers at one time.
pub const SLOTS: u16 = 1024;

/// In a writer slot: the segment of the batch that the writer is committing.
pub const SLOT_SEGMENT_AT: u64 = 0;
/// In a writer slot: the offset of that batch.
pub const SLOT_OFFSET_AT: u64 = 8;
/// In a writer slot: the segment in which the writer claims its batches; 0 for none.
pub const SLOT_ACTIVE_AT: u64 = 16;
/// In a writer slot: the process that leases it; 0 for none. Informational: the lock on the slot
/// says whether that process is alive.
pub const SLOT_PID_AT: u64 = 24;
/// In a writer slot: the writer that leases it created no segment with a lower id.
pub const SLOT_FIRST_AT: u64 = 40;

/// Offset of the byte on which every open handle that follows the store holds a shared lock; that
/// of a temporary store need not. A control file without this lock is not that of a store in use.
/// (All are open-file-description locks of one byte.)
pub const PRESENCE_LOCK_AT: u64 = 0;
/// Offset of the byte that the leader of a sync locks exclusively.
pub const SYNC_LOCK_AT: u64 = DURABLE_SEQ_AT;
/// Offset of the byte that a compaction locks exclusively.
pub const COMPACTION_LOCK_AT: u64 = OUTPUT_AT;

/// Returns the offset of the byte that a writer locks exclusively while it leases the slot.
#[must_use]
pub const fn slot_lock_at(slot: u16) -> u64 {
    slot_at(slot)
}

const VERSION_AT: usize = 8;
const STORE_AT: usize = 16;
const BOOT_AT: usize = 32;
const CREATED_AT: usize = 48;
const DEVICE_AT: usize = 56;
const INODE_AT: usize = 64;
const FLAGS_AT: usize = 72;
const CHECKSUM_AT: usize = 120;

/// In the flags: the store is temporary.
const TEMPORARY: u32 = 1;

const _: () = assert!(CHECKSUM_AT + 8 == FIXED_LEN && FIXED_LEN as u64 == CLEAN_AT);
const _: () = assert!(COMPACTIONS_AT + 64 <= SLOTS_AT && FILE_LEN.is_multiple_of(512));

/// The fixed fields of a control file.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Fixed {
    /// The uuid of the store that the file belongs to.
    pub store: [u8; 16],
    /// The boot id under which the words are valid.
    pub boot: [u8; 16],
    /// When the file was created, in milliseconds since 1970; informational.
    pub created_unix_ms: u64,
    /// The device that holds the control file, as `stat` reports it. Together with `inode` it tells
    /// the original from a copy.
    pub device: u64,
    /// The inode of the control file.
    pub inode: u64,
    /// Whether the store is temporary: it belongs to one process, and no other may open it.
    pub temporary: bool,
}

impl Fixed {
    /// Encodes the fields.
    #[must_use]
    pub fn encode(&self) -> [u8; FIXED_LEN] {
        let mut bytes = [0; FIXED_LEN];
        bytes[..8].copy_from_slice(&MAGIC);
        Le::write_u32(&mut bytes[VERSION_AT..], VERSION);
        bytes[STORE_AT..BOOT_AT].copy_from_slice(&self.store);
        bytes[BOOT_AT..CREATED_AT].copy_from_slice(&self.boot);
        Le::write_u64(&mut bytes[CREATED_AT..], self.created_unix_ms);
        Le::write_u64(&mut bytes[DEVICE_AT..], self.device);
        Le::write_u64(&mut bytes[INODE_AT..], self.inode);
        Le::write_u32(&mut bytes[FLAGS_AT..], if self.temporary { TEMPORARY } else { 0 });
        let checksum = crc32fast::hash(&bytes[..CHECKSUM_AT]);
        Le::write_u32(&mut bytes[CHECKSUM_AT..], checksum);
        bytes
    }

    /// Decodes and checks the fields.
    ///
    /// # Errors
    /// If the magic, the version or the checksum is wrong, or there are too few bytes.
    pub fn decode(bytes: &[u8]) -> Result<Fixed, Error> {
        if bytes.len() < FIXED_LEN {
            let found = bytes.len() as u64;
            return Err(Error::at_least(0, "length of control file", FILE_LEN, found));
        }
        if bytes[..8] != MAGIC {
            return Err(Error::bits(0, "magic", Le::read_u64(&MAGIC), Le::read_u64(bytes)));
        }
        let version = Le::read_u32(&bytes[VERSION_AT..]);
        if version != VERSION {
            return Err(Error::number(8, "format version", VERSION.into(), version.into()));
        }
        let right = crc32fast::hash(&bytes[..CHECKSUM_AT]);
        let found = Le::read_u32(&bytes[CHECKSUM_AT..]);
        if found != right {
            let at = CHECKSUM_AT as u64;
            return Err(Error::bits(at, "checksum of control file", right.into(), found.into()));
        }
        let mut fixed = Fixed {
            store: [0; 16],
            boot: [0; 16],
            created_unix_ms: Le::read_u64(&bytes[CREATED_AT..]),
            device: Le::read_u64(&bytes[DEVICE_AT..]),
            inode: Le::read_u64(&bytes[INODE_AT..]),
            temporary: Le::read_u32(&bytes[FLAGS_AT..]) & TEMPORARY != 0,
        };
        fixed.store.copy_from_slice(&bytes[STORE_AT..BOOT_AT]);
        fixed.boot.copy_from_slice(&bytes[BOOT_AT..CREATED_AT]);
        Ok(fixed)
    }
}

/// Returns the offset of a writer slot in the file.
#[must_use]
pub const fn slot_at(slot: u16) -> u64 {
    SLOTS_AT + slot as u64 * SLOT_LEN
}

/// Encodes the word which says that the history up to `sequence` is durable.
///
/// It is encoded like a state word, so that a random word is not taken for a promise.
#[must_use]
pub fn encode_durable_seq(store: &[u8; 16], sequence: u64) -> u64 {
    match sequence {
        0 => 0,
        sequence => State::Committed(sequence).encode(store_salt(store), DURABLE_SEQ_AT),
    }
}

/// Decodes the word at [`DURABLE_SEQ_AT`].
///
/// # Errors
/// If the check does not match or the number is above [`SEQUENCE_MAX`].
pub fn decode_durable_seq(store: &[u8; 16], word: u64) -> Result<u64, Error> {
    let misread = |error| Error { offset: DURABLE_SEQ_AT, what: "durable_seq", ..error };
    match State::decode(store_salt(store), DURABLE_SEQ_AT, word).map_err(misread)? {
        State::Committed(sequence) => Ok(sequence),
        State::Pending => Ok(0),
        State::Void => {
            Err(Error::at_most(DURABLE_SEQ_AT, "durable_seq", SEQUENCE_MAX, SEQUENCE_MAX + 1))
        }
    }
}

fn store_salt(store: &[u8; 16]) -> Salt {
    Salt(Le::read_u64(store) ^ Le::read_u64(&store[8..]))
}

/// Computes the stamp that the last handle stores when it closes: a checksum of the words that
/// matter.
///
/// Never 0. A control file with the right stamp includes everything done before it was closed.
#[must_use]
pub fn clean_stamp(store: &[u8; 16], commit: u64, next_segment: u64, durable_seq: u64) -> u64 {
    let mut hasher = crc32fast::Hasher::new();
    hasher.update(store);
    for word in [commit, next_segment, durable_seq] {
        hasher.update(&word.to_le_bytes());
    }
    u64::from(hasher.finalize()) << 32 | 1
}

/// The commit word: the last sequence number taken, the writer that took it, and whether the batch
/// holds it yet.
///
/// `sequence:47 | slot:16 | done:1`, from the top bit. The visible history ends at
/// [`visible`](Commit::visible).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Commit {
    /// The last sequence number taken; 0 in an empty store.
    pub sequence: u64,
    /// The slot of the writer that took it.
    pub slot: u16,
    /// Whether the batch's state word holds the number yet.
    pub done: bool,
}

impl Commit {
    /// Encodes the word.
    #[must_use]
    pub const fn encode(self) -> u64 {
        self.sequence << 17 | (self.slot as u64) << 1 | self.done as u64
    }

    /// Decodes the word; every 8 bytes are a valid commit word.
    #[must_use]
    pub const fn decode(word: u64) -> Commit {
        Commit { sequence: word >> 17, slot: (word >> 1) as u16, done: word & 1 == 1 }
    }

    /// Returns the last sequence number that readers see.
    #[must_use]
    pub const fn visible(self) -> u64 {
        if self.done { self.sequence } else { self.sequence.saturating_sub(1) }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_word_decodes_as_a_commit_word_and_encodes_back() {
        for word in [0, 1, u64::MAX, 0x0123_4567_89AB_CDEF] {
            assert_eq!(Commit::decode(word).encode(), word);
        }
        let open = Commit { sequence: 7, slot: 3, done: false };
        assert_eq!((open.visible(), Commit { done: true, ..open }.visible()), (6, 7));
    }

    #[test]
    fn every_bit_flip_in_the_fixed_fields_is_detected() {
        let fixed = Fixed {
            store: [7; 16],
            boot: [9; 16],
            created_unix_ms: 1,
            device: 2,
            inode: 3,
            temporary: true,
        };
        let bytes = fixed.encode();
        assert_eq!(Fixed::decode(&bytes), Ok(fixed));
        for bit in 0..124 * 8 {
            let mut bytes = bytes;
            bytes[bit / 8] ^= 1 << (bit % 8);
            // The checksum covers the reserved bytes, too.
            assert!(Fixed::decode(&bytes).is_err(), "bit {bit}");
        }
    }
}
