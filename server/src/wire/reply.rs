//! Answers of the extension: each part of an answer is one frame.

use super::{Cursor, Malformed};
use crate::error::{ErrorKind, RemoteError};

/// The length of a chunk's head: the kind and the request id.
pub(crate) const CHUNK_HEAD_BYTES: usize = 9;

const ACK: u8 = 0x80;
const MORE: u8 = 0x81;
const LAST: u8 = 0x82;
const ERROR: u8 = 0xFF;

/// The content of an acknowledgement.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Ack {
    /// The sequence number of the write in this run of the server; 0 if nothing was written.
    pub(crate) seq: u64,
    /// The sequence number up to which all writes are on stable storage.
    pub(crate) durable_seq: u64,
}

/// One part of an answer.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Reply<'a> {
    Ack(Ack),
    /// Bytes of the answer.
    Chunk {
        last: bool,
        bytes: &'a [u8],
    },
    Error(RemoteError),
}

/// Decodes one part of an answer, and returns the id of its request as well.
pub(crate) fn decode(frame: &[u8]) -> Result<(u64, Reply<'_>), Malformed> {
    let mut cursor = Cursor::new(frame);
    let kind = cursor.u8("the kind of an answer")?;
    let id = cursor.u64("the request id")?;
    let reply = match kind {
        ACK => {
            let seq = cursor.u64("the sequence number")?;
            let durable_seq = cursor.u64("the durable sequence number")?;
            cursor.end()?;
            Reply::Ack(Ack { seq, durable_seq })
        }
        MORE | LAST => Reply::Chunk { last: kind == LAST, bytes: cursor.rest() },
        ERROR => {
            let kind = ErrorKind::from_wire(cursor.u16("the kind of error")?);
            let may_have_happened = cursor.u8("whether it may have happened")? != 0;
            let text = String::from_utf8_lossy(cursor.rest()).into_owned();
            Reply::Error(RemoteError::new(kind, text).maybe(may_have_happened))
        }
        other => return Err(Malformed::new(format!("unknown kind of answer {other:#x}"))),
    };
    Ok((id, reply))
}

pub(crate) fn encode_ack(id: u64, ack: Ack) -> [u8; 25] {
    let mut frame = [0; 25];
    frame[0] = ACK;
    frame[1..9].copy_from_slice(&id.to_be_bytes());
    frame[9..17].copy_from_slice(&ack.seq.to_be_bytes());
    frame[17..25].copy_from_slice(&ack.durable_seq.to_be_bytes());
    frame
}

/// Encodes the head of a chunk; the bytes of the chunk follow it in the frame.
pub(crate) fn encode_chunk_head(id: u64, last: bool) -> [u8; CHUNK_HEAD_BYTES] {
    let mut head = [0; CHUNK_HEAD_BYTES];
    head[0] = if last { LAST } else { MORE };
    head[1..9].copy_from_slice(&id.to_be_bytes());
    head
}

/// Encodes an error, with its text cut to `MAX_TEXT_BYTES`.
pub(crate) fn encode_error(id: u64, error: &RemoteError) -> Vec<u8> {
    /// Longer than any useful text, and well below the smallest message limit.
    const MAX_TEXT_BYTES: usize = 2048;
    let mut end = error.text.len().min(MAX_TEXT_BYTES);
    while !error.text.is_char_boundary(end) {
        end -= 1;
    }
    let mut frame = Vec::with_capacity(12 + end);
    frame.push(ERROR);
    frame.extend_from_slice(&id.to_be_bytes());
    frame.extend_from_slice(&(error.kind as u16).to_be_bytes());
    frame.push(u8::from(error.may_have_happened));
    frame.extend_from_slice(&error.text.as_bytes()[..end]);
    frame
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn encoding_round_trips() {
        let ack = Ack { seq: 9, durable_seq: 8 };
        assert_eq!(decode(&encode_ack(3, ack)), Ok((3, Reply::Ack(ack))));
        let chunk = [&encode_chunk_head(4, true)[..], b"bytes"].concat();
        assert_eq!(decode(&chunk), Ok((4, Reply::Chunk { last: true, bytes: b"bytes" })));
        let error = RemoteError::new(ErrorKind::Full, "the disk is full").maybe(true);
        assert_eq!(decode(&encode_error(5, &error)), Ok((5, Reply::Error(error))));
    }

    #[test]
    fn a_long_text_is_cut_between_characters_and_an_unknown_answer_is_malformed() {
        let error = RemoteError::new(ErrorKind::Io, "é".repeat(5000));
        let frame = encode_error(1, &error);
        let (_, Reply::Error(short)) = decode(&frame).unwrap() else { panic!() };
        assert_eq!(short.text, "é".repeat(1024));
        for frame in [&b""[..], b"\x80", b"\x80\0\0\0\0\0\0\0\x01x", &[0x33; 30]] {
            assert!(decode(frame).is_err());
        }
    }
}
