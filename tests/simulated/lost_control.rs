//! A control file that is removed or overwritten beneath an open handle. The first test is in this
//! binary, beside slower ones, because an opener waits for two seconds before it gives up.

use std::path::Path;

use partd::log::fs::{Dir, Disk};
use partd::{ErrorKind, Partd};

use crate::sim::disk::SimDisk;
use crate::sim::image::Image;
use crate::sim::{STORE, options};

#[test]
fn without_a_control_file_handles_and_readers_work_and_new_writers_get_an_error_with_advice() {
    let disk = SimDisk::unlogged(&Image::blank(), 1);
    let open = || options().open_on(disk.new_process(), STORE);
    let read = || options().open_read_only_on(disk.new_process(), STORE).unwrap().get("b").unwrap();
    let p = open().unwrap();
    p.append([("b", "12")]).unwrap();
    disk.remove_name(&Path::new(STORE).join("control")).unwrap();
    p.append([("b", "3")]).unwrap();
    assert_eq!(p.get("b").unwrap(), b"123");
    assert_eq!(read(), b"123");
    // A new writer would have to recreate the words that the open handle still uses.
    let error = open().unwrap_err().to_string();
    for words in [STORE, "none of them uses its control file", "Close the store"] {
        assert!(error.contains(words), "{words:?} is not in {error:?}");
    }
    p.append([("b", "4")]).unwrap();
    drop(p);
    assert_eq!(open().unwrap().get("b").unwrap(), b"1234");
}

#[test]
fn a_reader_of_an_unrecovered_store_notices_a_recovery_that_overwrites_the_control_file() {
    let disk = SimDisk::unlogged(&Image::blank(), 1);
    let killed = disk.new_process();
    let dead = options().open_on(killed.clone(), STORE).unwrap();
    dead.append([("b", "12")]).unwrap();
    killed.kill();
    let read = || options().open_read_only_on(disk.new_process(), STORE).unwrap();
    let reader = read();
    assert_eq!(reader.get("b").unwrap(), b"12");
    let control = || disk.open_dir(Path::new(STORE)).unwrap().id_of("control").unwrap();
    let before = control();
    // There is no space for a second control file.
    disk.limit(0);
    let p = options().open_on(disk.new_process(), STORE).unwrap();
    assert_eq!(control(), before, "it was not overwritten");
    disk.limit(64 << 20);
    p.append([("b", "3")]).unwrap();
    let error = reader.get("b").expect_err("it would return an old value");
    assert_eq!(error.kind(), ErrorKind::Busy, "{error}");
    assert!(
        error.to_string().contains("another handle has opened it for writing since"),
        "{error}"
    );
    assert_eq!(read().get("b").unwrap(), b"123");
    drop(dead);
}
