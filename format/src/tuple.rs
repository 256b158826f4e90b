//! Tuple keys: encodes a tuple as the bytes of a key, and reads it back token by token.
//!
//! | bytes | meaning |
//! |---|---|
//! | `00 FF` | a zero byte inside a byte string |
//! | `00 01` | the next part begins |
//! | `00 02` code, bytes | an integer |
//! | `00 03` … `00 00` | a tuple inside a tuple |
//!
//! Every other byte encodes itself, so a byte string without zero bytes is its own encoding. Keys
//! sort as their tuples do, part by part. If two parts differ in kind, the empty string sorts
//! first, then integers, then tuples, then all other strings. The escapes follow the tuple layer of
//! FoundationDB and Google's `orderedcode`.
//!
//! The code of an integer is `20` plus the number of bytes of its magnitude, or `20` minus that
//! number if it is negative. The bytes are the magnitude, big-endian and without leading zeros;
//! those of a negative integer are complemented. An integer has at most 16 bytes, enough for every
//! integer type of Rust.

use core::fmt;

/// Encodes a zero byte inside a byte string.
pub const ZERO: [u8; 2] = [0, 0xFF];
/// Separates two parts of a tuple.
pub const NEXT_PART: [u8; 2] = [0, 1];
/// Opens an integer.
pub const INTEGER: [u8; 2] = [0, 2];
/// Opens a tuple inside a tuple.
pub const NEST: [u8; 2] = [0, 3];
/// Closes a tuple inside a tuple.
pub const UNNEST: [u8; 2] = [0, 0];

/// The longest encoding of an integer, in bytes.
pub const INTEGER_LEN_MAX: usize = 3 + 16;
/// The maximum depth of nested tuples that can be read back.
pub const DEPTH_MAX: usize = 64;

/// The code of the integer 0.
const ZERO_CODE: u8 = 0x20;

/// An integer of a tuple key: any value of any integer type of Rust.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Integer {
    is_negative: bool,
    magnitude: u128,
}

impl Integer {
    /// Returns the encoding as a part of a tuple: an array, and the number of its bytes that are
    /// used.
    #[must_use]
    pub fn encode(self) -> ([u8; INTEGER_LEN_MAX], usize) {
        let len = 16 - self.magnitude.leading_zeros() as usize / 8;
        let mut bytes = [0; INTEGER_LEN_MAX];
        bytes[..2].copy_from_slice(&INTEGER);
        let (code, word) = match self.is_negative {
            false => (ZERO_CODE + len as u8, self.magnitude),
            true => (ZERO_CODE - len as u8, !self.magnitude),
        };
        bytes[2] = code;
        bytes[3..3 + len].copy_from_slice(&word.to_be_bytes()[16 - len..]);
        (bytes, 3 + len)
    }

    /// Reads an integer from the bytes after its escape. Returns it and the remaining bytes.
    fn decode(bytes: &[u8]) -> Option<(Integer, &[u8])> {
        let (&code, bytes) = bytes.split_first()?;
        let is_negative = code < ZERO_CODE;
        let len = usize::from(code.abs_diff(ZERO_CODE));
        let mut word = [0; 16];
        word.get_mut(16_usize.checked_sub(len)?..)?.copy_from_slice(bytes.get(..len)?);
        if is_negative {
            word[16 - len..].iter_mut().for_each(|byte| *byte = !*byte);
        }
        // A leading zero would be a second encoding of the same integer.
        let is_shortest = len == 0 || word[16 - len] != 0;
        let magnitude = u128::from_be_bytes(word);
        let is_in_range = !is_negative || magnitude <= i128::MIN.unsigned_abs();
        let integer = Integer { is_negative, magnitude };
        (is_shortest && is_in_range).then_some((integer, &bytes[len..]))
    }
}

macro_rules! from_unsigned {
    ($($type:ty),*) => {$(
        #[allow(clippy::cast_lossless, reason = "`usize` and `isize` do not convert by `From`")]
        impl From<$type> for Integer {
            fn from(number: $type) -> Integer {
                Integer { is_negative: false, magnitude: number as u128 }
            }
        }
    )*};
}

macro_rules! from_signed {
    ($($type:ty),*) => {$(
        #[allow(clippy::cast_lossless, reason = "`usize` and `isize` do not convert by `From`")]
        impl From<$type> for Integer {
            fn from(number: $type) -> Integer {
                Integer { is_negative: number < 0, magnitude: number.unsigned_abs() as u128 }
            }
        }
    )*};
}

from_unsigned!(u8, u16, u32, u64, u128, usize);
from_signed!(i8, i16, i32, i64, i128, isize);

/// Converts the integer; fails if it is above `i128::MAX`.
impl TryFrom<Integer> for i128 {
    type Error = core::num::TryFromIntError;

    fn try_from(integer: Integer) -> Result<i128, Self::Error> {
        match integer.is_negative {
            false => i128::try_from(integer.magnitude),
            // Negative integers are in range, and -2^127 negates to itself with wrapping.
            true => Ok((integer.magnitude as i128).wrapping_neg()),
        }
    }
}

