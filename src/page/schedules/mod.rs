//! Schedules: which there are, when they start, and what came of each start.
//!
//! Focus: `state` and `before` (where the page before ended) of the list, `schedule` (one to be
//! shown whole), `span` (10m, 1h, 24h) of the timeline.

mod list;
mod one;
mod row;
mod timeline;

use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use futures_util::FutureExt;
use futures_util::future::BoxFuture;

use super::view::{Focus, Fragment, Sources, View};
use crate::clock::Clock;
use crate::service::presence::living;
use crate::state::State;
use crate::store::{Millis, Store};

/// How often it is looked whether the timeline has moved on by a step.
const EVERY: Duration = Duration::from_secs(5);

/// The view.
pub struct Schedules {
    /// Where they are.
    pub store: Arc<dyn Store>,
    /// Whether those are on another machine.
    pub is_remote: bool,
    /// The state environment, whose processes tell of themselves.
    pub state: State,
    /// For the wall time.
    pub clock: Arc<dyn Clock>,
}

impl fmt::Debug for Schedules {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Schedules").finish_non_exhaustive()
    }
}

impl View for Schedules {
    fn name(&self) -> &'static str {
        "schedules"
    }

    fn sources(&self) -> Sources {
        Sources { store: true, every: Some(EVERY), ..Sources::default() }
    }

    fn choices(&self) -> &'static [&'static str] {
        &["state", "before", "schedule", "span"]
    }

    fn draw<'a>(&'a self, focus: &'a Focus) -> BoxFuture<'a, Vec<Fragment>> {
        async move {
            let (list, one, timeline) =
                tokio::join!(self.list(focus), self.one(focus), self.timeline(focus));
            vec![timeline, one, list]
        }
        .boxed()
    }
}

impl Schedules {
    /// Whether something recurs, and nothing runs that starts it, as far as can be told here.
    async fn is_unattended(&self) -> bool {
        if self.is_remote {
            return false;
        }
        let dir = self.state.dir().to_owned();
        let cards = tokio::task::spawn_blocking(move || living(&dir)).await;
        let Ok(Ok(cards)) = cards else { return false };
        if cards.iter().flat_map(|card| &card.parts).any(|part| part.service == "scheduler") {
            return false;
        }
        // What was due before all times is nothing: this tells when the first is due, if any.
        let due = self.store.due_schedules(1, Millis::MIN).await;
        due.is_ok_and(|due| due.next_at_ms.is_some())
    }
}
