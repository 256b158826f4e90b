//! The frames of a lent value, one at a time: a value may be many times larger than memory.

use arrow_buffer::Buffer;
use bytes::Bytes;

use crate::encode::frame::{BadFrame, PREFIX_BYTES, too_long, truncated};
use crate::lend::LentChunks;

/// The frames that are still to come. After a bad one there are none.
pub(super) struct LentFrames {
    chunks: Box<dyn LentChunks>,
    /// The unread rest of the current chunk, and its offset in that chunk.
    rest: Bytes,
    at: u64,
    /// The number of the next frame, and its offset in the value.
    number: usize,
    offset: u64,
    is_bad: bool,
}

impl LentFrames {
    pub(super) fn new(chunks: Box<dyn LentChunks>) -> LentFrames {
        LentFrames { chunks, rest: Bytes::new(), at: 0, number: 0, offset: 0, is_bad: false }
    }

    fn bytes_left(&self) -> u64 {
        self.rest.len() as u64 + self.chunks.bytes_left()
    }

    /// Takes the next `len` bytes, or those that are left. They are copied if they are in several
    /// chunks.
    fn take(&mut self, len: usize) -> Buffer {
        self.skip_empty();
        self.chunks.read_ahead(self.at, len.min(self.rest.len()) as u64);
        self.at += len as u64;
        if len <= self.rest.len() {
            return Buffer::from(self.rest.split_to(len));
        }
        let mut copy = Vec::with_capacity(len);
        loop {
            let part = self.rest.split_to(self.rest.len().min(len - copy.len()));
            copy.extend_from_slice(&part);
            self.at = part.len() as u64;
            if copy.len() == len {
                return Buffer::from(copy);
            }
            let Some(chunk) = self.chunks.next() else { return Buffer::from(copy) };
            self.rest = chunk;
        }
    }

    fn skip_empty(&mut self) {
        while self.rest.is_empty()
            && let Some(chunk) = self.chunks.next()
        {
            (self.rest, self.at) = (chunk, 0);
        }
    }
}

impl Iterator for LentFrames {
    /// The number of a frame, its offset in the value, and its bytes.
    type Item = Result<(usize, u64, Buffer), BadFrame>;

    fn next(&mut self) -> Option<Self::Item> {
        if self.is_bad || self.bytes_left() == 0 {
            return None;
        }
        let (frame, offset) = (self.number, self.offset);
        self.is_bad = true;
        if self.bytes_left() < PREFIX_BYTES as u64 {
            let reason = truncated(self.bytes_left());
            return Some(Err(BadFrame { frame, offset, reason }));
        }
        let len = self.take(PREFIX_BYTES).iter().rev().fold(0, |len, &b| len << 8 | u64::from(b));
        if len > self.bytes_left() {
            let reason = too_long(len, self.bytes_left());
            return Some(Err(BadFrame { frame, offset, reason }));
        }
        let body = self.take(len as usize);
        (self.number, self.offset) = (frame + 1, offset + PREFIX_BYTES as u64 + len);
        self.is_bad = false;
        Some(Ok((frame, offset, body)))
    }
}

#[cfg(test)]
mod tests {
    use std::collections::VecDeque;

    use super::*;

    /// Chunks in memory.
    struct Chunks(VecDeque<Bytes>);

    impl Iterator for Chunks {
        type Item = Bytes;

        fn next(&mut self) -> Option<Bytes> {
            self.0.pop_front()
        }
    }

    impl LentChunks for Chunks {
        fn bytes_left(&self) -> u64 {
            self.0.iter().map(|chunk| chunk.len() as u64).sum()
        }

        fn read_ahead(&mut self, _: u64, _: u64) {}
    }

    fn value() -> Vec<u8> {
        let bodies = [&b"abc"[..], b"", b"0123456789"];
        let frame = |body: &&[u8]| [&(body.len() as u64).to_le_bytes()[..], body].concat();
        bodies.iter().flat_map(frame).collect()
    }

    fn frames(chunks: &[&[u8]]) -> LentFrames {
        let chunks = chunks.iter().map(|chunk| Bytes::copy_from_slice(chunk)).collect();
        LentFrames::new(Box::new(Chunks(chunks)))
    }

    #[test]
    fn the_chunks_of_a_value_do_not_change_its_frames() {
        let value = value();
        for a in 0..=value.len() {
            for b in a..=value.len() {
                let found = frames(&[&value[..a], &value[a..b], &[], &value[b..]]);
                let found: Vec<_> = found
                    .map(|frame| frame.map(|(i, at, body)| (i, at, body.as_slice().to_vec())))
                    .collect();
                let expected = [(0, 0, &b"abc"[..]), (1, 11, b""), (2, 19, b"0123456789")];
                let expected = expected.map(|(i, at, body)| Ok((i, at, body.to_vec())));
                assert_eq!(found, expected, "chunks end at {a} and {b}");
            }
        }
    }

    #[test]
    fn after_a_truncated_frame_or_a_length_beyond_the_value_there_are_no_more() {
        let mut value = value();
        for end in (1..value.len()).filter(|end| ![11, 19].contains(end)) {
            let mut found = frames(&[&value[..end / 2], &value[end / 2..end]]);
            let bad = found.find_map(Result::err).unwrap();
            assert_eq!(bad.offset, [0, 11, 19].into_iter().rfind(|at| *at < end as u64).unwrap());
            assert!(found.next().is_none());
        }
        for len in [19, 1 << 31, 1 << 63, u64::MAX] {
            value[11..19].copy_from_slice(&len.to_le_bytes());
            let bad = frames(&[&value]).find_map(Result::err).unwrap();
            assert_eq!((bad.frame, bad.offset), (1, 11));
            assert!(bad.reason.contains(&len.to_string()), "{}", bad.reason);
        }
    }
}
