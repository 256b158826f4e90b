//! Threads for parallel work, even in processes that cannot start any or lost them in a `fork`.
//!
//! Nothing here uses rayon's global pool: it panics if no thread can be started, and a child of
//! `fork` inherits it without its threads, so a wait for them never ends. Instead, [`spread`] finds
//! a pool whose threads are certain to exist and passes the work a [`Team`]. Without such a pool,
//! the team is the calling thread.
//!
//! Nothing here waits for a lock that outlives a call: a child of `fork` inherits each lock in its
//! state at the fork, and the thread that held it may not exist in the child.

use std::cell::Cell;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, PoisonError, RwLock, TryLockError};
use std::thread;
use std::time::{Duration, Instant};

use rayon::prelude::*;
use rayon::{ThreadPool, ThreadPoolBuilder};

use crate::Result;
use crate::log::fs::fork::ForkMark;

/// The number of attempts to get a pool that another thread is building.
const LOOKS: usize = 100;
/// The time from a failed attempt to build a pool to the next attempt.
const RETRY: Duration = Duration::from_millis(100);
/// One thread sorts fewer keys than this faster than several do.
const SORT_MIN: usize = 8192;

/// The pool that all handles without a pool of their own share.
static SHARED: LazyPool = LazyPool::new("partd");

thread_local! {
    /// Whether [`spread`] keeps work on this thread.
    static STAYS: Cell<bool> = const { Cell::new(false) };
}

/// The threads that share a piece of work. All methods keep the order of the items.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Team {
    threads: usize,
}

impl Team {
    /// The calling thread alone.
    pub(crate) const ALONE: Team = Team { threads: 1 };

    /// Creates a team of a given size, for tests of how work is split.
    #[cfg(test)]
    pub(crate) fn of(threads: usize) -> Team {
        Team { threads }
    }

    /// Returns the number of threads, at least 1.
    pub(crate) fn threads(self) -> usize {
        self.threads
    }

    /// Returns whether the team is the calling thread alone.
    pub(crate) fn is_alone(self) -> bool {
        self.threads <= 1
    }

    /// Applies `each` to every item.
    pub(crate) fn map<I: Send, T: Send>(
        self,
        items: Vec<I>,
        each: impl Fn(I) -> T + Sync + Send,
    ) -> Vec<T> {
        match self.is_alone() {
            true => items.into_iter().map(each).collect(),
            false => items.into_par_iter().map(each).collect(),
        }
    }

    /// Applies `each` to every item until one fails.
    pub(crate) fn try_map<I: Send, T: Send>(
        self,
        items: Vec<I>,
        each: impl Fn(I) -> Result<T> + Sync + Send,
    ) -> Result<Vec<T>> {
        match self.is_alone() {
            true => items.into_iter().map(each).collect(),
            false => items.into_par_iter().map(each).collect(),
        }
    }

    /// Applies `each` to every item until one fails, and starts the items in order, so that the
    /// data of the next items can be fetched while earlier ones are processed.
    pub(crate) fn in_order<I: Send>(
        self,
        items: Vec<I>,
        each: impl Fn(usize, I) -> Result<()> + Sync + Send,
    ) -> Result<()> {
        if self.is_alone() {
            return items.into_iter().enumerate().try_for_each(|(i, item)| each(i, item));
        }
        let threads = self.threads.min(items.len());
        let items = Mutex::new(items.into_iter().enumerate());
        // Nothing panics under the lock, and it is released before an item is processed.
        let next = || items.lock().unwrap_or_else(PoisonError::into_inner).next();
        (0..threads).into_par_iter().try_for_each(|_| {
            while let Some((i, item)) = next() {
                // After an error, nobody finds a further item.
                each(i, item).inspect_err(|_| while next().is_some() {})?;
            }
            Ok(())
        })
    }
}

