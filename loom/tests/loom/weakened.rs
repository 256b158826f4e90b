//! The weakened protocol: loom finds an execution that breaks the contract without any one of the
//! orderings in [`NEEDED`], without helping, without `take_over`, and without the second look.
//!
//! All other orderings can be removed *at once* and the contract still holds: the release that
//! marks the commit word done and the acquire that loads it carry everything else. The code keeps
//! them for these reasons:
//!
//! - The acquire of the exchange that opens a commit: its value was loaded with acquire before. It
//!   costs nothing on x86-64, and avoids a proof that no value of the word occurs twice.
//! - The acquire of the exchanges that mark it done, and of every failed exchange: their results
//!   are not used. A failed exchange is rare and costs more than its ordering.
//! - The acquire of the second look in `help`, and of `take_over`: a process that loads a position
//!   with acquire cannot see an older commit word afterwards (coherence), and the lock of a slot
//!   orders its owners. Both are rare.
//! - Link and state words, stored with release and loaded with acquire: a process that got a number
//!   from the commit word sees the state, link and bytes of every batch up to it. A process that
//!   walks a segment without the commit word (recovery, an inspector, a new owner that seals its
//!   predecessor's segment) relies on the words alone.

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::{Arc, Once};

use partd_loom::scenario::Scenario;
use partd_loom::weaken::{Half, Site, Weakness};

/// Operations whose ordering carries the protocol, in the order of the source.
const NEEDED: [(&str, Half); 9] = [
    // A helper must not see the new position of a slot together with the old commit word …
    ("segment.store(position.segment, Release);", Half::Release),
    ("offset.store(position.offset, Release);", Half::Release),
    // … and must see the position that belongs to the open commit that it found.
    ("word.load(Acquire);", Half::Acquire),
    ("word.compare_exchange(seen, mine.encode(), AcqRel, Acquire).is_err() {", Half::Release),
    // A process that sees a commit done must see the state of its batch.
    ("word.compare_exchange(mine.encode(), done.encode(), AcqRel, Acquire);", Half::Release),
    ("segment.load(Acquire), offset: offset.load(Acquire) };", Half::Acquire),
    ("offset.load(Acquire) };", Half::Acquire),
    ("word.compare_exchange(seen, done.encode(), AcqRel, Acquire);", Half::Release),
    // The reader's load of the commit word.
    ("self.load(&self.commit, Acquire);", Half::Acquire),
];

fn is_needed(site: &Site) -> bool {
    NEEDED.contains(&(site.operation(), site.half))
}

const ALIVE: Scenario =
    Scenario { again: false, dies_at: None, succeeded: false, other_dies_at: None };

/// Explores until something breaks; returns what broke, if anything.
fn break_with<const PATIENCE: u32>(weakness: Weakness) -> (Arc<Weakness>, Option<String>) {
    static QUIET: Once = Once::new();
    QUIET.call_once(|| {
        let hook = std::panic::take_hook();
        std::panic::set_hook(Box::new(move |info| {
            if std::thread::current().name() != Some("breaks") {
                hook(info);
            }
        }));
    });
    let shared = Arc::new(weakness);
    let weakness = Arc::clone(&shared);
    let explore = move || {
        ALIVE.explore::<PATIENCE>(2, &weakness);
        for succeeded in [false, true] {
            for step in 5..15 {
                let scenario = Scenario { dies_at: Some(step), succeeded, ..ALIVE };
                scenario.explore::<PATIENCE>(1, &weakness);
            }
        }
        Scenario { again: true, ..ALIVE }.explore::<PATIENCE>(2, &weakness);
    };
    // Use a separate thread, so that loom's leftovers disappear with it.
    let thread = std::thread::Builder::new().name("breaks".into()).spawn(move || {
        let Err(reason) = catch_unwind(AssertUnwindSafe(explore)) else { return None };
        let text = reason.downcast_ref::<String>().cloned();
        let text = text.or_else(|| reason.downcast_ref::<&str>().map(ToString::to_string));
        Some(text.unwrap_or_else(|| "something else".to_owned()))
    });
    (shared, thread.expect("a thread").join().expect("every panic is caught"))
}

/// Every site that the scenarios execute.
fn sites() -> Vec<Site> {
    let weakness = Arc::new(Weakness::default());
    for dies_at in [None, Some(8), Some(10)] {
        for succeeded in [false, true] {
            Scenario { dies_at, succeeded, ..ALIVE }.explore::<0>(1, &weakness);
        }
    }
    weakness.seen()
}

#[test]
fn the_contract_breaks_without_any_one_of_the_required_orderings() {
    let needed: Vec<Site> = sites().into_iter().filter(is_needed).collect();
    let found: Vec<_> = needed.iter().map(|site| (site.operation(), site.half)).collect();
    for entry in &NEEDED {
        assert!(found.contains(entry), "no operation of the source is {entry:?}");
    }
    for site in needed {
        let (_, broken) = break_with::<0>(Weakness::without([site]));
        let broken = broken.unwrap_or_else(|| panic!("the contract holds: {site:?}"));
        println!("{site:?}\n    {}", broken.lines().next().unwrap_or_default());
    }
}

#[test]
fn the_contract_holds_without_the_other_orderings() {
    let others: Vec<Site> = sites().into_iter().filter(|site| !is_needed(site)).collect();
    println!("{others:#?}");
    assert!(others.len() > 10, "too few sites were found");
    let (weakness, broken) = break_with::<0>(Weakness::without(others.clone()));
    assert_eq!(broken, None, "one of {others:?} is needed");
    let unknown: Vec<Site> =
        weakness.seen().into_iter().filter(|s| !is_needed(s) && !others.contains(s)).collect();
    assert!(unknown.is_empty(), "these sites were not weakened: {unknown:?}");
}

#[test]
fn writers_hang_without_helping() {
    let weakness = Weakness::default();
    let (_, broken) = break_with::<{ u32::MAX }>(weakness);
    assert!(broken.is_some_and(|text| text.contains("maximum number of branches")));
}

#[test]
fn the_contract_breaks_when_the_new_owner_of_a_slot_does_not_take_over() {
    let mut weakness = Weakness::default();
    weakness.no_take_over = true;
    let (_, broken) = break_with::<0>(weakness);
    println!("{broken:?}");
    assert!(broken.is_some(), "the contract holds without take_over");
}

#[test]
fn the_contract_breaks_when_a_helper_does_not_recheck_the_commit_word() {
    let mut weakness = Weakness::default();
    weakness.no_second_look = true;
    let (_, broken) = break_with::<0>(weakness);
    println!("{broken:?}");
    assert!(broken.is_some(), "the contract holds without the second look");
}

/// The model's reader and its `mark_committed` correspond to these lines of the engine.
#[test]
fn the_model_uses_the_orderings_of_the_engine() {
    let control = include_str!("../../../src/log/shared/control.rs");
    let segment = include_str!("../../../src/log/segment/mod.rs");
    let claim = include_str!("../../../src/log/segment/claim.rs");
    for (source, line) in [
        (control, "Commit::decode(self.word(layout::COMMIT_AT).load(Acquire))"),
        (segment, "compare_exchange(offset + 8, 0, word, AcqRel, Acquire)"),
        (segment, "mapping().load(offset + 8, Acquire)"),
        (segment, "mapping().load(offset, Acquire)"),
        (claim, "mapping().store(offset, word, Release)"),
    ] {
        assert!(source.contains(line), "the engine has no `{line}`; bring world.rs up to date");
    }
}
