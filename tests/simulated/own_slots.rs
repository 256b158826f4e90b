//! The slots of one handle: a large append takes a slot and a segment of its own while another thread
//! is busy with the first.

use std::sync::mpsc::channel;
use std::sync::{Arc, Mutex};
use std::thread;
use std::time::Duration;

use crate::hooked::{Hook, Hooked, has_fired, set, stopped};
use crate::publishing::power_cut;
use crate::sim::disk::{Fate, SimDisk};
use crate::sim::image::Image;
use crate::sim::{STORE, options};
use partd::{Options, Partd, SegmentLog};

const LARGE: usize = 100_000;
const SMALL: usize = 1000;
/// A thread that takes longer waits for a lock.
const PATIENCE: Duration = Duration::from_secs(20);

fn large_segments() -> Options {
    options().segment_len_bytes(1 << 20)
}

/// Appends and syncs a value in another thread of the handle while a thread makes a large append, at the
/// moment of the hook. Returns the disk, the handle, and whether the other append then ended.
fn append_beside(
    options: &Options,
    hook: fn(&Hooked) -> &Hook,
) -> (SimDisk, Arc<SegmentLog<Hooked>>, bool) {
    let disk = SimDisk::boot(&Image::blank(), 3, None);
    let hooked = Hooked::new(disk.new_process());
    let log = Arc::new(options.open_on(hooked.clone(), STORE).expect("the open succeeds"));
    let is_done = Arc::new(Mutex::new(None));
    set(hook(&hooked), {
        let (log, is_done) = (Arc::clone(&log), Arc::clone(&is_done));
        move || {
            let (sender, receiver) = channel();
            let append = move || {
                log.append([("b", vec![2; LARGE])]).expect("the append succeeds");
                log.sync().expect("the sync succeeds");
                // The receiver has waited long enough.
                let _ = sender.send(());
            };
            let thread = thread::spawn(append);
            let is_in_time = receiver.recv_timeout(PATIENCE).is_ok();
            *is_done.lock().expect("the thread does not panic") = Some((is_in_time, thread));
        }
    });
    log.append([("a", vec![1; LARGE])]).expect("the append succeeds");
    assert!(has_fired(hook(&hooked)), "the hook has not run");
    let (is_in_time, thread) =
        is_done.lock().expect("the thread does not panic").take().expect("the hook has run");
    thread.join().expect("the thread does not panic");
    (disk, log, is_in_time)
}

#[test]
fn a_large_append_does_not_wait_for_one_of_another_thread_and_is_durable_by_itself() {
    let (disk, log, is_in_time) = append_beside(&large_segments(), |disk| &disk.before_rename);
    assert!(is_in_time, "live is violated: it waited");
    assert_eq!(log.stats().expect("the call succeeds").segments(), 2);
    let values = log.get_many(["a", "b"]).expect("the read succeeds");
    assert!(values == [vec![1; LARGE], vec![2; LARGE]], "live is violated");
    let after = SimDisk::boot(&power_cut(&disk), 5, None);
    let after = options().open_on(after, STORE).expect("the open succeeds");
    let values = after.get_many(["a", "b"]).expect("the read succeeds");
    assert!(values[1] == vec![2; LARGE], "I1 is violated");
    assert!(values[0].is_empty() || values[0] == vec![1; LARGE], "a torn value");
}

#[test]
fn the_slots_of_a_closed_handle_are_free_for_the_next() {
    for _ in 0..2 {
        let (disk, log, _) = append_beside(&large_segments(), |disk| &disk.before_rename);
        drop(log);
        let next = options().segment_len_bytes(1 << 20).open_on(disk, STORE);
        let next = next.expect("the open succeeds");
        next.append([("c", vec![3; LARGE])]).expect("the append succeeds");
        let values = next.get_many(["a", "b", "c"]).expect("the read succeeds");
        assert!(values == [vec![1; LARGE], vec![2; LARGE], vec![3; LARGE]], "live is violated");
        // Neither writer is alive, so a check of the store finds nothing to wait for.
        next.verify().expect("nothing is damaged");
    }
}

