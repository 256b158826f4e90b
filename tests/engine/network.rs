//! The real disk's classification of file systems: local ones are fit for stores, others are not.
//! How a store is refused is in `tests/simulated/surroundings.rs`.

use std::path::Path;

use partd::SegmentLog;
use partd::log::fs::{Dir, Disk, OsDisk};

#[test]
fn the_real_disk_accepts_local_file_systems_and_refuses_others() {
    let dir = tempfile::tempdir().unwrap();
    assert_eq!(
        OsDisk.open_dir(dir.path()).unwrap().unfit().unwrap(),
        None,
        "the directory of the tests is on a local file system"
    );
    for unknown in ["/proc", "/sys"] {
        let unfit = OsDisk.open_dir(Path::new(unknown)).unwrap().unfit().unwrap();
        assert!(unfit.is_some_and(|why| why.contains("an unknown kind (type 0x")), "{unknown}");
    }
    // An existing directory on such a file system is refused too.
    let error = SegmentLog::open("/proc/self/fdinfo").unwrap_err().to_string();
    assert!(error.contains("/proc/self/fdinfo"), "{error}");
}
