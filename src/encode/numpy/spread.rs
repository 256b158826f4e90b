//! Spreads the copying of many arrays over threads.

use std::panic::resume_unwind;
use std::thread;

use crate::Result;

/// Fewer bytes than this are copied by one thread.
const PARALLEL_MIN_BYTES: usize = 1 << 20;

/// Applies `work` to each item, on several threads if there are many bytes.
///
/// It uses plain threads because the store may hold a lock while it lends the bytes: a rayon worker
/// that waits may pick up a task that needs the same lock.
pub(super) fn spread<I: Sync, R: Send>(
    items: &[I],
    bytes: usize,
    work: impl Fn(&I) -> Result<R> + Sync,
) -> Result<Vec<R>> {
    let threads = match bytes >= PARALLEL_MIN_BYTES {
        true => crate::threads::wanted().min(items.len()),
        false => 1,
    };
    let mut parts = items.chunks(items.len().div_ceil(threads.max(1)).max(1));
    let own = parts.next().unwrap_or(&[]);
    let run = |part: &[I]| part.iter().map(&work).collect::<Result<Vec<R>>>();
    let results: Vec<Result<Vec<R>>> = thread::scope(|scope| {
        let others: Vec<_> = parts
            .map(|part| (part, thread::Builder::new().spawn_scoped(scope, || run(part))))
            .collect();
        let mut results = vec![run(own)];
        for (part, other) in others {
            results.push(match other {
                Ok(other) => other.join().unwrap_or_else(|panic| resume_unwind(panic)),
                // No thread could be started, so do its work here.
                Err(_) => run(part),
            });
        }
        results
    });
    Ok(results.into_iter().collect::<Result<Vec<_>>>()?.into_iter().flatten().collect())
}
