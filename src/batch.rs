//! `Batch`, a list of operations that a store applies as one step, and its operations.

use crate::Key;

/// One operation of a batch.
///
/// A store must apply every operation, so a new kind of operation is a breaking change, and a
/// `match` may be exhaustive.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Op<'a> {
    /// Appends the bytes to the key's value. Appending no bytes creates the key.
    Append(Key, &'a [u8]),
    /// Sets the value and replaces what was appended, unless the key was set since its last delete.
    Set(Key, &'a [u8]),
    /// Removes the key and its value. A missing key is not an error.
    Delete(Key),
    /// Removes every key.
    Clear,
    /// Removes every key that begins with the prefix; the empty prefix removes all of them.
    DeletePrefix(Key),
}

impl Op<'_> {
    /// Returns the key that the operation applies to, or `None` if it may apply to many keys.
    #[must_use]
    pub fn key(&self) -> Option<&Key> {
        match self {
            Op::Append(key, _) | Op::Set(key, _) | Op::Delete(key) => Some(key),
            Op::Clear | Op::DeletePrefix(_) => None,
        }
    }

    /// Returns the operation with `value` as its value; a removal has none.
    pub(crate) fn with_value<'v>(self, value: &'v [u8]) -> Op<'v> {
        match self {
            Op::Append(key, _) => Op::Append(key, value),
            Op::Set(key, _) => Op::Set(key, value),
            Op::Delete(key) => Op::Delete(key),
            Op::Clear => Op::Clear,
            Op::DeletePrefix(key) => Op::DeletePrefix(key),
        }
    }

    /// Returns the bytes that the operation writes; empty for a removal.
    #[must_use]
    pub fn value(&self) -> &[u8] {
        match self {
            Op::Append(_, value) | Op::Set(_, value) => value,
            Op::Delete(_) | Op::Clear | Op::DeletePrefix(_) => &[],
        }
    }
}

/// A list of operations that a store applies atomically, in the order in which they were added.
///
/// It borrows the values; a [`BatchBuilder`](crate::BatchBuilder) owns them, and is reused from
/// batch to batch. The methods of [`Partd`](crate::Partd) make batches of one kind of operation;
/// build one yourself to mix several kinds:
///
/// ```
/// use partd::{Batch, Dict, Durability, Partd};
/// let p = Dict::new();
/// p.write(Batch::new().delete("old").append("new", b"1").append("new", b"2"), Durability::Plain)?;
/// assert_eq!(p.get("new")?, b"12");
/// # Ok::<(), partd::Error>(())
/// ```
///
/// A batch can also be collected from operations:
///
/// ```
/// use partd::{Batch, Dict, Durability, Op, Partd};
/// let p = Dict::new();
/// let rows = [("a", b"1"), ("b", b"2")];
/// let batch: Batch = rows.iter().map(|(key, value)| Op::Append(key.into(), *value)).collect();
/// p.write(&batch, Durability::Plain)?;
/// assert_eq!(p.get_many(["a", "b"])?, [b"1", b"2"]);
/// # Ok::<(), partd::Error>(())
/// ```
#[derive(Clone, Debug, Default)]
pub struct Batch<'a> {
    ops: Vec<Op<'a>>,
}

impl<'a> Batch<'a> {
    /// Creates an empty batch.
    #[must_use]
    pub fn new() -> Batch<'a> {
        Batch::default()
    }

    /// Creates an empty batch with room for `ops` operations.
    #[must_use]
    pub fn with_capacity(ops: usize) -> Batch<'a> {
        Batch { ops: Vec::with_capacity(ops) }
    }

    /// Removes the operations and keeps the memory of their list, for a batch of other values.
    ///
    /// ```
    /// use partd::{Batch, Dict, Durability, Partd};
    /// let p = Dict::new();
    /// let mut empty = Batch::new();
    /// for i in 0..3 {
    ///     let value = vec![i; 4];
    ///     let mut batch = empty.recycle();
    ///     p.write(batch.append("x", &value), Durability::Plain)?;
    ///     empty = batch.recycle();
    /// }
    /// assert_eq!(p.len_of("x")?, 12);
    /// # Ok::<(), partd::Error>(())
    /// ```
    #[must_use]
    pub fn recycle<'b>(mut self) -> Batch<'b> {
        self.ops.clear();
        // The standard library collects into the same allocation, since the types have one layout.
        Batch { ops: self.ops.into_iter().map(|op| op.with_value(&[])).collect() }
    }

    /// Returns the operations in order, by value.
    #[must_use]
    pub fn into_ops(self) -> Vec<Op<'a>> {
        self.ops
    }

    /// Adds an append: `value` goes to the end of the key's value.
    #[inline]
    pub fn append(&mut self, key: impl Into<Key>, value: &'a [u8]) -> &mut Batch<'a> {
        self.push(Op::Append(key.into(), value))
    }

    /// Adds a set: the key's value becomes `value`, unless it was set since its last delete.
    pub fn set(&mut self, key: impl Into<Key>, value: &'a [u8]) -> &mut Batch<'a> {
        self.push(Op::Set(key.into(), value))
    }

    /// Adds the removal of a key.
    pub fn delete(&mut self, key: impl Into<Key>) -> &mut Batch<'a> {
        self.push(Op::Delete(key.into()))
    }

    /// Adds the removal of every key.
    pub fn clear(&mut self) -> &mut Batch<'a> {
        self.push(Op::Clear)
    }

    /// Adds the removal of every key that begins with `prefix`, byte by byte.
    pub fn delete_prefix(&mut self, prefix: impl Into<Key>) -> &mut Batch<'a> {
        self.push(Op::DeletePrefix(prefix.into()))
    }

    /// Adds an operation.
    #[inline]
    pub fn push(&mut self, op: Op<'a>) -> &mut Batch<'a> {
        self.ops.push(op);
        self
    }

    /// Returns the operations in order.
    #[inline]
    #[must_use]
    pub fn ops(&self) -> &[Op<'a>] {
        &self.ops
    }

    /// Returns whether the batch has no operations.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.ops.is_empty()
    }

    /// Returns the total length of all values in bytes.
    #[must_use]
    pub fn value_bytes(&self) -> u64 {
        self.ops.iter().map(|op| op.value().len() as u64).sum()
    }
}

impl<'a> From<Vec<Op<'a>>> for Batch<'a> {
    fn from(ops: Vec<Op<'a>>) -> Batch<'a> {
        Batch { ops }
    }
}

impl<'a> FromIterator<Op<'a>> for Batch<'a> {
    fn from_iter<I: IntoIterator<Item = Op<'a>>>(ops: I) -> Batch<'a> {
        Batch { ops: ops.into_iter().collect() }
    }
}

impl<'a> Extend<Op<'a>> for Batch<'a> {
    fn extend<I: IntoIterator<Item = Op<'a>>>(&mut self, ops: I) {
        self.ops.extend(ops);
    }
}
