//! The one trait of every store and layer, and the batch it writes.
//!
//! The core of [`Partd`] is object-safe, so layers can be chosen at run time as
//! `Box<dyn Partd>`. The conveniences above it are generic and sit on the core alone.

use std::sync::Arc;

use crate::{Key, Result};

/// One operation of a batch.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Op<'a> {
    /// Adds the bytes to the end of the key's value; also no bytes, which makes the key exist.
    Append(Key, &'a [u8]),
    /// Sets the value, unless the key was set since its last delete; replaces what was appended.
    Set(Key, &'a [u8]),
    /// Removes the key and its value; a missing key is fine.
    Delete(Key),
    /// Removes every key.
    Clear,
}

impl Op<'_> {
    /// The key that the operation is about; none for [`Op::Clear`].
    pub fn key(&self) -> Option<&Key> {
        match self {
            Op::Append(key, _) | Op::Set(key, _) | Op::Delete(key) => Some(key),
            Op::Clear => None,
        }
    }

    /// The bytes that the operation brings; none where it removes.
    pub fn value(&self) -> &[u8] {
        match self {
            Op::Append(_, value) | Op::Set(_, value) => value,
            Op::Delete(_) | Op::Clear => &[],
        }
    }
}

/// Operations that happen together or not at all, in the order in which they were added.
///
/// ```
/// use partd::{Batch, Dict, Durability, Partd};
/// let p = Dict::new();
/// p.write(Batch::new().delete("old").append("new", b"1").append("new", b"2"), Durability::Plain)?;
/// assert_eq!(p.get("new")?, b"12");
/// # Ok::<(), partd::Error>(())
/// ```
#[derive(Clone, Debug, Default)]
pub struct Batch<'a> {
    ops: Vec<Op<'a>>,
}

impl<'a> Batch<'a> {
    /// A batch without operations.
    pub fn new() -> Batch<'a> {
        Batch::default()
    }

    /// A batch without operations, with room for as many as given.
    pub fn with_capacity(ops: usize) -> Batch<'a> {
        Batch { ops: Vec::with_capacity(ops) }
    }

    /// Adds bytes to the end of the key's value.
    #[inline]
    pub fn append(&mut self, key: impl Into<Key>, value: &'a [u8]) -> &mut Batch<'a> {
        self.push(Op::Append(key.into(), value))
    }

    /// Sets the key's value, unless it was set since its last delete.
    pub fn set(&mut self, key: impl Into<Key>, value: &'a [u8]) -> &mut Batch<'a> {
        self.push(Op::Set(key.into(), value))
    }

    /// Removes the key.
    pub fn delete(&mut self, key: impl Into<Key>) -> &mut Batch<'a> {
        self.push(Op::Delete(key.into()))
    }

    /// Removes every key.
    pub fn clear(&mut self) -> &mut Batch<'a> {
        self.push(Op::Clear)
    }

    /// Adds an operation.
    #[inline]
    pub fn push(&mut self, op: Op<'a>) -> &mut Batch<'a> {
        self.ops.push(op);
        self
    }

    /// The operations, in order.
    #[inline]
    pub fn ops(&self) -> &[Op<'a>] {
        &self.ops
    }

    /// Whether there is nothing to do.
    pub fn is_empty(&self) -> bool {
        self.ops.is_empty()
    }

    /// The bytes of all values together.
    pub fn value_bytes(&self) -> u64 {
        self.ops.iter().map(|op| op.value().len() as u64).sum()
    }
}

/// What a write waits for.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Durability {
    /// Nothing: the batch is in the store, and survives the death of any process.
    Plain,
    /// Stable storage: the batch, and all that was committed before it, survives a power cut.
    Durable,
}

/// A value as it lies in a store: its bytes in order, in as many pieces as the store holds it.
pub type Chunks<'a> = Vec<&'a [u8]>;

