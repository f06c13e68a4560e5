//! Which site a request comes from, and which sites' scripts may read the answer.
//!
//! Without tokens whoever reaches the port may write, and a browser on this machine reaches it for
//! any page it shows. Two checks stop that: the name in `Host` must be this machine's own (else a
//! page could point its own name here: DNS rebinding), and an `Origin`, if sent, must be ours. With
//! tokens neither is needed, since no page can send a token it does not have; but the `Origin` of a
//! WebSocket is always checked, since browsers let any page open one and read it (RFC 6455, section
//! 10.2). `--cors-origin` lets sites elsewhere in (the Fetch standard's CORS protocol).

use std::net::{Ipv4Addr, Ipv6Addr};

use axum::body::Body;
use axum::extract::Request;
use axum::http::header::{
    ACCESS_CONTROL_ALLOW_HEADERS, ACCESS_CONTROL_ALLOW_METHODS, ACCESS_CONTROL_ALLOW_ORIGIN,
    ACCESS_CONTROL_EXPOSE_HEADERS, ACCESS_CONTROL_MAX_AGE, ACCESS_CONTROL_REQUEST_METHOD, HOST,
    ORIGIN, UPGRADE, VARY,
};
use axum::http::{HeaderMap, HeaderValue, Method, StatusCode, Version};
use axum::response::Response;

use super::error::HttpError;
use crate::service::printable;

const ALLOW_METHODS: HeaderValue = HeaderValue::from_static("GET, HEAD, POST, PUT, PATCH, DELETE");
const ALLOW_HEADERS: HeaderValue =
    HeaderValue::from_static("Authorization, Content-Type, Idempotency-Key, Prefer");
const EXPOSE_HEADERS: HeaderValue = HeaderValue::from_static(
    "Idempotency-Replayed, Link, Location, Preference-Applied, Retry-After, WWW-Authenticate",
);
/// Seconds a browser may remember a preflight: two hours, the most that browsers keep.
const MAX_AGE: HeaderValue = HeaderValue::from_static("7200");
const ANY: HeaderValue = HeaderValue::from_static("*");
const VARY_ORIGIN: HeaderValue = HeaderValue::from_static("Origin");

/// An origin that no browser sends.
#[derive(Debug, thiserror::Error, PartialEq, Eq)]
#[error("{origin} is not an origin; write http://name, https://name:port or *, without a path")]
pub struct CorsError {
    /// What was given, made printable.
    pub origin: String,
}

/// The sites elsewhere whose scripts may call this server.
#[derive(Debug, Clone, Default)]
pub struct CorsOrigins {
    any: bool,
    exact: Vec<String>,
}

impl CorsOrigins {
    /// Reads a list of exact origins (RFC 6454), or `*` for any.
    ///
    /// # Errors
    /// The first one that is neither.
    pub fn parse<T: AsRef<str>>(origins: &[T]) -> Result<Self, CorsError> {
        let mut read = Self::default();
        for origin in origins.iter().map(AsRef::as_ref) {
            if origin == "*" {
                read.any = true;
                continue;
            }
            let sound = split_origin(origin).is_some_and(|(_, authority)| {
                !authority.is_empty()
                    && authority.bytes().all(|byte| byte.is_ascii_graphic())
                    && !authority.contains(['/', '?', '#', '@', '*'])
            });
            if !sound {
                return Err(CorsError { origin: printable(origin) });
            }
            read.exact.push(origin.to_ascii_lowercase());
        }
        Ok(read)
    }

    fn is_empty(&self) -> bool {
        !self.any && self.exact.is_empty()
    }

    /// What `Access-Control-Allow-Origin` says to `origin`.
    fn allow(&self, origin: &HeaderValue) -> Option<HeaderValue> {
        if self.any {
            return Some(ANY);
        }
        let known = |known: &String| known.as_bytes() == origin.as_bytes();
        self.exact.iter().any(known).then(|| origin.clone())
    }
}

/// What is to be done with a request.
#[derive(Debug)]
pub(super) enum Verdict {
    /// Handle it; the value is for [`OriginGuard::expose`].
    Pass(Option<HeaderValue>),
    /// It was a preflight: this is the answer.
    Preflight(Response),
    /// It must not reach a handler.
    Refuse(HttpError),
}

