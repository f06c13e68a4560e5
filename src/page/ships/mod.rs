//! Ships: what is stored of each, their battery voltage, the accounts of captures, and streams.
//!
//! Focus: `ship` and `span` (5m, 1h, 24h) of the chart, `after` (the last ship of the page before),
//! `before` (the last capture of the page before).

pub mod account;
mod captures;
mod list;
mod plot;
mod streams;

use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use futures_util::FutureExt;
use futures_util::future::BoxFuture;
use percent_encoding::{NON_ALPHANUMERIC, utf8_percent_encode};
use tokio::sync::watch;

pub use self::captures::Captures;
pub use self::streams::Streams;
use super::view::{Focus, Fragment, Sources, View};
use crate::clock::Clock;
use crate::state::{State, StateError};

/// How often streams are asked for, and the chart goes on where nothing comes.
const EVERY: Duration = Duration::from_secs(1);

/// The view.
pub struct Ships {
    /// Where their data is.
    pub state: State,
    /// For the wall time.
    pub clock: Arc<dyn Clock>,
    /// The captures.
    pub captures: Captures,
    /// The streams of the spaceship.
    pub streams: Streams,
}

impl fmt::Debug for Ships {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Ships").finish_non_exhaustive()
    }
}

impl View for Ships {
    fn name(&self) -> &'static str {
        "ships"
    }

    fn sources(&self) -> Sources {
        Sources { state: true, store: true, every: Some(EVERY) }
    }

    fn bell(&self) -> Option<watch::Receiver<u64>> {
        Some(self.streams.changed())
    }

    fn choices(&self) -> &'static [&'static str] {
        &["ship", "span", "after", "before"]
    }

    fn draw<'a>(&'a self, focus: &'a Focus) -> BoxFuture<'a, Vec<Fragment>> {
        async move {
            let (list, chart, captures, streams) = tokio::join!(
                self.list(focus),
                self.chart(focus),
                self.captures.drawn(focus),
                self.streams.drawn()
            );
            vec![list, chart, captures, streams]
        }
        .boxed()
    }
}

impl Ships {
    /// A look into the memory map may wait for the disk.
    async fn blocking<T: Send + 'static>(
        &self,
        look: impl FnOnce(&State) -> Result<T, StateError> + Send + 'static,
    ) -> Result<T, String> {
        let state = self.state.clone();
        let looked = tokio::task::spawn_blocking(move || look(&state)).await;
        looked.map_err(|error| error.to_string())?.map_err(|error| error.to_string())
    }
}

/// A text as a value in an address.
fn in_address(text: &str) -> String {
    utf8_percent_encode(text, NON_ALPHANUMERIC).to_string()
}
