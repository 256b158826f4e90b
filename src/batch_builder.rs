//! `BatchBuilder`, a batch that owns its values and keeps its memory from one use to the next.

use crate::batch::{Batch, Op};
use crate::partd::{Durability, Partd};
use crate::{Key, KeyPart, Result};

/// Builds batches that own their values, one after the other in the same memory.
///
/// It copies keys and values into buffers that grow to the size of the largest batch and then stay,
/// so a builder that is reused allocates nothing. Use it if the values do not live until the batch
/// is written; if they do, a [`Batch`] borrows them without a copy.
///
/// ```
/// use partd::{BatchBuilder, Dict, Durability, Partd};
/// let p = Dict::new();
/// let mut builder = BatchBuilder::new();
/// for i in 0..3_u8 {
///     builder.append(("part", i), format!("row {i}")).append("count", [i]);
///     builder.write(&p, Durability::Plain)?; // and is empty again
/// }
/// assert_eq!(p.get(("part", 2))?, b"row 2");
/// assert_eq!(p.get("count")?, [0, 1, 2]);
/// # Ok::<(), partd::Error>(())
/// ```
#[derive(Debug, Default)]
pub struct BatchBuilder {
    /// The operations without their values.
    ops: Vec<Op<'static>>,
    /// Where each operation's value ends in `bytes`; it begins where the one before ends.
    ends: Vec<usize>,
    bytes: Vec<u8>,
    /// Keys of earlier batches that own heap memory, to be overwritten.
    spare: Vec<Key>,
}

impl BatchBuilder {
    /// Creates an empty builder.
    #[must_use]
    pub fn new() -> BatchBuilder {
        BatchBuilder::default()
    }

    /// Adds an append: `value` goes to the end of the key's value.
    pub fn append(&mut self, key: impl KeyPart, value: impl AsRef<[u8]>) -> &mut BatchBuilder {
        let key = self.key(&key);
        self.push(Op::Append(key, &[]), value.as_ref())
    }

    /// Adds a set: the key's value becomes `value`, unless it was set since its last delete.
    pub fn set(&mut self, key: impl KeyPart, value: impl AsRef<[u8]>) -> &mut BatchBuilder {
        let key = self.key(&key);
        self.push(Op::Set(key, &[]), value.as_ref())
    }

    /// Adds the removal of a key.
    pub fn delete(&mut self, key: impl KeyPart) -> &mut BatchBuilder {
        let key = self.key(&key);
        self.push(Op::Delete(key), &[])
    }

    /// Adds the removal of every key.
    pub fn clear(&mut self) -> &mut BatchBuilder {
        self.push(Op::Clear, &[])
    }

    /// Adds the removal of every key that begins with `prefix`, byte by byte.
    pub fn delete_prefix(&mut self, prefix: impl KeyPart) -> &mut BatchBuilder {
        let prefix = self.key(&prefix);
        self.push(Op::DeletePrefix(prefix), &[])
    }

    /// Returns the number of operations.
    #[must_use]
    pub fn len(&self) -> usize {
        self.ops.len()
    }

