//! What the children do: write tagged pieces, read them and check what they see, fork.
//!
//! A writer says `b N` before its operation N and `a N` after it, so the parent knows of every
//! acknowledged one, and of the one that was under way when the writer was killed; and it makes an
//! append long when it is asked to, so that it can be killed in the middle. Now and then it compacts. A reader checks
//! for itself, and panics, what one reader can see: nothing shrinks, nothing changes, a batch is
//! there whole or not at all. What only the parent can know, [`judge`](super::judge) checks.

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
/// The length of the segments, small so that there are many.
pub const SEGMENT_LEN_BYTES: u64 = 2 << 20;

/// The key that one writer appends to, sets, deletes and pops, and nobody else touches.
pub fn own_key(writer: u32) -> String {
    format!("own {writer}")
}

/// The key of one life of a writer: it gets the long pieces.
pub fn life_key(writer: u32, life: u32) -> String {
    format!("life {writer} {life}")
}

/// What a writer does as its operation of this number.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Deed {
    /// One batch: a piece to the key of all, to its own, and to that of its life.
    Append,
    /// Pops its own key.
    Pop,
    /// Deletes its own key.
    Delete,
    /// Sets its own key.
    Set,
}

/// The deed of a number, the same for every writer.
pub fn deed(number: u64) -> Deed {
    match number % 16 {
        5 => Deed::Pop,
        9 => Deed::Delete,
        13 => Deed::Set,
        _ => Deed::Append,
    }
}

/// Plays a role that is not one of those here.
fn play_with(name: &str, play: impl FnOnce(&[String])) {
    if let Some((role, arguments)) = super::own_role() {
        super::die_with_parent();
        assert_eq!(role, name, "there is no such role");
        play(&arguments);
    }
}

/// What a child does in a role, with its arguments.
pub type Play = fn(&[String]);

/// Plays the role that this process was started for: one of some, or one of those here.
pub fn play_among(roles: &[(&str, Play)]) {
    let role = super::own_role().map(|(role, _)| role);
    match roles.iter().find(|(name, _)| role.as_deref() == Some(name)) {
        Some((name, role)) => play_with(name, role),
        None => play(),
    }
}

