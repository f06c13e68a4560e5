//! What is ordered: R4's message, which is the payload of the task.

use serde::{Deserialize, Serialize};

use crate::store::{Millis, NewTask};
use crate::task::{Name, TaskId};

/// The name of the kind.
pub const KIND: &str = "factorial";
/// The version of the message.
pub const VERSION: &str = "v1";
/// After how many failures a calculation is given up.
pub const FAILURES_MAX: u32 = 5;

/// What travels in the queue: R4's message.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Order {
    /// [`VERSION`].
    pub version: String,
    /// The task.
    pub id: String,
    /// Whose factorial.
    pub input: u64,
}

impl Order {
    /// The order of `input!`.
    #[must_use]
    pub fn new(id: TaskId, input: u64) -> Self {
        Self { version: VERSION.to_owned(), id: id.to_string(), input }
    }

    /// What a payload orders; `None` for one that came in by another road and is no order.
    #[must_use]
    pub fn read(payload: &[u8]) -> Option<Self> {
        serde_json::from_slice(payload).ok()
    }

    /// The task that does it, of the kind [`KIND`]: equal inputs are the same work.
    #[must_use]
    pub fn task(kind: Name, id: TaskId, input: u64, now_ms: Millis) -> NewTask {
        let payload = format!(r#"{{"version":"{VERSION}","id":"{id}","input":{input}}}"#);
        NewTask {
            id,
            kind,
            endpoint: None,
            payload: payload.into_bytes(),
            run_at_ms: now_ms,
            expires_at_ms: None,
            failures_max: FAILURES_MAX,
            key: Some(format!("{KIND}:{input}")),
            is_watched: true,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_payload_is_r4_s_message() {
        let id: TaskId = "019ab3f0-7c1e-7d8a-9f65-1f2e3d4c5b6a".parse().unwrap();
        let task = Order::task(KIND.parse().unwrap(), id, 42, 0);
        let text = r#"{"version":"v1","id":"019ab3f0-7c1e-7d8a-9f65-1f2e3d4c5b6a","input":42}"#;
        assert_eq!(task.payload, text.as_bytes());
        assert_eq!(Order::read(&task.payload), Some(Order::new(id, 42)));
        assert_eq!(Order::read(b"{}"), None);
    }
}
