//! HTTP/1.1, up to where the rooms begin: limits, tokens, errors, probes, metrics.
//!
//! It knows no room. A room hands in a [`Room`] (routes, their description, the shape of their
//! errors); [`app()`] puts rooms together with what every application has; [`serve()`] listens.
//!
//! A request passes, in this order:
//!
//! 1. [`serve()`]: the connection's limits and timers; the size of the head
//! 2. the envelope of [`app()`]: count and time; `Host` and `Origin`; preflights
//! 3. [`Auth::require`]: token, rate, scope; the [`Principal`] goes with the request
//! 4. the room's handler: reads the body with a [`BodyReader`], fails with an [`HttpError`]
//! 5. on the way back, the room's [`Shape`] for errors, then the security and CORS headers
//!
//! Deliberately absent: HTTP/2 (a reverse proxy speaks it better), cookies and sessions (nothing
//! for a foreign page to ride on), compression of answers.

mod admission;
mod answer;
mod app;
mod auth;
mod body;
mod connection;
mod encoding;
mod envelope;
mod error;
mod headers;
mod listen;
mod metrics;
mod openapi;
mod origin;
mod probes;
mod query;
mod raw;
mod request;
mod serve;
mod socket;
mod timer;
mod tls;
mod tokens;

#[cfg(test)]
mod tests;

pub use answer::json;
pub use app::{AppParts, Room, app};
pub use auth::{Auth, Principal};
pub use body::{
    BodyError, BodyReader, BodySettings, BodyStream, Budget, BudgetGuard, ReceivedBody,
};
pub use encoding::refuse_coded;
pub use error::{HttpError, Shape};
pub use listen::{ListenError, check_listen};
pub use metrics::HttpMetrics;
#[cfg(test)]
pub use openapi::assert_describes;
pub use openapi::described;
pub use origin::{CorsError, CorsOrigins};
pub use probes::Readiness;
pub use query::Query;
pub use request::{idempotency_key, is_lines};
pub use serve::{ServeSettings, serve};
pub use socket::{Farewell, Seat, Seats, Talk, Upgrade, open as open_socket};
pub use tls::{TlsError, load as load_tls};
pub use tokens::{Scope, Tokens, TokensError};

pub use crate::service::{PRINTABLE_CHARACTERS, printable};