/// The checks of one application.
#[derive(Debug, Clone)]
pub(super) struct OriginGuard {
    /// `Host` must be a loopback name.
    pub(super) check_host: bool,
    /// `Origin` must be ours or listed.
    pub(super) check_origin: bool,
    pub(super) cors: CorsOrigins,
}

impl OriginGuard {
    /// Looks at a request before anything else does.
    pub(super) fn admit(&self, request: &Request) -> Verdict {
        let host = match host_of(request) {
            Ok(host) => host,
            Err(error) => return Verdict::Refuse(error),
        };
        if let (true, Some(host)) = (self.check_host, host)
            && !is_loopback_name(host)
        {
            return Verdict::Refuse(misdirected(host));
        }
        let Some(origin) = request.headers().get(ORIGIN) else { return Verdict::Pass(None) };
        let allowed = self.cors.allow(origin);
        let check = self.check_origin || request.headers().contains_key(UPGRADE);
        if check && allowed.is_none() && !is_own(origin, host) {
            return Verdict::Refuse(foreign(origin));
        }
        match allowed {
            Some(allowed) if is_preflight(request) => Verdict::Preflight(preflight(allowed)),
            allowed => Verdict::Pass(allowed),
        }
    }

    /// Lets the site that `allowed` names read the answer, and tells caches what it depends on.
    pub(super) fn expose(&self, allowed: Option<HeaderValue>, headers: &mut HeaderMap) {
        if self.cors.is_empty() {
            return;
        }
        if !self.cors.any {
            headers.append(VARY, VARY_ORIGIN);
        }
        if let Some(allowed) = allowed {
            headers.insert(ACCESS_CONTROL_ALLOW_ORIGIN, allowed);
            headers.insert(ACCESS_CONTROL_EXPOSE_HEADERS, EXPOSE_HEADERS);
        }
    }
}

/// The host a request is for. RFC 9112, section 3.2: a target in absolute form outranks `Host`; in
/// HTTP/1.1 exactly one `Host` must be there, else the answer is 400.
fn host_of(request: &Request) -> Result<Option<&str>, HttpError> {
    let bad = |text| Err(HttpError::new(StatusCode::BAD_REQUEST, text));
    let mut values = request.headers().get_all(HOST).iter();
    let first = values.next();
    if values.next().is_some() {
        return bad("there must be one Host header");
    }
    if let Some(authority) = request.uri().authority() {
        return Ok(Some(authority.as_str()));
    }
    match first {
        Some(value) => match value.to_str() {
            Ok(host) => Ok(Some(host)),
            Err(_) => bad("the Host header is not text"),
        },
        None if request.version() < Version::HTTP_11 => Ok(None),
        None => bad("the Host header is missing"),
    }
}

fn misdirected(host: &str) -> HttpError {
    let text = format!(
        "without tokens this server answers only as localhost, not as {}; call it by that name, \
         or set tokens",
        printable(host)
    );
    HttpError::new(StatusCode::MISDIRECTED_REQUEST, text)
}

fn foreign(origin: &HeaderValue) -> HttpError {
    let text = format!(
        "pages of {} may not call this server; --cors-origin lets a site in",
        printable(&String::from_utf8_lossy(origin.as_bytes()))
    );
    HttpError::new(StatusCode::FORBIDDEN, text)
}

/// `localhost`, names below it (RFC 6761, section 6.3), 127.0.0.0/8 and `[::1]`, with any port.
fn is_loopback_name(host: &str) -> bool {
    let name = match host.strip_prefix('[') {
        Some(rest) => {
            let Some((address, port)) = rest.split_once(']') else { return false };
            let port_is_sound = port.is_empty() || port.strip_prefix(':').is_some_and(is_port);
            return port_is_sound
                && address.parse::<Ipv6Addr>().is_ok_and(|address| address.is_loopback());
        }
        None => match host.rsplit_once(':') {
            Some((name, port)) if is_port(port) => name,
            Some(_) => return false,
            None => host,
        },
    };
    if let Ok(address) = name.parse::<Ipv4Addr>() {
        return address.is_loopback();
    }
    let name = name.strip_suffix('.').unwrap_or(name).to_ascii_lowercase();
    name == "localhost" || name.ends_with(".localhost")
}

