//! Follows a value: returns what was appended since the last update, and notices when the key was
//! removed.
//!
//! The sequence number of its first extent identifies a value of a key. Appends and compactions
//! keep it, and a key that was deleted and written again gets a greater one, so the index needs no
//! further record.

use std::sync::Arc;
use std::time::{Duration, Instant};

use crc32fast::Hasher;
use smallvec::SmallVec;

use crate::Key;
use crate::error::Result;
use crate::log::fs::{Disk, DiskFile, OsDisk};
use crate::log::read::reader::Reader;
use crate::log::read::snapshot::{Snapshot, total};
use crate::log::read::version::Version;
use crate::log::read::view::View;
use crate::log::segment::ahead::Ahead;
use crate::log::segment::extent::Extent;
use crate::log::seq::Seq;
use crate::log::store::Store;

/// An update ends with the extent that reaches this many bytes, or with this many extents.
const UPDATE_BYTES: u64 = 8 << 20;
const UPDATE_EXTENTS: usize = 16 << 10;
/// The bytes whose checksums are computed at a time, while they are in the CPU cache.
const PIECE_BYTES: usize = 256 << 10;
/// The shortest and the longest pause between two polls of a wait.
const PAUSE_MIN: Duration = Duration::from_micros(50);
const PAUSE_MAX: Duration = Duration::from_millis(10);

/// A position in the value of a key, from which a [`Follower`] can continue, even in another
/// process.
///
/// A power cut can undo batches that were not synced, and the store then gives their numbers to
/// other batches. A program that stores a position and must survive a power cut syncs the store
/// first.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub struct Position {
    /// The number of bytes from the start of the value.
    pub offset: u64,
    /// The sequence number of the batch with which the value began; `None` if it is not known,
    /// because the key was missing or has not been read yet.
    pub began: Option<Seq>,
}

/// A change of a key since the last update.
#[derive(Debug)]
pub enum Update<D: Disk = OsDisk> {
    /// Bytes were appended; they follow those of the previous update.
    Appended(View<D>),
    /// The key was deleted, or a first set replaced its value. The position is 0 again; if the key
    /// has a new value, its bytes are the next update.
    Removed,
}

/// A follower of a key, which returns the bytes that are appended, update by update.
///
/// Created by [`SegmentLog::follow`](crate::SegmentLog::follow). Each update lends the new bytes
/// without a copy, after comparing their checksums. Bytes before the position are read again only
/// if they share a piece with new bytes, because a compaction has joined them or the follower began
/// inside an append: a piece has one checksum. A follower that has read a value from its start
/// never rereads the first piece.
///
/// ```
/// use std::time::Duration;
/// use partd::{Partd, SegmentLog, Update};
/// let p = SegmentLog::temporary()?;
/// let mut follower = p.follow("x", 0);
/// let mut copy = Vec::new();
/// for (append, delete) in [("Hello ", false), ("world!", false), ("anew", true)] {
///     if delete {
///         p.delete(["x"])?;
///     }
///     p.append([("x", append)])?;
///     while follower.wait(Duration::ZERO)? {
///         match follower.next_update()? {
///             Some(Update::Appended(bytes)) => {
///                 bytes.chunks().for_each(|chunk| copy.extend_from_slice(chunk));
///             }
///             Some(Update::Removed) => copy.clear(),
///             None => {}
///         }
///     }
///     assert_eq!(copy, p.get("x")?);
/// }
/// # Ok::<(), partd::Error>(())
/// ```
#[derive(Debug)]
pub struct Follower<'l, D: Disk = OsDisk> {
    store: &'l Store<D>,
    reader: &'l Reader<D>,
    state: State,
}

/// A follower without its store.
#[derive(Debug)]
pub(crate) struct State {
    key: Key,
    position: Position,
    /// Where the position lies in the list of extents.
    hint: Option<Hint>,
    /// The checksum of all bytes before the position, if the follower began at 0. It saves reading
    /// them again when a compaction has joined them to new ones.
    before: Option<Hasher>,
}

