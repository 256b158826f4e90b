//! The summary of a store, from headers and tables only; it reads no values.

use std::ffi::OsStr;
use std::os::unix::ffi::OsStrExt;
use std::path::Path;
use std::thread::sleep;
use std::time::Duration;

use serde_json::{Value, json};

use super::segments::{SegmentState, Usage, usage};
use crate::Failure;
use crate::output::{Output, Style};
use crate::text::{count, percent, plural};
use partd_inspect::control::WriterSlot;
use partd_inspect::history::Rule;
use partd_inspect::index::Index;
use partd_inspect::locks::{Liveness, Locks};
use partd_inspect::path::shown;
use partd_inspect::store::Store;
use partd_inspect::text::uuid;

/// How many times to check again whether a process is just opening the store.
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
    out.line(format!("{name:<9} {}", out.styled(Style::Strong, &shown(path))))?;
    let id = store.uuid().map_or("unknown".to_owned(), |id| uuid(&id));
    let version = store.version().map_or("unknown".to_owned(), |version| version.to_string());
    out.line(format!("uuid      {id}, format {version}"))?;
    kind_lines(&store, out)?;
    out.health(&store)?;
    let history = &store.history;
    if !store.is_segment {
        let (last, durable_seq) = (count(history.last), count(history.durable_seq));
        let line = format!("history   last sequence {last}, durable_seq {durable_seq}");
        let unsynced = match history.last.saturating_sub(history.durable_seq) {
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
    let space = Space::of(&totals, &used);
    let (total, free) = (out.size(space.bytes), out.size(space.free));
    let other = out.size(space.other);
    out.line(format!("space     {total}: {live} live, {dead} dead,"))?;
    out.line(format!("          {other} keys, headers and claims, {free} free"))?;
    let how = match space.reclaimable {
        0 => "",
        _ => "; partd-compact frees it",
    };
    out.line(format!("          about {} reclaimable{how}", out.size(space.reclaimable)))?;
    if store.recycled > 0 {
        let kept = plural(store.recycled, "dead segment", "dead segments");
        out.line(format!("          {kept} kept for reuse"))?;
    }
    if totals.pending + totals.void > 0 {
        let (pending, void) = (count(totals.pending), count(totals.void));
        out.line(format!("claims    {pending} pending, {void} void"))?;
    }
    holders_lines(&store, &holders, out)
}

/// Writes the lines that only temporary stores and copies have.
fn kind_lines(store: &Store, out: &mut Output) -> Result<(), Failure> {
    let Some(control) = store.control() else { return Ok(()) };
    let lines: &[&str] = match (control.is_temporary(), store.recycles()) {
        (false, _) => &[],
        (true, true) => &[
            "temporary: it belongs to one process and ends with it. Dead segments are",
            "reused meanwhile, so what is shown here may be gone already",
        ],
        (true, false) => &[
            "temporary: it belonged to one process, which is gone. No process can open",
            "it; `partd-inspect sweep` lists such stores",
        ],
    };
    for (i, line) in lines.iter().enumerate() {
        out.line(format!("{}{line}", if i == 0 { "kind      " } else { "          " }))?;
    }
    if control.is_copy {
        let copied = "control   a copy: it does not name its own device and inode, so its words";
        out.line(out.styled(Style::Warn, copied))?;
        let rest = "are ignored, and the history is what the segments hold";
        out.line(format!("          {}", out.styled(Style::Warn, rest)))?;
    }
    Ok(())
}

fn segments_lines(used: &[Usage], out: &mut Output) -> Result<(), Failure> {
    let of = |state| used.iter().filter(move |usage| usage.state == state);
    let (number, len, fill) = sums(used.iter());
    let (total, size) = (plural(number, "segment", "segments"), out.size(len));
    out.line(format!("files     {total}, {size}, {} used", percent(fill, len)))?;
    for state in SegmentState::ALL {
        let (number, len, fill) = sums(of(state));
        if number > 0 {
            let (size, share) = (out.size(len), percent(fill, len));
            let (number, name) = (count(number), state.name());
            out.line(format!("          {number} {name}, {size}, {share} used"))?;
        }
    }
    Ok(())
}

/// How the bytes of all segment files are used. Together with the live and dead values, the parts make
/// up the whole.
struct Space {
    /// The length of all files.
    bytes: u64,
    /// The bytes that are neither values of the history nor free: keys, headers, tables, and
    /// batches that are not part of the history.
    other: u64,
    /// The bytes after the chains.
    free: u64,
    /// About how many bytes a compaction would free.
    reclaimable: u64,
}

impl Space {
    fn of(totals: &Totals, used: &[Usage]) -> Space {
        let (_, bytes, fill) = sums(used.iter());
        Space {
            bytes,
            other: fill.saturating_sub(totals.live + totals.dead),
            free: bytes.saturating_sub(fill),
            reclaimable: used.iter().map(Usage::reclaimable).sum(),
        }
    }
}

/// Sums up segments: their number, length and used bytes.
fn sums<'u>(used: impl Iterator<Item = &'u Usage>) -> (u64, u64, u64) {
    used.fold((0, 0, 0), |(n, len, fill), usage| (n + 1, len + usage.len, fill + usage.used))
}