    /// Returns whether there are no operations.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.ops.is_empty()
    }

    /// Returns the total length of all values in bytes, to decide when to write.
    #[must_use]
    pub fn value_bytes(&self) -> u64 {
        // After a panic in `with_batch`, `bytes` may hold more.
        self.ends.last().map_or(0, |&end| end as u64)
    }

    /// Removes all operations and keeps the memory. (`clear` adds an operation.)
    pub fn reset(&mut self) {
        for op in self.ops.drain(..) {
            if let Op::Append(key, _) | Op::Set(key, _) | Op::Delete(key) | Op::DeletePrefix(key) =
                op
                && key.heap_bytes() > 0
            {
                self.spare.push(key);
            }
        }
        self.ends.clear();
        self.bytes.clear();
    }

    /// Writes the operations as one batch, and removes them if that succeeds.
    ///
    /// An empty builder writes an empty batch.
    ///
    /// # Errors
    ///
    /// Those of [`Partd::write`]. The operations then stay, so that the write can be repeated, for
    /// instance once there is space. After [`SyncFailed`](crate::ErrorKind::SyncFailed) or an error
    /// of a sync the batch may be in the store already; [`reset`](BatchBuilder::reset) drops it.
    pub fn write(&mut self, store: &(impl Partd + ?Sized), durability: Durability) -> Result<()> {
        self.with_batch(|batch| store.write(batch, durability))?;
        self.reset();
        Ok(())
    }

    /// Passes the operations to `visit` as a batch, and keeps them.
    ///
    /// Use it for calls that return more than [`write`](BatchBuilder::write), such as the sequence
    /// number:
    ///
    /// ```
    /// use partd::{BatchBuilder, Durability, SegmentLog};
    /// let p = SegmentLog::temporary()?;
    /// let mut builder = BatchBuilder::new();
    /// builder.append("x", "Hello ").append("x", "world!");
    /// let seq = builder.with_batch(|batch| p.commit(batch, Durability::Plain))?;
    /// builder.reset();
    /// p.sync_to(seq)?;
    /// # Ok::<(), partd::Error>(())
    /// ```
    pub fn with_batch<T>(&mut self, visit: impl FnOnce(&Batch<'_>) -> T) -> T {
        // Both lists change their lifetime in place: the standard library collects into the same
        // allocation. If `visit` panics, the operations are gone and the builder stays usable.
        let ops = std::mem::take(&mut self.ops);
        let ends = std::mem::take(&mut self.ends);
        let mut start = 0;
        let mut values = ends.iter().map(|&end| {
            let value = &self.bytes[start..end];
            start = end;
            value
        });
        let full = ops.into_iter().map(|op| op.with_value(values.next().unwrap_or_default()));
        let batch = Batch::from(full.collect::<Vec<Op<'_>>>());
        let result = visit(&batch);
        self.ops = batch.into_ops().into_iter().map(|op| op.with_value(&[])).collect();
        self.ends = ends;
        result
    }

    fn key(&mut self, part: &impl KeyPart) -> Key {
        let mut key = self.spare.pop().unwrap_or_default();
        key.assign(part);
        key
    }

    fn push(&mut self, op: Op<'static>, value: &[u8]) -> &mut BatchBuilder {
        if self.ops.is_empty() {
            // After a panic in `with_batch`, values may be left.
            self.bytes.clear();
        }
        self.bytes.extend_from_slice(value);
        self.ends.push(self.bytes.len());
        self.ops.push(op);
        self
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{Dict, ErrorKind, SegmentLog};

    #[test]
    fn a_builder_passes_the_operations_that_a_batch_would_have() {
        let mut builder = BatchBuilder::new();
        let long = "a key longer than sixteen bytes";
        let fill = |builder: &mut BatchBuilder| {
            builder.append(("a", 1), b"one").set(long, "two").delete(7).delete_prefix((long, "p"));
            builder.clear().append("", vec![3; 3]);
        };
        let mut expected = Batch::new();
        expected.append(("a", 1), b"one").set(long, b"two").delete(7).delete_prefix((long, "p"));
        expected.clear().append("", &[3; 3]);
        for _ in 0..3 {
            fill(&mut builder);
            assert_eq!((builder.len(), builder.value_bytes()), (6, 9));
            // The operations stay until a reset.
            for _ in 0..2 {
                builder.with_batch(|batch| assert_eq!(batch.ops(), expected.ops()));
            }
            builder.reset();
            assert!(builder.is_empty());
        }
    }

    #[test]
    fn keys_of_recycled_memory_equal_new_ones() {
        let mut key = Key::default();
        for round in 0..3 {
            key.assign(&"a string that owns heap memory");
            assert_eq!(key, Key::from("a string that owns heap memory"));
            key.assign(&("a", round, ("nested", 1_u8)));
            assert_eq!(key, Key::from(("a", round, ("nested", 1_u8))));
            key.assign(&round);
            assert_eq!(key, Key::from(round));
            key.assign(&(round,));
            assert_eq!(key, Key::from((round,)));
            key.assign(&&Key::from(b"\0"));
            assert_eq!(key, Key::from(b"\0"));
        }
    }

    #[test]
    fn a_failed_write_keeps_the_operations_for_another_try() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("store");
        drop(SegmentLog::open(&path).unwrap());
        let read_only = SegmentLog::open_read_only(&path).unwrap();
        let mut builder = BatchBuilder::new();
        builder.append("x", "Hello");
        let error = builder.write(&read_only, Durability::Plain).unwrap_err();
        assert_eq!(error.kind(), ErrorKind::ReadOnly);
        let store: &dyn Partd = &Dict::new();
        builder.write(store, Durability::Plain).unwrap();
        assert!(builder.is_empty());
        assert_eq!((&store).get("x").unwrap(), b"Hello");
    }

    #[test]
    fn a_panic_in_the_use_of_a_batch_leaves_an_empty_builder() {
        let mut builder = BatchBuilder::new();
        builder.append("x", "lost");
        let panicked = std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| {
            builder.with_batch(|_| panic!("in a test"));
        }));
        assert!(panicked.is_err() && builder.is_empty());
        assert_eq!(builder.value_bytes(), 0);
        builder.append("y", "kept");
        builder.with_batch(|batch| {
            assert_eq!(batch.ops(), [Op::Append("y".into(), b"kept")]);
        });
    }
}
