//! The store in a file.

use std::sync::Arc;

use async_data_processor::store::sqlite::SqliteStore;

use super::Stores;

super::conformance!(open);

fn open() -> Stores {
    let dir = tempfile::tempdir().unwrap();
    let handle = || Arc::new(SqliteStore::open(dir.path()).unwrap());
    Stores { one: handle(), two: handle(), keep: Box::new(dir) }
}
