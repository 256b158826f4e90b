//! Operations on a store, with processes that die at any step and with power cuts, against `Dict`.
#![no_main]

use libfuzzer_sys::fuzz_target;
use partd_fuzz::limit::with_limit;
use partd_fuzz::ops::{Op, run};

fuzz_target!(|ops: Vec<Op>| {
    // The model and its copies, the disk and its synced half: all that 48 operations may hold.
    with_limit(0, 256 << 20, || run(&ops));
});
