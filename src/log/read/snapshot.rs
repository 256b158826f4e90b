//! The values of some keys at one moment, which a read copies, or lends as chunks of the mapping.
//!
//! Each value's checksum is compared, unless an option says otherwise.

use crate::Key;
use crate::error::{Error, Result};
use crate::log::fs::{Disk, DiskFile};
use crate::log::options::Options;
use crate::log::read::index::Extents;
use crate::log::read::pins::Pins;
use crate::log::read::unverified::Unverified;
use crate::log::read::version::Version;
use crate::log::segment::Segment;
use crate::log::segment::ahead;
use crate::log::segment::extent::Extent;
use crate::log::store::Store;
use crate::threads::{self, LentPool};

/// Below this many bytes in total, one thread is faster than several.
pub(super) const PARALLEL_MIN_BYTES: u64 = 256 << 10;
/// Below this many bytes in memory, one thread compares checksums faster than several do: a core
/// computes 10 to 50 GB/s.
const PARALLEL_CHECK_MIN_BYTES: u64 = 8 << 20;
/// A value longer than this is copied in pieces of about this length.
pub(super) const PIECE_BYTES: u64 = 1 << 20;

/// The values of some keys at one moment. They stay readable whatever happens to the store.
#[derive(Debug)]
pub(crate) struct Snapshot<F> {
    pins: Pins<F>,
    pub(super) extents: Vec<Option<Extents>>,
    /// The `rebuilds` of the version, which says whose segment numbers the extents use.
    rebuilds: u64,
    pub(super) verify: bool,
    /// Whether a read drops the pages that it fetched from disk.
    pub(super) release: bool,
}

impl<F: DiskFile> Snapshot<F> {
    /// Creates a snapshot of some extents of a version.
    pub(crate) fn new<D: Disk<File = F>>(
        version: &Version<D>,
        extents: Vec<Option<Extents>>,
        verify: bool,
        release: bool,
    ) -> Snapshot<F> {
        let all = extents.iter().flatten().flat_map(|list| list.iter());
        let pins = Pins::new(&version.segments, all);
        Snapshot { pins, extents, rebuilds: version.rebuilds, verify, release }
    }

    /// Creates a snapshot of one key's value, whose segments are among `pins`.
    pub(super) fn of_one(
        pins: &Pins<F>,
        extents: Extents,
        verify: bool,
        release: bool,
    ) -> Snapshot<F> {
        let pins = pins.subset(extents.iter());
        // Such a snapshot is compared with no other, so the version does not matter.
        Snapshot { pins, extents: vec![Some(extents)], rebuilds: 0, verify, release }
    }

    /// Creates a snapshot of the keys' values in a version.
    pub(crate) fn of_keys<D: Disk<File = F>>(
        store: &Store<D>,
        version: &Version<D>,
        keys: &[Key],
    ) -> Snapshot<F> {
        let extents =
            |key: &Key| version.index.get(key.as_bytes()).map(|slot| slot.extents.clone());
        let Options { verify_on_read, release_after_read, .. } = store.options;
        let extents = keys.iter().map(extents).collect();
        Snapshot::new(version, extents, verify_on_read, release_after_read)
    }

    /// Fails if the values are longer in total than a read may return.
    pub(crate) fn check_read<D: Disk<File = F>>(&self, store: &Store<D>) -> Result<()> {
        match store.options.max_read_bytes {
            Some(max) if self.bytes() > max => {
                let path = store.directory.path().to_path_buf();
                Err(Error::ReadTooLarge { path, bytes: self.bytes(), max })
            }
            _ => Ok(()),
        }
    }

    /// Makes reads of the snapshot drop the pages that they fetch, for values that will not be read
    /// again.
    pub(crate) fn releasing(mut self) -> Snapshot<F> {
        self.release = true;
        self
    }

    /// Returns the bytes of all values.
    pub(crate) fn bytes(&self) -> u64 {
        self.lists().map(total).sum()
    }

    /// Returns the extents of the first key, none if the key is missing.
    pub(super) fn extents_of_first(&self) -> &[Extent] {
        self.extents.first().map_or(&[], list_of)
    }

    /// Returns the `rebuilds` of the version that the snapshot was taken from.
    pub(super) fn rebuilds(&self) -> u64 {
        self.rebuilds
    }

    #[inline]
    pub(super) fn segment(&self, extent: &Extent) -> &Segment<F> {
        self.pins.segment(extent)
    }

    /// Returns the segment of an extent, to keep it alive beyond the snapshot.
    #[cfg(feature = "bytes")]
    pub(super) fn pinned(&self, extent: &Extent) -> &std::sync::Arc<Segment<F>> {
        self.pins.segment(extent)
    }

