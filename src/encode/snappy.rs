//! `Snappy`: raw snappy, without the framing of files, as python-snappy's `compress` writes it.
//!
//! A frame declares its decoded size, which is checked against the limit, and against the most that
//! snappy can decode from the frame, before memory is allocated.

use snap::raw::{Decoder, Encoder, decompress_len, max_compress_len};

use crate::encode::compressor::{Compressor, codec_by_compressor};
use crate::encode::pool::Pool;
use crate::encode::{CodecError, Encode, grow};

/// A bound on the decoded bytes per byte of a frame: a copy of 64 bytes takes 3 bytes, and one of
/// 11 bytes takes 2.
const MAX_RATIO: u64 = 22;

/// A compressing layer that uses raw snappy, like the Python partd's `Snappy`. It has no levels.
///
/// A value may have up to 2³² - 1 bytes.
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
    #[must_use]
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
                "the frame declares {declared} bytes, more than snappy decodes from {}",
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
