//! The streams of a spaceship that may be elsewhere, asked for on the way to it.

use std::time::Duration;

use bytes::Bytes;
use hyper::Request;
use serde::Deserialize;

use crate::rooms::telemetry::road::Road;

/// How long the answer may take.
const ANSWER_TIMEOUT: Duration = Duration::from_secs(2);

/// The streams that are active.
#[derive(Debug, Clone, Default, PartialEq, Eq, Deserialize)]
pub struct Active {
    /// How many.
    pub number_of_active_streams: u64,
    /// Each; R2's spaceship tells only how many there are.
    #[serde(default)]
    pub streams: Vec<ActiveStream>,
}

/// One of them.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
pub struct ActiveStream {
    /// By what the spaceship knows it.
    pub event_key: String,
    /// The ship that it is said to be of.
    pub ship_name: String,
    /// Where it goes, as it was asked for.
    pub host: String,
    /// The port it goes to.
    pub port: u16,
    /// Datagrams per second; 0 is as fast as it can.
    pub rate: u64,
    /// Datagrams that were sent.
    pub sent: u64,
    /// Times that nobody listened.
    pub refused: u64,
    /// When it began, as RFC 3339.
    pub started_at: String,
}

/// Asks the spaceship at the end of this road.
///
/// # Errors
/// Why that is not known, and what to do about it, in words for a person.
pub async fn read(road: &Road) -> Result<Active, String> {
    let request = Request::get("/stream/").body(Bytes::new()).map_err(|error| error.to_string())?;
    let asked = tokio::time::timeout(ANSWER_TIMEOUT, road.exchange(request)).await;
    let Ok(Ok(answer)) = asked else { return Err(absent(road)) };
    let status = answer.status();
    if status == hyper::StatusCode::UNAUTHORIZED || status == hyper::StatusCode::FORBIDDEN {
        return Err(format!("the spaceship at {road} answers {status}: set SPACESHIP_TOKEN_FILE"));
    }
    if !status.is_success() {
        return Err(format!("the spaceship at {road} answers {status}: is SPACESHIP_URL right?"));
    }
    serde_json::from_slice(answer.body())
        .map_err(|error| format!("what answers at {road} is no spaceship: {error}"))
}

/// That no spaceship answers.
pub(super) fn absent(road: &Road) -> String {
    format!("no spaceship answers at {road}: start `spaceship`, or set SPACESHIP_URL")
}
