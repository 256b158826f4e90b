//! Power cuts all along a workload. After each operation, each image that the model allows is
//! booted: the store must open as a prefix of the history with all that was durable (I1 to I4),
//! also when recovery is cut (I7), and when more is appended and the power fails again (I8).

use std::collections::HashMap;
use std::fmt;
use std::sync::Mutex;
use std::sync::atomic::{AtomicUsize, Ordering::Relaxed};
use std::time::{Duration, Instant};

use partd::{Durability, Partd, SegmentLog};

use super::cuts::{Mode, choices};
use super::disk::{Defect, SimDisk};
use super::image::Image;
use super::oracle::{Op, Oracle, batch};
use super::script::{Recording, Step, run};
use super::timeline::{Choice, Timeline};
use super::{Rng, STORE, Violation, options};

/// Of so many images, one is used to go on: its recovery is cut, and what is appended to it.
const GO_ON_WITH_ONE_OF: u64 = 24;
/// So many moments of that are looked at.
const MOMENTS_AFTERWARDS: usize = 5;

/// What was looked at.
#[derive(Clone, Copy, Debug, Default)]
pub struct Tally {
    /// Distinct images in each mode, and of recoveries and what followed them.
    pub images: [u64; 3],
    pub images_afterwards: u64,
    /// Moments at which the power was cut.
    pub moments: u64,
}

impl Tally {
    pub fn total(&self) -> u64 {
        self.images.iter().sum::<u64>() + self.images_afterwards
    }

    pub fn add(&mut self, other: &Tally) {
        for (sum, images) in self.images.iter_mut().zip(other.images) {
            *sum += images;
        }
        self.images_afterwards += other.images_afterwards;
        self.moments += other.moments;
    }
}

/// A violation, with all that is needed to see it again.
#[derive(Clone, Debug)]
pub struct Failure {
    pub violation: Violation,
    pub mode: Mode,
    pub seed: u64,
    /// How many operations the disk had done, and what was lost of them.
    pub at: usize,
    pub lost: String,
    pub steps: Vec<Step>,
}

impl fmt::Display for Failure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Violation { invariant, text } = &self.violation;
        writeln!(f, "{invariant} is violated: {text}")?;
        writeln!(
            f,
            "seed {}, {:?}, after operation {}; {}",
            self.seed, self.mode, self.at, self.lost
        )?;
        self.steps.iter().try_for_each(|step| writeln!(f, "  {step:?}"))
    }
}

/// How much of a workload is looked at.
#[derive(Clone, Copy, Debug)]
pub struct Effort {
    /// About so many images in each mode.
    pub images: u64,
    /// The first moment, as a share of the log in percent.
    pub from_percent: usize,
}

/// The search for violations in one workload.
struct Search<'r> {
    recording: &'r Recording,
    seed: u64,
    defect: Option<Defect>,
    oracle: Oracle,
    /// How many batches each image was found to hold.
    seen: HashMap<u64, u64>,
    seen_afterwards: HashMap<u64, u64>,
    tally: Tally,
}

/// Runs a workload and cuts the power all along, in all modes.
pub fn explore(
    steps: &[Step],
    seed: u64,
    defect: Option<Defect>,
    effort: Effort,
    modes: &[Mode],
) -> Result<Tally, Box<Failure>> {
    let failure = |violation, mode, at, lost: &str| {
        let (steps, lost) = (steps.to_vec(), lost.to_owned());
        Box::new(Failure { violation, mode, seed, at, lost, steps })
    };
    let recording =
        run(steps, seed, defect).map_err(|v| failure(v, modes[0], 0, "no power was lost"))?;
    let mut search = Search {
        recording: &recording,
        seed,
        defect,
        oracle: Oracle::default(),
        seen: HashMap::new(),
        seen_afterwards: HashMap::new(),
        tally: Tally::default(),
    };
    for &mode in modes {
        search.cut_all_along(mode, effort).map_err(|(v, at, lost)| failure(v, mode, at, &lost))?;
    }
    Ok(search.tally)
}

type Found = (Violation, usize, String);

