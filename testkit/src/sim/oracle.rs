//! The naive model: the contents of the store after each batch of the history.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;
use std::sync::Arc;

use partd::log::fs::Disk;
use partd::{Batch, Key, Partd, SegmentLog};

use super::Violation;

/// One operation of a batch, with its bytes.
#[derive(Clone, PartialEq, Eq)]
pub enum Op {
    Append(String, Vec<u8>),
    Set(String, Vec<u8>),
    Delete(String),
    Clear,
    DeletePrefix(String),
}

impl fmt::Debug for Op {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Op::Append(key, value) => write!(f, "append {key} {} B", value.len()),
            Op::Set(key, value) => write!(f, "set {key} {} B", value.len()),
            Op::Delete(key) => write!(f, "delete {key}"),
            Op::Clear => write!(f, "clear"),
            Op::DeletePrefix(prefix) => write!(f, "delete {prefix}*"),
        }
    }
}

/// The batch as the store takes it.
pub fn batch(ops: &[Op]) -> Batch<'_> {
    let mut batch = Batch::with_capacity(ops.len());
    for op in ops {
        match op {
            Op::Append(key, value) => batch.append(key.as_str(), value),
            Op::Set(key, value) => batch.set(key.as_str(), value),
            Op::Delete(key) => batch.delete(key.as_str()),
            Op::Clear => batch.clear(),
            Op::DeletePrefix(prefix) => batch.delete_prefix(prefix.as_str()),
        };
    }
    batch
}

#[derive(Clone, Debug, Default, PartialEq, Eq)]
struct Value {
    bytes: Vec<u8>,
    is_set: bool,
}

/// The contents of a store at one moment.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Content {
    values: BTreeMap<String, Value>,
}

impl Content {
    pub fn apply(&mut self, ops: &[Op]) {
        for op in ops {
            match op {
                Op::Append(key, value) => {
                    self.values.entry(key.clone()).or_default().bytes.extend(value);
                }
                Op::Set(key, value) => {
                    let slot = self.values.entry(key.clone()).or_default();
                    if !slot.is_set {
                        *slot = Value { bytes: value.clone(), is_set: true };
                    }
                }
                Op::Delete(key) => {
                    self.values.remove(key);
                }
                Op::Clear => self.values.clear(),
                Op::DeletePrefix(prefix) => {
                    self.values.retain(|key, _| !key.starts_with(prefix.as_str()));
                }
            }
        }
    }

    pub fn get(&self, key: &str) -> &[u8] {
        self.values.get(key).map_or(&[], |value| &value.bytes)
    }

    pub fn keys(&self) -> impl Iterator<Item = &str> {
        self.values.keys().map(String::as_str)
    }

    /// Compares a store with the contents, byte by byte.
    pub fn compare<D: Disk>(&self, log: &SegmentLog<D>) -> Result<(), Difference> {
        let error = |what, error| Difference::Error(format!("{what}: {error}"));
        let keys = log.keys().map_err(|e| error("keys", e))?;
        let values = log.read(&keys).map_err(|e| error("values", e))?;
        let found: BTreeSet<&[u8]> = keys.iter().map(Key::as_bytes).collect();
        let expected: BTreeSet<&[u8]> = self.values.keys().map(String::as_bytes).collect();
        if found != expected {
            let text = format!("keys are {}, not {}", list(&found), list(&expected));
            let more = found.difference(&expected).next().map(|key| key.to_vec());
            return Err(more.map_or(Difference::Less(text.clone()), |key| {
                Difference::More(String::from_utf8_lossy(&key).into_owned(), text)
            }));
        }
        for ((key, value), bytes) in self.values.iter().zip(values) {
            if value.bytes != bytes {
                let same = value.bytes.iter().zip(&bytes).take_while(|(a, b)| a == b).count();
                let (len, right) = (bytes.len(), value.bytes.len());
                let text = format!("{key} has {len} bytes, not {right}; the first {same} agree");
                return Err(match len > right {
                    true => Difference::More(key.clone(), text),
                    false => Difference::Less(text),
                });
            }
        }
        Ok(())
    }
}

/// A difference between a store and the expected contents.
#[derive(Clone, Debug)]
pub enum Difference {
    /// The store returned an error.
    Error(String),
    /// A key has more than it should.
    More(String, String),
    /// Something is missing or wrong.
    Less(String),
}

impl fmt::Display for Difference {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Difference::Error(text) | Difference::More(_, text) | Difference::Less(text) => {
                f.write_str(text)
            }
        }
    }
}

fn list(keys: &BTreeSet<&[u8]>) -> String {
    let keys: Vec<String> = keys.iter().take(8).map(|key| key.escape_ascii().to_string()).collect();
    format!("[{}]", keys.join(" "))
}

/// The contents after each batch of one history, starting from the empty store.
#[derive(Clone, Debug)]
pub struct Oracle {
    contents: Vec<Arc<Content>>,
}

impl Default for Oracle {
    fn default() -> Oracle {
        Oracle { contents: vec![Arc::default()] }
    }
}

impl Oracle {
    /// Adds the next batch of the history.
    pub fn push(&mut self, ops: &[Op]) {
        let mut content = self.last().clone();
        content.apply(ops);
        self.contents.push(Arc::new(content));
    }

    pub fn last(&self) -> &Content {
        &self.contents[self.contents.len() - 1]
    }

    /// The contents after `batches` batches; `None` if the history has fewer.
    pub fn after(&self, batches: u64) -> Option<&Content> {
        self.contents.get(usize::try_from(batches).ok()?).map(Arc::as_ref)
    }

    /// The number of batches.
    pub fn len(&self) -> u64 {
        self.contents.len() as u64 - 1
    }

    /// The history up to `batches` batches.
    pub fn cut(&self, batches: u64) -> Oracle {
        Oracle { contents: self.contents[..=batches as usize].to_vec() }
    }

    /// The invariant that a store of `found` batches violates if it differs from the history.
    fn invariant(&self, why: &Difference, found: u64) -> &'static str {
        match why {
            Difference::Error(_) => "I3",
            Difference::Less(_) => "I2",
            // The extra data existed before: a removal was forgotten, or something was applied
            // twice.
            Difference::More(key, _) => {
                let before = &self.contents[..=found as usize];
                let was_there = before.iter().any(|content| content.values.contains_key(key));
                if was_there { "I5" } else { "I4" }
            }
        }
    }

    /// Checks an open store against the history: its contents must be those after some number of
    /// batches from `floor` to `ceiling`. Returns that number.
    pub fn judge<D: Disk>(
        &self,
        log: &SegmentLog<D>,
        floor: u64,
        ceiling: u64,
    ) -> Result<u64, Violation> {
        let stats = log.stats();
        let found =
            stats.map_err(|e| Violation::new("I2", format!("it opens, but: {e}")))?.sequence;
        let Some(content) = self.after(found).filter(|_| found <= ceiling) else {
            let text = format!("the store has {found} batches, the history only {ceiling}");
            return Err(Violation::new("I4", text));
        };
        content.compare(log).map_err(|why| {
            let text = format!("after {found} batches ({floor} durable, {ceiling} written): {why}");
            Violation::new(self.invariant(&why, found), text)
        })?;
        if found < floor {
            let text = format!("{floor} batches were durable, {found} are there");
            return Err(Violation::new("I1", text));
        }
        Ok(found)
    }
}
