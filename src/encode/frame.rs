//! The frame: a length as 8 bytes little-endian, then that many bytes. A key's value is a sequence
//! of frames, as in the Python partd.
//!
//! The writer reserves the prefix before the codec writes and fills it in afterwards, so that both
//! reach the store as one slice. `split` checks every length against the available bytes before it
//! uses it. This module does not interpret the contents of a frame.

use std::borrow::Cow;
use std::ops::Range;

use crate::encode::CodecError;

/// The length of the prefix of a frame, in bytes.
pub(crate) const PREFIX_BYTES: usize = 8;

/// Appends a frame to `buffer`: the prefix, then the bytes that `encode` appends.
pub(crate) fn write(
    buffer: &mut Vec<u8>,
    encode: impl FnOnce(&mut Vec<u8>) -> Result<(), CodecError>,
) -> Result<Range<usize>, CodecError> {
    let start = buffer.len();
    buffer.extend_from_slice(&[0; PREFIX_BYTES]);
    let body = buffer.len();
    encode(buffer)?;
    let len = buffer
        .len()
        .checked_sub(body)
        .ok_or("the codec shortened the buffer; it may only append to it")?;
    buffer[start..body].copy_from_slice(&(len as u64).to_le_bytes());
    Ok(start..buffer.len())
}

/// A frame of a value.
#[derive(Debug)]
pub(crate) struct Frame<'a> {
    /// The offset of its prefix in the value.
    pub(crate) offset: u64,
    /// The bytes after the prefix; a copy if the store holds them in several pieces.
    pub(crate) body: Cow<'a, [u8]>,
}

/// A value that is not a sequence of frames.
#[derive(Debug, PartialEq)]
pub(crate) struct BadFrame {
    /// The number of the frame, from 0.
    pub(crate) frame: usize,
    /// The offset of the frame in the value.
    pub(crate) offset: u64,
    /// What is wrong with it.
    pub(crate) reason: String,
}

/// Splits a value, given in pieces, into its frames.
pub(crate) fn split<'a>(pieces: &[&'a [u8]]) -> Result<Vec<Frame<'a>>, BadFrame> {
    let mut rest = Rest { pieces, piece: &[], left: pieces.iter().map(|p| p.len() as u64).sum() };
    let value_bytes = rest.left;
    let mut frames = Vec::new();
    while rest.left > 0 {
        let offset = value_bytes - rest.left;
        let bad = |reason| BadFrame { frame: frames.len(), offset, reason };
        let Some(prefix) = rest.take(PREFIX_BYTES as u64) else {
            return Err(bad(truncated(rest.left)));
        };
        let len = prefix.iter().rev().fold(0, |len, &byte| (len << 8) | u64::from(byte));
        let Some(body) = rest.take(len) else {
            return Err(bad(too_long(len, rest.left)));
        };
        frames.push(Frame { offset, body });
    }
    Ok(frames)
}

/// The reason for a value that ends after `left` bytes of a frame's length.
pub(crate) fn truncated(left: u64) -> String {
    format!(
        "the value ends after {left} of the 8 bytes of a frame's length: it was truncated, or not \
         written by an encoding layer"
    )
}

/// The reason for a frame of `len` bytes of which only `left` follow.
pub(crate) fn too_long(len: u64, left: u64) -> String {
    format!(
        "the frame should have {len} bytes, but only {left} follow: the value was truncated, or not \
         written by an encoding layer"
    )
}

/// The rest of a value in pieces.
struct Rest<'p, 'a> {
    pieces: &'p [&'a [u8]],
    piece: &'a [u8],
    left: u64,
}

impl<'a> Rest<'_, 'a> {
    /// Takes the next `bytes`, borrowed if they are in one piece. If fewer are left, takes none and
    /// returns `None`.
    fn take(&mut self, bytes: u64) -> Option<Cow<'a, [u8]>> {
        self.left = self.left.checked_sub(bytes)?;
        let mut wanted = usize::try_from(bytes).ok()?;
        if wanted == 0 {
            return Some(Cow::Borrowed(&[]));
        }
        while self.piece.is_empty() {
            self.next_piece()?;
        }
        if let Some((head, tail)) = self.piece.split_at_checked(wanted) {
            self.piece = tail;
            return Some(Cow::Borrowed(head));
        }
        let mut copy = Vec::with_capacity(wanted);
        while wanted > 0 {
            let (head, tail) = self.piece.split_at(wanted.min(self.piece.len()));
            copy.extend_from_slice(head);
            wanted -= head.len();
            self.piece = tail;
            if wanted > 0 {
                self.next_piece()?;
            }
        }
        Some(Cow::Owned(copy))
    }

    fn next_piece(&mut self) -> Option<()> {
        let (first, rest) = self.pieces.split_first()?;
        (self.piece, self.pieces) = (first, rest);
        Some(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn bodies(frames: &[Frame<'_>]) -> Vec<(u64, Vec<u8>)> {
        frames.iter().map(|frame| (frame.offset, frame.body.to_vec())).collect()
    }

    #[test]
    fn the_pieces_of_a_value_do_not_change_its_frames() {
        let mut value = Vec::new();
        for body in [&b"abc"[..], b"", b"0123456789"] {
            let range = write(&mut value, |buffer| {
                buffer.extend_from_slice(body);
                Ok(())
            })
            .unwrap();
            assert_eq!(range.len(), 8 + body.len());
        }
        let expected = vec![(0, b"abc".to_vec()), (11, vec![]), (19, b"0123456789".to_vec())];
        for a in 0..=value.len() {
            for b in a..=value.len() {
                let pieces = [&value[..a], &value[a..b], &value[b..]];
                assert_eq!(bodies(&split(&pieces).unwrap()), expected);
            }
        }
    }

    #[test]
    fn a_truncated_frame_or_a_length_beyond_the_value_is_an_error_with_the_offset() {
        let mut value = Vec::new();
        for body in [&b"abc"[..], b"def"] {
            write(&mut value, |buffer| {
                buffer.extend_from_slice(body);
                Ok(())
            })
            .unwrap();
        }
        for end in 12..22 {
            let bad = split(&[&value[..end]]).unwrap_err();
            assert_eq!((bad.frame, bad.offset), (1, 11));
        }
        for len in [4, 1 << 31, 1 << 63, u64::MAX] {
            value[11..19].copy_from_slice(&len.to_le_bytes());
            let bad = split(&[&value]).unwrap_err();
            assert_eq!((bad.frame, bad.offset), (1, 11));
            assert!(bad.reason.contains(&len.to_string()), "{}", bad.reason);
        }
    }

    #[test]
    fn a_codec_that_shortens_the_buffer_is_an_error() {
        let mut buffer = vec![1, 2, 3];
        assert!(
            write(&mut buffer, |buffer| {
                buffer.clear();
                Ok(())
            })
            .is_err()
        );
    }
}