/// Converts the integer; fails if it is negative.
impl TryFrom<Integer> for u128 {
    type Error = core::num::TryFromIntError;

    fn try_from(integer: Integer) -> Result<u128, Self::Error> {
        match integer.is_negative {
            false => Ok(integer.magnitude),
            true => u128::try_from(-1_i128),
        }
    }
}

impl fmt::Display for Integer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad_integral(!self.is_negative, "", Digits::of(self.magnitude).as_str())
    }
}

/// The decimal digits of a magnitude.
struct Digits {
    bytes: [u8; 39],
    start: usize,
}

impl Digits {
    fn of(mut magnitude: u128) -> Digits {
        let mut digits = Digits { bytes: [b'0'; 39], start: 39 };
        loop {
            digits.start -= 1;
            digits.bytes[digits.start] = b'0' + (magnitude % 10) as u8;
            magnitude /= 10;
            if magnitude == 0 {
                return digits;
            }
        }
    }

    fn as_str(&self) -> &str {
        core::str::from_utf8(&self.bytes[self.start..]).unwrap_or_default()
    }
}

/// A piece of a tuple key.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Token<'k> {
    /// A byte string.
    Bytes(Escaped<'k>),
    /// An integer.
    Integer(Integer),
    /// A tuple begins inside the tuple.
    Open,
    /// The innermost tuple ends.
    Close,
}

/// A byte string of a tuple key, with its zero bytes escaped.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Escaped<'k>(&'k [u8]);

impl<'k> Escaped<'k> {
    /// Returns the unescaped bytes of the string, in runs.
    pub fn runs(self) -> impl Iterator<Item = &'k [u8]> {
        let mut rest = Some(self.0);
        core::iter::from_fn(move || {
            let bytes = rest?;
            match bytes.iter().position(|&byte| byte == 0) {
                // The zero byte belongs to the run; the byte after it only escapes it.
                Some(zero) => {
                    rest = Some(bytes.get(zero + 2..).unwrap_or_default());
                    Some(&bytes[..=zero])
                }
                None => {
                    rest = None;
                    Some(bytes)
                }
            }
        })
        .filter(|run| !run.is_empty())
    }
}

/// The error if the bytes of a key are not the encoding of a tuple.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct NotATuple;

impl fmt::Display for NotATuple {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("the bytes of the key are not the encoding of a tuple")
    }
}

impl core::error::Error for NotATuple {}

/// An iterator over the tokens of a tuple key. It ends after an error.
///
/// A plain string without zero bytes is also the key of the tuple with that one part. Tuples that
/// are nested deeper than [`DEPTH_MAX`] are an error.
#[derive(Clone, Debug)]
pub struct Tokens<'k> {
    rest: &'k [u8],
    depth: usize,
    next: Next,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Next {
    Part,
    Separator,
    End,
}

impl<'k> Tokens<'k> {
    /// Returns an iterator over the tokens of a key's bytes.
    #[must_use]
    pub fn new(key: &'k [u8]) -> Tokens<'k> {
        Tokens { rest: key, depth: 0, next: Next::Part }
    }

    fn part(&mut self) -> Result<Token<'k>, NotATuple> {
        self.next = Next::Separator;
        if let Some(rest) = self.rest.strip_prefix(&NEST) {
            self.depth += 1;
            if self.depth > DEPTH_MAX {
                return Err(NotATuple);
            }
            (self.rest, self.next) = (rest, Next::Part);
            return Ok(Token::Open);
        }
        if let Some(rest) = self.rest.strip_prefix(&INTEGER) {
            let (integer, rest) = Integer::decode(rest).ok_or(NotATuple)?;
            self.rest = rest;
            return Ok(Token::Integer(integer));
        }
        let mut len = 0;
        loop {
            let tail = &self.rest[len..];
            len += tail.iter().position(|&byte| byte == 0).unwrap_or(tail.len());
            if !self.rest[len..].starts_with(&ZERO) {
                break;
            }
            len += 2;
        }
        let (bytes, rest) = self.rest.split_at(len);
        self.rest = rest;
        Ok(Token::Bytes(Escaped(bytes)))
    }

    fn token(&mut self) -> Result<Option<Token<'k>>, NotATuple> {
        match self.next {
            Next::Part => return self.part().map(Some),
            Next::End => return Ok(None),
            Next::Separator => {}
        }
        if let Some(rest) = self.rest.strip_prefix(&NEXT_PART) {
            self.rest = rest;
            return self.part().map(Some);
        }
        if self.depth > 0 {
            self.rest = self.rest.strip_prefix(&UNNEST).ok_or(NotATuple)?;
            self.depth -= 1;
            return Ok(Some(Token::Close));
        }
        if self.rest.is_empty() { Ok(None) } else { Err(NotATuple) }
    }
}

impl<'k> Iterator for Tokens<'k> {
    type Item = Result<Token<'k>, NotATuple>;

    fn next(&mut self) -> Option<Self::Item> {
        let token = self.token();
        if !matches!(token, Ok(Some(_))) {
            self.next = Next::End;
        }
        token.transpose()
    }
}
