//! `Scoped`: the keys of a store that begin with one prefix, as a store of their own.
//!
//! Invariant: no operation reads or changes a key outside of the scope.

use crate::lend::Lend;
use crate::partd::{Batch, Chunks, Durability, Op, Partd};
use crate::threads::LentPool;
use crate::{Key, KeyPart, Result};

/// A part of a store, such as the keys of one job: a [`Partd`] over all tuple keys that begin with
/// the scope.
///
/// The key `"k"` of the scope `("job", 7)` is the key `("job", 7, "k")` of the underlying store; if
/// the key is a tuple, its parts follow those of the scope. An integer alone is its decimal text
/// here too: the key `8` of this scope is `("job", 7, "8")`, and `(8,)` is `("job", 7, 8)`.
/// [`keys`](Partd::keys) returns the keys without the scope. [`clear`](Partd::clear) removes only
/// the keys of the scope, with one [prefix delete](Partd::delete_prefix): on a
/// [`SegmentLog`](crate::SegmentLog) that is one small entry, however many keys there are. Scopes
/// are independent unless the parts of one begin with all parts of the other.
///
/// ```
/// use partd::{Dict, Partd, Scoped};
/// let store = Dict::new();
/// let one = Scoped::new(&store, ("job", 1));
/// let two = Scoped::new(&store, ("job", 2));
/// one.append([("x", "Hello ")])?;
/// two.append([("x", "world!")])?;
/// assert_eq!(store.get(("job", 1, "x"))?, b"Hello ");
/// assert_eq!(two.keys()?, ["x".into()]);
/// one.clear()?;
/// assert_eq!((one.get("x")?, two.get("x")?), (b"".to_vec(), b"world!".to_vec()));
/// # Ok::<(), partd::Error>(())
/// ```
#[derive(Clone, Debug)]
pub struct Scoped<P: Partd> {
    store: P,
    prefix: Key,
}

impl<P: Partd> Scoped<P> {
    /// Creates the scope of `store` whose keys begin with `scope`: a string, an integer or a tuple,
    /// or the [`Key`] of a tuple.
    ///
    /// `Scoped::new(store, 7)` and `Scoped::new(store, (7,))` are the same scope.
    #[must_use]
    pub fn new(store: P, scope: impl KeyPart) -> Scoped<P> {
        Scoped { store, prefix: Key::tuple_prefix(scope) }
    }

    /// Returns the underlying store.
    #[must_use]
    pub fn store(&self) -> &P {
        &self.store
    }

    /// Returns the prefix that all keys of the scope have in the underlying store.
    #[must_use]
    pub fn prefix(&self) -> &Key {
        &self.prefix
    }

    fn inside(&self, key: &Key) -> Key {
        Key::concat(&self.prefix, key)
    }

    fn all_inside(&self, keys: &[Key]) -> Vec<Key> {
        keys.iter().map(|key| self.inside(key)).collect()
    }
}

impl<P: Partd> Partd for Scoped<P> {
    fn write(&self, batch: &Batch<'_>, durability: Durability) -> Result<()> {
        let mut below = Batch::with_capacity(batch.ops().len());
        for op in batch.ops() {
            below.push(match op {
                Op::Append(key, value) => Op::Append(self.inside(key), value),
                Op::Set(key, value) => Op::Set(self.inside(key), value),
                Op::Delete(key) => Op::Delete(self.inside(key)),
                Op::DeletePrefix(prefix) => Op::DeletePrefix(self.inside(prefix)),
                Op::Clear => Op::DeletePrefix(self.prefix.clone()),
            });
        }
        self.store.write(&below, durability)
    }

    fn read(&self, keys: &[Key]) -> Result<Vec<Vec<u8>>> {
        self.store.read(&self.all_inside(keys))
    }

    fn take(&self, keys: &[Key]) -> Result<Vec<Vec<u8>>> {
        self.store.take(&self.all_inside(keys))
    }

    fn lens(&self, keys: &[Key]) -> Result<Vec<Option<u64>>> {
        self.store.lens(&self.all_inside(keys))
    }

    fn present(&self, keys: &[Key]) -> Result<Vec<bool>> {
        self.store.present(&self.all_inside(keys))
    }

    fn keys(&self) -> Result<Vec<Key>> {
        self.keys_with(&Key::default())
    }

    fn keys_with(&self, prefix: &Key) -> Result<Vec<Key>> {
        let keys = self.store.keys_with(&self.inside(prefix))?;
        // All these keys have the same prefix, so they stay sorted without it.
        Ok(keys.iter().map(|key| Key::from(&key.as_bytes()[self.prefix.len()..])).collect())
    }

    fn sync(&self) -> Result<()> {
        self.store.sync()
    }

    fn visit(
        &self,
        keys: &[Key],
        visit: &mut dyn FnMut(&[Chunks<'_>]) -> Result<()>,
    ) -> Result<()> {
        self.store.visit(&self.all_inside(keys), visit)
    }

    fn check(&self, durability: Durability) -> Result<()> {
        self.store.check(durability)
    }

    fn lent_pool(&self) -> Option<&LentPool> {
        self.store.lent_pool()
    }
}

impl<P: Lend> Lend for Scoped<P> {
    type View = P::View;

    fn lend(&self, keys: &[Key]) -> Result<Vec<P::View>> {
        self.store.lend(&self.all_inside(keys))
    }
}
