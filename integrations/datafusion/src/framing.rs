//! Finds the messages of an Arrow IPC stream in the bytes that an operator writes.
//!
//! A body that is a value of its own begins at a multiple of 64 bytes of its segment and is lent as
//! one chunk, so the decoder of DataFusion takes it as a record batch without a copy, and the memory
//! that DataFusion counts for the batch is the length of the body. Nothing else depends on it: bytes
//! that are no IPC stream are stored as they come.

use datafusion_common::arrow::ipc::root_as_message;

/// A shorter body is not worth a value of its own.
const BODY_MIN_BYTES: u64 = 16 << 10;
/// No metadata of a message is longer; a greater length means that the bytes are something else.
const METADATA_MAX_BYTES: usize = 16 << 20;
/// The four bytes before the length of a message.
const CONTINUATION: [u8; 4] = [0xff; 4];

/// The place in the stream, as far as it was followed. Positions count from the start of the file.
#[derive(Debug, Default)]
pub(crate) struct Framing {
    /// The position of the first byte that is not stored yet.
    base: u64,
    /// Where the message begins that is not complete yet.
    start: u64,
    /// Where that message ends, once its metadata is there.
    end: Option<u64>,
    /// Where a value must end and the next one begin.
    cuts: Vec<u64>,
    /// Whether the bytes are no IPC stream.
    is_other: bool,
}

/// The beginning of a message.
enum Head {
    Incomplete,
    Message { head_len: u64, body_len: u64 },
    Other,
}

impl Framing {
    /// Follows the stream to the end of `pending`, the bytes that are not stored yet.
    pub(crate) fn advance(&mut self, pending: &[u8]) {
        let len = self.base + pending.len() as u64;
        while !self.is_other && self.start < len {
            let end = match self.end {
                Some(end) => end,
                None => match self.start.checked_sub(self.base) {
                    // Its first bytes are stored already.
                    None => return self.give_up(),
                    Some(at) => match head(&pending[at as usize..]) {
                        Head::Incomplete => return,
                        Head::Other => return self.give_up(),
                        Head::Message { head_len, body_len } => {
                            let body = self.start + head_len;
                            if body_len >= BODY_MIN_BYTES {
                                self.cuts.extend([body, body + body_len]);
                            }
                            body + body_len
                        }
                    },
                },
            };
            if end > len {
                self.end = Some(end);
                return;
            }
            (self.start, self.end) = (end, None);
        }
    }

    fn give_up(&mut self) {
        self.is_other = true;
    }

    /// Whether `pending` ends where a message does. Always, if there are no messages.
    pub(crate) fn is_at_end(&self, pending: &[u8]) -> bool {
        self.is_other || self.start == self.base + pending.len() as u64
    }

    /// Whether the bytes are no IPC stream.
    pub(crate) fn is_other(&self) -> bool {
        self.is_other
    }

    /// Divides `pending` into the values that it becomes.
    pub(crate) fn pieces<'p>(&self, pending: &'p [u8]) -> Vec<&'p [u8]> {
        let (mut pieces, mut rest, mut at) = (Vec::new(), pending, self.base);
        for &cut in &self.cuts {
            let len = cut - at;
            if len == 0 {
                continue;
            }
            let Some((piece, after)) = rest.split_at_checked(len as usize) else { break };
            pieces.push(piece);
            (rest, at) = (after, cut);
        }
        if !rest.is_empty() {
            pieces.push(rest);
        }
        pieces
    }

    /// Notes that `len` pending bytes were stored: all that there were.
    pub(crate) fn stored(&mut self, len: usize) {
        self.base += len as u64;
        self.cuts.retain(|cut| *cut > self.base);
    }
}

