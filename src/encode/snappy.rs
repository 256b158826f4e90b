//! `Snappy`: raw snappy, without the framing of files, as python-snappy's `compress` gives it.
//!
//! A frame declares its decoded size, which is held against the limit, and against what snappy
//! can make of so many bytes at most, before memory is taken.

use snap::raw::{Decoder, Encoder, decompress_len, max_compress_len};

use crate::encode::compressor::{Compressor, codec_by_compressor};
use crate::encode::pool::Pool;
use crate::encode::{CodecError, Encode, grow};

/// Bytes that one byte of a frame can stand for at most: a copy of 64 bytes takes 3, or 2 of
/// the kind that copies 11.
const MAX_RATIO: u64 = 22;

/// A compressing layer: raw snappy, as the Python partd's `Snappy`. It has no levels.
///
/// A value may have 2³² - 1 bytes.
///
/// ```
/// use partd::{Dict, Partd, Snappy};
/// let p = Snappy::new(Dict::new());
/// p.append([("x", "Hello "), ("x", "world!")])?;
/// assert_eq!(p.get("x")?, b"Hello world!");
/// # Ok::<(), partd::Error>(())
/// ```
pub type Snappy<P> = Encode<SnappyCodec, P>;

/// The codec of [`Snappy`].
pub struct SnappyCodec {
    encoders: Pool<Encoder>,
}

impl<P> Encode<SnappyCodec, P> {
    /// Compresses with snappy.
    pub fn new(inner: P) -> Snappy<P> {
        Encode::with_codec(SnappyCodec { encoders: Pool::new() }, inner)
    }
}

impl std::fmt::Debug for SnappyCodec {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("SnappyCodec")
    }
}

codec_by_compressor!(SnappyCodec);

impl Compressor for SnappyCodec {
    const NAME: &'static str = "Snappy";

    fn compress(&self, value: &[u8], frame: &mut Vec<u8>) -> Result<(), CodecError> {
        let mut encoder = self.encoders.take().unwrap_or_else(Encoder::new);
        let start = frame.len();
        frame.resize(start + max_compress_len(value.len()), 0);
        let len = encoder.compress(value, &mut frame[start..])?;
        frame.truncate(start + len);
        self.encoders.put(encoder);
        Ok(())
    }

    fn decompress(
        &self,
        frame: &[u8],
        max_bytes: usize,
        value: &mut Vec<u8>,
    ) -> Result<(), CodecError> {
        let declared = decompress_len(frame)? as u64;
        if declared > MAX_RATIO * frame.len() as u64 {
            return Err(format!(
                "the frame declares {declared} bytes, which snappy cannot make of {}",
                frame.len()
            )
            .into());
        }
        let bytes = grow::within(declared, max_bytes)?;
        let start = grow::zeroed(value, bytes)?;
        let len = Decoder::new().decompress(frame, &mut value[start..])?;
        value.truncate(start + len);
        Ok(())
    }
}
