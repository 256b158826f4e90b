//! The trait of stores in memory, which a buffer fills and empties.

use super::{Batch, Durability, Op, Partd};
use crate::{Key, Result};

/// A store in memory that can be the fast half of a [`Buffer`](crate::Buffer).
///
/// [`Dict`](crate::Dict) and every layer over it implement it.
#[diagnostic::on_unimplemented(
    message = "`{Self}` does not hold its values in memory",
    note = "the fast half of a `Buffer` is a `Dict`, or a layer such as `Lz4` over a `Dict`"
)]
pub trait MemoryStore: Partd {
    /// Returns the memory that the store takes for keys and values, in bytes.
    #[must_use]
    fn memory_bytes(&self) -> u64;

    /// Returns the part of [`memory_bytes`](MemoryStore::memory_bytes) that holds nothing, and that
    /// the store keeps for values to come. The provided method returns 0.
    #[must_use]
    fn spare_bytes(&self) -> u64 {
        0
    }

    /// Gives back the memory that the store keeps for values to come, as far as possible. The
    /// provided method does nothing.
    fn release_spare(&self) {}

    /// Returns the length of each key's value, 0 for a missing key, if the store knows them without
    /// decoding anything. The provided method returns an empty list, which says that it does not.
    #[doc(hidden)]
    fn known_lens(&self, _keys: &[Key]) -> Vec<usize> {
        Vec::new()
    }

    /// Writes the batch if the store then takes at most `limit_bytes` of memory, and returns whether
    /// it did.
    ///
    /// `false` means that nothing has changed; a batch slightly below the limit may be refused too.
    /// The durability is [`Plain`](Durability::Plain). An implementation keeps to the limit even
    /// when several threads write at the same time. The provided one does not: it checks first and
    /// then writes, so it suits stores with one writing thread.
    ///
    /// # Errors
    ///
    /// Those of [`write`](Partd::write).
    fn write_within(&self, batch: &Batch<'_>, limit_bytes: u64) -> Result<bool> {
        let keys = batch.ops().iter().filter_map(Op::key).map(|key| key.len() as u64);
        let coming = batch.value_bytes() + keys.sum::<u64>();
        if self.memory_bytes().saturating_add(coming) > limit_bytes {
            return Ok(false);
        }
        self.write(batch, Durability::Plain)?;
        Ok(true)
    }

    /// Returns the keys with the longest values, as many as it takes to free about `bytes` of
    /// memory, in no particular order.
    ///
    /// # Errors
    ///
    /// Those of the store.
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
