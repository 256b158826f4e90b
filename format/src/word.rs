//! The 8-byte words of a segment that are stored atomically: link, state and note.
//!
//! Each carries a check over its payload, its offset and the salt of the segment, so that a word of
//! an earlier life of the same disk block, or one that moved, does not parse. The payloads of two
//! valid words at one place differ in at least four bits of the word (tested below).

use crate::error::{Error, Evidence};
use crate::layout::{DURABLE_END_AT, HEAD_LEN};
use crate::{SEQUENCE_MAX, align};

pub use crate::layout::STATE_AT;
pub use crate::salt::Salt;

const LINK_CHECK_BITS: u32 = 24;
const STATE_CHECK_BITS: u32 = 17;

/// The payload of the link word that seals a segment: a length no batch has. It is not 0, so that
/// no check can make the word 0, which would read as free space.
const SEALED: u64 = 1;

/// The longest batch: 8 TiB less one unit.
pub const BATCH_LEN_MAX: u64 = ((1 << (64 - LINK_CHECK_BITS)) - 1) * 8;

/// The first word of a batch: where the next one begins.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Link {
    /// Nothing has been claimed here yet.
    End,
    /// No batch will ever be claimed here or behind.
    Sealed,
    /// A batch of this many bytes, a multiple of 8, from the link word on.
    Batch(u64),
}

impl Link {
    /// The word to store at `offset`.
    #[must_use]
    pub fn encode(self, salt: Salt, offset: u64) -> u64 {
        match self {
            Link::End => 0,
            Link::Sealed => salt.pack(b'L', offset, SEALED, LINK_CHECK_BITS),
            Link::Batch(len) => salt.pack(b'L', offset, len / 8, LINK_CHECK_BITS),
        }
    }

    /// Reads the word at `offset`; `limit` is where the segment ends.
    ///
    /// # Errors
    ///
    /// If the word's check does not match, or if its length does not fit into the segment.
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

/// The second word of a batch: what has become of it. Set once, from 0.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum State {
    /// Claimed; its bytes may still be arriving.
    Pending,
    /// Part of the history, under this sequence number.
    Committed(u64),
    /// Given up: passed over, for ever.
    Void,
}

/// The payload of a void state word.
const VOID: u64 = SEQUENCE_MAX + 1;

impl State {
    /// The state word of the batch at `offset`: the check is over where the batch begins, at its
    /// link word. Sequence numbers run from 1 to [`SEQUENCE_MAX`].
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

    /// Reads the state word of the batch at `offset`. An error names the place of the word itself.
    ///
    /// # Errors
    ///
    /// If the word's check does not match, or if the word is not a state.
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

/// The note of a segment: how far its chain of batches is known to be on stable storage.
pub mod durable_end {
    use super::{DURABLE_END_AT, Error, LINK_CHECK_BITS, Salt, align};

    /// The word that says that the chain before `end` (an offset, a multiple of 8) is durable.
    #[must_use]
    pub fn encode(salt: Salt, end: u64) -> u64 {
        salt.pack(b'N', DURABLE_END_AT, end / 8, LINK_CHECK_BITS)
    }

    /// Reads the note: 0 where there is none yet.
    ///
    /// # Errors
    ///
    /// If the word's check does not match.
    pub fn decode(salt: Salt, word: u64) -> Result<u64, Error> {
        if word == 0 {
            return Ok(0);
        }
        let at = DURABLE_END_AT;
        let end = salt.unpack(b'N', "durable watermark", at, word, LINK_CHECK_BITS)? * 8;
        debug_assert_eq!(align(end), Some(end));
        Ok(end)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The check is linear over GF(2), so the distance between two words of one place depends on
    /// the difference of their payloads alone: it is enough to look at every difference of few bits.
    fn distance(domain: u8, bits: u32, difference: u64) -> u32 {
        let salt = Salt(0x0123_4567_89AB_CDEF);
        (salt.pack(domain, 4096, 0, bits) ^ salt.pack(domain, 4096, difference, bits)).count_ones()
    }

    /// Every pattern of one, two or three of the low `bits` bits.
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
    fn any_two_words_of_one_place_differ_in_at_least_four_bits() {
        for (domain, bits) in [(b'L', LINK_CHECK_BITS), (b'S', STATE_CHECK_BITS)] {
            let payload_bits = 64 - bits;
            for difference in flips_of_up_to_three(payload_bits) {
                let d = distance(domain, bits, difference);
                assert!(d >= 4, "{difference:#x} in domain {domain}: {d}");
            }
        }
    }

    #[test]
    fn every_flip_of_one_two_or_three_bits_of_a_state_word_is_found() {
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
        assert!(Link::decode(salt, 64, link, 191).is_err(), "it reaches beyond the segment");
    }
}
