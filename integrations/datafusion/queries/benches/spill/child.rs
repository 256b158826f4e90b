//! One run: a query in a fresh process and a fresh directory, and what it reports.

use std::fmt;
use std::path::Path;
use std::process::{Command, ExitCode};
use std::sync::Arc;
use std::time::Instant;

use clap::ValueEnum;
use datafusion::error::{DataFusionError, Result};
use datafusion::execution::disk_manager::{DiskManagerBuilder, DiskManagerMode};
use datafusion::execution::memory_pool::FairSpillPool;
use datafusion::execution::runtime_env::RuntimeEnvBuilder;
use datafusion::physical_plan::{ExecutionPlan, execute_stream};
use datafusion::prelude::{SessionConfig, SessionContext};
use futures::StreamExt;
use partd_datafusion::PartdSpill;

use crate::query::Query;
use crate::rows::{Checksum, Order};
use crate::sampler::{Sampler, status, written_bytes};

const POOL_BYTES: usize = 300 << 20;
const THREADS: usize = 2;

/// Where the operators spill.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub(crate) enum Backend {
    /// DataFusion's own temporary files.
    Own,
    Partd,
}

impl Backend {
    pub(crate) fn name(self) -> &'static str {
        match self {
            Backend::Own => "own files",
            Backend::Partd => "partd",
        }
    }
}

/// The cost and the result of a run.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Report {
    pub(crate) rows: u64,
    pub(crate) checksum: u64,
    seconds: f64,
    rss_bytes: u64,
    anonymous_bytes: u64,
    spilled_bytes: u64,
    spill_files: u64,
    written_bytes: u64,
    disk_bytes: u64,
    descriptors: u64,
    spill_descriptors: u64,
    files: u64,
}

/// The name of a figure, its unit, and where it is.
type Figure = (&'static str, &'static str, fn(&Report) -> f64);

const MB: f64 = 1e6;

impl Report {
    pub(crate) const FIGURES: [Figure; 10] = [
        ("wall time", " s", |r| r.seconds),
        ("peak RSS", " MB", |r| r.rss_bytes as f64 / MB),
        ("of it anonymous", " MB", |r| r.anonymous_bytes as f64 / MB),
        ("bytes spilled", " MB", |r| r.spilled_bytes as f64 / MB),
        ("spill files", "", |r| r.spill_files as f64),
        ("bytes written", " MB", |r| r.written_bytes as f64 / MB),
        ("peak disk space", " MB", |r| r.disk_bytes as f64 / MB),
        ("peak open descriptors", "", |r| r.descriptors as f64),
        ("peak descriptors of spill files", "", |r| r.spill_descriptors as f64),
        ("peak files", "", |r| r.files as f64),
    ];

    /// The fields in the order in which a child prints them.
    fn fields(&mut self) -> [&mut u64; 11] {
        [
            &mut self.rows,
            &mut self.checksum,
            &mut self.rss_bytes,
            &mut self.anonymous_bytes,
            &mut self.spilled_bytes,
            &mut self.spill_files,
            &mut self.written_bytes,
            &mut self.disk_bytes,
            &mut self.descriptors,
            &mut self.spill_descriptors,
            &mut self.files,
        ]
    }
}

impl fmt::Display for Report {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (name, unit, figure) in Report::FIGURES {
            write!(f, "{name} {:.1}{unit}, ", figure(self))?;
        }
        write!(f, "{} rows, checksum {:016x}", self.rows, self.checksum)
    }
}

/// Runs a query in a child.
pub(crate) fn run(
    query: Query,
    backend: Backend,
    base: &Path,
    divide: u64,
) -> std::result::Result<Report, String> {
    let dir = tempfile::tempdir_in(base).map_err(|error| error.to_string())?;
    let mut child = Command::new(std::env::current_exe().map_err(|error| error.to_string())?);
    child.args(["--child", query.name(), "--divide", &divide.to_string(), "--backend"]);
    child.arg(match backend {
        Backend::Own => "own",
        Backend::Partd => "partd",
    });
    let output = child.arg("--dir").arg(dir.path()).output().map_err(|error| error.to_string())?;
    if !output.status.success() {
        return Err(format!("{}: {}", output.status, String::from_utf8_lossy(&output.stderr)));
    }
    parse(&String::from_utf8_lossy(&output.stdout)).ok_or_else(|| "its report is cut".to_owned())
}

