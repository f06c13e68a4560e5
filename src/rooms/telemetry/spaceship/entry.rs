//! What is asked of `POST /stream/`: R2's two members, and what they lack.
//!
//! ```text
//! {"host": "127.0.0.1", "port": 5000, "ship_name"?, "rate"?, "lifetime_seconds"?,
//!  "lease_seconds"?, "seed"?}
//! ```

use std::num::NonZeroU32;
use std::ops::RangeInclusive;
use std::time::Duration;

use axum::http::StatusCode;
use serde::Deserialize;
use serde_json::Value;

use super::super::ship::ShipName;
use super::stream::Wish;
use crate::web::{HttpError, printable};

/// The most datagrams per second that can be asked for.
pub const RATE_MAX: u32 = 10_000_000;
/// The longest lease, in seconds.
const LEASE_SECONDS_MAX: u64 = 3600;
/// What a ship is called that is not named.
const NAMELESS: &str = "Spaceship";
/// Seeds that nobody has chosen are below this: every program can hold them exactly.
const SEED_END: u64 = 1 << 53;

/// What holds where nothing else is said.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Defaults {
    /// Datagrams per second; 0: as fast as it can.
    pub rate: u32,
    /// The lifetime of a stream, in seconds, and the longest there is.
    pub lifetime_seconds: u64,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Members {
    host: Option<Value>,
    port: Option<Value>,
    ship_name: Option<Value>,
    rate: Option<Value>,
    lifetime_seconds: Option<Value>,
    lease_seconds: Option<Value>,
    seed: Option<Value>,
}

/// Reads the body of a request for a stream.
///
/// # Errors
/// 400, which names the member that is wrong.
pub(super) fn read(body: &[u8], defaults: Defaults) -> Result<Wish, HttpError> {
    let members: Members = serde_json::from_slice(body)
        .map_err(|error| refused(format!("the body: {}", printable(&error.to_string()))))?;
    let host = match members.host {
        Some(Value::String(host)) => host,
        Some(_) => return Err(refused("host must be a text".to_owned())),
        None => return Err(refused("host is required".to_owned())),
    };
    let port = whole("port", members.port.as_ref(), 1..=u64::from(u16::MAX))?;
    let port = port.ok_or_else(|| refused("port is required".to_owned()))?;
    let rate = whole("rate", members.rate.as_ref(), 0..=u64::from(RATE_MAX))?;
    let rate = rate.map_or(defaults.rate, |rate| u32::try_from(rate).unwrap_or(RATE_MAX));
    let lifetimes = 1..=defaults.lifetime_seconds;
    let lifetime = whole("lifetime_seconds", members.lifetime_seconds.as_ref(), lifetimes)?;
    let leases = 1..=LEASE_SECONDS_MAX;
    let lease = whole("lease_seconds", members.lease_seconds.as_ref(), leases)?;
    let seed = whole("seed", members.seed.as_ref(), 0..=u64::MAX)?;
    Ok(Wish {
        host,
        port: u16::try_from(port).unwrap_or_default(),
        ship_name: ship_name(members.ship_name)?,
        rate: NonZeroU32::new(rate),
        lifetime: Duration::from_secs(lifetime.unwrap_or(defaults.lifetime_seconds)),
        lease: lease.map(Duration::from_secs),
        seed: seed.unwrap_or_else(|| fastrand::u64(..SEED_END)),
    })
}

fn ship_name(given: Option<Value>) -> Result<ShipName, HttpError> {
    let text = match given {
        Some(Value::String(text)) => text,
        Some(_) => return Err(refused("ship_name must be a text".to_owned())),
        None => NAMELESS.to_owned(),
    };
    text.parse().map_err(|error| refused(format!("ship_name: {error}")))
}

/// A whole number, if there is one.
fn whole(
    name: &str,
    given: Option<&Value>,
    range: RangeInclusive<u64>,
) -> Result<Option<u64>, HttpError> {
    let Some(given) = given else { return Ok(None) };
    let number = given.as_u64().filter(|number| range.contains(number));
    let (from, to) = (range.start(), range.end());
    let wrong = || refused(format!("{name} must be a whole number from {from} to {to}"));
    number.map(Some).ok_or_else(wrong)
}

