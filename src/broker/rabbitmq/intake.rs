//! Takes deliveries of the broker into the state environment: one transaction, then an ack.
//!
//! Packets that were taken before are dropped, the others appended, and remembered by their ids,
//! all in the transaction that makes them durable. So a delivery that comes again, for whatever
//! reason, changes nothing; the broker's `redelivered` flag is no evidence of anything.
//!
//! What carries no id of ours comes from somebody else and is checked as a request would be. What
//! is no entry gets its place in the shard all the same, as a dead letter with its reason.

use std::sync::Arc;

use lapin::message::Delivery;
use tokio::sync::oneshot;

use super::doubles;
use super::id::PacketId;
use super::taken::Taken;
use crate::broker::append::{Appender, shard_end};
use crate::broker::frame::LINES_BYTES_MAX;
use crate::broker::frames::waiting_bytes;
use crate::broker::retry::{self, Retry};
use crate::message::{Lines, OffsetRange, ShardKey};
use crate::state::{Job, State, StateError, WriteTxn};

/// Reads a body that somebody else has published: its lines, or what is wrong with it.
pub type Check = fn(&[u8]) -> Result<Lines, String>;

/// Whose the packets are that carry an id of ours.
pub(super) const APP_ID: &str = env!("CARGO_PKG_NAME");

/// What a delivery holds.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Packet {
    id: Option<PacketId>,
    lines: Lines,
    /// Why it is no entry; its line is then what it was, as a JSON value.
    wrong: Option<String>,
}

impl Packet {
    /// Reads a delivery.
    pub(super) fn read(delivery: Delivery, check: Check) -> Self {
        let properties = &delivery.properties;
        let ours = properties.app_id().as_ref().is_some_and(|id| id.as_str() == APP_ID);
        let id = properties.message_id().as_ref().filter(|_| ours);
        let id = id.and_then(|id| id.as_str().parse().ok());
        Self::of(id, delivery.data, check)
    }

    fn of(id: Option<PacketId>, mut body: Vec<u8>, check: Check) -> Self {
        // What we have published was checked before: lines of one frame, or one without its end.
        if id.is_some() && !body.is_empty() && body.len() <= LINES_BYTES_MAX {
            let mut count = memchr::memchr_iter(b'\n', &body).count();
            if count == 0 {
                body.push(b'\n');
                count = 1;
            }
            if body.ends_with(b"\n") {
                let count = u32::try_from(count).unwrap_or(u32::MAX);
                return Self { id, lines: Lines { bytes: body, count }, wrong: None };
            }
        }
        match check(&body) {
            Ok(lines) => Self { id, lines, wrong: None },
            Err(reason) => {
                let mut lines = Lines::default();
                lines.push(&as_json(&body));
                Self { id, lines, wrong: Some(reason) }
            }
        }
    }

    pub(super) const fn bytes(&self) -> usize {
        self.lines.bytes.len()
    }
}

/// Any bytes as a JSON value on one line: a text as a string, anything else in base64 (RFC 4648).
fn as_json(body: &[u8]) -> Vec<u8> {
    use base64::Engine;
    use base64::engine::general_purpose::STANDARD;
    let value = match std::str::from_utf8(body) {
        Ok(text) => serde_json::json!({ "body": text }),
        Err(_) => serde_json::json!({ "body_base64": STANDARD.encode(body) }),
    };
    value.to_string().into_bytes()
}

/// What became of deliveries that were taken together.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(super) struct Report {
    /// Packets that were taken before.
    pub(super) known: u64,
    /// Packets that are no entries.
    pub(super) wrong: u64,
    /// Bytes of lines that wait in the shard now.
    pub(super) waiting_bytes: u64,
}

/// Deliveries of one shard, in their order, to be taken together.
pub(super) struct Intake {
    state: State,
    key: ShardKey,
    packets: Arc<Vec<Packet>>,
    keyed_max: u64,
    now_ms: u64,
    outcome: Result<Report, StateError>,
    reply: oneshot::Sender<Result<Report, StateError>>,
}

impl Intake {
    /// A transaction's part that takes `packets`; the answer comes when it is synced.
    pub(super) fn new(
        state: &State,
        key: ShardKey,
        packets: &Arc<Vec<Packet>>,
        keyed_max: u64,
        now_ms: u64,
    ) -> (Box<Self>, oneshot::Receiver<Result<Report, StateError>>) {
        let (reply, answer) = oneshot::channel();
        let (state, packets) = (state.clone(), Arc::clone(packets));
        let outcome = Err(StateError::Stopped);
        (Box::new(Self { state, key, packets, keyed_max, now_ms, outcome, reply }), answer)
    }

