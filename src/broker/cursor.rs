//! Where the taking of a shard stands, and how it waits.

use std::time::{Duration, Instant};

use crossbeam_channel::Receiver;

use super::append::ShardEnd;
use super::take::Waiting;
use crate::clock::TokenBucket;
use crate::message::Offset;

/// Held by the one worker that waits for the next delivery.
#[derive(Debug)]
pub(super) struct Cursor {
    /// The first offset not yet taken.
    pub(super) next: Offset,
    /// Bytes that the shard had taken in before it.
    pub(super) next_bytes: u64,
    pub(super) waiting_since: Option<Instant>,
    pub(super) bucket: TokenBucket,
    pub(super) wake: Receiver<()>,
}

impl Cursor {
    /// Until something may have changed: a wake-up, something returned, or the end of the pause.
    pub(super) fn wait(&self, nudge: &Receiver<()>, pause: Duration) {
        crossbeam_channel::select! {
            // A channel is closed when the listener has ended: then only the pause counts.
            recv(self.wake) -> woken => if woken.is_err() {
                let _nudged = nudge.recv_timeout(pause);
            },
            recv(nudge) -> _ => {}
            default(pause) => {}
        }
    }

    /// What waits beyond it now.
    pub(super) fn look(&mut self, end: ShardEnd, now: Instant) -> Waiting {
        let messages = end.offset.saturating_sub(self.next);
        if messages == 0 {
            self.waiting_since = None;
            return Waiting::default();
        }
        let since = *self.waiting_since.get_or_insert(now);
        Waiting {
            messages,
            bytes: end.bytes.saturating_sub(self.next_bytes),
            waited: now.saturating_duration_since(since),
        }
    }
}
