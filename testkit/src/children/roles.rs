//! The roles of the child processes: writers that write tagged pieces, readers that check what they
//! see, and one that forks.
//!
//! A writer reports `b N` before its operation N and `a N` after it, so the parent has a record of
//! every acknowledged operation and of the one in progress when the writer was killed. On request
//! it makes a long append, so that the parent can kill it in the middle. It compacts now and then.
//! A reader checks what a single reader can check, and panics on a failure: nothing shrinks,
//! nothing changes, a batch is seen whole or not at all. [`judge`](super::judge) checks the rest in
//! the parent.

use std::collections::BTreeSet;
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use partd::{Buffer, Dict, Error, Partd, SegmentLog};

use super::pieces::{Tag, parse, piece};
use super::{Random, fork, report};

/// The key that every writer appends to.
pub const ALL: &str = "all";
/// The length of the segments; small, so that there are many.
pub const SEGMENT_LEN_BYTES: u64 = 2 << 20;

/// The key of one writer: no other process appends to it, sets, deletes or pops it.
pub fn own_key(writer: u32) -> String {
    own_prefix(writer) + "key"
}

/// The prefix of the two keys that only one writer changes.
pub fn own_prefix(writer: u32) -> String {
    format!("own {writer} ")
}

/// The second key of one writer. Only a delete of its prefix removes it.
pub fn second_key(writer: u32) -> String {
    own_prefix(writer) + "second key"
}

/// The key for the long pieces of one life of a writer.
pub fn life_key(writer: u32, life: u32) -> String {
    format!("life {writer} {life}")
}

/// A kind of operation.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Deed {
    /// One batch: a piece for the key `all`, one for each of the writer's own keys and one for the
    /// key of its life.
    Append,
    /// Pops its own key.
    Pop,
    /// Deletes its own key.
    Delete,
    /// Sets its own key.
    Set,
    /// Deletes the prefix of its own keys.
    DeletePrefix,
}

/// The kind of the operation with this number, the same for every writer.
pub fn deed(number: u64) -> Deed {
    match number % 16 {
        5 => Deed::Pop,
        9 => Deed::Delete,
        13 => Deed::Set,
        15 => Deed::DeletePrefix,
        _ => Deed::Append,
    }
}

/// Plays a role that the caller defines.
fn play_with(name: &str, play: impl FnOnce(&[String])) {
    if let Some((role, arguments)) = super::own_role() {
        super::die_with_parent();
        assert_eq!(role, name, "there is no such role");
        play(&arguments);
    }
}

/// The body of a role; it receives the child's arguments.
pub type Play = fn(&[String]);

/// Plays this process's role: one of `roles`, or one defined in this file.
pub fn play_among(roles: &[(&str, Play)]) {
    let is_own = |(name, _): &(&str, Play)| ["writer", "reader", "forker"].contains(name);
    assert!(!roles.iter().any(is_own), "a role has the name of one defined here");
    let role = super::own_role().map(|(role, _)| role);
    match roles.iter().find(|(name, _)| role.as_deref() == Some(name)) {
        Some((name, role)) => play_with(name, role),
        None => play(),
    }
}

/// Plays this process's role, which must be one defined in this file.
pub fn play() {
    let Some((role, arguments)) = super::own_role() else {
        // Someone runs the ignored tests by hand: there is no parent.
        return;
    };
    super::die_with_parent();
    let number = |i: usize| arguments[i].parse::<u64>().expect("a number");
    let store = Path::new(&arguments[0]);
    match role.as_str() {
        "writer" => write(
            store,
            &Writer {
                writer: number(1) as u32,
                life: number(2) as u32,
                seed: number(3),
                pause: Duration::from_micros(number(4)),
                long: number(5),
                forks: number(6) == 1,
            },
        ),
        "reader" => read(store, number(1), number(2) == 1),
        "forker" => fork_with_a_handle(store),
        role => panic!("there is no role {role}"),
    }
}

/// Requests of the parent.
#[derive(Debug, Default)]
struct Asked {
    /// End: the input has ended.
    end: AtomicBool,
    /// Make the next append a long one, and report it just before.
    long: AtomicBool,
}

