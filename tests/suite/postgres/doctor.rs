//! What the program says of a database, and that it never says its password.

use async_data_processor::store::Store;
use serde_json::Value;

use super::connect;
use super::server::{PASSWORD, PrivatePostgres, shared};
use crate::harness::Rig;

/// What `doctor` finds of a check in the database at `url`: the level and the text.
fn found(url: &str, check: &str) -> (String, String) {
    let mut rig = Rig::new();
    rig.set("DATABASE_URL", url);
    let output = rig.run(&["doctor", "--output", "json"]);
    let text = String::from_utf8(output.stdout).unwrap();
    assert!(!text.contains(PASSWORD), "{text}");
    let report: Value = serde_json::from_str(&text).unwrap();
    let findings = report["findings"].as_array().unwrap();
    let finding = findings.iter().find(|finding| finding["check"] == check).unwrap();
    let text = |key: &str| finding[key].as_str().unwrap().to_owned();
    (text("level"), text("found"))
}

#[tokio::test(flavor = "multi_thread")]
async fn the_doctor_makes_no_tables_and_knows_them() {
    let url = shared().database("doctor_tables");
    let level = |check| found(&url, check).0;
    assert_eq!((level("database").as_str(), level("tables").as_str()), ("ok", "note"));
    let made = "SELECT to_regnamespace('async_data_processor') IS NULL";
    assert_eq!(shared().sql("doctor_tables", made), "t");
    let (store, _life) = connect(&url);
    store.workers().await.unwrap();
    assert_eq!(level("tables"), "ok");
    assert_eq!(level("durability"), "ok");
}

#[test]
fn the_doctor_finds_a_database_that_forgets() {
    let server = PrivatePostgres::with_config("synchronous_commit = off\nfull_page_writes = off\n");
    let url = server.database("jobs");
    let (level, text) = found(&url, "durability");
    assert_eq!(level, "problem");
    assert!(text.contains("full_page_writes is off"), "{text}");
    let (level, text) = found(&url.replace(PASSWORD, "wr0ng"), "database");
    assert_eq!(level, "problem");
    assert!(!text.contains("wr0ng"), "{text}");
}

#[test]
fn a_password_on_the_command_line_is_refused() {
    let rig = Rig::new();
    let url = format!("postgres://ann:{PASSWORD}@localhost/jobs");
    let output = rig.run(&["doctor", "--database-url", &url]);
    let said = String::from_utf8(output.stderr).unwrap();
    assert!(!output.status.success() && said.contains("set the variable DATABASE_URL"), "{said}");
    assert!(!said.contains(PASSWORD), "{said}");
}
