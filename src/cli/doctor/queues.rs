//! The queues: are they what a start would make, does anybody consume them, what was given up?

use super::finding::Finding;
use crate::broker::rabbitmq::BrokerError;
use crate::broker::rabbitmq::inspect::{Inspected, Part, Standing};
use crate::broker::rabbitmq::topology::{Format, Topology};

const CHECK: &str = "queues";

pub(super) fn check(topology: Topology, inspected: &[Inspected]) -> Vec<Finding> {
    let mut findings = vec![summary(topology, inspected)];
    findings.extend(inspected.iter().filter_map(wrong));
    findings.extend(absent(inspected));
    findings.extend(forsaken(inspected));
    findings.extend(inspected.iter().filter_map(given_up));
    if topology.format == Format::Interop {
        findings.push(interop());
    }
    // The summary of troubles is the troubles.
    if findings.iter().skip(1).any(|finding| finding.check == CHECK) {
        findings.remove(0);
    }
    findings
}

fn of_shards(inspected: &[Inspected]) -> impl Iterator<Item = &Inspected> {
    inspected.iter().filter(|queue| queue.part.is_shard())
}

/// Names, in short.
fn listed<'a>(queues: impl Iterator<Item = &'a Inspected>) -> String {
    const MOST: usize = 5;
    let names: Vec<_> = queues.map(|queue| queue.name.as_str()).collect();
    let more = names.len().saturating_sub(MOST);
    let shown = names.into_iter().take(MOST).collect::<Vec<_>>().join(", ");
    if more > 0 { format!("{shown} and {more} more") } else { shown }
}

fn summary(topology: Topology, inspected: &[Inspected]) -> Finding {
    let shards = topology.shards;
    let (mut waiting, mut consumers) = (0_u64, u32::MAX);
    for queue in of_shards(inspected) {
        if let Standing::There { messages, consumers: some, .. } = &queue.standing {
            waiting += u64::from(*messages);
            consumers = consumers.min(*some);
        }
    }
    let consumers = if consumers == u32::MAX { 0 } else { consumers };
    Finding::ok(
        CHECK,
        format!(
            "{shards} shards, as they should be; {waiting} packets wait, consumers of each: \
             {consumers} or more"
        ),
    )
}

/// A queue that is another than a start would make, or of which nothing is known.
fn wrong(queue: &Inspected) -> Option<Finding> {
    let name = &queue.name;
    let error = match &queue.standing {
        Standing::There { agrees: Err(error), .. } | Standing::Unknown(error) => error,
        _ => return None,
    };
    Some(match error {
        BrokerError::OtherShards { .. } => Finding::problem(CHECK, error.to_string())
            .means("Servers and consumers do not start: messages would go to the wrong shards."),
        BrokerError::OtherQueue { .. } => Finding::problem(CHECK, error.to_string())
            .means("Servers and consumers do not start: it may lose what it confirms."),
        BrokerError::TimedOut { .. } => Finding::problem(CHECK, format!("{name}: {error}"))
            .means("Has it lost most of its members? Nothing goes into it or comes out.")
            .advise("start the broker's nodes that are down; then look again, also at the rest"),
        _ if error.is_refused_access() => Finding::problem(CHECK, format!("{name}: {error}"))
            .means("Servers and consumers do not start.")
            .advise(
                "rabbitmqctl set_permissions: the user must be able to configure, write and read \
                 async-data-processor.* (interop: task_queue_* as well), and to write to the \
                 default exchange",
            ),
        _ => Finding::problem(CHECK, format!("{name}: {error}"))
            .means("Servers and consumers cannot use it.")
            .advise("look at the broker's log"),
    })
}

