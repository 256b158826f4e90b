//! Tables, plans, limits, and child processes, for all tests.

use std::path::Path;
use std::process::{Command, Output};
use std::sync::Arc;

use datafusion_common::Result;
use datafusion_common::arrow::array::{ArrayRef, Int64Array, RecordBatch, StringViewArray};
use datafusion_common::arrow::compute::concat_batches;
use datafusion_execution::TaskContext;
use datafusion_execution::config::SessionConfig;
use datafusion_execution::disk_manager::DiskManagerBuilder;
use datafusion_execution::memory_pool::{FairSpillPool, MemoryPool};
use datafusion_execution::runtime_env::{RuntimeEnv, RuntimeEnvBuilder};
use datafusion_physical_expr::expressions::col;
use datafusion_physical_expr::{LexOrdering, PhysicalSortExpr};
use datafusion_physical_plan::sorts::sort::SortExec;
use datafusion_physical_plan::test::TestMemoryExec;
use datafusion_physical_plan::{ExecutionPlan, collect};
use partd_datafusion::PartdSpill;

/// The environment variable that makes a test do the part of its child process.
const CHILD: &str = "PARTD_DATAFUSION_CHILD";

/// A permutation of all numbers that looks random (the finalizer of splitmix64).
fn mix(n: u64) -> u64 {
    let n = n.wrapping_add(0x9e37_79b9_7f4a_7c15);
    let n = (n ^ (n >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    let n = (n ^ (n >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    n ^ (n >> 31)
}

/// Rows `id, k, v, s`: `id` counts them, `k` is one of `keys` keys.
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

/// A table of `count` rows in batches, in one partition.
pub(crate) fn table(seed: u64, count: u64, keys: u64) -> Arc<dyn ExecutionPlan> {
    let starts = (0..count).step_by(1024);
    let batches: Vec<_> =
        starts.map(|start| rows(seed, start..count.min(start + 1024), keys)).collect();
    let schema = batches[0].schema();
    TestMemoryExec::try_new_exec(&[batches], schema, None).expect("the batches have one schema")
}

/// Sorts a table by `k` and `id`.
pub(crate) fn sorted(table: Arc<dyn ExecutionPlan>) -> Arc<dyn ExecutionPlan> {
    let by =
        |name| PhysicalSortExpr::new_default(col(name, &table.schema()).expect("the table has it"));
    let order = LexOrdering::new([by("k"), by("id")]).expect("it is not empty");
    Arc::new(SortExec::new(order, table))
}

/// A runtime whose operators spill into `spill`.
pub(crate) fn runtime(pool: Arc<dyn MemoryPool>, spill: &PartdSpill) -> Arc<RuntimeEnv> {
    let disk = DiskManagerBuilder::default().with_temp_file_factory(Arc::new(spill.clone()));
    let builder = RuntimeEnvBuilder::new().with_memory_pool(pool);
    builder.with_disk_manager_builder(disk).build_arc().expect("the options are valid")
}

/// The context of a query in a runtime.
pub(crate) fn context(runtime: Arc<RuntimeEnv>) -> Arc<TaskContext> {
    let config =
        SessionConfig::new().with_batch_size(1024).with_sort_spill_reservation_bytes(256 << 10);
    Arc::new(TaskContext::default().with_session_config(config).with_runtime(runtime))
}

/// The context of a query with this much memory, which spills into `spill`.
pub(crate) fn limited(pool_bytes: usize, spill: &PartdSpill) -> Arc<TaskContext> {
    context(runtime(Arc::new(FairSpillPool::new(pool_bytes)), spill))
}

/// The context of a query with all memory that there is.
pub(crate) fn unlimited() -> Arc<TaskContext> {
    context(RuntimeEnvBuilder::new().build_arc().expect("the options are valid"))
}

/// The rows of a plan, as one batch.
pub(crate) async fn run(
    plan: &Arc<dyn ExecutionPlan>,
    context: Arc<TaskContext>,
) -> Result<RecordBatch> {
    let batches = collect(Arc::clone(plan), context).await?;
    Ok(concat_batches(&plan.schema(), &batches)?)
}

/// The spill files of an operator.
pub(crate) fn spills(plan: &dyn ExecutionPlan) -> usize {
    plan.metrics().and_then(|metrics| metrics.spill_count()).unwrap_or(0)
}

/// Whether this process is the child of the test `name`.
pub(crate) fn is_child(name: &str) -> bool {
    std::env::var(CHILD).is_ok_and(|child| child == name)
}

/// The command that runs the test `name` of this binary as a child, after the line `shell`.
pub(crate) fn child(name: &str, shell: &str, dir: &Path) -> Command {
    let mut command = Command::new("bash");
    command.arg("-c").arg(format!("{shell}\nexec \"$@\"")).arg("bash");
    command.arg(std::env::current_exe().expect("this binary has a path"));
    command.args([name, "--exact", "--nocapture", "--test-threads=1"]);
    command.env(CHILD, name).env("TMPDIR", dir);
    command
}

/// Fails if the child did, with what it said.
pub(crate) fn check(output: &Output) {
    let out = String::from_utf8_lossy(&output.stdout);
    let err = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{}\n{out}\n{err}", output.status);
    assert!(out.contains("1 passed"), "the child ran no test:\n{out}\n{err}");
}
