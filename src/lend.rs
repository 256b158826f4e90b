//! `Lend`: stores that lend values without a copy, and layers over them that pass the views on.

use std::sync::Arc;

use crate::partd::Partd;
use crate::{Error, Key, Result};

/// A store that lends values without a copy.
///
/// [`SegmentLog`](crate::SegmentLog) is one. [`Buffer`](crate::Buffer) and
/// [`Scoped`](crate::Scoped) are too if the store below them is: they lend what it lends.
///
/// Through a `Buffer`, a view first moves what is buffered for its keys to the slow store, so that
/// the whole value lies there, and then views it there. Other keys stay buffered.
///
/// ```
/// use partd::{Buffer, Dict, Lend, Partd, Scoped, SegmentLog};
/// let p = Scoped::new(Buffer::new(Dict::new(), SegmentLog::temporary()?, 64 << 20), "job");
/// p.append([("x", "Hello ")])?;
/// p.store().flush()?;
/// p.append([("x", "world!"), ("y", "123")])?;
/// let view = p.view("x")?;
/// assert_eq!(view.chunks().collect::<Vec<_>>(), [b"Hello ", b"world!"]);
/// # Ok::<(), partd::Error>(())
/// ```
pub trait Lend: Partd {
    /// A value that the store lends.
    type View: Send;

    /// Returns a view of each key's value, all of one moment. A missing key has no bytes.
    ///
    /// # Errors
    ///
    /// Those of [`read`](Partd::read), and through a [`Buffer`](crate::Buffer) also those of a
    /// [`write`](Partd::write) to the slow store.
    fn lend(&self, keys: &[Key]) -> Result<Vec<Self::View>>;

    /// Returns a view of the key's value.
    ///
    /// # Errors
    ///
    /// Those of [`lend`](Lend::lend).
    fn view(&self, key: impl Into<Key>) -> Result<Self::View>
    where
        Self: Sized,
    {
        let view = self.lend(&[key.into()])?.pop();
        view.ok_or_else(|| Error::Invalid("the store has lent no view of the key".into()))
    }

    /// Returns a view of each key's value, all of one moment.
    ///
    /// # Errors
    ///
    /// Those of [`lend`](Lend::lend).
    fn view_many<K: Into<Key>>(&self, keys: impl IntoIterator<Item = K>) -> Result<Vec<Self::View>>
    where
        Self: Sized,
    {
        let keys: Vec<Key> = keys.into_iter().map(Into::into).collect();
        self.lend(&keys)
    }
}

/// A lent value whose chunks can be owned without a copy.
///
/// [`View`](crate::View) is one. Requires the feature `bytes`.
#[cfg(feature = "bytes")]
pub trait OwnedChunks {
    /// Returns the chunks in order; together they are the value. Each chunk keeps its own bytes
    /// alive.
    fn owned_chunks(&self) -> Box<dyn LentChunks>;
}

/// The chunks of a lent value, which are read from disk a little ahead of their use.
#[cfg(feature = "bytes")]
pub trait LentChunks: Iterator<Item = bytes::Bytes> + Send {
    /// Returns the length of the chunks that the iterator has not returned yet.
    fn bytes_left(&self) -> u64;

    /// Requests `len` bytes of the chunk returned last, from its offset `at`, to be read from disk
    /// ahead of their use.
    fn read_ahead(&mut self, at: u64, len: u64);
}

macro_rules! lend_by_reference {
    ($($type:ty),*) => {$(
        impl<P: Lend + ?Sized> Lend for $type {
            type View = P::View;

            fn lend(&self, keys: &[Key]) -> Result<Vec<P::View>> {
                (**self).lend(keys)
            }
        }
    )*};
}

lend_by_reference!(&P, Box<P>, Arc<P>);
