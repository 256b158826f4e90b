//! The report: what was reclaimed, what is left, and why a handle had not reclaimed it before.

use std::fmt::Write;
use std::path::PathBuf;

use partd::{Compaction, Skipped, Stats};
use partd_inspect::path::shown;
use partd_inspect::text::size;

/// The share of the store that must be dead before a handle compacts by itself, and the bytes: those of
/// two segments. Both are defaults of `Options`.
const DEAD_SHARE: f64 = 0.5;
const TWO_SEGMENTS: u64 = 128 << 20;

/// What a compaction found and did.
#[derive(Debug)]
pub(crate) struct Report {
    pub(crate) path: PathBuf,
    pub(crate) before: Stats,
    pub(crate) compaction: Compaction,
    pub(crate) after: Stats,
}

impl Report {
    /// The report as lines of text.
    pub(crate) fn text(&self) -> String {
        let mut text = String::new();
        let mut line = |name: &str, rest: String| {
            // Writing to a string cannot fail.
            let _ = writeln!(text, "{name:<9} {rest}");
        };
        line("store", shown(&self.path));
        line("before", state(&self.before));
        line("reclaimed", self.reclaimed());
        line("after", state(&self.after));
        for (i, reason) in self.reasons().into_iter().enumerate() {
            line(if i == 0 { "why" } else { "" }, reason);
        }
        for (i, rest) in self.left().into_iter().enumerate() {
            line(if i == 0 { "left" } else { "" }, rest);
        }
        text
    }

    fn reclaimed(&self) -> String {
        let Compaction { runs, segments_replaced, bytes_rewritten, .. } = self.compaction;
        if runs == 0 {
            return "nothing".to_owned();
        }
        // Other processes may have appended meanwhile.
        let freed = self.before.disk_bytes.saturating_sub(self.after.disk_bytes);
        let rewritten = size(bytes_rewritten);
        format!(
            "{} on disk; {segments_replaced} segments replaced, {rewritten} rewritten in {runs} {}",
            size(freed),
            if runs == 1 { "run" } else { "runs" }
        )
    }

    /// Why no handle had compacted the store.
    fn reasons(&self) -> Vec<String> {
        let Stats { live_bytes, dead_bytes, .. } = self.before;
        if dead_bytes == 0 {
            return Vec::new();
        }
        let share = dead_bytes as f64 / (live_bytes + dead_bytes) as f64;
        let mut reasons = Vec::new();
        if share < DEAD_SHARE {
            reasons.push(format!(
                "{:.0} % of the values were dead; by default a handle compacts at {:.0} %",
                share * 100.0,
                DEAD_SHARE * 100.0
            ));
        }
        if dead_bytes < TWO_SEGMENTS {
            reasons.push(format!(
                "{} were dead; by default a handle compacts to free two segments, {}",
                size(dead_bytes),
                size(TWO_SEGMENTS)
            ));
        }
        if reasons.is_empty() {
            reasons.push(
                "its handles do not compact (`compaction_dead_share(None)`), or were killed".into(),
            );
            reasons.push(
                "or closed before they were done: they check after a removal and a new".into(),
            );
            reasons.push("segment, and take at most five seconds when they are closed".into());
        }
        reasons
    }

    /// What is left to do, and for whom.
    fn left(&self) -> Vec<String> {
        let mut left = Vec::new();
        match self.compaction.skipped {
            None => {}
            Some(Skipped::OtherCompaction) => {
                left.push(
                    "another process is compacting the store; run the command again later".into(),
                );
            }
            Some(Skipped::NoSpace) => {
                left.push(
                    "the disk has no space for another run; free some and run the command again"
                        .into(),
                );
            }
            Some(_) => left.push("the compaction was stopped; run the command again".into()),
        }
        let Stats { dead_bytes, segments_open, .. } = self.after;
        if self.compaction.skipped.is_none() && dead_bytes > 0 && segments_open > 0 {
            let dead = size(dead_bytes);
            left.push(format!(
                "{dead} dead in segments that writers still append to, or wrote meanwhile"
            ));
        }
        left
    }
}

/// The size of a store.
fn state(stats: &Stats) -> String {
    let Stats { segments_open, segments_sealed, segments_compacted, .. } = *stats;
    let segments = segments_open + segments_sealed + segments_compacted;
    format!(
        "{segments} {}, {} on disk: {} live, {} dead",
        if segments == 1 { "segment" } else { "segments" },
        size(stats.disk_bytes),
        size(stats.live_bytes),
        size(stats.dead_bytes)
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    fn report(live_bytes: u64, dead_bytes: u64) -> Report {
        let mut before = Stats::default();
        (before.live_bytes, before.dead_bytes) = (live_bytes, dead_bytes);
        let (compaction, after) = (Compaction::default(), Stats::default());
        Report { path: PathBuf::from("/store"), before, compaction, after }
    }

    #[test]
    fn the_reason_fits_the_store() {
        const GIB: u64 = 1 << 30;
        let says = |live, dead| report(live, dead).reasons().join(" ");
        assert_eq!(says(GIB, 0), "");
        let few = says(3 * GIB, GIB);
        assert!(few.contains("25 % of the values were dead") && !few.contains("two segments"));
        let small = says(10 << 20, 30 << 20);
        assert!(small.contains("30.0 MiB were dead") && !small.contains('%'), "{small}");
        let both = report(30 << 20, 10 << 20).reasons();
        assert_eq!(both.len(), 2, "{both:?}");
        assert!(says(GIB, 3 * GIB).contains("compaction_dead_share(None)"));
    }
}
