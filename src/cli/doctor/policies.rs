//! What policies make of our queues, and on how many nodes each of them lives.

use std::collections::BTreeMap;

use serde_json::{Map, Value};

use super::finding::{Finding, Level};
use crate::broker::rabbitmq::inspect::Part;
use crate::broker::rabbitmq::topology::Format;

const CHECK: &str = "policies";

/// Judges the answer to `/api/queues` for the queues called `names`, in a cluster of so many nodes.
pub(super) fn check(
    format: Format,
    names: &[(String, Part)],
    queues: &Value,
    nodes: usize,
) -> Vec<Finding> {
    let items = queues.get("items").unwrap_or(queues).as_array();
    let items = items.into_iter().flatten();
    let by_name: BTreeMap<_, _> =
        items.filter_map(|queue| Some((queue.get("name")?.as_str()?, queue))).collect();
    let ours = names.iter().filter_map(|(name, part)| Some((by_name.get(name.as_str())?, *part)));
    let ours: Vec<(&Value, Part)> = ours.map(|(queue, part)| (*queue, part)).collect();
    if ours.is_empty() {
        let none = Finding::unknown(CHECK, "there are no queues yet which a policy could change");
        return vec![none.advise("ask again after the first start")];
    }
    let mut findings = weakened(format, &ours);
    if findings.is_empty() {
        let found = format!("none weakens any of {} queues", ours.len());
        findings.push(Finding::ok(CHECK, found));
    }
    findings.extend(members(&ours, nodes));
    findings
}

/// What each policy does to which queues, each told once.
fn weakened(format: Format, queues: &[(&Value, Part)]) -> Vec<Finding> {
    let mut told: BTreeMap<String, (usize, Finding)> = BTreeMap::new();
    for (queue, part) in queues.iter().filter(|(_, part)| *part != Part::Pin) {
        let policy = effective(queue);
        for (key, value) in &policy {
            let Some((level, means)) = judge(format, *part, key, &policy) else { continue };
            let found = format!("{} sets {key} to {value}", policy_names(queue));
            let finding = Finding::new(level, CHECK, found).means(means).advise(
                "change or delete it (rabbitmqctl list_policies, list_operator_policies), or have \
                 its pattern leave out our queues",
            );
            let told = told.entry(format!("{} {means}", finding.found)).or_insert((0, finding));
            told.0 += 1;
        }
    }
    let findings = told.into_values().map(|(count, mut finding)| {
        let queues = if count == 1 { "1 queue".to_owned() } else { format!("{count} queues") };
        finding.found = format!("{} on {queues}", finding.found);
        finding
    });
    findings.collect()
}

/// What policy and operator policy come to together.
fn effective(queue: &Value) -> Map<String, Value> {
    let definition = queue.get("effective_policy_definition").and_then(Value::as_object);
    definition.cloned().unwrap_or_default()
}

fn policy_names(queue: &Value) -> String {
    let name = |key: &str| queue.get(key).and_then(Value::as_str).filter(|name| !name.is_empty());
    let policy = name("policy").map(|name| format!("the policy {name:?}"));
    let operator = name("operator_policy").map(|name| format!("the operator policy {name:?}"));
    match (policy, operator) {
        (Some(policy), Some(operator)) => format!("{policy} or {operator}"),
        (one, other) => one.or(other).unwrap_or_else(|| "a policy".to_owned()),
    }
}

/// How bad it is that a policy sets `key` for a queue, and what it means.
fn judge(
    format: Format,
    part: Part,
    key: &str,
    policy: &Map<String, Value>,
) -> Option<(Level, &'static str)> {
    // Our shards' queues refuse what does not fit, whatever a policy says; others do as told.
    let is_packed = part.is_packed_shard(format);
    let refuses =
        is_packed || policy.get("overflow").and_then(Value::as_str) == Some("reject-publish");
    Some(match key {
        "max-length" | "max-length-bytes" if refuses => (
            Level::Warning,
            "A queue that is so full refuses messages: servers answer 503 although there is room.",
        ),
        "max-length" | "max-length-bytes" => (
            Level::Problem,
            "A queue that is so full drops its oldest messages, though they were answered 201.",
        ),
        "message-ttl" => (
            Level::Problem,
            "Messages that wait for so long are given up, though they were answered 201.",
        ),
        "expires" => (
            Level::Problem,
            "A queue that nobody uses for so long is deleted with the messages in it.",
        ),
        "delivery-limit" if is_packed => (
            Level::Problem,
            "Packets that were delivered so often are given up, though nothing is wrong with them: \
             a connection that is cut counts too.",
        ),
        "dead-letter-strategy" | "overflow" if is_packed => {
            (Level::Note, "Our queues say themselves what it should be, which goes before it.")
        }
        "federation-upstream" | "federation-upstream-set" => (
            Level::Warning,
            "Messages come from, or go to, another cluster: what is in flight may come twice.",
        ),
        _ if key.starts_with("ha-") && format == Format::Interop => (
            Level::Warning,
            "Mirrored queues may lose confirmed messages when nodes part, and are gone from 4.0.",
        ),
        _ if key.starts_with("ha-") => (Level::Note, "It does nothing to quorum queues."),
        "queue-mode" => (Level::Note, "It does nothing from 3.12 on, nor to quorum queues."),
        _ => return None,
    })
}

