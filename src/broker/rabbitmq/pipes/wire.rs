//! Messages of the pipes as the broker carries them.
//!
//! A task: the payload as it is; `message_id` and `correlation_id` are its id, `type` its kind, the
//! header `attempt` its attempt. What lacks one of them is somebody else's task.
//!
//! What a worker says, by its `type`:
//!
//! | type | ids | headers | body |
//! |---|---|---|---|
//! | `part` | the task's | `attempt`, `index` | the part |
//! | `result` | the task's | `attempt`, `at-ms`, `outcome` (JSON) | the head of the result |
//! | `beat` | | | JSON: `worker`, `running` |
//! | `retired` | | | JSON: the worker |
//! | `probe` | | | JSON: the server, the number |
//! | none | the task's, or as it came with | `outcome`, unless it is finished | the whole result |

use lapin::BasicProperties;
use lapin::message::Delivery;
use lapin::types::{AMQPValue, FieldTable};
use serde::{Deserialize, Serialize};

use crate::broker::pipes::{FOREIGN_BYTES_MAX, Reference, Said, Tag, Taken, TaskMessage};
use crate::broker::rabbitmq::intake::APP_ID;
use crate::task::{Attempt, Beat, Name, Outcome, PART_BYTES, ResultHead, TaskId, WorkerId};

const PERSISTENT: u8 = 2;
const ATTEMPT: &str = "attempt";
const INDEX: &str = "index";
const OUTCOME: &str = "outcome";
const AT_MS: &str = "at-ms";
const BEGAN_AT_MS: &str = "began-at-ms";
const EXPIRES_AT_MS: &str = "expires-at-ms";
const PART: &str = "part";
const RESULT: &str = "result";
const BEAT: &str = "beat";
const RETIRED: &str = "retired";
const PROBE: &str = "probe";
/// The kind of somebody else's tasks.
const FOREIGN_KIND: &str = "task";

/// A sign of life, as JSON.
#[derive(Serialize, Deserialize)]
struct BeatBody {
    worker: WorkerId,
    running: Vec<Beat>,
}

fn plain() -> BasicProperties {
    BasicProperties::default().with_delivery_mode(PERSISTENT).with_app_id(APP_ID.into())
}

fn of_task(id: TaskId, kind: &str, headers: FieldTable) -> BasicProperties {
    let id = id.to_string();
    let ids = plain().with_message_id(id.as_str().into()).with_correlation_id(id.into());
    ids.with_type(kind.into()).with_headers(headers)
}

fn number(value: impl Into<i64>) -> AMQPValue {
    AMQPValue::LongLongInt(value.into())
}

/// The properties of a task; its body is the payload.
pub(super) fn task_properties(task: &TaskMessage) -> BasicProperties {
    let mut headers = FieldTable::default();
    headers.insert(ATTEMPT.into(), number(task.attempt));
    if let Some(expires_at_ms) = task.expires_at_ms {
        headers.insert(EXPIRES_AT_MS.into(), number(expires_at_ms));
    }
    of_task(task.id, task.kind.as_str(), headers)
}

/// Reads a task that was delivered from the queue of an endpoint, or the shared one.
pub(super) fn taken(tag: Tag, delivery: Delivery, endpoint: Option<&Name>) -> Taken {
    let properties = &delivery.properties;
    let is_again = delivery.redelivered;
    let endpoint = endpoint.cloned();
    let text = |value: &Option<lapin::types::ShortString>| {
        value.as_ref().map(|value| value.as_str().to_owned())
    };
    let (message_id, correlation_id) =
        (text(properties.message_id()), text(properties.correlation_id()));
    let kind = text(properties.kind()).and_then(|kind| kind.parse::<Name>().ok());
    let attempt = header(properties, ATTEMPT).and_then(|value| Attempt::try_from(value).ok());
    let id = message_id.as_ref().and_then(|id| id.parse::<TaskId>().ok());
    if let (Some(id), Some(attempt), Some(kind)) = (id, attempt, kind) {
        let expires_at_ms = header(properties, EXPIRES_AT_MS);
        let payload = delivery.data;
        let task = TaskMessage { id, attempt, kind, endpoint, expires_at_ms, payload };
        return Taken { tag, task, reference: None, is_again };
    }
    let task = TaskMessage {
        id: TaskId::new(),
        attempt: 0,
        kind: foreign_kind(),
        endpoint,
        expires_at_ms: None,
        payload: delivery.data,
    };
    Taken { tag, task, reference: Some(Reference { correlation_id, message_id }), is_again }
}

fn foreign_kind() -> Name {
    #[expect(clippy::expect_used, reason = "it is a name, as the tests below see")]
    FOREIGN_KIND.parse().expect("a name")
}

