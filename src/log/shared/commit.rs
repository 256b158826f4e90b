//! The commit protocol, which assigns sequence numbers to the batches of all threads and processes.
//!
//! The commit word `H` of the control file is `sequence | slot | done`. One compare-and-swap takes
//! the next sequence number and names the writer's slot, which holds the position of the batch.
//! Then the state word of the batch receives the number, and `H` is marked done. A process that
//! finds `H` not done for long completes the last two steps itself, so a stopped or dead process
//! blocks no other, and the history has no gaps. Readers see the history up to
//! `done ? sequence : sequence - 1`.
//!
//! Generic over its words, so that a model checker can run it on its own atomics.

use std::sync::atomic::Ordering::{AcqRel, Acquire, Release};

pub use std::sync::atomic::Ordering;

use partd_format::SEQUENCE_MAX;
pub use partd_format::control::Commit;

/// A shared 8-byte word.
pub trait Word {
    /// Loads the word.
    fn load(&self, order: Ordering) -> u64;
    /// Stores the word.
    fn store(&self, value: u64, order: Ordering);
    /// Replaces the word if it is `current`; on failure returns what was there.
    fn compare_exchange(
        &self,
        current: u64,
        new: u64,
        success: Ordering,
        failure: Ordering,
    ) -> Result<u64, u64>;
}

/// The position of a batch.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Position {
    /// The id of its segment.
    pub segment: u64,
    /// The offset of its link word.
    pub offset: u64,
}

/// Access to the words of the protocol.
pub trait Words {
    /// A word of the control file.
    type Word<'a>: Word
    where
        Self: 'a;
    /// Why a state word could not be reached.
    type Error;
    /// How many times a writer rereads an unfinished commit word before it completes the commit.
    const PATIENCE: u32 = 100;

    /// The commit word.
    fn commit(&self) -> Self::Word<'_>;
    /// The words of a slot that hold the position of its batch: segment and offset.
    fn position(&self, slot: u16) -> (Self::Word<'_>, Self::Word<'_>);
    /// Sets the state of a batch to committed with `sequence`, if it is still 0.
    ///
    /// Must be a compare-and-swap that acquires and releases.
    fn mark_committed(&self, position: Position, sequence: u64) -> Result<(), Self::Error>;
    /// Pauses briefly while another writer finishes its commit.
    fn relax(&self) {
        std::hint::spin_loop();
    }
}

/// Why a batch was not committed. It is not in the history, and never will be at its position once
/// its state is void.
#[derive(Debug, PartialEq, Eq)]
pub enum CommitError<E> {
    /// Every sequence number has been used.
    HistoryFull,
    /// Another writer's commit is unfinished, and its batch cannot be accessed.
    Help(E),
    /// The condition of [`commit_if`] does not hold.
    Overtaken,
}

/// Commits the batch at `position` and returns its sequence number.
///
/// The caller owns `slot`, commits one batch at a time through it, and called [`take_over`] when it
/// became the owner. The whole batch must already be written.
pub fn commit<W: Words>(
    words: &W,
    slot: u16,
    position: Position,
) -> Result<u64, CommitError<W::Error>> {
    commit_if(words, slot, position, || true)
}

/// Commits as [`commit`] does if `holds` returns true. `holds` is called after the last read of the
/// commit word and before the exchange that takes the number, so it sees everything that happened
/// before any batch that precedes the new one.
pub fn commit_if<W: Words>(
    words: &W,
    slot: u16,
    position: Position,
    holds: impl Fn() -> bool,
) -> Result<u64, CommitError<W::Error>> {
    let (segment, offset) = words.position(slot);
    // No commit of this slot is unfinished, so nobody uses these words until the compare-and-swap
    // below publishes them.
    segment.store(position.segment, Release);
    offset.store(position.offset, Release);
    let word = words.commit();
    let mut patience = W::PATIENCE;
    loop {
        let seen = word.load(Acquire);
        let last = Commit::decode(seen);
        if !last.done {
            if patience > 0 {
                patience -= 1;
                words.relax();
            } else {
                help(words, seen).map_err(CommitError::Help)?;
            }
            continue;
        }
        if last.sequence >= SEQUENCE_MAX {
            return Err(CommitError::HistoryFull);
        }
        if !holds() {
            return Err(CommitError::Overtaken);
        }
        let mine = Commit { sequence: last.sequence + 1, slot, done: false };
        if word.compare_exchange(seen, mine.encode(), AcqRel, Acquire).is_err() {
            continue;
        }
        // From here on the batch is in the history, whoever completes the commit.
        let marked = words.mark_committed(position, mine.sequence);
        debug_assert!(marked.is_ok(), "a writer reaches its own segment");
        let done = Commit { done: true, ..mine };
        // Fails if another process has completed the commit.
        let _ = word.compare_exchange(mine.encode(), done.encode(), AcqRel, Acquire);
        return Ok(mine.sequence);
    }
}

/// Completes the commit of any writer that `seen` shows as unfinished.
pub fn help<W: Words>(words: &W, seen: u64) -> Result<(), W::Error> {
    let open = Commit::decode(seen);
    if open.done {
        return Ok(());
    }
    let (segment, offset) = words.position(open.slot);
    let position = Position { segment: segment.load(Acquire), offset: offset.load(Acquire) };
    let word = words.commit();
    // The owner changes its position only after its commit is done, so if the commit word has not
    // changed, both halves of the position belong to it.
    if word.load(Acquire) != seen {
        return Ok(());
    }
    if let Err(error) = words.mark_committed(position, open.sequence) {
        // If another process has completed the commit meanwhile, a compaction may already have
        // removed the segment.
        return if word.load(Acquire) == seen { Err(error) } else { Ok(()) };
    }
    let done = Commit { done: true, ..open };
    let _ = word.compare_exchange(seen, done.encode(), AcqRel, Acquire);
    Ok(())
}

/// Completes the commit that a dead predecessor left unfinished in a slot, before the new owner
/// uses the slot.
///
/// Otherwise the new owner would overwrite the position of a batch whose number is already taken.
pub fn take_over<W: Words>(words: &W, slot: u16) -> Result<(), W::Error> {
    loop {
        let seen = words.commit().load(Acquire);
        let last = Commit::decode(seen);
        if last.done || last.slot != slot {
            return Ok(());
        }
        help(words, seen)?;
    }
}