/// Whether quorum queues have the members that make them safe.
fn members(queues: &[(&Value, Part)], nodes: usize) -> Vec<Finding> {
    const CHECK: &str = "members";
    let length = |queue: &Value, key: &str| Some(queue.get(key)?.as_array()?.len());
    let quorum = queues.iter().filter_map(|(queue, _)| {
        Some((queue.get("name")?.as_str()?, length(queue, "members")?, length(queue, "online")?))
    });
    let (mut findings, mut sound) = (Vec::new(), 0);
    for (name, members, online) in quorum {
        let found = format!("{name}: {online} of {members} members are online");
        if online * 2 <= members {
            findings.push(
                Finding::problem(CHECK, found)
                    .means("Most are missing: nothing goes into it or comes out.")
                    .advise("start the broker's nodes that are down"),
            );
        } else if online < members {
            findings.push(
                Finding::warning(CHECK, found)
                    .means("It works, and stands still if another one goes.")
                    .advise("start the broker's nodes that are down"),
            );
        } else if members < 3 && nodes >= 3 {
            findings.push(
                Finding::warning(CHECK, format!("{found}, in a cluster of {nodes} nodes"))
                    .means("The loss of one node stops it, and perhaps loses what it holds.")
                    .advise("rabbitmq-queues grow <node> all, until it has three"),
            );
        } else {
            sound += 1;
        }
    }
    if sound > 0 && findings.is_empty() {
        let found = format!("all of {sound} quorum queues are online, in a cluster of {nodes}");
        findings.push(Finding::ok(CHECK, found));
    }
    findings
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn found(format: Format, queue: &Value, part: Part, nodes: usize) -> Vec<(&str, Level)> {
        let names = [("queue".to_owned(), part)];
        let found = check(format, &names, &json!({ "items": [queue] }), nodes);
        found.iter().map(|finding| (finding.check, finding.level)).collect()
    }

    fn policy(format: Format, part: Part, definition: &Value) -> Level {
        let queue = json!({ "name": "queue", "policy": "p",
                            "effective_policy_definition": definition });
        found(format, &queue, part, 1)[0].1
    }

    #[test]
    fn a_policy_is_judged_by_what_it_does_to_which_queue() {
        use Format::{Interop, Packed};
        use Part::{Pin, Returned, Shard};
        let refusing = json!({ "max-length": 9, "overflow": "reject-publish" });
        for (format, part, definition, level) in [
            (Packed, Shard, json!([]), Level::Ok),
            (Packed, Shard, json!({}), Level::Ok),
            (Packed, Shard, json!({"max-length": 9}), Level::Warning),
            (Packed, Returned, json!({"max-length": 9}), Level::Problem),
            (Packed, Pin, json!({"max-length": 9}), Level::Ok),
            (Interop, Shard, json!({"max-length-bytes": 9}), Level::Problem),
            (Interop, Shard, refusing, Level::Warning),
            (Packed, Shard, json!({"message-ttl": 9}), Level::Problem),
            (Packed, Shard, json!({"expires": 9}), Level::Problem),
            (Packed, Shard, json!({"delivery-limit": 9}), Level::Problem),
            (Packed, Shard, json!({"ha-mode": "all"}), Level::Note),
            (Interop, Shard, json!({"ha-mode": "all"}), Level::Warning),
            (Packed, Shard, json!({"max-in-memory-length": 9}), Level::Ok),
        ] {
            assert_eq!(
                policy(format, part, &definition),
                level,
                "{format:?} {part:?} {definition}"
            );
        }
    }

    #[test]
    fn a_quorum_queue_needs_its_members() {
        let queue = |members: &[u8], online: &[u8]| {
            let mut queue = json!({ "name": "queue" });
            queue["members"] = members.into();
            queue["online"] = online.into();
            queue
        };
        for (members, online, nodes, level) in [
            (&[1][..], &[1][..], 1, Level::Ok),
            (&[1], &[1], 3, Level::Warning),
            (&[1, 2, 3], &[1, 2, 3], 3, Level::Ok),
            (&[1, 2, 3], &[1, 2], 3, Level::Warning),
            (&[1, 2, 3], &[1], 3, Level::Problem),
        ] {
            let queue = queue(members, online);
            let found = found(Format::Packed, &queue, Part::Shard, nodes);
            assert_eq!(found[1..], [("members", level)], "{queue}");
        }
        let other = json!({ "name": "other" });
        let none = found(Format::Packed, &other, Part::Shard, 1);
        assert_eq!(none, [(CHECK, Level::Unknown)]);
    }
}
