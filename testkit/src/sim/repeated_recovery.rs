//! Continues after a power cut: recovery itself is cut or killed, batches are appended to the
//! recovered store, and the power fails again. A recovered batch stays (I7), and a discarded batch
//! never returns (I8).

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Arc;

use partd::{Durability, Partd, SegmentLog};

use super::cuts::Mode;
use super::disk::{Event, Fate, SimDisk};
use super::image::Image;
use super::oracle::{Op, Oracle, batch};
use super::power::{Kind, Search, open, too_few};
use super::timeline::{Choice, Timeline};
use super::{Rng, Violation};

/// Every image is continued: its recovery, or an append after it, is cut at one moment in one way.
/// For one in this many, at more moments and in several ways each.
const MORE_ONE_OF: u64 = 30;
const MOMENTS_AFTERWARDS: usize = 5;
/// For one in this many images whose recovery voids batches, recovery is cut and killed after each
/// of its operations.
const EVERY_MOMENT_OF_ONE_OF: u64 = 320;

/// A unique value.
fn value(rng: &mut Rng) -> Vec<u8> {
    rng.next().to_le_bytes().repeat(1 + rng.below(3) as usize)
}

impl Search<'_> {
    /// Appends to a recovered store, and cuts the power during its recovery and afterwards.
    pub fn go_on(
        &mut self,
        disk: &SimDisk,
        log: SegmentLog<SimDisk>,
        found: u64,
        mode: Mode,
        hash: u64,
    ) -> Result<(), Violation> {
        let gives_up = disk.has_logged(|event| matches!(event, Event::Sync { .. }));
        let everywhere = gives_up && hash.is_multiple_of(EVERY_MOMENT_OF_ONE_OF);
        let more = everywhere || hash.is_multiple_of(MORE_ONE_OF);
        let oracle = self.oracle.cut(found);
        if everywhere {
            self.tally.recoveries += 1;
            self.killed_at_each_operation(disk.base(), &oracle, mode, hash)?;
        }
        let recovery = disk.log_len();
        let mut rng = Rng(hash);
        let durable = [rng.below(2) == 0, true, false];
        let durable = if more { &durable[..] } else { &durable[..2] };
        let oracle = append(disk, &log, oracle, durable, &mut rng)?;
        let records = disk.take_log();
        drop(log);
        let count = if more { MOMENTS_AFTERWARDS } else { 1 };
        let mut moments: Vec<usize> =
            (0..count).map(|_| rng.below(records.len() as u64) as usize).collect();
        if more {
            moments.push(records.len() - 1);
        }
        if everywhere {
            moments.extend(0..recovery);
        }
        let mut timeline = Timeline::new(disk, &records, mode.unit_len(), found);
        while let Some(passed) = timeline.pass() {
            passed?;
            let at = timeline.at() - 1;
            if moments.contains(&at) {
                let once_more = (everywhere && at < recovery).then_some(mode);
                self.cut_again(&timeline, &oracle, found, more, once_more, &mut rng)?;
            }
        }
        Ok(())
    }

    /// Kills recovery right after each of its operations in turn (`kill -9`). The next process
    /// opens the store on the same machine and continues, and then the power fails.
    fn killed_at_each_operation(
        &mut self,
        image: &Image,
        oracle: &Oracle,
        mode: Mode,
        hash: u64,
    ) -> Result<(), Violation> {
        let found = oracle.len();
        for at in 1.. {
            let disk = SimDisk::boot(image, hash ^ self.seed, self.defect);
            let victim = disk.new_process();
            victim.stop_at(at);
            let its = victim.clone();
            let thread = std::thread::spawn(move || {
                // A killed process ends with a panic that can be ignored.
                let _ = catch_unwind(AssertUnwindSafe(|| open(&its).map(drop)));
                its.finished();
            });
            let stopped = victim.wait() == Fate::Stopped;
            victim.kill();
            let done = self.goes_on_after_a_kill(&disk.new_process(), oracle, mode, hash ^ at);
            victim.bury();
            let _ = thread.join();
            done.map_err(|v| {
                let text = format!("{} (recovery of {found} batches killed at {at})", v.text);
                Violation::new(if v.invariant == "I1" { "I1" } else { "I7" }, text)
            })?;
            if !stopped {
                return Ok(());
            }
        }
        Ok(())
    }

    fn goes_on_after_a_kill(
        &mut self,
        disk: &SimDisk,
        oracle: &Oracle,
        mode: Mode,
        seed: u64,
    ) -> Result<(), Violation> {
        let found = oracle.len();
        let log = open(disk)?;
        oracle.judge(&log, found, found)?;
        let mut rng = Rng(seed);
        let oracle = append(disk, &log, oracle.clone(), &[true, false], &mut rng)?;
        let records = disk.take_log();
        drop(log);
        let mut timeline = Timeline::new(disk, &records, mode.unit_len(), found);
        while let Some(passed) = timeline.pass() {
            passed?;
        }
        self.cut_again(&timeline, &oracle, found, true, None, &mut rng)
    }

    /// Cuts the power at a moment, in several ways or in one. If a mode is given, durably appends
    /// more to the result and then cuts the power once more.
    fn cut_again(
        &mut self,
        timeline: &Timeline<'_>,
        oracle: &Oracle,
        recovered: u64,
        several: bool,
        once_more: Option<Mode>,
        rng: &mut Rng,
    ) -> Result<(), Violation> {
        let units = timeline.units();
        let names = timeline.pending_names();
        let kept = rng.below(names as u64 + 1) as usize;
        let all: Arc<[usize]> = units.iter().map(|unit| unit.versions).collect();
        let mut some = || units.iter().map(|u| rng.below(u.versions as u64 + 1) as usize).collect();
        let choices = [
            Choice { versions: all, names: vec![true; names].into() },
            Choice { versions: vec![0; units.len()].into(), names: vec![false; names].into() },
            Choice { versions: some(), names: vec![true; names].into() },
            Choice { versions: some(), names: (0..names).map(|i| i < kept).collect() },
        ];
        let one = rng.below(choices.len() as u64) as usize;
        for choice in if several { &choices[..] } else { &choices[one..=one] } {
            let image = timeline.image(&units, choice);
            self.boot_again(&image, oracle, timeline, recovered, once_more)?;
        }
        Ok(())
    }

    fn boot_again(
        &mut self,
        image: &Image,
        oracle: &Oracle,
        timeline: &Timeline<'_>,
        recovered: u64,
        once_more: Option<Mode>,
    ) -> Result<(), Violation> {
        let hash = image.hash();
        if let Some(&found) = self.seen_afterwards.get(&hash) {
            return too_few(found, timeline.floor);
        }
        let disk = SimDisk::boot(image, hash ^ self.seed, self.defect);
        // A store that was recovered to `recovered` batches never has fewer, and never others.
        let label = if timeline.ceiling() == recovered { "I7" } else { "I8" };
        let repeated = |v: Violation| {
            let text = format!("{} (booted a second time, after {recovered} batches)", v.text);
            Violation::new(if v.invariant == "I1" { "I1" } else { label }, text)
        };
        let log = open(&disk).map_err(repeated)?;
        let found = oracle.judge(&log, timeline.floor, timeline.ceiling()).map_err(repeated)?;
        self.seen_afterwards.insert(hash, found);
        self.tally.count(hash, Kind::Afterwards);
        let Some(mode) = once_more else { return Ok(()) };
        let mut rng = Rng(hash);
        let oracle = append(&disk, &log, oracle.cut(found), &[true], &mut rng)?;
        let records = disk.take_log();
        drop(log);
        let mut timeline = Timeline::new(&disk, &records, mode.unit_len(), found);
        while let Some(passed) = timeline.pass() {
            passed?;
        }
        self.cut_again(&timeline, &oracle, found, true, None, &mut rng)
    }
}

/// Appends batches, each durably or not. Returns the history with them.
pub fn append(
    disk: &SimDisk,
    log: &SegmentLog<SimDisk>,
    mut oracle: Oracle,
    durable: &[bool],
    rng: &mut Rng,
) -> Result<Oracle, Violation> {
    for (number, &durable) in durable.iter().enumerate() {
        let ops = ["again", "z"].map(|key| Op::Append(key.to_owned(), value(rng)));
        disk.begin(Some(number));
        let durability = if durable { Durability::Durable } else { Durability::Plain };
        let written = log.write(&batch(&ops), durability);
        written.map_err(|e| Violation::new("I8", format!("after recovery: {e}")))?;
        disk.end(durable);
        oracle.push(&ops);
    }
    Ok(oracle)
}
