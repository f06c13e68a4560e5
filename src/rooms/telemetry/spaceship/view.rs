//! A stream as clients see it.

use std::net::SocketAddr;

use chrono::{DateTime, SecondsFormat, Utc};
use serde::Serialize;
use uuid::Uuid;

use super::stream::{Reason, Stream, Tally};

/// A stream. What is not so yet is left out.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub(super) struct View<'a> {
    event_key: Uuid,
    ship_name: &'a str,
    host: &'a str,
    port: u16,
    source: SocketAddr,
    rate: u32,
    seed: u64,
    state: &'static str,
    #[serde(skip_serializing_if = "Option::is_none")]
    reason: Option<Reason>,
    sent: u64,
    bytes: u64,
    refused: u64,
    started_at: String,
    #[serde(skip_serializing_if = "Option::is_none")]
    ended_at: Option<String>,
}

impl<'a> View<'a> {
    /// A stream as it is now.
    pub(super) fn new(stream: &'a Stream) -> Self {
        // The end is looked at first: the count of a stream that has ended is final.
        let end = stream.end();
        let Tally { sent, bytes, refused } = stream.tally();
        let wish = &stream.wish;
        Self {
            event_key: stream.key,
            ship_name: wish.ship_name.as_str(),
            host: &wish.host,
            port: wish.port,
            source: stream.source,
            rate: wish.rate.map_or(0, Into::into),
            seed: wish.seed,
            state: if end.is_some() { "ended" } else { "active" },
            reason: end.map(|end| end.reason),
            sent,
            bytes,
            refused,
            started_at: date(stream.started_at),
            ended_at: end.map(|end| date(end.at)),
        }
    }
}

fn date(at: DateTime<Utc>) -> String {
    at.to_rfc3339_opts(SecondsFormat::Micros, true)
}

/// `GET /stream/`.
#[derive(Debug, Serialize)]
pub(super) struct Active<'a> {
    /// R2's only member.
    pub(super) number_of_active_streams: usize,
    pub(super) streams: Vec<View<'a>>,
}

/// `POST /stream/`: R2's members, and what a capture needs to know.
#[derive(Debug, Serialize)]
pub(super) struct Started<'a> {
    message: &'static str,
    event_key: Uuid,
    source: SocketAddr,
    ship_name: &'a str,
    rate: u32,
}

impl<'a> Started<'a> {
    pub(super) fn new(stream: &'a Stream) -> Self {
        let View { event_key, source, ship_name, rate, .. } = View::new(stream);
        Self { message: "Communication started", event_key, source, ship_name, rate }
    }
}

/// `DELETE /stream/{event_key}`: R2's member, and all that is known of the stream.
#[derive(Debug, Serialize)]
pub(super) struct Stopped<'a> {
    message: &'static str,
    #[serde(flatten)]
    stream: View<'a>,
}

impl<'a> Stopped<'a> {
    pub(super) fn new(stream: &'a Stream) -> Self {
        Self { message: "Communication stopped", stream: View::new(stream) }
    }
}