/// Reads requests from the parent in a thread.
fn listen() -> Arc<Asked> {
    let asked = Arc::new(Asked::default());
    let set = Arc::clone(&asked);
    std::thread::spawn(move || {
        for line in std::io::stdin().lines() {
            match line.as_deref() {
                Ok("long") => set.long.store(true, Ordering::Relaxed),
                // End of input; an error counts as one.
                _ => break,
            }
        }
        set.end.store(true, Ordering::Relaxed);
    });
    asked
}

/// A life of a writer.
struct Writer {
    writer: u32,
    life: u32,
    seed: u64,
    /// The longest pause between two operations.
    pause: Duration,
    /// The filler of a long piece; other pieces have less.
    long: u64,
    /// Whether to fork a child that keeps all its files open.
    forks: bool,
}

fn open(store: &Path) -> SegmentLog {
    // No background compaction, so that the process has no thread of its own when it forks.
    let options = SegmentLog::options().segment_len_bytes(SEGMENT_LEN_BYTES);
    options.compaction_dead_share(None).open(store).expect("the open succeeds")
}

fn show(tags: &[Tag]) -> String {
    let shown: Vec<String> =
        tags.iter().map(|tag| format!("{}:{}", tag.life, tag.number)).collect();
    shown.join(",")
}

fn write(store: &Path, me: &Writer) {
    let p = open(store);
    let (own, second) = (own_key(me.writer), second_key(me.writer));
    let mut random = Random(me.seed);
    if me.forks {
        // Acquire the slot and create the segment, so that the child inherits their files too.
        p.delete(["nothing"]).expect("the delete succeeds");
        match fork::fork() {
            Some(pid) => report(&format!("f {pid}")),
            None => fork::sleep_until_input_ends(),
        }
    }
    let asked = listen();
    let found = p.get_many([&own, &second]).expect("the read succeeds");
    let found = found.iter().map(|value| show(&parse(value).expect("its own keys are whole")));
    report(&format!("o {}", found.collect::<Vec<_>>().join(" ")));
    for number in 0.. {
        if asked.end.load(Ordering::Relaxed) {
            return;
        }
        let tag = Tag { writer: me.writer, life: me.life, number };
        let is_asked = deed(number) == Deed::Append && asked.long.swap(false, Ordering::Relaxed);
        let filler = match random.below(16) {
            _ if is_asked => me.long,
            0 => random.below(me.long / 8),
            _ => random.below(256),
        };
        let long = piece(tag, filler as usize);
        report(&format!("b {number}{}", if is_asked { " long" } else { "" }));
        match deed(number) {
            Deed::Append => {
                let short = piece(tag, 8);
                let batch = [
                    (ALL.to_owned(), &short),
                    (own.clone(), &short),
                    (second.clone(), &short),
                    (life_key(me.writer, me.life), &long),
                ];
                if random.below(64) == 0 {
                    p.append_durable(batch).expect("the append succeeds");
                } else {
                    p.append(batch).expect("the append succeeds");
                }
                report(&format!("a {number}"));
            }
            Deed::Pop => {
                let popped = p.pop([&own]).expect("the pop succeeds").remove(0);
                let tags = parse(&popped).expect("the popped value is whole");
                report(&format!("a {number} {}", show(&tags)));
            }
            Deed::Delete => {
                p.delete([&own]).expect("the delete succeeds");
                report(&format!("a {number}"));
            }
            Deed::Set => {
                p.iset(&own, piece(tag, 8)).expect("the set succeeds");
                report(&format!("a {number}"));
            }
            Deed::DeletePrefix => {
                p.delete_prefix(own_prefix(me.writer)).expect("the delete succeeds");
                report(&format!("a {number}"));
            }
        }
        if random.below(200) == 0 {
            p.compact().expect("the compaction succeeds");
        }
        let pause = random.below(me.pause.as_micros() as u64 + 1);
        std::thread::sleep(Duration::from_micros(pause));
    }
}

