//! `oracle ship-load`: clients that schedule captures, cancel and delete some of them, and keep a
//! ledger of the outcomes.

use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use crate::args::Flags;
use crate::caller::{Caller, Wrong};
use crate::http::Answer;
use crate::ledger::Ledger;
use crate::plan::Plan;
use crate::random::SplitMix64;
use crate::ship_book::Wish;
use crate::task_load::member;

const RECONNECT_PAUSE: Duration = Duration::from_millis(20);
/// How long after the run's end requests are still repeated to learn their outcome.
const SETTLE: Duration = Duration::from_secs(30);
/// So many of the schedules made last may be cancelled.
const RECENT: usize = 10;

/// What became of everything.
#[derive(Default)]
struct Totals {
    accepted: u64,
    unknown: u64,
    /// Their start had passed until they came to be read.
    refused: u64,
    cancels: u64,
    deletes: u64,
    wrong: Wrong,
}

impl Totals {
    fn add(&mut self, other: Self) {
        self.accepted += other.accepted;
        self.unknown += other.unknown;
        self.refused += other.refused;
        self.cancels += other.cancels;
        self.deletes += other.deletes;
        self.wrong.add(&other.wrong);
    }

    fn to_json(&self) -> String {
        self.wrong.summary(&[
            ("accepted", self.accepted),
            ("unknown", self.unknown),
            ("refused", self.refused),
            ("cancels", self.cancels),
            ("deletes", self.deletes),
        ])
    }
}

/// Runs the load; returns the JSON summary and whether every answer was right.
pub(crate) fn run(flags: &Flags) -> Result<(String, bool), String> {
    let plan = Plan::read(flags)?;
    if !plan.has_end() {
        return Err("one of --seconds and --stop-file is needed".to_owned());
    }
    let mut totals = Totals::default();
    for one in plan.run(|ledger, number| Client::new(&plan, ledger, number).run())? {
        totals.add(one);
    }
    Ok((totals.to_json(), totals.wrong.answers == 0))
}

/// One connection's worth of load.
struct Client<'a> {
    plan: &'a Plan,
    ledger: Ledger,
    number: u64,
    random: SplitMix64,
    caller: Caller<'a>,
    requests: u64,
    /// Ships with the ids of their schedules.
    recent: Vec<(String, String)>,
    totals: Totals,
}

impl<'a> Client<'a> {
    fn new(plan: &'a Plan, ledger: Ledger, number: u64) -> Self {
        Self {
            plan,
            ledger,
            number,
            random: SplitMix64::new(plan.seed, number),
            caller: Caller::new(plan),
            requests: 0,
            recent: Vec::new(),
            totals: Totals::default(),
        }
    }

    fn run(mut self) -> Result<Totals, String> {
        while !self.plan.is_over() {
            match self.random.below(100) {
                0..=9 if !self.recent.is_empty() => self.cancel()?,
                10..=15 if !self.recent.is_empty() => self.delete()?,
                _ => self.schedule()?,
            }
            std::thread::sleep(self.plan.pause);
        }
        Ok(self.totals)
    }

    fn schedule(&mut self) -> Result<(), String> {
        self.requests += 1;
        let ship = format!("ship-{:x}-{}-{}", self.plan.now_ms, self.number, self.requests);
        let wish = Wish::draw(&mut self.random, now_ms()?);
        // With a key it is repeated until its outcome is known.
        let is_repeated = self.random.chance(50);
        let key = if is_repeated { format!("Idempotency-Key: {ship}\r\n") } else { String::new() };
        let request = self.caller.request("POST", "/scheduler/", &key, &wish.body(&ship));
        self.ledger.record(format!("sent {ship} {wish}\n"))?;
        let (mut is_doubtful, mut over_since) = (false, None);
        loop {
            match self.caller.exchange(&request) {
                Some(answer) if answer.status == 201 => return self.accepted(ship, &answer),
                Some(answer) if matches!(answer.status, 400..=428 | 430..=499) => {
                    if answer.status != 400 || !answer.body.contains("in the future") {
                        self.totals.wrong.note("a schedule", &answer);
                    }
                    // An earlier try may be on its way still, in a database that was paused.
                    if is_doubtful {
                        break;
                    }
                    self.totals.refused += 1;
                    return self.ledger.record(format!("refused {ship} {}\n", answer.status));
                }
                _ => is_doubtful = true,
            }
            let is_over = self.plan.is_over()
                && over_since.get_or_insert_with(Instant::now).elapsed() >= SETTLE;
            if !is_repeated || is_over {
                break;
            }
            std::thread::sleep(RECONNECT_PAUSE);
        }
        self.totals.unknown += 1;
        self.ledger.record(format!("unknown {ship}\n"))
    }

    fn accepted(&mut self, ship: String, answer: &Answer) -> Result<(), String> {
        let (id, named) = (member(&answer.body, "id"), member(&answer.body, "ship_name"));
        let Some(id) = id.filter(|_| named.as_ref() == Some(&ship)) else {
            self.totals.wrong.note("a schedule", answer);
            return Ok(());
        };
        self.totals.accepted += 1;
        self.ledger.record(format!("acked {ship} {id}\n"))?;
        self.recent.push((ship, id));
        let old = self.recent.len().saturating_sub(RECENT);
        self.recent.drain(..old);
        Ok(())
    }

    fn any(&mut self) -> (String, String) {
        let number = self.random.below(u64::try_from(self.recent.len()).unwrap_or(0));
        self.recent.swap_remove(usize::try_from(number).unwrap_or(0))
    }

    /// Cancels one of the schedules made last; the answer may get lost.
    fn cancel(&mut self) -> Result<(), String> {
        let (ship, id) = self.any();
        self.ledger.record(format!("cancel {ship}\n"))?;
        self.totals.cancels += 1;
        let request = self.caller.request("POST", &format!("/scheduler/{id}/cancel"), "", "");
        match self.caller.exchange(&request) {
            Some(answer) if answer.status == 200 => {
                if member(&answer.body, "state").as_deref() != Some("cancelled") {
                    self.totals.wrong.note("a cancellation", &answer);
                }
                self.ledger.record(format!("cancelled {ship}\n"))
            }
            Some(answer) if answer.status == 409 => self.ledger.record(format!("late {ship}\n")),
            Some(answer) if answer.status < 500 => {
                self.totals.wrong.note("a cancellation", &answer);
                Ok(())
            }
            _ => Ok(()),
        }
    }

    /// Deletes one of the schedules made last; the answer may get lost.
    fn delete(&mut self) -> Result<(), String> {
        let (ship, id) = self.any();
        self.ledger.record(format!("delete {ship}\n"))?;
        self.totals.deletes += 1;
        let request = self.caller.request("DELETE", &format!("/scheduler/{id}"), "", "");
        match self.caller.exchange(&request) {
            Some(answer) if answer.status == 200 => self.ledger.record(format!("deleted {ship}\n")),
            Some(answer) if answer.status < 500 => {
                self.totals.wrong.note("a deletion", &answer);
                Ok(())
            }
            _ => Ok(()),
        }
    }
}

fn now_ms() -> Result<u64, String> {
    let since_1970 = SystemTime::now().duration_since(UNIX_EPOCH);
    let ms = since_1970.map_err(|error| error.to_string())?.as_millis();
    u64::try_from(ms).map_err(|error| error.to_string())
}
