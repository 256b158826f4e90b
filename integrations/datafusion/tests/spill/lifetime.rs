//! Spill files end with their queries, and what a killed process leaves can be swept.

use std::fs;
use std::os::unix::process::ExitStatusExt;
use std::path::Path;
use std::time::{Duration, Instant};

use datafusion_physical_plan::execute_stream;
use futures::StreamExt;
use partd::{Partd, SegmentLog};
use partd_datafusion::PartdSpill;

use crate::common::{child, is_child, limited, run, sorted, table};

fn names(dir: &Path) -> Vec<String> {
    let entries = fs::read_dir(dir).expect("it is a directory");
    entries.map(|entry| entry.expect("it can be read").file_name().into_string().unwrap()).collect()
}

/// Waits until `done`, for half a minute at most.
fn wait_until(what: &str, mut done: impl FnMut() -> bool) {
    let start = Instant::now();
    while !done() {
        assert!(start.elapsed() < Duration::from_secs(30), "not within 30 s: {what}");
        std::thread::sleep(Duration::from_millis(20));
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_files_of_a_cancelled_query_are_gone() {
    let spill = PartdSpill::temporary().expect("a store can be made");
    let plan = sorted(table(1, 200_000, 5000));
    let mut stream = execute_stream(plan, limited(6 << 20, &spill)).expect("it starts");
    stream.next().await.expect("there are rows").expect("they can be read");
    assert!(spill.stats().files > 1, "the merge reads them: {:?}", spill.stats());
    drop(stream);
    // Tasks of the query end on their own.
    wait_until("the end of all files", || spill.stats().files == 0);
    assert_eq!(spill.stats().used_bytes, 0);
    assert_eq!(spill.store().keys().expect("the store can be read"), []);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_disk_space_of_finished_queries_is_used_again() {
    let dir = tempfile::tempdir().expect("a directory can be made");
    let options = SegmentLog::options().segment_len_bytes(1 << 20);
    let spill = PartdSpill::builder().directory(dir.path()).options(options).build();
    let spill = spill.expect("a store can be made");
    for _ in 0..5 {
        let plan = sorted(table(1, 200_000, 5000));
        run(&plan, limited(6 << 20, &spill)).await.unwrap_or_else(|error| panic!("{error}"));
    }
    let written = spill.stats().written_bytes;
    let taken = || spill.store().stats().expect("the store can be read").disk_bytes;
    wait_until("the end of all but the recycled segments", || taken() < 12 << 20);
    assert!(written > 60 << 20, "{written}");
}

#[test]
fn a_sweep_removes_all_that_a_killed_process_leaves() {
    const NAME: &str = "lifetime::a_sweep_removes_all_that_a_killed_process_leaves";
    if is_child(NAME) {
        let spill = PartdSpill::temporary().expect("a store can be made");
        let tokio = tokio::runtime::Runtime::new().expect("a runtime starts");
        tokio.block_on(async {
            let plan = sorted(table(1, 200_000, 5000));
            let mut stream = execute_stream(plan, limited(6 << 20, &spill)).expect("it starts");
            stream.next().await.expect("there are rows").expect("they can be read");
            assert!(spill.stats().files > 1);
            let ready = std::env::temp_dir().join("ready");
            fs::write(ready, "").expect("it can be written");
            tokio::time::sleep(Duration::from_secs(60)).await;
        });
        panic!("the parent did not kill this process");
    }
    let dir = tempfile::tempdir().expect("a directory can be made");
    let mut child = child(NAME, "", dir.path()).spawn().expect("bash runs");
    let ready = dir.path().join("ready");
    wait_until("a spill of the child", || {
        assert!(child.try_wait().expect("it can be waited for").is_none(), "the child has ended");
        ready.exists()
    });
    fs::remove_file(ready).expect("it exists");
    let swept = PartdSpill::sweep(dir.path()).expect("it can be read");
    assert!(swept.is_empty(), "{swept:?} is in use");
    child.kill().expect("it runs");
    assert_eq!(child.wait().expect("it was killed").signal(), Some(9));

    let [left] = &names(dir.path())[..] else { panic!("one store: {:?}", names(dir.path())) };
    let swept = PartdSpill::sweep(dir.path()).expect("it can be removed");
    assert_eq!(swept, [dir.path().join(left)]);
    assert_eq!(names(dir.path()), [""; 0]);
}
