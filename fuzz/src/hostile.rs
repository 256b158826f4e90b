//! Builds a whole store from an input: a control file and up to three segments.
//!
//! The first byte of the input selects which files exist, and whether the checks are corrected
//! after the mutation, so that the fuzzer gets past the first check. It is followed by the words of
//! the control file, if there is one, and by the segments, in equal parts.

use std::path::{Path, PathBuf};
use std::sync::Arc;

use byteorder::{ByteOrder, LittleEndian as Le};
use partd_format::SEQUENCE_MAX;
use partd_format::control::{self, Fixed};
use partd_format::segment::file_name;

use crate::disk::World;
use crate::mend;

/// The id of the store.
pub const STORE: [u8; 16] = [7; 16];
/// The boot id of a mended control file.
pub const BOOT: u8 = 9;

const MENDED: u8 = 1;
const HAS_CONTROL: u8 = 2;
const SEGMENTS_SHIFT: u8 = 2;
/// The machine has the boot id of the control file.
const SAME_BOOT: u8 = 16;
/// The control file says that a process has the store open.
const OPEN: u8 = 32;
/// For the target's own use.
const OTHER: u8 = 64;

/// The number of input bytes that become words of a control file: everything before the slots, and
/// the first two slots.
const CONTROL_BYTES: usize = control::SLOTS_AT as usize + 128;

/// The store that an input describes.
#[derive(Debug)]
pub struct Hostile {
    /// The control file.
    pub control: Option<Vec<u8>>,
    /// The segments, by id.
    pub segments: Vec<(u64, Vec<u8>)>,
    /// Whether the machine has the boot id of the control file.
    pub same_boot: bool,
    /// Whether the store is to be treated as open.
    pub is_open: bool,
    /// For the target's own use.
    pub other: bool,
}

impl Hostile {
    /// Builds a store; `None` for an empty input.
    pub fn new(input: &[u8]) -> Option<Hostile> {
        let (&mode, input) = input.split_first()?;
        let has = |bit| mode & bit != 0;
        let words_len = if has(HAS_CONTROL) { input.len().min(CONTROL_BYTES) } else { 0 };
        let (words, mut rest) = input.split_at(words_len);
        let control = has(HAS_CONTROL).then(|| control_file(words, has(MENDED), has(OPEN)));
        let count = u64::from(mode >> SEGMENTS_SHIFT & 3);
        let mut segments = Vec::new();
        for id in 1..=count {
            let (bytes, behind) = rest.split_at(rest.len() / (count - id + 1) as usize);
            rest = behind;
            let mut bytes = bytes.to_vec();
            if has(MENDED) {
                mend::segment(&mut bytes, Some((STORE, id)));
            }
            segments.push((id, bytes));
        }
        let (same_boot, is_open) = (has(SAME_BOOT), has(OPEN));
        Some(Hostile { control, segments, same_boot, is_open, other: has(OTHER) })
    }

    /// The total length of the segments; the control file has a fixed length.
    pub fn len(&self) -> usize {
        self.segments.iter().map(|(_, bytes)| bytes.len()).sum()
    }

    /// Whether there are no segment bytes.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// The files on a disk, in a directory.
    pub fn world(&self, dir: &Path) -> Arc<World> {
        let name = |id| PathBuf::from(String::from_utf8_lossy(&file_name(id)).into_owned());
        let segments = self.segments.iter().map(|(id, bytes)| (name(*id), &bytes[..]));
        let control = self.control.iter().map(|bytes| (PathBuf::from("control"), &bytes[..]));
        let boot = if self.same_boot { BOOT } else { BOOT - 1 };
        World::holding(boot, segments.chain(control).map(|(name, bytes)| (dir.join(name), bytes)))
    }
}

/// A control file with the words of the input. A mended one belongs to this store, has small
/// numbers, and is either open or cleanly closed.
fn control_file(words: &[u8], mended: bool, is_open: bool) -> Vec<u8> {
    let mut bytes = vec![0; control::FILE_LEN as usize];
    bytes[..words.len()].copy_from_slice(words);
    if !mended {
        return bytes;
    }
    let word = |bytes: &[u8], at: u64| Le::read_u64(&bytes[at as usize..]);
    let fixed = Fixed {
        store: STORE,
        boot: [BOOT; 16],
        created_unix_ms: 0,
        device: 0,
        inode: 0,
        temporary: false,
    };
    bytes[..control::FIXED_LEN].copy_from_slice(&fixed.encode());
    // Numbers above 63 test nothing new, except the largest one.
    let small = |n: u64| if n % 64 == 63 { SEQUENCE_MAX } else { n % 64 };
    let mut commit = control::Commit::decode(word(&bytes, control::COMMIT_AT));
    commit.sequence = small(commit.sequence);
    let durable_seq =
        control::encode_durable_seq(&STORE, small(word(&bytes, control::DURABLE_SEQ_AT) >> 17));
    Le::write_u64(&mut bytes[control::COMMIT_AT as usize..], commit.encode());
    Le::write_u64(&mut bytes[control::DURABLE_SEQ_AT as usize..], durable_seq);
    // Small, because a search up to a large id takes a long time.
    let next_segment = word(&bytes, control::NEXT_SEGMENT_AT) % 64;
    Le::write_u64(&mut bytes[control::NEXT_SEGMENT_AT as usize..], next_segment);
    let clean = control::clean_stamp(&STORE, commit.encode(), next_segment, durable_seq);
    Le::write_u64(&mut bytes[control::CLEAN_AT as usize..], if is_open { 0 } else { clean });
    bytes
}
