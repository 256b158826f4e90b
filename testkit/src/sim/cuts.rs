//! Chooses which of the pending changes a power cut loses: all subsets if there are few, otherwise
//! those that tend to expose mistakes: none, all, each one alone, prefixes and suffixes in write
//! order, the control file alone or everything else, and random ones.

use std::sync::Arc;

use super::Rng;
use super::timeline::{Choice, Timeline, Unit};

/// Up to this many units, every subset is tried.
pub const ALL_SUBSETS_MAX_UNITS: usize = 12;
/// Beyond that, this many random subsets.
const RANDOM_SUBSETS: usize = 64;
/// Beyond that, at most this many units are lost or kept alone, or end a prefix or begin a suffix.
const SINGLE_UNITS_MAX: u64 = 48;
/// Up to this many combinations, every choice of units is combined with every choice of names.
const PRODUCT_MAX: usize = 1 << 13;
/// Up to this many changes of names, every subset is tried.
const ALL_NAMES_MAX: usize = 5;

/// The granularity at which the disk persists changes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Mode {
    /// Whole pages; a prefix of the changes of names.
    Pages,
    /// Sectors of 512 bytes; a prefix of the changes of names.
    Torn,
    /// Words of 8 bytes; any subset of the changes of names.
    Harsh,
}

impl Mode {
    pub const ALL: [Mode; 3] = [Mode::Pages, Mode::Torn, Mode::Harsh];

    pub fn unit_len(self) -> u64 {
        match self {
            Mode::Pages => 4096,
            Mode::Torn => 512,
            Mode::Harsh => 8,
        }
    }
}

/// The choices for a power cut at a moment. The first two are: keep everything, and lose everything.
///
/// A moment has many more choices than are examined, so they are only described until
/// [`all`](Choices::all) writes out those that are left.
#[derive(Debug)]
pub struct Choices {
    names: Vec<Arc<[bool]>>,
    kept: Vec<Kept>,
    /// Indexes into `kept` and `names`.
    pairs: Vec<(usize, usize)>,
}

/// Which units are kept.
#[derive(Debug)]
enum Kept {
    All,
    Nothing,
    /// Those whose bits are set.
    Set(u32),
    Without(usize),
    Only(usize),
    Before(usize),
    From(usize),
    Control,
    AllButControl,
    /// Any version of each.
    AnyVersion(Rng),
    /// Each unit with a chance of this many in 16, in any of its versions if true, else in its last.
    Drawn(Rng, u64, bool),
}

impl Kept {
    /// The kept version of each unit.
    fn versions(&self, timeline: &Timeline<'_>, units: &[Unit]) -> Arc<[usize]> {
        let pick = |kept: &dyn Fn(usize) -> bool| -> Arc<[usize]> {
            units.iter().enumerate().map(|(i, u)| if kept(i) { u.versions } else { 0 }).collect()
        };
        match *self {
            Kept::All => pick(&|_| true),
            Kept::Nothing => pick(&|_| false),
            Kept::Set(set) => pick(&|i| set >> i & 1 == 1),
            Kept::Without(one) => pick(&|i| i != one),
            Kept::Only(one) => pick(&|i| i == one),
            Kept::Before(one) => pick(&|i| i < one),
            Kept::From(one) => pick(&|i| i >= one),
            Kept::Control => pick(&|i| timeline.is_control(&units[i])),
            Kept::AllButControl => pick(&|i| !timeline.is_control(&units[i])),
            Kept::AnyVersion(Rng(seed)) => {
                let mut rng = Rng(seed);
                units.iter().map(|u| rng.below(u.versions as u64 + 1) as usize).collect()
            }
            Kept::Drawn(Rng(seed), kept, in_any_version) => {
                let mut rng = Rng(seed);
                let draw = |unit: &Unit| match rng.below(16) < kept {
                    true if in_any_version => 1 + rng.below(unit.versions as u64) as usize,
                    true => unit.versions,
                    false => 0,
                };
                units.iter().map(draw).collect()
            }
        }
    }
}

