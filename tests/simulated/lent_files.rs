//! A compaction, stopped at any of its operations, beside a handle that lends byte ranges of files:
//! the moments at which a file disappears just before it is opened.

use std::os::unix::fs::FileExt;
use std::path::Path;
use std::sync::{Arc, Mutex};

use crate::hooked::{Hooked, open, set, stopped};
use crate::sim::disk::{Fate, SimDisk, SimFile};
use crate::sim::image::Image;
use crate::sim::{STORE, options};
use partd::log::fs::Disk;
use partd::{ErrorKind, FileExtents, Partd, SegmentLog};

/// Reads the byte ranges through their files, and compares their checksums.
pub(crate) fn read_extents<D: Disk<File = SimFile>>(extents: &FileExtents<D>) -> Vec<u8> {
    let mut value = Vec::new();
    for extent in extents.iter() {
        let mut bytes = vec![0; extent.len() as usize];
        extent.file().read_exact_at(&mut bytes, extent.offset()).expect("the range is in the file");
        assert_eq!(crc32fast::hash(&bytes), extent.crc32());
        value.extend_from_slice(&bytes);
    }
    assert_eq!(extents.len(), value.len() as u64);
    value
}

/// A disk with a key in two segments of closed writers.
fn disk_with_two_segments() -> SimDisk {
    let disk = SimDisk::unlogged(&Image::blank(), 1);
    for piece in ["1", "2"] {
        open(&disk.new_process()).append([("k", piece)]).expect("the append succeeds");
    }
    disk
}

/// A handle whose index is current, so that the next file that it opens is one to lend.
fn hooked(disk: &SimDisk) -> (Hooked, SegmentLog<Hooked>) {
    let hooked = Hooked::new(disk.new_process());
    let log = options().open_on(hooked.clone(), STORE).expect("the open succeeds");
    assert_eq!(log.get("k").expect("the read succeeds"), b"12");
    (hooked, log)
}

#[test]
fn extents_are_lent_whole_at_any_operation_of_a_compaction() {
    let mut operations = 0;
    for at in 1.. {
        let disk = disk_with_two_segments();
        let compactor = disk.new_process();
        let c = open(&compactor);
        let (hooked, log) = hooked(&disk);
        let outcome = Arc::new(Mutex::new(None));
        let (its_outcome, its_process) = (Arc::clone(&outcome), compactor.clone());
        set(&hooked.before_open, move || {
            let compact = move || c.compact().expect("the compaction succeeds").runs;
            *its_outcome.lock().expect("the thread does not panic") =
                Some(stopped(&its_process, at, compact));
        });
        let extents = log.extents("k").unwrap_or_else(|error| panic!("operation {at}: {error}"));
        assert_eq!(read_extents(&extents), b"12", "operation {at}");
        let (fate, thread) =
            outcome.lock().expect("the thread does not panic").take().expect("it opened a file");
        compactor.resume();
        assert_eq!(thread.join().expect("the thread does not panic"), 1);
        assert_eq!(read_extents(&extents), b"12", "after operation {at}");
        if fate == Fate::Finished {
            // The compaction was over before the file was opened, so the output is lent.
            assert_eq!(extents.iter().len(), 1);
            operations = at - 1;
            break;
        }
    }
    assert!(operations > 10, "only {operations} operations");
}

#[test]
fn extents_of_a_segment_that_was_removed_by_hand_are_an_error_that_names_it() {
    let disk = disk_with_two_segments();
    let (_, log) = hooked(&disk);
    let names = disk.names_in(Path::new(STORE));
    let segment = names.iter().find(|name| name.extension().is_some_and(|end| end == "seg"));
    let segment = segment.expect("a segment");
    disk.remove_name(segment).expect("the file is there");
    let error = log.extents("k").expect_err("the file is gone");
    assert_eq!(error.kind(), ErrorKind::Removed, "{error}");
    assert!(error.to_string().contains(&*segment.to_string_lossy()), "{error}");
    // The mapping still shows the value.
    assert_eq!(log.get("k").expect("the read succeeds"), b"12");
}