impl Search<'_> {
    fn timeline(&self, mode: Mode) -> Timeline<'_> {
        Timeline::new(&self.recording.disk, &self.recording.log, mode.unit_len(), 0)
    }

    fn rng(&self, mode: Mode, at: usize) -> Rng {
        Rng(self.seed ^ (at as u64) << 20 ^ mode.unit_len() << 44)
    }

    /// The share of the choices that are to be looked at, in parts of 2^32.
    fn share(&self, mode: Mode, images: u64) -> u64 {
        let mut timeline = self.timeline(mode);
        let (mut passed, mut sum) = (0_u64, 0_u64);
        while timeline.pass().is_some() {
            passed += 1;
            if passed.is_multiple_of(8) {
                let mut rng = self.rng(mode, timeline.at());
                sum += 8 * choices(&timeline, &timeline.units(), mode, &mut rng).len() as u64;
            }
        }
        // About a third of the choices are images that were seen before.
        let share = (u128::from(images) * 3 / 2) << 32;
        u64::try_from(share / u128::from(sum.max(1))).unwrap_or(u64::MAX).min(1 << 32)
    }

    fn cut_all_along(&mut self, mode: Mode, effort: Effort) -> Result<(), Found> {
        let share = self.share(mode, effort.images);
        let recording = self.recording;
        let mut timeline = Timeline::new(&recording.disk, &recording.log, mode.unit_len(), 0);
        self.oracle = Oracle::default();
        let first = recording.log.len() * effort.from_percent / 100;
        let mut floor = 0;
        while let Some(changed) = timeline.pass() {
            let at = timeline.at();
            let changed = changed.map_err(|v| (v, at, String::from("no power was lost")))?;
            if self.oracle.len() > timeline.ceiling() {
                self.oracle = self.oracle.cut(timeline.ceiling());
            }
            while self.oracle.len() < timeline.ceiling() {
                let batch = timeline.taken[self.oracle.len() as usize];
                let ops = batch.map_or(&[][..], |number| &recording.batches[number]);
                self.oracle.push(ops);
            }
            if (!changed && floor == timeline.floor) || at < first {
                continue;
            }
            floor = timeline.floor;
            self.tally.moments += 1;
            let units = timeline.units();
            let mut rng = self.rng(mode, at);
            let choices = choices(&timeline, &units, mode, &mut rng);
            for (i, choice) in choices.iter().enumerate() {
                if i >= 2 && rng.next() >> 32 >= share {
                    continue;
                }
                let image = timeline.image(&units, choice);
                self.boot(&image, mode, timeline.floor, timeline.ceiling()).map_err(|v| {
                    let kept = choice.versions.iter().filter(|version| **version > 0).count();
                    let names = choice.names.iter().filter(|kept| **kept).count();
                    let (units, changes) = (units.len(), choice.names.len());
                    let lost = format!(
                        "kept {kept} of {units} units and {names} of {changes} changes of names"
                    );
                    (v, at, lost)
                })?;
            }
        }
        Ok(())
    }

    /// Boots an image and judges what is there.
    fn boot(
        &mut self,
        image: &Image,
        mode: Mode,
        floor: u64,
        ceiling: u64,
    ) -> Result<(), Violation> {
        let hash = image.hash();
        if let Some(&found) = self.seen.get(&hash) {
            // The same bytes give the same store; only what was promised may have grown.
            return too_few(found, floor);
        }
        let disk = SimDisk::boot(image, hash ^ self.seed, self.defect);
        let log = open(&disk)?;
        let found = self.oracle.judge(&log, floor, ceiling)?;
        self.seen.insert(hash, found);
        self.tally.images[mode as usize] += 1;
        if hash.is_multiple_of(GO_ON_WITH_ONE_OF) {
            self.go_on(&disk, log, found, mode, hash)?;
        }
        Ok(())
    }

    /// Appends to a recovered store, and cuts the power during its recovery and afterwards.
    fn go_on(
        &mut self,
        disk: &SimDisk,
        log: SegmentLog<SimDisk>,
        found: u64,
        mode: Mode,
        hash: u64,
    ) -> Result<(), Violation> {
        let mut rng = Rng(hash);
        let value = |rng: &mut Rng| rng.next().to_le_bytes().repeat(1 + rng.below(3) as usize);
        let batches: Vec<Vec<Op>> = (0..3)
            .map(|_| {
                let long = Op::Append(String::from("z"), value(&mut rng));
                vec![Op::Append(String::from("again"), value(&mut rng)), long]
            })
            .collect();
        let durable = [rng.below(2) == 0, true, false];
        let mut oracle = self.oracle.cut(found);
        for (number, (ops, durable)) in batches.iter().zip(durable).enumerate() {
            disk.begin(Some(number));
            let durability = if durable { Durability::Durable } else { Durability::Plain };
            let written = log.write(&batch(ops), durability);
            written.map_err(|e| Violation::new("I8", format!("after recovery: {e}")))?;
            disk.end(durable);
            oracle.push(ops);
        }
        let records = disk.log();
        drop(log);
        let mut moments: Vec<usize> =
            (0..MOMENTS_AFTERWARDS).map(|_| rng.below(records.len() as u64) as usize).collect();
        moments.push(records.len() - 1);
        let mut timeline = Timeline::new(disk, &records, mode.unit_len(), found);
        while let Some(passed) = timeline.pass() {
            passed?;
            if !moments.contains(&(timeline.at() - 1)) {
                continue;
            }
            let units = timeline.units();
            let names = timeline.pending_names();
            let kept = rng.below(names as u64 + 1) as usize;
            let all: Vec<usize> = units.iter().map(|unit| unit.versions).collect();
            let mut some =
                || units.iter().map(|u| rng.below(u.versions as u64 + 1) as usize).collect();
            let choices = [
                Choice { versions: all.clone(), names: vec![true; names] },
                Choice { versions: vec![0; units.len()], names: vec![false; names] },
                Choice { versions: some(), names: vec![true; names] },
                Choice { versions: some(), names: (0..names).map(|i| i < kept).collect() },
            ];
            for choice in &choices {
                self.boot_again(&timeline.image(&units, choice), &oracle, &timeline, found)?;
            }
        }
        Ok(())
    }

    fn boot_again(
        &mut self,
        image: &Image,
        oracle: &Oracle,
        timeline: &Timeline<'_>,
        recovered: u64,
    ) -> Result<(), Violation> {
        let hash = image.hash();
        if let Some(&found) = self.seen_afterwards.get(&hash) {
            return too_few(found, timeline.floor);
        }
        let disk = SimDisk::boot(image, hash ^ self.seed, self.defect);
        // A store that was recovered to so many batches never has fewer, nor others.
        let label = if timeline.ceiling() == recovered { "I7" } else { "I8" };
        let again = |v: Violation| {
            let text = format!("{} (booted a second time, after {recovered} batches)", v.text);
            Violation::new(if v.invariant == "I1" { "I1" } else { label }, text)
        };
        let log = open(&disk).map_err(again)?;
        let found = oracle.judge(&log, timeline.floor, timeline.ceiling()).map_err(again)?;
        self.seen_afterwards.insert(hash, found);
        self.tally.images_afterwards += 1;
        Ok(())
    }
}

