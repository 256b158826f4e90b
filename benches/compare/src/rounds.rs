//! The comparison: every engine once in each round, workload by workload.

use std::path::Path;
use std::time::Duration;

use anyhow::{Result, ensure};

use crate::child::{Outcome, Run};
use crate::engine::{ENTRIES, Entry, Start};
use crate::python::Python;
use crate::samples::{Samples, rate};
use crate::workload::{Workload, create_pool};

/// What to compare.
#[derive(Debug)]
pub(crate) struct Plan {
    pub(crate) engines: Vec<&'static Entry>,
    pub(crate) workloads: Vec<Workload>,
    pub(crate) rounds: usize,
    /// The threads of the parallel gets.
    pub(crate) threads: usize,
    /// A run that takes longer is not repeated in later rounds.
    pub(crate) once_above: Duration,
    /// A run that takes longer is stopped.
    pub(crate) timeout: Duration,
}

/// The figures of an engine on a workload, in GiB/s.
#[derive(Clone, Debug, Default)]
pub(crate) struct Cell {
    pub(crate) append: Samples,
    /// On one thread.
    pub(crate) get_one: Samples,
    /// On all threads.
    pub(crate) get_all: Samples,
    /// Why there are no figures.
    pub(crate) why_not: Option<String>,
    is_slow: bool,
}

/// The figures of a workload, one cell for each engine of the plan.
#[derive(Debug)]
pub(crate) struct Row {
    pub(crate) workload: Workload,
    pub(crate) cells: Vec<Cell>,
}

impl Plan {
    /// Keeps the engines and workloads that are named; all engines or all workloads, if none is.
    pub(crate) fn select(&mut self, only: &[String]) -> Result<()> {
        let engines: Vec<&str> = self.engines.iter().map(|entry| entry.slug).collect();
        let workloads: Vec<String> = self.workloads.iter().map(Workload::slug).collect();
        for text in only {
            ensure!(
                engines.contains(&text.as_str()) || workloads.contains(text),
                "--only {text}: not one of {}, {}",
                engines.join(", "),
                workloads.join(", ")
            );
        }
        let named = |slug: &str| only.iter().any(|text| slug == text);
        if engines.into_iter().any(named) {
            self.engines.retain(|entry| named(entry.slug));
        }
        if workloads.iter().any(|slug| named(slug)) {
            self.workloads.retain(|workload| named(&workload.slug()));
        }
        Ok(())
    }

    pub(crate) fn all_engines() -> Vec<&'static Entry> {
        ENTRIES.iter().collect()
    }
}

/// Measures everything below `base`.
pub(crate) fn compare(plan: &Plan, base: &Path, python: &Python) -> Result<Vec<Row>> {
    let pool_path = base.join("pool");
    let pool = create_pool(&pool_path)?;
    let mut rows = Vec::new();
    for &workload in &plan.workloads {
        let expected = workload.expected(&pool);
        let timeout = plan.timeout;
        let run = Run { workload, expected: &expected, base, pool: &pool_path, timeout };
        let mut cells = vec![Cell::default(); plan.engines.len()];
        for round in 0..plan.rounds {
            eprintln!("{}, round {} of {}", workload.name(), round + 1, plan.rounds);
            // Odd rounds go in the opposite order, so that no engine always follows the same other
            // one.
            for i in 0..plan.engines.len() {
                let i = if round % 2 == 0 { i } else { plan.engines.len() - 1 - i };
                cells[i].measure(&run, plan.engines[i], plan, python)?;
            }
        }
        rows.push(Row { workload, cells });
    }
    Ok(rows)
}

impl Cell {
    /// Measures an engine on all threads and on one.
    fn measure(
        &mut self,
        run: &Run<'_>,
        entry: &Entry,
        plan: &Plan,
        python: &Python,
    ) -> Result<()> {
        if self.why_not.is_some() || self.is_slow {
            return Ok(());
        }
        let (all, once_above) = (plan.threads, plan.once_above);
        // Python reads on one thread in any case, and a limit may not read.
        let is_single = matches!(entry.start, Start::Python(_)) || all == 1;
        let threads: &[usize] = if is_single || !entry.reads { &[1] } else { &[all, 1] };
        for &threads in threads {
            match run.measure(entry, threads, python)? {
                Outcome::Measured(times) => {
                    let bytes = run.workload.bytes();
                    self.append.push(rate(bytes, times.append));
                    if let Some(get) = times.get {
                        let get = rate(bytes, get);
                        if threads == 1 {
                            self.get_one.push(get);
                        }
                        if threads == all || is_single {
                            self.get_all.push(get);
                        }
                    }
                    let whole = times.append + times.get.unwrap_or_default();
                    self.is_slow |= whole > once_above;
                }
                Outcome::Unsupported(why) => {
                    self.why_not = Some(why);
                    return Ok(());
                }
                Outcome::TooSlow(limit) => {
                    self.why_not = Some(format!("more than {} s", limit.as_secs()));
                    return Ok(());
                }
            }
        }
        Ok(())
    }
}
