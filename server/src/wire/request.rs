//! Requests of the extension: each is one frame, with a head of 17 bytes and a body.

use partd::{Batch, Key, Op};

use super::{Cursor, Malformed};
use crate::limits::Limits;

/// The length of a request's head: the opcode, the request's id, and the oldest unanswered id.
pub(crate) const HEAD_BYTES: usize = 17;

/// The kind of a request, with its number on the wire.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[repr(u8)]
pub(crate) enum Opcode {
    Write = 0x01,
    Read = 0x02,
    Take = 0x03,
    Lens = 0x04,
    Present = 0x05,
    Keys = 0x06,
    DeletePrefix = 0x07,
    Sync = 0x08,
    Check = 0x09,
    Status = 0x0A,
    Bye = 0x0B,
    Received = 0x0C,
}

impl Opcode {
    pub(crate) const ALL: [Opcode; 12] = [
        Opcode::Write,
        Opcode::Read,
        Opcode::Take,
        Opcode::Lens,
        Opcode::Present,
        Opcode::Keys,
        Opcode::DeletePrefix,
        Opcode::Sync,
        Opcode::Check,
        Opcode::Status,
        Opcode::Bye,
        Opcode::Received,
    ];
}

/// The head of a request.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Head {
    pub(crate) opcode: Opcode,
    /// The number of this request in its session, dense from 1.
    pub(crate) id: u64,
    /// The client has received the answers to all requests with lower ids.
    pub(crate) oldest: u64,
}

/// A decoded request, without its head.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Body<'a> {
    Write { durable: bool, ops: Vec<Op<'a>> },
    Read(Vec<Key>),
    Take(Vec<Key>),
    Lens(Vec<Key>),
    Present(Vec<Key>),
    Keys { prefix: &'a [u8] },
    DeletePrefix { prefix: &'a [u8] },
    Sync,
    Check { durable: bool },
    Status,
    Bye,
    Received,
}

/// Why a request cannot be decoded.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Refusal {
    Malformed(Malformed),
    TooLarge(String),
}

impl From<Malformed> for Refusal {
    fn from(malformed: Malformed) -> Refusal {
        Refusal::Malformed(malformed)
    }
}

const APPEND: u8 = 1;
const SET: u8 = 2;
const DELETE: u8 = 3;
const CLEAR: u8 = 4;
const DELETE_PREFIX: u8 = 5;
/// The shortest operation and the shortest key on the wire.
const LEAST_OP_BYTES: usize = 1;
const LEAST_KEY_BYTES: usize = 4;

/// Decodes a head. Returns `Ok((Err(opcode), …))` for an unknown opcode, whose id can still be
/// answered.
pub(crate) fn decode_head(frame: &[u8]) -> Result<(Result<Head, u8>, u64, Cursor<'_>), Malformed> {
    let mut cursor = Cursor::new(frame);
    let number = cursor.u8("the opcode")?;
    let id = cursor.u64("the request id")?;
    let oldest = cursor.u64("the oldest request id")?;
    let opcode = Opcode::ALL.into_iter().find(|opcode| *opcode as u8 == number);
    Ok((opcode.map(|opcode| Head { opcode, id, oldest }).ok_or(number), id, cursor))
}

/// Returns how many operations or keys a request announces, capped at what its length allows.
pub(crate) fn operations(opcode: Opcode, mut body: Cursor<'_>) -> u64 {
    let (flag, least_bytes) = match opcode {
        Opcode::Write => (body.u8("durable").map(|_| ()), LEAST_OP_BYTES),
        Opcode::Read | Opcode::Take | Opcode::Lens | Opcode::Present => (Ok(()), LEAST_KEY_BYTES),
        _ => return 0,
    };
    // Decoding reports a malformed body.
    let count = flag.and_then(|()| body.u32("the number of keys")).unwrap_or(0);
    u64::from(count).min((body.len() / least_bytes) as u64)
}

/// Decodes the body of a request.
pub(crate) fn decode_body<'a>(
    opcode: Opcode,
    mut body: Cursor<'a>,
    limits: &Limits,
) -> Result<Body<'a>, Refusal> {
    let decoded = match opcode {
        Opcode::Write => {
            let durable = flag(&mut body, "durable")?;
            Body::Write { durable, ops: decode_ops(&mut body, limits)? }
        }
        Opcode::Read => Body::Read(decode_keys(&mut body, limits)?),
        Opcode::Take => Body::Take(decode_keys(&mut body, limits)?),
        Opcode::Lens => Body::Lens(decode_keys(&mut body, limits)?),
        Opcode::Present => Body::Present(decode_keys(&mut body, limits)?),
        Opcode::Keys => Body::Keys { prefix: key(&mut body, "the prefix", limits)? },
        Opcode::DeletePrefix => {
            Body::DeletePrefix { prefix: key(&mut body, "the prefix", limits)? }
        }
        Opcode::Sync => Body::Sync,
        Opcode::Check => Body::Check { durable: flag(&mut body, "durable")? },
        Opcode::Status => Body::Status,
        Opcode::Bye => Body::Bye,
        Opcode::Received => Body::Received,
    };
    body.end()?;
    Ok(decoded)
}