/// An appendable key-value byte store.
///
/// Append bytes to keys, get them back whole. The required methods are the object-safe core;
/// the provided ones below them are the face that most users see.
///
/// No method panics on any input. An error leaves the store as it was, with two exceptions, in which
/// the operation has happened although it returns one: a durable write whose sync fails, which is in
/// the store and may not survive a power cut (writing it again writes it twice); and a
/// [`take`](Partd::take) that meets damage in bytes which another handle appended after it had read
/// the values and before it removed them.
pub trait Partd: Send + Sync {
    /// Writes one batch, all of it or nothing, and waits as `durability` says.
    fn write(&self, batch: &Batch<'_>, durability: Durability) -> Result<()>;

    /// The values of the keys, at one moment of the history; empty where a key is missing.
    fn read(&self, keys: &[Key]) -> Result<Vec<Vec<u8>>>;

    /// Removes the keys and returns their values, as one step of the history.
    fn take(&self, keys: &[Key]) -> Result<Vec<Vec<u8>>>;

    /// The length of each key's value in bytes, at one moment; `None` where a key is missing.
    fn lens(&self, keys: &[Key]) -> Result<Vec<Option<u64>>>;

    /// Whether each key is there, at one moment: something, perhaps no bytes, was written since its
    /// last delete. No value is read or decoded for it.
    fn present(&self, keys: &[Key]) -> Result<Vec<bool>> {
        Ok(self.lens(keys)?.iter().map(Option::is_some).collect())
    }

    /// Every key, in key order.
    fn keys(&self) -> Result<Vec<Key>>;

    /// Brings to stable storage all that was written before the call, by anyone.
    fn sync(&self) -> Result<()>;

    /// Lends the values of the keys to `visit` in pieces, without a copy where the store can.
    ///
    /// `visit` is called once, with one list of pieces per key, unless reading fails. It must not
    /// call back into the same store.
    fn visit(
        &self,
        keys: &[Key],
        visit: &mut dyn FnMut(&[Chunks<'_>]) -> Result<()>,
    ) -> Result<()> {
        let values = self.read(keys)?;
        let chunks: Vec<Chunks<'_>> = values.iter().map(|value| vec![&value[..]]).collect();
        visit(&chunks)
    }

    /// An error if writes cannot be done at all: the handle was opened read-only or before a `fork`, or
    /// a sync has failed and the write would be durable. Layers ask before they accept bytes.
    #[doc(hidden)]
    fn check(&self, _durability: Durability) -> Result<()> {
        Ok(())
    }

    /// Appends each value to the end of its key: all pairs or none.
    fn append<K, V>(&self, pairs: impl IntoIterator<Item = (K, V)>) -> Result<()>
    where
        Self: Sized,
        K: Into<Key>,
        V: AsRef<[u8]>,
    {
        append_with(self, pairs, Durability::Plain)
    }

    /// Appends as [`append`](Partd::append) does, and is on stable storage when it returns.
    ///
    /// One sync for the call, not one per key; calls of several threads and processes share syncs.
    fn append_durable<K, V>(&self, pairs: impl IntoIterator<Item = (K, V)>) -> Result<()>
    where
        Self: Sized,
        K: Into<Key>,
        V: AsRef<[u8]>,
    {
        append_with(self, pairs, Durability::Durable)
    }

    /// The key's value: everything appended to it, in order; empty where the key is missing.
    fn get(&self, key: impl Into<Key>) -> Result<Vec<u8>>
    where
        Self: Sized,
    {
        Ok(self.read(&[key.into()])?.pop().unwrap_or_default())
    }

    /// The values of many keys, reassembled in parallel, as they were at one moment.
    fn get_many<K: Into<Key>>(&self, keys: impl IntoIterator<Item = K>) -> Result<Vec<Vec<u8>>>
    where
        Self: Sized,
    {
        self.read(&collect_keys(keys))
    }

    /// Sets a key idempotently: the first call since the last delete wins and replaces what was
    /// appended before; later ones do nothing.
    fn iset(&self, key: impl Into<Key>, value: impl AsRef<[u8]>) -> Result<()>
    where
        Self: Sized,
    {
        self.write(Batch::new().set(key, value.as_ref()), Durability::Plain)
    }

    /// Removes keys; missing ones are fine.
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

    /// Gets and removes keys as one step: no byte is lost or returned twice, whoever appends.
    fn pop<K: Into<Key>>(&self, keys: impl IntoIterator<Item = K>) -> Result<Vec<Vec<u8>>>
    where
        Self: Sized,
    {
        self.take(&collect_keys(keys))
    }

    /// Whether the key is there: something, perhaps no bytes, was written since its last delete.
    fn contains(&self, key: impl Into<Key>) -> Result<bool>
    where
        Self: Sized,
    {
        Ok(self.present(&[key.into()])?.first().is_some_and(|&is_there| is_there))
    }

    /// The length of the key's value in bytes, without reading it; 0 where the key is missing.
    fn len_of(&self, key: impl Into<Key>) -> Result<u64>
    where
        Self: Sized,
    {
        Ok(self.lens(&[key.into()])?.first().copied().flatten().unwrap_or(0))
    }

    /// Removes every key in one step; the store stays usable. Python's partd calls this `drop`.
    fn clear(&self) -> Result<()>
    where
        Self: Sized,
    {
        self.write(Batch::new().clear(), Durability::Plain)
    }
}

/// A store in memory that can serve as the fast half of a [`Buffer`](crate::Buffer).
///
/// [`Dict`](crate::Dict) is one, and so is any layer over one.
pub trait MemoryStore: Partd {
    /// Bytes of memory in which the store holds keys and values.
    fn memory_bytes(&self) -> u64;

    /// Writes the batch, plainly, if the store will then hold at most `limit_bytes` of memory; says
    /// whether it did.
    ///
    /// `false` changes nothing, and may be said a little early. A store in memory keeps the limit
    /// also when several threads write at once; this provided version looks first and writes
    /// then, and is for stores that one thread at a time writes to.
    fn write_within(&self, batch: &Batch<'_>, limit_bytes: u64) -> Result<bool> {
        let keys = batch.ops().iter().filter_map(Op::key).map(|key| key.len() as u64);
        let coming = batch.value_bytes() + keys.sum::<u64>();
        if self.memory_bytes().saturating_add(coming) > limit_bytes {
            return Ok(false);
        }
        self.write(batch, Durability::Plain)?;
        Ok(true)
    }

    /// Keys to remove when about `bytes` of memory have to go: those with the longest values, as
    /// many as it takes, in no particular order.
    fn heaviest(&self, bytes: u64) -> Result<Vec<Key>> {
        let keys = self.keys()?;
        let mut weighed: Vec<(u64, Key)> =
            self.lens(&keys)?.into_iter().map(Option::unwrap_or_default).zip(keys).collect();
        weighed.sort_unstable_by_key(|(len, _)| std::cmp::Reverse(*len));
        let mut found = 0_u64;
        let enough = weighed.iter().position(|(len, key)| {
            found = found.saturating_add(len + key.len() as u64);
            found >= bytes
        });
        weighed.truncate(enough.map_or(weighed.len(), |last| last + 1));
        Ok(weighed.into_iter().map(|(_, key)| key).collect())
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

macro_rules! partd_by_reference {
    ($($type:ty),*) => {$(
        impl<P: Partd + ?Sized> Partd for $type {
            fn write(&self, batch: &Batch<'_>, durability: Durability) -> Result<()> {
                (**self).write(batch, durability)
            }
            fn read(&self, keys: &[Key]) -> Result<Vec<Vec<u8>>> {
                (**self).read(keys)
            }
            fn take(&self, keys: &[Key]) -> Result<Vec<Vec<u8>>> {
                (**self).take(keys)
            }
            fn lens(&self, keys: &[Key]) -> Result<Vec<Option<u64>>> {
                (**self).lens(keys)
            }
            fn present(&self, keys: &[Key]) -> Result<Vec<bool>> {
                (**self).present(keys)
            }
            fn keys(&self) -> Result<Vec<Key>> {
                (**self).keys()
            }
            fn sync(&self) -> Result<()> {
                (**self).sync()
            }
            fn visit(
                &self,
                keys: &[Key],
                visit: &mut dyn FnMut(&[Chunks<'_>]) -> Result<()>,
            ) -> Result<()> {
                (**self).visit(keys, visit)
            }
            fn check(&self, durability: Durability) -> Result<()> {
                (**self).check(durability)
            }
        }
    )*};
}

partd_by_reference!(&P, Box<P>, Arc<P>);

macro_rules! memory_store_by_reference {
    ($($type:ty),*) => {$(
        impl<P: MemoryStore + ?Sized> MemoryStore for $type {
            fn memory_bytes(&self) -> u64 {
                (**self).memory_bytes()
            }
            fn write_within(&self, batch: &Batch<'_>, limit_bytes: u64) -> Result<bool> {
                (**self).write_within(batch, limit_bytes)
            }
            fn heaviest(&self, bytes: u64) -> Result<Vec<Key>> {
                (**self).heaviest(bytes)
            }
        }
    )*};
}

memory_store_by_reference!(&P, Box<P>, Arc<P>);

#[cfg(test)]
mod tests {
    use std::cell::RefCell;

    use super::*;

    thread_local! {
        static CALLS: RefCell<Vec<&'static str>> = const { RefCell::new(Vec::new()) };
    }

    /// A store that overrides every method and notes its calls.
    struct Noting;

    impl Noting {
        fn note<T: Default>(method: &'static str) -> Result<T> {
            CALLS.with_borrow_mut(|calls| calls.push(method));
            Ok(T::default())
        }
    }

    impl Partd for Noting {
        fn write(&self, _: &Batch<'_>, _: Durability) -> Result<()> {
            Noting::note("write")
        }
        fn read(&self, _: &[Key]) -> Result<Vec<Vec<u8>>> {
            Noting::note("read")
        }
        fn take(&self, _: &[Key]) -> Result<Vec<Vec<u8>>> {
            Noting::note("take")
        }
        fn lens(&self, _: &[Key]) -> Result<Vec<Option<u64>>> {
            Noting::note("lens")
        }
        fn present(&self, _: &[Key]) -> Result<Vec<bool>> {
            Noting::note("present")
        }
        fn keys(&self) -> Result<Vec<Key>> {
            Noting::note("keys")
        }
        fn sync(&self) -> Result<()> {
            Noting::note("sync")
        }
        fn visit(&self, _: &[Key], _: &mut dyn FnMut(&[Chunks<'_>]) -> Result<()>) -> Result<()> {
            Noting::note("visit")
        }
        fn check(&self, _: Durability) -> Result<()> {
            Noting::note("check")
        }
    }

    impl MemoryStore for Noting {
        fn memory_bytes(&self) -> u64 {
            Noting::note("memory_bytes").unwrap_or_default()
        }
        fn write_within(&self, _: &Batch<'_>, _: u64) -> Result<bool> {
            Noting::note("write_within")
        }
        fn heaviest(&self, _: u64) -> Result<Vec<Key>> {
            Noting::note("heaviest")
        }
    }

    /// The names of the object-safe methods that a trait in this file declares.
    fn declared(name: &str) -> Vec<&'static str> {
        let text = include_str!("partd.rs");
        let start = text.find(&format!("pub trait {name}")).unwrap();
        let body = &text[start..start + text[start..].find("\n}\n").unwrap()];
        let methods = body.split("\n    fn ").skip(1);
        let object_safe = methods.filter(|method| {
            let head = &method[..method.find(['{', ';']).unwrap()];
            !head.contains("Self: Sized")
        });
        object_safe.map(|method| &method[..method.find(['(', '<']).unwrap()]).collect()
    }

    #[test]
    fn references_boxes_and_arcs_forward_every_method_to_the_store() {
        fn call_all<P: MemoryStore + ?Sized>(name: &str, p: &P) -> bool {
            CALLS.take();
            let batch = Batch::new();
            match name {
                "write" => drop(p.write(&batch, Durability::Plain)),
                "read" => drop(p.read(&[])),
                "take" => drop(p.take(&[])),
                "lens" => drop(p.lens(&[])),
                "present" => drop(p.present(&[])),
                "keys" => drop(p.keys()),
                "sync" => drop(p.sync()),
                "visit" => drop(p.visit(&[], &mut |_| Ok(()))),
                "check" => drop(p.check(Durability::Plain)),
                "memory_bytes" => drop(p.memory_bytes()),
                "write_within" => drop(p.write_within(&batch, 0)),
                "heaviest" => drop(p.heaviest(0)),
                other => panic!("{other} is declared, and this test does not call it"),
            }
            CALLS.take() == [name]
        }
        let methods = [declared("Partd"), declared("MemoryStore")].concat();
        assert_eq!(methods.len(), 12, "{methods:?}");
        for method in methods {
            // A method that is not forwarded runs as provided, and calls others.
            assert!(call_all(method, &Noting), "{method}");
            assert!(call_all::<&Noting>(method, &&Noting), "{method} of a reference");
            assert!(call_all::<Box<Noting>>(method, &Box::new(Noting)), "{method} of a box");
            assert!(call_all::<Arc<Noting>>(method, &Arc::new(Noting)), "{method} of an arc");
            let dynamic: Box<dyn MemoryStore> = Box::new(Noting);
            assert!(call_all(method, &dynamic), "{method} of a trait object");
        }
    }
}
