//! Before the load: is there a server, may we write, and is it the one of the state directory?

use std::time::Duration;

use anyhow::anyhow;

use super::http::Connection;
use super::load::shown;
use super::target::Target;
use crate::broker::Receipt;
use crate::cli::exit::{Exit, Failure, OrExit};
use crate::state::State;

/// The metric of synced commits.
const COMMITS: &str = "async_data_processor_state_commits_total ";

/// How long an answer may take.
const PATIENCE: Duration = Duration::from_secs(10);

/// One request to the server, answered.
struct Reply {
    status: u16,
    shown: String,
    body: String,
}

fn exchange(target: &Target, request: &[u8]) -> std::io::Result<Reply> {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    runtime.block_on(async {
        let talk = async {
            let mut connection = Connection::open(target.address).await?;
            let answer = connection.exchange(request).await?;
            let body = String::from_utf8_lossy(answer.body).into_owned();
            Ok(Reply { status: answer.status, shown: shown(&answer), body })
        };
        tokio::time::timeout(PATIENCE, talk).await?
    })
}

/// Posts an empty array of messages: nothing is stored, and the receipt says whose server it is.
///
/// # Errors
/// There is no server, it refuses, or it belongs to another state directory.
pub(super) fn check(target: &Target, state: Option<&State>) -> Result<(), Failure> {
    let url = &target.url;
    let body = accepts(target, "/message")?;
    let receipt = body.get("receipt").and_then(|receipt| receipt.as_str()?.parse::<Receipt>().ok());
    // Over a broker there is no receipt: the state directory is the consumer's.
    let Some(receipt) = receipt else { return Ok(()) };
    let Some(state) = state.filter(|state| !receipt.is_of(state.identity())) else { return Ok(()) };
    let text = format!(
        "the server at {url} stores in another state directory than {}: set STATE_DIR to the \
         server's, or pass --no-drain to measure without looking at files",
        state.dir().display()
    );
    Err(Failure::new(Exit::Config, anyhow!(text)))
}

/// Posts an empty array, of which nothing is stored; the answer.
///
/// # Errors
/// There is no server, or it refuses.
pub(super) fn accepts(target: &Target, path: &str) -> Result<serde_json::Value, Failure> {
    let mut request = target.head("POST", path, 2);
    request.extend_from_slice(b"[]");
    let url = &target.url;
    let reply = exchange(target, &request).map_err(|error| {
        let text = format!(
            "no server answers at {url} ({error}): start `async-data-processor up`, or say with \
             --url where it listens"
        );
        Failure::new(Exit::Unavailable, anyhow!(text))
    })?;
    let shown = &reply.shown;
    match reply.status {
        201 => {}
        401 | 403 => {
            let text = format!(
                "the server at {url} wants a bearer token with scope write ({shown}): pass \
                 --token-file FILE"
            );
            return Err(Failure::new(Exit::Config, anyhow!(text)));
        }
        _ => {
            let what = path.trim_start_matches('/').trim_end_matches('s');
            let text = format!("the server at {url} takes no {what}s: {shown}");
            return Err(Failure::new(Exit::Unavailable, anyhow!(text)));
        }
    }
    serde_json::from_str::<serde_json::Value>(&reply.body)
        .ok()
        .filter(|body| body.get("accepted").is_some())
        .ok_or_else(|| anyhow!("what answers at {url} is not this program: {shown}"))
        .or_exit(Exit::Unavailable)
}

/// Commits that the server's process has synced; `None` if it does not say, as without scope read.
pub(super) fn commits(target: &Target) -> Option<u64> {
    let reply = exchange(target, &target.head("GET", "/metrics", 0)).ok()?;
    let line = reply.body.lines().find_map(|line| line.strip_prefix(COMMITS))?;
    line.trim().parse().ok()
}
