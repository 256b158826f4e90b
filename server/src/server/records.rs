//! Records in the store which durable writes of a session were applied.
//!
//! A durable write and the record of it are one batch, so a request that is resent after a restart
//! is applied only once. Each record has a slot: one of [`SLOTS`] keys under a prefix that clients
//! can neither read nor write. A session takes a slot with its first durable write. It keeps the
//! slot until it says good-bye, or until the slot is the least recently written one when another
//! session needs one.

use std::collections::HashMap;
use std::sync::{Mutex, MutexGuard, PoisonError};

use partd::{Key, Op, Partd, Result};

use crate::error::{ErrorKind, RemoteError};
use crate::wire::hello::SessionId;

/// The prefix of the keys that are reserved for the server.
pub(crate) const RESERVED: &[u8] = b"\x00\xFEpartd-server\x00";
/// How many sessions can have a record.
pub(crate) const SLOTS: u16 = 4096;
/// How many request ids a record covers, counted back from the last one.
pub(crate) const REMEMBERED: u64 = 256;

/// Returns whether a key is reserved for the server.
pub(crate) fn is_reserved(key: &[u8]) -> bool {
    key.starts_with(RESERVED)
}

/// Returns whether an operation of a client would remove the records.
pub(crate) fn removes_records(op: &Op<'_>) -> bool {
    match op {
        Op::Clear => true,
        Op::DeletePrefix(prefix) => RESERVED.starts_with(prefix.as_bytes()),
        Op::Append(..) | Op::Set(..) | Op::Delete(_) => false,
    }
}

/// The last durable writes of one session that were applied.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Record {
    pub(crate) session: SessionId,
    /// The highest id that was applied.
    pub(crate) last: u64,
    /// Bit `n` is set if the request `last - n` was applied.
    pub(crate) applied: [u64; 4],
    /// The time of the last write of the slot, counted in writes of all slots.
    pub(crate) turn: u64,
}

const RECORD_BYTES: usize = 16 + 8 + 32 + 8;

impl Record {
    /// Returns the record after the write `id` was applied.
    pub(crate) fn with(mut self, id: u64, turn: u64) -> Record {
        self.turn = turn;
        if id > self.last {
            let mut shifted = [0; 4];
            for age in 0..REMEMBERED {
                let Some(new) = age.checked_add(id - self.last).filter(|new| *new < REMEMBERED)
                else {
                    break;
                };
                if self.applied[(age / 64) as usize] >> (age % 64) & 1 == 1 {
                    shifted[(new / 64) as usize] |= 1 << (new % 64);
                }
            }
            self.applied = shifted;
            self.last = id;
        }
        let age = self.last - id;
        if age < REMEMBERED {
            self.applied[(age / 64) as usize] |= 1 << (age % 64);
        }
        self
    }

    /// Returns whether a write was applied, or `None` if the record does not reach back to it.
    pub(crate) fn has(&self, id: u64) -> Option<bool> {
        let Some(age) = self.last.checked_sub(id) else { return Some(false) };
        (age < REMEMBERED).then(|| self.applied[(age / 64) as usize] >> (age % 64) & 1 == 1)
    }

    pub(crate) fn encode(&self) -> [u8; RECORD_BYTES] {
        let mut bytes = [0; RECORD_BYTES];
        bytes[..16].copy_from_slice(&self.session);
        bytes[16..24].copy_from_slice(&self.last.to_be_bytes());
        for (place, word) in bytes[24..56].chunks_exact_mut(8).zip(self.applied) {
            place.copy_from_slice(&word.to_be_bytes());
        }
        bytes[56..].copy_from_slice(&self.turn.to_be_bytes());
        bytes
    }

    fn decode(bytes: &[u8]) -> Option<Record> {
        let bytes: &[u8; RECORD_BYTES] = bytes.try_into().ok()?;
        let word = |at: usize| {
            let mut word = [0; 8];
            word.copy_from_slice(&bytes[at..at + 8]);
            u64::from_be_bytes(word)
        };
        let mut session = SessionId::default();
        session.copy_from_slice(&bytes[..16]);
        let applied = [word(24), word(32), word(40), word(48)];
        Some(Record { session, last: word(16), applied, turn: word(56) })
    }
}

/// Returns the key of a slot.
pub(crate) fn slot_key(slot: u16) -> Key {
    Key::from([RESERVED, &slot.to_be_bytes()].concat())
}

/// The slots and their records.
#[derive(Debug)]
pub(crate) struct Records {
    slots: Mutex<Slots>,
    is_kept: bool,
}

#[derive(Debug, Default)]
struct Slots {
    of_session: HashMap<SessionId, (u16, Record)>,
    free: Vec<u16>,
    turn: u64,
}

