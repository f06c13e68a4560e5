//! Factorials, from the first glance to the last digit.

use serde_json::{Value, json};

use super::screen::{Browser, ENTER, ESCAPE, PHONE, TAB, quoted};
use super::{House, hostile_texts};
use crate::harness::wait_for;

const FIELD: &str = "#calculations-input";
const ROWS: &str = "#calculations-table tbody tr";

/// The first row, as soon as its number and its state are these.
pub(super) fn wait_first(browser: &Browser, input: &str, state: &str) {
    let (row, input, state) = (quoted(ROWS), quoted(input), quoted(state));
    browser.wait(&format!(
        "(row => row.cells[0].innerText === {input} && row.dataset.state === {state})\
         (document.querySelector({row}))"
    ));
}

#[test]
fn a_factorial_is_computed_and_all_its_digits_are_had() {
    let house = House::up();
    let browser = house.open("/");
    assert_eq!(browser.text("h1"), "Factorials'r'us");
    assert_eq!(browser.value(&format!("document.querySelector({}).value", quoted(FIELD))), "2000");
    browser.wait_text("#calculations-table", "Nothing computed yet");
    browser.picture("calculations-empty");
    browser.click_text("button", "calc");
    wait_first(&browser, "2000", "finished");
    let heads = browser.text("#calculations-table thead");
    for head in ["n", "n!", "queue time", "work time"] {
        assert!(heads.contains(head), "{heads}");
    }
    browser.click(&format!("{ROWS} button.link"));
    browser.wait_text("#digits-note", "5\u{202F}736 digits");
    let digits = browser.value("document.querySelector('#digits-text').textContent");
    let digits = digits.as_str().unwrap();
    assert_eq!(digits.len(), 5736);
    assert!(digits.starts_with("33162750924506332411753933805763240382811"), "{digits}");
    assert!(digits.ends_with(&"0".repeat(499)) && !digits.ends_with(&"0".repeat(500)));
    browser.picture("calculations-digits");
    browser.let_copy();
    browser.click_text("#digits button", "Copy");
    browser.wait_text("#digits-note", "5\u{202F}736 digits copied");
    assert_eq!(browser.value("navigator.clipboard.readText()"), digits);
    let folder = house.rig.dir.path().join("downloads");
    browser.download_to(&folder);
    browser.click_text("#digits button", "Download");
    let file = folder.join("2000-factorial.txt");
    let had = wait_for("the download", || std::fs::read_to_string(&file).ok());
    assert_eq!(had, digits);
    browser.click_text("#digits button", "Close");
    browser.wait("!document.querySelector('#digits').open");
}

#[test]
fn what_is_no_positive_whole_number_is_told_so_and_not_sent() {
    let house = House::server();
    let browser = house.open("/");
    for (typed, told) in [
        ("", "Required"),
        ("many", "Must be a whole number"),
        ("1.5", "Must be a whole number"),
        ("1e3", "Must be a whole number"),
        ("-3", "Must be a positive number"),
        ("0", "Must be a positive number"),
        ("99999999999999999999", "Must be at most"),
    ] {
        browser.fill(FIELD, typed);
        browser.click_text("button", "calc");
        browser.wait_text("#calculations-wrong", told);
        let field = format!("document.querySelector({})", quoted(FIELD));
        assert_eq!(browser.value(&format!("{field}.value")), typed);
        assert_eq!(browser.value(&format!("{field}.getAttribute('aria-invalid')")), "true");
        browser.wait(&format!("document.activeElement === {field}"));
    }
    browser.picture("calculations-wrong");
    browser.fill(FIELD, "7");
    browser.click_text("button", "calc");
    wait_first(&browser, "7", "pending");
    assert_eq!(browser.count(ROWS), 1);
    assert_eq!(browser.text("#calculations-wrong"), "");
}

#[test]
fn what_others_order_is_seen_live_newest_first_and_can_be_cancelled() {
    let house = House::server();
    let browser = house.open("/");
    for input in [30, 31, 32] {
        house.order(input);
        wait_first(&browser, &input.to_string(), "pending");
    }
    let inputs = browser.value(&format!(
        "[...document.querySelectorAll({})].map(row => row.cells[0].innerText)",
        quoted(ROWS)
    ));
    assert_eq!(inputs, json!(["32", "31", "30"]));
    browser.wait_text("#calculations-summary", "nobody computes");
    browser.picture("calculations-nobody");
    browser.click("[aria-label='Cancel 31!']");
    browser.click_text("#confirm button", "Yes");
    browser.wait_text(&format!("{ROWS}[data-state=cancelled]"), "31");
    browser.wait_text("#calculations-summary", "2 waiting");
    let worker = house.rig.start(&["task-worker"]);
    wait_first(&browser, "32", "finished");
    browser.wait_text("#calculations-summary", "2 finished");
    browser.click_text(".filters a", "Failed or cancelled");
    browser.wait(&format!("document.querySelectorAll({}).length === 1", quoted(ROWS)));
    wait_first(&browser, "31", "cancelled");
    worker.stop();
}