fn holders_lines(store: &Store, holders: &Holders<'_>, out: &mut Output) -> Result<(), Failure> {
    if store.is_segment {
        return Ok(());
    }
    let Some(control) = store.control() else {
        let why = match store.control {
            None => "there is no control file; the next open creates one",
            Some(_) => "the control file is unusable; the next open creates a new one",
        };
        return Ok(out.line(format!("holders   unknown: {why}"))?);
    };
    if control.sync_failed {
        let text = "a sync of this store has failed: nothing new is promised to be durable";
        out.line(format!("sync      {}", out.styled(Style::Bad, text)))?;
    }
    let mut lines = Vec::new();
    for (slot, liveness) in &holders.writers {
        let style = if *liveness == Liveness::Alive { Style::Good } else { Style::Warn };
        let liveness = out.styled(style, liveness.name());
        let active = match slot.active {
            0 => String::new(),
            id => format!(", writes segment {id}"),
        };
        let command = match command(slot.pid) {
            Some(command) if holders.is_alive(slot) => format!(" {command}"),
            _ => String::new(),
        };
        lines.push(format!("pid {}{command} {liveness} (slot {}{active})", slot.pid, slot.slot));
    }
    for pid in &holders.others {
        let liveness = out.styled(Style::Good, Liveness::Alive.name());
        let command = command(*pid).map(|command| format!(" {command}")).unwrap_or_default();
        lines.push(format!("pid {pid}{command} {liveness} (reads, or has written nothing yet)"));
    }
    if let Some(handles) = holders.handles.filter(|handles| *handles > 0) {
        let alive = holders.writers.iter().filter(|(_, l)| *l == Liveness::Alive).count() as u64;
        let readers = plural(handles.saturating_sub(alive), "reader", "readers");
        let writers = plural(alive, "writer", "writers");
        lines.push(format!("{} open: {writers}, {readers}", plural(handles, "handle", "handles")));
    }
    if holders.unseen {
        lines.push("a process that is not visible here has it open, perhaps in a container".into());
    }
    if holders.elsewhere {
        let text = "they use another control file, which this one has replaced. Close the";
        lines.push(out.styled(Style::Bad, text));
        let text = "store in all of them and open it again: the segments recover it";
        lines.push(out.styled(Style::Bad, text));
    }
    if lines.is_empty() {
        let how = if control.clean { ", closed cleanly" } else { "" };
        lines.push(format!("no writer{how}"));
    }
    for (liveness, work) in [(holders.sync, "a sync"), (holders.compaction, "a compaction")] {
        if liveness == Liveness::Alive {
            lines.push(format!("{work} is running"));
        }
    }
    for (i, line) in lines.iter().enumerate() {
        out.line(format!("{}{line}", if i == 0 { "holders   " } else { "          " }))?;
    }
    Ok(())
}

/// The processes that have the store open.
struct Holders<'s> {
    /// The writer slots in use, and whether their writers are alive.
    writers: Vec<(&'s WriterSlot, Liveness)>,
    /// Other processes that hold the lock of the store: readers, and writers that have written
    /// nothing.
    others: Vec<u32>,
    /// How many handles are open, of all processes, containers included; `None` if that is not shown.
    handles: Option<u64>,
    /// Whether the store is open although no process is seen to hold its lock.
    unseen: bool,
    /// Whether handles are open and none uses this control file.
    elsewhere: bool,
    /// Whether a sync is running.
    sync: Liveness,
    /// Whether a compaction is running.
    compaction: Liveness,
}

