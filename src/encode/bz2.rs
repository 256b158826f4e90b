//! `Bz2`: bzip2, as Python's `bz2.compress` writes it, by the bzip2 crate with its Rust backend.
//!
//! A frame is one complete bzip2 stream; bytes after its end are an error. A compressor cannot be
//! reused, so there is no pool.

use bzip2::{Action, Compress, Compression, Decompress, Status};

use crate::Result;
use crate::encode::compressor::{Compressor, codec_by_compressor};
use crate::encode::grow::Growth;
use crate::encode::{CodecError, Encode, level_in};

/// A compressing layer that uses bzip2, like the Python partd's `BZ2`.
///
/// It compresses well but slowly, and needs several megabytes of memory while it writes or reads a
/// frame.
///
/// ```
/// use partd::{Bz2, Dict, Partd};
/// let p = Bz2::new(Dict::new());
/// p.append([("x", "Hello "), ("x", "world!")])?;
/// assert_eq!(p.get("x")?, b"Hello world!");
/// assert!(Bz2::with_level(Dict::new(), 0).is_err());
/// # Ok::<(), partd::Error>(())
/// ```
pub type Bz2<P> = Encode<Bz2Codec, P>;

/// The codec of [`Bz2`].
#[derive(Debug)]
pub struct Bz2Codec {
    level: u32,
}

impl<P> Encode<Bz2Codec, P> {
    /// Compresses at level 9, as Python does.
    #[must_use]
    pub fn new(inner: P) -> Bz2<P> {
        Encode::with_codec(Bz2Codec { level: 9 }, inner)
    }

    /// Compresses at a level from 1 to 9, which is the block size in units of 100 kB.
    ///
    /// # Errors
    ///
    /// [`ErrorKind::Invalid`](crate::ErrorKind::Invalid) for any other level.
    pub fn with_level(inner: P, level: i32) -> Result<Bz2<P>> {
        let level = level_in("Bz2", level, 1..=9)?;
        Ok(Encode::with_codec(Bz2Codec { level }, inner))
    }
}

codec_by_compressor!(Bz2Codec);

impl Compressor for Bz2Codec {
    const NAME: &'static str = "Bz2";

    fn compress(&self, value: &[u8], frame: &mut Vec<u8>) -> Result<(), CodecError> {
        let mut bz2 = Compress::new(Compression::new(self.level), 0);
        // bzip2's bound for incompressible data.
        frame.reserve(value.len() + value.len() / 100 + 600);
        loop {
            let rest = usize::try_from(bz2.total_in()).ok().and_then(|done| value.get(done..));
            let rest = rest.ok_or("bzip2 took more than it was given")?;
            match bz2.compress_vec(rest, frame, Action::Finish)? {
                Status::StreamEnd => return Ok(()),
                _ => frame.reserve(frame.len().max(600)),
            }
        }
    }

    fn decompress(
        &self,
        frame: &[u8],
        max_bytes: usize,
        value: &mut Vec<u8>,
    ) -> Result<(), CodecError> {
        let mut bz2 = Decompress::new(false);
        let mut growth = Growth::new(value, frame.len(), max_bytes);
        let mut rest = frame;
        loop {
            growth.step(value)?;
            let (taken, made) = (bz2.total_in(), value.len());
            let status = bz2.decompress_vec(rest, value)?;
            let taken = usize::try_from(bz2.total_in() - taken)?;
            rest = rest.get(taken..).ok_or("bzip2 took more than it was given")?;
            if status == Status::StreamEnd {
                break;
            }
            if taken == 0 && value.len() == made && value.len() < value.capacity() {
                return Err("the bzip2 stream is truncated: its end is missing".into());
            }
        }
        growth.end(value)?;
        if !rest.is_empty() {
            return Err(format!("{} bytes follow the end of the bzip2 stream", rest.len()).into());
        }
        Ok(())
    }
}