/// The extent at the position: its number in the key's list, and where it starts in the value.
#[derive(Clone, Copy, Debug)]
struct Hint {
    rebuilds: u64,
    extent: usize,
    start: u64,
}

/// The result of [`State::next`]; `Appended` holds the new bytes, whose checksums were compared.
#[derive(Debug)]
pub(crate) enum News<F> {
    Appended(Snapshot<F>),
    Removed,
}

/// What the index shows since the last update.
enum Found<D: Disk> {
    /// Nothing new; contains the number with which the value began.
    Nothing(Option<Seq>),
    Removed,
    Grown {
        snapshot: Snapshot<D::File>,
        began: Seq,
        hint: Hint,
    },
}

impl State {
    pub(crate) fn new(key: Key, position: Position) -> State {
        let before = (position.offset == 0).then(Hasher::new);
        State { key, position, hint: None, before }
    }

    /// Returns the next update, and moves the position past it.
    pub(crate) fn next<D: Disk>(
        &mut self,
        store: &Store<D>,
        reader: &Reader<D>,
    ) -> Result<Option<News<D::File>>> {
        match reader.with_version(store, |version| self.look(store, version))? {
            Found::Nothing(began) => {
                self.position.began = began;
                Ok(None)
            }
            Found::Removed => {
                *self = State::new(std::mem::take(&mut self.key), Position::default());
                Ok(Some(News::Removed))
            }
            Found::Grown { snapshot, began, hint } => {
                let new = self.take(snapshot, hint)?;
                let offset = self.position.offset + new.bytes();
                self.position = Position { offset, began: Some(began) };
                Ok(Some(News::Appended(new)))
            }
        }
    }

    /// Checks for an update without reading any value.
    fn look<D: Disk>(&self, store: &Store<D>, version: &Version<D>) -> Found<D> {
        let Position { offset, began: before } = self.position;
        let slot = version.index.get(self.key.as_bytes());
        let Some((slot, first)) = slot.and_then(|slot| Some((slot, slot.extents.first()?))) else {
            return if offset > 0 { Found::Removed } else { Found::Nothing(None) };
        };
        let began = Seq::from(first.sequence());
        if offset > 0 && (before.is_some_and(|before| before != began) || offset > slot.len) {
            return Found::Removed;
        }
        if offset == slot.len {
            return Found::Nothing(Some(began));
        }
        let known =
            self.hint.filter(|hint| hint.rebuilds == version.rebuilds && before == Some(began));
        let mut hint = known.unwrap_or(Hint { rebuilds: version.rebuilds, extent: 0, start: 0 });
        let all = &slot.extents[..];
        while let Some(extent) = all.get(hint.extent)
            && hint.start + extent.len() <= offset
        {
            (hint.extent, hint.start) = (hint.extent + 1, hint.start + extent.len());
        }
        let mut bytes = 0;
        let new = all[hint.extent..].iter().take(UPDATE_EXTENTS).take_while(|extent| {
            let fits = bytes < UPDATE_BYTES;
            bytes += extent.len();
            fits
        });
        let new: SmallVec<[Extent; 1]> = new.copied().collect();
        // Only these extents: if the list itself were shared, the next append would have to copy
        // it.
        let extents = vec![Some(Arc::new(new))];
        let options = &store.options;
        let (verify, release) = (options.verify_on_read, options.release_after_read);
        let snapshot = Snapshot::new(version, extents, verify, release);
        Found::Grown { snapshot, began, hint }
    }

