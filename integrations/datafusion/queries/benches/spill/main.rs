//! Compares DataFusion's own spill files with partd: a sort-merge join, a sort and an aggregate that
//! need more memory than they have.
//!
//! `cargo bench -p partd-datafusion-queries` runs everything and prints the table of the README. Each run is a
//! process of its own in a fresh directory, and the two sides alternate. All runs of a query must
//! return the same rows: their number, a checksum, and for the sort their order are compared.

mod child;
mod query;
mod rows;
mod sampler;

use std::path::PathBuf;
use std::process::ExitCode;

use clap::Parser;

use crate::child::{Backend, Report};
use crate::query::Query;

/// Compares DataFusion's own spill files with partd.
#[derive(Debug, Parser)]
struct Arguments {
    /// Rounds, in each of which every query runs once on each side.
    #[arg(long, default_value_t = 3)]
    rounds: usize,
    /// Only these queries.
    #[arg(long, value_enum, value_delimiter = ',')]
    only: Vec<Query>,
    /// Divides the number of rows.
    #[arg(long, default_value_t = 1)]
    divide: u64,
    /// Where the directories of the runs are made. The default is the directory for temporary files.
    #[arg(long)]
    dir: Option<PathBuf>,
    /// Runs this query in this process, and prints what it took.
    #[arg(long, hide = true, requires = "backend")]
    child: Option<Query>,
    #[arg(long, hide = true)]
    backend: Option<Backend>,
    /// Accepted because `cargo bench` passes it to every benchmark.
    #[arg(long = "bench", hide = true)]
    _bench: bool,
}

fn main() -> ExitCode {
    let arguments = Arguments::parse();
    let dir = arguments.dir.clone().unwrap_or_else(std::env::temp_dir);
    if let (Some(query), Some(backend)) = (arguments.child, arguments.backend) {
        return child::main(query, backend, &dir, arguments.divide);
    }
    let queries = match &arguments.only[..] {
        [] => &Query::ALL[..],
        only => only,
    };
    println!("load average before: {}", sampler::load());
    let mut is_right = true;
    for &query in queries {
        let mut reports: [Vec<Report>; 2] = [Vec::new(), Vec::new()];
        for round in 0..arguments.rounds {
            let mut order = [Backend::Own, Backend::Partd];
            if round % 2 == 1 {
                order.reverse();
            }
            for backend in order {
                match child::run(query, backend, &dir, arguments.divide) {
                    Ok(report) => {
                        println!("{} {}: {report}", query.name(), backend.name());
                        reports[backend as usize].push(report);
                    }
                    Err(why) => {
                        println!("{} {}: failed: {why}", query.name(), backend.name());
                        is_right = false;
                    }
                }
            }
        }
        let mut results = reports.iter().flatten().map(|report| (report.rows, report.checksum));
        if let Some(first) = results.next()
            && results.any(|result| result != first)
        {
            println!("{}: the results differ", query.name());
            is_right = false;
        }
        table(query, &reports);
    }
    println!("load average after: {}", sampler::load());
    if is_right { ExitCode::SUCCESS } else { ExitCode::FAILURE }
}

/// Prints the lines of a query: the median of each figure.
fn table(query: Query, reports: &[Vec<Report>; 2]) {
    let [own, partd] = reports;
    if own.is_empty() || partd.is_empty() {
        return;
    }
    println!("\n| {} | own files | partd | own ÷ partd |", query.name());
    println!("|---|--:|--:|--:|");
    for (name, unit, figure) in Report::FIGURES {
        let (own, partd) = (median(own, figure), median(partd, figure));
        let (digits, ratio) = (usize::from(unit == " s"), own / partd);
        println!("| {name} | {own:.digits$}{unit} | {partd:.digits$}{unit} | {ratio:.2} |");
    }
    println!();
}

fn median(reports: &[Report], figure: fn(&Report) -> f64) -> f64 {
    let mut all: Vec<f64> = reports.iter().map(figure).collect();
    all.sort_by(f64::total_cmp);
    match all.len() {
        len if len % 2 == 1 => all[len / 2],
        len => f64::midpoint(all[len / 2 - 1], all[len / 2]),
    }
}
