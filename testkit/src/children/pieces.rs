//! Pieces of values that record their origin: the writer, its life, and a number.
//!
//! A piece is a header and a filler derived from it, so a torn, mixed or invented piece does not
//! parse. This file does not depend on stores.

/// The length of a piece without filler, in bytes.
pub const HEADER_LEN: usize = 24;

/// The origin of a piece. Tags sort in the order in which a writer creates them.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Tag {
    /// The writer.
    pub writer: u32,
    /// How many times the writer was started before.
    pub life: u32,
    /// Its number in that life.
    pub number: u64,
}

/// A piece of `HEADER_LEN + filler` bytes.
pub fn piece(tag: Tag, filler: usize) -> Vec<u8> {
    let mut bytes = Vec::with_capacity(HEADER_LEN + filler);
    bytes.extend(tag.writer.to_le_bytes());
    bytes.extend(tag.life.to_le_bytes());
    bytes.extend(tag.number.to_le_bytes());
    bytes.extend((filler as u32).to_le_bytes());
    bytes.extend(crc32fast::hash(&bytes).to_le_bytes());
    bytes.resize(HEADER_LEN + filler, 0);
    fill(tag, &mut bytes[HEADER_LEN..]);
    bytes
}

fn fill(tag: Tag, filler: &mut [u8]) {
    let mut word = super::Random(u64::from(tag.writer) << 40 ^ u64::from(tag.life) << 20).next();
    word ^= super::Random(tag.number).next();
    for part in filler.chunks_mut(8) {
        word = word.wrapping_add(0x9E37_79B9_7F4A_7C15);
        part.copy_from_slice(&word.to_le_bytes()[..part.len()]);
    }
}

/// Splits a value into its pieces. If it is not whole, the error says what is wrong and at which
/// byte.
pub fn parse(value: &[u8]) -> Result<Vec<Tag>, String> {
    let mut tags = Vec::new();
    let mut at = 0;
    while at < value.len() {
        let rest = &value[at..];
        if rest.len() < HEADER_LEN {
            return Err(format!("{} bytes are left at byte {at}: half a header", rest.len()));
        }
        let half = |i: usize| u32::from_le_bytes([rest[i], rest[i + 1], rest[i + 2], rest[i + 3]]);
        if half(20) != crc32fast::hash(&rest[..20]) {
            return Err(format!("no header of a piece at byte {at}"));
        }
        let number = u64::from(half(8)) | u64::from(half(12)) << 32;
        let tag = Tag { writer: half(0), life: half(4), number };
        let filler = half(16) as usize;
        if rest.len() < HEADER_LEN + filler {
            return Err(format!("piece {tag:?} at byte {at} is truncated"));
        }
        let mut right = vec![0; filler];
        fill(tag, &mut right);
        if rest[HEADER_LEN..HEADER_LEN + filler] != right {
            return Err(format!("piece {tag:?} at byte {at} holds other bytes"));
        }
        tags.push(tag);
        at += HEADER_LEN + filler;
    }
    Ok(tags)
}

#[test]
fn a_truncated_flipped_or_mixed_record_does_not_parse() {
    let tag = |number| Tag { writer: 1, life: 2, number };
    let value = [piece(tag(1), 20), piece(tag(2), 0), piece(tag(3), 100)].concat();
    assert_eq!(parse(&value).unwrap(), [tag(1), tag(2), tag(3)]);
    for cut in 1..value.len() {
        let whole = [0, 44, 68, 192].contains(&cut);
        assert_eq!(parse(&value[..cut]).is_ok(), whole, "cut at {cut}");
    }
    for bit in 0..value.len() * 8 {
        let mut flipped = value.clone();
        flipped[bit / 8] ^= 1 << (bit % 8);
        assert!(parse(&flipped).is_err(), "bit {bit}");
    }
    let mixed = [&piece(tag(1), 40)[..44], &piece(tag(2), 40)[44..]].concat();
    assert!(parse(&mixed).is_err());
}