fn read(store: &Path, seed: u64, writable: bool) {
    let options = SegmentLog::options();
    let p = if writable { options.open(store) } else { options.open_read_only(store) };
    let p = p.expect("the open succeeds");
    let asked = listen();
    let mut random = Random(seed);
    let mut value = Vec::new();
    let mut tags: Vec<Tag> = Vec::new();
    let mut lives: Vec<(u32, u32)> = Vec::new();
    let mut known: BTreeSet<(u32, u32)> = BTreeSet::new();
    let mut long: Option<((u32, u32), Vec<u8>)> = None;
    while !asked.end.load(Ordering::Relaxed) {
        // Usually the life that was read before, to check that it only grows.
        let pick = match &long {
            Some((life, _)) if random.below(4) > 0 => Some(*life),
            _ if lives.is_empty() => None,
            _ => Some(lives[random.below(lives.len() as u64) as usize]),
        };
        let key = pick.map_or_else(String::new, |(writer, life)| life_key(writer, life));
        let mut both = p.get_many([ALL, &key]).expect("the read succeeds");
        let (of_life, all) = (both.remove(1), both.remove(0));
        assert!(all.starts_with(&value), "a value has shrunk or changed");
        let new = parse(&all[value.len()..]).expect("the appends of others are whole");
        value = all;
        for tag in &new {
            if known.insert((tag.writer, tag.life)) {
                lives.push((tag.writer, tag.life));
            }
        }
        tags.extend(new);
        if let Some((writer, life)) = pick {
            if let Some((before, bytes)) = &long
                && *before == (writer, life)
            {
                assert!(of_life.starts_with(bytes), "a long value has shrunk or changed");
            }
            let found = parse(&of_life).expect("the appends of others are whole");
            let right = tags.iter().filter(|tag| (tag.writer, tag.life) == (writer, life));
            assert!(found.iter().eq(right), "a batch is seen in one key and not in the other");
            long = Some(((writer, life), of_life));
        }
        report(&format!("r {}", tags.len()));
        std::thread::sleep(Duration::from_millis(5 + random.below(20)));
    }
}

/// Uses a handle on both sides of a fork. The parent reports `a` after its append and is then
/// killed by the test; the child reports `forked` and the result of each operation.
fn fork_with_a_handle(store: &Path) {
    let p = open(store);
    p.append([("before the fork", "x")]).expect("the append succeeds");
    let q = open(store);
    q.append([("second", "x")]).expect("the append succeeds");
    let buffer = Buffer::new(Dict::new(), open(store), 1 << 20);
    buffer.append([("buffered", "x")]).expect("the append succeeds");
    match fork::fork() {
        Some(pid) => {
            report(&format!("f {pid}"));
            p.append([("after the fork", "x")]).expect("the parent's handle still works");
            report("a");
            let since = Instant::now();
            // Until the test kills it.
            while since.elapsed() < super::PATIENCE {
                std::thread::sleep(Duration::from_millis(10));
            }
        }
        None => {
            let results = [
                ("append", p.append([("k", "v")]).err()),
                ("append_durable", p.append_durable([("k", "v")]).err()),
                ("iset", p.iset("k", "v").err()),
                ("delete", p.delete(["k"]).err()),
                ("clear", p.clear().err()),
                ("delete_prefix", p.delete_prefix("k").err()),
                ("pop", p.pop(["before the fork"]).err()),
                ("get", p.get("before the fork").err()),
                ("keys", p.keys().err()),
                ("len_of", p.len_of("before the fork").err()),
                ("sync", p.sync().err()),
                ("view", p.view("before the fork").err()),
                ("stats", p.stats().err()),
                ("verify", p.verify().err()),
                // The child would lose anything that the buffer accepted.
                ("buffered_append", buffer.append([("k", "v")]).err()),
                ("buffered_iset", buffer.iset("k", "v").err()),
            ];
            for (operation, error) in results {
                let forked = matches!(&error, Some(Error::Forked { path }) if path == store);
                let message = error.map_or_else(|| "no error".to_owned(), |e| e.to_string());
                report(&format!("forked {operation} {forked} {message}"));
            }
            // Dropping a handle in the child must not release what belongs to the parent.
            drop(q);
            assert!(slot_is_locked(store, 1), "the parent's lock is held");
            let own = SegmentLog::open(store).expect("the child can open its own handle");
            own.append([("by the child", "x")]).expect("the append succeeds");
            assert!(p.get("k").is_err(), "the parent's handle still fails in the child");
            report("forked done");
            fork::sleep_until_input_ends();
        }
    }
}

/// Whether any process holds the lock of a writer slot.
pub fn slot_is_locked(store: &Path, slot: u16) -> bool {
    use partd::log::fs::{Dir, Disk, OsDisk};
    let dir = OsDisk.open_dir(store).expect("the directory opens");
    let id = dir.id_of("control").expect("there is a control file");
    let at = partd_format::control::slot_lock_at(slot);
    dir.is_byte_locked("control", id, at).expect("locks can be queried")
}