/// Something said, as a message.
pub(super) fn message(said: Said) -> (BasicProperties, Vec<u8>) {
    let mut headers = FieldTable::default();
    match said {
        Said::Part { id, attempt, index, bytes } => {
            headers.insert(ATTEMPT.into(), number(attempt));
            headers.insert(INDEX.into(), number(index));
            (of_task(id, PART, headers), bytes)
        }
        Said::Ended { id, attempt, outcome, began_at_ms, at_ms } => {
            headers.insert(ATTEMPT.into(), number(attempt));
            if let Some(began_at_ms) = began_at_ms {
                headers.insert(BEGAN_AT_MS.into(), number(began_at_ms));
            }
            headers.insert(AT_MS.into(), number(at_ms));
            headers.insert(OUTCOME.into(), AMQPValue::LongString(json(&outcome).into()));
            let head = match outcome {
                Outcome::Finished(result) => result.head,
                _ => Vec::new(),
            };
            (of_task(id, RESULT, headers), head)
        }
        Said::Beat { worker, running } => (typed(BEAT), json(&BeatBody { worker, running })),
        Said::Retired { worker } => (typed(RETIRED), json(&worker)),
        Said::Probe { by, number } => (typed(PROBE), json(&(by, number))),
        Said::Reply { to, outcome, body } => {
            let mut properties = plain();
            if let Some(id) = to.correlation_id.as_ref().or(to.message_id.as_ref()) {
                properties = properties.with_correlation_id(id.as_str().into());
            }
            if let Some(id) = &to.message_id {
                properties = properties.with_message_id(id.as_str().into());
            }
            if !matches!(outcome, Outcome::Finished(_)) {
                headers.insert(OUTCOME.into(), AMQPValue::LongString(json(&outcome).into()));
                properties = properties.with_headers(headers);
            }
            (properties, body)
        }
        Said::Foreign { id, body } => {
            let id = id.to_string();
            (plain().with_message_id(id.as_str().into()).with_correlation_id(id.into()), body)
        }
        Said::Unclear { .. } => (plain(), Vec::new()),
    }
}

fn typed(kind: &str) -> BasicProperties {
    plain().with_type(kind.into()).with_content_type("application/json".into())
}

fn json(value: &impl Serialize) -> Vec<u8> {
    // Strings, numbers and lists of them: nothing in them cannot be written.
    serde_json::to_vec(value).unwrap_or_default()
}

/// Reads something said.
pub(super) fn said(delivery: Delivery) -> Said {
    let Delivery { properties, data, .. } = delivery;
    let read = match properties.kind().as_ref().map(|kind| kind.as_str()) {
        Some(PART) => part(&properties, data),
        Some(RESULT) => ended(&properties, data),
        Some(BEAT) => serde_json::from_slice::<BeatBody>(&data)
            .map(|BeatBody { worker, running }| Said::Beat { worker, running })
            .map_err(|_| "its sign of life cannot be read"),
        Some(RETIRED) => serde_json::from_slice(&data)
            .map(|worker| Said::Retired { worker })
            .map_err(|_| "the worker that ends cannot be read"),
        Some(PROBE) => serde_json::from_slice(&data)
            .map(|(by, number)| Said::Probe { by, number })
            .map_err(|_| "the probe cannot be read"),
        Some(_) => Err("it has a type that nobody knows"),
        None => foreign(&properties, data),
    };
    read.unwrap_or_else(|reason| Said::Unclear { reason: reason.to_owned() })
}

fn task_id(properties: &BasicProperties) -> Option<TaskId> {
    let ids = [properties.correlation_id(), properties.message_id()];
    ids.into_iter().flatten().find_map(|id| id.as_str().parse().ok())
}

fn part(properties: &BasicProperties, bytes: Vec<u8>) -> Result<Said, &'static str> {
    let (id, attempt) = task(properties)?;
    let index = header(properties, INDEX).and_then(|index| u32::try_from(index).ok());
    let index = index.ok_or("the part has no index")?;
    if bytes.len() > PART_BYTES {
        return Err("the part is too long");
    }
    Ok(Said::Part { id, attempt, index, bytes })
}

fn ended(properties: &BasicProperties, data: Vec<u8>) -> Result<Said, &'static str> {
    let (id, attempt) = task(properties)?;
    let at_ms = header(properties, AT_MS).ok_or("it has no time")?;
    let text = match find(properties, OUTCOME) {
        Some(AMQPValue::LongString(text)) => text.as_bytes(),
        _ => return Err("it has no outcome"),
    };
    let mut outcome = serde_json::from_slice(text).map_err(|_| "its outcome cannot be read")?;
    if let Outcome::Finished(result) = &mut outcome {
        let longest = usize::try_from(result.bytes).unwrap_or(usize::MAX);
        if data.len() != longest.min(ResultHead::BYTES_MAX) {
            return Err("its head has another length than it should");
        }
        result.head = data;
    }
    let began_at_ms = header(properties, BEGAN_AT_MS);
    Ok(Said::Ended { id, attempt, outcome, began_at_ms, at_ms })
}

