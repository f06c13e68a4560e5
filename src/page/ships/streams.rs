//! The streams that are active now: those of a spaceship that may be elsewhere.

use std::time::Duration;

use askama::Template;
use futures_util::FutureExt;
use tokio::sync::watch;

use crate::page::format::Count;
use crate::page::remembered::Remembered;
use crate::page::view::Fragment;
use crate::rooms::telemetry::road::Road;
use crate::rooms::telemetry::spaceship::active::{self, Active, ActiveStream};

const ID: &str = "ships-streams";
/// For how long an answer is good, unless a stream was begun or stopped by way of this server; a
/// bit less than what the view is drawn every.
const GOOD_FOR: Duration = Duration::from_millis(950);

type Answer = Result<Active, String>;

/// Asks for streams, once for all who look.
#[derive(Debug)]
pub struct Streams {
    road: Road,
    changed: watch::Receiver<u64>,
    known: Remembered<Answer>,
    /// Where it is, for people.
    name: String,
}

#[derive(Template)]
#[template(path = "ships/streams.html", config = "src/page/askama.toml")]
struct List {
    active: Count,
    rows: Vec<Row>,
    name: String,
}

/// A stream.
struct Row {
    stream: ActiveStream,
    /// Datagrams per second, unless it is as fast as it can.
    rate: Option<Count>,
    sent: Count,
    refused: Count,
}

impl Row {
    fn new(stream: ActiveStream) -> Self {
        let rate = Some(stream.rate).filter(|rate| *rate > 0).map(Count);
        let (sent, refused) = (Count(stream.sent), Count(stream.refused));
        Self { stream, rate, sent, refused }
    }
}

#[derive(Template)]
#[template(path = "ships/absent.html", config = "src/page/askama.toml")]
struct Absent {
    why: String,
}

impl Streams {
    /// Those at the end of this road. `changed` is rung when one was begun or stopped.
    #[must_use]
    pub fn new(road: Road, changed: watch::Receiver<u64>) -> Self {
        let name = road.to_string();
        Self { road, changed, known: Remembered::new(GOOD_FOR), name }
    }

    /// Rung when one was begun or stopped by way of this server.
    pub(super) fn changed(&self) -> watch::Receiver<u64> {
        self.changed.clone()
    }

    async fn answer(&self) -> Option<Answer> {
        let (change, road) = (*self.changed.borrow(), self.road.clone());
        self.known.get(change, || async move { active::read(&road).await }.boxed()).await
    }

    pub(super) async fn drawn(&self) -> Fragment {
        match self.answer().await {
            Some(Ok(Active { number_of_active_streams, streams })) => {
                let rows = streams.into_iter().map(Row::new).collect();
                let active = Count(number_of_active_streams);
                Fragment::of(ID, &List { active, rows, name: self.name.clone() })
            }
            Some(Err(why)) => Fragment::of(ID, &Absent { why }),
            None => Fragment::loading(ID),
        }
    }
}