/// Runs `work` with a team of threads: the pool of the calling rayon task, else `lent`, else the
/// pool that the whole process shares.
pub(crate) fn spread<T: Send>(lent: Option<&LentPool>, work: impl FnOnce(Team) -> T + Send) -> T {
    if STAYS.get() {
        return work(Team::ALONE);
    }
    if rayon::current_thread_index().is_some() {
        return work(match is_forked_worker() {
            true => Team::ALONE,
            false => Team { threads: rayon::current_num_threads() },
        });
    }
    let shared;
    let pool = match lent.filter(|lent| !lent.is_forked()) {
        Some(lent) => lent.pool(),
        None => {
            shared = if wanted() > 1 { SHARED.get(wanted()) } else { None };
            shared.as_deref()
        }
    };
    match pool {
        Some(pool) => {
            let team = Team { threads: pool.current_num_threads() };
            install(pool, || work(team))
        }
        None => work(Team::ALONE),
    }
}

/// Runs a call on a thread of the pool, and waits for it.
///
/// Rayon's code for this is longer than most calls, so it is compiled once and not for each type of
/// call.
pub(crate) fn install<T: Send>(pool: &ThreadPool, call: impl FnOnce() -> T + Send) -> T {
    fn install_dyn(pool: &ThreadPool, call: &mut (dyn FnMut() + Send)) {
        pool.install(call);
    }
    let (mut call, mut result) = (Some(call), None);
    install_dyn(pool, &mut || result = call.take().map(|call| call()));
    result.unwrap_or_else(|| unreachable!("the pool runs the call or panics"))
}

/// Runs `work` with [`spread`] if `is_worth`, else on the calling thread.
pub(crate) fn spread_if<T: Send>(
    is_worth: bool,
    lent: Option<&LentPool>,
    work: impl FnOnce(Team) -> T + Send,
) -> T {
    if is_worth { spread(lent, work) } else { work(Team::ALONE) }
}

/// Applies `each` to every item, on the calling thread and on new ones, together at most one per item.
/// The results are in no particular order.
///
/// Unlike a pool, this may be used under a lock: while the calling thread waits for the others, it
/// runs no other task, which could need the same lock.
pub(crate) fn beside<I: Send, T: Send>(items: Vec<I>, each: impl Fn(I) -> T + Sync) -> Vec<T> {
    let more = items.len().saturating_sub(1);
    let (rest, done) = (Mutex::new(items.into_iter()), Mutex::new(Vec::new()));
    // Neither lock is held while an item is processed.
    let next = || rest.lock().unwrap_or_else(PoisonError::into_inner).next();
    let work = || {
        while let Some(item) = next() {
            let result = each(item);
            done.lock().unwrap_or_else(PoisonError::into_inner).push(result);
        }
    };
    thread::scope(|scope| {
        for _ in 0..more {
            // If no thread can be started, the calling thread does its work.
            let _ = thread::Builder::new().name("partd".to_owned()).spawn_scoped(scope, work);
        }
        work();
    });
    done.into_inner().unwrap_or_else(PoisonError::into_inner)
}

/// Sorts a list, in parallel if it is long.
pub(crate) fn sort<T: Ord + Send>(lent: Option<&LentPool>, list: &mut [T]) {
    spread_if(list.len() >= SORT_MIN, lent, |team| match team.is_alone() {
        true => list.sort_unstable(),
        false => list.par_sort_unstable(),
    });
}

/// Runs a call during which [`spread`] leaves all work on the calling thread.
pub(crate) fn stay<T>(call: impl FnOnce() -> T) -> T {
    /// Restores the flag, even if the call panics.
    struct Back(bool);
    impl Drop for Back {
        fn drop(&mut self) {
            STAYS.set(self.0);
        }
    }
    let _back = Back(STAYS.replace(true));
    call()
}

/// Returns the number of threads that [`spread`] would use if its pool can be built.
pub(crate) fn wanted_of(lent: Option<&LentPool>) -> usize {
    if STAYS.get() {
        return 1;
    }
    let is_task = rayon::current_thread_index().is_some();
    match lent.filter(|lent| !is_task && !lent.is_forked()) {
        Some(lent) => lent.pool().map_or(1, ThreadPool::current_num_threads),
        None => wanted(),
    }
}