    /// Compares the checksums of a snapshot's extents, the first of which holds the position, and
    /// returns a snapshot of the bytes from the position on. Damage ends it before the damage.
    fn take<F: DiskFile>(
        &mut self,
        mut snapshot: Snapshot<F>,
        mut hint: Hint,
    ) -> Result<Snapshot<F>> {
        let skip = self.position.offset - hint.start;
        let mut new: SmallVec<[Extent; 1]> = snapshot.extents_of_first().iter().copied().collect();
        let mut before = self.before.clone().filter(|_| snapshot.verify);
        let (count, tail) = match snapshot.verify {
            true => check(&snapshot, skip, hint.start == 0, &mut before)?,
            false => (new.len(), unchecked_tail(&snapshot, skip)),
        };
        new.truncate(count);
        (hint.extent, hint.start) = (hint.extent + count, hint.start + total(&new));
        if let (Some(first), Some(tail)) = (new.first_mut(), tail) {
            *first = tail;
        }
        snapshot.extents = vec![Some(Arc::new(new))];
        (self.before, self.hint) = (before, Some(hint));
        Ok(snapshot)
    }
}

/// Compares the checksums of a snapshot's extents until one is damaged. Returns how many are
/// intact, and if `skip` is not 0, the first one without its first `skip` bytes. An error means
/// that the first one is damaged.
///
/// `before` is the checksum of the value before the new bytes, and is extended by them. If the
/// first extent is the start of the value (`is_start`), `before` is also the checksum of its first
/// `skip` bytes, which are then not read again.
fn check<F: DiskFile>(
    snapshot: &Snapshot<F>,
    skip: u64,
    is_start: bool,
    before: &mut Option<Hasher>,
) -> Result<(usize, Option<Extent>)> {
    let known = before.clone().filter(|_| is_start && skip > 0);
    let extents = snapshot.extents_of_first();
    let from = |i: usize| if i == 0 && known.is_some() { skip } else { 0 };
    let spans = extents.iter().enumerate();
    let spans = spans.map(|(i, extent)| snapshot.span(extent).piece(from(i), u64::MAX));
    let ahead = Ahead::new(spans, false);
    let each_piece = |bytes: &[u8], update: &mut dyn FnMut(&[u8])| {
        for piece in bytes.chunks(PIECE_BYTES) {
            ahead.begin(piece.len() as u64);
            update(piece);
        }
    };
    let mut tail = None;
    for (i, extent) in extents.iter().enumerate() {
        let segment = snapshot.segment(extent);
        let skip = if i == 0 { skip } else { 0 };
        let (old, new) = segment.value(extent).split_at(skip as usize);
        let mut whole = segment.value_hasher();
        match known.as_ref().filter(|_| i == 0) {
            Some(known) => whole.combine(known),
            None => each_piece(old, &mut |piece| whole.update(piece)),
        }
        let (mut of_tail, mut grown) = (segment.value_hasher(), before.clone());
        each_piece(new, &mut |piece| {
            whole.update(piece);
            if skip > 0 {
                of_tail.update(piece);
            }
            if let Some(grown) = &mut grown {
                grown.update(piece);
            }
        });
        match segment.compare(extent, whole.finalize()) {
            Err(error) if i == 0 => return Err(error),
            Err(_) => return Ok((i, tail)),
            Ok(()) => {}
        }
        if skip > 0 {
            tail = Some(extent.tail(skip, of_tail.finalize()));
        }
        *before = grown;
    }
    Ok((extents.len(), tail))
}

/// Returns the first extent without its first `skip` bytes; `None` if `skip` is 0.
fn unchecked_tail<F: DiskFile>(snapshot: &Snapshot<F>, skip: u64) -> Option<Extent> {
    let first = snapshot.extents_of_first().first().filter(|_| skip > 0)?;
    let segment = snapshot.segment(first);
    let checksum = segment.value_checksum(&segment.value(first)[skip as usize..]);
    Some(first.tail(skip, checksum))
}

