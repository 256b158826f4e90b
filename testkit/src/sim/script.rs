//! Workloads as data, and how they run: several processes on one disk, in one order, any of which
//! can be stopped or killed after any of its operations. After each step, every running process
//! must see the same history.

use std::collections::BTreeMap;
use std::fmt;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Arc;
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use partd::{Durability, Error, Key, Partd, SegmentLog};

use super::disk::{Defect, Event, Fate, Record, SimDisk};
use super::image::Image;
use super::oracle::{Op, Oracle, batch};
use super::{STORE, Violation, backup_dirs, options};

/// An API call.
#[derive(Clone)]
pub enum Call {
    Open,
    Write {
        ops: Vec<Op>,
        durable: bool,
    },
    Pop {
        keys: Vec<String>,
    },
    Sync,
    Compact,
    /// Backs up the store into the directory of this number, which must be new.
    Backup(u8),
    /// Closes the handle; the process's next call opens another.
    Close,
}

/// A step of a workload, by one process.
#[derive(Clone)]
pub enum Step {
    Call(u8, Call),
    /// Stops the process in a call, right after the operation of this number.
    Stop(u8, u64, Call),
    /// Resumes a stopped process until the end of its call.
    Resume(u8),
    /// Kills the process; the next call under its number is made by a new process.
    Kill(u8),
}

impl fmt::Debug for Call {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Call::Open => write!(f, "open"),
            Call::Write { ops, durable: true } => write!(f, "durable {ops:?}"),
            Call::Write { ops, durable: false } => write!(f, "{ops:?}"),
            Call::Pop { keys } => write!(f, "pop {keys:?}"),
            Call::Sync => write!(f, "sync"),
            Call::Compact => write!(f, "compact"),
            Call::Backup(number) => write!(f, "backup {number}"),
            Call::Close => write!(f, "close"),
        }
    }
}

impl fmt::Debug for Step {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Step::Call(by, call) => write!(f, "{by}: {call:?}"),
            Step::Stop(by, at, call) => {
                write!(f, "{by}: stopped at its operation {at} of {call:?}")
            }
            Step::Resume(by) => write!(f, "{by}: resumes"),
            Step::Kill(by) => write!(f, "{by}: killed"),
        }
    }
}

/// A finished run of a workload.
#[derive(Debug)]
pub struct Recording {
    pub disk: SimDisk,
    pub log: Vec<Record>,
    /// The operations of each batch of the workload.
    pub batches: Vec<Vec<Op>>,
    /// Whether every call that was to be stopped was.
    pub stopped: bool,
}

type Log = Arc<SegmentLog<SimDisk>>;
type Outcome = Result<(Log, Vec<Vec<u8>>), Error>;

/// A process with its handle.
struct Client {
    disk: SimDisk,
    log: Option<Log>,
    /// The thread of the call in which the process is stopped, and the batch that the call writes.
    stopped: Option<(JoinHandle<Option<Outcome>>, Call, Option<usize>)>,
}

struct Run {
    disk: SimDisk,
    clients: BTreeMap<u8, Client>,
    graves: Vec<Client>,
    batches: Vec<Vec<Op>>,
    oracle: Oracle,
    taken: Vec<Option<usize>>,
    visible: u64,
    /// The sequence number of the last acknowledged batch.
    acknowledged: u64,
    log_at: usize,
    stopped: bool,
}

/// Runs a workload on a disk that begins with `image`, which must be blank.
pub fn run(steps: &[Step], seed: u64, defect: Option<Defect>) -> Result<Recording, Violation> {
    let disk = SimDisk::boot(&Image::blank(), seed, defect);
    let mut run = Run {
        disk: disk.clone(),
        clients: BTreeMap::new(),
        graves: Vec::new(),
        batches: Vec::new(),
        oracle: Oracle::default(),
        taken: Vec::new(),
        visible: 0,
        acknowledged: 0,
        log_at: 0,
        stopped: true,
    };
    let done = steps.iter().try_for_each(|step| {
        run.step(step).and_then(|()| run.judge()).map_err(|violation| Violation {
            text: format!("at {step:?}: {}", violation.text),
            ..violation
        })
    });
    let log = disk.log();
    run.bury();
    done?;
    Ok(Recording { disk, log, batches: run.batches, stopped: run.stopped })
}

