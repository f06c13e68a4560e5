//! What is asked elsewhere.

use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use hyper::Request;
use serde_json::Value;
use tokio::time::timeout;

use crate::rooms::telemetry::road::Road;
use crate::service::printable;
use crate::store::{Millis, Store, StoreError};

/// How long an answer is good for.
pub(super) const FRESH: Duration = Duration::from_secs(2);
/// How long an answer may take.
const ANSWER_TIMEOUT: Duration = Duration::from_secs(3);

/// What a store says of tasks and schedules.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Tasks {
    /// How many parts of processes, wherever they are, have signed for tasks that they run now.
    pub(super) workers: usize,
    /// Whether a schedule recurs.
    pub(super) recurs: bool,
}

/// Asks the store.
pub(super) async fn ask_store(store: Arc<dyn Store>) -> Result<Tasks, String> {
    let asked = async {
        let workers = store.workers().await?.len();
        // What was due before all times is nothing: this tells when the first is due, if any.
        let recurs = store.due_schedules(1, Millis::MIN).await?.next_at_ms.is_some();
        Ok(Tasks { workers, recurs })
    };
    let answer: Result<Result<Tasks, StoreError>, _> = timeout(ANSWER_TIMEOUT, asked).await;
    answer.map_err(|_| late())?.map_err(|error| error.to_string())
}

/// Asks a spaceship for its version. R2's answers this as well, of another program's version, which
/// is not told.
pub(super) async fn ask_spaceship(road: Road) -> Result<Option<String>, String> {
    let request = Request::get("/openapi.json").body(Bytes::new());
    let request = request.map_err(|error| error.to_string())?;
    let answer = timeout(ANSWER_TIMEOUT, road.exchange(request)).await.map_err(|_| late())?;
    let answer = answer.map_err(|error| error.to_string())?;
    let description: Value = serde_json::from_slice(answer.body()).unwrap_or_default();
    let said = |name| description.pointer(name).and_then(Value::as_str).unwrap_or_default();
    let is_ours = said("/info/title").starts_with("async-data-processor");
    Ok(is_ours.then(|| printable(said("/info/version"))))
}

fn late() -> String {
    format!("no answer within {} s", ANSWER_TIMEOUT.as_secs())
}
