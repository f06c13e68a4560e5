//! `oracle task-load`: clients that submit and cancel tasks and keep a ledger of the outcomes.

use std::time::{Duration, Instant};

use crate::args::Flags;
use crate::caller::{Caller, Wrong};
use crate::http::Answer;
use crate::json;
use crate::ledger::Ledger;
use crate::plan::Plan;
use crate::random::SplitMix64;
use crate::work::Work;

const RECONNECT_PAUSE: Duration = Duration::from_millis(20);
/// How long after the run's end requests are still repeated to learn their outcome.
const SETTLE: Duration = Duration::from_secs(30);
/// So many of the tasks submitted last may be cancelled.
const RECENT: usize = 40;

/// What became of everything.
#[derive(Default)]
struct Totals {
    acked_requests: u64,
    acked_tasks: u64,
    unknown_requests: u64,
    refused_requests: u64,
    cancels: u64,
    wrong: Wrong,
}

impl Totals {
    fn add(&mut self, other: Self) {
        self.acked_requests += other.acked_requests;
        self.acked_tasks += other.acked_tasks;
        self.unknown_requests += other.unknown_requests;
        self.refused_requests += other.refused_requests;
        self.cancels += other.cancels;
        self.wrong.add(&other.wrong);
    }

    fn to_json(&self) -> String {
        self.wrong.summary(&[
            ("acked_requests", self.acked_requests),
            ("acked_tasks", self.acked_tasks),
            ("unknown_requests", self.unknown_requests),
            ("refused_requests", self.refused_requests),
            ("cancels", self.cancels),
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

/// A request to submit tasks.
struct Request {
    name: String,
    /// The ids of its tasks, unless the server gives them.
    ids: Vec<String>,
    /// What the ledger says of them.
    tasks: String,
    bytes: Vec<u8>,
    /// Whether it is repeated until its outcome is known.
    is_repeated: bool,
}

/// One connection's worth of load.
struct Client<'a> {
    plan: &'a Plan,
    ledger: Ledger,
    number: u64,
    random: SplitMix64,
    /// For what must differ from that of every other run.
    names: SplitMix64,
    caller: Caller<'a>,
    requests: u64,
    recent: Vec<String>,
    totals: Totals,
}

impl<'a> Client<'a> {
    fn new(plan: &'a Plan, ledger: Ledger, number: u64) -> Self {
        Self {
            plan,
            ledger,
            number,
            random: SplitMix64::new(plan.seed, number),
            names: SplitMix64::new(plan.now_ms, number),
            caller: Caller::new(plan),
            requests: 0,
            recent: Vec::new(),
            totals: Totals::default(),
        }
    }

    fn run(mut self) -> Result<Totals, String> {
        while !self.plan.is_over() {
            match self.random.below(100) {
                0..=14 if !self.recent.is_empty() => self.cancel()?,
                0..=39 => {
                    let request = self.factorial();
                    self.submit(&request)?;
                }
                _ => {
                    let request = self.tasks();
                    self.submit(&request)?;
                }
            }
            std::thread::sleep(self.plan.pause);
        }
        Ok(self.totals)
    }

    fn tasks(&mut self) -> Request {
        let most = if self.random.chance(50) { 3 } else { 20 };
        let (mut entries, mut tasks, mut ids) = (Vec::new(), Vec::new(), Vec::new());
        for _ in 0..self.random.between(1, most) {
            let (work, id) = (Work::draw(&mut self.random), self.id());
            entries.push(work.entry(&id));
            tasks.push(format!("{id}:{work}"));
            ids.push(id);
        }
        let (name, is_repeated) = (self.name(), self.random.chance(50));
        let (media_type, body) = match self.random.chance(50) {
            true => ("application/x-ndjson", entries.join("\n") + "\n"),
            false => ("application/json", format!("[{}]", entries.join(","))),
        };
        let headers = format!("Content-Type: {media_type}\r\n");
        let bytes = self.caller.request("POST", "/tasks", &headers, &body);
        Request { name, ids, tasks: tasks.join(" "), bytes, is_repeated }
    }

    /// Its id is the server's, so that only a repeated one is ever known.
    fn factorial(&mut self) -> Request {
        let (name, work) = (self.name(), Work::draw_factorial(&mut self.random));
        let headers = format!("Content-Type: application/json\r\nIdempotency-Key: {name}\r\n");
        let body = format!("{{\"input\":{}}}", work.size);
        let bytes = self.caller.request("POST", "/factorial", &headers, &body);
        Request { name, ids: Vec::new(), tasks: format!("-:{work}"), bytes, is_repeated: true }
    }

    fn name(&mut self) -> String {
        self.requests += 1;
        format!("r{:x}-{}-{}", self.plan.now_ms, self.number, self.requests)
    }

    /// A new UUID of version 7 (RFC 9562).
    fn id(&mut self) -> String {
        let (run, one, two) = (self.plan.now_ms, self.names.next(), self.names.next());
        let (high, low) = (run >> 16 & 0xffff_ffff, run & 0xffff);
        let (version, variant) = (0x7000 | one & 0xfff, 0x8000 | two & 0x3fff);
        format!("{high:08x}-{low:04x}-{version:04x}-{variant:04x}-{:012x}", two >> 16)
    }

    fn submit(&mut self, request: &Request) -> Result<(), String> {
        let Request { name, tasks, .. } = request;
        self.ledger.record(format!("sent {name} {tasks}\n"))?;
        let (mut doubtful, mut over_since) = (false, None);
        loop {
            let answer = self.caller.exchange(&request.bytes);
            match answer {
                Some(answer) if matches!(answer.status, 200 | 201) => {
                    return self.accepted(request, &answer);
                }
                Some(answer) if answer.status == 507 && !doubtful => {
                    self.totals.refused_requests += 1;
                    return self.ledger.record(format!("refused {name} 507\n"));
                }
                Some(answer) if matches!(answer.status, 400..=428 | 430..=499) => {
                    self.totals.wrong.note("a submission", &answer);
                    return self.ledger.record(format!("unknown {name}\n"));
                }
                _ => doubtful = true,
            }
            let is_over = self.plan.is_over()
                && over_since.get_or_insert_with(Instant::now).elapsed() >= SETTLE;
            if !request.is_repeated || is_over {
                self.totals.unknown_requests += 1;
                return self.ledger.record(format!("unknown {name}\n"));
            }
            std::thread::sleep(RECONNECT_PAUSE);
        }
    }

    fn accepted(&mut self, request: &Request, answer: &Answer) -> Result<(), String> {
        let Request { name, ids, .. } = request;
        self.totals.acked_requests += 1;
        let ids = match ids.is_empty() {
            false => {
                if accepted_ids(&answer.body).as_ref() != Ok(ids) {
                    self.totals.wrong.note("a submission", answer);
                }
                self.ledger.record(format!("acked {name}\n"))?;
                ids.clone()
            }
            true => {
                let Some(id) = member(&answer.body, "id") else {
                    self.totals.wrong.note("a calculation", answer);
                    return Ok(());
                };
                self.ledger.record(format!("acked {name} {id}\n"))?;
                vec![id]
            }
        };
        self.totals.acked_tasks += u64::try_from(ids.len()).unwrap_or(0);
        self.recent.extend(ids);
        let old = self.recent.len().saturating_sub(RECENT);
        self.recent.drain(..old);
        Ok(())
    }

    /// Cancels one of the tasks submitted last; the answer may get lost.
    fn cancel(&mut self) -> Result<(), String> {
        let number = self.random.below(u64::try_from(self.recent.len()).unwrap_or(0));
        let id = self.recent.swap_remove(usize::try_from(number).unwrap_or(0));
        self.ledger.record(format!("cancel {id}\n"))?;
        self.totals.cancels += 1;
        let bytes = self.caller.request("DELETE", &format!("/tasks/{id}"), "", "");
        match self.caller.exchange(&bytes) {
            Some(answer) if answer.status == 200 => {
                if member(&answer.body, "state").as_deref() != Some("cancelled") {
                    self.totals.wrong.note("a cancellation", &answer);
                }
                self.ledger.record(format!("cancelled {id}\n"))
            }
            Some(answer) if answer.status == 409 => self.ledger.record(format!("late {id}\n")),
            Some(answer) if answer.status == 404 => {
                self.totals.wrong.note("a cancellation", &answer);
                Ok(())
            }
            _ => Ok(()),
        }
    }
}

/// The ids that a 201 names, if it also counts them right.
fn accepted_ids(body: &str) -> Result<Vec<String>, json::Fault> {
    let (mut ids, mut accepted) = (Vec::new(), None);
    let mut inner = Ok(());
    json::members(body, &mut |name, value| match name {
        "accepted" => accepted = value.parse().ok(),
        "ids" => {
            inner = json::elements(value, &mut |id| ids.push(id.trim_matches('"').to_owned()));
        }
        _ => {}
    })?;
    inner?;
    if accepted == Some(ids.len()) { Ok(ids) } else { Err("a wrong count") }
}

/// The text that the object `body` has under `name`.
pub(crate) fn member(body: &str, name: &str) -> Option<String> {
    let mut found = None;
    json::members(body, &mut |member, value| {
        if member == name {
            found = Some(value.trim_matches('"').to_owned());
        }
    })
    .ok()?;
    found
}

#[cfg(test)]
mod tests {
    use super::{Client, accepted_ids, member};
    use crate::args::Flags;
    use crate::ledger::Ledger;
    use crate::plan::Plan;

    #[test]
    fn ids_are_uuids_and_never_the_same() {
        let words = "--url http://127.0.0.1:1 --ledger l".split(' ').map(String::from);
        let plan = Plan::read(&Flags::parse(words, &["--url", "--ledger"], &[]).unwrap()).unwrap();
        let path = std::env::temp_dir().join(format!("oracle-task-ids-{}", std::process::id()));
        let (ledger, _) = Ledger::open(&path).unwrap();
        let mut ids = Vec::new();
        for number in 0..2 {
            let mut client = Client::new(&plan, ledger.clone(), number);
            ids.extend((0..100).map(|_| client.id()));
        }
        std::fs::remove_file(path).unwrap();
        for id in &ids {
            let lengths: Vec<_> = id.split('-').map(str::len).collect();
            assert_eq!(lengths, [8, 4, 4, 4, 12], "{id}");
            assert!(id.as_bytes()[14] == b'7' && b"89ab".contains(&id.as_bytes()[19]), "{id}");
        }
        ids.sort();
        ids.dedup();
        assert_eq!(ids.len(), 200);
    }

    #[test]
    fn answers_are_read_and_wrong_counts_seen() {
        assert_eq!(accepted_ids(r#"{"accepted":2,"ids":["a","b"]}"#).unwrap(), ["a", "b"]);
        assert!(accepted_ids(r#"{"accepted":1,"ids":["a","b"]}"#).is_err());
        assert!(accepted_ids(r#"{"ids":[]}"#).is_err());
        assert_eq!(member(r#"{"id":"a","state":"cancelled"}"#, "state").unwrap(), "cancelled");
    }
}
