//! `oracle load`: clients that publish entries with unique ids and keep a ledger of the outcomes.

use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use crate::args::Flags;
use crate::entry;
use crate::http::{Answer, Connection};
use crate::json;
use crate::ledger::Ledger;
use crate::plan::Plan;
use crate::random::SplitMix64;

const RECONNECT_PAUSE: Duration = Duration::from_millis(20);
/// How long after the run's end a request with a key is still repeated to learn its outcome.
const SETTLE: Duration = Duration::from_secs(5);
/// Bodies stay below the 1 MiB that servers commonly take.
const MAX_BODY_BYTES: usize = 900_000;

/// What to send.
struct Load {
    plan: Plan,
    requests: u64,
    entries: u64,
    keys: bool,
    /// Part of every id of this run; no other run has it.
    run: String,
    /// Requests handed out to the connections so far.
    handed_out: AtomicU64,
}

impl Load {
    fn read(flags: &Flags) -> Result<Self, String> {
        let plan = Plan::read(flags)?;
        let load = Self {
            requests: flags.number("--requests", 0)?,
            entries: flags.number("--entries", 20)?.max(1),
            keys: flags.has("--keys"),
            // No process of one machine starts twice in one millisecond with one process id.
            run: format!("{:x}.{:x}", plan.now_ms, std::process::id()),
            handed_out: AtomicU64::new(0),
            plan,
        };
        if load.requests == 0 && !load.plan.has_end() {
            return Err("one of --requests, --seconds and --stop-file is needed".to_owned());
        }
        Ok(load)
    }

    /// Whether a connection may send one more request.
    fn hand_out(&self) -> bool {
        let number = self.handed_out.fetch_add(1, Ordering::Relaxed);
        !self.plan.is_over() && (self.requests == 0 || number < self.requests)
    }
}

/// Requests and entries with one outcome.
#[derive(Clone, Copy, Default)]
struct Count {
    requests: u64,
    entries: u64,
}

impl Count {
    fn add(&mut self, other: Self) {
        self.requests += other.requests;
        self.entries += other.entries;
    }
}

/// What became of the requests.
#[derive(Default)]
struct Totals {
    sent: Count,
    acked: Count,
    refused: Count,
    unknown: Count,
    /// Requests answered 201 with another number of accepted entries than were sent.
    miscounted: u64,
}

impl Totals {
    fn add(&mut self, other: &Self) {
        self.sent.add(other.sent);
        self.acked.add(other.acked);
        self.refused.add(other.refused);
        self.unknown.add(other.unknown);
        self.miscounted += other.miscounted;
    }

