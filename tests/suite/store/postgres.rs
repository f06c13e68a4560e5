//! The store in a database.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use async_data_processor::service::Lifecycle;
use async_data_processor::store::postgres::PostgresStore;
use async_data_processor::store::postgres::address::Address;

use super::Stores;
use crate::postgres::server::shared;

super::conformance!(open);

fn open() -> Stores {
    static COUNT: AtomicUsize = AtomicUsize::new(0);
    let name = format!("conformance_{}", COUNT.fetch_add(1, Ordering::Relaxed));
    let address = Address::new(&shared().database(&name), None).unwrap();
    let handle = || Arc::new(PostgresStore::connect(&address, &Lifecycle::new()));
    Stores { one: handle(), two: handle(), keep: Box::new(()) }
}
