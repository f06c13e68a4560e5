//! Starting: tables are made once, and what only a person can mend is told at once.

use async_data_processor::store::postgres::address::Address;
use async_data_processor::store::{Filter, Store};

use super::server::{PASSWORD, shared};
use super::{connect, is_there, task};
use crate::rabbitmq::ports::free_port;

#[tokio::test(flavor = "multi_thread")]
async fn servers_that_start_at_once_make_the_tables_once() {
    let url = shared().database("start_at_once");
    let stores: Vec<_> = (0..4).map(|_| connect(&url)).collect();
    for (store, life) in &stores {
        assert!(is_there(&store.submit(vec![task()], 0).await.unwrap()));
        assert_eq!(life.failure(), None);
    }
    let filter = Filter { tasks_max: 10, ..Filter::default() };
    assert_eq!(stores[0].0.tasks(filter).await.unwrap().len(), 4);
    let versions = "SELECT version FROM async_data_processor.schema_versions";
    assert_eq!(shared().sql("start_at_once", versions), "1\n2\n3\n4");
}

/// Why a store at this URL gives up.
async fn refused(url: &str) -> String {
    let (store, life) = connect(url);
    life.stopping().await;
    let failure = life.failure().unwrap();
    assert!(failure.is_settings, "{failure:?}");
    assert!(!failure.reason.contains("wr0ng"), "{failure:?}");
    assert!(!failure.reason.contains(PASSWORD), "{failure:?}");
    assert!(store.workers().await.is_err());
    failure.reason
}

#[tokio::test(flavor = "multi_thread")]
async fn a_wrong_password_is_final() {
    let url = shared().url("postgres").replace(PASSWORD, "wr0ng");
    let reason = refused(&url).await;
    assert!(reason.contains("check user and password in DATABASE_URL"), "{reason}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_database_that_is_not_there_is_final() {
    let reason = refused(&shared().url("nowhere")).await;
    assert!(reason.contains("create the database that DATABASE_URL names"), "{reason}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_user_who_may_make_no_tables_is_final() {
    let url = shared().database("start_no_tables");
    shared().sql("start_no_tables", &format!("CREATE USER guest PASSWORD '{PASSWORD}'"));
    let reason = refused(&url.replace("//tests:", "//guest:")).await;
    assert!(reason.contains("create the schema async_data_processor"), "{reason}");
}

#[tokio::test(flavor = "multi_thread")]
async fn tables_of_a_later_version_are_left_alone() {
    let url = shared().database("start_later");
    let (store, _life) = connect(&url);
    store.submit(vec![task()], 0).await.unwrap();
    drop(store);
    let later = "INSERT INTO async_data_processor.schema_versions VALUES (1000)";
    shared().sql("start_later", later);
    let reason = refused(&url).await;
    assert!(reason.contains("update this program"), "{reason}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_database_that_is_away_is_waited_for() {
    let (store, life) = connect(&format!("postgres://tests@127.0.0.1:{}/jobs", free_port()));
    let error = store.workers().await.unwrap_err();
    assert!(error.to_string().contains("refused"), "{error}");
    assert!(matches!(error, async_data_processor::store::StoreError::Unavailable(_)));
    assert_eq!(life.failure(), None);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_unix_socket_will_do() {
    shared().database("start_socket");
    let url = shared().socket_url("start_socket");
    let (store, _life) = connect(&url);
    assert!(is_there(&store.submit(vec![task()], 0).await.unwrap()));
    assert!(Address::new(&url, None).unwrap().is_local());
}
