//! Answers given below the router: before there is a request that could be routed.
//!
//! hyper answers a head that it cannot read with a status and nothing else; here is what a client
//! reads instead, with the headers that every answer carries.

use std::fmt::Write;
use std::sync::LazyLock;

use axum::http::{HeaderMap, StatusCode};

use super::headers;

/// Why there is no request to be routed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum RawAnswer {
    /// The head is no HTTP/1.1.
    Malformed,
    /// The head is larger, or has more fields, than may be.
    HeadTooLarge,
    /// The head did not come in time.
    HeadTooSlow,
    /// The server has all the connections it can.
    ServerFull,
    /// The client's address has all the connections it may have.
    AddressFull,
}

/// In the order of the enum.
static ANSWERS: LazyLock<[String; 5]> = LazyLock::new(|| {
    [
        whole(StatusCode::BAD_REQUEST, "", "the head of the request is not HTTP/1.1"),
        whole(
            StatusCode::REQUEST_HEADER_FIELDS_TOO_LARGE,
            "",
            "the head of the request is too large",
        ),
        whole(StatusCode::REQUEST_TIMEOUT, "", "the head of the request came too slowly"),
        whole(
            StatusCode::SERVICE_UNAVAILABLE,
            "retry-after: 1\r\n",
            "this server has all the connections it can",
        ),
        // 429 (RFC 6585, section 4) is for what the client can cure itself.
        whole(
            StatusCode::TOO_MANY_REQUESTS,
            "retry-after: 1\r\n",
            "this address has all the connections it may have",
        ),
    ]
});

fn whole(status: StatusCode, fields: &str, text: &str) -> String {
    let body = serde_json::json!({ "error": text }).to_string();
    let mut security = HeaderMap::new();
    headers::apply(&mut security);
    let mut answer = format!("HTTP/1.1 {status}\r\n{fields}");
    for (name, value) in &security {
        // Writing to a string cannot fail.
        let _written = write!(answer, "{name}: {}\r\n", value.to_str().unwrap_or_default());
    }
    let length = body.len();
    answer
        + &format!(
            "content-type: application/json\r\ncontent-length: {length}\r\n\
         connection: close\r\n\r\n{body}"
        )
}

impl RawAnswer {
    /// The whole answer.
    pub(super) fn bytes(self) -> &'static [u8] {
        let [malformed, too_large, too_slow, server_full, address_full] = &*ANSWERS;
        let answer = match self {
            Self::Malformed => malformed,
            Self::HeadTooLarge => too_large,
            Self::HeadTooSlow => too_slow,
            Self::ServerFull => server_full,
            Self::AddressFull => address_full,
        };
        answer.as_bytes()
    }

    /// What stands for an answer of hyper's own, whose start is `bytes`.
    pub(super) fn in_place_of(bytes: &[u8]) -> Option<Self> {
        match bytes.strip_prefix(b"HTTP/1.1 ")?.get(..3)? {
            b"400" => Some(Self::Malformed),
            b"431" => Some(Self::HeadTooLarge),
            _ => None,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_answer_says_its_true_length_and_carries_the_headers() {
        for answer in ANSWERS.iter() {
            let (head, body) = answer.split_once("\r\n\r\n").unwrap();
            assert!(head.contains(&format!("content-length: {}\r\n", body.len())), "{answer}");
            assert!(head.contains("x-content-type-options: nosniff\r\n"), "{answer}");
            assert!(serde_json::from_str::<serde_json::Value>(body).unwrap()["error"].is_string());
        }
    }

    #[test]
    fn only_hypers_own_refusals_are_replaced() {
        let own = |text: &str| RawAnswer::in_place_of(text.as_bytes());
        assert_eq!(own("HTTP/1.1 400 Bad Request\r\n"), Some(RawAnswer::Malformed));
        assert_eq!(own("HTTP/1.1 431 "), Some(RawAnswer::HeadTooLarge));
        assert_eq!(own("HTTP/1.1 200 OK\r\n"), None);
        assert_eq!(own("\x16\x03"), None);
    }
}