    fn take(&self, txn: &mut WriteTxn<'_>) -> Result<Report, StateError> {
        let key = self.key;
        let (mut report, mut dead) = (Report::default(), Vec::new());
        let mut appender = Appender::new(self.now_ms);
        let mut taken = Taken::new(key, self.keyed_max, self.now_ms);
        for packet in self.packets.iter() {
            if let Some(id) = packet.id
                && taken.holds(txn, id)?
            {
                report.known += 1;
                continue;
            }
            let range = appender.append(txn, key, &packet.lines)?;
            if let Some(reason) = &packet.wrong {
                dead.push(self.dead(range, reason));
                report.wrong += 1;
            }
            if let Some(id) = packet.id {
                taken.add(txn, id)?;
                doubles::note(txn, key, range, id)?;
            }
        }
        appender.finish(txn)?;
        doubles::forget(txn, key, shard_end(&txn.txn, txn.tables, key)?.offset)?;
        taken.finish(txn)?;
        retry::store(txn, key, &in_runs(dead))?;
        report.waiting_bytes = waiting_bytes(&txn.txn, txn.tables, key)?;
        Ok(report)
    }

    fn dead(&self, range: OffsetRange, reason: &str) -> Retry {
        let (reason, failed_ms) = (retry::reason(reason), self.now_ms);
        Retry { range, batch: range, attempts: 0, reason, failed_ms, dead: true }
    }
}

/// Neighbours are one batch, and so go into one file.
fn in_runs(mut dead: Vec<Retry>) -> Vec<Retry> {
    for run in dead.chunk_by_mut(|one, next| one.range.end == next.range.first) {
        let ends = run.first().zip(run.last()).map(|(first, last)| (first.range, last.range));
        let Some((first, last)) = ends else { continue };
        run.iter_mut().for_each(|row| row.batch = OffsetRange::new(first.first, last.end));
    }
    dead
}

impl Job for Intake {
    fn apply(&mut self, txn: &mut WriteTxn<'_>) -> Result<(), StateError> {
        // Without room nothing is taken, so that draining always can go on.
        if let Err(full) = self.state.room_to_publish() {
            self.outcome = Err(full);
            return Ok(());
        }
        self.outcome = Ok(self.take(txn)?);
        Ok(())
    }

    fn settle(self: Box<Self>, outcome: Result<(), StateError>) {
        // Whoever has stopped waiting does not ack: the deliveries come again, and are known.
        let _gone = self.reply.send(outcome.and(self.outcome));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn check(body: &[u8]) -> Result<Lines, String> {
        let mut lines = Lines::default();
        lines.push(body);
        if body == b"good" { Ok(lines) } else { Err("bad".to_owned()) }
    }

    #[test]
    fn what_is_ours_is_taken_as_it_is_and_what_is_not_is_checked() {
        let id = Some(PacketId::OfSession([7; 16], 3));
        let lines = |text: &str, count| Lines { bytes: text.as_bytes().to_vec(), count };
        let packet = |id, body: &[u8]| Packet::of(id, body.to_vec(), check);
        assert_eq!(packet(id, b"a\nb\n"), Packet { id, lines: lines("a\nb\n", 2), wrong: None });
        assert_eq!(packet(id, b"a"), Packet { id, lines: lines("a\n", 1), wrong: None });
        assert_eq!(
            packet(None, b"good"),
            Packet { id: None, lines: lines("good\n", 1), wrong: None }
        );
        let wrong = Some("bad".to_owned());
        let text = lines("{\"body\":\"a\\nb\"}\n", 1);
        assert_eq!(packet(None, b"a\nb"), Packet { id: None, lines: text, wrong: wrong.clone() });
        let bytes = lines("{\"body_base64\":\"/w==\"}\n", 1);
        assert_eq!(packet(None, b"\xff"), Packet { id: None, lines: bytes, wrong: wrong.clone() });
        // Half a line, nothing, or more than a frame holds is nothing that we have published.
        assert_eq!(packet(id, b"a\nb").wrong, wrong);
        assert_eq!(packet(id, b"").wrong, wrong);
        assert_eq!(packet(id, &vec![b'a'; LINES_BYTES_MAX + 1]).wrong, wrong);
    }
}
