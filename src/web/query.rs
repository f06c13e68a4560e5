//! The query of a request (`?limit=10&status=pending`), and the link to the next page.
//!
//! A parameter that is not known, or that is there twice, is refused: a filter that was misspelt
//! would otherwise show everything.

use std::fmt::{Display, Write};
use std::str::FromStr;

use axum::http::{HeaderValue, StatusCode};
use percent_encoding::{NON_ALPHANUMERIC, percent_decode_str, utf8_percent_encode};

use super::error::HttpError;
use crate::service::printable;

/// The parameters of one request, by name.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Query {
    known: &'static [&'static str],
    pairs: Vec<(&'static str, String)>,
}

impl Query {
    /// Reads the query of a URI, which may have these parameters, each once.
    ///
    /// # Errors
    /// 400, with the parameter's name.
    pub fn read(query: Option<&str>, known: &'static [&'static str]) -> Result<Self, HttpError> {
        let mut pairs: Vec<(&'static str, String)> = Vec::new();
        for pair in query.unwrap_or_default().split('&').filter(|pair| !pair.is_empty()) {
            let (name, value) = pair.split_once('=').unwrap_or((pair, ""));
            let (name, value) = (decoded(name)?, decoded(value)?);
            let Some(name) = known.iter().find(|known| **known == name) else {
                let (name, known) = (printable(&name), known.join(", "));
                return Err(wrong(format!("there is no parameter {name} here, only: {known}")));
            };
            if pairs.iter().any(|(there, _)| there == name) {
                return Err(wrong(format!("the parameter {name} is there twice")));
            }
            pairs.push((name, value));
        }
        Ok(Self { known, pairs })
    }

    /// The text of a parameter.
    #[must_use]
    pub fn get(&self, name: &str) -> Option<&str> {
        self.pairs.iter().find(|(known, _)| *known == name).map(|(_, value)| value.as_str())
    }

    /// The value of a parameter.
    ///
    /// # Errors
    /// 400 with the type's own words, if the text is no such value.
    pub fn parsed<T: FromStr<Err: Display>>(&self, name: &str) -> Result<Option<T>, HttpError> {
        let parse = |text: &str| {
            text.parse().map_err(|error| wrong(format!("{name}={}: {error}", printable(text))))
        };
        self.get(name).map(parse).transpose()
    }

    /// A number from 1 to `most`, or `default` where there is none.
    ///
    /// # Errors
    /// 400 for any other text.
    pub fn limit(&self, name: &str, default: usize, most: usize) -> Result<usize, HttpError> {
        let limit = self.get(name).map_or(Some(default), |text| text.parse().ok());
        let limit = limit.filter(|limit| (1..=most).contains(limit));
        limit.ok_or_else(|| wrong(format!("{name} must be a number from 1 to {most}")))
    }

    /// The `Link` (RFC 8288) to the next page of `path`: this query with another `before`.
    #[must_use]
    pub fn next(&self, path: &str, before: &dyn Display) -> Option<HeaderValue> {
        let mut link = format!("<{path}?");
        for name in self.known.iter().filter(|name| **name != "before") {
            let Some(value) = self.get(name) else { continue };
            // Writing to a string cannot fail.
            let _written = write!(link, "{name}={}&", utf8_percent_encode(value, NON_ALPHANUMERIC));
        }
        HeaderValue::try_from(link + &format!("before={before}>; rel=\"next\"")).ok()
    }
}

/// As HTML forms write it: `+` is a space.
fn decoded(text: &str) -> Result<String, HttpError> {
    let spaced = text.replace('+', " ");
    let decoded = percent_decode_str(&spaced).decode_utf8();
    decoded.map(Into::into).map_err(|_| wrong("the query is no UTF-8".to_owned()))
}

fn wrong(text: String) -> HttpError {
    HttpError::new(StatusCode::BAD_REQUEST, text)
}

#[cfg(test)]
mod tests {
    use super::*;

    const KNOWN: &[&str] = &["limit", "before", "status"];

    fn read(query: &str) -> Result<Query, String> {
        Query::read(Some(query), KNOWN).map_err(|error| error.to_string())
    }

    #[test]
    fn parameters_are_decoded_and_found_by_name() {
        let query = read("status=a+b%26c&limit=7&&").unwrap();
        assert_eq!(query.get("status"), Some("a b&c"));
        assert_eq!(query.limit("limit", 10, 100).unwrap(), 7);
        assert_eq!(query.get("before"), None);
        assert_eq!(Query::read(None, KNOWN).unwrap().limit("limit", 10, 100).unwrap(), 10);
    }

    #[test]
    fn what_is_misspelt_twice_or_no_number_is_refused() {
        for (wrong, named) in [
            ("stauts=x", "no parameter stauts"),
            ("limit=1&limit=2", "limit is there twice"),
            ("status=%ff", "UTF-8"),
        ] {
            assert!(read(wrong).unwrap_err().contains(named), "{wrong}");
        }
        for wrong in ["limit=0", "limit=101", "limit=-1", "limit=x", "limit"] {
            assert!(read(wrong).unwrap().limit("limit", 10, 100).is_err(), "{wrong}");
        }
        assert!(read("before=x").unwrap().parsed::<u32>("before").is_err());
    }

    #[test]
    fn the_next_page_keeps_the_filters() {
        let query = read("before=9&status=a%26b&limit=7").unwrap();
        let link = query.next("/items", &5).unwrap();
        assert_eq!(link, "</items?limit=7&status=a%26b&before=5>; rel=\"next\"");
    }
}
