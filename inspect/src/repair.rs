//! Corrects a single flipped bit if a check tells which bit it was.
//!
//! Two valid words for one offset differ in at least four bits, and a CRC-32 over less than 64 KiB
//! distinguishes all single-bit errors. So a word, a segment header or a batch header with one
//! flipped bit has exactly one correction. Anything with two flipped bits is left alone. Only
//! salvage corrects what it reads; everything else shows damage as it is.

use byteorder::{ByteOrder, LittleEndian as Le};
use partd_format::batch::{HEAD_LEN, WORDS_LEN};
use partd_format::{Batch, Link, Salt, SegmentHeader, State, control};

/// The longest batch header that is corrected, in bytes.
const HEAD_MAX: u64 = 64 << 10;
/// The bytes of a segment header that its checksum covers, and the checksum itself.
const HEADER_CHECKED: usize = 128;
/// The polynomial of CRC-32, reflected.
const POLYNOMIAL: u32 = 0xEDB8_8320;

/// Corrects one bit of the segment header in `bytes`, the first bytes of the file.
#[must_use]
pub fn header(bytes: &[u8], file_len: u64) -> Option<SegmentHeader> {
    let decode = |bytes: &[u8]| SegmentHeader::decode(bytes, file_len).ok();
    one_bit(bytes, HEADER_CHECKED, decode)
}

/// Whether the fixed fields of a control file are right except for one bit.
#[must_use]
pub fn is_control(bytes: &[u8]) -> bool {
    one_bit(bytes, control::FIXED_LEN, |bytes| control::Fixed::decode(bytes).ok()).is_some()
}

fn one_bit<T>(bytes: &[u8], checked: usize, decode: impl Fn(&[u8]) -> Option<T>) -> Option<T> {
    let mut bytes = bytes.get(..checked)?.to_vec();
    for bit in 0..checked * 8 {
        bytes[bit / 8] ^= 1 << (bit % 8);
        if let Some(decoded) = decode(&bytes) {
            return Some(decoded);
        }
        bytes[bit / 8] ^= 1 << (bit % 8);
    }
    None
}

/// Corrects one bit of a link word and returns the length of its batch.
#[must_use]
pub fn link(salt: Salt, offset: u64, word: u64, limit: u64) -> Option<u64> {
    let lens = flips(word).filter_map(|word| match Link::decode(salt, offset, word, limit) {
        Ok(Link::Batch(len)) => Some(len),
        _ => None,
    });
    only(lens)
}

/// Corrects one bit of a state word and returns the state.
#[must_use]
pub fn state(salt: Salt, offset: u64, word: u64) -> Option<State> {
    only(flips(word).filter_map(|word| State::decode(salt, offset, word).ok()))
}

/// All words that differ from this one in one bit, except 0, which is one bit away from many words.
fn flips(word: u64) -> impl Iterator<Item = u64> {
    (0..64).map(move |bit| word ^ 1 << bit).filter(|word| *word != 0)
}

fn only<T>(mut found: impl Iterator<Item = T>) -> Option<T> {
    found.next().filter(|_| found.next().is_none())
}

/// Corrects one bit of the header of the batch of `len` bytes at `offset`, and returns the header
/// without link and state words. `given` is the [`head_len`] bytes after these words.
#[must_use]
pub fn head(salt: Salt, offset: u64, len: u64, given: &[u8]) -> Option<Vec<u8>> {
    let fixed = (HEAD_LEN - WORDS_LEN) as usize;
    let mut body = given.to_vec();
    let good = |body: &[u8]| {
        let start = Batch::values_start(offset, len, body).ok()?;
        let head = body.get(..(start - WORDS_LEN) as usize)?;
        Batch::parse_head(salt, offset, len, head).is_ok().then(|| head.to_vec())
    };
    // A bit of the lengths changes how far the checksum reaches, so each bit is tried.
    for bit in 0..fixed * 8 {
        body[bit / 8] ^= 1 << (bit % 8);
        if let Some(head) = good(&body) {
            return Some(head);
        }
        body[bit / 8] ^= 1 << (bit % 8);
    }
    let start = Batch::values_start(offset, len, &body).ok()?;
    let end = (start - WORDS_LEN) as usize;
    let (found, covered) = (Le::read_u32(&body), body.get(4..end)?);
    let mut hasher = salt.value_hasher();
    hasher.update(&offset.to_le_bytes());
    hasher.update(covered);
    let bit = flipped(hasher.finalize() ^ found, covered.len())?;
    body[4 + bit / 8] ^= 1 << (bit % 8);
    good(&body)
}

/// The number of bytes that [`head`] needs of a batch.
#[must_use]
pub fn head_len(len: u64) -> usize {
    (len.min(HEAD_MAX) - WORDS_LEN) as usize
}

/// Finds the bit among `len` bytes whose flip changes their CRC-32 by `difference`.
fn flipped(difference: u32, len: usize) -> Option<usize> {
    // The change by the top bit of the last byte; each bit before it takes one more step.
    let mut change = POLYNOMIAL;
    for bit in (0..len * 8).rev() {
        if change == difference {
            return Some(bit);
        }
        change = change >> 1 ^ if change & 1 == 1 { POLYNOMIAL } else { 0 };
    }
    None
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_flipped_bit_is_found_by_the_change_of_the_checksum() {
        let bytes: Vec<u8> = (0..300_u32).map(|i| (i * 7) as u8).collect();
        for bit in 0..bytes.len() * 8 {
            let mut other = bytes.clone();
            other[bit / 8] ^= 1 << (bit % 8);
            let difference = crc32fast::hash(&bytes) ^ crc32fast::hash(&other);
            assert_eq!(flipped(difference, bytes.len()), Some(bit));
        }
    }

    #[test]
    fn a_word_with_one_flipped_bit_has_one_correction_and_one_with_two_has_none() {
        let salt = Salt(0xFEED_FACE_CAFE_BEEF);
        let (word, batch) = (State::Committed(77).encode(salt, 512), Link::Batch(640));
        for bit in 0..64 {
            assert_eq!(state(salt, 512, word ^ 1 << bit), Some(State::Committed(77)));
            assert_eq!(link(salt, 512, batch.encode(salt, 512) ^ 1 << bit, 4096), Some(640));
            for other in 0..bit {
                let two = 1 << bit | 1 << other;
                assert_eq!(state(salt, 512, word ^ two), None);
                assert_eq!(link(salt, 512, batch.encode(salt, 512) ^ two, 4096), None);
            }
        }
    }
}
