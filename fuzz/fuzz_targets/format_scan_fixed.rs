//! Bytes as a segment whose checks hold, so that the code after the first check is reached.
#![no_main]

use libfuzzer_sys::fuzz_target;
use partd_fuzz::limit::with_limit;
use partd_fuzz::{mend, scan};

fuzz_target!(|bytes: &[u8]| {
    let mut mended = bytes.to_vec();
    mend::segment(&mut mended, None);
    with_limit(mended.len(), 1 << 16, || {
        let reached = scan::segment(&mended);
        assert!(reached.header, "the mended header does not parse");
    });
});
