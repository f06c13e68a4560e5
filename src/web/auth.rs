//! Who may do what: bearer tokens (RFC 6750), scopes, and a rate per token.
//!
//! Without tokens ("open") every scope is granted; what guards that mode is in
//! [`origin`](super::origin).

use std::borrow::Cow;
use std::convert::Infallible;
use std::pin::Pin;
use std::sync::{Arc, LazyLock, Mutex};
use std::task::{Context, Poll};

use axum::Router;
use axum::extract::Request;
use axum::http::header::{AUTHORIZATION, SEC_WEBSOCKET_PROTOCOL};
use axum::http::{HeaderMap, HeaderValue, StatusCode};
use axum::response::{IntoResponse, Response};
use percent_encoding::percent_decode_str;
use tower::{Layer, Service};

use super::error::HttpError;
use super::tokens::{Scope, Token, Tokens};
use crate::clock::{Clock, TokenBucket};
use crate::service::held;

/// Who sent a request; in the extensions of every request that passed [`Auth::require`].
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Principal {
    /// The token's name, or `anonymous` where there are no tokens.
    pub name: Arc<str>,
    /// Whether it may do what needs [`Scope::Write`].
    pub may_write: bool,
}

/// What a subprotocol that is a token begins with.
pub(super) const SOCKET_BEARER: &str = "bearer.";

static ANONYMOUS: LazyLock<Arc<str>> = LazyLock::new(|| Arc::from("anonymous"));

/// The door keeper. Cheap to clone; clones share the rates.
#[derive(Debug, Clone)]
pub struct Auth {
    locked: Option<Arc<Locked>>,
}

#[derive(Debug)]
struct Locked {
    tokens: Tokens,
    /// One per token, in the order of the list.
    rates: Vec<Mutex<TokenBucket>>,
    clock: Arc<dyn Clock>,
}

impl Auth {
    /// No tokens: every scope is granted.
    #[must_use]
    pub fn open() -> Self {
        Self { locked: None }
    }

    /// Only these tokens, each with `requests_per_second` (0: no limit; a burst of one second).
    #[must_use]
    pub fn with_tokens(tokens: Tokens, requests_per_second: u32, clock: Arc<dyn Clock>) -> Self {
        let now = clock.monotonic();
        let bucket = |_: &Token| {
            Mutex::new(TokenBucket::new(requests_per_second, requests_per_second.into(), now))
        };
        let rates = tokens.entries().iter().map(bucket).collect();
        Self { locked: Some(Arc::new(Locked { tokens, rates, clock })) }
    }

    /// Whether there are no tokens.
    #[must_use]
    pub fn is_open(&self) -> bool {
        self.locked.is_none()
    }

    /// Lets only requests with `scope` reach the routes that `router` has now.
    ///
    /// Others get 401 (no or an unknown token), 403 (scope missing) or 429 (too fast).
    pub fn require(&self, router: Router, scope: Scope) -> Router {
        router.layer(RequireLayer { auth: self.clone(), scope, is_socket: false })
    }

    /// The same for WebSockets, which also take the token as one of the subprotocols that the
    /// client offers, `bearer.<token>`, percent-encoded: a script in a browser cannot send headers
    /// with a WebSocket.
    pub fn require_for_socket(&self, router: Router, scope: Scope) -> Router {
        router.layer(RequireLayer { auth: self.clone(), scope, is_socket: true })
    }

    fn admit(&self, presented: Option<&[u8]>, scope: Scope) -> Result<Principal, HttpError> {
        let Some(locked) = &self.locked else {
            return Ok(Principal { name: Arc::clone(&ANONYMOUS), may_write: true });
        };
        let presented = presented.ok_or_else(|| unauthorized(false))?;
        let place = locked.tokens.find(presented).ok_or_else(|| unauthorized(true))?;
        let (Some(token), Some(rate)) =
            (locked.tokens.entries().get(place), locked.rates.get(place))
        else {
            return Err(unauthorized(true));
        };
        let now = locked.clock.monotonic();
        let mut bucket = held(rate);
        if !bucket.try_take(now) {
            let wait = bucket.wait(now).unwrap_or_default();
            let seconds = u32::try_from(wait.as_secs()).unwrap_or(u32::MAX).saturating_add(1);
            let text = "this token sends more requests per second than it may";
            return Err(HttpError::new(StatusCode::TOO_MANY_REQUESTS, text).retry_after(seconds));
        }
        drop(bucket);
        if token.allows(scope) {
            Ok(Principal { name: Arc::clone(&token.name), may_write: token.allows(Scope::Write) })
        } else {
            Err(forbidden(scope))
        }
    }
}

