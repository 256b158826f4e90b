//! Grows the output of a decompressor within a limit, so that neither a declared size nor a
//! decompression bomb decides how much memory is allocated.
//!
//! Memory is allocated in steps proportional to what was actually decoded. If the allocator fails,
//! that is an error, not an abort.

use crate::encode::CodecError;
use crate::encode::codec::too_large;

/// The bytes that the first step reserves for each byte of a frame: more than most data needs.
const FIRST_RATIO: usize = 8;
/// The smallest step.
const STEP_MIN_BYTES: usize = 4 << 10;

/// From this size on, fresh memory from the system is already zeroed, which is cheaper than zeroing
/// it.
const ZEROED_MIN_BYTES: usize = 256 << 10;

/// Reserves room for `bytes` more bytes.
pub(crate) fn reserve(value: &mut Vec<u8>, bytes: usize) -> Result<(), CodecError> {
    // A value usually has one frame, so the first reservation is exact; later ones grow
    // geometrically.
    let reserved = match value.is_empty() {
        true => value.try_reserve_exact(bytes),
        false => value.try_reserve(bytes),
    };
    reserved.map_err(|_| format!("there is no memory for {bytes} decoded bytes").into())
}

/// Checks a declared size against the limit.
pub(crate) fn within(declared: u64, max_bytes: usize) -> Result<usize, CodecError> {
    match usize::try_from(declared) {
        Ok(bytes) if bytes <= max_bytes => Ok(bytes),
        _ => Err(format!("the frame declares {declared} bytes: {}", too_large(max_bytes)).into()),
    }
}

/// Appends `bytes` zero bytes to a value, to decode into, and returns their offset.
pub(crate) fn zeroed(value: &mut Vec<u8>, bytes: usize) -> Result<usize, CodecError> {
    let start = value.len();
    reserve(value, bytes)?;
    if start == 0 && bytes >= ZEROED_MIN_BYTES {
        // The reservation showed that there is enough memory. Free it before allocating zeroed
        // memory.
        *value = Vec::new();
        *value = vec![0; bytes];
    } else {
        value.resize(start + bytes, 0);
    }
    Ok(start)
}

/// Frees the spare capacity of a decoded value if it is large.
pub(crate) fn trim(value: &mut Vec<u8>) {
    if value.capacity() - value.len() > value.len() / 4 + STEP_MIN_BYTES {
        value.shrink_to_fit();
    }
}

/// A frame that is decoded in steps onto the end of a value.
pub(crate) struct Growth {
    start: usize,
    max_bytes: usize,
    next_bytes: usize,
}

impl Growth {
    /// Starts to grow `value` by a frame of `frame_bytes`, by at most `max_bytes`.
    pub(crate) fn new(value: &[u8], frame_bytes: usize, max_bytes: usize) -> Growth {
        let next_bytes = frame_bytes.saturating_mul(FIRST_RATIO).max(STEP_MIN_BYTES);
        Growth { start: value.len(), max_bytes, next_bytes }
    }

    /// Reserves room for the next step, or fails at the limit.
    ///
    /// The room includes one byte beyond the limit, so that a decoder whose output has exactly the
    /// limit can still reach the end of its frame.
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
