//! Decides whether a recorded history is linearizable.
//!
//! A history is linearizable if its operations have an order in which each one lies between its own
//! start and end, and each result follows from the operations before it. An operation that never
//! ended, because its process was killed, may be in that order or not, at any place after its
//! start; a result that was never seen constrains nothing.
//!
//! **The method** is a search for that order (Wing and Gong, with Lowe's memoization): starting at
//! the beginning, take any operation that can be next, which is one that started before any other
//! remaining one ended; apply it; backtrack if no operation fits. A configuration is the set of
//! operations taken and the state that they lead to. None is examined twice. Clients are
//! sequential, so one number per client identifies the operations taken.
//!
//! This is exact, and exponential if many orders remain possible. It is fast here because every
//! appended piece is unique, so results carry much information:
//!
//! * A piece that is seen in a value was appended when the key held exactly the pieces before it.
//!   If two results disagree about those, no order exists. Otherwise, a key whose last piece was
//!   seen is in a state that this piece identifies, and the append is possible in one state only.
//! * A key with a piece that no result contains has one state, whatever else it holds: no one can
//!   read the key before it is emptied.
//! * An operation cannot empty a key while another operation has yet to see its contents.
//! * An operation that never ended need not have happened. So a configuration is skipped if another
//!   one with the same state and the same ended operations, but fewer of the others, was examined;
//!   and an append that never ended and that no result contains is left out.
//!
//! All of these exclude only what no valid order contains, so no linearizable history is rejected.
//! `brute.rs` compares the checker with a plain enumeration of orders on small histories.

use std::collections::{BTreeMap, HashMap, HashSet};
use std::fmt;

/// A key, by its number.
pub type KeyId = u8;
/// A piece of a value. Each is appended or set once in a history, to one key.
pub type Piece = u64;

/// An operation of a client.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Call {
    /// One batch.
    Write(Vec<Change>),
    /// Reads keys at one moment: `get`, `get_many`.
    Read(Vec<KeyId>),
    /// Reads and deletes keys as one step.
    Pop(Vec<KeyId>),
}

/// One change of a batch.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Change {
    /// Adds a piece at the end.
    Append(KeyId, Piece),
    /// Sets the key unless it was set since its last delete.
    Set(KeyId, Piece),
    /// Empties one key.
    Delete(KeyId),
    /// Empties every key.
    Clear,
    /// Empties the keys with a prefix. In key order, those are the keys from the first to the last.
    DeletePrefix(KeyId, KeyId),
}

/// A recorded operation.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Operation {
    /// The calling client. A client has one operation in progress at a time.
    pub client: u32,
    /// The time of the call.
    pub start: u64,
    /// The time of the return; `None` if it never returned.
    pub end: Option<u64>,
    /// The operation.
    pub call: Call,
    /// The result of a read or a pop that has ended: the pieces of each key.
    pub seen: Vec<Vec<Piece>>,
}

/// The reason why a history is not linearizable.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Violation {
    /// A result contains a piece that was never written to that key.
    Invented { key: KeyId, piece: Piece },
    /// A result contains a piece twice.
    Twice { key: KeyId, piece: Piece },
    /// Two results disagree about the piece before a piece.
    Disagree { key: KeyId, piece: Piece, one: Option<Piece>, other: Option<Piece> },
    /// No order fits. `taken` is the largest number of operations that the search could order;
    /// `next` are the next operations of each client there, none of which fits.
    NoOrder { taken: usize, next: Vec<Operation> },
    /// The search was abandoned because too many orders remained possible. The result is unknown.
    Undecided,
}

