//! How the tasks of a run are told from all others, and from each other: by their ids.
//!
//! ```text
//! {"kind":"echo","id":"019ab3f0-7c1e-7d8a-9f65-00000000002a","payload":"00000000002a..."}
//!                      run's own 24 characters   number       the same, filled up with dots
//! ```
//!
//! So ids come in the order of submission, as those do that the server makes, and what became of a
//! request without an answer can be asked.

use crate::task::TaskId;
use crate::tasks::echo;

const ID_AT_AFTER: &[u8] = b"\",\"id\":\"";
const PAYLOAD_AT_AFTER: &[u8] = b"\",\"payload\":\"";
const TAIL: &[u8] = b"\"}";
const ID_BYTES: usize = 36;
const PREFIX_BYTES: usize = 24;
const DIGITS: usize = ID_BYTES - PREFIX_BYTES;

/// The least bytes of a payload: a number.
pub(super) const PAYLOAD_BYTES_MIN: usize = DIGITS;

/// The marks of one run.
#[derive(Debug, Clone)]
pub(super) struct TaskMarks {
    prefix: String,
    payload_bytes: usize,
    id_at: usize,
    payload_at: usize,
}

impl TaskMarks {
    /// Marks of a run, the only one of this process, that no other shares; at least
    /// [`PAYLOAD_BYTES_MIN`] bytes a payload.
    pub(super) fn new(payload_bytes: usize) -> Self {
        let prefix: String = TaskId::new().to_string().chars().take(PREFIX_BYTES).collect();
        let id_at = b"{\"kind\":\"".len() + echo::KIND.len() + ID_AT_AFTER.len();
        let payload_at = id_at + ID_BYTES + PAYLOAD_AT_AFTER.len();
        let payload_bytes = payload_bytes.max(PAYLOAD_BYTES_MIN);
        Self { prefix, payload_bytes, id_at, payload_at }
    }

    /// The id of task number `number`, which is below 2^48.
    pub(super) fn id(&self, number: u64) -> String {
        format!("{}{number:012x}", self.prefix)
    }

    /// The number of the task of this id; `None` if it is not of this run.
    pub(super) fn number(&self, id: &str) -> Option<u64> {
        u64::from_str_radix(id.strip_prefix(&self.prefix)?, 16).ok()
    }

    /// The payload of task number `number`, and so its result.
    pub(super) fn payload(&self, number: u64) -> Vec<u8> {
        let mut payload = format!("{number:012x}").into_bytes();
        payload.resize(self.payload_bytes, b'.');
        payload
    }

    /// An entry whose number is still to be written.
    pub(super) fn blank(&self) -> Vec<u8> {
        let (id, payload) = (self.id(0).into_bytes(), self.payload(0));
        let head = [b"{\"kind\":\"".as_slice(), echo::KIND.as_bytes()].concat();
        let parts = [&head, ID_AT_AFTER, &id, PAYLOAD_AT_AFTER, &payload, TAIL];
        parts.concat()
    }

    /// Makes `entry`, once [`Self::blank`], task number `number`.
    pub(super) fn write(&self, entry: &mut [u8], number: u64) {
        for at in [self.id_at + PREFIX_BYTES, self.payload_at] {
            let place = entry.get_mut(at..at + DIGITS).unwrap_or_default();
            let mut rest = number;
            for digit in place.iter_mut().rev() {
                let value = u32::try_from(rest % 16).unwrap_or_default();
                *digit = char::from_digit(value, 16).map_or(b'0', |sign| sign as u8);
                rest /= 16;
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use serde_json::Value;

    use super::*;
    use crate::task::Name;

    #[test]
    fn an_entry_is_a_task_of_the_run_and_of_no_other() {
        let marks = TaskMarks::new(20);
        let other = TaskMarks { prefix: "019ab3f0-7c1e-7d8a-9f65-".to_owned(), ..marks.clone() };
        let mut entry = marks.blank();
        for number in [0, 42, (1 << 48) - 1] {
            marks.write(&mut entry, number);
            let read: Value = serde_json::from_slice(&entry).unwrap();
            let id = read["id"].as_str().unwrap();
            assert_eq!(read["kind"].as_str().unwrap().parse::<Name>().unwrap().as_str(), "echo");
            assert_eq!(read["payload"].as_str().unwrap().as_bytes(), marks.payload(number));
            assert_eq!(id.parse::<TaskId>().unwrap().to_string(), marks.id(number));
            assert_eq!((marks.number(id), other.number(id)), (Some(number), None));
        }
        assert!(marks.id(9) < marks.id(10), "in the order of submission");
        assert_eq!(TaskMarks::new(0).payload(1).len(), PAYLOAD_BYTES_MIN);
    }
}
