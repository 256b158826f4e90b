//! The salt of a segment: the seed of its value checksums and of the checks of its words.

use crc32fast::Hasher;

use crate::error::Error;

/// A segment's random number, the seed of all its checks and checksums.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Salt(pub u64);

impl Salt {
    /// Computes the checksum of a value: a CRC-32 (IEEE) that starts at the low half of the salt.
    #[inline]
    #[must_use]
    pub fn value_checksum(self, value: &[u8]) -> u32 {
        let mut hasher = self.value_hasher();
        hasher.update(value);
        hasher.finalize()
    }

    /// Returns the hasher of [`value_checksum`](Salt::value_checksum), for a value read in pieces.
    #[inline]
    #[must_use]
    pub fn value_hasher(self) -> Hasher {
        Hasher::new_with_initial(self.0 as u32)
    }

    /// Computes a word's check: the top `bits` bits of a CRC-32 that starts at the salt's high
    /// half.
    pub(crate) fn check(self, domain: u8, offset: u64, payload: u64, bits: u32) -> u64 {
        let mut bytes = [domain; 17];
        bytes[1..9].copy_from_slice(&offset.to_le_bytes());
        bytes[9..].copy_from_slice(&payload.to_le_bytes());
        let mut hasher = Hasher::new_with_initial((self.0 >> 32) as u32);
        hasher.update(&bytes);
        u64::from(hasher.finalize()) >> (32 - bits)
    }

    /// Packs a payload and, below it, its check into a word.
    pub(crate) fn pack(self, domain: u8, offset: u64, payload: u64, bits: u32) -> u64 {
        payload << bits | self.check(domain, offset, payload, bits)
    }

    /// Returns the payload of a word if its check matches.
    pub(crate) fn unpack(
        self,
        domain: u8,
        what: &'static str,
        offset: u64,
        word: u64,
        bits: u32,
    ) -> Result<u64, Error> {
        let payload = word >> bits;
        let right = self.pack(domain, offset, payload, bits);
        if word == right { Ok(payload) } else { Err(Error::bits(offset, what, right, word)) }
    }
}