/// Makes a call, on the process's own thread or on the thread of the test.
fn perform(
    disk: &SimDisk,
    log: Option<Log>,
    call: &Call,
    own: Option<(usize, Vec<Op>)>,
) -> Outcome {
    let open = || {
        disk.set_opening(true);
        let opened = options().open_on(disk.clone(), STORE);
        disk.set_opening(false);
        opened.map(Arc::new)
    };
    disk.begin(None);
    let log = log.map_or_else(open, Ok)?;
    disk.begin(own.as_ref().map(|(number, _)| *number));
    let mut popped = Vec::new();
    match (call, &own) {
        (Call::Write { durable, .. }, Some((_, ops))) => {
            let durability = if *durable { Durability::Durable } else { Durability::Plain };
            log.write(&batch(ops), durability)?;
        }
        (Call::Pop { keys }, _) => {
            let keys: Vec<Key> = keys.iter().map(|key| Key::from(key.as_str())).collect();
            popped = log.take(&keys)?;
        }
        (Call::Sync, _) => log.sync()?,
        (Call::Compact, _) => drop(log.compact()?),
        (Call::Backup(number), _) => {
            let dir = backup_dirs::dir(*number);
            let made = log.backup(&dir)?;
            disk.backed_up(&dir, made.seq.get());
        }
        _ => {}
    }
    disk.end(matches!(call, Call::Sync | Call::Write { durable: true, .. }));
    Ok((log, popped))
}

/// The longest that a call can take beside stopped or dead processes. A sync supersedes a stopped
/// leader after half a second; the rest is a margin for a busy machine.
const DELAY_MAX: Duration = Duration::from_secs(6);

impl Run {
    fn client(&mut self, by: u8) -> &mut Client {
        let disk = &self.disk;
        let new = || Client { disk: disk.new_process(), log: None, stopped: None };
        self.clients.entry(by).or_insert_with(new)
    }

    /// The batch that a call will write.
    fn batch_of(&mut self, call: &Call) -> Option<(usize, Vec<Op>)> {
        let ops = match call {
            Call::Write { ops, .. } => ops.clone(),
            Call::Pop { keys } => {
                let mut keys = keys.clone();
                keys.sort_unstable();
                keys.dedup();
                keys.into_iter().map(Op::Delete).collect()
            }
            Call::Open | Call::Sync | Call::Compact | Call::Backup(_) | Call::Close => {
                return None;
            }
        };
        self.batches.push(ops.clone());
        Some((self.batches.len() - 1, ops))
    }

    fn step(&mut self, step: &Step) -> Result<(), Violation> {
        match step {
            // In a shortened workload, a step that no longer makes sense does nothing.
            Step::Call(by, _) | Step::Stop(by, ..) if self.client(*by).stopped.is_some() => Ok(()),
            Step::Call(by, Call::Close) => {
                if let Some(client) = self.clients.remove(by) {
                    drop(client.log);
                }
                Ok(())
            }
            Step::Call(by, call) => {
                let own = self.batch_of(call);
                let number = own.as_ref().map(|(number, _)| *number);
                let client = self.client(*by);
                let since = Instant::now();
                let outcome = perform(&client.disk, client.log.clone(), call, own);
                // An opener can legitimately wait for another one.
                if since.elapsed() > DELAY_MAX && !matches!(call, Call::Open) {
                    let text = format!("{call:?} took {:?}", since.elapsed());
                    return Err(Violation::new("live", text));
                }
                self.returned(*by, call, number, outcome)
            }
            Step::Stop(by, at, call) => self.stop(*by, *at, call),
            Step::Resume(by) => {
                let client = self.client(*by);
                let Some((thread, call, number)) = client.stopped.take() else { return Ok(()) };
                client.disk.resume();
                match thread.join().ok().flatten() {
                    Some(outcome) => self.returned(*by, &call, number, outcome),
                    None => Err(Violation::new("live", "the call panicked")),
                }
            }
            Step::Kill(by) => {
                if let Some(client) = self.clients.remove(by) {
                    client.disk.kill();
                    self.graves.push(client);
                }
                Ok(())
            }
        }
    }

