//! The broker's nodes: do they run, do they see each other, is there room?

use indicatif::HumanBytes;
use serde_json::Value;

use super::finding::Finding;

const CHECK: &str = "nodes";
/// What RabbitMQ leaves free of a disk if nobody tells it otherwise, in bytes.
const DEFAULT_LIMIT: u64 = 50_000_000;
const BLOCKED: &str = "The whole cluster takes no messages: servers answer 503.";

/// How many nodes there are.
pub(super) fn count(nodes: &Value) -> usize {
    nodes.as_array().map_or(0, Vec::len)
}

/// Judges the answer to `/api/nodes`.
pub(super) fn check(nodes: &Value) -> Vec<Finding> {
    let listed: Vec<_> = nodes.as_array().into_iter().flatten().collect();
    let mut findings: Vec<_> = listed.iter().flat_map(|node| node_findings(node)).collect();
    if listed.is_empty() {
        findings.push(Finding::unknown(CHECK, "the management API lists none"));
    } else if findings.is_empty() {
        let running = listed.len();
        let found = format!("{running} running; no alarm, room in memory and disk");
        findings.push(Finding::ok(CHECK, found));
    }
    if let [_] = listed.as_slice() {
        let alone = Finding::note(CHECK, "the cluster is one node");
        findings.push(
            alone
                .means("What waits in it is lost with its disk, and nothing goes on without it.")
                .advise("three nodes survive the loss of one"),
        );
    }
    findings
}

fn node_findings(node: &Value) -> Vec<Finding> {
    let number = |key: &str| node.get(key).and_then(Value::as_u64);
    let is = |key: &str| node.get(key).and_then(Value::as_bool);
    let name = node.get("name").and_then(Value::as_str).unwrap_or("a node");
    let mut findings = Vec::new();
    if is("running") == Some(false) {
        let down = Finding::warning(CHECK, format!("{name} is down"));
        let means = "A queue without most of its members stands still.";
        return vec![down.means(means).advise("start it, or take it out of the cluster")];
    }
    if node.get("partitions").and_then(Value::as_array).is_some_and(|others| !others.is_empty()) {
        findings.push(
            Finding::problem(CHECK, format!("{name} is cut off from other nodes of the cluster"))
                .means("Queues stand still, and what each side says is only its own view.")
                .advise("mend the network; see RabbitMQ's guide on partitions"),
        );
    }
    if number("mem_limit").is_none() || number("disk_free_limit").is_none() {
        findings.push(
            Finding::unknown(CHECK, format!("{name} tells no figures of memory and disk"))
                .advise("ask again a few seconds after its start"),
        );
    }
    findings.extend(memory(name, is("mem_alarm"), number("mem_used"), number("mem_limit")));
    let (free, limit) = (number("disk_free"), number("disk_free_limit"));
    findings.extend(disk(name, is("disk_free_alarm"), free, limit));
    findings
}

fn memory(name: &str, alarm: Option<bool>, used: Option<u64>, limit: Option<u64>) -> Vec<Finding> {
    let (Some(used), Some(limit)) = (used, limit) else { return Vec::new() };
    let found = format!("{name} uses {} of {} of memory", HumanBytes(used), HumanBytes(limit));
    let advice = "give it more memory, or raise vm_memory_high_watermark";
    if alarm == Some(true) {
        let alarmed = Finding::problem(CHECK, format!("memory alarm: {found}"));
        vec![alarmed.means(BLOCKED).advise(advice)]
    } else if used > limit / 5 * 4 {
        let near = Finding::warning(CHECK, found);
        vec![near.means(format!("It is near its limit. There: {BLOCKED}")).advise(advice)]
    } else {
        Vec::new()
    }
}

fn disk(name: &str, alarm: Option<bool>, free: Option<u64>, limit: Option<u64>) -> Vec<Finding> {
    let (Some(free), Some(limit)) = (free, limit) else { return Vec::new() };
    let found = format!("{name} has {} of disk free", HumanBytes(free));
    let (shown, advice) = (HumanBytes(limit), "free disk on that node");
    let mut findings = Vec::new();
    if alarm == Some(true) {
        let alarmed = Finding::problem(CHECK, format!("disk alarm: {found}, the limit is {shown}"));
        findings.push(alarmed.means(BLOCKED).advise(advice));
    } else if free < limit.saturating_mul(2) {
        let near = Finding::warning(CHECK, format!("{found}, the limit is {shown}"));
        findings.push(near.means(format!("It is near its limit. There: {BLOCKED}")).advise(advice));
    }
    if limit <= DEFAULT_LIMIT {
        findings.push(
            Finding::warning(CHECK, format!("{name}: disk_free_limit is only {shown}"))
                .means(
                    "The alarm comes too late: a broker that runs out of disk stops at once, and \
                     its quorum queues may not start again.",
                )
                .advise("set disk_free_limit.relative = 1.0, or some GB, in rabbitmq.conf"),
        );
    }
    findings
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::super::finding::Level;
    use super::*;

    fn levels(change: &[(&str, Value)]) -> Vec<Level> {
        let mut node = json!({
            "name": "rabbit@one", "running": true, "partitions": [],
            "mem_used": 100, "mem_limit": 1000, "mem_alarm": false,
            "disk_free": 90_000_000_000_u64, "disk_free_limit": 4_000_000_000_u64,
            "disk_free_alarm": false,
        });
        let other = node.clone();
        for (key, value) in change {
            node[*key] = value.clone();
        }
        check(&json!([node, other])).iter().map(|finding| finding.level).collect()
    }

    #[test]
    fn a_node_is_judged_by_its_alarms_and_limits() {
        assert_eq!(levels(&[]), [Level::Ok]);
        assert_eq!(levels(&[("mem_used", json!(801))]), [Level::Warning]);
        assert_eq!(levels(&[("mem_alarm", json!(true))]), [Level::Problem]);
        assert_eq!(levels(&[("disk_free", json!(7_000_000_000_u64))]), [Level::Warning]);
        assert_eq!(levels(&[("disk_free_alarm", json!(true))]), [Level::Problem]);
        assert_eq!(levels(&[("disk_free_limit", json!(50_000_000))]), [Level::Warning]);
        assert_eq!(levels(&[("partitions", json!(["rabbit@two"]))]), [Level::Problem]);
        assert_eq!(levels(&[("running", json!(false))]), [Level::Warning]);
        assert_eq!(levels(&[("disk_free_limit", Value::Null)]), [Level::Unknown]);
        assert_eq!(check(&json!([])).len(), 1);
        assert_eq!(check(&json!({"error": "x"}))[0].level, Level::Unknown);
    }
}