fn is_port(text: &str) -> bool {
    text.bytes().all(|byte| byte.is_ascii_digit())
}

/// Scheme (without `://`) and authority.
fn split_origin(origin: &str) -> Option<(&str, &str)> {
    let (scheme, authority) = origin.split_once("://")?;
    let known = scheme.eq_ignore_ascii_case("http") || scheme.eq_ignore_ascii_case("https");
    known.then_some((scheme, authority))
}

/// Whether `origin` is the host the request is for. The scheme is not compared: behind a proxy that
/// ends TLS ours is unknown.
fn is_own(origin: &HeaderValue, host: Option<&str>) -> bool {
    let (Ok(origin), Some(host)) = (origin.to_str(), host) else { return false };
    let Some((scheme, authority)) = split_origin(origin) else { return false };
    let default_port = if scheme.len() == "http".len() { ":80" } else { ":443" };
    let bare = |authority: &str| -> String {
        authority.strip_suffix(default_port).unwrap_or(authority).to_ascii_lowercase()
    };
    bare(authority) == bare(host)
}

fn is_preflight(request: &Request) -> bool {
    request.method() == Method::OPTIONS
        && request.headers().contains_key(ACCESS_CONTROL_REQUEST_METHOD)
}

fn preflight(allowed: HeaderValue) -> Response {
    let mut response = Response::new(Body::empty());
    *response.status_mut() = StatusCode::NO_CONTENT;
    let headers = response.headers_mut();
    headers.insert(ACCESS_CONTROL_ALLOW_ORIGIN, allowed);
    headers.insert(ACCESS_CONTROL_ALLOW_METHODS, ALLOW_METHODS);
    headers.insert(ACCESS_CONTROL_ALLOW_HEADERS, ALLOW_HEADERS);
    headers.insert(ACCESS_CONTROL_MAX_AGE, MAX_AGE);
    response
}

#[cfg(test)]
mod tests {
    use super::*;

    fn guard(origins: &[&str]) -> OriginGuard {
        let cors = CorsOrigins::parse(origins).unwrap();
        OriginGuard { check_host: true, check_origin: true, cors }
    }

    fn request(method: Method, headers: &[(&str, &str)]) -> Request {
        let mut request = Request::builder().method(method).uri("/message");
        for (name, value) in headers {
            request = request.header(*name, *value);
        }
        request.body(Body::empty()).unwrap()
    }

    fn refused(verdict: Verdict) -> Option<u16> {
        match verdict {
            Verdict::Refuse(error) => Some(error.status().as_u16()),
            Verdict::Pass(_) | Verdict::Preflight(_) => None,
        }
    }

    #[test]
    fn only_loopback_names_pass_the_host_check() {
        let ours = [
            "localhost",
            "LOCALHOST:8080",
            "a.localhost:1",
            "127.0.0.1",
            "127.3.2.1:80",
            "[::1]",
            "[::1]:8080",
            "localhost.",
        ];
        for host in ours {
            let verdict = guard(&[]).admit(&request(Method::POST, &[("host", host)]));
            assert_eq!(refused(verdict), None, "{host}");
        }
        let theirs = [
            "evil.example",
            "localhost.evil.example",
            "10.0.0.1:8080",
            "0.0.0.0",
            "notlocalhost",
            "[::]:8080",
            "[::1",
            "[::1]x",
            "localhost:80:80",
            "a@localhost",
            "",
            "127.1",
            "localhost@evil.example",
        ];
        for host in theirs {
            let verdict = guard(&[]).admit(&request(Method::POST, &[("host", host)]));
            assert_eq!(refused(verdict), Some(421), "{host}");
        }
    }

    #[test]
    fn a_target_in_absolute_form_cannot_bypass_the_host_check() {
        let mut asked = request(Method::GET, &[("host", "localhost")]);
        *asked.uri_mut() = "http://evil.example/message".parse().unwrap();
        assert_eq!(refused(guard(&[]).admit(&asked)), Some(421));
    }

