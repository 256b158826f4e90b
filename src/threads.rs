//! Threads for parallel work, in processes that may have none to spare, or lost them in a `fork`.
//!
//! Nothing here uses rayon's global pool. It panics where no thread can be started, and a child of
//! `fork` inherits it without its threads, so that whoever waits for them waits forever. Instead
//! [`spread`] looks for a pool whose threads are sure to exist, and hands the work a [`Team`]; where
//! there is none, the team is the calling thread.
//!
//! No lock is ever waited for here: a child of `fork` inherits a lock as it was, and the thread that
//! held it may not exist in the child.

use std::cell::Cell;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, PoisonError, RwLock, TryLockError};
use std::thread;
use std::time::{Duration, Instant};

use rayon::prelude::*;
use rayon::{ThreadPool, ThreadPoolBuilder};

use crate::Result;
use crate::log::fs::fork::ForkMark;

/// How often to look again for a pool that another thread is building.
const LOOKS: usize = 100;
/// After no pool could be built, the next try waits for so long.
const RETRY: Duration = Duration::from_millis(100);
/// Fewer keys than this are sorted faster by one thread.
const SORT_MIN: usize = 8192;

/// The pool that everything in this process shares that was given none.
static SHARED: LazyPool = LazyPool::new("partd");

thread_local! {
    /// Whether work on this thread stays on it.
    static STAYS: Cell<bool> = const { Cell::new(false) };
}

/// The threads among which a piece of work is spread. All methods keep the order of the items.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Team {
    threads: usize,
}

impl Team {
    /// The calling thread alone.
    pub(crate) const ALONE: Team = Team { threads: 1 };

    /// One of so many threads, for tests of how work is cut.
    #[cfg(test)]
    pub(crate) fn of(threads: usize) -> Team {
        Team { threads }
    }

    /// The number of threads, at least 1.
    pub(crate) fn threads(self) -> usize {
        self.threads
    }

    /// Whether it is the calling thread alone.
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

    /// Applies `each` to every item until one fails, and begins them in their order: so what the next ones need
    /// can be brought near while some are worked on.
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
        // Nothing panics while it holds the lock, and none is held while there is work.
        let next = || items.lock().unwrap_or_else(PoisonError::into_inner).next();
        (0..threads).into_par_iter().try_for_each(|_| {
            while let Some((i, item)) = next() {
                each(i, item)?;
            }
            Ok(())
        })
    }
}

/// Runs `work` with the threads that it may use: those of the rayon task that calls, else those of
/// `lent`, else a pool that the whole process shares.
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
            pool.install(|| work(team))
        }
        None => work(Team::ALONE),
    }
}

/// Runs `work` with [`spread`] if it is worth it, and else on the calling thread.
pub(crate) fn spread_if<T: Send>(
    is_worth: bool,
    lent: Option<&LentPool>,
    work: impl FnOnce(Team) -> T + Send,
) -> T {
    if is_worth { spread(lent, work) } else { work(Team::ALONE) }
}

/// Sorts a list.
pub(crate) fn sort<T: Ord + Send>(lent: Option<&LentPool>, list: &mut [T]) {
    spread_if(list.len() >= SORT_MIN, lent, |team| match team.is_alone() {
        true => list.sort_unstable(),
        false => list.par_sort_unstable(),
    });
}

/// Runs a call during which [`spread`] leaves all work on the calling thread.
pub(crate) fn stay<T>(call: impl FnOnce() -> T) -> T {
    /// Undoes it, also where the call panics.
    struct Back(bool);
    impl Drop for Back {
        fn drop(&mut self) {
            STAYS.set(self.0);
        }
    }
    let _back = Back(STAYS.replace(true));
    call()
}

