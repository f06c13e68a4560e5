//! The store in a database.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use async_data_processor::service::Lifecycle;
use async_data_processor::store::postgres::PostgresStore;
use async_data_processor::store::postgres::address::Address;

use super::Stores;
use crate::postgres::server::shared;

super::conformance!(open);

fn name(what: &str) -> String {
    static COUNT: AtomicUsize = AtomicUsize::new(0);
    format!("{what}_{}", COUNT.fetch_add(1, Ordering::Relaxed))
}

fn open() -> Stores {
    let address = Address::new(&shared().database(&name("conformance")), None).unwrap();
    let handle = || Arc::new(PostgresStore::connect(&address, &Lifecycle::new()));
    Stores { one: handle(), two: handle(), keep: Box::new(()) }
}

/// What is told of changes while a transaction of somebody else is open, in any database of the
/// server.
mod while_another_is_open {
    use tokio::runtime::Handle;
    use tokio::task::block_in_place;
    use tokio_postgres::{Client, NoTls};

    use super::{Stores, shared};

    crate::store::conformance!(open => listing: [
        changes_tell_watched_tasks_only_and_go_on_where_they_ended,
        changes_miss_nothing_while_others_write,
        a_change_of_a_leader_is_one_of_its_watched_followers,
    ]);

    fn open() -> Stores {
        let other = block_in_place(|| Handle::current().block_on(open_transaction()));
        Stores { keep: Box::new(other), ..super::open() }
    }

    async fn open_transaction() -> Client {
        let url = shared().database(&super::name("others"));
        let (client, wire) = tokio_postgres::connect(&url, NoTls).await.unwrap();
        tokio::spawn(wire);
        client.batch_execute("BEGIN; SELECT pg_current_xact_id()").await.unwrap();
        client
    }
}
