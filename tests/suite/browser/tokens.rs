//! A server that wants a token: who has none, a wrong one, one that only reads, one that is taken.

use std::fs;

use super::House;
use super::screen::{Browser, ENTER, quoted};
use crate::harness::Rig;

const TOKENS: &str = "writer:write,read:wr1te-s3cret\nreader:read:r3ad-s3cret\n\
                      feeder:write:f33d-s3cret\n";
const FIELD: &str = "#login [name=token]";

fn locked() -> House {
    let mut rig = Rig::new();
    let path = rig.dir.path().join("tokens");
    fs::write(&path, TOKENS).unwrap();
    rig.set("TOKENS_FILE", path.display());
    House::start(rig, "server")
}

/// The page, as it asks for a token.
fn opened(house: &House) -> Browser {
    let browser = Browser::open(house.address, "/");
    for status in ["401", "403"] {
        browser.expect_error(&format!("status of {status}"));
    }
    browser.expect_error("WebSocket connection to");
    browser.wait("document.querySelector('#login').open");
    browser
}

fn log_in(browser: &Browser, token: &str) {
    browser.fill(FIELD, token);
    browser.press(&[ENTER]);
}

#[test]
fn nothing_is_seen_without_a_token_and_a_wrong_one_is_told_so() {
    let house = locked();
    let browser = opened(&house);
    browser.picture("login");
    browser.audit("login");
    // There is nothing behind it that could be reached.
    browser.press(&[super::screen::ESCAPE]);
    browser.press(&[super::screen::ESCAPE]);
    browser.wait("document.querySelector('#login').open");
    log_in(&browser, "wr0ng");
    browser.wait("document.querySelector('#login .wrong').innerText !== ''");
    browser.picture("login-wrong");
    // It may write, and see nothing.
    log_in(&browser, "f33d-s3cret");
    browser.wait("document.querySelector('#login .wrong').innerText.includes('read')");
    log_in(&browser, "wr1te-s3cret");
    browser.wait_live();
    browser.wait_text("#who", "writer");
    browser.fill("#calculations-input", "77");
    browser.click_text("button", "calc");
    browser.wait_text("#calculations-table", "77");
    browser.reload();
    browser.wait_live();
    browser.wait_text("#calculations-table", "77");
    browser.click("#logout");
    browser.wait("document.querySelector('#login').open");
    assert_eq!(browser.value("document.body.innerText.includes('77')"), false);
    assert_eq!(browser.value("sessionStorage.getItem('token')"), serde_json::Value::Null);
}

#[test]
fn who_only_reads_sees_all_and_can_press_nothing_that_changes_it() {
    let house = locked();
    let writer = opened(&house);
    log_in(&writer, "wr1te-s3cret");
    writer.wait_live();
    drop_into(&writer, "78");
    let reader = opened(&house);
    log_in(&reader, "r3ad-s3cret");
    reader.wait_live();
    reader.wait_text("#calculations-table", "78");
    reader.wait_text("#who", "reads only");
    reader.wait("document.querySelector('[data-action=calculate] button').disabled");
    reader.wait("document.querySelector('[data-action=cancel-calculation]').disabled");
    reader.picture("reads-only");
    drop_into(&writer, "79");
    reader.wait_text("#calculations-table", "79");
    reader.wait(
        "[...document.querySelectorAll('[data-action=cancel-calculation]')] \
         .every(button => button.disabled)",
    );
}

fn drop_into(browser: &Browser, input: &str) {
    browser.fill("#calculations-input", input);
    browser.click_text("button", "calc");
    browser.wait_text("#calculations-table", input);
}

#[test]
fn a_token_that_is_taken_away_asks_for_another_and_what_was_typed_stays() {
    another_is_asked_for("other:write,read:0ther-s3cret\n", "");
}

#[test]
fn so_does_one_that_may_not_read_any_more() {
    another_is_asked_for("writer:write:wr1te-s3cret\nother:write,read:0ther-s3cret\n", "read");
}

/// After these are the tokens, and why.
fn another_is_asked_for(tokens: &str, why: &str) {
    let mut house = locked();
    let browser = opened(&house);
    browser.expect_error("ERR_CONNECTION_REFUSED");
    log_in(&browser, "wr1te-s3cret");
    browser.wait_live();
    browser.fill("#calculations-input", "123");
    house.stop();
    fs::write(house.rig.dir.path().join("tokens"), tokens).unwrap();
    house.start_again();
    browser.wait("document.querySelector('#login').open");
    let said = "document.querySelector('#login .wrong').innerText";
    browser.wait(&format!("{said} !== '' && {said}.includes({})", quoted(why)));
    log_in(&browser, "0ther-s3cret");
    browser.wait_live();
    let field = format!("document.querySelector({}).value", quoted("#calculations-input"));
    assert_eq!(browser.value(&field), "123");
    drop_into(&browser, "124");
}
