//! Operations on a store, with processes that die at any step and with power cuts, compared with
//! `Dict`.
#![no_main]

use libfuzzer_sys::fuzz_target;
use partd_fuzz::limit::with_limit_of;
use partd_fuzz::model::run;
use partd_fuzz::ops::{Op, described_bytes};

/// The number of copies of the values: in the model and in a new model after a power cut, in
/// growing vectors, in compared values, in the history, and in the durable halves of two disks,
/// compacted or not.
const COPIES: usize = 20;
/// The durable halves of segments that hold little.
const CAP_BYTES: usize = 16 << 20;

fuzz_target!(|ops: Vec<Op>| {
    with_limit_of(COPIES * described_bytes(&ops) + CAP_BYTES, || run(&ops));
});
