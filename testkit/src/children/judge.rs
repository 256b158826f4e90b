//! Compares the writers' reports to the parent with the contents of the store.
//!
//! The log is kept in the parent's memory, outside the store. An acknowledged batch must be present
//! once, whole, in its writer's order. A batch that was begun but not acknowledged may be present
//! or absent, but not in part. Nothing else may be present. The judge follows each writer's own keys
//! through appends, sets, deletes, prefix deletes and pops, in every state that the keys can have
//! after a death.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Mutex;

use partd::{Partd, SegmentLog};

use super::pieces::{Tag, parse};
use super::roles::{ALL, Deed, deed, life_key, own_key, second_key};

/// The reports of all writers.
#[derive(Debug)]
pub struct Log {
    writers: Vec<Mutex<Heard>>,
}

/// The reports of one writer.
#[derive(Debug, Default)]
struct Heard {
    events: Vec<Event>,
    /// The number of long appends begun at the parent's request.
    long: u64,
    acked: u64,
    /// The acknowledged appends, in order.
    appended: Vec<Tag>,
}

#[derive(Clone, Debug, PartialEq, Eq)]
enum Event {
    /// The contents of the writer's own keys at the start of a life.
    Found([Vec<Tag>; 2]),
    Begun(Tag),
    /// An acknowledged operation, with the popped tags.
    Acked(Tag, Vec<Tag>),
}

/// A possible state of a writer's own keys.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
struct Own {
    /// The contents of the two keys.
    tags: [Vec<Tag>; 2],
    /// Whether the first one was set since its last delete.
    is_set: bool,
}

impl Own {
    fn after(mut self, tag: Tag) -> Own {
        match deed(tag.number) {
            Deed::Append => self.tags.iter_mut().for_each(|tags| tags.push(tag)),
            Deed::Set if self.is_set => {}
            Deed::Set => (self.tags[0], self.is_set) = (vec![tag], true),
            Deed::Delete | Deed::Pop => (self.tags[0], self.is_set) = (Vec::new(), false),
            Deed::DeletePrefix => self = Own::default(),
        }
        self
    }
}

impl Log {
    /// A log for `writers` writers.
    pub fn new(writers: u32) -> Log {
        Log { writers: (0..writers).map(|_| Mutex::default()).collect() }
    }

    /// Records a report from one life of a writer.
    pub fn hear(&self, writer: u32, life: u32, report: &str) {
        let mut words = report.split(' ');
        let what = words.next().unwrap_or_default();
        let mut heard = self.writers[writer as usize].lock().unwrap();
        let tags = |text: Option<&str>| -> Vec<Tag> {
            let shown = text.unwrap_or_default().split(',').filter(|tag| !tag.is_empty());
            shown
                .map(|tag| {
                    let (life, number) = tag.split_once(':').expect("LIFE:NUMBER");
                    let (life, number) = (life.parse().unwrap(), number.parse().unwrap());
                    Tag { writer, life, number }
                })
                .collect()
        };
        let event = match what {
            "o" => Event::Found([tags(words.next()), tags(words.next())]),
            "b" | "a" => {
                let number = words.next().and_then(|n| n.parse().ok()).expect("a number");
                let tag = Tag { writer, life, number };
                if what == "b" {
                    heard.long += u64::from(words.next().is_some());
                    Event::Begun(tag)
                } else {
                    heard.acked += 1;
                    if deed(number) == Deed::Append {
                        heard.appended.push(tag);
                    }
                    Event::Acked(tag, tags(words.next()))
                }
            }
            _ => panic!("a writer said {report}"),
        };
        heard.events.push(event);
    }

    /// The number of long appends that a writer has begun at the parent's request.
    pub fn long(&self, writer: u32) -> u64 {
        self.writers[writer as usize].lock().unwrap().long
    }

    /// The number of acknowledged operations of a writer.
    pub fn acked(&self, writer: u32) -> u64 {
        self.writers[writer as usize].lock().unwrap().acked
    }

    /// Whether the last operation that a writer began was acknowledged.
    pub fn last_is_acked(&self, writer: u32) -> bool {
        let heard = self.writers[writer as usize].lock().unwrap();
        matches!(heard.events.last(), Some(Event::Acked(..)))
    }

    /// The acknowledged appends of all writers.
    fn appended(&self) -> Vec<Vec<Tag>> {
        self.writers.iter().map(|heard| heard.lock().unwrap().appended.clone()).collect()
    }

    /// The tags of all appends that were begun.
    fn begun_appends(&self) -> BTreeSet<Tag> {
        let mut begun = BTreeSet::new();
        for heard in &self.writers {
            for event in &heard.lock().unwrap().events {
                if let Event::Begun(tag) = event
                    && deed(tag.number) == Deed::Append
                {
                    begun.insert(*tag);
                }
            }
        }
        begun
    }

