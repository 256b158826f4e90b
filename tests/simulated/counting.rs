//! The figures in `stats` are consistent, even while others write and sync.

use crate::hooked::{Hooked, open, set};
use crate::sim::disk::SimDisk;
use crate::sim::image::Image;
use crate::sim::{STORE, options};
use partd::Partd;

#[test]
fn stats_describe_a_state_that_the_store_was_in_although_others_write_and_sync_meanwhile() {
    let disk = SimDisk::unlogged(&Image::blank(), 1);
    let writer = open(&disk.new_process());
    writer.append([("k", "1")]).expect("the append succeeds");
    let hooked = Hooked::new(disk.new_process());
    let reader = options().open_on(hooked.clone(), STORE).expect("the open succeeds");
    set(&hooked.after_list, move || {
        writer.append_durable([("k", "2"), ("l", "3")]).expect("the append succeeds");
    });
    for _ in 0..2 {
        let stats = reader.stats().expect("the count succeeds");
        // The first batch alone was never on stable storage.
        let found = (stats.sequence, stats.durable_seq, stats.keys);
        assert!([(1, 0, 1), (2, 0, 2), (2, 2, 2)].contains(&found), "{found:?}");
    }
    let stats = reader.stats().expect("the count succeeds");
    assert_eq!((stats.sequence, stats.durable_seq, stats.keys), (2, 2, 2));
}
