//! What each client of a load does: asks over a connection that it keeps, and notes the answers
//! that no right server gives.

use crate::http::{Answer, Connection};
use crate::json;
use crate::plan::Plan;

/// Asks one thing after the other.
pub(crate) struct Caller<'a> {
    plan: &'a Plan,
    connection: Option<Connection>,
}

impl<'a> Caller<'a> {
    pub(crate) const fn new(plan: &'a Plan) -> Self {
        Self { plan, connection: None }
    }

    /// The bytes of a request; `headers` are whole lines.
    pub(crate) fn request(&self, method: &str, path: &str, headers: &str, body: &str) -> Vec<u8> {
        let (authority, length) = (&self.plan.authority, body.len());
        let head = format!(
            "{method} {path} HTTP/1.1\r\nHost: {authority}\r\n{headers}\
             Content-Length: {length}\r\n\r\n"
        );
        (head + body).into_bytes()
    }

    /// One try; `None` when the connection failed before the answer was complete.
    pub(crate) fn exchange(&mut self, request: &[u8]) -> Option<Answer> {
        let mut connection =
            self.connection.take().or_else(|| Connection::open(self.plan.address).ok())?;
        let answer = connection.exchange(request).ok()?;
        if answer.reusable {
            self.connection = Some(connection);
        }
        Some(answer)
    }
}

/// Answers that no right server gives, with an example.
#[derive(Default)]
pub(crate) struct Wrong {
    pub(crate) answers: u64,
    example: String,
}

impl Wrong {
    pub(crate) fn note(&mut self, what: &str, answer: &Answer) {
        self.answers += 1;
        if self.example.is_empty() {
            let body: String = answer.body.chars().take(300).collect();
            self.example = format!("{what}: {} {body}", answer.status);
        }
    }

    pub(crate) fn add(&mut self, other: &Self) {
        self.answers += other.answers;
        self.example += &other.example;
    }

    /// The JSON summary of a load: what it counted, and these.
    pub(crate) fn summary(&self, counted: &[(&str, u64)]) -> String {
        let members: String =
            counted.iter().map(|(name, number)| format!("\"{name}\":{number},")).collect();
        let (answers, example) = (self.answers, json::quote(&self.example));
        format!("{{{members}\"wrong_answers\":{answers},\"example\":{example}}}")
    }
}
