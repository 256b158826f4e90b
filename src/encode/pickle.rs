//! `Pickle`: lists of values as Python pickles, written by serde-pickle.
//!
//! `machine` and `de` read them instead of serde-pickle, which recurses as deep as a pickle is
//! nested, copies a value for each reference to it, and allocates kilobytes for every tuple. They
//! execute only opcodes of plain data: they call nothing and look up no class.

mod de;
mod machine;
mod table;

use std::fmt;
use std::marker::PhantomData;

use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};

use crate::encode::codec::{self, Codec, CodecError};
use crate::encode::depth;
use crate::encode::typed::Typed;

/// A layer of pickled lists. The lists appended to a key are read back as one list.
///
/// It matches the Python partd's `Pickle`. It reads frames of plain data in every pickle protocol
/// (numbers, strings, `None`, lists, tuples, dicts; bytes from protocol 3 and sets from protocol 4
/// on), and refuses pickles of classes and functions. It writes protocol 3, which every Python 3
/// reads, and structs as dicts.
///
/// A frame may have up to 4 GiB and be nested up to 128 deep. The limit on decoded bytes counts 32
/// bytes for each value in a pickle, besides its text, and counts a value once for each reference
/// to it. The memory for reading a frame, the pickle's memo included, has the same limit.
///
/// ```
/// # #[cfg(feature = "zlib")] {
/// use partd::{Dict, Pickle, Zlib};
/// let p = Pickle::<i64, _>::new(Zlib::new(Dict::new()));
/// p.append([("x", vec![1, 2]), ("y", vec![])])?;
/// p.append([("x", [3])])?;
/// assert_eq!(p.get("x")?, [1, 2, 3]);
/// assert_eq!(p.get("nothing here")?, []);
/// # }
/// # Ok::<(), partd::Error>(())
/// ```
pub type Pickle<T, P> = Typed<PickleCodec<T>, P>;

/// The codec of [`Pickle`].
pub struct PickleCodec<T>(PhantomData<fn(&T) -> T>);

impl<T, P> Typed<PickleCodec<T>, P> {
    /// Creates a layer that stores lists of `T` as pickles.
    #[must_use]
    pub fn new(inner: P) -> Pickle<T, P> {
        Typed::with_codec(PickleCodec(PhantomData), inner)
    }
}

impl<T> fmt::Debug for PickleCodec<T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("PickleCodec")
    }
}

impl<T: Serialize + DeserializeOwned + Send + Sync> Codec for PickleCodec<T> {
    type In = [T];
    type Out = Vec<T>;

    fn name(&self) -> &'static str {
        "Pickle"
    }

    fn encode(&self, value: &[T], frame: &mut Vec<u8>) -> Result<(), CodecError> {
        depth::check(value, machine::MAX_DEPTH)?;
        let start = frame.len();
        serde_pickle::to_writer(frame, &value, serde_pickle::SerOptions::new())?;
        if u32::try_from(frame.len() - start).is_err() {
            return Err("the pickle has more than 4 GiB; append the list in pieces".into());
        }
        Ok(())
    }

    fn decode(&self, frame: &[u8], max_bytes: usize) -> Result<Vec<T>, CodecError> {
        Ok(decode(frame, max_bytes)?.0)
    }

    fn join(&self, parts: Vec<Vec<T>>) -> Result<Vec<T>, CodecError> {
        Ok(codec::concat(parts))
    }

    fn decode_counted(
        &self,
        frame: &[u8],
        max_bytes: usize,
    ) -> Result<(Vec<T>, usize), CodecError> {
        decode(frame, max_bytes)
    }
}

/// Decodes the list in a pickle, and returns it with the bytes that it counts against the limit.
pub(crate) fn decode<T: DeserializeOwned>(
    frame: &[u8],
    max_bytes: usize,
) -> Result<(Vec<T>, usize), CodecError> {
    let pickle = machine::run(frame, max_bytes)?;
    let list = Vec::deserialize(de::Deserializer::new(&pickle, pickle.top()))?;
    let bytes = usize::try_from(pickle.expanded_bytes())?.max(size_of_val(&list[..]));
    Ok((list, bytes))
}