impl fmt::Display for Violation {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Violation::Invented { key, piece } => {
                write!(f, "piece {piece:#x} was seen in key {key} and never written to it")
            }
            Violation::Twice { key, piece } => {
                write!(f, "piece {piece:#x} is twice in one value of key {key}")
            }
            Violation::Disagree { key, piece, one, other } => write!(
                f,
                "piece {piece:#x} of key {key} was seen after {one:x?} and after {other:x?}"
            ),
            Violation::NoOrder { taken, next } => {
                write!(f, "no order fits; with {taken} operations taken, none can be next:")?;
                next.iter().try_for_each(|operation| write!(f, "\n  {operation:x?}"))
            }
            Violation::Undecided => f.write_str("too many orders to examine them all"),
        }
    }
}

/// The contents of a key, as far as any result can tell.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
enum Holds {
    #[default]
    Nothing,
    /// A value that ends with this piece, which a result contains.
    UpTo(Piece),
    /// Contents that no result shows.
    Unseen,
}

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
struct KeyState {
    holds: Holds,
    is_set: bool,
}

/// The operations taken so far and the state that they lead to.
#[derive(Clone, Debug)]
struct Configuration {
    main: Main,
    /// The clients whose last operation never ended and was taken, in order.
    extra: Vec<u32>,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash)]
struct Main {
    /// For each client, the number of its ended operations that were taken.
    taken: Box<[u32]>,
    keys: Box<[KeyState]>,
}

/// The configurations that were examined, each with the unended operations taken.
#[derive(Default)]
struct Known {
    extras: HashMap<Main, Vec<Vec<u32>>>,
    count: usize,
}

impl Known {
    /// Adds a configuration; false if a known one leads to everything that it leads to.
    fn add(&mut self, new: &Configuration) -> bool {
        let extras = self.extras.entry(new.main.clone()).or_default();
        let covers = |old: &Vec<u32>| old.iter().all(|client| new.extra.contains(client));
        if extras.iter().any(covers) {
            return false;
        }
        extras.push(new.extra.clone());
        self.count += 1;
        true
    }
}

/// What the results of reads reveal about a piece.
#[derive(Clone, Debug)]
struct Sight {
    /// The piece before it.
    behind: Option<Piece>,
    /// For each client that saw the piece, the number of its last operation that did.
    last: Vec<(u32, u32)>,
}

struct Checker<'h> {
    /// The operations of each client, in order.
    clients: Vec<Vec<&'h Operation>>,
    sights: BTreeMap<Piece, Sight>,
    keys: usize,
}

/// The search is abandoned after this many configurations.
const CONFIGURATIONS_MAX: usize = 10_000_000;

/// Checks a history. Returns an order of its operations that makes it linearizable.
///
/// All keys are empty at the start.
pub fn check(history: &[Operation]) -> Result<Vec<&Operation>, Violation> {
    Checker::new(history)?.search()
}

