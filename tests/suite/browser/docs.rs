//! The API, as a person reads it.

use serde_json::Value;

use super::House;
use super::screen::{Browser, DESK, ENTER, PHONE, quoted};
use crate::harness::Rig;

const OPERATIONS: &str = ".operation:not([hidden])";

fn opened(house: &House) -> Browser {
    let browser = Browser::open(house.address, "/docs");
    browser.wait_shown(".operation");
    browser
}

#[test]
fn every_request_of_the_description_is_there_with_its_schemas() {
    let house = House::server();
    let browser = opened(&house);
    let described = house.ask("GET /openapi.json", "");
    let is_method = |name: &str| ["get", "post", "put", "patch", "delete"].contains(&name);
    let paths = described["paths"].as_object().unwrap();
    for (path, methods) in paths {
        for method in methods.as_object().unwrap().keys().filter(|name| is_method(name)) {
            let id = quoted(&format!("{method}-{path}"));
            let shown = browser.value(&format!("document.getElementById({id})?.textContent"));
            let summary = methods[method]["summary"].as_str().unwrap();
            assert!(shown.as_str().is_some_and(|text| text.contains(summary)), "{method} {path}");
        }
    }
    let schemas = described["components"]["schemas"].as_object().unwrap();
    assert_eq!(browser.count(".schema"), u64::try_from(schemas.len()).unwrap());
    // Every link leads somewhere.
    let lost = "[...document.querySelectorAll('main a[href^=\"#\"]')] \
                .filter(link => !document.getElementById(link.hash.slice(1))).length";
    assert_eq!(browser.value(lost), 0);
    assert_eq!(browser.value("document.body.innerText.includes('undefined')"), false);
}

#[test]
fn a_line_can_be_copied_and_does_what_it_says() {
    let house = House::server();
    let browser = opened(&house);
    browser.let_copy();
    browser.click("[id='post-/message'] > summary");
    browser.click("[id='post-/message'] .curl button");
    browser.wait_text("[id='post-/message'] .curl button", "Copied");
    let line = browser.value("navigator.clipboard.readText()");
    let line = line.as_str().unwrap();
    let done = std::process::Command::new("sh").args(["-c", line]).output().unwrap();
    let answer: Value = serde_json::from_slice(&done.stdout).unwrap();
    assert_eq!(answer["accepted"], 1, "{line}");
    browser.picture("docs-open");
}

#[test]
fn a_word_finds_what_holds_it_and_an_address_opens_it() {
    let house = House::server();
    let browser = opened(&house);
    let all = browser.count(OPERATIONS);
    browser.press(&["/"]);
    browser.wait("document.activeElement.id === 'filter'");
    browser.type_into("#filter", "/receipt/ which");
    browser.wait_text("#matches", "1 request");
    assert_eq!(browser.count(OPERATIONS), 1);
    browser.tab_to(".operation summary");
    browser.press(&[ENTER]);
    browser.wait_shown("[id='get-/receipt/{receipt}'] .curl");
    browser.fill("#filter", "no such thing");
    browser.wait_text("#matches", "0 requests");
    browser.fill("#filter", "");
    browser.wait_text("#matches", &format!("{all} requests in all"));
    browser.go("/docs#schema-Entry");
    browser.reload();
    browser.wait("document.getElementById('schema-Entry').open");
}

#[test]
fn it_is_readable_in_light_and_dark_on_a_desk_and_on_a_phone() {
    let house = House::server();
    let browser = opened(&house);
    browser.click_text("button", "Open all");
    for (window, size) in [(DESK, "desk"), (PHONE, "phone")] {
        browser.resize(window);
        for scheme in ["light", "dark"] {
            browser.prefer("prefers-color-scheme", scheme);
            browser.picture(&format!("docs-{size}-{scheme}"));
            browser.audit(&format!("docs, {size}, {scheme}"));
        }
    }
}

#[test]
fn where_tokens_are_set_the_lines_say_where_the_token_goes() {
    let mut rig = Rig::new();
    let path = rig.dir.path().join("tokens");
    std::fs::write(&path, "writer:write:wr1te-s3cret\n").unwrap();
    rig.set("TOKENS_FILE", path.display());
    let house = House::start(rig, "server");
    let browser = opened(&house);
    let line = "document.getElementById('post-/message').querySelector('pre').textContent";
    let line = browser.value(line);
    assert!(line.as_str().unwrap().contains("Authorization: Bearer $TOKEN"), "{line}");
    let open = "document.getElementById('get-/health').querySelector('pre').textContent";
    assert!(!browser.value(open).as_str().unwrap().contains("TOKEN"));
}
