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

/// The choices for a power cut at this moment. The first two are: keep everything, and lose
/// everything.
pub fn choices(timeline: &Timeline<'_>, units: &[Unit], mode: Mode, rng: &mut Rng) -> Vec<Choice> {
    let names = names(timeline.pending_names(), mode, rng);
    let versions = versions(timeline, units, rng);
    let product = names.len() * versions.len();
    let mut choices = Vec::new();
    if product <= PRODUCT_MAX {
        for versions in &versions {
            choices.extend(
                names.iter().map(|n| Choice { versions: versions.clone(), names: n.clone() }),
            );
        }
    } else {
        // Each choice of versions with one choice of names, and each choice of names with two of
        // versions.
        for (i, versions) in versions.iter().enumerate() {
            let drawn = if i < 2 { i } else { rng.below(2 * names.len() as u64) as usize };
            let names = names.get(drawn).unwrap_or(&names[0]);
            choices.push(Choice { versions: versions.clone(), names: names.clone() });
        }
        for versions in &versions[..2.min(versions.len())] {
            choices.extend(
                names.iter().map(|n| Choice { versions: versions.clone(), names: n.clone() }),
            );
        }
    }
    choices
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

/// The choices of versions: keep all first, then none.
fn versions(timeline: &Timeline<'_>, units: &[Unit], rng: &mut Rng) -> Vec<Arc<[usize]>> {
    let count = units.len();
    let pick = |kept: &dyn Fn(usize) -> bool| -> Arc<[usize]> {
        units.iter().enumerate().map(|(i, unit)| if kept(i) { unit.versions } else { 0 }).collect()
    };
    let mut sets = vec![pick(&|_| true), pick(&|_| false)];
    if count <= ALL_SUBSETS_MAX_UNITS {
        sets.extend(
            (1..(1_u32 << count).saturating_sub(1)).map(|set| pick(&|i| set >> i & 1 == 1)),
        );
        // Intermediate versions.
        let has_versions = units.iter().any(|unit| unit.versions > 1);
        for _ in 0..if has_versions { 8 } else { 0 } {
            sets.push(units.iter().map(|u| rng.below(u.versions as u64 + 1) as usize).collect());
        }
        return sets;
    }
    for one in 0..count {
        if rng.below(count as u64) >= SINGLE_UNITS_MAX {
            continue;
        }
        sets.push(pick(&|i| i != one));
        sets.push(pick(&|i| i == one));
        sets.push(pick(&|i| i < one));
        sets.push(pick(&|i| i >= one));
    }
    sets.push(pick(&|i| timeline.is_control(&units[i])));
    sets.push(pick(&|i| !timeline.is_control(&units[i])));
    for i in 0..RANDOM_SUBSETS {
        // Half of them lose or keep only a few units, since these come closest to an intact store.
        let kept = [2, 8, 14][i % 3];
        let any_version = i % 2 == 0;
        let mut draw = |unit: &Unit| match rng.below(16) < kept {
            true if any_version => 1 + rng.below(unit.versions as u64) as usize,
            true => unit.versions,
            false => 0,
        };
        sets.push(units.iter().map(&mut draw).collect());
    }
    sets
}