    /// The possible states of a writer's own keys now. Panics if its reports contradict each other.
    fn own_states(&self, writer: u32) -> Vec<Own> {
        let heard = self.writers[writer as usize].lock().unwrap();
        let mut states = vec![Own::default()];
        for (i, event) in heard.events.iter().enumerate() {
            match event {
                Event::Found(tags) => {
                    states.retain(|own| own.tags == *tags);
                    assert!(!states.is_empty(), "writer {writer} found {tags:?} in its own keys");
                }
                Event::Acked(tag, popped) => {
                    if deed(tag.number) == Deed::Pop {
                        states.retain(|own| own.tags[0] == *popped);
                        assert!(!states.is_empty(), "writer {writer} popped {popped:?}");
                    }
                    states = states.into_iter().map(|own| own.after(*tag)).collect();
                }
                Event::Begun(tag) => {
                    let acked = matches!(heard.events.get(i + 1), Some(Event::Acked(..)));
                    if !acked {
                        // The writer died: its open operation either happened or never will.
                        let happened: Vec<Own> =
                            states.iter().map(|own| own.clone().after(*tag)).collect();
                        states.extend(happened);
                    }
                }
            }
        }
        states
    }
}

/// Compares a store with the log repeatedly while writers are at work.
#[derive(Debug, Default)]
pub struct Watch {
    value: Vec<u8>,
    seen: BTreeSet<Tag>,
}

impl Watch {
    /// Checks that every operation acknowledged before the call is present, and that everything
    /// seen earlier is still present and unchanged.
    pub fn look(&mut self, p: &SegmentLog, log: &Log) {
        let appended = log.appended();
        let value = p.get(ALL).expect("the read succeeds");
        assert!(value.starts_with(&self.value), "the value of all writers has shrunk or changed");
        for tag in parse(&value[self.value.len()..]).expect("the value of all writers is whole") {
            assert!(self.seen.insert(tag), "{tag:?} occurs twice");
        }
        self.value = value;
        for tag in appended.iter().flatten() {
            assert!(self.seen.contains(tag), "{tag:?} was acknowledged but is missing");
        }
    }
}

/// The contents of a store that has passed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Passed {
    /// The number of acknowledged appends.
    pub acknowledged: u64,
    /// The number of appends that are present although their writer died before it could
    /// acknowledge them.
    pub unacknowledged: u64,
}

/// Compares an idle store with the log.
pub fn judge(p: &SegmentLog, log: &Log) -> Passed {
    p.verify().expect("every checksum is right");
    let mut of_life: BTreeMap<(u32, u32), Vec<Tag>> = BTreeMap::new();
    let mut seen = BTreeSet::new();
    for tag in
        parse(&p.get(ALL).expect("the read succeeds")).expect("the value of all writers is whole")
    {
        assert!(seen.insert(tag), "{tag:?} occurs twice");
        of_life.entry((tag.writer, tag.life)).or_default().push(tag);
    }
    let appended = log.appended();
    for tag in appended.iter().flatten() {
        assert!(seen.contains(tag), "{tag:?} was acknowledged but is missing");
    }
    let begun = log.begun_appends();
    for tag in &seen {
        assert!(begun.contains(tag), "{tag:?} is present although no writer wrote it");
    }
    let mut last: BTreeMap<u32, Tag> = BTreeMap::new();
    for tag in parse(&p.get(ALL).expect("the read succeeds")).expect("whole") {
        let before = last.insert(tag.writer, tag);
        assert!(before.is_none_or(|before| before < tag), "{tag:?} follows {before:?}");
    }
    let mut keys = BTreeSet::from([partd::Key::from(ALL)]);
    for (&(writer, life), tags) in &of_life {
        let key = partd::Key::from(life_key(writer, life));
        let found =
            parse(&p.get(&key).expect("the read succeeds")).expect("the value of a life is whole");
        assert!(found == *tags, "a batch of writer {writer} in life {life} is torn");
        keys.insert(key);
    }
    for writer in 0..log.writers.len() as u32 {
        let own = [own_key(writer), second_key(writer)].map(partd::Key::from);
        let found: [Vec<Tag>; 2] = own.each_ref().map(|key| {
            parse(&p.get(key).expect("the read succeeds")).expect("an own key is whole")
        });
        let states = log.own_states(writer);
        assert!(
            states.iter().any(|own| own.tags == found),
            "the own keys of writer {writer} hold {found:?}, and can hold {states:?}"
        );
        let present = own.into_iter().zip(&found).filter(|(_, tags)| !tags.is_empty());
        keys.extend(present.map(|(key, _)| key));
    }
    let found: BTreeSet<partd::Key> = p.keys().expect("the read succeeds").into_iter().collect();
    assert!(found == keys, "there are other keys than those with values");
    let acknowledged = appended.iter().map(|tags| tags.len() as u64).sum();
    Passed { acknowledged, unacknowledged: seen.len() as u64 - acknowledged }
}
