//! Operations on a store, described so that arbitrary bytes decode to them.

use arbitrary::Arbitrary;

/// The maximum number of operations in one run.
pub(crate) const OPERATIONS_MAX: usize = 48;
/// The maximum number of changes in one batch.
pub(crate) const CHANGES_MAX: usize = 6;
/// A batch is repeated fewer times than this.
pub(crate) const TIMES: u8 = 16;
/// A value, described so that long ones take few bytes of input.
#[derive(Arbitrary, Clone, Copy, Debug)]
pub struct Value {
    len: u16,
    fill: u8,
}

impl Value {
    fn len(self) -> usize {
        // Most are short; one in eight is up to 72 KiB, more than a segment.
        match self.len % 8 {
            7 => usize::from(self.len) * 9 / 8,
            _ => usize::from(self.len / 8) % 300,
        }
    }

    pub(crate) fn bytes(self, tag: u8) -> Vec<u8> {
        (0..self.len()).map(|i| self.fill ^ tag ^ (i as u8)).collect()
    }
}

/// A change of one key; there are few keys, so that changes interact.
#[derive(Arbitrary, Clone, Copy, Debug)]
pub enum Change {
    /// Adds to the end.
    Append(u8, Value),
    /// Sets if not set.
    Set(u8, Value),
    /// Removes.
    Delete(u8),
    /// Removes all.
    Clear,
    /// Removes those with a prefix.
    DeletePrefix(u8),
}

/// One operation.
#[derive(Arbitrary, Clone, Debug)]
pub enum Op {
    /// A batch through a handle; with `fuse` the process dies after this many steps.
    Write { handle: u8, changes: Vec<Change>, durable: bool, fuse: Option<u8> },
    /// A batch of small appends, repeated.
    Repeat { handle: u8, key: u8, value: Value, times: u8 },
    /// A pop of two keys.
    Pop { handle: u8, keys: [u8; 2], fuse: Option<u8> },
    /// Values, lengths and views of some keys.
    Read { handle: u8, keys: Vec<u8> },
    /// Reads everything and verifies the checksums.
    Verify { handle: u8 },
    /// A sync.
    Sync { handle: u8, fuse: Option<u8> },
    /// A compaction; with `fuse` the process dies after this many steps.
    Compact { handle: u8, fuse: Option<u16> },
    /// Closes a handle and opens another in its place; with `fuse` the process dies after this many
    /// steps.
    Reopen { handle: u8, fuse: Option<u8> },
    /// Kills the process of a handle.
    Kill { handle: u8 },
    /// Opens a read-only handle, reads everything, and closes it.
    ReadOnly,
    /// Kills all processes.
    KillAll,
    /// Cuts the power.
    PowerCut { seed: u8 },
    /// Kills all processes and damages the control file: removes it, zeroes it or flips bytes.
    SpoilControl { how: u8, at: u16 },
}

/// The total bytes of all values that the operations write.
pub fn described_bytes(ops: &[Op]) -> usize {
    let of_change = |change: &Change| match change {
        Change::Append(_, value) | Change::Set(_, value) => value.len(),
        Change::Delete(_) | Change::Clear | Change::DeletePrefix(_) => 0,
    };
    let of_op = |op: &Op| match op {
        Op::Write { changes, .. } => changes.iter().take(CHANGES_MAX).map(of_change).sum(),
        Op::Repeat { value, times, .. } => usize::from(times % TIMES) * value.len(),
        _ => 0,
    };
    ops.iter().take(OPERATIONS_MAX).map(of_op).sum()
}
