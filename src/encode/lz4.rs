//! `Lz4`: the decoded size as 4 bytes little-endian, then an LZ4 block, as python-lz4's
//! `lz4.block.compress` writes it. This is not the frame format of `.lz4` files.
//!
//! The declared size is checked against the limit, and against the most that LZ4 can decode from
//! the block, before memory is allocated.

use lz4_flex::block::{compress_into, decompress_into, get_maximum_output_size};

use crate::encode::compressor::{Compressor, codec_by_compressor};
use crate::encode::{CodecError, Encode, grow};

/// The length of the decoded size before each block, in bytes.
const SIZE_BYTES: usize = 4;
/// A bound on the decoded bytes per byte of a block: a byte of match length adds at most 255.
const MAX_RATIO: u64 = 256;
/// The largest value that LZ4 accepts.
const MAX_VALUE_BYTES: usize = 0x7E00_0000;

/// A compressing layer that uses LZ4 blocks. It has no levels.
///
/// A frame is the decoded size as 4 bytes little-endian, then an LZ4 *block*: the format that
/// python-lz4's `lz4.block.compress` writes and `lz4.block.decompress` reads. A value may have up
/// to 2,113,929,216 bytes, LZ4's own limit. The Python partd has no such layer.
///
/// ```
/// use partd::{Dict, Lz4, Partd};
/// let p = Lz4::new(Dict::new());
/// p.append([("x", "Hello "), ("x", "world!")])?;
/// assert_eq!(p.get("x")?, b"Hello world!");
/// # Ok::<(), partd::Error>(())
/// ```
pub type Lz4<P> = Encode<Lz4Codec, P>;

/// The codec of [`Lz4`].
#[derive(Debug)]
pub struct Lz4Codec(());

impl<P> Encode<Lz4Codec, P> {
    /// Compresses with LZ4.
    #[must_use]
    pub fn new(inner: P) -> Lz4<P> {
        Encode::with_codec(Lz4Codec(()), inner)
    }
}

codec_by_compressor!(Lz4Codec);

impl Compressor for Lz4Codec {
    const NAME: &'static str = "Lz4";

    fn compress(&self, value: &[u8], frame: &mut Vec<u8>) -> Result<(), CodecError> {
        if value.len() > MAX_VALUE_BYTES {
            return Err(format!(
                "the value has {} bytes, but LZ4 takes at most {MAX_VALUE_BYTES}; append it in \
                 pieces",
                value.len()
            )
            .into());
        }
        let size = u32::try_from(value.len())?;
        frame.extend_from_slice(&size.to_le_bytes());
        let start = frame.len();
        frame.resize(start + get_maximum_output_size(value.len()), 0);
        let len = compress_into(value, &mut frame[start..])?;
        frame.truncate(start + len);
        Ok(())
    }

    fn decompress(
        &self,
        frame: &[u8],
        max_bytes: usize,
        value: &mut Vec<u8>,
    ) -> Result<(), CodecError> {
        let (size, block) = frame
            .split_first_chunk::<SIZE_BYTES>()
            .ok_or("the frame ends before the 4 bytes of its decoded size")?;
        let declared = u64::from(u32::from_le_bytes(*size));
        if declared > MAX_RATIO * block.len() as u64 {
            return Err(format!(
                "the frame declares {declared} bytes, more than LZ4 decodes from {}",
                block.len()
            )
            .into());
        }
        let bytes = grow::within(declared, max_bytes)?;
        let start = grow::zeroed(value, bytes)?;
        let len = decompress_into(block, &mut value[start..])?;
        if len != bytes {
            return Err(format!("the frame declares {bytes} bytes, but has {len}").into());
        }
        Ok(())
    }
}
