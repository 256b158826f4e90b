//! The words of a segment: 8 bytes each, stored atomically (link word, state word, `durable_end`).
//!
//! Each word carries a check over its payload, its offset and the segment's salt. A word left over
//! from an earlier use of the disk block, or copied to another offset, therefore does not parse.
//! Two valid words for the same offset differ in at least four bits (tested below).

use crate::error::{Error, Evidence};
use crate::layout::{DURABLE_END_AT, HEAD_LEN};
use crate::{SEQUENCE_MAX, align};

pub use crate::layout::STATE_AT;
pub use crate::salt::Salt;

const LINK_CHECK_BITS: u32 = 24;
const STATE_CHECK_BITS: u32 = 17;

/// The payload of the link word that seals a segment: a length that no batch has. It is not 0: a
/// payload of 0 with a check of 0 would make the word 0, which means free space.
const SEALED: u64 = 1;

/// The length of the longest batch in bytes: 8 TiB less one unit of 8 bytes.
pub const BATCH_LEN_MAX: u64 = ((1 << (64 - LINK_CHECK_BITS)) - 1) * 8;

/// The first word of a batch: its length, and so the offset of the next link word.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Link {
    /// Free space: no batch has been claimed here yet.
    End,
    /// No batch will ever be claimed here or after it.
    Sealed,
    /// A batch of this many bytes, link word included; a multiple of 8.
    Batch(u64),
}

impl Link {
    /// Encodes the word to store at `offset`.
    #[must_use]
    pub fn encode(self, salt: Salt, offset: u64) -> u64 {
        match self {
            Link::End => 0,
            Link::Sealed => salt.pack(b'L', offset, SEALED, LINK_CHECK_BITS),
            Link::Batch(len) => salt.pack(b'L', offset, len / 8, LINK_CHECK_BITS),
        }
    }

    /// Decodes the word at `offset`; `limit` is the length of the segment.
    ///
    /// # Errors
    /// If the check does not match, or the batch would be too short or end after `limit`.
    pub fn decode(salt: Salt, offset: u64, word: u64, limit: u64) -> Result<Link, Error> {
        if word == 0 {
            return Ok(Link::End);
        }
        let payload = salt.unpack(b'L', "link word", offset, word, LINK_CHECK_BITS)?;
        if payload == SEALED {
            return Ok(Link::Sealed);
        }
        let len = payload * 8;
        if len < HEAD_LEN {
            return Err(Error::at_least(offset, "length of batch", HEAD_LEN, len));
        }
        let room = limit.saturating_sub(offset);
        if len > room {
            return Err(Error::at_most(offset, "length of batch", room, len));
        }
        Ok(Link::Batch(len))
    }
}

/// The second word of a batch: its state. Writers set it once, from 0; recovery makes batches
/// outside the history void.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum State {
    /// Claimed; the writer may still be writing it.
    Pending,
    /// Part of the history, with this sequence number.
    Committed(u64),
    /// Given up for good; readers skip it.
    Void,
}

/// The payload of a void state word.
const VOID: u64 = SEQUENCE_MAX + 1;

impl State {
    /// Encodes the state word of the batch at `offset`. The check covers the offset of the batch,
    /// not that of the state word. Sequence numbers run from 1 to [`SEQUENCE_MAX`].
    #[must_use]
    pub fn encode(self, salt: Salt, offset: u64) -> u64 {
        match self {
            State::Pending => 0,
            State::Committed(sequence) => {
                debug_assert!((1..=SEQUENCE_MAX).contains(&sequence));
                salt.pack(b'S', offset, sequence, STATE_CHECK_BITS)
            }
            State::Void => salt.pack(b'S', offset, VOID, STATE_CHECK_BITS),
        }
    }

    /// Decodes the state word of the batch at `offset`.
    ///
    /// # Errors
    /// If the check does not match or the sequence number is 0. The error names the offset of the
    /// state word itself.
    pub fn decode(salt: Salt, offset: u64, word: u64) -> Result<State, Error> {
        if word == 0 {
            return Ok(State::Pending);
        }
        let at = offset.saturating_add(STATE_AT);
        let payload = salt
            .unpack(b'S', "state word", offset, word, STATE_CHECK_BITS)
            .map_err(|error| Error { offset: at, ..error })?;
        match payload {
            0 => Err(Error {
                offset: at,
                what: "state word",
                expected: Evidence::AtLeast(1),
                found: Evidence::Text("sequence number 0"),
            }),
            VOID => Ok(State::Void),
            sequence => Ok(State::Committed(sequence)),
        }
    }
}

