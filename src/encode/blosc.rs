//! `Blosc`: blosc 1 frames, as python-blosc's `compress` writes them, by the C library of
//! blosc-src. No other layer calls C directly.
//!
//! A frame declares its own length and its decoded length. Both are checked here, against the
//! available bytes and the limit, before the library sees the frame. The library then checks each
//! block and decodes it into zeroed memory of exactly the declared size.

use std::ffi::{CStr, c_int};

use crate::encode::compressor::{Compressor, codec_by_compressor};
use crate::encode::{CodecError, Encode, grow, level_in};
use crate::{Error, Result};

/// The length of a frame's header in bytes, which is also the most by which a frame exceeds its
/// value.
const HEADER_BYTES: usize = 16;
/// The largest value. Blosc counts in signed 32-bit integers.
const MAX_VALUE_BYTES: usize = blosc_src::BLOSC_MAX_BUFFERSIZE as usize;
/// Each call uses one thread, since the layer above spreads the work.
const THREADS: c_int = 1;
/// A generous bound on the decoded bytes per byte of a frame: zstd stores a run of 128 KiB in 4
/// bytes.
const MAX_RATIO: u64 = 64 << 10;

/// A compressing layer that uses blosc 1, like the Python partd's `Blosc`.
///
/// Blosc groups the bytes of fixed-size elements by their position before it compresses them. The
/// element size is 8 bytes, as in python-blosc, unless [`with_element_bytes`] sets it. The layer
/// reads frames of all of blosc's inner codecs except snappy. It writes blosclz, unless
/// [`with_inner`](Encode::with_inner) chooses another. A value may have up to 2,147,483,631 bytes,
/// blosc's own limit.
///
/// [`with_element_bytes`]: Encode::with_element_bytes
///
/// ```
/// use partd::{Blosc, Dict, Partd};
/// let p = Blosc::new(Dict::new()).with_element_bytes(4)?;
/// p.append([("x", [1_u32, 2, 3].map(u32::to_le_bytes).concat())])?;
/// assert_eq!(p.get("x")?, [1, 0, 0, 0, 2, 0, 0, 0, 3, 0, 0, 0]);
/// assert!(Blosc::with_level(Dict::new(), 10).is_err());
/// # Ok::<(), partd::Error>(())
/// ```
pub type Blosc<P> = Encode<BloscCodec, P>;

/// The codec of [`Blosc`].
#[derive(Clone, Debug)]
pub struct BloscCodec {
    level: c_int,
    element_bytes: usize,
    inner: &'static CStr,
}

/// The names of the inner codecs that are built in.
const INNER: [&CStr; 5] = [c"blosclz", c"lz4", c"lz4hc", c"zlib", c"zstd"];

impl<P> Encode<BloscCodec, P> {
    /// Compresses with blosclz at level 9 and elements of 8 bytes, as python-blosc does.
    #[must_use]
    pub fn new(inner: P) -> Blosc<P> {
        Encode::with_codec(BloscCodec { level: 9, element_bytes: 8, inner: INNER[0] }, inner)
    }

    /// Compresses at a level from 0 (no compression) to 9 (smallest).
    ///
    /// # Errors
    ///
    /// [`ErrorKind::Invalid`](crate::ErrorKind::Invalid) for any other level.
    pub fn with_level(inner: P, level: i32) -> Result<Blosc<P>> {
        let mut blosc = Blosc::new(inner);
        blosc.codec.level = level_in("Blosc", level, 0..=9)?;
        Ok(blosc)
    }

    /// Sets the element size, from 1 to 255 bytes.
    ///
    /// # Errors
    ///
    /// [`ErrorKind::Invalid`](crate::ErrorKind::Invalid) for any other size.
    pub fn with_element_bytes(mut self, bytes: usize) -> Result<Blosc<P>> {
        if !(1..=255).contains(&bytes) {
            return Err(Error::Invalid(format!(
                "Blosc: an element cannot have {bytes} bytes; choose from 1 to 255"
            )));
        }
        self.codec.element_bytes = bytes;
        Ok(self)
    }

    /// Sets the inner codec of new frames: "blosclz", "lz4", "lz4hc", "zlib" or "zstd".
    ///
    /// # Errors
    ///
    /// [`ErrorKind::Invalid`](crate::ErrorKind::Invalid) for any other name.
    pub fn with_inner(mut self, name: &str) -> Result<Blosc<P>> {
        self.codec.inner = INNER
            .into_iter()
            .find(|inner| inner.to_bytes() == name.as_bytes())
            .ok_or_else(|| {
                Error::Invalid(format!(
                    "Blosc: there is no inner codec {name:?}; choose blosclz, lz4, lz4hc, zlib \
                     or zstd"
                ))
            })?;
        Ok(self)
    }
}

codec_by_compressor!(BloscCodec);

impl Compressor for BloscCodec {
    const NAME: &'static str = "Blosc";