#[test]
fn a_process_killed_at_any_operation_of_two_large_appends_leaves_none_of_them_torn() {
    let mut found = [0; 3];
    for at in 1.. {
        let disk = SimDisk::unlogged(&Image::blank(), 3);
        let process = disk.new_process();
        let hooked = Hooked::new(process.clone());
        let log = large_segments().open_on(hooked.clone(), STORE).expect("the open succeeds");
        // A killed process drops nothing.
        let log: &'static SegmentLog<Hooked> = Box::leak(Box::new(log));
        set(&hooked.before_id_of, move || {
            let append = || log.append([("b", vec![2; LARGE])]).expect("the append succeeds");
            // A killed thread unwinds, which may come here too.
            if !thread::panicking() {
                // It panics if the process is killed.
                drop(thread::spawn(append).join());
            }
        });
        let (fate, thread) = stopped(&process, at, move || log.append([("a", vec![1; LARGE])]));
        if fate == Fate::Stopped {
            process.kill();
        }
        let next = large_segments().open_on(disk.new_process(), STORE).expect("the open succeeds");
        let values = next.get_many(["a", "b"]).expect("the read succeeds");
        let whole = [vec![1; LARGE], vec![2; LARGE]];
        for (value, whole) in values.iter().zip(&whole) {
            assert!(value.is_empty() || value == whole, "a torn value; operation {at}");
        }
        found[values.iter().filter(|value| !value.is_empty()).count()] += 1;
        // The next writers take the slots over.
        next.append([("c", vec![3; LARGE])]).expect("the append succeeds");
        next.sync().expect("the sync succeeds");
        assert!(next.get("c").expect("the read succeeds") == vec![3; LARGE]);
        next.verify().expect("nothing is damaged");
        if fate == Fate::Finished {
            thread.join().expect("it does not panic").expect("the append succeeds");
            assert!(values == whole, "live is violated");
            break;
        }
        process.bury();
        drop(thread.join());
    }
    println!("{found:?} times none, one and both of the values");
    assert!(found[0] > 10 && found[1] > 3 && found[2] > 0, "{found:?}");
}

#[test]
fn a_dead_segment_of_any_slot_makes_room_in_a_store_with_a_size_limit() {
    for (deleted, kept) in [("a", "b"), ("b", "a")] {
        let options = large_segments().max_store_bytes(2 << 20).compaction_dead_share(Some(0.5));
        let (_disk, log, is_in_time) = append_beside(&options, |disk| &disk.before_id_of);
        assert!(is_in_time, "live is violated: it waited");
        assert_eq!(log.stats().expect("the call succeeds").segments(), 2);
        log.delete([deleted]).expect("the delete succeeds");
        // It fits into neither segment, and a third would exceed the limit.
        log.append([("c", vec![3; 1_000_000])]).expect("the append succeeds");
        assert_eq!(log.len_of(kept).expect("the call succeeds"), LARGE as u64);
        assert_eq!(log.len_of("c").expect("the call succeeds"), 1_000_000);
        assert_eq!(log.len_of(deleted).expect("the call succeeds"), 0);
    }
}

#[test]
fn a_small_append_shares_the_segment_of_another_thread() {
    let disk = SimDisk::boot(&Image::blank(), 3, None);
    let log = options().segment_len_bytes(1 << 20).open_on(disk, STORE).expect("the open succeeds");
    thread::scope(|scope| {
        for key in 0..8 {
            let log = &log;
            scope.spawn(move || {
                for _ in 0..20 {
                    log.append([(key, vec![1; SMALL])]).expect("the append succeeds");
                }
            });
        }
    });
    assert_eq!(log.stats().expect("the call succeeds").segments(), 1);
    assert!((0..8).all(|key| log.len_of(key).expect("the call succeeds") == 20 * SMALL as u64));
}
