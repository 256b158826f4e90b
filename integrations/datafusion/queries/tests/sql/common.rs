//! Tables, and sessions with and without limits.

use std::sync::Arc;

use datafusion::arrow::array::{ArrayRef, Int64Array, RecordBatch, StringViewArray};
use datafusion::arrow::compute::concat_batches;
use datafusion::datasource::MemTable;
use datafusion::error::Result;
use datafusion::execution::disk_manager::DiskManagerBuilder;
use datafusion::execution::memory_pool::{MemoryPool, UnboundedMemoryPool};
use datafusion::execution::runtime_env::{RuntimeEnv, RuntimeEnvBuilder};
use datafusion::physical_plan::{ExecutionPlan, collect};
use datafusion::prelude::{SessionConfig, SessionContext};
use partd_datafusion::PartdSpill;

/// A random permutation of all numbers (the finalizer of splitmix64).
pub(crate) fn mix(n: u64) -> u64 {
    let n = n.wrapping_add(0x9e37_79b9_7f4a_7c15);
    let n = (n ^ (n >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    let n = (n ^ (n >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    n ^ (n >> 31)
}

/// Rows `id, k, v, s`: `id` is unique, `k` one of `keys` keys.
pub(crate) fn rows(seed: u64, rows: std::ops::Range<u64>, keys: u64) -> RecordBatch {
    let random = |n: u64| mix(n ^ (seed << 40));
    let ids = Int64Array::from_iter_values(rows.clone().map(|n| n as i64));
    let ks = Int64Array::from_iter_values(rows.clone().map(|n| (random(n) % keys) as i64));
    let vs = Int64Array::from_iter_values(rows.clone().map(|n| (random(n) >> 40) as i64));
    let ss = StringViewArray::from_iter_values(rows.map(|n| match n % 3 {
        0 => format!("short {}", random(n) % 100),
        _ => format!("a string that is not inlined: {}", random(n)),
    }));
    let columns: [(&str, ArrayRef); 4] =
        [("id", Arc::new(ids)), ("k", Arc::new(ks)), ("v", Arc::new(vs)), ("s", Arc::new(ss))];
    RecordBatch::try_from_iter(columns).expect("the columns have one length")
}

/// `count` rows in batches, in two partitions of the table.
pub(crate) fn table(seed: u64, count: u64, keys: u64) -> Vec<Vec<RecordBatch>> {
    let mut partitions = vec![Vec::new(), Vec::new()];
    for (i, start) in (0..count).step_by(1024).enumerate() {
        partitions[i % 2].push(rows(seed, start..count.min(start + 1024), keys));
    }
    partitions
}

/// A runtime whose operators spill into `spill`.
pub(crate) fn runtime(pool: Arc<dyn MemoryPool>, spill: &PartdSpill) -> Arc<RuntimeEnv> {
    let disk = DiskManagerBuilder::default().with_temp_file_factory(Arc::new(spill.clone()));
    let builder = RuntimeEnvBuilder::new().with_memory_pool(pool);
    builder.with_disk_manager_builder(disk).build_arc().expect("the options are valid")
}

/// A session with the tables `t` and `u`, over a runtime.
pub(crate) fn session(runtime: Arc<RuntimeEnv>, rows: u64, keys: u64) -> SessionContext {
    let config = SessionConfig::new()
        .with_batch_size(1024)
        .with_target_partitions(2)
        // A sorter reserves this much before it begins; the default does not fit into these pools.
        .with_sort_spill_reservation_bytes(512 << 10)
        .set_bool("datafusion.optimizer.prefer_hash_join", false);
    let session = SessionContext::new_with_config_rt(config, runtime);
    for (seed, name) in [(1, "t"), (2, "u")] {
        let partitions = table(seed, rows, keys);
        let table = MemTable::try_new(partitions[0][0].schema(), partitions).expect("one schema");
        session.register_table(name, Arc::new(table)).expect("the name is new");
    }
    session
}

/// A session without limits.
pub(crate) fn unlimited(rows: u64, keys: u64) -> SessionContext {
    let builder =
        RuntimeEnvBuilder::new().with_memory_pool(Arc::new(UnboundedMemoryPool::default()));
    session(builder.build_arc().expect("the options are valid"), rows, keys)
}

/// The rows of a query as one batch, and the spill files of each kind of operator.
pub(crate) async fn run(session: &SessionContext, sql: &str) -> Result<(RecordBatch, Spills)> {
    let plan = session.sql(sql).await?.create_physical_plan().await?;
    let batches = collect(Arc::clone(&plan), session.task_ctx()).await?;
    let rows = concat_batches(&plan.schema(), &batches)?;
    let mut spills = Spills::default();
    spills.count(&plan);
    Ok((rows, spills))
}

/// Spill files by operator.
#[derive(Debug, Default)]
pub(crate) struct Spills(Vec<(String, usize)>);

impl Spills {
    fn count(&mut self, plan: &Arc<dyn ExecutionPlan>) {
        let spills = plan.metrics().and_then(|metrics| metrics.spill_count()).unwrap_or(0);
        self.0.push((plan.name().to_owned(), spills));
        plan.children().into_iter().for_each(|child| self.count(child));
    }

    /// Those of the operators with this name.
    pub(crate) fn of(&self, name: &str) -> usize {
        self.0.iter().filter(|(operator, _)| operator == name).map(|(_, spills)| spills).sum()
    }
}
