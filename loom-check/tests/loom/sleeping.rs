//! Closing a handle wakes its background thread, in whatever part of its sleep that is.

use std::panic::catch_unwind;
use std::time::Duration;

use loom_check::sleeper::{Engine, FlagOutside, explore};

/// Loom's clock stands still: this pause ends only with a close.
const FOREVER: Duration = Duration::from_secs(1 << 20);

#[test]
fn a_sleeper_ends_when_it_is_closed_and_no_reason_is_lost() {
    for pause in [Duration::ZERO, FOREVER] {
        for reasons in [&[][..], &[1], &[1, 2], &[2, 1]] {
            let executions = explore::<Engine>(reasons, pause);
            println!("{executions} executions, {reasons:?}, {pause:?}");
        }
    }
}

#[test]
fn a_sleeper_whose_flag_changes_outside_of_the_mutex_can_miss_its_end() {
    let slept = catch_unwind(|| explore::<FlagOutside>(&[], Duration::ZERO));
    let reason = slept.expect_err("no execution misses the end");
    let text = reason.downcast_ref::<String>().cloned().unwrap_or_default();
    assert!(text.contains("deadlock"), "it fails in another way: {text}");
}
