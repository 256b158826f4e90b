//! Raw bytes as a segment, as a control file, as words: no input panics or allocates.
#![no_main]

use libfuzzer_sys::fuzz_target;
use partd_fuzz::limit::with_limit;
use partd_fuzz::scan;

fuzz_target!(|bytes: &[u8]| {
    with_limit(bytes.len(), 1 << 16, || {
        scan::segment(bytes);
        scan::control_and_words(bytes);
    });
});