fn absent(inspected: &[Inspected]) -> Vec<Finding> {
    let is_absent = |queue: &&Inspected| matches!(queue.standing, Standing::Absent);
    let is_of_others = |queue: &Inspected| {
        matches!(
            queue.standing,
            Standing::There { agrees: Err(BrokerError::OtherShards { .. }), .. }
        )
    };
    if inspected.iter().any(is_of_others) {
        return Vec::new();
    }
    // Where nothing of a part is there, none was made yet, as of telemetry by an older version.
    let is_made = |part: Part| {
        let mut there = of_shards(inspected).filter(|queue| !is_absent(queue));
        there.any(|queue| queue.part == part || !part.is_shard())
    };
    let (gone, to_come): (Vec<_>, Vec<_>) =
        inspected.iter().filter(is_absent).partition(|queue| is_made(queue.part));
    let to_come = (!to_come.is_empty()).then(|| {
        Finding::note(CHECK, format!("not there yet: {}", listed(to_come.into_iter())))
            .means("The first server or consumer makes them.")
    });
    let gone = (!gone.is_empty()).then(|| {
        let names = listed(gone.into_iter());
        Finding::warning(CHECK, format!("not there, while others are: {names}"))
            .means(
                "Somebody deleted them with what was in them, or a start has not come to its \
                 end. The next start makes them again, empty.",
            )
            .advise("find out who deletes queues: a person, or a policy with expires")
    });
    to_come.into_iter().chain(gone).collect()
}

fn forsaken(inspected: &[Inspected]) -> Option<Finding> {
    let is_forsaken = |queue: &&Inspected| {
        matches!(queue.standing, Standing::There { messages: 1.., consumers: 0, .. })
    };
    let names = listed(of_shards(inspected).filter(is_forsaken));
    (!names.is_empty()).then(|| {
        Finding::warning(CHECK, format!("packets wait that nobody consumes: {names}"))
            .means("They are safe, but do not become files.")
            .advise("start message-consumer with the same RABBITMQ_URL and SHARDS_COUNT")
    })
}

fn given_up(queue: &Inspected) -> Option<Finding> {
    let Standing::There { messages, .. } = queue.standing else { return None };
    let name = &queue.name;
    (queue.part == Part::Returned && messages > 0).then(|| {
        Finding::problem("returned", format!("{name} holds {messages} packets"))
            .means(
                "The broker gave up messages that it had confirmed, since a policy or a limit told \
                 it to. They are in no file, and nothing brings them back by itself.",
            )
            .advise(
                "remove the policy (rabbitmqctl list_policies), then move the packets back into \
                 the queue that their header x-death names, as with a shovel",
            )
    })
}

fn interop() -> Finding {
    Finding::note("interop", "RABBITMQ_INTEROP: classic queues, one entry a message")
        .means(
            "A classic queue lives on one node, without replicas: with that node's disk its \
             messages are lost. Several consumers may have it at once, and nothing pins the number \
             of shards. What others publish has no id: sent twice, it is in the files twice.",
        )
        .advise("leave it off unless the other side needs it")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn queue(part: Part, is_there: bool) -> Inspected {
        let there = Standing::There { messages: 0, consumers: 1, agrees: Ok(()) };
        let standing = if is_there { there } else { Standing::Absent };
        Inspected { name: format!("{part:?}"), part, standing }
    }

    #[test]
    fn queues_that_a_newer_version_will_make_are_no_alarm() {
        let told = |there: [bool; 4]| {
            let parts = [Part::Pin, Part::Shard, Part::Shard, Part::Telemetry];
            let all: Vec<_> = parts.into_iter().zip(there).map(|(p, t)| queue(p, t)).collect();
            absent(&all).into_iter().map(|finding| finding.found).collect::<Vec<_>>()
        };
        assert!(told([true; 4]).is_empty());
        assert_eq!(told([true, true, true, false]), ["not there yet: Telemetry"]);
        assert_eq!(told([false; 4]), ["not there yet: Pin, Shard, Shard, Telemetry"]);
        let while_others = "not there, while others are: Pin, Shard";
        assert_eq!(told([false, true, false, false]), ["not there yet: Telemetry", while_others]);
    }
}
