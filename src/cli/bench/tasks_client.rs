//! One connection over which a server is asked this and that, and answers in JSON.

use std::io;
use std::time::Duration;

use anyhow::{Context, anyhow, bail};
use serde_json::Value;

use super::http::Connection;
use super::load::shown;
use super::target::Target;

/// How long an answer may take.
const PATIENCE: Duration = Duration::from_secs(30);

/// A connection that is made when it is needed.
#[derive(Debug)]
pub(super) struct Client {
    target: Target,
    connection: Option<Connection>,
}

impl Client {
    /// No connection yet.
    pub(super) const fn new(target: Target) -> Self {
        Self { target, connection: None }
    }

    /// What stands at a path, as JSON.
    pub(super) async fn get(&mut self, path: &str) -> anyhow::Result<Value> {
        let request = self.target.head("GET", path, 0);
        let body = self.ask(&request).await.with_context(|| format!("GET {path}"))?;
        serde_json::from_slice(&body).with_context(|| format!("GET {path}"))
    }

    /// What stands at a path, as it is.
    pub(super) async fn get_bytes(&mut self, path: &str) -> anyhow::Result<Vec<u8>> {
        let request = self.target.head("GET", path, 0);
        self.ask(&request).await.with_context(|| format!("GET {path}"))
    }

    /// Posts JSON; the answer.
    pub(super) async fn post(&mut self, path: &str, body: &str) -> anyhow::Result<Value> {
        let mut request = self.target.head("POST", path, body.len());
        request.extend_from_slice(body.as_bytes());
        let body = self.ask(&request).await.with_context(|| format!("POST {path}"))?;
        serde_json::from_slice(&body).with_context(|| format!("POST {path}"))
    }

    async fn ask(&mut self, request: &[u8]) -> anyhow::Result<Vec<u8>> {
        let url = &self.target.url;
        let asked = tokio::time::timeout(PATIENCE, async {
            let mut connection = match self.connection.take() {
                Some(open) if !open.is_closed() => open,
                _ => Connection::open(self.target.address).await?,
            };
            let answer = connection.exchange(request).await?;
            let (status, is_last) = (answer.status, answer.is_last);
            let body = match status {
                200 | 201 => Ok(answer.body.to_vec()),
                _ => Err(shown(&answer)),
            };
            io::Result::Ok(((!is_last).then_some(connection), body))
        });
        let answered = asked.await.map_err(|_| anyhow!("{url} does not answer"))?;
        let (connection, body) = answered.with_context(|| url.clone())?;
        self.connection = connection;
        match body {
            Ok(body) => Ok(body),
            Err(refusal) => bail!("{url} answered {refusal}"),
        }
    }
}