impl<'h> Checker<'h> {
    fn new(history: &'h [Operation]) -> Result<Checker<'h>, Violation> {
        let mut by_client: BTreeMap<u32, Vec<&Operation>> = BTreeMap::new();
        let mut written: BTreeMap<Piece, KeyId> = BTreeMap::new();
        let mut keys = 0;
        let mut count = |key: KeyId| keys = keys.max(usize::from(key) + 1);
        for operation in history {
            by_client.entry(operation.client).or_default().push(operation);
            match &operation.call {
                Call::Write(changes) => {
                    for change in changes {
                        match *change {
                            Change::Append(key, piece) | Change::Set(key, piece) => {
                                count(key);
                                let before = written.insert(piece, key);
                                assert!(before.is_none(), "piece {piece:#x} is written twice");
                            }
                            Change::Delete(key) | Change::DeletePrefix(_, key) => count(key),
                            Change::Clear => {}
                        }
                    }
                }
                Call::Read(read) | Call::Pop(read) => read.iter().for_each(|key| count(*key)),
            }
        }
        let mut clients: Vec<Vec<&Operation>> = by_client.into_values().collect();
        for client in &mut clients {
            client.sort_by_key(|operation| operation.start);
            for pair in client.windows(2) {
                let ended = pair[0].end.is_some_and(|end| end <= pair[1].start);
                assert!(ended, "a client has two operations in progress: {pair:?}");
            }
        }
        let mut checker = Checker { clients, sights: BTreeMap::new(), keys };
        checker.look_at_results(&written)?;
        Ok(checker)
    }

    /// Checks the results alone, independently of any order.
    fn look_at_results(&mut self, written: &BTreeMap<Piece, KeyId>) -> Result<(), Violation> {
        for (client, operations) in self.clients.iter().enumerate() {
            for (number, operation) in operations.iter().enumerate() {
                if operation.end.is_none() {
                    continue;
                }
                for (key, pieces) in operation.results() {
                    let mut behind = None;
                    let mut before = HashSet::new();
                    for &piece in pieces {
                        if written.get(&piece) != Some(&key) {
                            return Err(Violation::Invented { key, piece });
                        }
                        if !before.insert(piece) {
                            return Err(Violation::Twice { key, piece });
                        }
                        let sight = self
                            .sights
                            .entry(piece)
                            .or_insert_with(|| Sight { behind, last: Vec::new() });
                        if sight.behind != behind {
                            let (one, other) = (sight.behind, behind);
                            return Err(Violation::Disagree { key, piece, one, other });
                        }
                        let (client, number) = (client as u32, number as u32);
                        match sight.last.last_mut() {
                            Some((last, at)) if *last == client => *at = number,
                            _ => sight.last.push((client, number)),
                        }
                        behind = Some(piece);
                    }
                }
            }
        }
        Ok(())
    }

    /// Searches for an order, depth first.
    fn search(&self) -> Result<Vec<&'h Operation>, Violation> {
        let main = Main {
            taken: vec![0; self.clients.len()].into(),
            keys: vec![KeyState::default(); self.keys].into(),
        };
        let start = Configuration { main, extra: Vec::new() };
        let mut best = (0, start.clone());
        let mut known = Known::default();
        known.add(&start);
        // Each with the untried clients that can be next; the most likely one is last.
        let mut path = vec![(start.clone(), self.candidates(&start))];
        let mut order: Vec<&Operation> = Vec::new();
        while let Some((here, candidates)) = path.last_mut() {
            if self.is_complete(here) {
                return Ok(order);
            }
            let Some(client) = candidates.pop() else {
                path.pop();
                order.pop();
                continue;
            };
            let mut next = here.clone();
            let Some(operation) = self.take(client, &mut next) else { continue };
            if !known.add(&next) {
                continue;
            }
            if known.count > CONFIGURATIONS_MAX {
                return Err(Violation::Undecided);
            }
            order.push(operation);
            if order.len() > best.0 {
                best = (order.len(), next.clone());
            }
            let candidates = self.candidates(&next);
            path.push((next, candidates));
        }
        let (taken, furthest) = best;
        let next = (0..self.clients.len()).filter_map(|client| self.next(&furthest, client));
        Err(Violation::NoOrder { taken, next: next.cloned().collect() })
    }

