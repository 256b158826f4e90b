//! `Pickle`: lists of values as Python pickles them, written by serde-pickle.
//!
//! Reading is done here (`machine`, `de`), because serde-pickle recurses as deep as a pickle is
//! nested, copies what a pickle refers to more than once, and keeps kilobytes for every tuple.
//! Only opcodes of plain data are carried out: nothing is ever called, and no class is looked up.

mod de;
mod machine;

use std::fmt;
use std::marker::PhantomData;

use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};

use crate::encode::codec::{self, Codec, CodecError};
use crate::encode::depth;
use crate::encode::typed::Typed;

/// A layer of lists, pickled: what is appended to a key is one list when it is read.
///
/// The Python partd's `Pickle`: its frames of plain data (numbers, strings, bytes, `None`, lists,
/// tuples, dicts, sets) are read, of every pickle protocol; pickles of classes and functions are
/// refused. Frames are written in protocol 3, structs as dicts, and are read by every Python 3.
///
/// A frame may have 4 GiB and be nested 128 deep. The limit on decoded bytes counts 32 for each
/// value in a pickle, besides its text, and what stands in several places as often as it stands;
/// it also holds for what reading a frame takes, where what a pickle remembers counts as well.
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
    /// Pickles lists of `T` into a store.
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

/// The list that a pickle holds, and the bytes that it takes.
pub(crate) fn decode<T: DeserializeOwned>(
    frame: &[u8],
    max_bytes: usize,
) -> Result<(Vec<T>, usize), CodecError> {
    let pickle = machine::run(frame, max_bytes)?;
    let list = Vec::deserialize(de::Deserializer::new(&pickle, pickle.top()))?;
    let bytes = usize::try_from(pickle.expanded_bytes())?.max(size_of_val(&list[..]));
    Ok((list, bytes))
}
