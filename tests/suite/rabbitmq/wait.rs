//! What tests of broker and program wait for.

use super::broker::{Depth, PrivateBroker};
use crate::harness::{Rig, wait_for};

/// Waits until nothing is left in a virtual host, unacknowledged deliveries included.
pub(crate) fn wait_taken(broker: &PrivateBroker, vhost: &str) {
    wait_for("the queues to be empty", || {
        let empty = Depth { ready: 0, unacknowledged: 0 };
        let queues = broker.queues(vhost);
        queues.iter().all(|queue| broker.depth(vhost, queue) == empty).then_some(())
    });
}

/// The same, and until all of it is in the files of a consumer; the lines in order of their files.
pub(crate) fn wait_in_files(broker: &PrivateBroker, vhost: &str, rig: &Rig) -> Vec<String> {
    wait_taken(broker, vhost);
    rig.wait_drained();
    rig.lines()
}

/// A rig over a broker, with files as small and as soon as may be.
pub(crate) fn rig_over(url: &str) -> Rig {
    let mut rig = Rig::new();
    rig.set("RABBITMQ_URL", url).set("BATCH_MIN", 1).set("FILES_PER_SECOND", 0);
    rig.set("WORKERS_COUNT", 1).set("WORKERS_MAX", 1);
    rig
}
