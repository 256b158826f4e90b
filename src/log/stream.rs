//! The methods of `SegmentLog` that read values piece by piece: readers, followers and entries.

use crate::Key;
use crate::error::Result;
use crate::log::SegmentLog;
use crate::log::fs::Disk;
use crate::log::maintain::engine::Engine;
use crate::log::read::entries::Entries;
use crate::log::read::follow::{Follower, Position};
#[cfg(feature = "tokio")]
use crate::log::read::follow::{News, State as FollowState};
use crate::log::read::value_reader::ValueReader;

impl<D: Disk> SegmentLog<D> {
    /// Returns a reader of the key's value as it is now: `Read`, `BufRead` and `Seek` in bounded
    /// memory. A missing key has an empty value.
    ///
    /// # Errors
    ///
    /// Those of [`keys`](crate::Partd::keys). Damage of the value is an error of the reader.
    pub fn reader(&self, key: impl Into<Key>) -> Result<ValueReader<D>> {
        let Engine { store, reader, .. } = &*self.engine;
        Ok(ValueReader::new(reader.snapshot(store, &[key.into()])?))
    }

    /// Follows the key from a byte offset: returns what is appended, without reading it twice, and
    /// notices when the key is removed.
    ///
    /// If the value is shorter than `offset`, the first update is
    /// [`Removed`](crate::Update::Removed). [`follow_from`](SegmentLog::follow_from) also notices a
    /// rewritten value that is as long or longer.
    #[must_use]
    pub fn follow(&self, key: impl Into<Key>, offset: u64) -> Follower<'_, D> {
        self.follow_from(key, Position { offset, began: None })
    }

    /// Follows the key from the [position](Follower::position) of an earlier follower.
    #[must_use]
    pub fn follow_from(&self, key: impl Into<Key>, position: Position) -> Follower<'_, D> {
        let Engine { store, reader, .. } = &*self.engine;
        Follower::new(store, reader, key.into(), position)
    }

    /// Returns the next update of a follower that does not borrow the handle.
    #[cfg(feature = "tokio")]
    pub(crate) fn next_news(&self, state: &mut FollowState) -> Result<Option<News<D::File>>> {
        let Engine { store, reader, .. } = &*self.engine;
        state.next(store, reader)
    }

    /// Returns every key with a view of its value, all as they are now, in key order.
    ///
    /// ```
    /// use partd::{Partd, SegmentLog};
    /// let p = SegmentLog::temporary()?;
    /// p.append([("b", "1"), ("a", "2"), ("b", "3")])?;
    /// for entry in p.entries()? {
    ///     let (key, value) = entry?;
    ///     p.delete([&key])?; // changes nothing that the iterator shows
    ///     println!("{key}: {} bytes", value.len());
    /// }
    /// # Ok::<(), partd::Error>(())
    /// ```
    ///
    /// # Errors
    ///
    /// Those of [`keys`](crate::Partd::keys).
    pub fn entries(&self) -> Result<Entries<D>> {
        self.entries_with_prefix(Key::default())
    }

    /// Returns the keys that begin with `prefix`, as [`entries`](SegmentLog::entries) does.
    ///
    /// # Errors
    ///
    /// Those of [`keys`](crate::Partd::keys).
    pub fn entries_with_prefix(&self, prefix: impl Into<Key>) -> Result<Entries<D>> {
        let Engine { store, reader, .. } = &*self.engine;
        Entries::new(store, reader, &prefix.into())
    }
}
