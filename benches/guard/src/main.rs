//! Counts the instructions of partd's hot paths under callgrind and compares them with the
//! committed figures, so that a slower path is noticed even on a machine whose timings are
//! unreliable.
//!
//! `partd-guard` counts and compares; `--update` writes `figures.txt` anew; `--repeat N` counts N
//! times and prints the spread. `partd-guard path NAME` is what valgrind runs: it prepares the path
//! and then runs it once in [`guard_region`](paths::guard_region), the only part that is counted.
//! Instructions of the kernel, such as page faults and writes, are not.

mod figures;
mod paths;

use std::process::{Command, ExitCode, Stdio};
use std::sync::Mutex;
use std::{env, thread};

use figures::Figures;
use paths::PATHS;

/// How far a path may move, as a share of its figure.
const TOLERANCE: f64 = 0.03;
/// How far repeated counts may lie apart; the rest of the tolerance is for changes of the code.
const SPREAD: f64 = 0.01;

fn main() -> ExitCode {
    let arguments: Vec<String> = env::args().skip(1).collect();
    let arguments: Vec<&str> = arguments.iter().map(String::as_str).collect();
    let done = match arguments[..] {
        ["path", name] => paths::run(name).map(|()| true),
        [] => guard(1, false),
        ["--update"] => guard(3, true),
        ["--repeat", times] => match times.parse() {
            Ok(times @ 1..=100) => guard(times, false),
            _ => Err(format!("--repeat {times}: give a number from 1 to 100")),
        },
        _ => Err("usage: run [--update | --repeat N]".to_owned()),
    };
    match done {
        Ok(true) => ExitCode::SUCCESS,
        Ok(false) => ExitCode::FAILURE,
        Err(error) => {
            eprintln!("error: {error}");
            ExitCode::FAILURE
        }
    }
}

/// Counts every path `times` times, and compares or updates the figures. Returns false if a check
/// failed.
fn guard(times: usize, update: bool) -> Result<bool, String> {
    let counts = count_all(times)?;
    let mut is_steady = true;
    let mut medians = Vec::new();
    for (path, mut counts) in PATHS.iter().zip(counts) {
        counts.sort_unstable();
        let (min, max) = (counts[0], counts[counts.len() - 1]);
        let spread = (max - min) as f64 / min as f64;
        if times > 1 {
            println!("{:<24} {times} counts, spread {:.3} %", path.name, spread * 100.0);
        }
        is_steady &= spread <= SPREAD;
        medians.push((path.name.to_owned(), counts[counts.len() / 2]));
    }
    if !is_steady {
        println!("The counts of a path lie more than {} % apart.", SPREAD * 100.0);
    }
    let counted = Figures { environment: figures::environment()?, counts: medians };
    if update {
        counted.write()?;
        println!("figures.txt is written");
        return Ok(is_steady);
    }
    let committed = Figures::read()?;
    if committed.environment != counted.environment {
        print!("{}", counted.elsewhere(&committed));
        // With a pinned toolchain, the figures of another one are a mistake.
        let must_agree = env::var("CI").is_ok_and(|ci| ci == "true") && figures::is_pinned();
        return Ok(!must_agree && is_steady);
    }
    let (text, is_within) = counted.compare(&committed, TOLERANCE);
    print!("{text}");
    Ok(is_within && is_steady)
}

/// Counts every path `times` times, on all cores.
fn count_all(times: usize) -> Result<Vec<Vec<u64>>, String> {
    let jobs = (0..times).flat_map(|_| 0..PATHS.len());
    let (jobs, counts) = (Mutex::new(jobs), Mutex::new(vec![Vec::new(); PATHS.len()]));
    let work = || -> Result<(), String> {
        loop {
            let job = jobs.lock().map_err(|error| error.to_string())?.next();
            let Some(path) = job else { return Ok(()) };
            let count = count(PATHS[path].name)?;
            counts.lock().map_err(|error| error.to_string())?[path].push(count);
        }
    };
    let workers = thread::available_parallelism().map_or(1, usize::from);
    thread::scope(|scope| {
        let workers: Vec<_> = (0..workers).map(|_| scope.spawn(work)).collect();
        workers.into_iter().try_for_each(|worker| match worker.join() {
            Ok(done) => done,
            Err(_) => Err("a thread has panicked".to_owned()),
        })
    })?;
    counts.into_inner().map_err(|error| error.to_string())
}

/// Runs one path under callgrind.
fn count(name: &str) -> Result<u64, String> {
    let this = env::current_exe().map_err(|error| error.to_string())?;
    let out = Command::new("valgrind")
        .args(["--tool=callgrind", "--toggle-collect=guard_region"])
        .arg("--callgrind-out-file=/dev/null")
        .arg(this)
        .args(["path", name])
        // Reads stay on the thread that is counted.
        .env("RAYON_NUM_THREADS", "1")
        .stdin(Stdio::null())
        .output()
        .map_err(|error| format!("valgrind: {error}"))?;
    let text = String::from_utf8_lossy(&out.stderr);
    let count = text.lines().find_map(|line| line.split_once("Collected :")?.1.trim().parse().ok());
    match count {
        Some(count) if out.status.success() && count > 0 => Ok(count),
        _ => Err(format!("{name}: {}; valgrind says:\n{text}", out.status)),
    }
}