#[test]
fn a_long_one_shows_how_far_it_is_and_ends_when_it_is_cancelled() {
    let house = House::up();
    let browser = house.open("/");
    browser.fill(FIELD, "10000000");
    browser.press(&[ENTER]);
    wait_first(&browser, "10000000", "running");
    browser.wait("document.querySelector('#calculations-table progress').value > 0");
    browser.wait_text(&format!("{ROWS} time[data-elapsed]"), " s");
    browser.picture("calculations-running");
    browser.click("[aria-label='Cancel 10000000!']");
    browser.click_text("#confirm button", "Yes");
    wait_first(&browser, "10000000", "cancelled");
    browser.wait_text("#calculations-summary", "0 running");
}

#[test]
fn all_of_it_goes_with_the_keyboard_alone() {
    let house = House::up();
    let browser = house.open("/");
    browser.tab_to(FIELD);
    browser.press(&["3", "0", ENTER]);
    wait_first(&browser, "30", "finished");
    browser.tab_to(&format!("{ROWS} button.link"));
    browser.press(&[ENTER]);
    browser.wait_text("#digits-note", "33 digits");
    // The focus goes through the dialog and nowhere else.
    for _ in 0..5 {
        browser.press(&[TAB]);
        let is_within = "document.activeElement === document.body \
                         || document.querySelector('#digits').contains(document.activeElement)";
        assert_eq!(browser.value(is_within), true);
    }
    browser.press(&[ESCAPE]);
    browser.wait("!document.querySelector('#digits').open");
    browser.wait("document.activeElement.matches('button.link')");
}

#[test]
fn whoever_goes_back_out_of_a_dialog_can_use_what_is_shown_then() {
    let house = House::up();
    let browser = house.open("/#health");
    browser.click("nav a[href='#calculations']");
    house.order(30);
    wait_first(&browser, "30", "finished");
    browser.click(&format!("{ROWS} button.link"));
    browser.wait("document.querySelector('#digits').open");
    browser.script("history.back()");
    browser.wait_shown("#health");
    assert_eq!(browser.value("document.querySelector('dialog[open]')"), Value::Null);
    browser.click("nav a[href='#calculations']");
    browser.wait_shown("#calculations");
}

#[test]
fn what_is_tried_again_without_an_answer_is_computed_once() {
    let house = House::server();
    let browser = house.open("/");
    browser.lose_an_answer();
    browser.fill(FIELD, "33");
    browser.click_text("button", "calc");
    browser.wait_text("#calculations-wrong", "cannot be reached");
    browser.click_text("button", "calc");
    browser.wait("window.answers === 2");
    house.order(34);
    wait_first(&browser, "34", "pending");
    assert_eq!(browser.count(ROWS), 2);
}

#[test]
fn ten_thousand_rows_stay_a_page_of_them() {
    let house = House::server();
    let order = |input: u32| {
        let payload = json!({ "version": "v1", "id": "none", "input": input });
        json!({ "kind": "factorial", "payload": payload })
    };
    let entries: Vec<Value> = (1..=10_000).map(order).collect();
    house.ask("POST /tasks", &json!(entries).to_string());
    let browser = house.open("/");
    wait_first(&browser, "10000", "pending");
    browser.wait_text("#calculations-summary", "10\u{202F}000 waiting");
    let elements = browser.count("*");
    assert!(browser.count(ROWS) <= 100 && elements < 3000, "{elements} elements");
    house.order(20_000);
    wait_first(&browser, "20000", "pending");
    let oldest_shown = browser.text(&format!("{ROWS}:last-child td"));
    browser.click_text(".pages a", "Older");
    let next: u32 = oldest_shown.parse::<u32>().unwrap() - 1;
    wait_first(&browser, &next.to_string(), "pending");
    browser.picture("calculations-older");
    browser.click_text(".pages a", "Newest");
    wait_first(&browser, "20000", "pending");
}

#[test]
fn a_reason_that_is_hostile_stays_a_text() {
    let house = House::server();
    let long = "x".repeat(60 * 1024);
    let texts: Vec<String> = hostile_texts().into_iter().chain([long]).collect();
    let browser = house.open("/");
    for (input, text) in (1..).zip(&texts) {
        let id = house.order(input);
        let begun = json!({ "calcStartedAt": "2026-11-22T07:30:00Z" }).to_string();
        house.ask(&format!("PUT /factorial/{id}"), &begun);
        let failed = json!({ "status": "error", "error": text }).to_string();
        house.ask(&format!("PUT /factorial/{id}"), &failed);
        wait_first(&browser, &input.to_string(), "failed");
        let shown = browser.text(&format!("{ROWS} .reason"));
        // What turns the text around is shown as what it is.
        let begin: String = text.trim_start_matches('\u{202E}').chars().take(30).collect();
        assert!(shown.contains(begin.trim()), "{shown}");
    }
    assert_eq!(browser.value("window.wasHurt === undefined"), true);
    assert_eq!(browser.count("main img, main script"), 0);
    browser.resize(PHONE);
    browser.audit("hostile reasons");
    browser.picture("calculations-hostile");
}
