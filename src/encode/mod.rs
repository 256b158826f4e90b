//! Layers that compress bytes or hold typed values, over any store.
//!
//! | layer | values | a frame is | cargo feature |
//! |---|---|---|---|
//! | `Zlib` | bytes | a zlib stream | `zlib` |
//! | `Snappy` | bytes | raw snappy | `snappy` |
//! | `Lz4` | bytes | decoded size as 4 bytes little-endian, LZ4 block | `lz4` |
//! | `Bz2` | bytes | a bzip2 stream | `bz2` |
//! | `Blosc` | bytes | a blosc 1 buffer | `blosc` |
//! | `Zstd` | bytes | Zstandard frames | `zstd` |
//! | `Pickle` | lists | a pickle of a list | `pickle` |
//! | `Msgpack` | lists | a MessagePack array | `msgpack` |
//! | `Numpy` | one-dimensional arrays | no frames: elements, little-endian | `numpy` |
//! | `Arrow` | record batches | an Arrow IPC stream | `arrow` |
//!
//! Layers that the Python partd also has read and write its formats. Layers nest, with a typed
//! layer on top:
//!
//! ```
//! # #[cfg(all(feature = "bz2", feature = "pickle"))] {
//! use partd::{Bz2, Partd, Pickle, SegmentLog, compression};
//! # let dir = tempfile::tempdir().unwrap();
//! # let path = dir.path().join("store");
//! let p = Pickle::<i64, _>::new(Bz2::new(SegmentLog::open(&path)?));
//! p.append([("x", vec![1, 2]), ("x", vec![3])])?;
//! assert_eq!(p.get("x")?, [1, 2, 3]);
//! drop(p);
//!
//! // The same, with the compression chosen at run time.
//! let store: Box<dyn Partd> = Box::new(SegmentLog::open(&path)?);
//! let p = Pickle::<i64, _>::new(compression("bz2", store)?);
//! assert_eq!(p.get("x")?, [1, 2, 3]);
//! # }
//! # Ok::<(), partd::Error>(())
//! ```
//!
//! No bytes in a store, however crafted, make a layer panic or overflow the stack. The size of a
//! decoded value is limited, and an error names the key, the frame and its offset. The layers
//! depend on the trait [`Partd`](crate::Partd), keys and errors, and on no store.

mod codec;
mod compression;
#[cfg(any(feature = "msgpack", feature = "pickle"))]
mod depth;
mod frame;
mod layer;
mod pool;
mod run;
mod step;
mod typed;

#[cfg(any(
    feature = "zlib",
    feature = "snappy",
    feature = "lz4",
    feature = "bz2",
    feature = "blosc",
    feature = "zstd"
))]
#[cfg(any(
    feature = "zlib",
    feature = "snappy",
    feature = "lz4",
    feature = "bz2",
    feature = "blosc",
    feature = "zstd"
))]
mod compressor;
#[cfg_attr(not(feature = "full"), allow(dead_code, reason = "each codec uses a part of it"))]
mod grow;

#[cfg(feature = "arrow")]
mod arrow;
#[cfg(feature = "blosc")]
mod blosc;
#[cfg(feature = "bz2")]
mod bz2;
#[cfg(feature = "lz4")]
mod lz4;
#[cfg(feature = "msgpack")]
mod msgpack;
#[cfg(feature = "numpy")]
mod numpy;
#[cfg(feature = "pickle")]
mod pickle;
#[cfg(feature = "snappy")]
mod snappy;
#[cfg(feature = "zlib")]
mod zlib;
#[cfg(feature = "zstd")]
mod zstd;

#[cfg(feature = "arrow")]
pub use self::arrow::{Arrow, ArrowCodec, Batches, Gather};
#[cfg(feature = "blosc")]
pub use self::blosc::{Blosc, BloscCodec};
#[cfg(feature = "bz2")]
pub use self::bz2::{Bz2, Bz2Codec};
pub use self::codec::{Codec, CodecError, Decoded, FnCodec};
pub use self::compression::{compression, compressions};
pub use self::layer::{DEFAULT_MAX_DECODED_BYTES, Encode};
#[cfg(feature = "lz4")]
pub use self::lz4::{Lz4, Lz4Codec};
#[cfg(feature = "msgpack")]
pub use self::msgpack::{Msgpack, MsgpackCodec};
#[cfg(feature = "numpy")]
pub use self::numpy::{Element, Numpy};
#[cfg(feature = "pickle")]
pub use self::pickle::{Pickle, PickleCodec};
#[cfg(feature = "snappy")]
pub use self::snappy::{Snappy, SnappyCodec};
pub use self::typed::{AsValue, Typed};
#[cfg(feature = "zlib")]
pub use self::zlib::{Zlib, ZlibCodec};
#[cfg(feature = "zstd")]
pub use self::zstd::{Zstd, ZstdCodec};

/// Checks a compression level against the range of a codec.
#[cfg(any(feature = "zlib", feature = "bz2", feature = "blosc", feature = "zstd"))]
fn level_in<T: TryFrom<i32>>(
    layer: &str,
    level: i32,
    levels: std::ops::RangeInclusive<i32>,
) -> crate::Result<T> {
    match T::try_from(level) {
        Ok(number) if levels.contains(&level) => Ok(number),
        _ => Err(crate::Error::Invalid(format!(
            "{layer}: there is no level {level}; choose from {} to {}",
            levels.start(),
            levels.end()
        ))),
    }
}