fn too_few(found: u64, floor: u64) -> Result<(), Violation> {
    if found >= floor {
        return Ok(());
    }
    Err(Violation::new("I1", format!("{floor} batches were durable, {found} are there")))
}

/// Opens the store of a disk.
pub fn open(disk: &SimDisk) -> Result<SegmentLog<SimDisk>, Violation> {
    disk.set_opening(true);
    let log = options().open_on(disk.clone(), STORE);
    disk.set_opening(false);
    log.map_err(|error| Violation::new("I1", format!("the store cannot be opened: {error}")))
}

/// A search that meets the engine's own patience at each try would take half an hour.
const SHRINKING_MAX: Duration = Duration::from_secs(60);

/// Makes a workload that fails shorter, as long as it still fails.
pub fn shrink(
    failure: Failure,
    mut fails: impl FnMut(&[Step]) -> Option<Box<Failure>>,
    tries: usize,
) -> Failure {
    let mut best = failure;
    let mut left = tries;
    let mut at = best.steps.len();
    let since = Instant::now();
    while at > 0 && left > 0 && since.elapsed() < SHRINKING_MAX {
        at -= 1;
        left -= 1;
        let mut fewer = best.steps.clone();
        fewer.remove(at);
        if let Some(shorter) = fails(&fewer) {
            best = *shorter;
            at = best.steps.len();
        }
    }
    best
}

/// Does jobs on as many threads as the machine has cores.
pub fn in_parallel<J: Sync, R: Send>(jobs: &[J], job: impl Fn(&J) -> R + Sync) -> Vec<R> {
    let next = AtomicUsize::new(0);
    let done = Mutex::new(Vec::new());
    let threads = std::thread::available_parallelism().map_or(2, std::num::NonZero::get);
    std::thread::scope(|scope| {
        for _ in 0..threads {
            scope.spawn(|| {
                while let Some(this) = jobs.get(next.fetch_add(1, Relaxed)) {
                    let result = job(this);
                    done.lock().unwrap_or_else(std::sync::PoisonError::into_inner).push(result);
                }
            });
        }
    });
    done.into_inner().unwrap_or_else(std::sync::PoisonError::into_inner)
}
