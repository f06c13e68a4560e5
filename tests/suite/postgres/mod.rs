//! A PostgreSQL of the tests' own, and what only a store in PostgreSQL has to survive.

mod doctor;
mod faults;
mod plans;
pub(crate) mod server;
mod start;
mod tls;

use std::sync::Arc;

use async_data_processor::service::Lifecycle;
use async_data_processor::store::postgres::PostgresStore;
use async_data_processor::store::postgres::address::Address;
use async_data_processor::store::{NewTask, StoreError, Submitted};
use async_data_processor::task::TaskId;

/// A store in the database at `url`, and the life that it may fail.
fn connect(url: &str) -> (Arc<PostgresStore>, Lifecycle) {
    let life = Lifecycle::new();
    let address = Address::new(url, None).unwrap();
    (Arc::new(PostgresStore::connect(&address, &life)), life)
}

/// A task of kind `a` that was due long ago.
fn task() -> NewTask {
    NewTask {
        id: TaskId::new(),
        kind: "a".parse().unwrap(),
        endpoint: None,
        payload: b"payload".to_vec(),
        run_at_ms: 0,
        expires_at_ms: None,
        failures_max: 5,
        key: None,
        is_watched: false,
    }
}

/// Asks until it is answered, however often the database is away; what passes is no error.
async fn insist<T, F: Future<Output = Result<T, StoreError>>>(ask: impl Fn() -> F) -> T {
    loop {
        match ask().await {
            Ok(answer) => return answer,
            Err(StoreError::Unavailable(_)) => {}
            Err(error) => panic!("{error:?}"),
        }
    }
}

fn is_there(submitted: &[Submitted]) -> bool {
    submitted.iter().all(|one| matches!(one, Submitted::New | Submitted::Known))
}
