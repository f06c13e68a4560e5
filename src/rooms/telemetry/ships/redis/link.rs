//! A connection to Redis, and the script that pushes.

use std::collections::HashMap;
use std::time::Duration;

use redis::aio::MultiplexedConnection;
use redis::{AsyncConnectionConfig, ErrorKind, FromRedisValue, RedisError, Script};

use super::piece::Piece;
use super::{Address, COUNTS, PLACES};
use crate::message::ShardKey;
use crate::rooms::telemetry::ships::commits::Place;

/// How long connecting, and an answer, may take.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(5);
const ANSWER_TIMEOUT: Duration = Duration::from_secs(10);

/// A connection.
pub(super) struct Link {
    connection: MultiplexedConnection,
    script: Script,
}

impl Link {
    pub(super) async fn connect(address: &Address) -> Result<Self, RedisError> {
        let config = AsyncConnectionConfig::new()
            .set_connection_timeout(Some(CONNECT_TIMEOUT))
            .set_response_timeout(Some(ANSWER_TIMEOUT));
        let connected = address.client.get_multiplexed_async_connection_with_config(&config);
        let script = Script::new(include_str!("apply.lua"));
        Ok(Self { connection: connected.await?, script })
    }

    /// How far a state directory has come in each of its shards; of which nothing is there, nothing
    /// was pushed.
    pub(super) async fn places(
        &mut self,
        identity: &str,
    ) -> Result<HashMap<ShardKey, Place>, RedisError> {
        let stored = self.hash(&places_key(identity)).await?;
        let read = |(shard, text): (&String, &String)| {
            let wrong = || not_a_place(&format!("{shard} {text}"));
            Ok((ShardKey::parse_short(shard).ok_or_else(wrong)?, place(text).ok_or_else(wrong)?))
        };
        stored.iter().map(read).collect()
    }

    /// How many datagrams of each ship were pushed, ever.
    pub(super) async fn counts(&mut self) -> Result<Vec<(String, u64)>, RedisError> {
        Ok(self.hash(COUNTS).await?.into_iter().collect())
    }

    /// Whether there are lists, but no count of any: database 0 was lost, and database 1 was not.
    pub(super) async fn lists_are_uncounted(&mut self) -> Result<bool, RedisError> {
        let mut asked = redis::pipe();
        asked.cmd("SELECT").arg(0).ignore().cmd("EXISTS").arg(COUNTS);
        asked.cmd("SELECT").arg(super::SHIPS_DATABASE).ignore().cmd("DBSIZE");
        let (counts, lists): (u64, u64) = asked.query_async(&mut self.connection).await?;
        Ok(counts == 0 && lists > 0)
    }

    /// A hash of database 0.
    async fn hash<V: FromRedisValue>(
        &mut self,
        key: &str,
    ) -> Result<HashMap<String, V>, RedisError> {
        let mut asked = redis::pipe();
        asked.cmd("SELECT").arg(0).ignore().cmd("HGETALL").arg(key);
        asked.cmd("SELECT").arg(super::SHIPS_DATABASE).ignore();
        let (hash,) = asked.query_async(&mut self.connection).await?;
        Ok(hash)
    }

    /// Pushes a piece, if a shard of the state directory `identity` is at its beginning; the place
    /// where the shard is then.
    pub(super) async fn push(
        &mut self,
        identity: &str,
        key: ShardKey,
        piece: &Piece,
        list_max: u64,
    ) -> Result<Place, RedisError> {
        let mut push = self.script.prepare_invoke();
        push.key(places_key(identity)).key(COUNTS);
        push.arg(key.short()).arg(text(piece.from)).arg(text(piece.to)).arg(list_max);
        for (ship, datagrams) in &piece.ships {
            push.arg(ship.as_str()).arg(datagrams.len());
            for datagram in datagrams {
                push.arg(datagram.as_slice());
            }
        }
        let said: String = push.invoke_async(&mut self.connection).await?;
        place(&said).ok_or_else(|| not_a_place(&said))
    }
}

fn places_key(identity: &str) -> String {
    format!("{PLACES}:{identity}")
}

fn not_a_place(found: &str) -> RedisError {
    let text = format!("its database 0 has \"{found}\" where the place of a shard should be");
    (ErrorKind::UnexpectedReturnType, "no place", text).into()
}

/// A place as Redis has it.
fn text(place: Place) -> String {
    format!("{}:{}", place.batch, place.lines)
}

fn place(text: &str) -> Option<Place> {
    let (batch, lines) = text.split_once(':')?;
    Some(Place { batch: batch.parse().ok()?, lines: lines.parse().ok()? })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_place_reads_back() {
        let at = Place { batch: 42, lines: 7 };
        assert_eq!((text(at).as_str(), place("42:7")), ("42:7", Some(at)));
        assert_eq!(place("0:0"), Some(Place::default()));
        assert_eq!(place("42"), None);
    }
}
