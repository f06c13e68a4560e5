//! Delivers what came of jobs, as long as it takes; what is on its way is on disk, if it is long.

use std::sync::Arc;
use std::time::{Duration, Instant};

use tokio::sync::{Semaphore, mpsc};

use super::hand::Hand;
use super::spool::{Left, Spool, discard};
use super::supply::{Body, Done, Supply, SupplyError};
use crate::service::{Lifecycle, jittered};
use crate::store::Millis;
use crate::task::{Attempt, Outcome, TaskId};

/// The most jobs of a group.
const GROUP_MAX: usize = 256;
/// Large results that are on their way at once, beside the groups of small ones.
const LARGE_MAX: u32 = 2;
/// The pause before another try; doubled up to the longest.
const PAUSE: Duration = Duration::from_millis(50);
const PAUSE_MAX: Duration = Duration::from_secs(4);
/// How long what an earlier process left may hold up new jobs.
const LEFTOVERS_FIRST: Duration = Duration::from_secs(10);

/// Delivers.
#[derive(Debug, Clone)]
pub(super) struct Deliverer {
    pub(super) supply: Arc<dyn Supply>,
    pub(super) spool: Arc<Spool>,
    pub(super) hand: Arc<Hand>,
    pub(super) life: Lifecycle,
    /// How long to try when the process stops; what is left then is on disk, or run again.
    pub(super) give_up_within: Duration,
}

/// Delivers what comes, until there is nothing more.
pub(super) async fn settle(deliverer: Deliverer, mut ended: mpsc::Receiver<Done>) {
    let large_ones = Arc::new(Semaphore::new(LARGE_MAX as usize));
    let mut group = Vec::new();
    while ended.recv_many(&mut group, GROUP_MAX).await > 0 {
        let (large, small): (Vec<Done>, Vec<Done>) =
            group.drain(..).partition(|done| done.body.is_some());
        for large in large {
            let Ok(permit) = Arc::clone(&large_ones).acquire_owned().await else { return };
            let deliverer = deliverer.clone();
            tokio::spawn(async move {
                deliverer.group(vec![large]).await;
                drop(permit);
            });
        }
        if !small.is_empty() {
            deliverer.group(small).await;
        }
    }
    let _all_delivered = large_ones.acquire_many(LARGE_MAX).await;
}

/// What is said of a task that ran when its process died.
fn died((id, attempt): (TaskId, Attempt), at_ms: Millis) -> Done {
    tracing::warn!(task = %id, attempt, "it ran when its worker died");
    let outcome = Outcome::Died { reason: "its worker died while it ran".to_owned() };
    Done { id, attempt, outcome, body: None, began_at_ms: None, at_ms }
}

fn is_unbegun(done: &Done) -> bool {
    done.outcome == Outcome::Released && done.began_at_ms.is_none()
}

impl Deliverer {
    /// Delivers what dead processes left, before new jobs if that is soon done.
    pub(super) async fn leftovers(&self, left: Vec<Left>, now_ms: Millis) {
        let mut deliveries = Vec::new();
        for mut left in left {
            let (deliverer, groups) = (self.clone(), std::mem::take(&mut left.groups));
            if !groups.is_empty() {
                tracing::info!(groups = groups.len(), "delivering what a dead process left");
            }
            // Without what it had ended, but not yet delivered.
            let ended = |id| groups.iter().flatten().any(|done: &Done| done.id == id);
            let died: Vec<Done> = std::mem::take(&mut left.ran)
                .into_iter()
                .filter(|(id, _)| !ended(*id))
                .map(|run| died(run, now_ms))
                .collect();
            deliveries.push(tokio::spawn(async move {
                if !died.is_empty() && !deliverer.repeat(&died).await {
                    return;
                }
                for group in groups {
                    if !deliverer.repeat(&group).await {
                        return;
                    }
                    deliverer.spool.delivered(&group);
                }
                left.remove();
            }));
        }
        let all = futures_util::future::join_all(deliveries);
        let _later_then = tokio::time::timeout(LEFTOVERS_FIRST, all).await;
    }

    /// Delivers a group, and takes it out of hand.
    async fn group(&self, group: Vec<Done>) {
        // What is given back unbegun may come again before it is said to be delivered.
        let unbegun = group.iter().filter(|done| is_unbegun(done));
        self.hand.remove(unbegun.map(|done| (done.id, done.attempt)));
        let results: Vec<Done> =
            group.iter().filter(|done| done.outcome != Outcome::Released).cloned().collect();
        let kept = if self.supply.is_remote() && !results.is_empty() {
            let spool = Arc::clone(&self.spool);
            let kept = tokio::task::spawn_blocking(move || spool.keep(&results)).await;
            let kept = kept.unwrap_or_else(|error| Err(std::io::Error::other(error)));
            if let Err(error) = &kept {
                // Delivering needs no disk: better now than never.
                tracing::warn!(%error, "results cannot be kept on disk until they are delivered");
            }
            kept.ok()
        } else {
            None
        };
        if self.repeat(&group).await {
            if let Some(kept) = kept {
                kept.remove();
            }
            for done in group.iter() {
                if let Some(Body::File(path)) = &done.body {
                    discard(path);
                }
            }
        }
        let begun = group.iter().filter(|done| !is_unbegun(done));
        self.hand.remove(begun.map(|done| (done.id, done.attempt)));
    }

    /// Tries until it is delivered, or the process has stopped for long enough; whether it is.
    async fn repeat(&self, group: &[Done]) -> bool {
        let (mut pause, mut told, mut stopped_at) = (PAUSE, false, None);
        loop {
            let Err(SupplyError(error)) = self.supply.deliver(group).await else { return true };
            if !std::mem::replace(&mut told, true) {
                let results = group.len();
                tracing::warn!(error, results, "results cannot be delivered now; trying again");
            }
            if self.life.is_stopping() {
                let since: Instant = *stopped_at.get_or_insert_with(Instant::now);
                if since.elapsed() >= self.give_up_within {
                    return false;
                }
            }
            tokio::time::sleep(jittered(pause)).await;
            pause = (pause * 2).min(PAUSE_MAX);
        }
    }
}
