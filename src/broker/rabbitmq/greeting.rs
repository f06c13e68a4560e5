//! What a broker says of itself before anybody has logged in: its product, version, abilities.
//!
//! AMQP 0-9-1 begins with 8 bytes of the client, which the server answers with `connection.start`.
//! The client library keeps that answer to itself, so it is read here, on a short connection of its
//! own. The broker's log may remark that the connection was closed early.

use std::io;

use lapin::protocol::connection::AMQPMethod;
use lapin::protocol::{AMQPClass, parse_class};
use lapin::types::{AMQPValue, FieldTable};
use tokio::io::{AsyncReadExt, AsyncWriteExt};

use super::address::Address;
use super::dial::{dial, in_time};
use super::topology::CALL_TIMEOUT;

const HEADER: &[u8; 8] = b"AMQP\x00\x00\x09\x01";
/// Type, channel, size.
const FRAME_HEAD_BYTES: usize = 7;
/// The type of a frame that holds a method.
const METHOD: u8 = 1;
/// Many times of what a server has to say of itself.
const FRAME_BYTES_MAX: u32 = 128 * 1024;

/// What a broker says of itself.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Greeting {
    /// What it is, such as "RabbitMQ".
    pub product: String,
    /// Its version, such as "3.10.8".
    pub version: String,
    /// The name of its cluster, if it says one.
    pub cluster: Option<String>,
    /// What it says to be able to do.
    pub capabilities: Vec<String>,
}

/// Asks the broker what it is.
///
/// # Errors
/// It cannot be reached, or does not speak AMQP 0-9-1.
pub async fn greet(address: &Address) -> io::Result<Greeting> {
    in_time(CALL_TIMEOUT, async {
        let mut stream = dial(address.host(), address.port(), address.tls()).await?;
        stream.write_all(HEADER).await?;
        stream.flush().await?;
        let mut head = [0; FRAME_HEAD_BYTES];
        stream.read_exact(&mut head).await.map_err(|error| match error.kind() {
            io::ErrorKind::UnexpectedEof => other("it closed the connection without a word"),
            _ => error,
        })?;
        let [kind, _, _, size @ ..] = head;
        let size = u32::from_be_bytes(size);
        if kind != METHOD || size > FRAME_BYTES_MAX {
            return Err(other("it does not speak AMQP 0-9-1"));
        }
        let mut method = vec![0; usize::try_from(size).unwrap_or_default()];
        stream.read_exact(&mut method).await?;
        read(&method).ok_or_else(|| other("its greeting is not one of AMQP 0-9-1"))
    })
    .await
}

fn other(text: &str) -> io::Error {
    io::Error::other(text)
}

fn read(method: &[u8]) -> Option<Greeting> {
    let (_, class) = parse_class(method).ok()?;
    let AMQPClass::Connection(AMQPMethod::Start(start)) = class else { return None };
    let properties = &start.server_properties;
    let capabilities = match value(properties, "capabilities") {
        Some(AMQPValue::FieldTable(table)) => {
            let able = |value: &AMQPValue| matches!(value, AMQPValue::Boolean(true));
            let able = table.inner().iter().filter(|(_, value)| able(value));
            able.map(|(name, _)| name.to_string()).collect()
        }
        _ => Vec::new(),
    };
    Some(Greeting {
        product: text(properties, "product").unwrap_or_default(),
        version: text(properties, "version").unwrap_or_default(),
        cluster: text(properties, "cluster_name"),
        capabilities,
    })
}

fn value<'a>(table: &'a FieldTable, key: &str) -> Option<&'a AMQPValue> {
    table.inner().get(key)
}

fn text(table: &FieldTable, key: &str) -> Option<String> {
    match value(table, key)? {
        AMQPValue::LongString(text) => Some(String::from_utf8_lossy(text.as_bytes()).into_owned()),
        AMQPValue::ShortString(text) => Some(text.to_string()),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_greeting_is_read_and_what_is_none_is_not() {
        let entry = |key: &str, kind: u8, value: &[u8]| {
            let length = u32::try_from(value.len()).unwrap().to_be_bytes();
            let length = if kind == b't' { &[][..] } else { &length };
            [&[u8::try_from(key.len()).unwrap()], key.as_bytes(), &[kind], length, value].concat()
        };
        let table = |bytes: Vec<u8>| {
            [&u32::try_from(bytes.len()).unwrap().to_be_bytes()[..], &bytes].concat()
        };
        let able = [entry("basic.nack", b't', &[1]), entry("other", b't', &[0])].concat();
        let properties = [
            entry("product", b'S', b"RabbitMQ"),
            entry("version", b'S', b"3.10.8"),
            entry("capabilities", b'F', &able),
        ];
        let strings = [&table(b"PLAIN".to_vec())[..], &table(b"en_US".to_vec())].concat();
        let start = [&[0, 10, 0, 10, 0, 9][..], &table(properties.concat()), &strings].concat();
        let greeting = read(&start).unwrap();
        assert_eq!((&*greeting.product, &*greeting.version), ("RabbitMQ", "3.10.8"));
        assert_eq!(greeting.capabilities, ["basic.nack"]);
        for wrong in [&start[..20], &[0, 10, 0, 11], &[], &[0xff; 40]] {
            assert_eq!(read(wrong), None);
        }
    }
}
