//! The protocol as it is: no execution breaks the contract, whichever process dies at whatever
//! step.
//!
//! `LOOM_DEEPER=1` allows one more preemption everywhere: minutes instead of seconds.

use std::sync::Arc;

use partd_loom::scenario::{Explored, Scenario};
use partd_loom::weaken::Weakness;

fn explore<const PATIENCE: u32>(scenario: Scenario, preemptions: usize) -> Explored {
    let deeper = std::env::var_os("LOOM_DEEPER").is_some();
    let weakness = Arc::new(Weakness::default());
    scenario.explore::<PATIENCE>(preemptions + usize::from(deeper), &weakness)
}

/// Explores a death of writer 0 at step 1, 2, … until there is no such step.
fn die_at_each_step(scenario: Scenario, preemptions: usize) {
    let mut executions = 0;
    for step in 0.. {
        let explored = explore::<0>(Scenario { dies_at: Some(step), ..scenario }, preemptions);
        executions += explored.executions;
        if explored.died == 0 {
            println!("{executions} executions, deaths at {step} steps, {scenario:?}");
            // Link, bytes, two words of the position, load, exchange, link and state of the batch,
            // exchange, acknowledgement. A writer takes more steps only if it helps or retries.
            assert!(step > 11, "a writer takes at least 11 steps, not {step}");
            return;
        }
    }
}

#[test]
fn the_contract_holds_while_no_process_dies() {
    let again = explore::<0>(Scenario { again: true, ..Scenario::default() }, 2);
    let patient = explore::<1>(Scenario::default(), 2);
    println!("{} and {} executions", again.executions, patient.executions);
}

#[test]
fn the_contract_holds_when_a_writer_dies_at_any_step_without_a_successor() {
    die_at_each_step(Scenario::default(), 2);
}

#[test]
fn the_contract_holds_when_a_writer_dies_at_any_step_and_its_slot_has_a_new_owner() {
    die_at_each_step(Scenario { succeeded: true, ..Scenario::default() }, 1);
}

#[test]
fn the_contract_holds_when_both_writers_die_at_any_two_steps() {
    let mut executions = 0;
    for step in 0.. {
        let mut died = 0;
        for other in 0.. {
            let scenario =
                Scenario { dies_at: Some(step), other_dies_at: Some(other), ..Scenario::default() };
            let explored = explore::<0>(scenario, 1);
            executions += explored.executions;
            died += explored.died;
            if explored.other_died == 0 {
                break;
            }
        }
        if died == 0 {
            println!("{executions} executions");
            return;
        }
    }
}
