//! A compaction, stopped at any of its operations, beside a reader that opens the store, a writer
//! that helps another commit, and a pop: the moments at which a file disappears just before it is
//! opened.

use std::sync::{Arc, Mutex};

use crate::hooked::{Hooked, open, set, stopped};
use crate::sim::disk::{Fate, SimDisk};
use crate::sim::image::Image;
use crate::sim::{STORE, options};
use partd::Partd;

fn blank() -> SimDisk {
    SimDisk::unlogged(&Image::blank(), 1)
}

#[test]
fn a_reader_that_opens_at_any_operation_of_a_compaction_sees_the_whole_store() {
    let mut operations = 0;
    for at in 1.. {
        let disk = blank();
        let compactor = disk.new_process();
        let c = Arc::new(open(&compactor));
        // An output that retains another segment. Both are to be replaced, that segment first,
        // since it is smaller.
        let beside = open(&disk.new_process());
        beside.append([("small", "s")]).expect("the append succeeds");
        open(&disk.new_process())
            .append([("large", "l".repeat(100))])
            .expect("the append succeeds");
        assert_eq!(c.compact().expect("the compaction succeeds").runs, 1);
        drop(beside);
        let hooked = Hooked::new(disk.new_process());
        let reader = options().open_on(hooked.clone(), STORE).expect("the open succeeds");
        let outcome = Arc::new(Mutex::new(None));
        let (its_outcome, its_process) = (Arc::clone(&outcome), compactor.clone());
        set(&hooked.before_list, move || {
            let compact = move || c.compact().expect("the compaction succeeds").runs;
            *its_outcome.lock().expect("the thread does not panic") =
                Some(stopped(&its_process, at, compact));
        });
        let values = reader.get_many(["small", "large"]);
        let values = values.unwrap_or_else(|error| panic!("operation {at}: {error}"));
        assert_eq!(values, [b"s".to_vec(), "l".repeat(100).into_bytes()], "operation {at}");
        let (fate, thread) =
            outcome.lock().expect("the thread does not panic").take().expect("it has listed");
        compactor.resume();
        assert_eq!(thread.join().expect("the thread does not panic"), 1);
        if fate == Fate::Finished {
            operations = at - 1;
            break;
        }
    }
    assert!(operations > 10, "only {operations} operations");
}

#[test]
fn a_writer_appends_although_the_segment_it_helps_commit_is_compacted_away_meanwhile() {
    let mut helped = 0;
    for at in 1.. {
        let disk = blank();
        let process = disk.new_process();
        let a = open(&process);
        a.append([("k", "1")]).expect("the append succeeds");
        let hooked = Hooked::new(disk.new_process());
        let b = options().open_on(hooked.clone(), STORE).expect("the open succeeds");
        b.append([("k", "2")]).expect("the append succeeds");
        let c = open(&disk.new_process());
        let (fate, thread) = stopped(&process, at, move || {
            a.append([("k", "3")]).expect("the append succeeds");
            a
        });
        if fate == Fate::Finished {
            break;
        }
        // Right before the helper opens the segment, its owner resumes, exits, and the segment is
        // compacted away.
        let rest = Arc::new(Mutex::new(Some((process, thread))));
        let finish = {
            let rest = Arc::clone(&rest);
            move || {
                let rest = rest.lock().expect("the thread does not panic").take();
                if let Some((process, thread)) = rest {
                    process.resume();
                    drop(thread.join().expect("the thread does not panic"));
                }
            }
        };
        let before_open = finish.clone();
        set(&hooked.before_open, move || {
            before_open();
            assert_eq!(c.compact().expect("the compaction succeeds").segments_replaced, 1);
        });
        b.append([("k", "4")]).unwrap_or_else(|error| panic!("operation {at}: {error}"));
        let hook = hooked.before_open.lock().expect("the thread does not panic").take();
        helped += u32::from(hook.is_none());
        drop(hook);
        finish();
        let value = open(&disk.new_process()).get("k").expect("the read succeeds");
        assert!([&b"1234"[..], b"1243"].contains(&&value[..]), "operation {at}: {value:?}");
    }
    assert!(helped > 0, "no writer had to help");
}

#[test]
fn pop_and_compaction_interleaved_at_every_step_lose_no_bytes() {
    let (mut pops, mut overtaken) = (0, 0);
    let mut compactions = 0;
    for at in 1.. {
        let mut is_last = false;
        for pop_at in 1.. {
            let disk = blank();
            let (compactor, popper) = (disk.new_process(), disk.new_process());
            let (c, q) = (open(&compactor), open(&popper));
            q.append([("other", "o")]).expect("the append succeeds");
            for piece in ["1", "2"] {
                open(&disk.new_process()).append([("k", piece)]).expect("the append succeeds");
            }
            assert_eq!(q.get("k").expect("the read succeeds"), b"12");
            let (fate, compacting) =
                stopped(&compactor, at, move || c.compact().expect("the compaction succeeds"));
            is_last = fate == Fate::Finished;
            let (fate, popping) = stopped(&popper, pop_at, move || {
                let popped = q.pop(["k", "gone"]).expect("the pop succeeds");
                assert!(!q.contains("k").expect("the lookup succeeds"));
                popped
            });
            compactor.resume();
            // The compaction does not wait for the pop.
            let report = compacting.join().expect("the thread does not panic");
            assert_eq!((report.runs, report.skipped), (1, None));
            overtaken += u32::from(fate == Fate::Stopped);
            popper.resume();
            let popped = popping.join().expect("the thread does not panic");
            let right = [&b"12"[..], b""];
            assert_eq!(popped, right, "I1 is violated: operations {at} and {pop_at}");
            let fresh = open(&disk.new_process());
            assert_eq!(
                fresh.get_many(["k", "other"]).expect("the reads succeed"),
                [&b""[..], b"o"]
            );
            if fate == Fate::Finished {
                pops = pop_at - 1;
                break;
            }
        }
        if is_last {
            compactions = at - 1;
            break;
        }
    }
    println!("{compactions} and {pops} operations; {overtaken} pops were overtaken");
    assert!(compactions > 10 && pops > 3 && overtaken > 20);
}
