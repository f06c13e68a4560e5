//! From the cards of processes to what is shown of them.

use std::collections::BTreeMap;

use super::ShipView;
use crate::page::format::Moment;
use crate::service::presence::{Card, Part, Standing};

/// A process.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct CardView {
    pub(super) command: String,
    pub(super) pid: u32,
    pub(super) version: String,
    pub(super) started_at: Moment,
    pub(super) parts: Vec<Part>,
    pub(super) staff: Vec<Staff>,
}

/// The workers that a process has for a topic.
#[derive(Debug, Default, PartialEq, Eq)]
pub(super) struct Staff {
    pub(super) topic: String,
    pub(super) shards: usize,
    pub(super) workers: usize,
    pub(super) hanging: usize,
}

impl CardView {
    pub(super) fn of(card: &Card) -> Self {
        let mut staff: BTreeMap<&str, Staff> = BTreeMap::new();
        for pool in &card.pools {
            let of_topic = staff.entry(&pool.topic).or_default();
            of_topic.topic.clone_from(&pool.topic);
            let hanging = pool.workers.iter().filter(|w| w.standing == Standing::Hanging).count();
            of_topic.shards += 1;
            of_topic.workers += pool.workers.len() - hanging;
            of_topic.hanging += hanging;
        }
        Self {
            command: card.command.clone(),
            pid: card.pid,
            version: card.version.clone(),
            started_at: Moment(card.started_at_ms.cast_signed()),
            parts: card.parts.clone(),
            staff: staff.into_values().collect(),
        }
    }
}

/// A service that does not run on this machine.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Absent {
    /// The command that starts it.
    pub(super) service: &'static str,
    /// Whether it is missed, as far as can be told from here.
    pub(super) is_missed: bool,
    /// What it is needed for.
    pub(super) why: &'static str,
}

/// What does not run on this machine, and what that means.
pub(super) fn absent(
    cards: &[Card],
    has_broker: bool,
    recurs: bool,
    is_remote: bool,
) -> Vec<Absent> {
    let runs = |service: &str| {
        cards.iter().flat_map(|card| &card.parts).any(|part| part.service == service)
    };
    let consumer = match has_broker {
        true => "Messages go over the broker: they may be consumed elsewhere.",
        false => "What is accepted waits until one runs.",
    };
    let scheduler = match (recurs, is_remote) {
        (false, _) => "Only schedules that recur need one, and there are none.",
        (true, false) => {
            "There are schedules that recur: nothing of them is started until one runs."
        }
        (true, true) => "There are schedules that recur: they are started if one runs elsewhere.",
    };
    let of = |service, is_missed, why| Absent { service, is_missed, why };
    let all = [
        of("message-consumer", !has_broker, consumer),
        of("scheduler", recurs && !is_remote, scheduler),
    ];
    all.into_iter().filter(|absent| !runs(absent.service)).collect()
}

/// What is worth knowing of everything that runs.
pub(super) fn hints(cards: &[Card], spaceship: &Option<ShipView>) -> Vec<String> {
    let mut versions: BTreeMap<&str, Vec<&str>> = BTreeMap::new();
    for card in cards {
        versions.entry(&card.version).or_default().push(&card.command);
    }
    if let Some(Some(Ok(Some(version)))) = spaceship.as_ref().map(|ship| &ship.answer) {
        versions.entry(version).or_default().push("spaceship");
    }
    if versions.len() < 2 {
        return Vec::new();
    }
    let of =
        |(version, commands): (&&str, &Vec<&str>)| format!("{version} ({})", commands.join(", "));
    let list: Vec<String> = versions.iter().map(of).collect();
    vec![format!("Different versions run: {}. Restart the older ones.", list.join("; "))]
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::service::presence::{PoolCard, WorkerCard};

    fn card(command: &str, version: &str, services: &[&str]) -> Card {
        let part = |service: &&str| Part { service: (*service).to_owned(), ..Part::default() };
        Card {
            command: command.to_owned(),
            version: version.to_owned(),
            pid: 7,
            started_at_ms: 1_795_332_600_000,
            parts: services.iter().map(part).collect(),
            pools: Vec::new(),
        }
    }

    fn missed(
        cards: &[Card],
        has_broker: bool,
        recurs: bool,
        is_remote: bool,
    ) -> Vec<&'static str> {
        let absent = absent(cards, has_broker, recurs, is_remote);
        absent.iter().filter(|absent| absent.is_missed).map(|absent| absent.service).collect()
    }

    #[test]
    fn what_is_needed_here_and_does_not_run_is_missed() {
        let server = [card("server", "1", &["server"])];
        assert_eq!(missed(&server, false, false, false), ["message-consumer"]);
        assert_eq!(missed(&server, false, true, false), ["message-consumer", "scheduler"]);
        assert_eq!(missed(&server, true, true, true), [""; 0], "either may run elsewhere");
        assert_eq!(absent(&server, true, true, true).len(), 2);
        let up = [card("up", "1", &["server", "message-consumer", "scheduler"])];
        assert_eq!(absent(&up, false, true, false), []);
    }

    #[test]
    fn workers_are_counted_by_topic_and_hanging_ones_apart() {
        let worker = |standing| WorkerCard { place: 1, standing, range: None, since_ms: 0 };
        let pool = |topic: &str, shard, workers| PoolCard {
            topic: topic.to_owned(),
            shard,
            least: 1,
            most: 2,
            workers,
        };
        let mut card = card("message-consumer", "1", &["message-consumer"]);
        card.pools = vec![
            pool("messages", 0, vec![worker(Standing::Serving); 3]),
            pool("messages", 1, vec![worker(Standing::Serving), worker(Standing::Hanging)]),
            pool("telemetry", 0, vec![worker(Standing::Leaving)]),
        ];
        let staff = CardView::of(&card).staff;
        let counts: Vec<_> =
            staff.iter().map(|staff| (staff.shards, staff.workers, staff.hanging)).collect();
        assert_eq!(counts, [(2, 4, 1), (1, 1, 0)]);
    }

    #[test]
    fn different_versions_are_told() {
        let mut cards = vec![card("server", "1.0.0", &[]), card("scheduler", "1.0.0", &[])];
        assert_eq!(hints(&cards, &None), [""; 0]);
        let answer = Some(Ok(Some("1.1.0".to_owned())));
        let ship = Some(ShipView { place: String::new(), answer });
        let told = "Different versions run: 1.0.0 (server, scheduler); 1.1.0 (spaceship). Restart \
                    the older ones.";
        assert_eq!(hints(&cards, &ship), [told]);
        cards.push(card("task-worker", "0.9.0", &[]));
        assert!(hints(&cards, &None)[0].contains("0.9.0 (task-worker)"));
    }
}