impl Choices {
    /// The choices for a power cut at this moment.
    pub fn new(timeline: &Timeline<'_>, units: &[Unit], mode: Mode, rng: &mut Rng) -> Choices {
        let names = names(timeline.pending_names(), mode, rng);
        let kept = kept(units, rng);
        let mut pairs = Vec::new();
        if names.len() * kept.len() <= PRODUCT_MAX {
            pairs.extend((0..kept.len()).flat_map(|k| (0..names.len()).map(move |n| (k, n))));
        } else {
            // Each choice of units with one choice of names, and each choice of names with two of
            // units.
            for k in 0..kept.len() {
                let drawn = if k < 2 { k } else { rng.below(2 * names.len() as u64) as usize };
                pairs.push((k, if drawn < names.len() { drawn } else { 0 }));
            }
            pairs
                .extend((0..kept.len().min(2)).flat_map(|k| (0..names.len()).map(move |n| (k, n))));
        }
        Choices { names, kept, pairs }
    }

    /// The number of choices.
    pub fn count(&self) -> usize {
        self.pairs.len()
    }

    /// Removes the choices whose number `is_kept` rejects.
    pub fn retain(&mut self, mut is_kept: impl FnMut(usize) -> bool) {
        let mut number = 0;
        self.pairs.retain(|_| {
            number += 1;
            is_kept(number - 1)
        });
    }

    /// Writes out the choices, for the moment that they were made for.
    pub fn all(&self, timeline: &Timeline<'_>, units: &[Unit]) -> Vec<Choice> {
        let mut last = None;
        let mut all = Vec::with_capacity(self.pairs.len());
        for &(k, n) in &self.pairs {
            let versions = match last.take() {
                Some((of, versions)) if of == k => versions,
                _ => self.kept[k].versions(timeline, units),
            };
            last = Some((k, Arc::clone(&versions)));
            all.push(Choice { versions, names: Arc::clone(&self.names[n]) });
        }
        all
    }
}

/// The choices to examine whenever a batch has received its number: its head torn at each unit, so
/// inside each of its lengths and checksums, and each unit of the head lost alone.
pub fn tears(timeline: &Timeline<'_>, units: &[Unit]) -> Vec<Choice> {
    let head = timeline.just_settled(units);
    let names: Arc<[bool]> = vec![true; timeline.pending_names()].into();
    let without = |lost: &[usize]| {
        let kept = |(i, unit): (usize, &Unit)| if lost.contains(&i) { 0 } else { unit.versions };
        Choice { versions: units.iter().enumerate().map(kept).collect(), names: names.clone() }
    };
    let torn = (0..head.len()).map(|from| without(&head[from..]));
    torn.chain(head.iter().map(|one| without(&[*one]))).collect()
}

/// The choices of name changes: keep all first, then none.
pub fn names(pending: usize, mode: Mode, rng: &mut Rng) -> Vec<Arc<[bool]>> {
    let mut names: Vec<Arc<[bool]>> =
        (0..=pending).rev().map(|kept| (0..pending).map(|i| i < kept).collect()).collect();
    let last = names.len() - 1;
    names.swap(last.min(1), last);
    if mode == Mode::Harsh && pending <= ALL_NAMES_MAX {
        names.extend(
            (0..1_u32 << pending).map(|set| (0..pending).map(|i| set >> i & 1 == 1).collect()),
        );
    } else if mode == Mode::Harsh {
        for i in 0..pending {
            names.push((0..pending).map(|j| j != i).collect());
            names.push((0..pending).map(|j| j == i).collect());
        }
        names.extend((0..8).map(|_| (0..pending).map(|_| rng.below(2) == 0).collect()));
    }
    names
}

/// The choices of units: keep all first, then none.
fn kept(units: &[Unit], rng: &mut Rng) -> Vec<Kept> {
    let count = units.len();
    let mut sets = vec![Kept::All, Kept::Nothing];
    if count <= ALL_SUBSETS_MAX_UNITS {
        sets.extend((1..(1_u32 << count).saturating_sub(1)).map(Kept::Set));
        // Intermediate versions.
        let has_versions = units.iter().any(|unit| unit.versions > 1);
        sets.extend(
            (0..if has_versions { 8 } else { 0 }).map(|_| Kept::AnyVersion(Rng(rng.next()))),
        );
        return sets;
    }
    for one in 0..count {
        if rng.below(count as u64) < SINGLE_UNITS_MAX {
            sets.extend([Kept::Without(one), Kept::Only(one), Kept::Before(one), Kept::From(one)]);
        }
    }
    sets.extend([Kept::Control, Kept::AllButControl]);
    // Half of the random ones lose or keep only a few units, since these come closest to an intact
    // store.
    let random = |i| Kept::Drawn(Rng(rng.next()), [2, 8, 14][i % 3], i % 2 == 0);
    sets.extend((0..RANDOM_SUBSETS).map(random));
    sets
}
