//! Operators under memory limits give the rows of a run without limits, and spill through partd.

use std::collections::HashMap;
use std::sync::Arc;

use datafusion_common::arrow::array::{AsArray, RecordBatch};
use datafusion_common::arrow::compute::SortOptions;
use datafusion_common::arrow::datatypes::Int64Type;
use datafusion_common::{JoinType, NullEquality, Result};
use datafusion_execution::memory_pool::GreedyMemoryPool;
use datafusion_execution::runtime_env::RuntimeEnv;
use datafusion_physical_expr::expressions::col;
use datafusion_physical_plan::aggregates::{AggregateExec, AggregateMode, PhysicalGroupBy};
use datafusion_physical_plan::joins::SortMergeJoinExec;
use datafusion_physical_plan::repartition::RepartitionExec;
use datafusion_physical_plan::{ExecutionPlan, Partitioning};
use futures::TryStreamExt;
use futures::future::try_join_all;
use partd::SegmentLog;
use partd_datafusion::PartdSpill;

use crate::common::{context, limited, run, runtime, sorted, spills, table, unlimited};

/// Runs a plan with and without a limit, and compares the rows.
async fn same_with_a_limit(
    plan: impl Fn() -> Arc<dyn ExecutionPlan>,
    pool_bytes: usize,
    is_ordered: bool,
) -> usize {
    let expected = run(&plan(), unlimited()).await.expect("it has all memory");
    assert!(expected.num_rows() > 1000, "there are rows to compare");
    let dir = tempfile::tempdir().expect("a directory can be made");
    let spill = PartdSpill::builder().directory(dir.path()).build().expect("a store can be made");
    let context = limited(pool_bytes, &spill);
    let pool = Arc::clone(&context.runtime_env().memory_pool);
    let plan = plan();
    let actual = run(&plan, context).await.unwrap_or_else(|error| panic!("{error}"));
    assert_eq!(actual.num_rows(), expected.num_rows());
    match is_ordered {
        true => assert!(actual == expected, "the rows differ"),
        false => assert!(as_set(&actual) == as_set(&expected), "the rows differ"),
    }
    let stats = spill.stats();
    assert!(stats.written_bytes > pool_bytes as u64 / 2, "{stats:?}");
    assert_eq!((stats.files, stats.used_bytes), (0, 0), "the files of a finished query are gone");
    assert_eq!(pool.reserved(), 0);
    let spills = spills(plan.as_ref());
    drop((plan, spill, pool));
    let left = std::fs::read_dir(dir.path()).expect("it is a directory").count();
    assert_eq!(left, 0, "the store is gone with its last user");
    spills
}

/// The numbers in the first two columns, sorted.
fn as_set(rows: &RecordBatch) -> Vec<(i64, i64)> {
    let column = |at| rows.column(at).as_primitive::<Int64Type>().values();
    let mut all: Vec<_> = column(0).iter().copied().zip(column(1).iter().copied()).collect();
    all.sort_unstable();
    all
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_sort_that_spills_gives_the_same_rows_in_the_same_order() {
    let plan = || sorted(table(1, 200_000, 5000));
    let spills = same_with_a_limit(plan, 6 << 20, true).await;
    assert!(spills > 1, "{spills}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_aggregate_that_spills_gives_the_same_groups() {
    let plan = || -> Arc<dyn ExecutionPlan> {
        let table = table(1, 150_000, 5000);
        let by = |name| (col(name, &table.schema()).expect("a column"), String::from(name));
        let by = PhysicalGroupBy::new_single(vec![by("id"), by("k"), by("s")]);
        let (mode, schema) = (AggregateMode::Single, table.schema());
        let groups = AggregateExec::try_new(mode, by, vec![], vec![], Arc::clone(&table), schema);
        Arc::new(groups.expect("the plan is valid"))
    };
    let spills = same_with_a_limit(plan, 6 << 20, false).await;
    assert!(spills > 1, "{spills}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_sort_merge_join_that_spills_its_buffered_side_gives_the_same_pairs() {
    let plan = || -> Arc<dyn ExecutionPlan> {
        // Few keys, so that the rows of one key do not fit into memory.
        let (one, other) = (sorted(table(1, 40, 4)), sorted(table(2, 60_000, 4)));
        let key = |side: &Arc<dyn ExecutionPlan>| col("k", &side.schema()).expect("a column");
        let on = vec![(key(&one), key(&other))];
        let (kind, order) = (JoinType::Inner, vec![SortOptions::default()]);
        let nulls = NullEquality::NullEqualsNothing;
        let join = SortMergeJoinExec::try_new(one, other, on, None, kind, order, nulls);
        Arc::new(join.expect("the plan is valid"))
    };
    let spills = same_with_a_limit(plan, 3 << 20, true).await;
    assert!(spills > 1, "{spills}");
}

/// Repartitions a table of 40,000 rows by hash, with a runtime that has memory for nothing. The
/// files of all partitions are open at the same time.
pub(crate) async fn repartition(
    runtime: Arc<RuntimeEnv>,
    partitions: usize,
) -> Result<Vec<Vec<RecordBatch>>> {
    let table = table(1, 40_000, 7000);
    let by_key = Partitioning::Hash(vec![col("k", &table.schema())?], partitions);
    let plan = RepartitionExec::try_new(table, by_key)?;
    let context = context(runtime);
    let mut streams = Vec::new();
    for partition in 0..partitions {
        let stream = plan.execute(partition, Arc::clone(&context))?;
        streams.push(stream.try_collect::<Vec<_>>());
    }
    let all = try_join_all(streams).await?;
    // Hardly a partition has no rows.
    assert!(spills(&plan) >= partitions * 9 / 10, "{} files", spills(&plan));
    Ok(all)
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_repartition_that_spills_every_batch_gives_each_row_once_in_its_partition() {
    let spill = PartdSpill::temporary().expect("a store can be made");
    for partitions in [1, 7, 100] {
        let runtime = runtime(Arc::new(GreedyMemoryPool::new(1)), &spill);
        let all = repartition(runtime, partitions).await.unwrap_or_else(|error| panic!("{error}"));
        let (mut ids, mut partition_of) = (Vec::<i64>::new(), HashMap::new());
        for (partition, batches) in all.iter().enumerate() {
            for batch in batches {
                ids.extend(batch.column(0).as_primitive::<Int64Type>().values());
                for key in batch.column(1).as_primitive::<Int64Type>().values() {
                    assert_eq!(*partition_of.entry(*key).or_insert(partition), partition);
                }
            }
        }
        ids.sort_unstable();
        assert!(ids.into_iter().eq(0..40_000));
    }
    assert_eq!(spill.stats().files, 0);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn queries_at_the_same_time_share_a_given_store() {
    let dir = tempfile::tempdir().expect("a directory can be made");
    let log = Arc::new(SegmentLog::open(dir.path().join("store")).expect("it is created"));
    let spill = PartdSpill::builder().store(log, ("engine", 1)).build().expect("the store is open");
    let plan = sorted(table(1, 50_000, 100));
    let expected = run(&plan, unlimited()).await.expect("it has all memory");
    let queries = (0..4).map(|_| {
        let (plan, context) = (sorted(table(1, 50_000, 100)), limited(3 << 20, &spill));
        tokio::spawn(async move { run(&plan, context).await })
    });
    for query in try_join_all(queries).await.expect("no query panics") {
        let actual = query.unwrap_or_else(|error| panic!("{error}"));
        assert!(actual == expected, "the rows differ");
    }
    assert!(spill.stats().written_bytes > 4 << 20 && spill.stats().files == 0);
}
