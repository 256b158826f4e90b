//! Collects the chunks of an answer.

use partd::Key;

use crate::wire::{Cursor, Malformed};

/// The most memory to reserve for a value before its bytes have arrived.
const RESERVED_BYTES: u64 = 1 << 20;

/// Collects the bytes of an answer.
#[derive(Debug)]
pub(crate) enum Sink {
    /// The request is answered with an acknowledgement.
    Nothing,
    /// Bytes, to be decoded when the answer is complete.
    Bytes(Vec<u8>),
    /// Values, each preceded by its length.
    Values(Values),
}

impl Sink {
    /// Adds the next bytes.
    pub(crate) fn take(&mut self, bytes: &[u8]) -> Result<(), Malformed> {
        match self {
            Sink::Nothing => Err(Malformed::new("bytes instead of an acknowledgement")),
            Sink::Bytes(all) => {
                all.extend_from_slice(bytes);
                Ok(())
            }
            Sink::Values(values) => values.take(bytes),
        }
    }

    /// Discards the bytes so far, before the request is resent.
    pub(crate) fn reset(&mut self) {
        match self {
            Sink::Nothing => {}
            Sink::Bytes(bytes) => bytes.clear(),
            Sink::Values(values) => *values = Values::new(values.expected),
        }
    }
}

/// Assembles values from chunks, which may be split anywhere.
#[derive(Debug)]
pub(crate) struct Values {
    expected: usize,
    values: Vec<Vec<u8>>,
    /// The part of a length that has arrived.
    len: [u8; 8],
    len_bytes: usize,
    /// The bytes missing from the last value.
    left: u64,
}

impl Values {
    pub(crate) fn new(expected: usize) -> Values {
        Values { expected, values: Vec::new(), len: [0; 8], len_bytes: 0, left: 0 }
    }

    fn take(&mut self, mut bytes: &[u8]) -> Result<(), Malformed> {
        while !bytes.is_empty() {
            if self.left > 0 {
                let now = bytes.len().min(usize::try_from(self.left).unwrap_or(usize::MAX));
                if let Some(value) = self.values.last_mut() {
                    value.extend_from_slice(&bytes[..now]);
                }
                self.left -= now as u64;
                bytes = &bytes[now..];
                continue;
            }
            let now = bytes.len().min(8 - self.len_bytes);
            self.len[self.len_bytes..self.len_bytes + now].copy_from_slice(&bytes[..now]);
            self.len_bytes += now;
            bytes = &bytes[now..];
            if self.len_bytes == 8 {
                if self.values.len() == self.expected {
                    return Err(Malformed::new("more values than there were keys"));
                }
                self.left = u64::from_be_bytes(self.len);
                self.len_bytes = 0;
                // The server's claim alone must not make the client allocate.
                self.values.push(Vec::with_capacity(self.left.min(RESERVED_BYTES) as usize));
            }
        }
        Ok(())
    }

    /// Returns the values at the end of the answer.
    pub(crate) fn finish(self) -> Result<Vec<Vec<u8>>, Malformed> {
        match self.values.len() == self.expected && self.left == 0 && self.len_bytes == 0 {
            true => Ok(self.values),
            false => Err(Malformed::new("the answer ended before its last value")),
        }
    }
}

/// Decodes an answer of keys.
pub(crate) fn keys(bytes: &[u8]) -> Result<Vec<Key>, Malformed> {
    let mut cursor = Cursor::new(bytes);
    let mut keys = Vec::new();
    while !cursor.is_empty() {
        let len = cursor.u32("a key")?;
        keys.push(Key::from(cursor.bytes(u64::from(len), "a key")?));
    }
    Ok(keys)
}

/// Decodes an answer of lengths.
pub(crate) fn lens(bytes: &[u8], expected: usize) -> Result<Vec<Option<u64>>, Malformed> {
    let mut cursor = Cursor::new(bytes);
    let mut lens = Vec::new();
    while !cursor.is_empty() {
        let len = cursor.u64("a length")?;
        lens.push((len != u64::MAX).then_some(len));
    }
    match lens.len() == expected {
        true => Ok(lens),
        false => Err(Malformed::new("the number of lengths differs from that of the keys")),
    }
}

/// Decodes an answer that says which keys are present.
pub(crate) fn present(bytes: &[u8], expected: usize) -> Result<Vec<bool>, Malformed> {
    match bytes.len() == expected {
        true => Ok(bytes.iter().map(|&byte| byte != 0).collect()),
        false => Err(Malformed::new("the number of answers differs from that of the keys")),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn values_are_assembled_wherever_the_answer_is_split() {
        let wanted = vec![b"first".to_vec(), Vec::new(), vec![9; 3000]];
        let mut stream = Vec::new();
        for value in &wanted {
            stream.extend_from_slice(&(value.len() as u64).to_be_bytes());
            stream.extend_from_slice(value);
        }
        for step in [1, 3, 7, 1000, 5000] {
            let mut values = Values::new(3);
            stream.chunks(step).for_each(|chunk| values.take(chunk).unwrap());
            assert_eq!(values.finish().unwrap(), wanted);
        }
        let mut short = Values::new(3);
        short.take(&stream[..stream.len() - 1]).unwrap();
        assert!(short.finish().is_err());
        assert!(Values::new(2).take(&stream).is_err());
    }

    #[test]
    fn a_huge_announced_length_reserves_little_memory() {
        let mut values = Values::new(1);
        values.take(&u64::MAX.to_be_bytes()).unwrap();
        assert!(values.values[0].capacity() as u64 <= RESERVED_BYTES);
    }
}
