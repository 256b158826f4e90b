//! A hostile day: three processes append, read, pop and compact while a fourth randomly removes,
//! renames, copies and restores the files and directories of their stores. Each operation ends with
//! the right bytes or with an error that names the store: no hang, no panic, no signal, no wrong
//! byte.
//!
//! | file | contents |
//! |---|---|
//! | `vandal` | the tampering with files and directories |
//! | `worker` | the use of the stores, and the checks of their values |
//!
//! The long run is
//! `PARTD_HOSTILE_SECONDS=600 cargo test --release --test processes hostile_day:: -- --nocapture`.
//! The printed seed repeats the choices but not the timing.

pub(crate) mod vandal;
pub(crate) mod worker;

use std::collections::BTreeMap;
use std::io::BufRead;
use std::path::Path;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use partd_testkit::children::{Child, from_env, seed};

use self::worker::Worker;

const WORKERS: u64 = 3;
/// The longest time for an operation: an open waits up to half a minute for another one, and the
/// machine may be busy.
const HANG: Duration = Duration::from_secs(120);

/// The reports of a child.
#[derive(Debug)]
struct Heard {
    last: Instant,
    /// Counters by name, which the child reports at its end.
    counts: BTreeMap<String, u64>,
}

/// In a child: whether the parent has asked it to end.
fn asked_to_end() -> Arc<AtomicBool> {
    let end = Arc::new(AtomicBool::new(false));
    let set = Arc::clone(&end);
    std::thread::spawn(move || {
        std::io::stdin().lock().lines().for_each(drop);
        set.store(true, Ordering::Relaxed);
    });
    end
}

fn start(role: &str, base: &Path, number: u64, seed: u64) -> (Child, Arc<Mutex<Heard>>) {
    let heard = Arc::new(Mutex::new(Heard { last: Instant::now(), counts: BTreeMap::new() }));
    let hears = Arc::clone(&heard);
    let arguments = [base.display().to_string(), number.to_string(), seed.to_string()];
    let child = Child::start(role, &arguments, move |line| {
        let mut heard = hears.lock().unwrap_or_else(PoisonError::into_inner);
        heard.last = Instant::now();
        if let Some((count, name)) = line.split_once(' ')
            && let Ok(count) = count.parse::<u64>()
        {
            heard.counts.insert(name.to_owned(), count);
        }
    });
    (child, heard)
}

#[test]
fn tampering_with_the_files_leads_to_right_bytes_or_clear_errors() {
    let seconds = from_env("PARTD_HOSTILE_SECONDS", 10);
    let seed = seed();
    let dir = tempfile::tempdir().expect("a temporary directory can be made");
    let base = dir.path().canonicalize().expect("it is there");
    let mut children = vec![start("vandal", &base, 0, seed)];
    children.extend((1..=WORKERS).map(|number| start("worker", &base, number, seed)));
    let since = Instant::now();
    while since.elapsed() < Duration::from_secs(seconds) {
        std::thread::sleep(Duration::from_millis(100));
        for (number, (child, heard)) in children.iter_mut().enumerate() {
            assert!(!child.has_ended(), "process {number} has failed; see its output above");
            let quiet = heard.lock().expect("no thread panics").last.elapsed();
            assert!(quiet < HANG, "process {number} hangs: it was silent for {quiet:?}");
        }
    }
    let mut totals = [BTreeMap::new(), BTreeMap::new()];
    for (number, (child, heard)) in children.into_iter().enumerate() {
        child.finish();
        for (name, count) in &heard.lock().expect("no thread panics").counts {
            let total: &mut BTreeMap<String, u64> = &mut totals[number.min(1)];
            let sum = total.entry(name.clone()).or_default();
            let is_longest = name.starts_with("ms ");
            *sum = if is_longest { *count.max(sum) } else { *sum + count };
        }
    }
    let [acts, operations] = &totals;
    for (name, count) in acts.iter().chain(operations) {
        println!("{count:>9} {name}");
    }
    let sum = |of: &BTreeMap<String, u64>, prefix: &str| -> u64 {
        of.iter().filter(|(name, _)| name.starts_with(prefix)).map(|(_, count)| count).sum()
    };
    println!(
        "{seconds} s: {} hostile acts; {} operations that succeeded, {} that gave errors; 0 hangs",
        sum(acts, "act "),
        sum(operations, "ok "),
        sum(operations, "error ")
    );
    assert!(sum(acts, "act ") > seconds, "there were no hostile acts");
    assert!(sum(operations, "ok append") > seconds, "nothing was appended");
    // A later process reads the right bytes or gets an error.
    Worker::new(&base, WORKERS + 1, seed).look_around();
}