/// The number of threads that [`spread`] would like to use.
pub(crate) fn wanted() -> usize {
    /// 0 until somebody has asked: the answer costs some system calls.
    static CORES: AtomicUsize = AtomicUsize::new(0);
    if rayon::current_thread_index().is_some() {
        return rayon::current_num_threads();
    }
    let known = CORES.load(Ordering::Relaxed);
    if known > 0 {
        return known;
    }
    // As rayon reads it.
    let asked = std::env::var("RAYON_NUM_THREADS").ok().and_then(|number| number.parse().ok());
    let cores = || thread::available_parallelism().map_or(1, usize::from);
    let wanted = asked.filter(|&number| number > 0).unwrap_or_else(cores);
    CORES.store(wanted, Ordering::Relaxed);
    wanted
}

/// Whether this rayon worker was copied by a `fork`, without the others of its pool.
///
/// Whoever calls `fork` is the first thread of the child, and rayon starts its workers later. The
/// one exception, a pool that was built around the first thread (`use_current_thread`), loses
/// nothing but speed.
fn is_forked_worker() -> bool {
    rustix::thread::gettid() == rustix::process::getpid()
}

/// A pool that is built when it is first needed, and again in each child of `fork` that needs it.
#[derive(Debug)]
pub(crate) struct LazyPool {
    name: &'static str,
    built: RwLock<Built>,
}

#[derive(Debug)]
enum Built {
    Not,
    /// No thread could be started at this moment.
    Failed(Instant),
    Pool(Owned),
}

impl LazyPool {
    /// A pool whose threads will have this name.
    pub(crate) const fn new(name: &'static str) -> LazyPool {
        LazyPool { name, built: RwLock::new(Built::Not) }
    }

    /// The pool of this process, built with so many threads if there is none yet; `None` where no
    /// threads can be had.
    pub(crate) fn get(&self, threads: usize) -> Option<Arc<ThreadPool>> {
        for _ in 0..LOOKS {
            match self.built.try_read() {
                Ok(built) => match &*built {
                    Built::Pool(owned) if !owned.mark.is_forked() => return owned.pool.clone(),
                    Built::Failed(when) if when.elapsed() < RETRY => return None,
                    _ => {}
                },
                // Nothing in here panics while it holds the lock to write.
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
            // Another may have been first; the next look finds it.
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

/// A pool and the process in which it was built. In any other it is never touched again, not even
/// to be dropped: that would take locks which threads of the parent may have held.
#[derive(Debug)]
struct Owned {
    /// None only while it is dropped.
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

/// A pool that a caller has lent, for as long as it is known to be alive.
#[derive(Clone, Debug)]
pub(crate) struct LentPool {
    /// None where no mark could be made, and so nobody could tell a child of `fork`.
    owned: Option<Arc<Owned>>,
    /// Whether one of its threads has answered. It never will where the pool was inherited.
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

    /// The pool, once it has answered.
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
    fn work_goes_to_the_pool_of_the_calling_task_before_the_one_that_was_lent() {
        let lent = lent(pool(3));
        let (team, name_of_it) = spread(Some(&lent), |team| (team, name()));
        assert_eq!((team.threads(), name_of_it.as_deref()), (3, Some("lent")));
        let task = ThreadPoolBuilder::new().thread_name(|_| "task".into()).num_threads(2).build();
        let (team, name_of_it) = task.unwrap().install(|| spread(Some(&lent), |t| (t, name())));
        assert_eq!((team.threads(), name_of_it.as_deref()), (2, Some("task")));
    }

    #[test]
    fn a_lent_pool_that_does_not_answer_is_not_waited_for() {
        let pool = pool(1);
        let (release, wait) = std::sync::mpsc::channel::<()>();
        pool.spawn(move || {
            // It ends when the other end is dropped.
            let _ = wait.recv();
        });
        let lent = LentPool::new(pool);
        assert_eq!(spread(Some(&lent), |team| (team, name())), (Team::ALONE, name()));
        drop(release);
    }

    #[test]
    fn work_that_stays_is_done_by_its_thread_whatever_pool_there_is() {
        let lent = lent(pool(2));
        let here = name();
        assert_eq!(
            stay(|| spread(Some(&lent), |team| (team, name()))),
            (Team::ALONE, here.clone())
        );
        assert_ne!(spread(Some(&lent), |_| name()), here);
    }

    #[test]
    fn many_threads_that_need_the_pool_at_once_get_one() {
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
