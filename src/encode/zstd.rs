//! `Zstd`: Zstandard frames, as every zstd library writes and reads them.
//!
//! A frame of this layer is one or more complete Zstandard frames. The declared size is a hint and
//! never alone decides how much memory is allocated. Contexts are reused. Dictionaries are not
//! supported.

use std::io::Cursor;

use zstd::bulk::Compressor as Context;
use zstd::zstd_safe::{self, DCtx, InBuffer, OutBuffer};

use crate::Result;
use crate::encode::compressor::{Compressor, codec_by_compressor};
use crate::encode::grow::{self, Growth};
use crate::encode::pool::Pool;
use crate::encode::{CodecError, Encode, level_in};

/// A declared size of up to this many bytes per byte of the frame is allocated in advance.
const BELIEVED_RATIO: u64 = 64;

/// A compressing layer that uses Zstandard. The Python partd has no such layer.
///
/// ```
/// use partd::{Dict, Partd, Zstd};
/// let p = Zstd::new(Dict::new());
/// p.append([("x", "Hello "), ("x", "world!")])?;
/// assert_eq!(p.get("x")?, b"Hello world!");
/// assert!(Zstd::with_level(Dict::new(), 23).is_err());
/// # Ok::<(), partd::Error>(())
/// ```
pub type Zstd<P> = Encode<ZstdCodec, P>;

/// The codec of [`Zstd`].
pub struct ZstdCodec {
    level: i32,
    compressors: Pool<Context<'static>>,
    decompressors: Pool<DCtx<'static>>,
}

impl<P> Encode<ZstdCodec, P> {
    /// Compresses at level 3, the default of zstd.
    #[must_use]
    pub fn new(inner: P) -> Zstd<P> {
        Zstd::of_level(inner, 3)
    }

    /// Compresses at a level from -7 (fastest) to 22 (smallest); 0 means the default, 3.
    ///
    /// # Errors
    ///
    /// [`ErrorKind::Invalid`](crate::ErrorKind::Invalid) for any other level.
    pub fn with_level(inner: P, level: i32) -> Result<Zstd<P>> {
        Ok(Zstd::of_level(inner, level_in("Zstd", level, -7..=22)?))
    }

    fn of_level(inner: P, level: i32) -> Zstd<P> {
        let codec = ZstdCodec { level, compressors: Pool::new(), decompressors: Pool::new() };
        Encode::with_codec(codec, inner)
    }
}

impl std::fmt::Debug for ZstdCodec {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("ZstdCodec").field("level", &self.level).finish_non_exhaustive()
    }
}

codec_by_compressor!(ZstdCodec);

/// Converts an error code of the zstd library.
fn sentence(code: usize) -> CodecError {
    format!("zstd: {}", zstd_safe::get_error_name(code)).into()
}

impl ZstdCodec {
    /// Returns whether the bytes are exactly one Zstandard frame.
    fn is_one_frame(&self, frame: &[u8]) -> bool {
        zstd_safe::find_frame_compressed_size(frame) == Ok(frame.len())
    }

    /// Decodes a frame with a declared size in one step.
    fn decompress_declared(
        &self,
        frame: &[u8],
        bytes: usize,
        value: &mut Vec<u8>,
    ) -> Result<(), CodecError> {
        let mut zstd = match self.decompressors.take() {
            Some(zstd) => zstd,
            None => DCtx::try_create().ok_or("there is no memory for a zstd context")?,
        };
        let start = value.len();
        grow::reserve(value, bytes)?;
        let mut end = Cursor::new(&mut *value);
        end.set_position(start as u64);
        let len = zstd.decompress(&mut end, frame).map_err(sentence)?;
        if len != bytes {
            return Err(format!("the frame declares {bytes} bytes, but has {len}").into());
        }
        self.decompressors.put(zstd);
        Ok(())
    }
}

impl Compressor for ZstdCodec {
    const NAME: &'static str = "Zstd";

    fn compress(&self, value: &[u8], frame: &mut Vec<u8>) -> Result<(), CodecError> {
        let mut zstd = match self.compressors.take() {
            Some(zstd) => zstd,
            None => Context::new(self.level)?,
        };
        let start = frame.len();
        frame.reserve(zstd_safe::compress_bound(value.len()));
        // Writes into the spare capacity after the existing bytes, and sets the length.
        let mut end = Cursor::new(&mut *frame);
        end.set_position(start as u64);
        zstd.compress_to_buffer(value, &mut end)?;
        self.compressors.put(zstd);
        Ok(())
    }

    fn decompress(
        &self,
        frame: &[u8],
        max_bytes: usize,
        value: &mut Vec<u8>,
    ) -> Result<(), CodecError> {
        let declared = zstd_safe::get_frame_content_size(frame)
            .map_err(|_| "the frame does not begin like a zstd frame")?;
        if let Some(declared) = declared {
            let bytes = grow::within(declared, max_bytes)?;
            if declared <= BELIEVED_RATIO * frame.len() as u64 && self.is_one_frame(frame) {
                return self.decompress_declared(frame, bytes, value);
            }
        }
        // Not pooled: the context of a stream holds a window of the size that the frame chose.
        let mut zstd = DCtx::try_create().ok_or("there is no memory for a zstd context")?;
        let mut growth = Growth::new(value, frame.len(), max_bytes);
        let mut input = InBuffer::around(frame);
        loop {
            growth.step(value)?;
            let (taken, made) = (input.pos(), value.len());
            let mut output = OutBuffer::around_pos(value, made);
            let hint = zstd.decompress_stream(&mut output, &mut input).map_err(sentence)?;
            if hint == 0 && input.pos() == frame.len() {
                break;
            }
            if input.pos() == taken && value.len() == made && value.len() < value.capacity() {
                return Err("the zstd frame is truncated: its end is missing".into());
            }
        }
        growth.end(value)
    }
}
