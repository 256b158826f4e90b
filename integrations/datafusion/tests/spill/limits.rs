//! Limits end in errors of DataFusion, and descriptors are no limit.

use std::io;
use std::process::Command;
use std::sync::Arc;

use datafusion_common::DataFusionError;
use datafusion_common::arrow::array::RecordBatch;
use datafusion_execution::memory_pool::GreedyMemoryPool;
use datafusion_execution::runtime_env::RuntimeEnvBuilder;
use partd::SegmentLog;
use partd_datafusion::{PartdSpill, PartdSpillBuilder};

use crate::common::{check, child, is_child, limited, run, runtime, sorted, table};
use crate::operators::repartition;

/// The error of a sort that needs more disk than `builder` allows.
async fn error_of_a_sort(builder: PartdSpillBuilder) -> DataFusionError {
    let spill = builder.build().expect("a store can be made");
    let plan = sorted(table(1, 200_000, 5000));
    let error = run(&plan, limited(6 << 20, &spill)).await.expect_err("it needs more disk space");
    assert_eq!(spill.stats().files, 0, "the files of a failed query are gone");
    assert_eq!(spill.stats().used_bytes, 0);
    // The store is usable again.
    let plan = sorted(table(1, 30_000, 5000));
    let before = spill.stats().written_bytes;
    let rows = run(&plan, limited(2 << 20, &spill)).await.unwrap_or_else(|error| panic!("{error}"));
    assert_eq!(rows.num_rows(), 30_000);
    assert!(spill.stats().written_bytes > before, "it has spilled");
    error
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn more_bytes_than_the_quota_are_resources_exhausted() {
    let error = error_of_a_sort(PartdSpill::builder().quota_bytes(5 << 20)).await;
    assert!(matches!(error.find_root(), DataFusionError::ResourcesExhausted(_)), "{error:?}");
    assert!(error.to_string().contains("quota of 5.0 MB"), "{error}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_quota_that_is_raised_lets_the_query_pass() {
    let spill = PartdSpill::builder().quota_bytes(1000).build().expect("a store can be made");
    let plan = || sorted(table(1, 200_000, 5000));
    run(&plan(), limited(6 << 20, &spill)).await.expect_err("the quota is too small");
    spill.set_quota_bytes(1 << 30);
    let rows = run(&plan(), limited(6 << 20, &spill)).await;
    assert_eq!(rows.unwrap_or_else(|error| panic!("{error}")).num_rows(), 200_000);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn more_disk_space_than_the_store_may_take_is_resources_exhausted() {
    let options = SegmentLog::options().segment_len_bytes(1 << 20).max_store_bytes(5 << 20);
    let error = error_of_a_sort(PartdSpill::builder().options(options)).await;
    assert!(matches!(error.find_root(), DataFusionError::ResourcesExhausted(_)), "{error:?}");
}

/// A file system of 5 MiB in memory.
struct Small(tempfile::TempDir);

impl Small {
    fn mount() -> Result<Small, String> {
        let dir = tempfile::tempdir().map_err(|error| error.to_string())?;
        let mut mount = Command::new("mount");
        mount.args(["-t", "tmpfs", "-o", "size=5m,mode=700", "partd-test"]).arg(dir.path());
        let output = mount.output().map_err(|error| error.to_string())?;
        match output.status.success() {
            true => Ok(Small(dir)),
            false => Err(String::from_utf8_lossy(&output.stderr).into_owned()),
        }
    }
}

impl Drop for Small {
    fn drop(&mut self) {
        let unmounted = Command::new("umount").arg("--lazy").arg(self.0.path()).status();
        assert!(unmounted.is_ok_and(|status| status.success()) || std::thread::panicking());
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_full_disk_is_an_io_error_of_the_kind_storage_full() {
    let small = match Small::mount() {
        Ok(small) => small,
        Err(why) if std::env::var_os("CI").is_some() => panic!("cannot mount: {why}"),
        Err(why) => {
            eprintln!("skipped: a small file system cannot be mounted: {why}");
            return;
        }
    };
    let options = SegmentLog::options().segment_len_bytes(1 << 20);
    let error = error_of_a_sort(PartdSpill::builder().directory(small.0.path()).options(options));
    let error = error.await;
    let DataFusionError::IoError(root) = error.find_root() else { panic!("{error:?}") };
    assert_eq!(root.kind(), io::ErrorKind::StorageFull, "{error:?}");
}

#[test]
fn a_thousand_partitions_spill_under_a_limit_of_256_descriptors() {
    const NAME: &str = "limits::a_thousand_partitions_spill_under_a_limit_of_256_descriptors";
    if !is_child(NAME) {
        let dir = tempfile::tempdir().expect("a directory can be made");
        let mut child = child(NAME, "ulimit -n 256", dir.path());
        check(&child.output().expect("bash runs"));
        return;
    }
    let limits = std::fs::read_to_string("/proc/self/limits").expect("Linux has it");
    let limit = limits.lines().find(|line| line.starts_with("Max open files")).expect("a limit");
    assert_eq!(limit.split_whitespace().nth(3), Some("256"), "{limit}");

    let tokio = tokio::runtime::Runtime::new().expect("a runtime starts");
    let pool = || Arc::new(GreedyMemoryPool::new(1));
    // What the test is about: with DataFusion's own files, it cannot be done.
    let own = RuntimeEnvBuilder::new().with_memory_pool(pool()).build_arc().expect("valid");
    let error = tokio.block_on(repartition(own, 1000)).expect_err("each file has a descriptor");
    assert!(error.to_string().contains("Too many open files"), "{error}");

    let spill = PartdSpill::temporary().expect("a store can be made");
    let rows = tokio.block_on(repartition(runtime(pool(), &spill), 1000));
    let rows = rows.unwrap_or_else(|error| panic!("{error}"));
    assert_eq!(rows.iter().flatten().map(RecordBatch::num_rows).sum::<usize>(), 40_000);
    let stats = spill.stats();
    assert!(stats.created_files >= 900 && stats.files == 0, "{stats:?}");
}