fn refused(text: String) -> HttpError {
    HttpError::new(StatusCode::BAD_REQUEST, text)
}

#[cfg(test)]
mod tests {
    use super::*;

    const DEFAULTS: Defaults = Defaults { rate: 1000, lifetime_seconds: 3600 };

    fn wish(body: &str) -> Result<Wish, String> {
        read(body.as_bytes(), DEFAULTS).map_err(|error| error.to_string())
    }

    #[test]
    fn what_r2_sends_is_enough() {
        let wish = wish(r#"{"host": "localhost", "port": 1001}"#).unwrap();
        assert_eq!((wish.host.as_str(), wish.port), ("localhost", 1001));
        assert_eq!(wish.ship_name.as_str(), NAMELESS);
        assert_eq!(wish.rate, NonZeroU32::new(1000));
        assert_eq!((wish.lifetime, wish.lease), (Duration::from_secs(3600), None));
        assert!(wish.seed < SEED_END);
    }

    #[test]
    fn everything_that_can_be_asked_for_is_taken() {
        let body = r#"{"host":"::1","port":65535,"ship_name":"USS \"E\"","rate":0,
                       "lifetime_seconds":1,"lease_seconds":3600,"seed":18446744073709551615}"#;
        let expected = Wish {
            host: "::1".to_owned(),
            port: 65_535,
            ship_name: "USS \"E\"".parse().unwrap(),
            rate: None,
            lifetime: Duration::from_secs(1),
            lease: Some(Duration::from_secs(3600)),
            seed: u64::MAX,
        };
        assert_eq!(wish(body), Ok(expected));
        let asked = wish(r#"{"host":"a","port":1,"rate":null,"lease_seconds":null}"#).unwrap();
        assert_eq!((asked.rate, asked.lease), (NonZeroU32::new(1000), None));
    }

    #[test]
    fn what_is_wrong_is_named() {
        for (body, text) in [
            ("", "the body"),
            ("7", "the body"),
            ("{}", "host is required"),
            (r#"{"port":1}"#, "host is required"),
            (r#"{"host":null,"port":1}"#, "host is required"),
            (r#"{"host":127,"port":1}"#, "host must be a text"),
            (r#"{"host":"a"}"#, "port is required"),
            (r#"{"host":"a","port":0}"#, "port must be a whole number from 1 to 65535"),
            (r#"{"host":"a","port":65536}"#, "port must be a whole number from 1 to 65535"),
            (r#"{"host":"a","port":-1}"#, "port must be a whole number from 1 to 65535"),
            (r#"{"host":"a","port":"9999"}"#, "port must be a whole number"),
            (r#"{"host":"a","port":1,"rate":-1}"#, "rate must be a whole number from 0"),
            (r#"{"host":"a","port":1,"rate":1.5}"#, "rate must be a whole number from 0"),
            (r#"{"host":"a","port":1,"rate":10000001}"#, "rate must be a whole number from 0"),
            (r#"{"host":"a","port":1,"lifetime_seconds":0}"#, "lifetime_seconds must be"),
            (r#"{"host":"a","port":1,"lifetime_seconds":3601}"#, "from 1 to 3600"),
            (r#"{"host":"a","port":1,"lease_seconds":0}"#, "lease_seconds must be"),
            (r#"{"host":"a","port":1,"lease_seconds":3601}"#, "from 1 to 3600"),
            (r#"{"host":"a","port":1,"seed":-1}"#, "seed must be a whole number"),
            (r#"{"host":"a","port":1,"ship_name":""}"#, "ship_name: a ship's name has"),
            (r#"{"host":"a","port":1,"ship_name":"a\nb"}"#, "ship_name: a ship's name has"),
            (r#"{"host":"a","port":1,"ship_name":7}"#, "ship_name must be a text"),
            (r#"{"host":"a","port":1,"lifetime":5}"#, "unknown field `lifetime`"),
            (r#"{"host":"a","port":1,"port":2}"#, "duplicate field"),
        ] {
            let refused = wish(body).unwrap_err();
            assert!(refused.contains("400") && refused.contains(text), "{body}: {refused}");
        }
    }
}