fn parse(line: &str) -> Option<Report> {
    let mut words = line.split_whitespace();
    let mut report = Report { seconds: words.next()?.parse().ok()?, ..Report::default() };
    for field in report.fields() {
        *field = words.next()?.parse().ok()?;
    }
    Some(report)
}

/// The part of the child.
pub(crate) fn main(query: Query, backend: Backend, dir: &Path, divide: u64) -> ExitCode {
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(THREADS).build();
    let measured = match runtime {
        Ok(runtime) => runtime.block_on(measure(query, backend, dir, divide)),
        Err(error) => Err(error.into()),
    };
    match measured {
        Ok(mut report) => {
            print!("{}", report.seconds);
            for field in report.fields() {
                print!(" {field}");
            }
            println!();
            ExitCode::SUCCESS
        }
        Err(error) => {
            eprintln!("{error}");
            ExitCode::FAILURE
        }
    }
}

async fn measure(query: Query, backend: Backend, dir: &Path, divide: u64) -> Result<Report> {
    let disk = DiskManagerBuilder::default();
    let disk = match backend {
        Backend::Own => disk.with_mode(DiskManagerMode::Directories(vec![dir.to_owned()])),
        Backend::Partd => {
            disk.with_temp_file_factory(Arc::new(PartdSpill::builder().directory(dir).build()?))
        }
    };
    let runtime = RuntimeEnvBuilder::new()
        .with_memory_pool(Arc::new(FairSpillPool::new(POOL_BYTES)))
        .with_disk_manager_builder(disk)
        .build_arc()?;
    let config = SessionConfig::new()
        .with_target_partitions(THREADS)
        .set_bool("datafusion.optimizer.prefer_hash_join", false);
    let session = SessionContext::new_with_config_rt(config, runtime);
    query.register(&session, divide)?;

    let sampler = Sampler::start(dir);
    let start = Instant::now();
    let plan = session.sql(query.sql()).await?.create_physical_plan().await?;
    let mut stream = execute_stream(Arc::clone(&plan), session.task_ctx())?;
    let (mut checksum, mut order) = (Checksum::default(), Order::default());
    while let Some(batch) = stream.next().await {
        let batch = batch?;
        if query.is_ordered() && !order.is_kept_by(&batch) {
            return Err(DataFusionError::Internal("the rows are out of order".into()));
        }
        checksum.add(&batch);
    }
    drop(stream);
    let seconds = start.elapsed().as_secs_f64();
    let peaks = sampler.stop();
    let (spilled_bytes, spill_files) = spilled(&plan);
    if spill_files == 0 {
        return Err(DataFusionError::Internal("the query does not spill".into()));
    }
    Ok(Report {
        rows: checksum.rows,
        checksum: checksum.sum,
        seconds,
        rss_bytes: status("VmHWM:"),
        anonymous_bytes: peaks.anonymous_bytes,
        spilled_bytes,
        spill_files,
        written_bytes: written_bytes(),
        disk_bytes: peaks.disk_bytes,
        descriptors: peaks.descriptors,
        spill_descriptors: peaks.spill_descriptors,
        files: peaks.files,
    })
}

/// The bytes and the files that the operators of a plan have spilled.
fn spilled(plan: &Arc<dyn ExecutionPlan>) -> (u64, u64) {
    let metrics = plan.metrics();
    let own = metrics.map(|m| (m.spilled_bytes().unwrap_or(0), m.spill_count().unwrap_or(0)));
    let (bytes, files) = own.unwrap_or_default();
    plan.children()
        .into_iter()
        .map(spilled)
        .fold((bytes as u64, files as u64), |(bytes, files), (more_bytes, more_files)| {
            (bytes + more_bytes, files + more_files)
        })
}
