//! The salt of a segment: the seed of its value checksums and of the checks of its words.

use crc32fast::Hasher;

use crate::error::Error;

/// A segment's random number, the seed of all its checks and checksums except that of its header.
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

    /// Returns the plain CRC-32 (IEEE, starting at 0) of a value of `len` bytes, computed from its
    /// checksum and without its bytes.
    #[must_use]
    pub fn unsalted_checksum(self, value_checksum: u32, len: u64) -> u32 {
        // A CRC is linear, so the two differ by the salted start value, advanced over `len` zero
        // bytes.
        let mut start = self.value_hasher();
        start.combine(&Hasher::new_with_initial_len(0, len));
        value_checksum ^ start.finalize()
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_value_checksum_without_its_salt_is_the_plain_crc_of_the_value() {
        let bytes: [u8; 1000] = core::array::from_fn(|i| (i * i / 7) as u8);
        for salt in [0, 1, 0xFFFF_FFFF, 0x0123_4567_89AB_CDEF, u64::MAX] {
            for len in [0, 1, 7, 8, 63, 64, 1000] {
                let checksum = Salt(salt).value_checksum(&bytes[..len]);
                let plain = Salt(salt).unsalted_checksum(checksum, len as u64);
                assert_eq!(plain, crc32fast::hash(&bytes[..len]), "{salt:x}, {len} bytes");
            }
        }
    }
}