    fn to_json(&self, seconds: f64) -> String {
        let counts = [
            ("sent", self.sent),
            ("acked", self.acked),
            ("refused", self.refused),
            ("unknown", self.unknown),
        ];
        let mut text = String::from("{");
        for (name, count) in counts {
            let Count { requests, entries } = count;
            text += &format!(r#""{name}_requests":{requests},"{name}_entries":{entries},"#);
        }
        let per_second = (self.acked.entries as f64 / seconds.max(0.001)).round();
        let miscounted = self.miscounted;
        text += &format!(r#""miscounted_requests":{miscounted},"seconds":{seconds:.3},"#);
        text + &format!(r#""accepted_entries_per_second":{per_second}}}"#)
    }
}

/// Runs the load; returns the JSON summary and whether every answer was consistent.
pub(crate) fn run(flags: &Flags) -> Result<(String, bool), String> {
    let load = Load::read(flags)?;
    let started_at = Instant::now();
    let client = |ledger, number| Client::new(&load, ledger, number).run();
    let mut totals = Totals::default();
    load.plan.run(client)?.iter().for_each(|one| totals.add(one));
    Ok((totals.to_json(started_at.elapsed().as_secs_f64()), totals.miscounted == 0))
}

/// What the answers to one request amount to.
enum Outcome {
    Acked,
    Refused(u16),
    Unknown,
}

struct Request {
    name: String,
    ids: Vec<String>,
    bytes: Vec<u8>,
}

/// One connection's worth of load.
struct Client<'a> {
    load: &'a Load,
    ledger: Ledger,
    number: u64,
    random: SplitMix64,
    connection: Option<Connection>,
    requests: u64,
    entries: u64,
    totals: Totals,
}

impl<'a> Client<'a> {
    fn new(load: &'a Load, ledger: Ledger, number: u64) -> Self {
        Self {
            load,
            ledger,
            number,
            random: SplitMix64::new(load.plan.seed, number),
            connection: None,
            requests: 0,
            entries: 0,
            totals: Totals::default(),
        }
    }

    fn run(mut self) -> Result<Totals, String> {
        // The outcome of a request is written together with the next request: one sync, not two.
        let mut outcome_line = String::new();
        while self.load.hand_out() && self.connect() {
            let request = self.build();
            let sent_line = format!("sent {} {}\n", request.name, request.ids.join(" "));
            self.ledger.record(std::mem::take(&mut outcome_line) + &sent_line)?;
            let outcome = self.settle(&request);
            outcome_line = self.count(&request, &outcome);
            if !matches!(outcome, Outcome::Acked) {
                std::thread::sleep(RECONNECT_PAUSE);
            }
            if !self.load.plan.pause.is_zero() {
                self.ledger.record(std::mem::take(&mut outcome_line))?;
                std::thread::sleep(self.load.plan.pause);
            }
        }
        self.ledger.record(outcome_line)?;
        Ok(self.totals)
    }

    /// Makes sure that there is a connection; false when the run ended first.
    fn connect(&mut self) -> bool {
        while self.connection.is_none() {
            self.connection = Connection::open(self.load.plan.address).ok();
            if self.connection.is_none() {
                if self.load.plan.is_over() {
                    return false;
                }
                std::thread::sleep(RECONNECT_PAUSE);
            }
        }
        true
    }

    fn build(&mut self) -> Request {
        let Load { plan: Plan { seed, .. }, run, .. } = self.load;
        let prefix = format!("{seed}-{run}-{}", self.number);
        self.requests += 1;
        let name = format!("r{prefix}-{}", self.requests);
        let most =
            if self.random.chance(50) { self.load.entries.min(5) } else { self.load.entries };
        let wanted = self.random.between(1, most);
        let mut body = String::from("[");
        let mut ids = Vec::new();
        for _ in 0..wanted {
            if body.len() > MAX_BODY_BYTES {
                break;
            }
            if !ids.is_empty() {
                body.push(',');
            }
            self.entries += 1;
            let id = format!("{prefix}-{}", self.entries);
            body += &entry::build(&mut self.random, &id);
            ids.push(id);
        }
        body.push(']');
        let key =
            if self.load.keys { format!("Idempotency-Key: {name}\r\n") } else { String::new() };
        let head = format!(
            "POST /message HTTP/1.1\r\nHost: {}\r\nContent-Type: application/json\r\n\
             {key}Content-Length: {}\r\n\r\n",
            self.load.plan.authority,
            body.len()
        );
        Request { name, ids, bytes: (head + &body).into_bytes() }
    }

    /// Sends `request`, with a key again and again, until its outcome is known or asking is over.
    fn settle(&mut self, request: &Request) -> Outcome {
        let mut doubtful = false;
        let mut over_since = None;
        loop {
            match self.exchange(request).map(|answer| answer.status) {
                Some(201) => return Outcome::Acked,
                // Still at work on an earlier try, or too many requests: to be asked again.
                Some(409 | 429) if self.load.keys && !self.load.plan.is_over() => (),
                // Nothing was stored this time; an earlier try, if it got lost, may have been.
                Some(status @ (507 | 400..=499)) if !doubtful => return Outcome::Refused(status),
                Some(400..=499) => return Outcome::Unknown,
                _ => doubtful = true,
            }
            if !self.load.keys {
                return Outcome::Unknown;
            }
            if self.load.plan.is_over() {
                let since = *over_since.get_or_insert_with(Instant::now);
                if since.elapsed() >= SETTLE {
                    return Outcome::Unknown;
                }
            }
            std::thread::sleep(RECONNECT_PAUSE);
        }
    }

    /// One try; `None` when the connection failed before the answer was complete.
    fn exchange(&mut self, request: &Request) -> Option<Answer> {
        let mut connection =
            self.connection.take().or_else(|| Connection::open(self.load.plan.address).ok())?;
        let answer = connection.exchange(&request.bytes).ok()?;
        if answer.reusable {
            self.connection = Some(connection);
        }
        if answer.status == 201 && !counts_right(&answer.body, request.ids.len()) {
            self.totals.miscounted += 1;
        }
        Some(answer)
    }

    /// Adds the request to the totals; returns the ledger's line about it.
    fn count(&mut self, request: &Request, outcome: &Outcome) -> String {
        let entries = u64::try_from(request.ids.len()).unwrap_or(u64::MAX);
        let count = Count { requests: 1, entries };
        let name = &request.name;
        self.totals.sent.add(count);
        match outcome {
            Outcome::Acked => {
                self.totals.acked.add(count);
                format!("acked {name}\n")
            }
            Outcome::Refused(status) => {
                self.totals.refused.add(count);
                format!("refused {name} {status}\n")
            }
            Outcome::Unknown => {
                self.totals.unknown.add(count);
                format!("unknown {name}\n")
            }
        }
    }
}

/// Whether the number of accepted entries that a 201 names, if it names one, is `sent`.
fn counts_right(body: &str, sent: usize) -> bool {
    let mut right = true;
    let read = json::members(body, &mut |name, value| {
        if name == "accepted" {
            right = value.parse() == Ok(sent);
        }
    });
    read.is_err() || right
}

#[cfg(test)]
mod tests {
    use super::{Load, counts_right};
    use crate::args::Flags;

    fn load(line: &str) -> Result<Load, String> {
        let words = line.split(' ').map(String::from);
        Load::read(&Flags::parse(words, &["--url", "--ledger", "--requests"], &[])?)
    }

    #[test]
    fn a_run_needs_an_end_and_hands_out_that_many_requests() {
        assert!(load("--url http://127.0.0.1:1 --ledger l").is_err());
        let load = load("--url http://127.0.0.1:1/ --ledger l --requests 3").unwrap();
        assert_eq!(load.plan.authority, "127.0.0.1:1");
        assert_eq!((0..9).filter(|_| load.hand_out()).count(), 3);
    }

    #[test]
    fn a_wrong_number_of_accepted_entries_is_seen() {
        assert!(counts_right(r#"{"accepted": 3, "receipt": null}"#, 3));
        assert!(!counts_right(r#"{"accepted": 2}"#, 3));
        assert!(counts_right(r#"[{"timestamp":"t"}]"#, 3));
    }
}
