//! The summary: a store at a glance. Headers and tables only, no values.

use std::path::Path;
use std::thread::sleep;
use std::time::Duration;

use serde_json::{Value, json};

use super::segments::{Standing, Usage, usage};
use crate::Failure;
use crate::output::{Mark, Output};
use crate::text::{count, percent, plural};
use partd_inspect::control::Slot;
use partd_inspect::history::{Rule, uuid};
use partd_inspect::index::Index;
use partd_inspect::locks::{Life, Locks};
use partd_inspect::path::shown;
use partd_inspect::store::Store;

/// How often to look again whether somebody is only about to open the store.
const TRIES: u32 = 5;
const PAUSE: Duration = Duration::from_millis(4);

/// The numbers of the summary.
struct Totals {
    batches: u64,
    entries: u64,
    keys: u64,
    live: u64,
    dead: u64,
    pending: u64,
    void: u64,
}

pub(crate) fn run(path: &Path, out: &mut Output) -> Result<(), Failure> {
    let store = Store::read(path)?;
    let index = Index::build(&store.segments, &store.history, &[]);
    let used = usage(&store, &index);
    let totals = totals(&store, &index, &used);
    let holders = Holders::find(&store);
    if out.json {
        return Ok(out.document("summary", &store, document(&store, &totals, &used, &holders))?);
    }
    let name = if store.is_segment { "segment" } else { "store" };
    out.line(format!("{name:<9} {}", out.mark(Mark::Strong, &shown(path))))?;
    let id = store.uuid().map_or("unknown".to_owned(), |id| uuid(&id));
    let version = store.version().map_or("unknown".to_owned(), |version| version.to_string());
    out.line(format!("uuid      {id}, format {version}"))?;
    kind_lines(&store, out)?;
    out.health(&store)?;
    let history = &store.history;
    if !store.is_segment {
        let (last, mark) = (count(history.last), count(history.mark));
        let line = format!("history   last sequence {last}, synced mark {mark}");
        let unsynced = match history.last.saturating_sub(history.mark) {
            0 => String::new(),
            n => format!(", {} not yet on stable storage", count(n)),
        };
        if line.len() + unsynced.len() <= out.width() {
            out.line(line + &unsynced)?;
        } else {
            out.line(line + ",")?;
            out.line(format!("          {}", &unsynced[2..]))?;
        }
    }
    let (batches, entries) = (totals.batches, plural(totals.entries, "entry", "entries"));
    let batches = plural(batches, "batch", "batches");
    out.line(format!("content   {batches}, {entries}, {}", plural(totals.keys, "key", "keys")))?;
    let (live, dead) = (out.size(totals.live), out.size(totals.dead));
    let share = percent(totals.live, totals.live + totals.dead);
    out.line(format!("values    {live} live ({share}), {dead} dead"))?;
    segments_lines(&used, out)?;
    if store.recycled > 0 {
        let kept = plural(store.recycled, "dead segment", "dead segments");
        out.line(format!("          {kept} kept to be written again"))?;
    }
    if totals.pending + totals.void > 0 {
        let (pending, void) = (count(totals.pending), count(totals.void));
        out.line(format!("claims    {pending} pending, {void} void"))?;
    }
    holders_lines(&store, &holders, out)
}

/// Lines that only temporary stores and copies have.
fn kind_lines(store: &Store, out: &mut Output) -> Result<(), Failure> {
    let Some(control) = store.control() else { return Ok(()) };
    let lines: &[&str] = match (control.is_temporary(), store.recycles()) {
        (false, _) => &[],
        (true, true) => &[
            "temporary: it belongs to one process and goes with it. Dead segments are",
            "written again meanwhile, so what is read here may be gone already",
        ],
        (true, false) => &[
            "temporary: it belonged to one process, which is gone; nobody can open it,",
            "and `partd-inspect sweep` lists such stores",
        ],
    };
    for (i, line) in lines.iter().enumerate() {
        out.line(format!("{}{line}", if i == 0 { "kind      " } else { "          " }))?;
    }
    if control.is_copy {
        let copied = "control   a copy: its device and inode are not those of this file, so its";
        out.line(out.mark(Mark::Warn, copied))?;
        let rest = "words do not count, and the history is what the segments hold";
        out.line(format!("          {}", out.mark(Mark::Warn, rest)))?;
    }
    Ok(())
}

