//! Telemetry: the other topic, with the same promises.

use async_data_processor::broker::rabbitmq::topology::Format;

use super::{Backend, Host};
use crate::harness::wait_for;
use crate::rabbitmq::broker::shared;
use crate::ships::{Fleet, lines, now, ship_lines};

impl Host {
    fn fleet(&self, backend: Backend) -> Fleet {
        let format = if backend == Backend::Interop { Format::Interop } else { Format::Packed };
        match &self.vhost {
            Some(vhost) => Fleet::over(&self.rig, &shared().vhost(vhost), format),
            None => Fleet::of(&self.rig),
        }
    }

    /// Waits until all telemetry is in files; how many lines, and the lines of a ship in order.
    fn telemetry(&self, ship: &str) -> (usize, Vec<String>) {
        self.wait_taken();
        self.rig.wait_drained();
        let all = ship_lines(&self.rig);
        let head = format!("{{\"ship\":\"{ship}\",");
        (all.len(), all.into_iter().filter(|line| line.starts_with(&head)).collect())
    }
}

pub(super) fn telemetry_is_stored_once_and_in_the_order_of_its_ship(backend: Backend) {
    let host = backend.host();
    let consumer = host.rig.start(&["message-consumer"]);
    consumer.wait_log("\"took over shards\"");
    let fleet = host.fleet(backend);
    let (one, other) = (lines("TARDIS", now(), 3000), lines("USS Enterprise", now(), 3000));
    for (one, other) in one.chunks(500).zip(other.chunks(500)) {
        fleet.publish("TARDIS", one);
        fleet.publish("USS Enterprise", other);
    }
    assert_eq!(host.telemetry("TARDIS"), (6000, one));
    assert_eq!(host.telemetry("USS Enterprise"), (6000, other));
    consumer.stop();
}

pub(super) fn a_repeated_unit_of_telemetry_is_stored_once(backend: Backend) {
    let host = backend.host();
    let consumer = host.rig.start(&["message-consumer"]);
    let fleet = host.fleet(backend);
    let sent = lines("TARDIS", now(), 1000);
    for turn in 0..3 {
        let published = fleet.try_publish("TARDIS", &sent, "unit 1").unwrap();
        assert_eq!(published.replayed, turn > 0);
    }
    assert_eq!(host.telemetry("TARDIS"), (1000, sent));
    consumer.stop();
}

pub(super) fn a_killed_consumer_loses_and_doubles_no_telemetry(backend: Backend) {
    let host = backend.host();
    let fleet = host.fleet(backend);
    let mut sent = Vec::new();
    for kill in 0..4 {
        let consumer = host.rig.start(&["message-consumer"]);
        consumer.wait_log("\"took over shards\"");
        let some = lines("TARDIS", now(), 2000);
        some.chunks(100).for_each(|some| drop(fleet.publish("TARDIS", some)));
        sent.extend(some);
        wait_for("some files", || (ship_lines(&host.rig).len() > kill * 2000).then_some(()));
        consumer.kill();
    }
    let consumer = host.rig.start(&["message-consumer"]);
    assert_eq!(host.telemetry("TARDIS"), (8000, sent));
    consumer.stop();
}
