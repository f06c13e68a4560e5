//! The id of a packet, by which the bridge knows what it has taken already.
//!
//! ```text
//! message-id   s.<32 hexadecimal digits>.<number>     the n-th packet of a publisher's session
//!              k.<32 hexadecimal digits>.<number>     the n-th packet of a request with a key
//! ```
//!
//! Numbers count by shard, from 0, so (session, shard, number) is one packet. A session is a
//! publisher from its start to its end, named at random. A request with an Idempotency-Key has the
//! same ids whoever sends it and however often: they come from its principal, key and body.

use std::fmt;
use std::str::FromStr;

use sha2::{Digest, Sha256};

use crate::broker::IdempotencyKey;
use crate::message::ShardKey;

/// A publisher from start to end, or a request with a key.
pub type Session = [u8; 16];

/// The id of a packet within its shard.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum PacketId {
    /// The n-th packet of a session.
    OfSession(Session, u64),
    /// The n-th packet of a request with a key.
    OfKey(Session, u64),
}

/// A session, whose name nobody else has.
///
/// # Errors
/// The kernel gives no random bits.
pub fn new_session() -> std::io::Result<Session> {
    let mut session = Session::default();
    rustix::rand::getrandom(&mut session, rustix::rand::GetRandomFlags::empty())?;
    Ok(session)
}

/// The head of the ids of a request with a key. Another body has other ids: if two servers that do
/// not know of each other take one key for two bodies, both are stored rather than one lost.
#[must_use]
pub fn of_key(key: &IdempotencyKey) -> Session {
    let mut hash = Sha256::new();
    hash.update((key.principal.len() as u64).to_be_bytes());
    hash.update(key.principal.as_bytes());
    hash.update((key.key.len() as u64).to_be_bytes());
    hash.update(key.key.as_bytes());
    hash.update(key.fingerprint);
    let digest: [u8; 32] = hash.finalize().into();
    digest.first_chunk().copied().unwrap_or_default()
}

/// What table idempotency knows a packet by.
#[must_use]
pub fn stored(id: PacketId, shard: ShardKey) -> [u8; 32] {
    let mut hash = Sha256::new();
    hash.update(b"packet");
    hash.update(shard.key());
    hash.update(id.to_string());
    hash.finalize().into()
}

impl fmt::Display for PacketId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (kind, session, number) = match self {
            Self::OfSession(session, number) => ('s', session, number),
            Self::OfKey(session, number) => ('k', session, number),
        };
        write!(f, "{kind}.{:032x}.{number}", u128::from_be_bytes(*session))
    }
}

/// A text that is no id of ours.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("not a packet id")]
pub struct NotAPacketId;

impl FromStr for PacketId {
    type Err = NotAPacketId;

    fn from_str(text: &str) -> Result<Self, NotAPacketId> {
        let (kind, rest) = text.split_once('.').ok_or(NotAPacketId)?;
        let (session, number) = rest.split_once('.').ok_or(NotAPacketId)?;
        let digits = |text: &str| !text.is_empty() && text.bytes().all(|b| b.is_ascii_digit());
        let hexadecimal = session.len() == 32 && session.bytes().all(|b| b.is_ascii_hexdigit());
        if !hexadecimal || !digits(number) {
            return Err(NotAPacketId);
        }
        let session = u128::from_str_radix(session, 16).map_err(|_| NotAPacketId)?.to_be_bytes();
        let number = number.parse().ok().filter(|number| *number < u64::MAX).ok_or(NotAPacketId)?;
        match kind {
            "s" => Ok(Self::OfSession(session, number)),
            "k" => Ok(Self::OfKey(session, number)),
            _ => Err(NotAPacketId),
        }
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use super::*;

    #[test]
    fn an_id_reads_back() {
        let session = 0xfe_u128.to_be_bytes();
        for id in [PacketId::OfSession(session, 0), PacketId::OfKey(session, u64::MAX - 1)] {
            assert_eq!(id.to_string().parse(), Ok(id));
        }
        let text = PacketId::OfSession(session, 7).to_string();
        assert_eq!(text, "s.000000000000000000000000000000fe.7");
    }

    #[test]
    fn what_is_no_id_is_refused() {
        let session = "0".repeat(32);
        for text in
            ["", "s", "s.1.1", &format!("x.{session}.1"), &format!("s.{session}."), &session]
        {
            assert_eq!(text.parse::<PacketId>(), Err(NotAPacketId), "{text}");
        }
        assert_eq!(format!("s.{session}.+1").parse::<PacketId>(), Err(NotAPacketId));
        assert_eq!(format!("s.{session}.1.1").parse::<PacketId>(), Err(NotAPacketId));
    }

    #[test]
    fn ids_of_a_key_differ_by_principal_key_and_body_and_by_nothing_else() {
        let key = |principal: &str, key: &str, byte: u8| IdempotencyKey {
            principal: Arc::from(principal),
            key: key.to_owned(),
            fingerprint: [byte; 32],
        };
        let one = of_key(&key("ann", "k", 1));
        assert_eq!(one, of_key(&key("ann", "k", 1)));
        for other in
            [key("bob", "k", 1), key("ann", "l", 1), key("ann", "k", 2), key("an", "nk", 1)]
        {
            assert_ne!(one, of_key(&other));
        }
    }
}
