//! What travels on the second plane: tasks, one by one, settled in any order.
//!
//! A task has a kind, which says who knows how to run it, and a payload of bytes. It is run by a
//! worker, and ends with a result or an error. An [`Attempt`] is the fence: each time a task is
//! given out it goes up by one, and what comes back of an earlier attempt changes nothing.

use std::fmt;
use std::str::FromStr;

use serde::{Deserialize, Serialize};
use sha2::{Digest, Sha256};
use uuid::Uuid;

/// The most bytes of a task's payload.
pub const PAYLOAD_BYTES_MAX: usize = 1 << 20;
/// The most bytes of a task's result.
pub const RESULT_BYTES_MAX: u64 = 1 << 30;
/// Bytes of a part of a result, except its last one: results travel and are stored in parts.
pub const PART_BYTES: usize = 1 << 20;
/// The most bytes of the name of a kind or of an endpoint.
pub const NAME_BYTES_MAX: usize = 64;

/// Something that is named by a UUID, newer ones greater than those before (version 7, RFC 9562).
macro_rules! named_by_uuid {
    ($(#[$meta:meta])* $name:ident) => {
        $(#[$meta])*
        #[derive(
            Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize,
        )]
        #[serde(transparent)]
        pub struct $name(Uuid);

        impl $name {
            /// A new one.
            #[must_use]
            pub fn new() -> Self {
                Self(Uuid::now_v7())
            }

            /// The stored form.
            #[must_use]
            pub const fn bytes(self) -> [u8; 16] {
                self.0.into_bytes()
            }

            /// From the stored form.
            #[must_use]
            pub const fn from_bytes(bytes: [u8; 16]) -> Self {
                Self(Uuid::from_bytes(bytes))
            }
        }

        impl Default for $name {
            fn default() -> Self {
                Self::new()
            }
        }

        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                fmt::Display::fmt(self.0.as_hyphenated(), f)
            }
        }
    };
}

named_by_uuid! {
    /// The name of a task.
    TaskId
}

named_by_uuid! {
    /// Who runs tasks: a process, for as long as it is heard of. Never used again.
    WorkerId
}

impl TaskId {
    /// The one that stands for these texts: the same for the same, whoever asks (version 8).
    #[must_use]
    pub fn derived(texts: &[&str]) -> Self {
        let mut hash = Sha256::new();
        for text in texts {
            hash.update((text.len() as u64).to_be_bytes());
            hash.update(text.as_bytes());
        }
        let mut bytes = [0; 16];
        bytes.iter_mut().zip(hash.finalize()).for_each(|(byte, hashed)| *byte = hashed);
        Self(Uuid::new_v8(bytes))
    }
}

/// A text that is no task's id.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("a task's id is a UUID such as 019ab3f0-7c1e-7d8a-9f65-1f2e3d4c5b6a")]
pub struct NoTaskId;

impl FromStr for TaskId {
    type Err = NoTaskId;

    fn from_str(text: &str) -> Result<Self, NoTaskId> {
        Uuid::try_parse(text).map(Self).map_err(|_| NoTaskId)
    }
}

/// How often a task has been given out: 0 before the first time.
pub type Attempt = u32;

/// The name of a kind of task or of an endpoint: 1 to 64 letters, digits, `-` and `_`.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct Name(String);

/// A text that is no name.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("a name has 1 to 64 characters: letters, digits, - and _")]
pub struct NoName;

impl Name {
    /// The text.
    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl fmt::Display for Name {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl FromStr for Name {
    type Err = NoName;

    fn from_str(text: &str) -> Result<Self, NoName> {
        let is_fine = |byte: u8| byte.is_ascii_alphanumeric() || b"-_".contains(&byte);
        let fits = (1..=NAME_BYTES_MAX).contains(&text.len()) && text.bytes().all(is_fine);
        if fits { Ok(Self(text.to_owned())) } else { Err(NoName) }
    }
}

impl TryFrom<String> for Name {
    type Error = NoName;

    fn try_from(text: String) -> Result<Self, NoName> {
        text.parse()
    }
}

impl From<Name> for String {
    fn from(name: Name) -> Self {
        name.0
    }
}

/// How far a running task is, in thousandths.
pub type Permille = u16;

/// A sign of life of a task that runs.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct Beat {
    /// The task.
    pub id: TaskId,
    /// The attempt that runs.
    pub attempt: Attempt,
    /// How far it is: 0 to 1,000.
    pub progress: Permille,
}

/// How an attempt ended.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "outcome", rename_all = "kebab-case")]
pub enum Outcome {
    /// With a result, all of whose parts were handed over before.
    Finished(ResultHead),
    /// Without one.
    Failed {
        /// Why, for a person.
        reason: String,
        /// Whether another attempt would fail as well.
        is_final: bool,
    },
    /// It was given back unharmed (the worker stops); that does not count as a failure.
    Released,
    /// Its worker died while it ran: a failure, also when another attempt has been given out since.
    Died {
        /// Why it is thought so, for a person.
        reason: String,
    },
    /// Its time was over before it began.
    Missed {
        /// Why, for a person.
        reason: String,
    },
}

/// What is known of a result without reading it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ResultHead {
    /// Bytes of the whole.
    pub bytes: u64,
    /// Its first bytes, [`Self::BYTES_MAX`] at most; the whole result, if it is no longer.
    #[serde(skip)]
    pub head: Vec<u8>,
}

impl ResultHead {
    /// The most bytes of a head. A result that is no longer has no parts.
    pub const BYTES_MAX: usize = 1024;

    /// Whether the head is the whole result.
    #[must_use]
    pub fn is_whole(&self) -> bool {
        self.bytes == self.head.len() as u64
    }

    /// How many parts hold the result; 0 if the head is the whole.
    #[must_use]
    pub fn parts(&self) -> u64 {
        if self.is_whole() { 0 } else { self.bytes.div_ceil(PART_BYTES as u64) }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ids_come_in_order_and_are_read_as_they_are_written() {
        let ids: Vec<TaskId> = (0..1000).map(|_| TaskId::new()).collect();
        assert!(ids.is_sorted());
        let id = ids[0];
        assert_eq!(id.to_string().parse(), Ok(id));
        assert_eq!(TaskId::from_bytes(id.bytes()), id);
        assert_eq!("1".parse::<TaskId>(), Err(NoTaskId));
    }

    #[test]
    fn a_derived_id_is_that_of_its_texts_and_their_borders() {
        assert_eq!(TaskId::derived(&["a", "b"]), TaskId::derived(&["a", "b"]));
        assert_ne!(TaskId::derived(&["a", "b"]), TaskId::derived(&["ab", ""]));
    }

    #[test]
    fn a_name_is_one_word() {
        assert!("lab-1_x".parse::<Name>().is_ok());
        let long = "x".repeat(65);
        for wrong in ["", "a b", "a.b", "ß", "a/b", "*", &long] {
            assert!(wrong.parse::<Name>().is_err(), "{wrong}");
        }
    }

    #[test]
    fn a_short_result_has_no_parts() {
        let head = |bytes, head: usize| ResultHead { bytes, head: vec![b'1'; head] };
        assert_eq!(head(0, 0).parts(), 0);
        assert_eq!(head(1024, 1024).parts(), 0);
        assert_eq!(head(1025, 1024).parts(), 1);
        assert_eq!(head(PART_BYTES as u64 + 1, 1024).parts(), 2);
    }
}
