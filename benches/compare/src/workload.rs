//! The workloads: batches of one value for each key, cut from a pool of random bytes.
//!
//! Every engine receives the same bytes in the same batches, in the same order of keys.

use std::fs;
use std::path::Path;

use anyhow::{Context, Result, ensure};
use crc32fast::Hasher;

/// The length of the pool. It exceeds the caches, as the output of a query's operators does.
const POOL_BYTES: usize = 64 << 20;

/// Values for all keys in turn, some number of times, appended some values at a time.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Workload {
    /// The length of one value in bytes.
    pub(crate) value: usize,
    pub(crate) keys: usize,
    /// The number of values that each key gets.
    pub(crate) batches: usize,
    /// The number of values in one append.
    pub(crate) call: usize,
}

/// One value on its way to a key.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Piece<'a> {
    pub(crate) key: usize,
    pub(crate) value: &'a [u8],
}

impl Workload {
    /// The workloads of the tables.
    pub(crate) const ALL: [Workload; 5] = [
        Workload::new(4 << 10, 256, 500),
        Workload::new(1 << 10, 4096, 100),
        Workload::new(128, 256, 4000),
        Workload::new(256, 65_536, 16),
        Workload::new(256 << 10, 64, 64),
    ];

    /// A workload of batches with one value for each key.
    pub(crate) const fn new(value: usize, keys: usize, batches: usize) -> Workload {
        Workload { value, keys, batches, call: keys }
    }

    /// The same with a twentieth of the batches, to try the program.
    pub(crate) fn quick(self) -> Workload {
        Workload { batches: (self.batches / 20).max(2), ..self }
    }

    pub(crate) fn bytes(&self) -> u64 {
        (self.value * self.keys * self.batches) as u64
    }

    /// The name in tables: `4 KiB × 256 keys × 500`.
    pub(crate) fn name(&self) -> String {
        let size = match self.value {
            value if value >= 1024 => format!("{} KiB", value / 1024),
            value => format!("{value} B"),
        };
        format!("{size} × {} keys × {}", thousands(self.keys), thousands(self.batches))
    }

    /// The name on a command line: `4KiB`.
    pub(crate) fn slug(&self) -> String {
        let name = self.name();
        name.split(" ×").next().unwrap_or_default().replace(' ', "")
    }

    /// The key's name, of the same length for every key.
    pub(crate) fn key_name(key: usize) -> String {
        format!("part-{key:07}")
    }

    /// The value of a key in a batch: a window of the pool.
    pub(crate) fn value_of<'p>(&self, pool: &'p [u8], batch: usize, key: usize) -> &'p [u8] {
        let start = (batch * 7919 + key * 104_729) % (pool.len() - self.value);
        &pool[start..start + self.value]
    }

    /// The number of appends.
    pub(crate) fn calls(&self) -> usize {
        (self.keys * self.batches).div_ceil(self.call)
    }

    /// Fills `pieces` with the values of an append.
    pub(crate) fn pieces<'p>(&self, pool: &'p [u8], call: usize, pieces: &mut Vec<Piece<'p>>) {
        pieces.clear();
        let first = call * self.call;
        let end = (first + self.call).min(self.keys * self.batches);
        pieces.extend((first..end).map(|i| {
            let (batch, key) = (i / self.keys, i % self.keys);
            Piece { key, value: self.value_of(pool, batch, key) }
        }));
    }

    /// The length and the checksum that each key's value must have.
    pub(crate) fn expected(&self, pool: &[u8]) -> Vec<Digest> {
        let of_key = |key| {
            let mut hasher = Hasher::new();
            (0..self.batches).for_each(|batch| hasher.update(self.value_of(pool, batch, key)));
            Digest { len: (self.value * self.batches) as u64, crc: hasher.finalize() }
        };
        (0..self.keys).map(of_key).collect()
    }
}

/// The length and the CRC-32 of a value.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Digest {
    pub(crate) len: u64,
    pub(crate) crc: u32,
}

impl Digest {
    pub(crate) fn of(value: &[u8]) -> Digest {
        Digest { len: value.len() as u64, crc: crc32fast::hash(value) }
    }
}

/// Creates the file of random bytes that every process reads its values from.
pub(crate) fn create_pool(path: &Path) -> Result<Vec<u8>> {
    let word = |i: u64| (i.wrapping_mul(0x9E37_79B9_7F4A_7C15) ^ (i >> 7)).to_le_bytes();
    let pool: Vec<u8> = (0..POOL_BYTES as u64 / 8).flat_map(word).collect();
    fs::write(path, &pool).with_context(|| format!("cannot write {}", path.display()))?;
    Ok(pool)
}

/// Reads the pool that [`create_pool`] has written.
pub(crate) fn read_pool(path: &Path) -> Result<Vec<u8>> {
    let pool = fs::read(path).with_context(|| format!("cannot read {}", path.display()))?;
    ensure!(pool.len() == POOL_BYTES, "{} is not a pool of this program", path.display());
    Ok(pool)
}

/// `65536` as `65,536`.
pub(crate) fn thousands(number: usize) -> String {
    let digits = number.to_string();
    let mut text = String::new();
    for (i, digit) in digits.chars().enumerate() {
        if i > 0 && (digits.len() - i).is_multiple_of(3) {
            text.push(',');
        }
        text.push(digit);
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_say_the_size_the_keys_and_the_batches() {
        let names: Vec<String> = Workload::ALL.iter().map(Workload::name).collect();
        assert_eq!(names[0], "4 KiB × 256 keys × 500");
        assert_eq!(names[3], "256 B × 65,536 keys × 16");
        assert_eq!(Workload::ALL.map(|w| w.slug()).join(" "), "4KiB 1KiB 128B 256B 256KiB");
    }
}