fn segments_lines(used: &[Usage], out: &mut Output) -> Result<(), Failure> {
    let of = |standing| used.iter().filter(move |usage| usage.standing == standing);
    let (number, len, fill) = sums(used.iter());
    let (total, size) = (plural(number, "segment", "segments"), out.size(len));
    out.line(format!("files     {total}, {size}, {} used", percent(fill, len)))?;
    for standing in Standing::ALL {
        let (number, len, fill) = sums(of(standing));
        if number > 0 {
            let (size, share) = (out.size(len), percent(fill, len));
            let (number, name) = (count(number), standing.name());
            out.line(format!("          {number} {name}, {size}, {share} used"))?;
        }
    }
    Ok(())
}

/// How many segments, how long they are, and how much of that is used.
fn sums<'u>(used: impl Iterator<Item = &'u Usage>) -> (u64, u64, u64) {
    used.fold((0, 0, 0), |(n, len, fill), usage| (n + 1, len + usage.len, fill + usage.used))
}

fn holders_lines(store: &Store, holders: &Holders<'_>, out: &mut Output) -> Result<(), Failure> {
    if store.is_segment {
        return Ok(());
    }
    let Some(control) = store.control() else {
        let why = match store.control {
            None => "there is no control file; the next open makes one",
            Some(_) => "the control file is unusable; the next open makes a new one",
        };
        return Ok(out.line(format!("holders   unknown: {why}"))?);
    };
    if control.sync_failed {
        let text = "a sync of this store has failed: nothing new is promised to be durable";
        out.line(format!("sync      {}", out.mark(Mark::Bad, text)))?;
    }
    let mut lines = Vec::new();
    for (slot, life) in &holders.writers {
        let mark = if *life == Life::Alive { Mark::Good } else { Mark::Warn };
        let life = out.mark(mark, life.name());
        let active = match slot.active {
            0 => String::new(),
            id => format!(", writes segment {id}"),
        };
        lines.push(format!("pid {} {life} (slot {}{active})", slot.pid, slot.slot));
    }
    for pid in &holders.others {
        let life = out.mark(Mark::Good, Life::Alive.name());
        lines.push(format!("pid {pid} {life} (has it open, and no writer's slot)"));
    }
    if holders.unseen {
        lines.push(
            "somebody has it open whom this process cannot see, perhaps in a container".into(),
        );
    }
    if holders.elsewhere {
        let text = "they use another control file: this one was put in its place. Close the";
        lines.push(out.mark(Mark::Bad, text));
        let text = "store in all of them and open it again: it is recovered from its segments";
        lines.push(out.mark(Mark::Bad, text));
    }
    if lines.is_empty() {
        let how = if control.clean { ", closed cleanly" } else { "" };
        lines.push(format!("no writer{how}"));
    }
    for (life, work) in [(holders.sync, "a sync"), (holders.compaction, "a compaction")] {
        if life == Life::Alive {
            lines.push(format!("{work} is under way"));
        }
    }
    for (i, line) in lines.iter().enumerate() {
        out.line(format!("{}{line}", if i == 0 { "holders   " } else { "          " }))?;
    }
    Ok(())
}

/// Who has the store open.
struct Holders<'s> {
    /// Who is in the writer slots.
    writers: Vec<(&'s Slot, Life)>,
    /// Other processes that hold the lock of the store: they read, or have written nothing yet.
    others: Vec<u32>,
    /// The store is open, and nobody is seen to hold its lock.
    unseen: bool,
    /// Handles are open, and none uses this control file.
    elsewhere: bool,
    /// Whether somebody leads a sync.
    sync: Life,
    /// Whether somebody compacts.
    compaction: Life,
}

impl Holders<'_> {
    fn find(store: &Store) -> Holders<'_> {
        let (mut locks, dir) = (Locks::read(), &store.path);
        let Some(control) = store.control().filter(|_| !store.is_segment) else {
            let (writers, others, sync) = (Vec::new(), Vec::new(), Life::Dead);
            let (unseen, elsewhere, compaction) = (false, false, Life::Dead);
            return Holders { writers, others, unseen, elsewhere, sync, compaction };
        };
        // An opener holds the directory lock for a moment before it is present on the control file.
        let is_elsewhere = |locks: &Locks| {
            !control.is_temporary()
                && locks.store(dir) == Life::Alive
                && locks.store_exclusively(dir) == Life::Dead
                && locks.presence(dir) == Life::Dead
        };
        for _ in 0..TRIES {
            if !is_elsewhere(&locks) {
                break;
            }
            sleep(PAUSE);
            locks = Locks::read();
        }
        let writers: Vec<_> =
            control.slots.iter().map(|slot| (slot, store.life(&locks, slot))).collect();
        let mut others = locks.store_pids(dir);
        others.retain(|pid| !writers.iter().any(|(slot, _)| slot.pid == *pid));
        let unseen = store.around.is_open && locks.store(dir) == Life::Dead;
        let elsewhere = is_elsewhere(&locks);
        let (sync, compaction) = (locks.sync(dir), locks.compaction(dir));
        Holders { writers, others, unseen, elsewhere, sync, compaction }
    }
}

