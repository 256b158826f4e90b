//! The environment of a store: containers that see another boot id or none, and file systems that
//! are unfit for stores. Mounting NFS or starting a container is not possible everywhere, so the
//! simulated disk plays them.

use std::path::Path;

use crate::sim::disk::SimDisk;
use crate::sim::image::Image;
use crate::sim::{STORE, options};
use partd::{Error, Partd};

fn disk() -> SimDisk {
    SimDisk::unlogged(&Image::blank(), 3)
}

#[track_caller]
fn says<T>(result: Result<T, Error>, words: &[&str]) {
    let error = result.err().expect("it is refused").to_string();
    for word in words {
        assert!(error.contains(word), "{word:?} is not in {error:?}");
    }
}

#[test]
fn a_store_in_use_is_refused_under_another_boot_id_and_opens_there_once_closed() {
    let host = disk();
    let container = host.new_process_with_boot_id(Some([7; 16]));
    let p = options().open_on(host.clone(), STORE).unwrap();
    p.append([("k", "v")]).unwrap();
    let words = &[STORE, "another boot id", "give all processes that use the store the same one"];
    says(options().open_on(container.clone(), STORE), words);
    p.append([("k", "w")]).unwrap();
    assert_eq!(p.get("k").unwrap(), b"vw");
    drop(p);
    let q = options().open_on(container, STORE).unwrap();
    assert_eq!(q.get("k").unwrap(), b"vw");
    says(options().open_on(host, STORE), words);
}

#[test]
fn an_unreadable_boot_id_is_an_error_that_names_its_file() {
    let host = disk();
    options().open_on(host.clone(), STORE).unwrap().append([("k", "v")]).unwrap();
    let nowhere = host.new_process_with_boot_id(None);
    let words = &["/proc/sys/kernel/random/boot_id", STORE];
    says(options().open_on(nowhere.clone(), STORE), words);
    says(options().open_read_only_on(nowhere, STORE), words);
    assert_eq!(options().open_on(host, STORE).unwrap().get("k").unwrap(), b"v");
}

#[test]
fn a_network_file_system_is_refused_unless_allowed() {
    #[track_caller]
    fn is_refused<T>(result: Result<T, Error>) {
        let error = result.err().expect("it is refused");
        assert!(matches!(error, Error::Refused { .. }), "{error}");
        says::<T>(Err(error), &[STORE, "NFS", "use a local disk", "`any_file_system`"]);
    }
    let disk = disk().new_process_on_unfit("the file system is NFS (type 0x6969)");
    let open = || options().open_on(disk.clone(), STORE);
    is_refused(open());
    // No part of a store was created, so a second attempt fails the same way.
    is_refused(open());
    let any = options().any_file_system(true);
    let p = any.open_on(disk.clone(), STORE).unwrap();
    p.append([("k", "v")]).unwrap();
    is_refused(open());
    is_refused(options().open_read_only_on(disk.clone(), STORE));
    assert_eq!(any.open_read_only_on(disk, STORE).unwrap().get("k").unwrap(), b"v");
}

#[test]
fn an_error_about_batches_that_are_missing_within_one_boot_mentions_snapshots_of_machines() {
    let disk = disk();
    let open = || options().open_on(disk.new_process(), STORE).unwrap();
    let (p, q) = (open(), open());
    p.append([("k", "v")]).unwrap();
    q.append_durable([("k", "w")]).unwrap();
    let mut image = disk.snapshot();
    assert!(image.files.remove(&Path::new(STORE).join("0000000000000001.seg")).is_some());
    for booted in [false, true] {
        image.boot += u64::from(booted);
        let opened = options().open_on(SimDisk::unlogged(&image, 9), STORE);
        let error = opened.expect_err("a batch is missing");
        assert!(matches!(error, Error::Missing { first: 1, last: 1, .. }), "{error}");
        // After a reboot, the boot id tells that the memory was lost.
        let text = error.to_string();
        assert_eq!(
            text.contains("virtual machine that resumed from a snapshot"),
            !booted,
            "{text}"
        );
    }
}