/// Plays the role that this process was started for, which is one of those here.
pub fn play() {
    let Some((role, arguments)) = super::own_role() else {
        // Somebody runs the ignored tests by hand: there is nobody to report to.
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

/// What the parent asks of a child.
#[derive(Debug, Default)]
struct Asked {
    /// To end: its input has ended.
    end: AtomicBool,
    /// To make its next append a long one, and to say so just before.
    long: AtomicBool,
}

/// Listens to the parent.
fn listen() -> Arc<Asked> {
    let asked = Arc::new(Asked::default());
    let set = Arc::clone(&asked);
    std::thread::spawn(move || {
        for line in std::io::stdin().lines() {
            match line.as_deref() {
                Ok("long") => set.long.store(true, Ordering::Relaxed),
                // An error ends it as well.
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
    /// Between two operations, at most.
    pause: Duration,
    /// The filler of a long piece; that of others is shorter.
    long: u64,
    /// Whether it leaves a child behind that has all its files open.
    forks: bool,
}

fn open(store: &Path) -> SegmentLog {
    // Compactions are asked for, so that a process has no thread of its own when it forks.
    let options = SegmentLog::options().segment_len_bytes(SEGMENT_LEN_BYTES);
    options.compaction_dead_share(None).open(store).expect("opens")
}

fn show(tags: &[Tag]) -> String {
    let shown: Vec<String> =
        tags.iter().map(|tag| format!("{}:{}", tag.life, tag.number)).collect();
    shown.join(",")
}

fn write(store: &Path, me: &Writer) {
    let p = open(store);
    let own = own_key(me.writer);
    let mut random = Random(me.seed);
    if me.forks {
        // Takes the slot and makes the segment, so that the child inherits their files, too.
        p.delete(["nothing"]).expect("deletes");
        match fork::fork() {
            Some(pid) => report(&format!("f {pid}")),
            None => fork::sleep_until_input_ends(),
        }
    }
    let asked = listen();
    let tags = parse(&p.get(&own).expect("reads")).expect("its own key is whole");
    report(&format!("o {}", show(&tags)));
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
                    (life_key(me.writer, me.life), &long),
                ];
                if random.below(64) == 0 {
                    p.append_durable(batch).expect("appends");
                } else {
                    p.append(batch).expect("appends");
                }
                report(&format!("a {number}"));
            }
            Deed::Pop => {
                let popped = p.pop([&own]).expect("pops").remove(0);
                let tags = parse(&popped).expect("what was popped is whole");
                report(&format!("a {number} {}", show(&tags)));
            }
            Deed::Delete => {
                p.delete([&own]).expect("deletes");
                report(&format!("a {number}"));
            }
            Deed::Set => {
                p.iset(&own, piece(tag, 8)).expect("sets");
                report(&format!("a {number}"));
            }
        }
        if random.below(200) == 0 {
            p.compact().expect("compacts");
        }
        let pause = random.below(me.pause.as_micros() as u64 + 1);
        std::thread::sleep(Duration::from_micros(pause));
    }
}

fn read(store: &Path, seed: u64, writable: bool) {
    let options = SegmentLog::options();
    let p = if writable { options.open(store) } else { options.open_read_only(store) };
    let p = p.expect("opens");
    let asked = listen();
    let mut random = Random(seed);
    let mut value = Vec::new();
    let mut tags: Vec<Tag> = Vec::new();
    let mut lives: Vec<(u32, u32)> = Vec::new();
    let mut known: BTreeSet<(u32, u32)> = BTreeSet::new();
    let mut long: Option<((u32, u32), Vec<u8>)> = None;
    while !asked.end.load(Ordering::Relaxed) {
        // Mostly the life that was read before, to see that it only grows.
        let pick = match &long {
            Some((life, _)) if random.below(4) > 0 => Some(*life),
            _ if lives.is_empty() => None,
            _ => Some(lives[random.below(lives.len() as u64) as usize]),
        };
        let key = pick.map_or_else(String::new, |(writer, life)| life_key(writer, life));
        let mut both = p.get_many([ALL, &key]).expect("reads");
        let (of_life, all) = (both.remove(1), both.remove(0));
        assert!(all.starts_with(&value), "a value has shrunk or changed");
        let new = parse(&all[value.len()..]).expect("what others append is whole");
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
            let found = parse(&of_life).expect("what others append is whole");
            let right = tags.iter().filter(|tag| (tag.writer, tag.life) == (writer, life));
            assert!(found.iter().eq(right), "a batch is seen in one key and not in the other");
            long = Some(((writer, life), of_life));
        }
        report(&format!("r {}", tags.len()));
        std::thread::sleep(Duration::from_millis(5 + random.below(20)));
    }
}

/// Uses a handle on both sides of a fork. The parent says `a` for what it appended and is then
/// killed by the test; the child says `forked` and what each operation gave.
fn fork_with_a_handle(store: &Path) {
    let p = open(store);
    p.append([("before the fork", "x")]).expect("appends");
    let q = open(store);
    q.append([("second", "x")]).expect("appends");
    let buffer = Buffer::new(Dict::new(), open(store), 1 << 20);
    buffer.append([("buffered", "x")]).expect("appends");
    match fork::fork() {
        Some(pid) => {
            report(&format!("f {pid}"));
            p.append([("after the fork", "x")]).expect("the parent's handle goes on");
            report("a");
            let since = Instant::now();
            // Until it is killed.
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
                ("pop", p.pop(["before the fork"]).err()),
                ("get", p.get("before the fork").err()),
                ("keys", p.keys().err()),
                ("len_of", p.len_of("before the fork").err()),
                ("sync", p.sync().err()),
                ("view", p.view("before the fork").err()),
                ("stats", p.stats().err()),
                ("verify", p.verify().err()),
                // What it took would be lost.
                ("buffered_append", buffer.append([("k", "v")]).err()),
                ("buffered_iset", buffer.iset("k", "v").err()),
            ];
            for (operation, error) in results {
                let forked = matches!(&error, Some(Error::Forked { path }) if path == store);
                let message = error.map_or_else(|| "no error".to_owned(), |e| e.to_string());
                report(&format!("forked {operation} {forked} {message}"));
            }
            // Dropped in the child, a handle must not free what belongs to the parent.
            drop(q);
            assert!(slot_is_locked(store, 1), "the parent's lock is held");
            let own = SegmentLog::open(store).expect("a handle of its own serves the child");
            own.append([("by the child", "x")]).expect("appends");
            assert!(
                p.get("k").is_err(),
                "the child's own handle does not make the parent's its own"
            );
            report("forked done");
            fork::sleep_until_input_ends();
        }
    }
}

/// Whether anybody holds the lock of a writer slot.
pub fn slot_is_locked(store: &Path, slot: u16) -> bool {
    use partd::log::fs::{Dir, Disk, OsDisk};
    let dir = OsDisk.open_dir(store).expect("the directory opens");
    let id = dir.id_of("control").expect("there is a control file");
    let at = partd_format::control::slot_lock_at(slot);
    dir.is_byte_locked("control", id, at).expect("locks can be asked for")
}
