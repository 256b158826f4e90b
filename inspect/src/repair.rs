//! Putting one flipped bit right, where a check tells which bit it was.
//!
//! Two valid words of one place differ in at least four bits, and a CRC-32 over less than 64 KiB tells
//! all single bits apart: a word, a header or a head of a batch with one flipped bit has one
//! correction. Nothing is corrected that has two. This serves salvage alone; everything else shows
//! damage as it is.

use byteorder::{ByteOrder, LittleEndian as Le};
use partd_format::batch::{HEAD_LEN, WORDS_LEN};
use partd_format::{Batch, Link, Salt, SegmentHeader, State, control};

/// The longest head of a batch, in bytes, in which a bit is looked for.
const HEAD_MAX: u64 = 64 << 10;
/// What the header's checksum covers, and the checksum itself.
const HEADER_CHECKED: usize = 128;
/// The same of a control file.
const CONTROL_CHECKED: usize = 60;
/// The polynomial of CRC-32, reflected.
const POLYNOMIAL: u32 = 0xEDB8_8320;

/// The header of a segment whose first bytes are `bytes`, one bit of it corrected.
#[must_use]
pub fn header(bytes: &[u8], file_len: u64) -> Option<SegmentHeader> {
    let decode = |bytes: &[u8]| SegmentHeader::decode(bytes, file_len).ok();
    one_bit(bytes, HEADER_CHECKED, decode)
}

/// Whether a control file is right but for one bit of its fixed fields.
#[must_use]
pub fn is_control(bytes: &[u8]) -> bool {
    one_bit(bytes, CONTROL_CHECKED, |bytes| control::Fixed::decode(bytes).ok()).is_some()
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

/// The length of the batch whose link word is `word`, one bit of it corrected.
#[must_use]
pub fn link(salt: Salt, offset: u64, word: u64, limit: u64) -> Option<u64> {
    let lens = flips(word).filter_map(|word| match Link::decode(salt, offset, word, limit) {
        Ok(Link::Batch(len)) => Some(len),
        _ => None,
    });
    only(lens)
}

/// What the state word `word` says, one bit of it corrected.
#[must_use]
pub fn state(salt: Salt, offset: u64, word: u64) -> Option<State> {
    only(flips(word).filter_map(|word| State::decode(salt, offset, word).ok()))
}

/// All words that differ from this one in one bit, but for 0, which any bit leads to.
fn flips(word: u64) -> impl Iterator<Item = u64> {
    (0..64).map(move |bit| word ^ 1 << bit).filter(|word| *word != 0)
}

fn only<T>(mut found: impl Iterator<Item = T>) -> Option<T> {
    found.next().filter(|_| found.next().is_none())
}

/// The head of the batch of `len` bytes at `offset`, one bit of it corrected. `given` is what
/// stands behind its link and state words, as far as a head that is looked at may reach.
#[must_use]
pub fn head(salt: Salt, offset: u64, len: u64, given: &[u8]) -> Option<Vec<u8>> {
    let fixed = (HEAD_LEN - WORDS_LEN) as usize;
    let mut body = given.to_vec();
    let good = |body: &[u8]| {
        let start = Batch::values_start(offset, len, body).ok()?;
        let head = body.get(..(start - WORDS_LEN) as usize)?;
        Batch::parse_head(salt, offset, len, head).is_ok().then(|| head.to_vec())
    };
    // A bit of the lengths also says how far the checksum reaches: each is tried.
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

/// How many bytes of a batch [`head`] wants to see.
#[must_use]
pub fn head_len(len: u64) -> usize {
    (len.min(HEAD_MAX) - WORDS_LEN) as usize
}

/// The bit of `len` bytes that changes their CRC-32 by `difference` when it is flipped.
fn flipped(difference: u32, len: usize) -> Option<usize> {
    // How a flip of the topmost bit of the last byte shows; each bit before it one step further.
    let mut shows = POLYNOMIAL;
    for bit in (0..len * 8).rev() {
        if shows == difference {
            return Some(bit);
        }
        shows = shows >> 1 ^ if shows & 1 == 1 { POLYNOMIAL } else { 0 };
    }
    None
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_bit_that_was_flipped_is_found_by_what_it_does_to_the_checksum() {
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
