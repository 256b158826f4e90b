//! Closing a handle wakes its background thread, at any point of its sleep.

use std::process::Command;
use std::time::Duration;

use partd_loom::sleeper::{Engine, FlagOutside, explore};

/// Loom's clock does not advance: this pause ends only with a close.
const FOREVER: Duration = Duration::from_secs(1 << 20);

#[test]
fn a_sleeper_ends_when_closed_and_no_wake_up_is_lost() {
    for pause in [Duration::ZERO, FOREVER] {
        for reasons in [&[][..], &[1], &[1, 2], &[2, 1]] {
            let executions = explore::<Engine>(reasons, pause);
            println!("{executions} executions, {reasons:?}, {pause:?}");
        }
    }
}

/// A deadlock panics while loom's own destructors run, which aborts the process.
#[test]
#[ignore = "the test below runs it in a process of its own, which it ends"]
fn explore_a_flag_outside_the_mutex() {
    explore::<FlagOutside>(&[], Duration::ZERO);
}

#[test]
fn a_sleeper_whose_flag_changes_outside_the_mutex_can_miss_its_end() {
    let explored = Command::new(std::env::current_exe().expect("this program has a path"))
        .args(["sleeping::explore_a_flag_outside_the_mutex", "--exact"])
        .args(["--ignored", "--nocapture"])
        .output()
        .expect("it can be started again");
    let said = [explored.stdout, explored.stderr].concat();
    let said = String::from_utf8_lossy(&said);
    assert!(said.contains("running 1 test"), "it was not run: {said}");
    assert!(!explored.status.success(), "no execution misses the end");
    assert!(said.contains("deadlock"), "it fails in another way: {said}");
}
