//! Raw bytes as a segment, as a control file, and as words: no input causes a panic or an
//! allocation.
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
