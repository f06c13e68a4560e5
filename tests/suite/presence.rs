//! What runs on a machine is seen by the cards of its processes, while they live.

use async_data_processor::service::presence::{Card, living};

use crate::harness::{Rig, entry, wait_for};

/// Waits until what is seen is as it should be.
fn wait_seen(rig: &Rig, what: &str, is_so: impl Fn(&[Card]) -> bool) -> Vec<Card> {
    wait_for(what, || living(&rig.state()).ok().filter(|cards| is_so(cards)))
}

fn commands(cards: &[Card]) -> Vec<&str> {
    let mut commands: Vec<&str> = cards.iter().map(|card| card.command.as_str()).collect();
    commands.sort_unstable();
    commands
}

#[test]
fn a_process_is_seen_while_it_lives_and_not_when_it_was_stopped_or_killed() {
    let rig = Rig::new();
    let (server, scheduler) = (rig.serve(&["server"]), rig.serve(&["scheduler"]));
    let cards = living(&rig.state()).unwrap();
    assert_eq!(commands(&cards), ["scheduler", "server"]);
    let card = cards.iter().find(|card| card.command == "server").unwrap();
    assert_eq!((card.pid, card.version.as_str()), (server.id(), env!("CARGO_PKG_VERSION")));
    assert_eq!(card.parts[0].url, Some(format!("http://{}", server.address())));
    server.kill();
    assert_eq!(commands(&living(&rig.state()).unwrap()), ["scheduler"]);
    scheduler.stop();
    assert_eq!(living(&rig.state()).unwrap(), []);
    let worker = rig.start(&["task-worker"]);
    let cards = wait_seen(&rig, "the task-worker and its part", |cards| {
        cards.first().is_some_and(|card| !card.parts.is_empty())
    });
    assert!(cards[0].parts[0].kinds.contains(&"factorial".to_owned()), "{cards:?}");
    worker.stop();
    let left = std::fs::read_dir(rig.state().join("running")).unwrap();
    assert_eq!(left.count(), 0, "what the killed one left went with the next start");
}

#[test]
fn up_lists_all_its_parts() {
    let rig = Rig::new();
    let up = rig.serve(&["up"]);
    let parts = |cards: &[Card]| -> Vec<String> {
        let parts = cards.iter().flat_map(|card| &card.parts);
        let mut parts: Vec<String> = parts.map(|part| part.service.clone()).collect();
        parts.sort_unstable();
        parts
    };
    let cards = wait_seen(&rig, "all parts", |cards| parts(cards).len() == 6);
    let all = ["captures", "message-consumer", "scheduler", "server", "spaceship", "task-worker"];
    assert_eq!((cards.len(), parts(&cards)), (1, all.map(str::to_owned).to_vec()));
    let consumer = |card: &Card| {
        let part = card.parts.iter().find(|part| part.service == "message-consumer");
        part.and_then(|part| part.output.clone())
    };
    let output = rig.output().display().to_string();
    assert_eq!(cards.iter().find_map(consumer), Some(output));
    up.stop();
}

#[test]
fn the_workers_of_a_pool_and_what_they_have_in_hand_are_seen() {
    let mut rig = Rig::new();
    rig.set("SHARDS_COUNT", 1).set("WORKERS_COUNT", 1).set("WORKERS_MAX", 2);
    rig.set("BATCH_MIN", 1).set("BATCH_MAX", 1);
    let go_on = rig.dir.path().join("go-on");
    rig.set("EXEC", format!("while ! test -e {}; do sleep 0.05; done; cat", go_on.display()));
    let consumer = rig.start(&["message-consumer"]);
    let pool = |cards: &[Card]| cards.first().and_then(|card| card.pools.first().cloned());
    let workers = |cards: &[Card]| pool(cards).map_or(0, |pool| pool.workers.len());
    let idle = wait_seen(&rig, "a pool", |cards| workers(cards) == 1);
    let idle = pool(&idle).unwrap();
    assert_eq!((idle.topic.as_str(), idle.least, idle.most), ("messages", 1, 2));
    assert_eq!(idle.workers[0].range, None);
    let lines = (0..3).map(|second| entry(second, "held up")).collect::<Vec<_>>().join("\n");
    assert!(rig.run_with_input(&["publish"], lines.as_bytes()).status.success());
    let busy = wait_seen(&rig, "a second worker, both of them busy", |cards| {
        let busy = |pool: async_data_processor::service::presence::PoolCard| {
            pool.workers.len() == 2 && pool.workers.iter().all(|worker| worker.range.is_some())
        };
        pool(cards).is_some_and(busy)
    });
    let ranges: Vec<_> = pool(&busy).unwrap().workers.iter().map(|worker| worker.range).collect();
    assert_eq!(ranges, [Some((0, 1)), Some((1, 2))]);
    std::fs::write(&go_on, "").unwrap();
    rig.wait_drained();
    consumer.stop();
}