/// Reads the beginning of a message.
fn head(bytes: &[u8]) -> Head {
    let Some((continuation, rest)) = bytes.split_first_chunk::<4>() else {
        let is_possible = CONTINUATION.starts_with(bytes);
        return if is_possible { Head::Incomplete } else { Head::Other };
    };
    if *continuation != CONTINUATION {
        return Head::Other;
    }
    let Some((len, rest)) = rest.split_first_chunk::<4>() else { return Head::Incomplete };
    let len = u32::from_le_bytes(*len) as usize;
    if len == 0 {
        // The end of the stream.
        return Head::Message { head_len: 8, body_len: 0 };
    }
    if len > METADATA_MAX_BYTES {
        return Head::Other;
    }
    let Some(metadata) = rest.get(..len) else { return Head::Incomplete };
    match root_as_message(metadata).map(|message| u64::try_from(message.bodyLength())) {
        // A length that could overflow a position is none.
        Ok(Ok(body_len)) if body_len < 1 << 48 => {
            Head::Message { head_len: 8 + len as u64, body_len }
        }
        _ => Head::Other,
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use datafusion_common::arrow::array::{ArrayRef, Int64Array, RecordBatch};
    use datafusion_common::arrow::ipc::writer::StreamWriter;

    use super::*;

    /// A stream of batches of these numbers of rows, with 8 bytes a row.
    fn stream(rows: &[i64]) -> Vec<u8> {
        let batch = |rows: i64| {
            let column: ArrayRef = Arc::new(Int64Array::from_iter_values(0..rows));
            RecordBatch::try_from_iter([("n", column)]).unwrap()
        };
        let mut writer = StreamWriter::try_new(Vec::new(), &batch(0).schema()).unwrap();
        for &rows in rows {
            writer.write(&batch(rows)).unwrap();
        }
        writer.finish().unwrap();
        writer.into_inner().unwrap()
    }

    #[test]
    fn each_long_body_is_a_piece_and_the_pieces_are_the_stream() {
        let bytes = stream(&[4096, 1, 10_000]);
        for step in [1, 7, 8, 1000, bytes.len()] {
            let mut framing = Framing::default();
            for end in (step..bytes.len()).step_by(step).chain([bytes.len()]) {
                framing.advance(&bytes[..end]);
            }
            let pieces = framing.pieces(&bytes);
            let bodies: Vec<_> = pieces.iter().map(|p| p.len()).filter(|len| *len > 8192).collect();
            assert_eq!(bodies, [4096 * 8, 80_000], "in steps of {step}");
            assert_eq!(pieces.concat(), bytes);
            assert!(framing.is_at_end(&bytes) && !framing.is_other());
        }
    }

    #[test]
    fn bytes_may_be_stored_at_any_point() {
        let bytes = stream(&[5000, 3, 5000]);
        for step in [1, 63, 64, 5000, 41_000] {
            let (mut framing, mut out) = (Framing::default(), Vec::new());
            for pending in bytes.chunks(step) {
                framing.advance(pending);
                out.extend(framing.pieces(pending).concat());
                framing.stored(pending.len());
            }
            assert_eq!(out, bytes, "in steps of {step}");
        }
    }

    #[test]
    fn the_messages_after_a_stored_one_are_found() {
        let bytes = stream(&[5000, 6000]);
        let (mut framing, mut at) = (Framing::default(), 0);
        let mut bodies = Vec::new();
        for end in 1..=bytes.len() {
            framing.advance(&bytes[at..end]);
            if framing.is_at_end(&bytes[at..end]) {
                bodies.extend(framing.pieces(&bytes[at..end]).iter().map(|piece| piece.len()));
                framing.stored(end - at);
                at = end;
            }
        }
        assert!(!framing.is_other() && at == bytes.len());
        bodies.retain(|len| *len > 8192);
        assert_eq!(bodies, [40_000, 48_000]);
    }

    #[test]
    fn other_bytes_are_one_piece() {
        for bytes in [
            &b"no stream"[..],
            &[0xff, 0xff, 1],
            &[0xff; 4000],
            b"\xff\xff\xff\xff\x08\0\0\0nonsense",
        ] {
            let mut framing = Framing::default();
            framing.advance(bytes);
            assert!(framing.is_other() && framing.is_at_end(bytes));
            assert_eq!(framing.pieces(bytes), [bytes]);
        }
    }

    #[test]
    fn a_message_is_incomplete_until_its_last_byte() {
        let bytes = stream(&[3000]);
        let end = bytes.len() - 8; // before the end of the stream
        let mut framing = Framing::default();
        for len in 1..end {
            framing.advance(&bytes[..len]);
            assert!(!framing.is_other());
        }
        assert!(!framing.is_at_end(&bytes[..end - 1]));
        framing.advance(&bytes[..end]);
        assert!(framing.is_at_end(&bytes[..end]));
    }
}