/// The credentials of a lone `Authorization: Bearer` header; the scheme in any case (RFC 9110).
fn bearer(headers: &HeaderMap) -> Option<&[u8]> {
    let mut values = headers.get_all(AUTHORIZATION).iter();
    let (Some(value), None) = (values.next(), values.next()) else { return None };
    let (scheme, rest) = value.as_bytes().split_at_checked(7)?;
    scheme.eq_ignore_ascii_case(b"bearer ").then(|| rest.trim_ascii())
}

/// The credentials among the subprotocols that a client offers (RFC 6455, section 11.3.4).
fn socket_bearer(headers: &HeaderMap) -> Option<Cow<'_, [u8]>> {
    let offered = headers.get_all(SEC_WEBSOCKET_PROTOCOL).iter();
    let offered = offered.filter_map(|value| value.to_str().ok()).flat_map(|text| text.split(','));
    let mut tokens = offered.filter_map(|text| text.trim().strip_prefix(SOCKET_BEARER));
    tokens.next().map(|token| percent_decode_str(token).into())
}

/// RFC 6750, section 3: the error code only where credentials were sent.
fn unauthorized(presented: bool) -> HttpError {
    let (text, challenge) = if presented {
        (
            "this token is not known here",
            r#"Bearer realm="async-data-processor", error="invalid_token""#,
        )
    } else {
        (
            "a token is needed: send the header `Authorization: Bearer <token>`",
            r#"Bearer realm="async-data-processor""#,
        )
    };
    HttpError::new(StatusCode::UNAUTHORIZED, text).challenge(HeaderValue::from_static(challenge))
}

/// RFC 6750, section 3.1.
fn forbidden(scope: Scope) -> HttpError {
    macro_rules! challenge {
        ($scope:literal) => {
            HeaderValue::from_static(concat!(
                r#"Bearer realm="async-data-processor", error="insufficient_scope", scope=""#,
                $scope,
                r#"""#
            ))
        };
    }
    let challenge = match scope {
        Scope::Write => challenge!("write"),
        Scope::Read => challenge!("read"),
        Scope::Admin => challenge!("admin"),
    };
    let text = format!("this token does not have the scope {}", scope.name());
    HttpError::new(StatusCode::FORBIDDEN, text).challenge(challenge)
}

#[derive(Clone)]
struct RequireLayer {
    auth: Auth,
    scope: Scope,
    is_socket: bool,
}

impl<S> Layer<S> for RequireLayer {
    type Service = Require<S>;

    fn layer(&self, inner: S) -> Require<S> {
        let Self { auth, scope, is_socket } = self.clone();
        Require { inner, auth, scope, is_socket }
    }
}

#[derive(Clone)]
struct Require<S> {
    inner: S,
    auth: Auth,
    scope: Scope,
    is_socket: bool,
}

impl<S> Service<Request> for Require<S>
where
    S: Service<Request, Response = Response, Error = Infallible>,
    S::Future: Send + 'static,
{
    type Response = Response;
    type Error = Infallible;
    type Future = Pin<Box<dyn Future<Output = Result<Response, Infallible>> + Send>>;

    fn poll_ready(&mut self, context: &mut Context<'_>) -> Poll<Result<(), Infallible>> {
        self.inner.poll_ready(context)
    }

    fn call(&mut self, mut request: Request) -> Self::Future {
        let mut presented = bearer(request.headers()).map(Cow::Borrowed);
        if self.is_socket {
            presented = presented.or_else(|| socket_bearer(request.headers()));
        }
        let admitted = self.auth.admit(presented.as_deref(), self.scope);
        drop(presented);
        match admitted {
            Ok(principal) => {
                request.extensions_mut().insert(principal);
                Box::pin(self.inner.call(request))
            }
            Err(error) => Box::pin(std::future::ready(Ok(error.into_response()))),
        }
    }
}

#[cfg(test)]
mod tests {
    use axum::Extension;
    use axum::body::Body;
    use axum::http::header::{RETRY_AFTER, WWW_AUTHENTICATE};
    use axum::routing::{get, post};
    use http_body_util::BodyExt;

    use super::*;
    use crate::clock::SystemClock;

    fn auth(requests_per_second: u32) -> Auth {
        let tokens = Tokens::parse("reader:read:r34d\nwriter:write:wr1te\nroot:admin:4dmin");
        Auth::with_tokens(tokens.unwrap(), requests_per_second, Arc::new(SystemClock))
    }