    fn stop(&mut self, by: u8, at: u64, call: &Call) -> Result<(), Violation> {
        let nobody_is_there = self.clients.values().all(|client| client.log.is_none());
        if nobody_is_there && !matches!(call, Call::Open) {
            // The first opener holds the store until recovery is complete, and others wait for it.
            // So a process that is to be stopped in a later call opens the store first.
            self.step(&Step::Call(by, Call::Open))?;
        }
        let own = self.batch_of(call);
        let number = own.as_ref().map(|(number, _)| *number);
        let client = self.client(by);
        let (disk, log, its_call) = (client.disk.clone(), client.log.clone(), call.clone());
        disk.stop_at(at);
        let thread = std::thread::spawn(move || {
            let call = || perform(&disk, log, &its_call, own);
            let outcome = catch_unwind(AssertUnwindSafe(call)).ok();
            disk.finished();
            outcome
        });
        if client.disk.wait() == Fate::Stopped {
            client.stopped = Some((thread, call.clone(), number));
            return Ok(());
        }
        self.stopped = false;
        match thread.join().ok().flatten() {
            Some(outcome) => self.returned(by, call, number, outcome),
            None => Err(Violation::new("live", "the call panicked")),
        }
    }

    /// Processes the result of a call.
    fn returned(
        &mut self,
        by: u8,
        call: &Call,
        number: Option<usize>,
        outcome: Outcome,
    ) -> Result<(), Violation> {
        let (log, popped) = outcome.map_err(|e| Violation::new("live", e.to_string()))?;
        self.client(by).log = Some(log);
        self.follow()?;
        let Some(number) = number else { return Ok(()) };
        let Some(place) = self.taken.iter().position(|taken| *taken == Some(number)) else {
            return Err(Violation::new("I1", "the batch was acknowledged and has no number"));
        };
        self.acknowledged = self.acknowledged.max(place as u64 + 1);
        if let Call::Pop { keys } = call {
            let before = self.oracle.after(place as u64).map(|content| {
                let mut seen = Vec::new();
                let mut value = |key: &String| {
                    let again = seen.contains(key);
                    seen.push(key.clone());
                    if again { Vec::new() } else { content.get(key).to_vec() }
                };
                keys.iter().map(&mut value).collect::<Vec<_>>()
            });
            if before.is_none_or(|before| before != popped) {
                return Err(Violation::new(
                    "live",
                    "pop returned other bytes than the history has",
                ));
            }
        }
        Ok(())
    }

    /// Follows the history through the commit word.
    fn follow(&mut self) -> Result<(), Violation> {
        let (commits, end) = self.disk.commits(self.log_at);
        self.log_at = end;
        for event in commits {
            let (word, number) = match event {
                Event::Commit { word, batch } => (word, batch),
                Event::Recovered { sequence } => {
                    if !(self.visible..=self.taken.len() as u64).contains(&sequence) {
                        let text = format!("{} visible, {sequence} recovered", self.visible);
                        return Err(Violation::new("I1", text));
                    }
                    // A number that was taken but not given to its batch is free again.
                    self.taken.truncate(sequence as usize);
                    self.oracle = self.oracle.cut(sequence);
                    self.visible = sequence;
                    continue;
                }
                _ => continue,
            };
            self.visible = word.visible();
            if word.done {
                continue;
            }
            if word.sequence != self.taken.len() as u64 + 1 {
                let text = format!("number {} comes after {}", word.sequence, self.taken.len());
                return Err(Violation::new("I6", text));
            }
            self.taken.push(number);
            let Some(ops) = number.and_then(|number| self.batches.get(number)) else {
                return Err(Violation::new("I4", "a number was taken for no batch"));
            };
            self.oracle.push(ops);
        }
        Ok(())
    }

    /// Checks that every running process sees the history and every acknowledged batch.
    fn judge(&mut self) -> Result<(), Violation> {
        self.follow()?;
        if self.disk.stored_in_hole() {
            return Err(Violation::new("live", "a store to disk space that was given back"));
        }
        if self.visible < self.acknowledged {
            return Err(Violation::new("I1", "an acknowledged batch is not visible"));
        }
        for client in self.clients.values().filter(|client| client.stopped.is_none()) {
            if let Some(log) = &client.log {
                let visible = self.visible;
                self.oracle.judge(log, visible, visible).map_err(|v| match v.invariant {
                    "I5" => v,
                    _ => Violation::new("live", v.text),
                })?;
            }
        }
        Ok(())
    }

    /// Ends the threads of all stopped processes.
    fn bury(&mut self) {
        let clients = std::mem::take(&mut self.clients).into_values();
        for mut client in clients.chain(self.graves.drain(..)) {
            if let Some((thread, ..)) = client.stopped.take() {
                client.disk.bury();
                // The thread ends with a panic that can be ignored.
                let _ = thread.join();
            }
        }
    }
}
