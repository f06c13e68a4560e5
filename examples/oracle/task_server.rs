//! What a server says of its tasks.

use std::collections::HashMap;
use std::net::{SocketAddr, ToSocketAddrs};
use std::time::{Duration, Instant};

use crate::http::{Answer, Connection};
use crate::json;

/// Tasks of a page.
const PAGE: usize = 1000;
const LOOK_EVERY: Duration = Duration::from_millis(300);

/// A task as the server shows it.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Shown {
    pub(crate) state: String,
    pub(crate) attempt: u64,
    pub(crate) failures: u64,
    pub(crate) error: String,
    pub(crate) is_follower: bool,
}

impl Shown {
    /// Whether nothing is to change any more.
    pub(crate) fn has_ended(&self) -> bool {
        ["finished", "failed", "cancelled"].contains(&self.state.as_str())
    }
}

/// The server, asked on one connection.
pub(crate) struct Server {
    authority: String,
    address: SocketAddr,
    connection: Option<Connection>,
}

impl Server {
    /// The one at `url`.
    pub(crate) fn at(url: &str) -> Result<Self, String> {
        let authority = url.strip_prefix("http://").ok_or("--url must start with http://")?;
        let authority = authority.trim_end_matches('/').to_owned();
        let mut addresses = authority.to_socket_addrs().map_err(|error| error.to_string())?;
        let address = addresses.next().ok_or("--url names no address")?;
        Ok(Self { authority, address, connection: None })
    }

    /// The answer to a GET.
    pub(crate) fn get(&mut self, path: &str) -> Result<Answer, String> {
        let place = |error: std::io::Error| format!("GET {path}: {error}");
        let request = format!("GET {path} HTTP/1.1\r\nHost: {}\r\n\r\n", self.authority);
        let mut connection = match self.connection.take() {
            Some(connection) => connection,
            None => Connection::open(self.address).map_err(place)?,
        };
        let answer = connection.exchange(request.as_bytes()).map_err(place)?;
        if answer.reusable {
            self.connection = Some(connection);
        }
        Ok(answer)
    }

    /// Every task that there is.
    pub(crate) fn tasks(&mut self) -> Result<HashMap<String, Shown>, String> {
        let (mut tasks, mut before) = (HashMap::new(), String::new());
        loop {
            let path = format!("/tasks?limit={PAGE}{before}");
            let Answer { status, body, .. } = self.get(&path)?;
            if status != 200 {
                return Err(format!("GET {path}: {status} {body}"));
            }
            let (mut page, mut fault) = (Vec::new(), Ok(()));
            let read = json::elements(&body, &mut |element| match shown(element) {
                Ok(task) => page.push(task),
                Err(found) => fault = Err(found),
            });
            read.and(fault).map_err(|fault| format!("GET {path}: {fault}"))?;
            let Some((last, _)) = page.last() else { return Ok(tasks) };
            before = format!("&before={last}");
            for (id, task) in page {
                if tasks.insert(id.clone(), task).is_some() {
                    return Err(format!("{id} is listed twice"));
                }
            }
        }
    }

    /// Waits until every task has ended, or patience has; the tasks.
    pub(crate) fn wait_for_the_end(
        &mut self,
        patience: Duration,
    ) -> Result<HashMap<String, Shown>, String> {
        let since = Instant::now();
        loop {
            // Quicker than to list them all.
            let mut is_quiet = true;
            for state in ["pending", "queued", "running"] {
                let answer = self.get(&format!("/tasks?limit=1&state={state}"))?;
                is_quiet &= answer.status == 200 && answer.body.trim() == "[]";
            }
            if is_quiet || since.elapsed() > patience {
                let tasks = self.tasks()?;
                if tasks.values().all(Shown::has_ended) || since.elapsed() > patience {
                    return Ok(tasks);
                }
            }
            std::thread::sleep(LOOK_EVERY);
        }
    }
}

fn shown(element: &str) -> Result<(String, Shown), json::Fault> {
    let (mut id, mut task) = (String::new(), Shown::default());
    json::members(element, &mut |name, value| {
        let text = || value.trim_matches('"').to_owned();
        let number = || value.parse().unwrap_or(u64::MAX);
        match name {
            "id" => id = text(),
            "state" => task.state = text(),
            "attempt" => task.attempt = number(),
            "failures" => task.failures = number(),
            "error" => task.error = text(),
            "follows" => task.is_follower = true,
            _ => {}
        }
    })?;
    Ok((id, task))
}

#[cfg(test)]
mod tests {
    use super::shown;

    #[test]
    fn a_task_is_read_as_the_server_shows_it() {
        let text =
            r#"{"id":"a","state":"failed","attempt":3,"failures":2,"error":"x","follows":"b"}"#;
        let (id, task) = shown(text).unwrap();
        assert_eq!((id.as_str(), task.attempt, task.failures), ("a", 3, 2));
        assert!(task.has_ended() && task.is_follower);
    }
}
