//! Work that is split over threads.

use std::panic::resume_unwind;
use std::thread;

/// Does two pieces of work, at the same time if there are at least two threads for them. Each is
/// told how many threads it has.
pub(super) fn join<A: Send, B: Send>(
    threads: usize,
    first: impl FnOnce(usize) -> A + Send,
    second: impl FnOnce(usize) -> B + Send,
) -> (A, B) {
    if threads < 2 {
        return (first(1), second(1));
    }
    let half = threads / 2;
    thread::scope(|scope| {
        let second = scope.spawn(move || second(half));
        let first = first(threads - half);
        (first, second.join().unwrap_or_else(|panic| resume_unwind(panic)))
    })
}