fn totals(store: &Store, index: &Index<'_>, used: &[Usage]) -> Totals {
    let mut totals = Totals {
        batches: store.history.batches.len() as u64,
        entries: 0,
        keys: index.keys.len() as u64,
        live: used.iter().map(|usage| usage.live).sum(),
        dead: used.iter().map(|usage| usage.dead).sum(),
        pending: used.iter().map(|usage| usage.pending).sum(),
        void: used.iter().map(|usage| usage.void).sum(),
    };
    for place in &store.history.batches {
        let batch = &store.segments[place.segment].batches[place.batch];
        totals.entries += batch.good_head().map_or(0, |head| head.count as u64);
    }
    for (segment, counts) in store.segments.iter().zip(&store.history.counts) {
        if *counts && segment.is_output() {
            totals.batches += segment.batches.len() as u64;
            totals.entries += segment.entries.len() as u64;
        }
    }
    totals
}

fn document(store: &Store, totals: &Totals, used: &[Usage], holders: &Holders<'_>) -> Value {
    let history = &store.history;
    let control = store.control();
    let of = |standing: Standing| used.iter().filter(|usage| usage.standing == standing).count();
    let states: serde_json::Map<String, Value> =
        Standing::ALL.iter().map(|s| (s.name().to_owned(), of(*s).into())).collect();
    let by_state: serde_json::Map<String, Value> = Standing::ALL
        .iter()
        .map(|standing| {
            let (count, len, fill) = sums(used.iter().filter(|u| u.standing == *standing));
            let sums = json!({ "count": count, "bytes": len, "used_bytes": fill });
            (standing.name().to_owned(), sums)
        })
        .collect();
    json!({
        "kind": if store.is_segment { "segment" } else { "store" },
        "uuid": store.uuid().map(|id| uuid(&id)),
        "format_version": store.version(),
        "history": {
            "rule": rule_name(history.rule),
            "last_sequence": history.last,
            "synced_mark": history.mark,
            "compacted_upto": history.max_seq,
            "batches_beyond": history.beyond.len(),
        },
        "batches": totals.batches,
        "entries": totals.entries,
        "keys": totals.keys,
        "live_bytes": totals.live,
        "dead_bytes": totals.dead,
        "pending_batches": totals.pending,
        "void_batches": totals.void,
        "segments": {
            "count": used.len(),
            "bytes": used.iter().map(|usage| usage.len).sum::<u64>(),
            "used_bytes": used.iter().map(|usage| usage.used).sum::<u64>(),
            "states": states,
            "by_state": by_state,
        },
        "control": control.map(|control| json!({
            "commit_sequence": control.commit.sequence,
            "commit_slot": control.commit.slot,
            "commit_done": control.commit.done,
            "next_segment": control.next_segment,
            "generation": control.generation,
            "synced": control.durable_seq.as_ref().ok(),
            "sync_failed": control.sync_failed,
            "clean": control.clean,
            "temporary": control.is_temporary(),
            "copy": control.is_copy,
        })),
        "holders": holders.writers.iter().map(|(slot, life)| json!({
            "slot": slot.slot,
            "pid": slot.pid,
            "state": life.name(),
            "active_segment": slot.active,
        })).collect::<Vec<_>>(),
        "open_without_slot": holders.others,
        "unseen_writers": holders.unseen,
        "other_control_in_use": holders.elsewhere,
        "sync_under_way": holders.sync == Life::Alive,
        "compaction_under_way": holders.compaction == Life::Alive,
        "recycled_segments": store.recycled,
        "other_files": store.other_files,
    })
}

fn rule_name(rule: Rule) -> &'static str {
    match rule {
        Rule::CommitWord => "commit word",
        Rule::Numbers => "numbers",
        Rule::Recovery => "recovery",
        Rule::Alone => "single segment",
    }
}