fn flag(body: &mut Cursor<'_>, what: &str) -> Result<bool, Malformed> {
    match body.u8(what)? {
        0 => Ok(false),
        1 => Ok(true),
        other => Err(Malformed::new(format!("{what} is {other}, but must be 0 or 1"))),
    }
}

fn prefixed<'a>(body: &mut Cursor<'a>, what: &str) -> Result<&'a [u8], Malformed> {
    let len = body.u32(what)?;
    body.bytes(u64::from(len), what)
}

fn key<'a>(body: &mut Cursor<'a>, what: &str, limits: &Limits) -> Result<&'a [u8], Refusal> {
    let key = prefixed(body, what)?;
    within(what, key.len() as u64, limits.key_bytes, "bytes")?;
    Ok(key)
}

fn within(what: &str, found: u64, limit: u64, unit: &str) -> Result<(), Refusal> {
    if found <= limit {
        return Ok(());
    }
    Err(Refusal::TooLarge(format!(
        "{what} has {found} {unit}, but the limit is {limit}; send less at a time, or raise the server's limit"
    )))
}

/// Decodes the number of keys or operations that follow. Also returns the capacity to reserve for
/// them: at most what the body's length allows.
fn count(
    body: &mut Cursor<'_>,
    limits: &Limits,
    least_bytes: usize,
) -> Result<(u32, usize), Refusal> {
    let count = body.u32("the number of keys")?;
    within("the request", u64::from(count), limits.keys as u64, "keys")?;
    Ok((count, (count as usize).min(body.len() / least_bytes)))
}

fn decode_keys(body: &mut Cursor<'_>, limits: &Limits) -> Result<Vec<Key>, Refusal> {
    let (count, room) = count(body, limits, LEAST_KEY_BYTES)?;
    let mut keys = Vec::with_capacity(room);
    for _ in 0..count {
        keys.push(Key::from(key(body, "a key", limits)?));
    }
    Ok(keys)
}

fn decode_ops<'a>(body: &mut Cursor<'a>, limits: &Limits) -> Result<Vec<Op<'a>>, Refusal> {
    let (count, room) = count(body, limits, LEAST_OP_BYTES)?;
    let mut ops = Vec::with_capacity(room);
    for _ in 0..count {
        let kind = body.u8("an operation")?;
        if kind == CLEAR {
            ops.push(Op::Clear);
            continue;
        }
        if !matches!(kind, APPEND | SET | DELETE | DELETE_PREFIX) {
            return Err(Malformed::new(format!("unknown operation {kind}")).into());
        }
        let key = Key::from(key(body, "a key", limits)?);
        if matches!(kind, DELETE | DELETE_PREFIX) {
            ops.push(if kind == DELETE { Op::Delete(key) } else { Op::DeletePrefix(key) });
            continue;
        }
        let len = body.u64("a value")?;
        within("a value", len, limits.value_bytes, "bytes")?;
        let value = body.bytes(len, "a value")?;
        ops.push(if kind == APPEND { Op::Append(key, value) } else { Op::Set(key, value) });
    }
    Ok(ops)
}

/// Makes a frame with a request's head and room for its body.
fn begin(head: Head, body_bytes: usize) -> Vec<u8> {
    begin_in(Vec::new(), head, body_bytes)
}

/// Makes such a frame in the memory of an old one.
fn begin_in(mut frame: Vec<u8>, head: Head, body_bytes: usize) -> Vec<u8> {
    frame.clear();
    frame.reserve_exact(HEAD_BYTES + body_bytes);
    frame.push(head.opcode as u8);
    frame.extend_from_slice(&head.id.to_be_bytes());
    frame.extend_from_slice(&head.oldest.to_be_bytes());
    frame
}

/// Replaces the oldest unanswered id in an encoded request.
pub(crate) fn set_oldest(frame: &mut [u8], oldest: u64) {
    if let Some(place) = frame.get_mut(9..HEAD_BYTES) {
        place.copy_from_slice(&oldest.to_be_bytes());
    }
}

/// Returns the encoded length of a write.
pub(crate) fn write_bytes(batch: &Batch<'_>) -> usize {
    let op_bytes = |op: &Op<'_>| match op {
        Op::Append(key, value) | Op::Set(key, value) => 13 + key.len() + value.len(),
        Op::Delete(key) | Op::DeletePrefix(key) => 5 + key.len(),
        Op::Clear => 1,
    };
    HEAD_BYTES + 5 + batch.ops().iter().map(op_bytes).sum::<usize>()
}

