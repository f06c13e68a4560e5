//! What a capture task is told: the payload of a task of kind `capture`, as JSON.
//!
//! ```text
//! {"ship_name":"TARDIS","until_ms":1795330860000}
//! ```

use serde::{Deserialize, Serialize};

use super::ship::ShipName;
use crate::store::{Millis, NewTask};
use crate::task::{Name, TaskId};

/// The kind of task that captures.
pub const KIND: &str = "capture";
/// How often a capture that failed is begun again, within its window.
const FAILURES_MAX: u32 = 5;

/// A window in which the telemetry of a ship is captured.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Order {
    /// The ship that is to stream.
    pub ship_name: ShipName,
    /// When the window ends, in milliseconds since 1970. It begins when the task does.
    pub until_ms: Millis,
}

impl Order {
    /// The order of a payload; `None` if it is none.
    #[must_use]
    pub fn read(payload: &[u8]) -> Option<Self> {
        serde_json::from_slice(payload).ok()
    }

    /// The payload.
    #[must_use]
    pub fn payload(&self) -> Vec<u8> {
        // Names and numbers can always be written.
        serde_json::to_vec(self).unwrap_or_default()
    }

    /// The task that captures from `start_ms` on; one that nobody has begun at `expires_at_ms` is
    /// missed.
    #[must_use]
    pub fn task(&self, kind: Name, id: TaskId, start_ms: Millis, expires_at_ms: Millis) -> NewTask {
        NewTask {
            id,
            kind,
            endpoint: None,
            payload: self.payload(),
            run_at_ms: start_ms,
            expires_at_ms: Some(expires_at_ms),
            failures_max: FAILURES_MAX,
            key: None,
            is_watched: true,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_order_reads_back_and_nothing_else_is_one() {
        let order = Order { ship_name: "USS \"E\"".parse().unwrap(), until_ms: -7 };
        let task = order.task(KIND.parse().unwrap(), TaskId::new(), -9, -8);
        assert_eq!(Order::read(&task.payload), Some(order));
        assert_eq!((task.run_at_ms, task.expires_at_ms), (-9, Some(-8)));
        for none in ["", "{}", r#"{"ship_name":"","until_ms":1}"#] {
            assert_eq!(Order::read(none.as_bytes()), None, "{none}");
        }
    }
}