fn foreign(properties: &BasicProperties, body: Vec<u8>) -> Result<Said, &'static str> {
    let id = task_id(properties).ok_or("it names no task of ours")?;
    if find(properties, OUTCOME).is_some() {
        return Err("it is the answer to somebody else's task");
    }
    if body.len() > FOREIGN_BYTES_MAX {
        return Err("it is longer than a message may be");
    }
    Ok(Said::Foreign { id, body })
}

fn task(properties: &BasicProperties) -> Result<(TaskId, Attempt), &'static str> {
    let id = task_id(properties).ok_or("it names no task")?;
    let attempt = header(properties, ATTEMPT).and_then(|value| Attempt::try_from(value).ok());
    Ok((id, attempt.ok_or("it names no attempt")?))
}

fn find<'a>(properties: &'a BasicProperties, name: &str) -> Option<&'a AMQPValue> {
    properties.headers().as_ref()?.inner().get(name)
}

/// A whole number, in whichever width it was sent.
fn header(properties: &BasicProperties, name: &str) -> Option<i64> {
    Some(match find(properties, name)? {
        AMQPValue::ShortShortInt(value) => i64::from(*value),
        AMQPValue::ShortShortUInt(value) => i64::from(*value),
        AMQPValue::ShortInt(value) => i64::from(*value),
        AMQPValue::ShortUInt(value) => i64::from(*value),
        AMQPValue::LongInt(value) => i64::from(*value),
        AMQPValue::LongUInt(value) => i64::from(*value),
        AMQPValue::LongLongInt(value) => *value,
        _ => return None,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn delivery(properties: BasicProperties, data: Vec<u8>) -> Delivery {
        let mut delivery = Delivery::mock(1, "".into(), "".into(), false, data);
        delivery.properties = properties;
        delivery
    }

    #[test]
    fn what_is_said_is_read_as_it_was_said() {
        let (id, worker) = (TaskId::new(), WorkerId::new());
        let head = |bytes, length: usize| {
            Outcome::Finished(ResultHead { bytes, head: vec![b'7'; length] })
        };
        let ended = |outcome| Said::Ended {
            id,
            attempt: u32::MAX,
            outcome,
            began_at_ms: Some(-9),
            at_ms: -5,
        };
        let failed = Outcome::Failed { reason: "no \"good\"".to_owned(), is_final: true };
        for expected in [
            Said::Part { id, attempt: 1, index: u32::MAX, bytes: vec![0, 255] },
            ended(head(3, 3)),
            ended(head(1 << 30, 1024)),
            ended(failed),
            ended(Outcome::Released),
            Said::Beat { worker, running: vec![Beat { id, attempt: 2, progress: 1000 }] },
            Said::Retired { worker },
            Said::Probe { by: worker, number: u64::MAX },
            Said::Foreign { id, body: b"42".to_vec() },
        ] {
            let (properties, body) = message(expected.clone());
            assert_eq!(said(delivery(properties, body)), expected);
        }
        let to = Reference { correlation_id: Some(id.to_string()), message_id: None };
        let outcome = Outcome::Released;
        let (properties, body) = message(Said::Reply { to, outcome, body: Vec::new() });
        assert!(matches!(said(delivery(properties, body)), Said::Unclear { .. }));
    }

    #[test]
    fn a_head_of_another_length_than_it_should_have_is_no_result() {
        let id = TaskId::new();
        let outcome = Outcome::Finished(ResultHead { bytes: 5, head: b"12345".to_vec() });
        let (properties, _) =
            message(Said::Ended { id, attempt: 1, outcome, began_at_ms: None, at_ms: 0 });
        for body in [&b"1234"[..], b"123456"] {
            let read = said(delivery(properties.clone(), body.to_vec()));
            assert!(matches!(read, Said::Unclear { .. }), "{read:?}");
        }
    }

    #[test]
    fn a_task_is_read_as_it_was_sent_and_somebody_elses_keeps_its_names() {
        let (id, kind): (_, Name) = (TaskId::new(), "echo".parse().unwrap());
        let task = TaskMessage {
            id,
            attempt: 9,
            kind,
            endpoint: None,
            expires_at_ms: Some(7),
            payload: vec![1, 2],
        };
        let tag = Tag { session: 1, number: 1 };
        let properties = task_properties(&task);
        let read = taken(tag, delivery(properties.clone(), vec![1, 2]), None);
        assert_eq!(read, Taken { tag, task, reference: None, is_again: false });
        let foreign = taken(tag, delivery(properties.with_type("no name".into()), vec![3]), None);
        let id = Some(id.to_string());
        let reference = Reference { correlation_id: id.clone(), message_id: id };
        assert_eq!(foreign.reference, Some(reference));
        assert_eq!((foreign.task.attempt, foreign.task.kind.as_str()), (0, "task"));
    }
}