    fn next(&self, here: &Configuration, client: usize) -> Option<&'h Operation> {
        let next = self.clients[client].get(here.main.taken[client] as usize).copied()?;
        let is_taken = next.end.is_none() && here.extra.contains(&(client as u32));
        (!is_taken).then_some(next)
    }

    /// Takes the next operation of a client; `None` if it cannot be next.
    fn take(&self, client: usize, here: &mut Configuration) -> Option<&'h Operation> {
        let operation = self.next(here, client)?;
        if operation.end.is_some() {
            here.main.taken[client] += 1;
        } else {
            if operation.is_only_appends(|piece| !self.sights.contains_key(&piece)) {
                return None;
            }
            here.extra.push(client as u32);
            here.extra.sort_unstable();
        }
        self.apply(operation, &mut here.main).then_some(operation)
    }

    /// Whether every operation that ended was taken.
    fn is_complete(&self, here: &Configuration) -> bool {
        (0..self.clients.len())
            .all(|client| self.next(here, client).is_none_or(|next| next.end.is_none()))
    }

    /// The clients whose next operation started before any other remaining one ended. Operations
    /// that never ended are tried last, since they need not have happened.
    fn candidates(&self, here: &Configuration) -> Vec<usize> {
        let nexts = |client| self.next(here, client).map(|next| (client, next));
        let first_end = (0..self.clients.len())
            .filter_map(nexts)
            .filter_map(|(_, next)| next.end)
            .min()
            .unwrap_or(u64::MAX);
        let mut candidates: Vec<(u64, usize)> = (0..self.clients.len())
            .filter_map(nexts)
            .filter(|(_, next)| next.start <= first_end)
            .map(|(client, next)| (next.end.unwrap_or(u64::MAX), client))
            .collect();
        candidates.sort_unstable_by(|one, other| other.cmp(one));
        candidates.into_iter().map(|(_, client)| client).collect()
    }

    /// Applies an operation that was just counted as taken; false if it cannot be next.
    fn apply(&self, operation: &Operation, here: &mut Main) -> bool {
        if operation.end.is_some() {
            for (key, pieces) in operation.results() {
                let holds = pieces.last().map_or(Holds::Nothing, |last| Holds::UpTo(*last));
                if here.keys[usize::from(key)].holds != holds {
                    return false;
                }
            }
        }
        match &operation.call {
            Call::Read(_) => true,
            Call::Pop(keys) => keys.iter().all(|key| self.empty(here, *key)),
            Call::Write(changes) => changes.iter().all(|change| match *change {
                Change::Append(key, piece) => self.append(here, key, piece),
                Change::Set(key, piece) => {
                    let is_set = here.keys[usize::from(key)].is_set;
                    if is_set {
                        // The set does nothing, so no result can contain its piece.
                        return !self.sights.contains_key(&piece);
                    }
                    let done = self.empty(here, key) && self.append(here, key, piece);
                    here.keys[usize::from(key)].is_set = true;
                    done
                }
                Change::Delete(key) => self.empty(here, key),
                Change::Clear => (0..self.keys).all(|key| self.empty(here, key as KeyId)),
                Change::DeletePrefix(first, last) => {
                    (first..=last).all(|key| self.empty(here, key))
                }
            }),
        }
    }

    fn append(&self, here: &mut Main, key: KeyId, piece: Piece) -> bool {
        let state = &mut here.keys[usize::from(key)];
        let Some(sight) = self.sights.get(&piece) else {
            state.holds = Holds::Unseen;
            return true;
        };
        let fits = state.holds == sight.behind.map_or(Holds::Nothing, Holds::UpTo);
        state.holds = Holds::UpTo(piece);
        fits
    }

    fn empty(&self, here: &mut Main, key: KeyId) -> bool {
        let state = &mut here.keys[usize::from(key)];
        let held = std::mem::take(state).holds;
        let Holds::UpTo(piece) = held else { return true };
        let sight = self.sights.get(&piece);
        // A remaining operation that saw the piece would have to come later.
        sight.is_none_or(|sight| {
            sight.last.iter().all(|&(client, number)| here.taken[client as usize] > number)
        })
    }
}

impl Operation {
    /// Whether the operation only appends pieces of a certain kind.
    fn is_only_appends(&self, is_of_kind: impl Fn(Piece) -> bool) -> bool {
        let Call::Write(changes) = &self.call else { return false };
        changes
            .iter()
            .all(|change| matches!(*change, Change::Append(_, piece) if is_of_kind(piece)))
    }

    /// The keys that were read, with their results.
    fn results(&self) -> impl Iterator<Item = (KeyId, &[Piece])> {
        let keys = match &self.call {
            Call::Read(keys) | Call::Pop(keys) => &keys[..],
            Call::Write(_) => &[],
        };
        keys.iter().copied().zip(self.seen.iter().map(|pieces| &pieces[..]))
    }
}
