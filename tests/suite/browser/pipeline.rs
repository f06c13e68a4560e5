//! Messages: sent by hand, seen in files, read where nobody could handle them, and sent again.

use serde_json::json;

use super::screen::{PHONE, quoted};
use super::{House, hostile_texts};
use crate::harness::{Rig, entry, post_entries};

const VIEW: &str = "/#pipeline";
const LETTERS: &str = "#pipeline-dead tbody tr";

/// A house whose program refuses what it does not like.
fn picky() -> House {
    let mut rig = Rig::new();
    rig.set("EXEC", "awk '/bad/ { exit 3 } { print }'").set("BATCH_ATTEMPTS", 1);
    House::start(rig, "up")
}

#[test]
fn a_test_message_is_sent_and_seen_on_its_way_into_a_file() {
    let house = House::up();
    let browser = house.open(VIEW);
    browser.wait_text("#pipeline-now", "No message has come yet");
    browser.picture("pipeline-empty");
    browser.fill("#pipeline-value", "by hand");
    browser.fill("#pipeline-timestamp", "2026-11-22T07:30:01Z");
    browser.click_text("button", "Send");
    browser.wait_text("#pipeline-sent", "Stored.");
    browser.wait_text("#pipeline-sent", "shard-1-worker");
    browser.wait_text("#pipeline-files tbody tr", "shard-1-worker");
    browser.wait_text("#pipeline-shards tbody", "1");
    browser.wait_text("#pipeline-worker-history", "shard-1-worker");
    assert_eq!(house.rig.wait_drained()["accepted"], 1);
    assert!(house.rig.lines()[0].contains("by hand"));
    browser.picture("pipeline-sent");
    let typed = browser.value("document.querySelector('#pipeline-value').value");
    assert_eq!(typed, "by hand");
}

#[test]
fn a_message_that_is_refused_is_told_so_and_stays_typed() {
    let house = House::server();
    let browser = house.open(VIEW);
    browser.expect_error("status of 400");
    browser.fill("#pipeline-timestamp", "yesterday");
    browser.click_text("button", "Send");
    browser.wait_text("[data-action=send-message] .wrong", "timestamp");
    let typed = browser.value("document.querySelector('#pipeline-timestamp').value");
    assert_eq!(typed, "yesterday");
    browser.fill("#pipeline-timestamp", "");
    browser.click_text("button", "Send");
    browser.wait_text("#pipeline-sent", "Stored.");
    browser.wait_text("#pipeline-workers", "Nobody consumes");
    assert_eq!(house.rig.verify(&[])["accepted"], 1);
}

#[test]
fn a_message_sent_again_for_want_of_an_answer_is_stored_once() {
    let house = House::server();
    let browser = house.open(VIEW);
    browser.lose_an_answer();
    browser.fill("#pipeline-value", "by hand");
    browser.click_text("button", "Send");
    browser.wait_text("[data-action=send-message] .wrong", "cannot be reached");
    browser.click_text("button", "Send");
    browser.wait_text("#pipeline-sent", "Stored.");
    assert_eq!(house.rig.verify(&[])["accepted"], 1);
    // What is wished for after that is another one.
    browser.click_text("button", "Send");
    browser.wait("window.answers >= 4");
    browser.wait_text("#pipeline-sent", "Stored.");
    assert_eq!(house.rig.verify(&[])["accepted"], 2);
}

#[test]
fn what_others_send_is_counted_live_and_drawn() {
    let house = House::up();
    let browser = house.open(VIEW);
    for round in 1..=3 {
        post_entries(house.address, &[entry(0, "a"), entry(1, "b")]);
        let accepted = format!(
            "[...document.querySelectorAll('#pipeline-now dd')].at(-1).innerText === {}",
            quoted(&(2 * round).to_string())
        );
        browser.wait(&accepted);
    }
    browser.wait("document.querySelectorAll('#pipeline-charts svg path').length > 0");
    browser.wait("document.querySelectorAll('#pipeline-shards tbody tr').length >= 2");
}

#[test]
fn a_dead_letter_is_read_mended_and_sent_again() {
    let house = picky();
    let browser = house.open(VIEW);
    post_entries(house.address, &[entry(0, "bad luck")]);
    browser.wait_text(LETTERS, "exit");
    browser.picture("pipeline-dead");
    browser.click(&format!("{LETTERS} button"));
    let field = "#dead textarea";
    browser.wait_shown(field);
    let held = browser.value("document.querySelector('#dead textarea').value");
    assert!(held.as_str().unwrap().contains("bad luck"), "{held}");
    browser.picture("pipeline-letter");
    browser.fill(field, "{\"timestamp\":");
    browser.click("#dead-send");
    browser.wait_text("#dead .wrong", "no JSON");
    // What was edited is there when it is opened again.
    browser.click_text("#dead button", "Close");
    browser.reload();
    browser.wait_live();
    browser.click(&format!("{LETTERS} button"));
    browser.wait_shown(field);
    browser.wait("document.querySelector('#dead textarea').value === '{\"timestamp\":'");
    browser.fill(field, "{\"timestamp\":\"2026-11-22T07:30:00Z\",\"value\":\"good luck\"}");
    browser.click("#dead-send");
    browser.wait_text("#dead-note", "Sent again: 1, of them edited: 1.");
    browser.wait_text("#dead-note", "In ");
    browser.click_text("#dead button", "Close");
    browser.wait_text("#pipeline-dead", "None: every message");
    assert!(house.rig.lines().iter().any(|line| line.contains("good luck")));
}

#[test]
fn hostile_messages_stay_texts_wherever_they_are_shown() {
    let house = picky();
    let browser = house.open(VIEW);
    let long = "bad ".repeat(8 * 1024);
    for text in hostile_texts().into_iter().map(|text| format!("{text} bad")).chain([long]) {
        let message = json!([{ "timestamp": "2026-11-22T07:30:00Z", "value": text }]);
        house.ask("POST /message", &message.to_string());
    }
    browser.wait(&format!("document.querySelectorAll({}).length > 0", quoted(LETTERS)));
    browser.wait_text("#pipeline-now", "0");
    let buttons = browser.count(&format!("{LETTERS} button"));
    for number in 0..buttons {
        let button = format!("document.querySelectorAll({})", quoted(&format!("{LETTERS} button")));
        browser.script(&format!("{button}[{number}].click()"));
        browser.wait_shown("#dead textarea");
        browser.click_text("#dead button", "Close");
    }
    assert_eq!(browser.value("window.wasHurt === undefined"), true);
    assert_eq!(browser.count("main img, main script"), 0);
    browser.resize(PHONE);
    browser.audit("hostile messages");
}