/// The durable watermark of a segment: how far its chain of batches is known to be durable.
pub mod durable_end {
    use super::{DURABLE_END_AT, Error, LINK_CHECK_BITS, Salt, align};

    /// Encodes the word which says that the chain before offset `end`, a multiple of 8, is durable.
    #[must_use]
    pub fn encode(salt: Salt, end: u64) -> u64 {
        salt.pack(b'N', DURABLE_END_AT, end / 8, LINK_CHECK_BITS)
    }

    /// Decodes the watermark; 0 if none has been stored.
    ///
    /// # Errors
    /// If the check does not match.
    pub fn decode(salt: Salt, word: u64) -> Result<u64, Error> {
        if word == 0 {
            return Ok(0);
        }
        let at = DURABLE_END_AT;
        let end = salt.unpack(b'N', "durable_end", at, word, LINK_CHECK_BITS)? * 8;
        debug_assert_eq!(align(end), Some(end));
        Ok(end)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The check is linear over GF(2): the distance between two words for one offset depends only
    /// on the difference of their payloads. So it is enough to try every difference of a few bits.
    fn distance(domain: u8, bits: u32, difference: u64) -> u32 {
        let salt = Salt(0x0123_4567_89AB_CDEF);
        (salt.pack(domain, 4096, 0, bits) ^ salt.pack(domain, 4096, difference, bits)).count_ones()
    }

    /// Yields every pattern of one, two or three of the low `bits` bits.
    fn flips_of_up_to_three(bits: u32) -> impl Iterator<Item = u64> {
        (0..bits).flat_map(move |i| {
            (i..bits).flat_map(move |j| {
                let two = if i == j { 1_u64 << i } else { 1 << i | 1 << j };
                let three = (j + 1..bits).filter(move |_| i != j).map(move |k| two | 1 << k);
                core::iter::once(two).chain(three)
            })
        })
    }

    #[test]
    fn any_two_words_for_one_offset_differ_in_at_least_four_bits() {
        for (domain, bits) in [(b'L', LINK_CHECK_BITS), (b'S', STATE_CHECK_BITS)] {
            let payload_bits = 64 - bits;
            for difference in flips_of_up_to_three(payload_bits) {
                let d = distance(domain, bits, difference);
                assert!(d >= 4, "{difference:#x} in domain {domain}: {d}");
            }
        }
    }

    #[test]
    fn flips_of_up_to_three_bits_of_a_state_word_are_detected() {
        let salt = Salt(0xFEED_FACE_CAFE_BEEF);
        let word = State::Committed(123_456).encode(salt, 512);
        for flips in flips_of_up_to_three(64) {
            assert!(State::decode(salt, 512, word ^ flips).is_err(), "{flips:#x}");
        }
    }

    #[test]
    fn a_seal_is_never_the_word_of_free_space() {
        for offset in (256..1_u64 << 20).step_by(8) {
            let salt = Salt(offset.wrapping_mul(0x9E37_79B9_7F4A_7C15));
            let word = Link::Sealed.encode(salt, offset);
            assert_ne!(word, 0);
            assert_eq!(Link::decode(salt, offset, word, offset), Ok(Link::Sealed));
        }
    }

    #[test]
    fn words_of_another_salt_or_offset_do_not_parse() {
        let (salt, other) = (Salt(1 << 40 | 7), Salt(2 << 40 | 7));
        let state = State::Committed(9).encode(salt, 64);
        assert_eq!(State::decode(salt, 64, state), Ok(State::Committed(9)));
        assert!(State::decode(other, 64, state).is_err());
        assert!(State::decode(salt, 72, state).is_err());
        let link = Link::Batch(128).encode(salt, 64);
        assert_eq!(Link::decode(salt, 64, link, 4096), Ok(Link::Batch(128)));
        assert!(Link::decode(other, 64, link, 4096).is_err());
        assert!(Link::decode(salt, 72, link, 4096).is_err());
        assert!(Link::decode(salt, 64, link, 191).is_err(), "it ends after the segment");
    }
}
