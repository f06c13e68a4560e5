//! The headers that every answer carries.
//!
//! Nothing of ours is loaded from elsewhere, framed, or guessed to be of another type (Content
//! Security Policy Level 3, Fetch's `nosniff`, Referrer Policy), and nothing is cached unless the
//! handler says so (RFC 9111).

use axum::http::header::{
    CACHE_CONTROL, CONTENT_SECURITY_POLICY, REFERRER_POLICY, X_CONTENT_TYPE_OPTIONS,
};
use axum::http::{HeaderMap, HeaderValue};

const POLICY: HeaderValue = HeaderValue::from_static(
    "default-src 'none'; script-src 'self'; style-src 'self'; connect-src 'self'; \
     img-src 'self'; base-uri 'none'; form-action 'none'; frame-ancestors 'none'",
);
const NO_SNIFF: HeaderValue = HeaderValue::from_static("nosniff");
const NO_REFERRER: HeaderValue = HeaderValue::from_static("no-referrer");
const NO_STORE: HeaderValue = HeaderValue::from_static("no-store");

/// Puts the security headers on an answer; `Cache-Control` only where the handler set none.
pub(super) fn apply(headers: &mut HeaderMap) {
    headers.reserve(4);
    headers.insert(CONTENT_SECURITY_POLICY, POLICY);
    headers.insert(X_CONTENT_TYPE_OPTIONS, NO_SNIFF);
    headers.insert(REFERRER_POLICY, NO_REFERRER);
    headers.entry(CACHE_CONTROL).or_insert(NO_STORE);
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_handlers_cache_control_is_kept_and_a_weaker_policy_is_not() {
        let mut headers = HeaderMap::new();
        headers.insert(CACHE_CONTROL, HeaderValue::from_static("max-age=60"));
        headers.insert(CONTENT_SECURITY_POLICY, HeaderValue::from_static("default-src *"));
        apply(&mut headers);
        assert_eq!(headers[CACHE_CONTROL], "max-age=60");
        assert!(headers[CONTENT_SECURITY_POLICY].to_str().unwrap().starts_with("default-src 'n"));
        assert_eq!(headers[X_CONTENT_TYPE_OPTIONS], "nosniff");
        assert_eq!(headers[REFERRER_POLICY], "no-referrer");
        let mut headers = HeaderMap::new();
        apply(&mut headers);
        assert_eq!(headers[CACHE_CONTROL], "no-store");
    }
}
