//! Cuts the power throughout a workload. After each operation, every image that the crash model
//! allows is booted: the store must open as a prefix of the history with every durable batch (I1 to
//! I5). The image is also booted with another control file and with damage (`corruption`: I6, I9),
//! and with interrupted recoveries and further appends (`repeated_recovery`: I7, I8). Backups in it are
//! opened beside the store (`backups`: I10).

use std::collections::{BTreeMap, BTreeSet, HashMap, HashSet};
use std::fmt;
use std::path::PathBuf;
use std::sync::atomic::{AtomicUsize, Ordering::Relaxed};
use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};

use partd::SegmentLog;

use super::backup_dirs::check_finished;
use super::cuts::{ALL_SUBSETS_MAX_UNITS, Choices, Mode, tears};
use super::disk::{Defect, SimDisk};
use super::image::{FileImage, Image};
use super::oracle::Oracle;
use super::script::{Recording, Step, run};
use super::timeline::{Choice, Timeline};
use super::{Rng, STORE, Violation, options};

/// At one in this many moments, all processes are killed and the store is checked with every kind
/// of control file.
const KILL_AT_ONE_OF: u64 = 48;

/// The kind of an image.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// A power cut, in a mode.
    Cut(Mode),
    /// A power cut or kill during recovery, or after further appends.
    Afterwards,
    /// With another control file.
    Control,
    /// With a flipped bit at or below the durable sequence number.
    Flipped,
}

/// Counts of what was examined.
#[derive(Clone, Debug, Default)]
pub struct Tally {
    images: HashMap<u64, Kind>,
    /// Moments at which the power was cut.
    pub moments: u64,
    /// Recoveries that were killed and cut after each of their operations.
    pub recoveries: u64,
    /// Only with [`Effort::EVERYTHING`]: the number of moments at which all subsets were examined,
    /// by their number of units; and the number of moments at which they were not.
    pub whole: BTreeMap<usize, u64>,
    pub thinned: u64,
}

impl Tally {
    /// The number of distinct images.
    pub fn total(&self) -> u64 {
        self.images.len() as u64
    }

    /// The number of distinct images of power cuts, without those with other control files or
    /// damage.
    pub fn cuts(&self) -> u64 {
        self.columns()[..4].iter().sum()
    }

    /// Distinct images: pages, sectors, words, afterwards, with other control files, and damaged.
    pub fn columns(&self) -> [u64; 6] {
        let kinds = Mode::ALL.map(Kind::Cut).into_iter();
        let kinds = kinds.chain([Kind::Afterwards, Kind::Control, Kind::Flipped]);
        let mut columns = [0; 6];
        for (column, kind) in columns.iter_mut().zip(kinds) {
            *column = self.images.values().filter(|found| **found == kind).count() as u64;
        }
        columns
    }

    /// Counts an image unless it was counted before.
    pub fn count(&mut self, hash: u64, kind: Kind) {
        self.images.entry(hash).or_insert(kind);
    }

    pub fn add(&mut self, other: &Tally) {
        other.images.iter().for_each(|(&hash, &kind)| self.count(hash, kind));
        self.moments += other.moments;
        self.recoveries += other.recoveries;
        self.thinned += other.thinned;
        other.whole.iter().for_each(|(&units, n)| *self.whole.entry(units).or_default() += n);
    }
}

/// A violation, with everything needed to reproduce it.
#[derive(Clone, Debug)]
pub struct Failure {
    pub violation: Violation,
    pub mode: Mode,
    pub seed: u64,
    /// The number of operations that the disk had performed, and what was lost of them.
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

/// How much of a workload to examine.
#[derive(Clone, Copy, Debug)]
pub struct Effort {
    /// About this many images in each mode.
    pub images: u64,
    /// The first moment, as a percentage of the log.
    pub from_percent: usize,
}

impl Effort {
    /// Every choice at every moment.
    pub const EVERYTHING: Effort = Effort { images: u64::MAX, from_percent: 0 };
}

/// The search for violations in one workload.
pub struct Search<'r> {
    recording: &'r Recording,
    pub seed: u64,
    pub defect: Option<Defect>,
    pub oracle: Oracle,
    /// What each image was found to hold.
    seen: HashMap<u64, Seen>,
    pub seen_afterwards: HashMap<u64, u64>,
    /// Control files of earlier moments.
    pub controls: Vec<FileImage>,
    pub tally: Tally,
}

/// Runs a workload and cuts the power throughout, in all modes.
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
        controls: Vec::new(),
        tally: Tally::default(),
    };
    for &mode in modes {
        search.cut_all_along(mode, effort).map_err(|(v, at, lost)| failure(v, mode, at, &lost))?;
    }
    Ok(search.tally)
}

type Found = (Violation, usize, String);

/// What an image was found to hold.
struct Seen {
    batches: u64,
    /// The complete backups.
    backups: BTreeSet<PathBuf>,
}

