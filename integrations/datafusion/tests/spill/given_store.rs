//! Spill files in a store that has other keys too.

use std::sync::Arc;

use datafusion_execution::TempFileFactory;
use partd::{Partd, SegmentLog};
use partd_datafusion::PartdSpill;

#[test]
fn a_given_store_keeps_its_other_keys_and_loses_what_an_earlier_process_left() {
    let dir = tempfile::tempdir().expect("a directory can be made");
    let log = Arc::new(SegmentLog::open(dir.path().join("store")).expect("it is created"));
    log.append([(("job", 1, "x"), "kept"), (("spill", 1, "7"), "left by a killed process")])
        .unwrap();

    let spill = PartdSpill::builder().store(Arc::clone(&log), ("spill", 1)).build().unwrap();
    assert_eq!(log.keys().unwrap(), [("job", 1, "x").into()]);
    let file = spill.create_temp_file("a test").unwrap();
    let mut writer = file.open_writer().unwrap();
    writer.write_all(b"some bytes").unwrap();
    writer.finish().unwrap();
    assert_eq!(log.get(("spill", 1, "0")).unwrap(), b"some bytes");
    assert_eq!(file.size(), Some(10));
    drop(spill); // the file keeps the scope
    assert_eq!(log.get(("spill", 1, "0")).unwrap(), b"some bytes");
    drop(writer);
    drop(file);
    assert_eq!(log.keys().unwrap(), [("job", 1, "x").into()]);
}
