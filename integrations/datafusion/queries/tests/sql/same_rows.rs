//! Queries under memory limits give the answers of a run without limits, and spill through partd.

use std::sync::Arc;

use crate::common::{Spills, run, runtime, session, unlimited};
use datafusion::execution::memory_pool::{FairSpillPool, MemoryPool};
use partd_datafusion::PartdSpill;

/// Runs a query with and without a limit, and compares the rows, in order.
async fn same_with_a_limit(rows: u64, keys: u64, pool_bytes: usize, sql: &str) -> Spills {
    let (expected, unspilled) = run(&unlimited(rows, keys), sql).await.expect("it has all memory");
    assert!(expected.num_rows() > 1000, "the query has rows to compare");
    drop(unspilled);

    let dir = tempfile::tempdir().expect("a directory can be made");
    let spill = PartdSpill::builder().directory(dir.path()).build().expect("a store can be made");
    let pool: Arc<dyn MemoryPool> = Arc::new(FairSpillPool::new(pool_bytes));
    let session = session(runtime(Arc::clone(&pool), &spill), rows, keys);
    let (actual, spills) = run(&session, sql).await.unwrap_or_else(|error| panic!("{error}"));
    assert_eq!(actual.num_rows(), expected.num_rows());
    assert!(actual == expected, "the rows differ");
    let stats = spill.stats();
    println!("{stats:?}, {spills:?}");
    assert!(stats.written_bytes > pool_bytes as u64, "{stats:?}");
    assert_eq!((stats.files, stats.used_bytes), (0, 0), "the files of a finished query are gone");
    assert_eq!(pool.reserved(), 0);

    drop((session, spill));
    let left = std::fs::read_dir(dir.path()).expect("it is a directory").count();
    assert_eq!(left, 0, "the store is gone with its last user");
    spills
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_sort_that_spills_gives_the_same_rows_in_the_same_order() {
    let sql = "SELECT * FROM t ORDER BY k, id";
    let spills = same_with_a_limit(400_000, 5000, 16 << 20, sql).await;
    assert!(spills.of("SortExec") > 1, "{spills:?}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_aggregate_that_spills_gives_the_same_groups() {
    let sql =
        "SELECT id % 150000 AS g, count(*), sum(v), min(s), max(k) FROM t GROUP BY 1 ORDER BY 1";
    let spills = same_with_a_limit(400_000, 5000, 16 << 20, sql).await;
    assert!(spills.of("AggregateExec") > 1, "{spills:?}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_sort_merge_join_that_spills_its_buffered_side_gives_the_same_pairs() {
    // Few keys, so that the rows of one key do not fit into memory.
    let sql = "SELECT a.k, a.id AS a, count(b.id), sum(b.v), max(b.s) FROM t a JOIN u b ON a.k = b.k \
               WHERE a.id < 2000 GROUP BY 1, 2 ORDER BY 1, 2";
    let spills = same_with_a_limit(200_000, 4, 16 << 20, sql).await;
    assert!(spills.of("SortMergeJoinExec") > 1, "{spills:?}");
    assert!(spills.of("SortExec") > 1, "{spills:?}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn spills_may_be_compressed() {
    let dir = tempfile::tempdir().expect("a directory can be made");
    let spill = PartdSpill::builder().directory(dir.path()).build().expect("a store can be made");
    let sql = "SELECT * FROM t ORDER BY k, id";
    let (expected, _) = run(&unlimited(200_000, 100), sql).await.expect("it has all memory");
    let mut written = Vec::new();
    for compression in ["uncompressed", "lz4_frame", "zstd"] {
        let pool = Arc::new(FairSpillPool::new(8 << 20));
        let session = session(runtime(pool, &spill), 200_000, 100);
        let set = format!("SET datafusion.execution.spill_compression = '{compression}'");
        session.sql(&set).await.expect("the option is known");
        let before = spill.stats().written_bytes;
        let (actual, _) = run(&session, sql).await.unwrap_or_else(|error| panic!("{error}"));
        assert!(actual == expected, "the rows differ with {compression}");
        written.push(spill.stats().written_bytes - before);
    }
    assert!(written[1] < written[0] && written[2] < written[0] && written[2] > 0, "{written:?}");
}