impl Search<'_> {
    fn timeline(&self, mode: Mode) -> Timeline<'_> {
        Timeline::new(&self.recording.disk, &self.recording.log, mode.unit_len(), 0)
    }

    fn rng(&self, mode: Mode, at: usize) -> Rng {
        Rng(self.seed ^ (at as u64) << 20 ^ mode.unit_len() << 44)
    }

    /// The share of the choices to examine, in units of 2^-32.
    fn share(&self, mode: Mode, images: u64) -> u64 {
        let mut timeline = self.timeline(mode);
        let (mut passed, mut sum) = (0_u64, 0_u64);
        while timeline.pass().is_some() {
            passed += 1;
            if passed.is_multiple_of(8) {
                let mut rng = self.rng(mode, timeline.at());
                let choices = Choices::new(&timeline, &timeline.units(), mode, &mut rng);
                sum += 8 * choices.count() as u64;
            }
        }
        // About a third of the choices produce images that were seen before.
        let share = (u128::from(images) * 3 / 2) << 32;
        u64::try_from(share / u128::from(sum.max(1))).unwrap_or(u64::MAX).min(1 << 32)
    }

    fn cut_all_along(&mut self, mode: Mode, effort: Effort) -> Result<(), Found> {
        let share = self.share(mode, effort.images);
        let recording = self.recording;
        let mut timeline = Timeline::new(&recording.disk, &recording.log, mode.unit_len(), 0);
        self.oracle = Oracle::default();
        self.controls.clear();
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
            let mut choices = Choices::new(&timeline, &units, mode, &mut rng);
            choices.retain(|number| number < 2 || rng.next() >> 32 < share);
            let mut some = choices.all(&timeline, &units);
            if effort.images == u64::MAX && units.len() <= ALL_SUBSETS_MAX_UNITS {
                let kept = |choice: &Choice| choice.versions.iter().map(|v| *v > 0).collect();
                let subsets: HashSet<Vec<bool>> = some.iter().map(kept).collect();
                match subsets.len() == 1 << units.len() {
                    true => *self.tally.whole.entry(units.len()).or_default() += 1,
                    false => self.tally.thinned += 1,
                }
            }
            some.extend(tears(&timeline, &units));
            if rng.below(KILL_AT_ONE_OF) == 0 {
                let lost = || (at, String::from("killed, with another control file"));
                self.killed(&timeline, &units, &mut rng).map_err(|v| (v, lost().0, lost().1))?;
            }
            for choice in &some {
                let image = timeline.image(&units, choice);
                let booted = self.boot(&image, mode, &timeline);
                booted.map_err(|v| {
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

    /// Boots an image and checks its contents.
    fn boot(
        &mut self,
        image: &Image,
        mode: Mode,
        timeline: &Timeline<'_>,
    ) -> Result<(), Violation> {
        let (floor, backups) = (timeline.floor, &timeline.backups);
        let hash = image.hash();
        if let Some(found) = self.seen.get(&hash) {
            // Equal bytes give an equal store; only the required minimum may have grown.
            return too_few(found.batches, floor)
                .and_then(|()| check_finished(&found.backups, backups));
        }
        let disk = SimDisk::boot(image, hash ^ self.seed, self.defect);
        let log = open(&disk)?;
        let found = self.oracle.judge(&log, floor, timeline.ceiling())?;
        let complete = self.check_backups(image, found, backups, hash)?;
        self.seen.insert(hash, Seen { batches: found, backups: complete });
        self.tally.count(hash, Kind::Cut(mode));
        self.go_on(&disk, log, found, mode, hash)?;
        self.check_corruption(image, found, hash)
    }
}

pub fn too_few(found: u64, floor: u64) -> Result<(), Violation> {
    if found >= floor {
        return Ok(());
    }
    Err(Violation::new("I1", format!("{floor} batches were durable, {found} are there")))
}

/// Opens the store on a disk.
pub fn open(disk: &SimDisk) -> Result<SegmentLog<SimDisk>, Violation> {
    disk.set_opening(true);
    let log = options().open_on(disk.clone(), STORE);
    disk.set_opening(false);
    log.map_err(|error| {
        let text = format!("the store cannot be opened: {error}");
        // Two batches share a number; any other error is a loss of data.
        Violation::new(if text.contains("one that no other batch has") { "I6" } else { "I1" }, text)
    })
}

/// Limits the time for shrinking: a failure that runs into the engine's own timeouts at each try
/// would take half an hour.
const SHRINKING_MAX: Duration = Duration::from_secs(60);

/// Shortens a failing workload while it violates the same invariant.
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
        let shorter = fails(&fewer);
        if let Some(shorter) =
            shorter.filter(|it| it.violation.invariant == best.violation.invariant)
        {
            best = *shorter;
            at = best.steps.len();
        }
    }
    best
}

/// Runs jobs on one thread per core. The results are in the order of the jobs.
pub fn in_parallel<J: Sync, R: Send>(jobs: &[J], job: impl Fn(&J) -> R + Sync) -> Vec<R> {
    let next = AtomicUsize::new(0);
    let done = Mutex::new(Vec::with_capacity(jobs.len()));
    let threads = std::thread::available_parallelism().map_or(2, std::num::NonZero::get);
    std::thread::scope(|scope| {
        for _ in 0..threads {
            scope.spawn(|| {
                loop {
                    let number = next.fetch_add(1, Relaxed);
                    let Some(this) = jobs.get(number) else { break };
                    let result = job(this);
                    done.lock().unwrap_or_else(PoisonError::into_inner).push((number, result));
                }
            });
        }
    });
    let mut done = done.into_inner().unwrap_or_else(PoisonError::into_inner);
    done.sort_unstable_by_key(|(number, _)| *number);
    done.into_iter().map(|(_, result)| result).collect()
}
