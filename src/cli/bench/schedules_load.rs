//! What users of a scheduler do: post schedules, look at them, and wait in between.
//!
//! One thread does it all, so that the client takes at most one core from what it measures.

use std::cell::{Cell, RefCell};
use std::collections::BTreeMap;
use std::rc::Rc;
use std::time::{Duration, Instant};

use chrono::{SecondsFormat, TimeDelta};
use serde_json::{Value, json};
use tokio::task::{JoinSet, LocalSet};
use tokio::time::{MissedTickBehavior, interval, sleep};

use super::latency::Times;
use super::load::TICK;
use super::target::Target;
use super::tasks_client::Client;
use crate::clock::{Clock, SystemClock};
use crate::service::Lifecycle;
use crate::tasks::echo;

/// Ships that are known far and wide.
const SHIPS: [&str; 8] = [
    "USS Enterprise",
    "TARDIS",
    "Planet Express",
    "Serenity",
    "Nostromo",
    "Red Dwarf",
    "Discovery One",
    "Heart of Gold",
];
/// What a user waits between two requests, in milliseconds.
const WAIT_MS: (u64, u64) = (1000, 5000);
/// How long a capture takes, in seconds.
const DURATION_SECONDS: (u64, u64) = (10, 60);
/// How many different errors are told apart.
const ERRORS_MAX: usize = 20;

/// Numbers that look random (SplitMix64, Steele, Lea and Flood, 2014).
#[derive(Debug)]
pub(super) struct Draws(u64);

impl Draws {
    /// From random bits of the system.
    ///
    /// # Errors
    /// It has none.
    pub(super) fn new() -> rustix::io::Result<Self> {
        let mut bits = [0; 8];
        rustix::rand::getrandom(&mut bits, rustix::rand::GetRandomFlags::empty())?;
        Ok(Self(u64::from_ne_bytes(bits)))
    }

    fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut bits = self.0;
        bits = (bits ^ (bits >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        bits = (bits ^ (bits >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        bits ^ (bits >> 31)
    }

    /// From `least` to `most`.
    pub(super) fn between(&mut self, (least, most): (u64, u64)) -> u64 {
        least + self.next() % (most.saturating_sub(least) + 1)
    }
}

/// What is scheduled.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Sort {
    /// Captures of ships.
    Captures,
    /// Tasks that do nothing.
    Echoes,
}

impl Sort {
    /// A schedule so far ahead of now, and when it starts, in milliseconds since 1970.
    pub(super) fn body(self, draws: &mut Draws, ahead_ms: u64) -> (String, i64) {
        let ahead = TimeDelta::milliseconds(i64::try_from(ahead_ms).unwrap_or(i64::MAX));
        let start = SystemClock.wall() + ahead;
        let start_time = start.to_rfc3339_opts(SecondsFormat::Millis, true);
        let body = match self {
            Self::Captures => {
                let place = draws.between((0, SHIPS.len() as u64 - 1));
                let ship_name = usize::try_from(place).ok().and_then(|place| SHIPS.get(place));
                let duration = draws.between(DURATION_SECONDS);
                json!({"ship_name": ship_name, "start_time": start_time, "duration": duration})
            }
            Self::Echoes => {
                json!({"kind": echo::KIND, "payload": "bench", "start_time": start_time})
            }
        };
        (body.to_string(), start.timestamp_millis())
    }
}

/// What to do, and for how long.
#[derive(Debug, Clone)]
pub(super) struct Plan {
    pub(super) target: Target,
    pub(super) sort: Sort,
    /// How many do it at once.
    pub(super) users: u64,
    /// They wait as people do, and look at the list now and then.
    pub(super) is_human: bool,
    /// How far ahead schedules start, at least and at most, in milliseconds.
    pub(super) ahead_ms: (u64, u64),
    pub(super) duration: Option<Duration>,
    pub(super) posts_max: u64,
}

/// What came of it.
#[derive(Debug)]
pub(super) struct Tally {
    pub(super) posted: u64,
    pub(super) listed: u64,
    pub(super) posts: Times,
    pub(super) lists: Times,
    pub(super) errors: BTreeMap<String, u64>,
    /// From the first request to the last answer.
    pub(super) elapsed: Duration,
}

struct Shared {
    plan: Plan,
    life: Lifecycle,
    began: Instant,
    posts_left: Cell<u64>,
    tally: RefCell<Tally>,
}

/// Runs the load to its end; `tick` is told now and then how many schedules were made, and how long
/// it has been running.
pub(super) fn run(
    runtime: &tokio::runtime::Runtime,
    plan: Plan,
    draws: &mut Draws,
    life: &Lifecycle,
    mut tick: impl FnMut(u64, Duration),
) -> Tally {
    let users = plan.users;
    let shared = Rc::new(Shared {
        posts_left: Cell::new(plan.posts_max),
        plan,
        life: life.clone(),
        began: Instant::now(),
        tally: RefCell::new(Tally::none()),
    });
    let seeds: Vec<u64> = (0..users).map(|_| draws.next()).collect();
    LocalSet::new().block_on(runtime, async {
        let mut acting = JoinSet::new();
        for seed in seeds {
            let shared = Rc::clone(&shared);
            acting.spawn_local(async move { shared.act(Draws(seed)).await });
        }
        let mut ticks = interval(TICK);
        ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
        loop {
            tokio::select! {
                ended = acting.join_next() => if ended.is_none() { return },
                _ = ticks.tick() => tick(shared.tally.borrow().posted, shared.began.elapsed()),
            }
        }
    });
    Rc::into_inner(shared).map_or_else(Tally::none, |shared| shared.tally.into_inner())
}

impl Tally {
    /// Nothing yet.
    pub(super) fn none() -> Self {
        let (posts, lists) = (Times::new(), Times::new());
        let (errors, elapsed) = (BTreeMap::new(), Duration::ZERO);
        Self { posted: 0, listed: 0, posts, lists, errors, elapsed }
    }
}

impl Shared {
    /// One user, until it is over.
    async fn act(self: Rc<Self>, mut draws: Draws) {
        let mut client = Client::new(self.plan.target.clone());
        loop {
            if self.plan.is_human {
                let wait = Duration::from_millis(draws.between(WAIT_MS));
                tokio::select! {
                    () = sleep(wait) => {}
                    () = self.life.stopping() => {}
                }
            }
            let is_over = self.plan.duration.is_some_and(|time| self.began.elapsed() >= time);
            if is_over || self.life.is_stopping() || self.posts_left.get() == 0 {
                return;
            }
            if self.plan.is_human && draws.between((0, 1)) == 0 {
                let began = Instant::now();
                let listed = client.get("/scheduler/").await;
                self.note(listed.map(|_| false), began);
                continue;
            }
            self.posts_left.set(self.posts_left.get().saturating_sub(1));
            let ahead_ms = draws.between(self.plan.ahead_ms);
            let (body, _) = self.plan.sort.body(&mut draws, ahead_ms);
            let began = Instant::now();
            let posted = client.post("/scheduler/", &body).await;
            self.note(posted.map(|_| true), began);
            if self.tally.borrow().errors.len() >= ERRORS_MAX {
                return;
            }
        }
    }

    /// An answer to a post, or to a look at the list.
    fn note(&self, answered: anyhow::Result<bool>, began: Instant) {
        let mut tally = self.tally.borrow_mut();
        tally.elapsed = self.began.elapsed();
        match answered {
            Ok(true) => {
                tally.posted += 1;
                tally.posts.record(began.elapsed());
            }
            Ok(false) => {
                tally.listed += 1;
                tally.lists.record(began.elapsed());
            }
            Err(error) => *tally.errors.entry(format!("{error:#}")).or_default() += 1,
        }
    }
}

/// The text of a member of an answer.
pub(super) fn text<'a>(value: &'a Value, name: &str) -> &'a str {
    value.get(name).and_then(Value::as_str).unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use chrono::DateTime;

    use super::*;

    #[test]
    fn draws_stay_between_their_bounds_and_differ() {
        let mut draws = Draws::new().unwrap();
        let drawn: Vec<u64> = (0..1000).map(|_| draws.between((3, 7))).collect();
        assert!(drawn.iter().all(|number| (3..=7).contains(number)));
        assert!((3..=7).all(|number| drawn.contains(&number)));
        assert_eq!(draws.between((9, 9)), 9);
    }

    #[test]
    fn a_schedule_is_one_and_starts_when_it_says() {
        let mut draws = Draws::new().unwrap();
        for (sort, member) in [(Sort::Captures, "ship_name"), (Sort::Echoes, "kind")] {
            let (body, start_ms) = sort.body(&mut draws, 5000);
            let body: Value = serde_json::from_str(&body).unwrap();
            assert!(!text(&body, member).is_empty());
            let start = DateTime::parse_from_rfc3339(text(&body, "start_time")).unwrap();
            assert_eq!(start.timestamp_millis(), start_ms);
        }
    }
}