/// Returns the number of threads that [`spread`] would use without a lent pool.
pub(crate) fn wanted() -> usize {
    /// The cached answer, since asking costs system calls; 0 before the first call.
    static CORES: AtomicUsize = AtomicUsize::new(0);
    if rayon::current_thread_index().is_some() {
        return rayon::current_num_threads();
    }
    let known = CORES.load(Ordering::Relaxed);
    if known > 0 {
        return known;
    }
    // The same rule as rayon's.
    let asked = std::env::var("RAYON_NUM_THREADS").ok().and_then(|number| number.parse().ok());
    let cores = || thread::available_parallelism().map_or(1, usize::from);
    let wanted = asked.filter(|&number| number > 0).unwrap_or_else(cores);
    CORES.store(wanted, Ordering::Relaxed);
    wanted
}

/// Returns whether a `fork` copied this rayon worker without the rest of its pool.
///
/// The thread that calls `fork` becomes the main thread of the child, and a rayon worker is never a
/// main thread. The one exception, a pool built around the main thread (`use_current_thread`), only
/// loses speed.
fn is_forked_worker() -> bool {
    rustix::thread::gettid() == rustix::process::getpid()
}

/// A pool that is built on first use, and again on first use in each child of `fork`.
#[derive(Debug)]
pub(crate) struct LazyPool {
    name: &'static str,
    built: RwLock<Built>,
}

#[derive(Debug)]
enum Built {
    Not,
    /// No thread could be started at this time.
    Failed(Instant),
    Pool(Owned),
}

impl LazyPool {
    /// Creates a pool whose threads have this name.
    pub(crate) const fn new(name: &'static str) -> LazyPool {
        LazyPool { name, built: RwLock::new(Built::Not) }
    }

    /// Returns the pool of this process, and builds it with `threads` threads if there is none yet;
    /// `None` if no thread can be started.
    pub(crate) fn get(&self, threads: usize) -> Option<Arc<ThreadPool>> {
        for _ in 0..LOOKS {
            match self.built.try_read() {
                Ok(built) => match &*built {
                    Built::Pool(owned) if !owned.mark.is_forked() => return owned.pool.clone(),
                    Built::Failed(when) if when.elapsed() < RETRY => return None,
                    _ => {}
                },
                // Unreachable: nothing panics under the write lock.
                Err(TryLockError::Poisoned(_)) => return None,
                Err(TryLockError::WouldBlock) => {
                    thread::yield_now();
                    continue;
                }
            }
            let Ok(mut built) = self.built.try_write() else {
                thread::yield_now();
                continue;
            };
            // If another thread built the pool first, the next iteration finds it.
            let is_there = match &*built {
                Built::Pool(owned) => !owned.mark.is_forked(),
                Built::Failed(when) => when.elapsed() < RETRY,
                Built::Not => false,
            };
            if !is_there {
                *built = self.build(threads);
            }
        }
        None
    }

    fn build(&self, threads: usize) -> Built {
        let name = self.name;
        let pool = ThreadPoolBuilder::new()
            .num_threads(threads)
            .thread_name(move |number| format!("{name}-{number}"))
            .build();
        match (pool, ForkMark::new()) {
            (Ok(pool), Ok(mark)) => Built::Pool(Owned { pool: Some(Arc::new(pool)), mark }),
            _ => Built::Failed(Instant::now()),
        }
    }
}

/// A pool, and a mark of the process that built it. A forked child leaks the pool instead of
/// dropping it, because a drop takes locks that threads of the parent may have held.
#[derive(Debug)]
struct Owned {
    /// `None` only during the drop.
    pool: Option<Arc<ThreadPool>>,
    mark: ForkMark,
}

impl Drop for Owned {
    fn drop(&mut self) {
        if self.mark.is_forked() {
            std::mem::forget(self.pool.take());
        }
    }
}

/// A pool that a caller has lent. It is used only once it is known to be alive.
#[derive(Clone, Debug)]
pub struct LentPool {
    /// `None` if no fork mark could be created, since a child of `fork` could then not be detected.
    owned: Option<Arc<Owned>>,
    /// Whether a thread of the pool has answered. In a pool inherited through `fork`, none ever
    /// does.
    answers: Arc<AtomicBool>,
}

