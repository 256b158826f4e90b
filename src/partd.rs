//! `Partd`, the trait that every store and layer implements.
//!
//! The required methods of [`Partd`] are object-safe, so a layer can be chosen at run time as a
//! `Box<dyn Partd>`. The generic convenience methods call only those.

mod forward;
mod memory_store;

pub use self::memory_store::MemoryStore;
pub(crate) use crate::batch::{Batch, Op};
use crate::threads::LentPool;
use crate::{Key, Result};

/// The guarantee that a write waits for before it returns.
///
/// A store must implement every guarantee, so a new one is a breaking change.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Durability {
    /// No sync: the batch is in the store and survives the death of any process.
    Plain,
    /// Stable storage: the batch and everything committed before it survive a power cut.
    Durable,
}

/// A value in the pieces in which the store holds it, in order.
pub type Chunks<'a> = Vec<&'a [u8]>;

/// An appendable key-value byte store.
///
/// Most users call the provided methods, from [`append`](Partd::append) to
/// [`clear`](Partd::clear). The required methods are the object-safe core that stores and layers
/// implement.
///
/// # Errors
///
/// No method panics on any input. After an error the store is as it was, with two exceptions:
///
/// - A durable write whose sync fails is in the store, but may not survive a power cut. Writing it
///   again writes it twice.
/// - A [`take`](Partd::take) may meet damage in bytes that another handle appended after `take`
///   read the values and before it removed them. The keys are then removed.
///
/// Every method can return the errors of the store: [`ErrorKind::Io`](crate::ErrorKind::Io) and
/// [`DiskFull`](crate::ErrorKind::DiskFull) from the system, [`Corrupt`](crate::ErrorKind::Corrupt)
/// for damaged files, [`Forked`](crate::ErrorKind::Forked) in a child of `fork`. A layer adds its
/// own, such as [`Decode`](crate::ErrorKind::Decode). The sections below name what is particular to
/// a method.
///
/// # Trait objects
///
/// `Box<dyn Partd>`, `Arc<dyn Partd>` and `&P` are stores too, with all methods. Only a bare
/// `&dyn Partd` has just the required ones, since a trait object cannot have generic methods, and
/// methods of its own with the same names would be ambiguous. Call the others on a reference to it.
///
/// ```
/// use partd::{Dict, Partd};
/// fn greet(p: &dyn Partd) -> partd::Result<Vec<u8>> {
///     let p = &p;
///     p.append([("x", "Hello")])?;
///     p.get("x")
/// }
/// assert_eq!(greet(&Dict::new())?, b"Hello");
/// # Ok::<(), partd::Error>(())
/// ```
#[diagnostic::on_unimplemented(
    message = "`{Self}` is not a store or a layer of bytes",
    note = "the stores are `SegmentLog` and `Dict`; a reference, `Box` or `Arc` of a store is one too, \
            and the typed layers such as `Msgpack` have methods of the same names instead"
)]
pub trait Partd: Send + Sync {
    /// Writes one batch atomically, and waits as `durability` says.
    ///
    /// # Errors
    ///
    /// [`ReadOnly`](crate::ErrorKind::ReadOnly) on a read-only handle,
    /// [`StoreFull`](crate::ErrorKind::StoreFull) or [`DiskFull`](crate::ErrorKind::DiskFull) if
    /// there is no room, and [`SyncFailed`](crate::ErrorKind::SyncFailed) if the write is to be
    /// durable and an earlier sync failed.
    fn write(&self, batch: &Batch<'_>, durability: Durability) -> Result<()>;

    /// Reads the values of the keys at one moment of the history; a missing key has an empty value.
    ///
    /// # Errors
    ///
    /// [`Corrupt`](crate::ErrorKind::Corrupt) if a value fails its checksum, and
    /// [`ReadTooLarge`](crate::ErrorKind::ReadTooLarge) if the values exceed the handle's limit.
    fn read(&self, keys: &[Key]) -> Result<Vec<Vec<u8>>>;

    /// Removes the keys and returns their values in one step of the history.
    ///
    /// # Errors
    ///
    /// Those of [`read`](Partd::read) and [`write`](Partd::write). Nothing is removed then, with
    /// the exception described [above](Partd#errors).
    fn take(&self, keys: &[Key]) -> Result<Vec<Vec<u8>>>;

    /// Returns the length of each key's value in bytes, at one moment; `None` if a key is missing.
    ///
    /// # Errors
    ///
    /// Those of the store.
    fn lens(&self, keys: &[Key]) -> Result<Vec<Option<u64>>>;

    /// Returns whether each key exists, at one moment. No value is read or decoded.
    ///
    /// A key exists if something, perhaps no bytes, was written to it since its last delete.
    ///
    /// # Errors
    ///
    /// Those of the store.
    fn present(&self, keys: &[Key]) -> Result<Vec<bool>> {
        Ok(self.lens(keys)?.iter().map(Option::is_some).collect())
    }

    /// Returns every key, in key order.
    ///
    /// # Errors
    ///
    /// Those of the store.
    fn keys(&self) -> Result<Vec<Key>>;

    /// Returns the keys that begin with `prefix`, in key order.
    ///
    /// # Errors
    ///
    /// Those of the store.
    fn keys_with(&self, prefix: &Key) -> Result<Vec<Key>> {
        let mut keys = self.keys()?;
        keys.retain(|key| key.as_bytes().starts_with(prefix.as_bytes()));
        Ok(keys)
    }

    /// Brings everything written before the call, by any handle, to stable storage.
    ///
    /// # Errors
    ///
    /// [`SyncFailed`](crate::ErrorKind::SyncFailed) if this sync or an earlier one failed, and
    /// [`ReadOnly`](crate::ErrorKind::ReadOnly) on a read-only handle.
    fn sync(&self) -> Result<()>;

    /// Lends the values of the keys to `visit` in pieces, without a copy if the store can.
    ///
    /// Calls `visit` once, with one list of pieces per key, unless reading fails. The store may hold a
    /// lock meanwhile, so `visit` must not call back into the same store, and must not wait for threads
    /// that may need it. That includes parallel work in a rayon pool: a worker that waits may run
    /// another task, which may need the same lock.
    ///
    /// # Errors
    ///
    /// Those of [`read`](Partd::read), and whatever `visit` returns.
    fn visit(
        &self,
        keys: &[Key],
        visit: &mut dyn FnMut(&[Chunks<'_>]) -> Result<()>,
    ) -> Result<()> {
        let values = self.read(keys)?;
        let chunks: Vec<Chunks<'_>> = values.iter().map(|value| vec![&value[..]]).collect();
        visit(&chunks)
    }

    /// Returns an error if no write can succeed: the handle is read-only or was opened before a
    /// `fork`, or a sync has failed and the write would be durable. Layers call it before they
    /// accept bytes.
    #[doc(hidden)]
    fn check(&self, _durability: Durability) -> Result<()> {
        Ok(())
    }

    /// Like [`read`](Partd::read), but reserves the given spare capacity in the vector of each key
    /// if it can, so that a layer can append to it without reallocating.
    #[doc(hidden)]
    fn read_with_room(&self, keys: &[Key], _room: &[usize]) -> Result<Vec<Vec<u8>>> {
        self.read(keys)
    }

    /// Returns the thread pool of the store's options. The layers above the store work in it too,
    /// so a layer returns that of the store below.
    #[doc(hidden)]
    fn lent_pool(&self) -> Option<&LentPool> {
        None
    }

    /// Appends each value to its key, as one atomic batch.
    ///
    /// # Errors
    ///
    /// Those of [`write`](Partd::write).
    fn append<K, V>(&self, pairs: impl IntoIterator<Item = (K, V)>) -> Result<()>
    where
        Self: Sized,
        K: Into<Key>,
        V: AsRef<[u8]>,
    {
        append_with(self, pairs, Durability::Plain)
    }

    /// Appends bytes to one key.
    ///
    /// # Errors
    ///
    /// Those of [`write`](Partd::write).
    fn append_one(&self, key: impl Into<Key>, value: impl AsRef<[u8]>) -> Result<()>
    where
        Self: Sized,
    {
        self.write(Batch::new().append(key, value.as_ref()), Durability::Plain)
    }

    /// Appends as [`append`](Partd::append) does, and returns once the batch is on stable storage.
    ///
    /// A call syncs once, not once per key, and calls of several threads and processes share syncs.
    ///
    /// # Errors
    ///
    /// Those of [`write`](Partd::write). If the sync fails, the batch is in the store but may not
    /// survive a power cut.
    fn append_durable<K, V>(&self, pairs: impl IntoIterator<Item = (K, V)>) -> Result<()>
    where
        Self: Sized,
        K: Into<Key>,
        V: AsRef<[u8]>,
    {
        append_with(self, pairs, Durability::Durable)
    }

    /// Reads the key's value: everything appended to it, in order; empty if the key is missing.
    ///
    /// # Errors
    ///
    /// Those of [`read`](Partd::read).
    fn get(&self, key: impl Into<Key>) -> Result<Vec<u8>>
    where
        Self: Sized,
    {
        Ok(self.read(&[key.into()])?.pop().unwrap_or_default())
    }

    /// Reads the values of many keys in parallel, as they were at one moment.
    ///
    /// Takes anything that iterates over keys: an array, `&keys` of a `Vec<Key>`, `&names` of a
    /// `Vec<String>`.
    ///
    /// # Errors
    ///
    /// Those of [`read`](Partd::read).
    fn get_many<K: Into<Key>>(&self, keys: impl IntoIterator<Item = K>) -> Result<Vec<Vec<u8>>>
    where
        Self: Sized,
    {
        self.read(&collect_keys(keys))
    }

    /// Sets a key idempotently: the first set since the last delete replaces the key's value, and
    /// later ones do nothing.
    ///
    /// # Errors
    ///
    /// Those of [`write`](Partd::write).
    fn iset(&self, key: impl Into<Key>, value: impl AsRef<[u8]>) -> Result<()>
    where
        Self: Sized,
    {
        self.write(Batch::new().set(key, value.as_ref()), Durability::Plain)
    }

    /// Removes keys. A missing key is not an error.
    ///
    /// # Errors
    ///
    /// Those of [`write`](Partd::write).
    fn delete<K: Into<Key>>(&self, keys: impl IntoIterator<Item = K>) -> Result<()>
    where
        Self: Sized,
    {
        let mut batch = Batch::new();
        for key in keys {
            batch.delete(key);
        }
        self.write(&batch, Durability::Plain)
    }

    /// Removes one key. A missing key is not an error.
    ///
    /// # Errors
    ///
    /// Those of [`write`](Partd::write).
    fn delete_one(&self, key: impl Into<Key>) -> Result<()>
    where
        Self: Sized,
    {
        self.write(Batch::new().delete(key), Durability::Plain)
    }

    /// Reads and removes keys in one step: no byte is lost or returned twice, whatever other
    /// handles append.
    ///
    /// # Errors
    ///
    /// Those of [`take`](Partd::take).
    fn pop<K: Into<Key>>(&self, keys: impl IntoIterator<Item = K>) -> Result<Vec<Vec<u8>>>
    where
        Self: Sized,
    {
        self.take(&collect_keys(keys))
    }

    /// Returns whether the key exists: something, perhaps no bytes, was written to it since its
    /// last delete.
    ///
    /// # Errors
    ///
    /// Those of [`present`](Partd::present).
    fn contains(&self, key: impl Into<Key>) -> Result<bool>
    where
        Self: Sized,
    {
        Ok(self.present(&[key.into()])?.first().is_some_and(|&is_there| is_there))
    }

    /// Returns the length of the key's value in bytes without reading it; 0 if the key is missing.
    ///
    /// # Errors
    ///
    /// Those of [`lens`](Partd::lens).
    fn len_of(&self, key: impl Into<Key>) -> Result<u64>
    where
        Self: Sized,
    {
        Ok(self.lens(&[key.into()])?.first().copied().flatten().unwrap_or(0))
    }

    /// Returns the keys that begin with `prefix`, byte by byte, in key order.
    ///
    /// For the tuple keys that begin with certain parts, see [`Key::tuple_prefix`].
    ///
    /// # Errors
    ///
    /// Those of [`keys_with`](Partd::keys_with).
    fn keys_with_prefix(&self, prefix: impl Into<Key>) -> Result<Vec<Key>>
    where
        Self: Sized,
    {
        self.keys_with(&prefix.into())
    }

    /// Removes every key that begins with `prefix`, in one step of the history.
    ///
    /// A [`SegmentLog`](crate::SegmentLog) writes one small entry, however many keys there are. A
    /// later append begins a new value. To treat a part of the keys, such as those of one job, as a
    /// store, see [`Scoped`](crate::Scoped).
    ///
    /// ```
    /// use partd::{Dict, Key, Partd};
    /// let p = Dict::new();
    /// p.append([(("job", 1, "a"), "x"), (("job", 1, "b"), "y"), (("job", 10, "a"), "z")])?;
    /// p.delete_prefix(Key::tuple_prefix(("job", 1)))?;
    /// assert_eq!(p.keys()?, [("job", 10, "a").into()]);
    /// # Ok::<(), partd::Error>(())
    /// ```
    ///
    /// # Errors
    ///
    /// Those of [`write`](Partd::write).
    fn delete_prefix(&self, prefix: impl Into<Key>) -> Result<()>
    where
        Self: Sized,
    {
        self.write(Batch::new().delete_prefix(prefix), Durability::Plain)
    }

    /// Removes every key in one step. The store stays usable. Python's partd calls this `drop`.
    ///
    /// # Errors
    ///
    /// Those of [`write`](Partd::write).
    fn clear(&self) -> Result<()>
    where
        Self: Sized,
    {
        self.write(Batch::new().clear(), Durability::Plain)
    }
}

fn append_with<P: Partd, K: Into<Key>, V: AsRef<[u8]>>(
    store: &P,
    pairs: impl IntoIterator<Item = (K, V)>,
    durability: Durability,
) -> Result<()> {
    let (keys, values): (Vec<Key>, Vec<V>) = pairs.into_iter().map(|(k, v)| (k.into(), v)).unzip();
    let mut batch = Batch::with_capacity(keys.len());
    for (key, value) in keys.into_iter().zip(&values) {
        batch.push(Op::Append(key, value.as_ref()));
    }
    store.write(&batch, durability)
}

fn collect_keys<K: Into<Key>>(keys: impl IntoIterator<Item = K>) -> Vec<Key> {
    keys.into_iter().map(Into::into).collect()
}
