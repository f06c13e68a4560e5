//! The tables, in numbered versions, in a schema of their own.
//!
//! Each connection looks whether the tables are there before it is lent out. Whoever finds them
//! missing or old changes them, in one transaction and under a lock, so that servers which start
//! at the same time do it once. Tables of a later version are left alone.

use tokio_postgres::Client;

use super::error::DatabaseError;

/// What brings the tables to version 1, 2, and so on.
const MIGRATIONS: &[&str] = &[
    include_str!("sql/0001.sql"),
    include_str!("sql/0002.sql"),
    include_str!("sql/0003.sql"),
    include_str!("sql/0004.sql"),
];
/// The lock that migrations take, of all in the database: the first bytes of this program's name.
const LOCK: i64 = i64::from_be_bytes(*b"async-da");

/// The latest version that this program knows.
pub(super) fn known() -> i32 {
    i32::try_from(MIGRATIONS.len()).unwrap_or(i32::MAX)
}

/// The version of the tables; 0: there are none.
pub(super) async fn version(client: &Client) -> Result<i32, DatabaseError> {
    let table = "SELECT to_regclass('async_data_processor.schema_versions') IS NOT NULL";
    if !client.query_one(table, &[]).await?.try_get::<_, bool>(0)? {
        return Ok(0);
    }
    let version = "SELECT COALESCE(max(version), 0) FROM async_data_processor.schema_versions";
    Ok(client.query_one(version, &[]).await?.try_get(0)?)
}

/// Brings the tables to the latest version.
pub(super) async fn migrate(client: &Client) -> Result<(), DatabaseError> {
    if is_latest(version(client).await?)? {
        return Ok(());
    }
    // Before the transaction, which knows at its beginning what others have made until then. A
    // connection that breaks off lets go of the lock.
    client.query("SELECT pg_advisory_lock($1)", &[&LOCK]).await?;
    client.batch_execute("BEGIN").await?;
    let mut found = version(client).await?;
    if found == 0 {
        let make = "CREATE SCHEMA IF NOT EXISTS async_data_processor; \
             CREATE TABLE async_data_processor.schema_versions (version INT PRIMARY KEY)";
        client.batch_execute(make).await?;
    }
    let here = "SET LOCAL search_path = async_data_processor, pg_catalog";
    client.batch_execute(here).await?;
    while !is_latest(found)? {
        let step = usize::try_from(found).ok().and_then(|index| MIGRATIONS.get(index));
        client.batch_execute(step.copied().unwrap_or_default()).await?;
        found += 1;
        let note = "INSERT INTO async_data_processor.schema_versions VALUES ($1)";
        client.execute(note, &[&found]).await?;
        tracing::info!(version = found, "the tables in the database were brought up to date");
    }
    client.batch_execute("COMMIT").await?;
    client.query("SELECT pg_advisory_unlock($1)", &[&LOCK]).await?;
    Ok(())
}

fn is_latest(found: i32) -> Result<bool, DatabaseError> {
    let known = known();
    if found > known { Err(DatabaseError::Newer { found, known }) } else { Ok(found == known) }
}
