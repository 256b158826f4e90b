//! The engines, one file each. No engine knows of another.

pub(crate) mod buffer;
pub(crate) mod files;
pub(crate) mod fjall;
pub(crate) mod limit_mapped;
pub(crate) mod limit_written;
pub(crate) mod lmdb;
pub(crate) mod ranges;
pub(crate) mod redb;
#[cfg(feature = "rocksdb")]
pub(crate) mod rocks;
pub(crate) mod segment_log;

/// The entry of a key in a batch, for stores whose keys have one value: entries of a key sort
/// together, in the order of the batches.
pub(crate) fn entry_name(entry: &mut Vec<u8>, name: &str, batch: u32) {
    entry.clear();
    entry.extend_from_slice(name.as_bytes());
    entry.extend_from_slice(&batch.to_be_bytes());
}
