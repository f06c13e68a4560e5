//! The members of a JSON object, each read by its name, so that what is wrong is told by name.

use std::collections::BTreeMap;

use axum::http::StatusCode;
use serde::de::DeserializeOwned;
use serde_json::value::RawValue;

use crate::web::{HttpError, printable};

/// What is wrong with a request: which member, and why. 400.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{member}: {why}")]
pub(super) struct Wrong {
    member: &'static str,
    why: String,
}

impl Wrong {
    pub(super) fn new(member: &'static str, why: impl Into<String>) -> Self {
        Self { member, why: why.into() }
    }

    fn body(why: impl Into<String>) -> Self {
        Self::new("the body", why)
    }
}

impl From<Wrong> for HttpError {
    fn from(wrong: Wrong) -> Self {
        Self::new(StatusCode::BAD_REQUEST, printable(&wrong.to_string()))
    }
}

/// The members that were not taken yet, as they were received.
#[derive(Debug)]
pub(super) struct Members<'a>(BTreeMap<String, &'a RawValue>);

impl<'a> Members<'a> {
    /// Those of an object that may have members of these names.
    pub(super) fn read(body: &'a [u8], known: &[&str]) -> Result<Self, Wrong> {
        let members: BTreeMap<String, &RawValue> =
            serde_json::from_slice(body).map_err(|error| Wrong::body(error.to_string()))?;
        if let Some(name) = members.keys().find(|name| !known.contains(&name.as_str())) {
            let known = known.join(", ");
            return Err(Wrong::body(format!("there is no member {name}, only: {known}")));
        }
        Ok(Self(members))
    }

    /// Takes a member as it was received; `null` is as good as none.
    pub(super) fn raw(&mut self, name: &str) -> Option<&'a str> {
        self.0.remove(name).map(RawValue::get).filter(|raw| *raw != "null")
    }

    /// Takes a member.
    pub(super) fn take<T: DeserializeOwned>(
        &mut self,
        name: &'static str,
    ) -> Result<Option<T>, Wrong> {
        let read = |raw| serde_json::from_str(raw);
        self.raw(name).map(read).transpose().map_err(|error| {
            let text = error.to_string();
            // Where in the member it is wrong says nothing to who sees the whole.
            let why = text.split(" at line ").next().unwrap_or_default();
            Wrong::new(name, why)
        })
    }

    /// Refuses what is there of these, since another member leaves no place for it.
    pub(super) fn refuse(&self, names: &[&'static str], why: &str) -> Result<(), Wrong> {
        match names.iter().find(|name| self.0.contains_key(**name)) {
            Some(name) => Err(Wrong::new(name, why)),
            None => Ok(()),
        }
    }

    /// Whether a member is there.
    pub(super) fn holds(&self, name: &str) -> bool {
        self.0.contains_key(name)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_wrong_is_told_by_its_name() {
        let mut members =
            Members::read(br#"{"a": "x", "b": null, "c": 7}"#, &["a", "b", "c"]).unwrap();
        assert_eq!(members.take::<u32>("b"), Ok(None));
        let wrong = members.take::<u32>("a").unwrap_err().to_string();
        assert_eq!(wrong, "a: invalid type: string \"x\", expected u32");
        assert_eq!(members.refuse(&["d", "c"], "no").unwrap_err().to_string(), "c: no");
        assert_eq!(members.take::<u32>("c"), Ok(Some(7)));
        assert!(!members.holds("c"));
        for (body, said) in [
            ("{\"d\":1}", "there is no member d, only: a"),
            ("[]", "the body: invalid type"),
            ("{", "the body: EOF"),
        ] {
            let wrong = Members::read(body.as_bytes(), &["a"]).unwrap_err().to_string();
            assert!(wrong.contains(said), "{wrong}");
        }
    }
}
