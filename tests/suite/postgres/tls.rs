//! TLS: whose certificate is taken.

use async_data_processor::service::Lifecycle;
use async_data_processor::store::Store;
use async_data_processor::store::postgres::PostgresStore;
use async_data_processor::store::postgres::address::Address;

use super::server::{PrivatePostgres, certificates};

#[tokio::test(flavor = "multi_thread")]
async fn the_certificate_is_verified_as_sslmode_says() {
    let (_dir, files) = certificates();
    let server = PrivatePostgres::with_tls(&files.server, &files.server_key);
    let by_name = server.database("jobs").replace("127.0.0.1", "localhost");
    let try_it = async |url: String, ca| {
        let address = Address::new(&url, ca).unwrap();
        let store = PostgresStore::connect(&address, &Lifecycle::new());
        store.workers().await.map_err(|error| error.to_string())
    };
    for (mode, ca) in [
        ("", Some(&files.ca)),
        ("?sslmode=verify-full", Some(&files.ca)),
        ("?sslmode=require", None),
        ("", None),
    ] {
        assert_eq!(try_it(format!("{by_name}{mode}"), ca).await, Ok(vec![]), "{mode} {ca:?}");
    }
    for mode in ["", "?sslmode=verify-ca", "?sslmode=require"] {
        let error = try_it(format!("{by_name}{mode}"), Some(&files.other_ca)).await.unwrap_err();
        assert!(error.contains("set DATABASE_CA"), "{mode}: {error}");
    }
    let used = "SELECT bool_and(ssl) FROM pg_stat_ssl JOIN pg_stat_activity USING (pid) \
                WHERE application_name LIKE 'async-data-processor%'";
    let (store, _life) = super::connect(&by_name);
    store.workers().await.unwrap();
    assert_eq!(server.sql("jobs", used), "t");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_certificate_for_another_host_is_refused_by_verify_full_alone() {
    let (_dir, files) = certificates();
    let server = PrivatePostgres::with_tls(&files.stranger, &files.stranger_key);
    let url = server.database("jobs").replace("127.0.0.1", "localhost");
    let try_it = async |mode: &str| {
        let address = Address::new(&format!("{url}?sslmode={mode}"), Some(&files.ca)).unwrap();
        let store = PostgresStore::connect(&address, &Lifecycle::new());
        store.workers().await.map_err(|error| error.to_string())
    };
    assert_eq!(try_it("verify-ca").await, Ok(vec![]));
    let error = try_it("verify-full").await.unwrap_err();
    assert!(error.contains("a name that its certificate holds"), "{error}");
}