    /// Returns the chunks of each key's value in the mapping, after comparing their checksums.
    pub(crate) fn chunks(&self, pool: Option<&LentPool>) -> Result<Vec<Vec<&[u8]>>> {
        self.check(pool)?;
        let value = |extent| self.segment(extent).value(extent);
        Ok(self.lists().map(|list| list.iter().map(value).collect()).collect())
    }

    /// Lends the chunks of each key's value to `visit`, which is to verify them. If some are not in
    /// memory, all are read from disk first, and compared, in the order of the log.
    pub(crate) fn visit_unverified<D: Disk<File = F>, T>(
        &self,
        pool: Option<&LentPool>,
        visit: impl FnOnce(&[Vec<Unverified<'_, D>>]) -> T,
    ) -> Result<T> {
        let all = self.all_extents();
        let is_missing = self.is_any_missing(&all);
        let _release = (is_missing && self.release).then(|| Release(self));
        if self.verify && is_missing {
            self.compare_all(pool, all, is_missing, false)?;
        }
        let chunk = |extent| Unverified::new(self.segment(extent), extent, self.verify);
        let chunks: Vec<Vec<_>> =
            self.lists().map(|list| list.iter().map(chunk).collect()).collect();
        Ok(visit(&chunks))
    }

    /// Compares the checksums of all values, unless this is turned off.
    pub(super) fn check(&self, pool: Option<&LentPool>) -> Result<()> {
        if !self.verify {
            return Ok(());
        }
        let all = self.all_extents();
        let is_missing = self.is_any_missing(&all);
        self.compare_all(pool, all, is_missing, self.release)
    }

    /// Compares the checksums of some extents. If they are not in memory, reads ahead; with `release`,
    /// drops the pages that this fetches.
    fn compare_all(
        &self,
        pool: Option<&LentPool>,
        extents: Vec<&Extent>,
        is_missing: bool,
        release: bool,
    ) -> Result<()> {
        let bytes: u64 = extents.iter().map(|extent| extent.len()).sum();
        let min = if is_missing { PARALLEL_MIN_BYTES } else { PARALLEL_CHECK_MIN_BYTES };
        threads::spread_if(bytes >= min, pool, |team| {
            if is_missing {
                return self.check_ahead(team, &extents, release);
            }
            let check = |extent: &Extent| self.segment(extent).checked_value(extent).map(drop);
            team.try_map(extents, check).map(drop)
        })
    }

    /// Returns the extents of each key, none for a missing key.
    pub(super) fn lists(&self) -> impl Iterator<Item = &[Extent]> {
        self.extents.iter().map(list_of)
    }

    fn all_extents(&self) -> Vec<&Extent> {
        self.lists().flatten().collect()
    }

    /// Whether some of the extents are not in memory, judged by a few samples.
    fn is_any_missing(&self, extents: &[&Extent]) -> bool {
        let bytes = extents.iter().map(|extent| extent.len()).sum();
        ahead::is_missing(extents.len(), bytes, |i| self.span(extents[i]))
    }

    /// Updates values of an earlier snapshot of the same keys to this one. If a value has only
    /// grown, only its new extents are read.
    pub(crate) fn bring_up(&self, before: &Snapshot<F>, values: &mut [Vec<u8>]) -> Result<()> {
        for (key, value) in values.iter_mut().enumerate() {
            let (new, is_all) = self.since(before, key);
            if is_all {
                value.clear();
            }
            value.reserve_exact(total(new) as usize);
            self.fetch_missing(&[new]);
            new.iter().try_for_each(|extent| self.append(extent, value))?;
        }
        Ok(())
    }

    /// Returns the bytes that [`bring_up`](Snapshot::bring_up) would read.
    pub(crate) fn new_bytes(&self, before: &Snapshot<F>) -> u64 {
        (0..self.extents.len()).map(|key| total(self.since(before, key).0)).sum()
    }

    /// Returns a key's extents that an earlier snapshot does not have, and `false`. If the value
    /// has done more than grow, returns all its extents and `true`.
    fn since<'s>(&'s self, before: &Snapshot<F>, key: usize) -> (&'s [Extent], bool) {
        let (now, then) = (list_of(&self.extents[key]), list_of(&before.extents[key]));
        match self.rebuilds == before.rebuilds && now.starts_with(then) {
            true => (&now[then.len()..], false),
            false => (now, true),
        }
    }
}

/// Releases the pages of a snapshot when it is dropped.
struct Release<'s, F: DiskFile>(&'s Snapshot<F>);

impl<F: DiskFile> Drop for Release<'_, F> {
    fn drop(&mut self) {
        for extent in self.0.lists().flatten() {
            ahead::release(&[self.0.span(extent)]);
        }
    }
}

fn list_of(key: &Option<Extents>) -> &[Extent] {
    key.as_deref().map_or(&[], |list| list)
}

pub(super) fn total(extents: &[Extent]) -> u64 {
    extents.iter().map(Extent::len).sum()
}