impl Records {
    /// Reads the slots of a store.
    ///
    /// If the store is a client of another server, that server reserves these keys, and there are
    /// no records.
    pub(crate) fn read(store: &dyn Partd) -> Result<Records> {
        let keys: Vec<Key> = (0..SLOTS).map(slot_key).collect();
        let mut slots = Slots::default();
        let records = match store.read(&keys) {
            Err(error)
                if RemoteError::of(&error).is_some_and(|e| e.kind == ErrorKind::Forbidden) =>
            {
                return Ok(Records { slots: Mutex::default(), is_kept: false });
            }
            records => records?,
        };
        for (slot, bytes) in (0..SLOTS).zip(records) {
            match Record::decode(&bytes) {
                Some(record) => {
                    slots.turn = slots.turn.max(record.turn);
                    slots.of_session.insert(record.session, (slot, record));
                }
                None => slots.free.push(slot),
            }
        }
        // `pop` then takes the lowest slot first.
        slots.free.reverse();
        Ok(Records { slots: Mutex::new(slots), is_kept: true })
    }

    /// Returns whether durable writes are recorded.
    pub(crate) fn are_kept(&self) -> bool {
        self.is_kept
    }

    fn slots(&self) -> MutexGuard<'_, Slots> {
        self.slots.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Returns the record of a session.
    pub(crate) fn of(&self, session: &SessionId) -> Option<Record> {
        self.slots().of_session.get(session).map(|(_, record)| *record)
    }

    /// Returns the slot and the record to write together with a durable write of the session.
    pub(crate) fn prepare(&self, session: &SessionId, id: u64) -> (u16, Record) {
        let mut slots = self.slots();
        slots.turn += 1;
        let turn = slots.turn;
        if let Some((slot, record)) = slots.of_session.get(session) {
            return (*slot, record.with(id, turn));
        }
        let slot = slots.free.pop().or_else(|| {
            let oldest = slots.of_session.iter().min_by_key(|(_, (_, record))| record.turn);
            let oldest = oldest.map(|(session, _)| *session)?;
            slots.of_session.remove(&oldest).map(|(slot, _)| slot)
        });
        let empty = Record { session: *session, turn, ..Record::default() };
        // There is always a slot: each is either free or belongs to a session.
        let slot = slot.unwrap_or_default();
        slots.of_session.insert(*session, (slot, empty));
        (slot, empty.with(id, turn))
    }

    /// Keeps a record after the store has written it.
    pub(crate) fn written(&self, slot: u16, record: Record) {
        let mut slots = self.slots();
        if let Some(known) = slots.of_session.get_mut(&record.session) {
            *known = (slot, record);
        }
    }

    /// Frees the slot of a session that said good-bye.
    pub(crate) fn forget(&self, session: &SessionId) {
        let mut slots = self.slots();
        if let Some((slot, _)) = slots.of_session.remove(session) {
            // The next session overwrites the key.
            slots.free.push(slot);
        }
    }

    /// Returns every record, for a batch that removes them and must write them again.
    pub(crate) fn all(&self) -> Vec<(Key, [u8; RECORD_BYTES])> {
        let slots = self.slots();
        let written = slots.of_session.values().filter(|(_, record)| record.last > 0);
        written.map(|(slot, record)| (slot_key(*slot), record.encode())).collect()
    }
}

#[cfg(test)]
mod tests {
    use partd::Dict;

    use super::*;

    #[test]
    fn a_record_says_which_of_the_last_requests_were_applied() {
        let record =
            [3, 4, 6, 100].iter().fold(Record::default(), |record, id| record.with(*id, 0));
        for (id, applied) in [(3, true), (4, true), (5, false), (6, true), (99, false), (100, true)]
        {
            assert_eq!(record.has(id), Some(applied), "{id}");
        }
        assert_eq!(record.has(101), Some(false));
        let later = record.with(300, 0);
        assert_eq!((later.has(44), later.has(45), later.has(100)), (None, Some(false), Some(true)));
        assert_eq!(record.with(5000, 0).has(4999), Some(false));
        assert_eq!(Record::decode(&record.encode()), Some(record));
    }

    #[test]
    fn slots_are_read_back_and_the_oldest_is_reassigned() {
        let store = Dict::new();
        let records = Records::read(&store).unwrap();
        let session = |n: u32| {
            let mut id = SessionId::default();
            id[..4].copy_from_slice(&n.to_be_bytes());
            id
        };
        for n in 0..u32::from(SLOTS) {
            let (slot, record) = records.prepare(&session(n), 1);
            assert_eq!(u32::from(slot), n);
            records.written(slot, record);
            store.append([(slot_key(slot), record.encode())]).unwrap();
        }
        let records = Records::read(&store).unwrap();
        assert_eq!(records.of(&session(5)).unwrap().has(1), Some(true));
        let (slot, _) = records.prepare(&session(1_000_000), 1);
        assert_eq!(slot, 0);
        assert_eq!(records.of(&session(0)), None);
        records.forget(&session(9));
        assert_eq!(records.prepare(&session(1_000_001), 1).0, 9);
    }
}