impl<'l, D: Disk> Follower<'l, D> {
    pub(crate) fn new(
        store: &'l Store<D>,
        reader: &'l Reader<D>,
        key: Key,
        position: Position,
    ) -> Follower<'l, D> {
        Follower { store, reader, state: State::new(key, position) }
    }

    /// Returns what has happened since the last update; `None` if nothing has.
    ///
    /// An update lends at most about 8 MiB of new bytes, or one longer piece: the bytes of one
    /// append, or of several that a compaction has joined. Call it again until it returns `None`.
    ///
    /// If a key was deleted and written several times since the last call, that is one
    /// [`Removed`](Update::Removed). It is not reported if the follower has returned none of the
    /// value's bytes.
    ///
    /// # Errors
    ///
    /// [`Corrupt`](crate::ErrorKind::Corrupt) if the next bytes fail their checksum; the bytes before
    /// were returned, and the position stays before the damage.
    /// [`Forked`](crate::ErrorKind::Forked) in a child of `fork`.
    pub fn next_update(&mut self) -> Result<Option<Update<D>>> {
        let news = self.state.next(self.store, self.reader)?;
        Ok(news.map(|news| match news {
            News::Appended(new) => Update::Appended(View::of_checked(new)),
            News::Removed => Update::Removed,
        }))
    }

    /// Applies the next update to a copy of the value: appends the new bytes to it, or clears it if
    /// the key was removed. Returns false if there was none.
    ///
    /// ```
    /// use partd::{Partd, SegmentLog};
    /// let p = SegmentLog::temporary()?;
    /// let mut follower = p.follow("x", 0);
    /// let mut copy = Vec::new();
    /// p.append([("x", "Hello "), ("x", "world!")])?;
    /// while follower.read_into(&mut copy)? {}
    /// assert_eq!(copy, b"Hello world!");
    /// # Ok::<(), partd::Error>(())
    /// ```
    ///
    /// # Errors
    ///
    /// Those of [`next_update`](Follower::next_update). `value` is then unchanged.
    pub fn read_into(&mut self, value: &mut Vec<u8>) -> Result<bool> {
        match self.next_update()? {
            Some(Update::Appended(bytes)) => {
                value.reserve(bytes.len() as usize);
                bytes.pieces(PIECE_BYTES).for_each(|piece| value.extend_from_slice(piece));
                Ok(true)
            }
            Some(Update::Removed) => {
                value.clear();
                Ok(true)
            }
            None => Ok(false),
        }
    }

    /// Waits until there is an update, at most for `timeout`. Returns whether there is one.
    ///
    /// Writers do not wake followers, which may be in other processes: a wake-up would cost every
    /// append a system call. So the wait polls one word of shared memory that each commit changes,
    /// and checks the key if the word has changed. A pause is an eighth of the time waited so far,
    /// from 50 µs to 10 ms, so a wait takes at most an eighth or 50 µs longer than necessary, and
    /// hardly any processor time.
    ///
    /// # Errors
    ///
    /// Those of [`keys`](crate::Partd::keys).
    pub fn wait(&self, timeout: Duration) -> Result<bool> {
        let (start, mut seen) = (Instant::now(), None);
        loop {
            let visible = self.store.visible();
            if seen != Some(visible) {
                let found = self
                    .reader
                    .with_version(self.store, |version| self.state.look(self.store, version))?;
                if !matches!(found, Found::Nothing(_)) {
                    return Ok(true);
                }
                seen = Some(visible);
            }
            let waited = start.elapsed();
            if waited >= timeout {
                return Ok(false);
            }
            std::thread::sleep(pause(waited).min(timeout - waited));
        }
    }

    /// Returns the position after the last update. [`SegmentLog::follow_from`] continues there.
    ///
    /// [`SegmentLog::follow_from`]: crate::SegmentLog::follow_from
    #[must_use]
    pub fn position(&self) -> Position {
        self.state.position
    }
}

/// How long to pause before the next poll after `waited` without an update.
pub(crate) fn pause(waited: Duration) -> Duration {
    (waited / 8).clamp(PAUSE_MIN, PAUSE_MAX)
}