impl LentPool {
    pub(crate) fn new(pool: Arc<ThreadPool>) -> LentPool {
        let answers = Arc::new(AtomicBool::new(false));
        let answer = Arc::clone(&answers);
        pool.spawn(move || answer.store(true, Ordering::Release));
        let owned = ForkMark::new().ok().map(|mark| Arc::new(Owned { pool: Some(pool), mark }));
        LentPool { owned, answers }
    }

    fn is_forked(&self) -> bool {
        self.owned.as_ref().is_none_or(|owned| owned.mark.is_forked())
    }

    /// Returns the pool, once it has answered.
    fn pool(&self) -> Option<&ThreadPool> {
        let owned = self.owned.as_ref().filter(|_| self.answers.load(Ordering::Acquire))?;
        owned.pool.as_deref()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn pool(threads: usize) -> Arc<ThreadPool> {
        let named = ThreadPoolBuilder::new().thread_name(|_| "lent".into());
        Arc::new(named.num_threads(threads).build().unwrap())
    }

    fn name() -> Option<String> {
        thread::current().name().map(str::to_owned)
    }

    /// Waits until a lent pool has answered.
    fn lent(pool: Arc<ThreadPool>) -> LentPool {
        let lent = LentPool::new(pool);
        while !lent.answers.load(Ordering::Acquire) {
            thread::yield_now();
        }
        lent
    }

    #[test]
    fn the_pool_of_the_calling_task_has_priority_over_a_lent_pool() {
        let lent = lent(pool(3));
        let (team, name_of_it) = spread(Some(&lent), |team| (team, name()));
        assert_eq!((team.threads(), name_of_it.as_deref()), (3, Some("lent")));
        let task = ThreadPoolBuilder::new().thread_name(|_| "task".into()).num_threads(2).build();
        let (team, name_of_it) = task.unwrap().install(|| spread(Some(&lent), |t| (t, name())));
        assert_eq!((team.threads(), name_of_it.as_deref()), (2, Some("task")));
    }

    #[test]
    fn work_does_not_wait_for_a_lent_pool_that_does_not_answer() {
        let pool = pool(1);
        let (release, wait) = std::sync::mpsc::channel::<()>();
        pool.spawn(move || {
            // Ends when the sender is dropped.
            let _ = wait.recv();
        });
        let lent = LentPool::new(pool);
        assert_eq!(spread(Some(&lent), |team| (team, name())), (Team::ALONE, name()));
        drop(release);
    }

    #[test]
    fn stay_keeps_work_on_the_calling_thread_even_if_a_pool_is_lent() {
        let lent = lent(pool(2));
        let here = name();
        assert_eq!(
            stay(|| spread(Some(&lent), |team| (team, name()))),
            (Team::ALONE, here.clone())
        );
        assert_ne!(spread(Some(&lent), |_| name()), here);
    }

    #[test]
    fn threads_that_need_the_pool_at_the_same_time_share_one() {
        let lazy = LazyPool::new("lazy");
        let pools: Vec<_> = thread::scope(|scope| {
            let threads: Vec<_> = (0..8).map(|_| scope.spawn(|| lazy.get(2))).collect();
            threads.into_iter().filter_map(|thread| thread.join().unwrap()).collect()
        });
        assert!(!pools.is_empty());
        assert!(pools.iter().all(|pool| Arc::ptr_eq(pool, &pools[0])));
        assert_eq!(pools[0].current_num_threads(), 2);
    }

    #[test]
    fn work_beside_other_threads_is_done_once_for_each_item() {
        let mut done = beside((0..5).collect(), |item: u32| item);
        done.sort_unstable();
        assert_eq!(done, [0, 1, 2, 3, 4]);
    }

    #[test]
    fn items_keep_their_order_on_one_thread_and_on_several() {
        let squares: Vec<u32> = (0..10_000).map(|i| i * i).collect();
        for team in [Team::ALONE, Team { threads: 2 }] {
            let work = || team.map((0..10_000).collect(), |i: u32| i * i);
            assert_eq!(pool(2).install(work), squares);
            let work = || team.try_map((0..10_000).collect(), |i: u32| Ok(i * i));
            assert_eq!(pool(2).install(work).unwrap(), squares);
        }
    }
}
