//! What a person should know of a database before tasks are kept in it. Changes nothing.

use std::time::Duration;

use super::address::Address;
use super::error::DatabaseError;
use super::link::in_time;
use super::schema;

/// How long it may take.
const TIMEOUT: Duration = Duration::from_secs(15);

/// What was found.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Inspection {
    /// The server's version, as a number: 150004 is 15.4.
    pub version_number: i32,
    /// The same for people.
    pub version: String,
    /// Whether what is sent is encrypted.
    pub is_encrypted: bool,
    /// Whether it refuses to write, as a standby does.
    pub is_read_only: bool,
    /// Its setting `fsync`.
    pub fsync: bool,
    /// Its setting `full_page_writes`.
    pub full_page_writes: bool,
    /// Its setting `synchronous_commit`, which each session of ours raises to `on`.
    pub synchronous_commit: String,
    /// How many connections it takes, and how many there are.
    pub connections: (i64, i64),
    /// The version of the tables; 0: there are none.
    pub schema: i32,
    /// The latest version that this program knows.
    pub schema_known: i32,
    /// Whether the user may make the schema, or change what is in it.
    pub may_migrate: bool,
}

const SERVER: &str = "SELECT current_setting('server_version_num')::int, \
     current_setting('server_version'), \
     COALESCE((SELECT ssl FROM pg_stat_ssl WHERE pid = pg_backend_pid()), false), \
     current_setting('transaction_read_only')::boolean, current_setting('fsync')::boolean, \
     current_setting('full_page_writes')::boolean, current_setting('synchronous_commit'), \
     current_setting('max_connections')::bigint \
         - current_setting('superuser_reserved_connections')::bigint, \
     (SELECT count(*) FROM pg_stat_activity WHERE backend_type = 'client backend'), \
     COALESCE((SELECT pg_has_role(n.nspowner, 'USAGE') FROM pg_namespace n \
             WHERE n.nspname = 'async_data_processor'), \
         has_database_privilege(current_database(), 'CREATE'))";

/// Looks at the database.
///
/// # Errors
/// It cannot be reached, or refuses: why.
pub async fn inspect(address: &Address) -> Result<Inspection, DatabaseError> {
    let looked = async {
        let (client, wire) = address.any_server().connect("doctor").await?;
        // Ends when the client is dropped.
        let carried = tokio::spawn(wire);
        let row = client.query_one(SERVER, &[]).await?;
        let schema = schema::version(&client).await?;
        drop(client);
        let _ended = carried.await;
        Ok(Inspection {
            version_number: row.try_get(0)?,
            version: row.try_get(1)?,
            is_encrypted: row.try_get(2)?,
            is_read_only: row.try_get(3)?,
            fsync: row.try_get(4)?,
            full_page_writes: row.try_get(5)?,
            synchronous_commit: row.try_get(6)?,
            connections: (row.try_get(7)?, row.try_get(8)?),
            schema,
            schema_known: schema::known(),
            may_migrate: row.try_get(9)?,
        })
    };
    in_time(TIMEOUT, looked).await
}

/// What a person can do about an error, if that is known.
#[must_use]
pub fn advice(address: &Address, error: &DatabaseError) -> Option<String> {
    let of_tls = address.advice(error).trim_start_matches(": ");
    error.advice().or(Some(of_tls)).filter(|text| !text.is_empty()).map(str::to_owned)
}