impl Holders<'_> {
    fn find(store: &Store) -> Holders<'_> {
        let (mut locks, dir) = (Locks::read(), &store.path);
        let Some(control) = store.control().filter(|_| !store.is_segment) else {
            let (writers, others, handles) = (Vec::new(), Vec::new(), None);
            let (unseen, elsewhere) = (false, false);
            let (sync, compaction) = (Liveness::Dead, Liveness::Dead);
            return Holders { writers, others, handles, unseen, elsewhere, sync, compaction };
        };
        // An opener holds the lock on the directory for a moment before it takes the presence lock.
        let is_elsewhere = |locks: &Locks| {
            !control.is_temporary()
                && locks.store(dir) == Liveness::Alive
                && locks.store_exclusively(dir) == Liveness::Dead
                && locks.presence(dir) == Liveness::Dead
        };
        for _ in 0..TRIES {
            if !is_elsewhere(&locks) {
                break;
            }
            sleep(PAUSE);
            locks = Locks::read();
        }
        let writers: Vec<_> =
            control.slots.iter().map(|slot| (slot, store.liveness(&locks, slot))).collect();
        let mut others = locks.store_pids(dir);
        others.retain(|pid| !writers.iter().any(|(slot, _)| slot.pid == *pid));
        let unseen = store.environment.is_open && locks.store(dir) == Liveness::Dead;
        let elsewhere = is_elsewhere(&locks);
        let (sync, compaction) = (locks.sync(dir), locks.compaction(dir));
        let handles = locks.handles(dir).map(|handles| handles as u64);
        Holders { writers, others, handles, unseen, elsewhere, sync, compaction }
    }

    fn is_alive(&self, slot: &WriterSlot) -> bool {
        let mut writers = self.writers.iter();
        writers.any(|(other, state)| other.slot == slot.slot && *state == Liveness::Alive)
    }
}

/// The name of a process's command; `None` if the process is gone or not visible.
fn command(pid: u32) -> Option<String> {
    let name = std::fs::read(format!("/proc/{pid}/comm")).ok()?;
    Some(shown(OsStr::from_bytes(name.trim_ascii_end())))
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
    for batch_ref in &store.history.batches {
        let batch = &store.segments[batch_ref.segment].batches[batch_ref.batch];
        totals.entries += batch.good_head().map_or(0, |head| head.count as u64);
    }
    for (segment, included) in store.segments.iter().zip(&store.history.included) {
        if *included && segment.is_output() {
            totals.batches += segment.batches.len() as u64;
            totals.entries += segment.entries.len() as u64;
        }
    }
    totals
}

fn document(store: &Store, totals: &Totals, used: &[Usage], holders: &Holders<'_>) -> Value {
    let history = &store.history;
    let control = store.control();
    let of = |state: SegmentState| used.iter().filter(|usage| usage.state == state).count();
    let states: serde_json::Map<String, Value> =
        SegmentState::ALL.iter().map(|s| (s.name().to_owned(), of(*s).into())).collect();
    let by_state: serde_json::Map<String, Value> = SegmentState::ALL
        .iter()
        .map(|state| {
            let (count, len, fill) = sums(used.iter().filter(|u| u.state == *state));
            let sums = json!({ "count": count, "bytes": len, "used_bytes": fill });
            (state.name().to_owned(), sums)
        })
        .collect();
    let space = Space::of(totals, used);
    json!({
        "kind": if store.is_segment { "segment" } else { "store" },
        "uuid": store.uuid().map(|id| uuid(&id)),
        "format_version": store.version(),
        "history": {
            "rule": rule_name(history.rule),
            "last_sequence": history.last,
            "durable_seq": history.durable_seq,
            "max_seq": history.max_seq,
            "batches_beyond": history.beyond.len(),
        },
        "batches": totals.batches,
        "entries": totals.entries,
        "keys": totals.keys,
        "live_bytes": totals.live,
        "dead_bytes": totals.dead,
        "pending_batches": totals.pending,
        "void_batches": totals.void,
        "other_bytes": space.other,
        "free_bytes": space.free,
        "reclaimable_bytes": space.reclaimable,
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
            "directory_epoch": control.directory_epoch,
            "durable_seq": control.durable_seq.as_ref().ok(),
            "sync_failed": control.sync_failed,
            "clean": control.clean,
            "temporary": control.is_temporary(),
            "copy": control.is_copy,
        })),
        "holders": holders.writers.iter().map(|(slot, liveness)| json!({
            "slot": slot.slot,
            "pid": slot.pid,
            "process": command(slot.pid).filter(|_| *liveness == Liveness::Alive),
            "state": liveness.name(),
            "active_segment": slot.active,
        })).collect::<Vec<_>>(),
        "open_without_slot": holders.others,
        "open_handles": holders.handles,
        "unseen_writers": holders.unseen,
        "other_control_in_use": holders.elsewhere,
        "sync_under_way": holders.sync == Liveness::Alive,
        "compaction_under_way": holders.compaction == Liveness::Alive,
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