    fn compress(&self, value: &[u8], frame: &mut Vec<u8>) -> Result<(), CodecError> {
        if value.len() > MAX_VALUE_BYTES {
            return Err(format!(
                "the value has {} bytes, but blosc takes at most {MAX_VALUE_BYTES}; append it in \
                 pieces",
                value.len()
            )
            .into());
        }
        let start = frame.len();
        frame.resize(start + value.len() + HEADER_BYTES, 0);
        let len = compress(self, value, &mut frame[start..])?;
        frame.truncate(start + len);
        Ok(())
    }

    fn decompress(
        &self,
        frame: &[u8],
        max_bytes: usize,
        value: &mut Vec<u8>,
    ) -> Result<(), CodecError> {
        let bytes = grow::within(declared_bytes(frame)?, max_bytes)?;
        let start = grow::zeroed(value, bytes)?;
        decompress(frame, &mut value[start..])
    }
}

/// Checks the header of a frame against its bytes, and returns the decoded length.
///
/// The header holds one byte each of format version, version of the inner codec, flags and element
/// size, then the value bytes, block bytes and frame bytes, 4 bytes little-endian each.
fn declared_bytes(frame: &[u8]) -> Result<u64, CodecError> {
    let (header, _) = frame.split_first_chunk::<HEADER_BYTES>().ok_or_else(|| {
        format!("the frame has {} bytes, fewer than the 16 of blosc's header", frame.len())
    })?;
    let [version, _, _, element, v0, v1, v2, v3, b0, b1, b2, b3, f0, f1, f2, f3] = *header;
    let value_bytes = u32::from_le_bytes([v0, v1, v2, v3]);
    let block_bytes = u32::from_le_bytes([b0, b1, b2, b3]);
    let frame_bytes = u32::from_le_bytes([f0, f1, f2, f3]);
    if u32::from(version) != blosc_src::BLOSC_VERSION_FORMAT {
        return Err(format!("blosc format {version}: only format 2 can be read").into());
    }
    if frame_bytes as usize != frame.len() {
        return Err(
            format!("the frame says it has {frame_bytes} bytes, not {}", frame.len()).into()
        );
    }
    if value_bytes as usize > MAX_VALUE_BYTES {
        return Err(format!("the frame declares {value_bytes} bytes, more than blosc takes").into());
    }
    if u64::from(value_bytes) > MAX_RATIO * frame.len() as u64 {
        return Err(format!(
            "the frame declares {value_bytes} bytes, more than blosc decodes from {}",
            frame.len()
        )
        .into());
    }
    if value_bytes > 0 && (element == 0 || block_bytes == 0 || block_bytes > value_bytes) {
        return Err(format!(
            "the frame declares blocks of {block_bytes} bytes of elements of {element} for a \
             value of {value_bytes}"
        )
        .into());
    }
    Ok(u64::from(value_bytes))
}

/// Compresses into `frame`, which has the most bytes that blosc may need, and returns the bytes
/// used.
#[expect(unsafe_code, reason = "blosc is a C library")]
fn compress(codec: &BloscCodec, value: &[u8], frame: &mut [u8]) -> Result<usize, CodecError> {
    debug_assert!(frame.len() >= value.len() + HEADER_BYTES);
    // SAFETY: the pointers and lengths are those of two slices, which cannot overlap because one of
    // them is mutable. Blosc reads `value.len()` bytes of `value` and writes at most `frame.len()`
    // bytes of `frame`. The name is a C string. The `_ctx` calls share no state.
    let len = unsafe {
        blosc_src::blosc_compress_ctx(
            codec.level,
            blosc_src::BLOSC_SHUFFLE as c_int,
            codec.element_bytes,
            value.len(),
            value.as_ptr().cast(),
            frame.as_mut_ptr().cast(),
            frame.len(),
            codec.inner.as_ptr(),
            0,
            THREADS,
        )
    };
    match usize::try_from(len) {
        Ok(len) if (HEADER_BYTES..=frame.len()).contains(&len) => Ok(len),
        _ => Err(format!("blosc could not compress the value: it returned {len}").into()),
    }
}

/// Decompresses a frame whose header [`declared_bytes`] has checked into all of `value`.
#[expect(unsafe_code, reason = "blosc is a C library")]
fn decompress(frame: &[u8], value: &mut [u8]) -> Result<(), CodecError> {
    let mut bytes = 0;
    // SAFETY: the pointer and the length are those of one slice, and `bytes` has the expected type.
    let valid = unsafe {
        blosc_src::blosc_cbuffer_validate(frame.as_ptr().cast(), frame.len(), &raw mut bytes)
    };
    if valid != 0 || bytes != value.len() {
        return Err("the frame does not begin like a blosc frame".into());
    }
    // SAFETY: the frame's header declares exactly `frame.len()` bytes, so blosc reads no more than
    // those, as `blosc_cbuffer_validate` has just confirmed. It writes at most `value.len()` bytes.
    // The slices cannot overlap because one of them is mutable.
    let len = unsafe {
        blosc_src::blosc_decompress_ctx(
            frame.as_ptr().cast(),
            value.as_mut_ptr().cast(),
            value.len(),
            THREADS,
        )
    };
    match usize::try_from(len) {
        Ok(len) if len == value.len() => Ok(()),
        _ => Err("the blosc frame is damaged, or of an inner codec that is not built in".into()),
    }
}