    fn router(auth: &Auth) -> Router {
        async fn name(principal: Extension<Principal>) -> String {
            principal.name.to_string()
        }
        let writes = auth.require(Router::new().route("/thing", post(name)), Scope::Write);
        let reads = auth.require(Router::new().route("/thing", get(name)), Scope::Read);
        writes.merge(reads)
    }

    async fn ask(router: &Router, method: &str, authorization: Option<&str>) -> Response {
        let mut request = Request::builder().method(method).uri("/thing");
        if let Some(value) = authorization {
            request = request.header(AUTHORIZATION, value);
        }
        router.clone().call(request.body(Body::empty()).unwrap()).await.unwrap()
    }

    async fn text(response: Response) -> String {
        let bytes = response.into_body().collect().await.unwrap().to_bytes();
        String::from_utf8(bytes.to_vec()).unwrap()
    }

    #[tokio::test]
    async fn a_missing_or_unknown_token_is_401_with_a_challenge() {
        let router = router(&auth(0));
        let response = ask(&router, "POST", None).await;
        assert_eq!(response.status(), StatusCode::UNAUTHORIZED);
        assert_eq!(response.headers()[WWW_AUTHENTICATE], r#"Bearer realm="async-data-processor""#);
        for wrong in ["Bearer nope", "Bearer ", "Bearer", "Basic d3IxdGU=", "bearer4dmin"] {
            let response = ask(&router, "POST", Some(wrong)).await;
            assert_eq!(response.status(), StatusCode::UNAUTHORIZED, "{wrong}");
        }
    }

    #[tokio::test]
    async fn a_scope_is_needed_per_method_and_admin_has_all() {
        let router = router(&auth(0));
        assert_eq!(text(ask(&router, "POST", Some("bearer wr1te")).await).await, "writer");
        assert_eq!(text(ask(&router, "GET", Some("Bearer r34d")).await).await, "reader");
        for method in ["GET", "POST"] {
            assert_eq!(text(ask(&router, method, Some("Bearer 4dmin")).await).await, "root");
        }
        let response = ask(&router, "POST", Some("Bearer r34d")).await;
        assert_eq!(response.status(), StatusCode::FORBIDDEN);
        let challenge = response.headers()[WWW_AUTHENTICATE].to_str().unwrap();
        assert!(challenge.ends_with(r#"error="insufficient_scope", scope="write""#));
    }

    #[tokio::test]
    async fn a_token_that_is_too_fast_gets_429_and_slows_no_other() {
        let router = router(&auth(2));
        for _ in 0..2 {
            assert_eq!(ask(&router, "POST", Some("Bearer wr1te")).await.status(), 200);
        }
        let response = ask(&router, "POST", Some("Bearer wr1te")).await;
        assert_eq!(response.status(), StatusCode::TOO_MANY_REQUESTS);
        assert_eq!(response.headers()[RETRY_AFTER], "1");
        assert_eq!(ask(&router, "POST", Some("Bearer 4dmin")).await.status(), 200);
    }

    #[tokio::test]
    async fn without_tokens_everybody_is_anonymous() {
        let auth = Auth::open();
        assert!(auth.is_open());
        assert_eq!(text(ask(&router(&auth), "POST", None).await).await, "anonymous");
    }
    #[tokio::test]
    async fn a_socket_takes_its_token_as_a_subprotocol_and_nothing_else_does() {
        let tokens = Tokens::parse("reader:read:r34d/x==").unwrap();
        let auth = Auth::with_tokens(tokens, 0, Arc::new(SystemClock));
        let routes = || Router::new().route("/thing", get(async || "in"));
        let socket = auth.require_for_socket(routes(), Scope::Read);
        let offer = |router: &Router, offered: &str| {
            let request = Request::get("/thing").header(SEC_WEBSOCKET_PROTOCOL, offered);
            router.clone().call(request.body(Body::empty()).unwrap())
        };
        let right = "items, bearer.r34d%2Fx%3D%3D";
        assert_eq!(offer(&socket, right).await.unwrap().status(), 200);
        for wrong in ["items", "bearer.", "bearer.r34d", "r34d/x==", "bearer.%FF"] {
            assert_eq!(offer(&socket, wrong).await.unwrap().status(), 401, "{wrong}");
        }
        let plain = auth.require(routes(), Scope::Read);
        assert_eq!(offer(&plain, right).await.unwrap().status(), 401);
    }
}
