//! Limits end in errors of DataFusion, and descriptors are no limit.

use std::io;
use std::process::Command;
use std::sync::Arc;

use crate::common::{check, child, is_child, run, runtime, session, table};
use datafusion::arrow::datatypes::SchemaRef;
use datafusion::catalog::memory::MemorySourceConfig;
use datafusion::error::DataFusionError;
use datafusion::execution::TaskContext;
use datafusion::execution::memory_pool::{FairSpillPool, GreedyMemoryPool};
use datafusion::execution::runtime_env::{RuntimeEnv, RuntimeEnvBuilder};
use datafusion::physical_expr::expressions::col;
use datafusion::physical_plan::repartition::RepartitionExec;
use datafusion::physical_plan::{ExecutionPlan, Partitioning};
use futures::TryStreamExt;
use futures::future::try_join_all;
use partd_datafusion::partd::SegmentLog;
use partd_datafusion::{PartdSpill, PartdSpillBuilder};

const SORT: &str = "SELECT * FROM t ORDER BY k, id";

/// The error of a sort that needs more disk than `builder` allows.
async fn error_of_a_sort(builder: PartdSpillBuilder) -> DataFusionError {
    let spill = builder.build().expect("a store can be made");
    let session = session(runtime(Arc::new(FairSpillPool::new(6 << 20)), &spill), 200_000, 5000);
    let error = run(&session, SORT).await.expect_err("the sort needs more disk space");
    assert_eq!(spill.stats().files, 0, "the files of a failed query are gone");
    assert_eq!(spill.stats().used_bytes, 0);
    // The store is usable again.
    let (rows, _) = run(&session, "SELECT * FROM t WHERE id < 5000 ORDER BY k, id")
        .await
        .unwrap_or_else(|error| panic!("{error}"));
    assert_eq!(rows.num_rows(), 5000);
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
    let session = session(runtime(Arc::new(FairSpillPool::new(6 << 20)), &spill), 200_000, 5000);
    run(&session, SORT).await.expect_err("the quota is too small");
    spill.set_quota_bytes(1 << 30);
    let (rows, _) = run(&session, SORT).await.unwrap_or_else(|error| panic!("{error}"));
    assert_eq!(rows.num_rows(), 200_000);
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

/// Spills every batch of a repartition, with the files of all partitions open at the same time.
async fn repartition(
    runtime: Arc<RuntimeEnv>,
    partitions: usize,
) -> Result<usize, DataFusionError> {
    let input = table(1, 40_000, 7000);
    let schema: SchemaRef = input[0][0].schema();
    let source = MemorySourceConfig::try_new_exec(&input, Arc::clone(&schema), None)?;
    let plan =
        RepartitionExec::try_new(source, Partitioning::Hash(vec![col("k", &schema)?], partitions))?;
    let context = Arc::new(TaskContext::default().with_runtime(runtime));
    let mut streams = Vec::new();
    for partition in 0..partitions {
        streams.push(plan.execute(partition, Arc::clone(&context))?.try_collect::<Vec<_>>());
    }
    let all = try_join_all(streams).await?;
    Ok(all.iter().flatten().map(|batch| batch.num_rows()).sum())
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
    assert_eq!(rows.unwrap_or_else(|error| panic!("{error}")), 40_000);
    let stats = spill.stats();
    assert!(stats.created_files >= 1000 && stats.files == 0, "{stats:?}");
}