    #[test]
    fn a_host_is_needed_once_but_not_in_http_1_0() {
        assert_eq!(refused(guard(&[]).admit(&request(Method::GET, &[]))), Some(400));
        let twice = request(Method::GET, &[("host", "localhost"), ("host", "evil.example")]);
        assert_eq!(refused(guard(&[]).admit(&twice)), Some(400));
        let mut old = request(Method::GET, &[]);
        *old.version_mut() = Version::HTTP_10;
        assert_eq!(refused(guard(&[]).admit(&old)), None);
    }

    #[test]
    fn a_foreign_page_cannot_write_in_open_mode() {
        let host = ("host", "localhost:8080");
        for origin in ["http://localhost:8080", "https://LOCALHOST:8080"] {
            let asked = request(Method::POST, &[host, ("origin", origin)]);
            assert_eq!(refused(guard(&[]).admit(&asked)), None, "{origin}");
        }
        for origin in ["http://localhost:3000", "http://evil.example", "null", "file://", "é"] {
            let asked = request(Method::POST, &[host, ("origin", origin)]);
            assert_eq!(refused(guard(&[]).admit(&asked)), Some(403), "{origin}");
        }
        let default_port =
            request(Method::POST, &[("host", "localhost:80"), ("origin", "http://localhost")]);
        assert_eq!(refused(guard(&[]).admit(&default_port)), None);
    }

    #[test]
    fn a_foreign_page_cannot_open_a_socket_even_where_tokens_are_set() {
        let locked = OriginGuard { check_host: false, check_origin: false, ..guard(&[]) };
        let foreign = [("host", "prod.example"), ("origin", "https://evil.example")];
        assert_eq!(refused(locked.admit(&request(Method::GET, &foreign))), None);
        let upgrade = ("upgrade", "websocket");
        let socket = |host| request(Method::GET, &[host, foreign[1], upgrade]);
        assert_eq!(refused(locked.admit(&socket(foreign[0]))), Some(403));
        assert_eq!(refused(locked.admit(&socket(("host", "evil.example")))), None);
    }

    #[test]
    fn a_listed_site_may_call_and_read_and_another_may_not() {
        let guard = guard(&["https://site.example"]);
        let host = ("host", "localhost");
        let ask = ("access-control-request-method", "POST");
        let listed = ("origin", "https://site.example");
        let Verdict::Preflight(response) =
            guard.admit(&request(Method::OPTIONS, &[host, listed, ask]))
        else {
            panic!("no preflight");
        };
        assert_eq!(response.status(), StatusCode::NO_CONTENT);
        assert_eq!(response.headers()[ACCESS_CONTROL_ALLOW_ORIGIN], "https://site.example");
        assert!(response.headers().contains_key(ACCESS_CONTROL_ALLOW_HEADERS));
        let Verdict::Pass(allowed) = guard.admit(&request(Method::POST, &[host, listed])) else {
            panic!("not passed");
        };
        let mut headers = HeaderMap::new();
        guard.expose(allowed, &mut headers);
        assert_eq!(headers[ACCESS_CONTROL_ALLOW_ORIGIN], "https://site.example");
        assert_eq!(headers[VARY], "Origin");
        let other = ("origin", "https://other.example");
        assert_eq!(refused(guard.admit(&request(Method::OPTIONS, &[host, other, ask]))), Some(403));
    }

    #[test]
    fn any_site_means_any_but_not_any_host() {
        let guard = guard(&["*"]);
        let origin = ("origin", "https://a.example");
        let asked = request(Method::POST, &[("host", "localhost"), origin]);
        let Verdict::Pass(Some(allowed)) = guard.admit(&asked) else { panic!("not passed") };
        assert_eq!(allowed, "*");
        let rebound = request(Method::POST, &[("host", "a.example"), origin]);
        assert_eq!(refused(guard.admit(&rebound)), Some(421));
    }

    #[test]
    fn an_origin_that_no_browser_sends_is_refused_at_start() {
        for origin in ["site.example", "https://site.example/", "null", "https://", "ftp://a", ""] {
            assert!(CorsOrigins::parse(&[origin]).is_err(), "{origin}");
        }
        assert!(CorsOrigins::parse(&["http://a:81", "https://B.example", "*"]).is_ok());
    }
}
