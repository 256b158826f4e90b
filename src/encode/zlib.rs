//! `Zlib`: DEFLATE with a zlib header, as Python's `zlib.compress` writes it, by flate2.
//!
//! A frame is one complete zlib stream; bytes after its end are an error. Compressors and
//! decompressors are reused.

use flate2::{Compress, Compression, Decompress, FlushCompress, FlushDecompress, Status};

use crate::Result;
use crate::encode::compressor::{Compressor, codec_by_compressor};
use crate::encode::grow::Growth;
use crate::encode::pool::Pool;
use crate::encode::{CodecError, Encode, level_in};

/// A compressing layer that uses zlib, like the Python partd's `ZLib`.
///
/// ```
/// use partd::{Dict, Partd, Zlib};
/// let p = Zlib::new(Dict::new());
/// p.append([("x", "Hello "), ("x", "world!")])?;
/// assert_eq!(p.get("x")?, b"Hello world!");
/// assert!(Zlib::with_level(Dict::new(), 10).is_err());
/// # Ok::<(), partd::Error>(())
/// ```
pub type Zlib<P> = Encode<ZlibCodec, P>;

/// The codec of [`Zlib`].
pub struct ZlibCodec {
    level: Compression,
    compressors: Pool<Compress>,
    decompressors: Pool<Decompress>,
}

impl<P> Encode<ZlibCodec, P> {
    /// Compresses at level 6, as Python does.
    #[must_use]
    pub fn new(inner: P) -> Zlib<P> {
        Zlib::of_level(inner, 6)
    }

    /// Compresses at a level from 0 (no compression) to 9 (smallest).
    ///
    /// # Errors
    ///
    /// [`ErrorKind::Invalid`](crate::ErrorKind::Invalid) for any other level.
    pub fn with_level(inner: P, level: i32) -> Result<Zlib<P>> {
        Ok(Zlib::of_level(inner, level_in("Zlib", level, 0..=9)?))
    }

    fn of_level(inner: P, level: u32) -> Zlib<P> {
        let codec = ZlibCodec {
            level: Compression::new(level),
            compressors: Pool::new(),
            decompressors: Pool::new(),
        };
        Encode::with_codec(codec, inner)
    }
}

impl std::fmt::Debug for ZlibCodec {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("ZlibCodec").field("level", &self.level.level()).finish_non_exhaustive()
    }
}

codec_by_compressor!(ZlibCodec);

impl Compressor for ZlibCodec {
    const NAME: &'static str = "Zlib";

    fn compress(&self, value: &[u8], frame: &mut Vec<u8>) -> Result<(), CodecError> {
        let mut zlib = self.compressors.take().unwrap_or_else(|| Compress::new(self.level, true));
        zlib.reset();
        // zlib's bound for incompressible data, and a little more.
        frame.reserve(value.len() + value.len() / 1000 + 64);
        loop {
            let rest = usize::try_from(zlib.total_in()).ok().and_then(|done| value.get(done..));
            let rest = rest.ok_or("zlib took more than it was given")?;
            match zlib.compress_vec(rest, frame, FlushCompress::Finish)? {
                Status::StreamEnd => break,
                Status::Ok | Status::BufError => frame.reserve(frame.len().max(64)),
            }
        }
        self.compressors.put(zlib);
        Ok(())
    }

    fn decompress(
        &self,
        frame: &[u8],
        max_bytes: usize,
        value: &mut Vec<u8>,
    ) -> Result<(), CodecError> {
        let mut zlib = self.decompressors.take().unwrap_or_else(|| Decompress::new(true));
        zlib.reset(true);
        let mut growth = Growth::new(value, frame.len(), max_bytes);
        let mut rest = frame;
        loop {
            growth.step(value)?;
            let (taken, made) = (zlib.total_in(), value.len());
            let status = zlib.decompress_vec(rest, value, FlushDecompress::None)?;
            let taken = usize::try_from(zlib.total_in() - taken)?;
            rest = rest.get(taken..).ok_or("zlib took more than it was given")?;
            match status {
                Status::StreamEnd => break,
                _ if taken == 0 && value.len() == made && value.len() < value.capacity() => {
                    return Err("the zlib stream is truncated: its end is missing".into());
                }
                Status::Ok | Status::BufError => {}
            }
        }
        growth.end(value)?;
        if !rest.is_empty() {
            return Err(format!("{} bytes follow the end of the zlib stream", rest.len()).into());
        }
        self.decompressors.put(zlib);
        Ok(())
    }
}
