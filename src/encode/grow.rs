//! Growing the output of a decompressor within a limit, so that neither a declared size nor a
//! bomb decides how much memory is taken.
//!
//! Memory is asked for in steps that follow what was really decoded, and a refusal by the
//! allocator is an error, not an abort.

use crate::encode::CodecError;
use crate::encode::codec::too_large;

/// The room that is tried first for each byte of a frame: more than most data needs.
const FIRST_RATIO: usize = 8;
/// The least room that is made at a time.
const STEP_MIN_BYTES: usize = 4 << 10;

/// Fresh memory from this size on comes zeroed from the system, which is cheaper than zeroing it.
const ZEROED_MIN_BYTES: usize = 256 << 10;

/// Makes room for so many more bytes, or says that there is none.
pub(crate) fn reserve(value: &mut Vec<u8>, bytes: usize) -> Result<(), CodecError> {
    // The first frame of a value is mostly its only one; behind it, room grows geometrically.
    let reserved = match value.is_empty() {
        true => value.try_reserve_exact(bytes),
        false => value.try_reserve(bytes),
    };
    reserved.map_err(|_| format!("there is no memory for {bytes} decoded bytes").into())
}

/// Holds a declared size against the limit.
pub(crate) fn within(declared: u64, max_bytes: usize) -> Result<usize, CodecError> {
    match usize::try_from(declared) {
        Ok(bytes) if bytes <= max_bytes => Ok(bytes),
        _ => Err(format!("the frame declares {declared} bytes: {}", too_large(max_bytes)).into()),
    }
}

/// Adds so many zero bytes to the end of a value, to be decoded into, and says where they begin.
pub(crate) fn zeroed(value: &mut Vec<u8>, bytes: usize) -> Result<usize, CodecError> {
    let start = value.len();
    reserve(value, bytes)?;
    if start == 0 && bytes >= ZEROED_MIN_BYTES {
        // There is memory for it, as was just seen; give that back before taking it zeroed.
        *value = Vec::new();
        *value = vec![0; bytes];
    } else {
        value.resize(start + bytes, 0);
    }
    Ok(start)
}

/// Gives back the room of a decoded value that it does not need, where it is much.
pub(crate) fn trim(value: &mut Vec<u8>) {
    if value.capacity() - value.len() > value.len() / 4 + STEP_MIN_BYTES {
        value.shrink_to_fit();
    }
}

/// A frame that is decoded step by step onto the end of a value.
pub(crate) struct Growth {
    start: usize,
    max_bytes: usize,
    next_bytes: usize,
}

impl Growth {
    /// The growth of a value by a frame of so many bytes, up to a limit.
    pub(crate) fn new(value: &[u8], frame_bytes: usize, max_bytes: usize) -> Growth {
        let next_bytes = frame_bytes.saturating_mul(FIRST_RATIO).max(STEP_MIN_BYTES);
        Growth { start: value.len(), max_bytes, next_bytes }
    }

    /// Makes room for the next step, or ends the growth at the limit.
    ///
    /// One byte beyond the limit is allowed for, so that a decoder that needs no more output to
    /// see the end of its frame can come to it.
    pub(crate) fn step(&mut self, value: &mut Vec<u8>) -> Result<(), CodecError> {
        let grown = value.len() - self.start;
        if grown > self.max_bytes {
            return Err(too_large(self.max_bytes).into());
        }
        if value.len() == value.capacity() {
            let room = (self.max_bytes - grown).saturating_add(1).min(self.next_bytes);
            reserve(value, room)?;
            self.next_bytes = grown.max(self.next_bytes);
        }
        Ok(())
    }

    /// Checks the limit after the last step.
    pub(crate) fn end(&self, value: &[u8]) -> Result<(), CodecError> {
        match value.len() - self.start <= self.max_bytes {
            true => Ok(()),
            false => Err(too_large(self.max_bytes).into()),
        }
    }
}