/// Encodes a write, in the memory of an old frame.
pub(crate) fn encode_write(
    memory: Vec<u8>,
    head: Head,
    batch: &Batch<'_>,
    durable: bool,
) -> Vec<u8> {
    let mut frame = begin_in(memory, head, write_bytes(batch) - HEAD_BYTES);
    frame.push(u8::from(durable));
    frame.extend_from_slice(&(batch.ops().len() as u32).to_be_bytes());
    let put_key = |frame: &mut Vec<u8>, kind: u8, key: &Key| {
        frame.push(kind);
        frame.extend_from_slice(&(key.len() as u32).to_be_bytes());
        frame.extend_from_slice(key.as_bytes());
    };
    for op in batch.ops() {
        match op {
            Op::Append(key, _) => put_key(&mut frame, APPEND, key),
            Op::Set(key, _) => put_key(&mut frame, SET, key),
            Op::Delete(key) => put_key(&mut frame, DELETE, key),
            Op::DeletePrefix(prefix) => put_key(&mut frame, DELETE_PREFIX, prefix),
            Op::Clear => frame.push(CLEAR),
        }
        if let Op::Append(_, value) | Op::Set(_, value) = op {
            frame.extend_from_slice(&(value.len() as u64).to_be_bytes());
            frame.extend_from_slice(value);
        }
    }
    frame
}

/// Encodes a request whose body is a list of keys.
pub(crate) fn encode_keys(head: Head, keys: &[Key]) -> Vec<u8> {
    let bytes: usize = keys.iter().map(|key| 4 + key.len()).sum();
    let mut frame = begin(head, 4 + bytes);
    frame.extend_from_slice(&(keys.len() as u32).to_be_bytes());
    for key in keys {
        frame.extend_from_slice(&(key.len() as u32).to_be_bytes());
        frame.extend_from_slice(key.as_bytes());
    }
    frame
}

/// Encodes a request whose body is a prefix.
pub(crate) fn encode_prefix(head: Head, prefix: &[u8]) -> Vec<u8> {
    let mut frame = begin(head, 4 + prefix.len());
    frame.extend_from_slice(&(prefix.len() as u32).to_be_bytes());
    frame.extend_from_slice(prefix);
    frame
}

/// Encodes a request whose body is a flag or empty.
pub(crate) fn encode_flag(head: Head, flag: Option<bool>) -> Vec<u8> {
    let mut frame = begin(head, 1);
    frame.extend(flag.map(u8::from));
    frame
}

#[cfg(test)]
mod tests {
    use super::*;

    fn head(opcode: Opcode) -> Head {
        Head { opcode, id: 7, oldest: 5 }
    }

    fn decode<'a>(frame: &'a [u8], limits: &Limits) -> Result<Body<'a>, Refusal> {
        let (head, id, body) = decode_head(frame)?;
        assert_eq!(id, 7);
        decode_body(head.unwrap().opcode, body, limits)
    }

    fn batch() -> Batch<'static> {
        let mut batch = Batch::new();
        batch.append("a", b"1").set("b", b"").delete("c").clear().append("", b"long enough");
        batch
    }

    #[test]
    fn encoding_round_trips() {
        let limits = Limits::default();
        let batch = batch();
        let frame = encode_write(Vec::new(), head(Opcode::Write), &batch, true);
        assert_eq!(frame.len(), write_bytes(&batch));
        let expected = Body::Write { durable: true, ops: batch.ops().to_vec() };
        assert_eq!(decode(&frame, &limits), Ok(expected));
        let keys = vec![Key::from("x"), Key::default()];
        let frame = encode_keys(head(Opcode::Take), &keys);
        assert_eq!(decode(&frame, &limits), Ok(Body::Take(keys)));
        let frame = encode_prefix(head(Opcode::Keys), b"p");
        assert_eq!(decode(&frame, &limits), Ok(Body::Keys { prefix: b"p" }));
        let frame = encode_flag(head(Opcode::Check), Some(false));
        assert_eq!(decode(&frame, &limits), Ok(Body::Check { durable: false }));
        assert_eq!(decode(&encode_flag(head(Opcode::Sync), None), &limits), Ok(Body::Sync));
    }

    #[test]
    fn a_request_that_is_cut_or_extended_is_malformed() {
        let frame = encode_write(Vec::new(), head(Opcode::Write), &batch(), false);
        let limits = Limits::default();
        for len in 0..frame.len() {
            let cut = decode_head(&frame[..len]).map_err(Refusal::from);
            let cut = cut.and_then(|(_, _, body)| decode_body(Opcode::Write, body, &limits));
            assert!(matches!(cut, Err(Refusal::Malformed(_))), "{len}");
        }
        let longer = [&frame[..], b"x"].concat();
        assert!(matches!(decode(&longer, &limits), Err(Refusal::Malformed(_))));
    }

    #[test]
    fn a_request_above_a_limit_is_too_large_and_the_error_says_by_what() {
        let frame = encode_write(Vec::new(), head(Opcode::Write), &batch(), false);
        let few = Limits { keys: 4, ..Limits::default() };
        let short = Limits { value_bytes: 4, ..Limits::default() };
        for (limits, what) in [(few, "5 keys"), (short, "11 bytes")] {
            let Err(Refusal::TooLarge(text)) = decode(&frame, &limits) else { panic!() };
            assert!(text.contains(what), "{text}");
        }
    }

    #[test]
    fn an_announced_count_reserves_no_memory_for_missing_keys() {
        let mut frame = begin(head(Opcode::Read), 4);
        frame.extend_from_slice(&900_000_u32.to_be_bytes());
        assert!(matches!(decode(&frame, &Limits::default()), Err(Refusal::Malformed(_))));
    }
}
