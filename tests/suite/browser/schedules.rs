//! Schedules: made, seen to run, cancelled, and looked back at.

use chrono::{TimeDelta, Utc};
use serde_json::json;

use super::screen::{Browser, PHONE, quoted};
use super::{House, hostile_texts};

const VIEW: &str = "/#schedules";
const FORM: &str = "form[data-action=add-schedule]";
const ROWS: &str = "#schedules-list tbody tr";

/// Puts a value into a field that a keyboard fills part by part, as a person's choice does.
pub(super) fn set_start(browser: &Browser, seconds_ahead: u32) {
    browser.script(&format!(
        "const field = document.querySelector('{FORM} [name=start_time]');
         const offset_ms = new Date().getTimezoneOffset() * 60000;
         const at = new Date(Date.now() + {seconds_ahead}000 - offset_ms);
         field.value = at.toISOString().slice(0, 19);
         field.dispatchEvent(new Event('input', {{ bubbles: true }}));"
    ));
}

#[test]
fn a_capture_is_scheduled_runs_and_tells_what_came_of_it() {
    let house = House::up();
    let browser = house.open(VIEW);
    browser.wait_text("#schedules-list", "Nothing is scheduled yet");
    browser.picture("schedules-empty");
    browser.fill(&format!("{FORM} [name=ship_name]"), "TARDIS");
    browser.fill(&format!("{FORM} [name=duration]"), "1");
    set_start(&browser, 3);
    browser.click_text("button", "Schedule");
    browser.wait_text("#schedules-done", "Scheduled.");
    browser.wait_text(ROWS, "TARDIS");
    browser.wait_shown(&format!("{ROWS}[data-state=finished]"));
    browser.click(&format!("{ROWS} a"));
    browser.wait_text("#schedules-one", "stored");
    browser.picture("schedules-one");
    browser.click("nav a[href='#ships']");
    browser.wait_text("#ships-list", "TARDIS");
    browser.wait_text("#ships-captures", "finished");
    browser.click_text("#ships-list a", "TARDIS");
    browser.wait_shown("#ships-chart svg");
    browser.picture("ships-captured");
}

#[test]
fn what_is_missing_or_past_is_told_so_and_what_was_typed_stays() {
    let house = House::up();
    let browser = house.open(VIEW);
    browser.click_text("button", "Schedule");
    browser.wait_text(FORM, "Which ship?");
    browser.fill(&format!("{FORM} [name=ship_name]"), "Enterprise");
    browser.click_text("button", "Schedule");
    browser.wait_text(FORM, "Choose when");
    browser.choose(&format!("{FORM} [name=when]"), "every");
    browser.fill(&format!("{FORM} [name=every_seconds]"), "0");
    browser.click_text("button", "Schedule");
    browser.wait_text(FORM, "Write a whole number from 1");
    let typed = format!("document.querySelector({})", quoted(&format!("{FORM} [name=ship_name]")));
    assert_eq!(browser.value(&format!("{typed}.value")), "Enterprise");
    assert_eq!(house.ask("GET /scheduler/", ""), json!([]));
}

#[test]
fn what_others_schedule_is_seen_live_and_cancelled_only_if_meant() {
    let house = House::up();
    let browser = house.open(VIEW);
    let start = (Utc::now() + TimeDelta::minutes(10)).to_rfc3339();
    for ship in ["Voyager", "Defiant"] {
        let body = json!({ "ship_name": ship, "start_time": start, "duration": 5 });
        house.ask("POST /scheduler/", &body.to_string());
        browser.wait_text(ROWS, ship);
    }
    let cancel = "[aria-label='Cancel the schedule of Defiant']";
    browser.click(cancel);
    browser.click_text("#confirm button", "No");
    browser.wait("!document.querySelector('#confirm').open");
    assert_eq!(browser.count(&format!("{ROWS}[data-state=cancelled]")), 0);
    browser.wait(&format!("document.activeElement.matches({})", quoted(cancel)));
    browser.click(cancel);
    browser.click_text("#confirm button", "Yes");
    browser.wait_text(&format!("{ROWS}[data-state=cancelled]"), "Defiant");
    browser.wait_shown("#schedules-timeline svg");
    browser.picture("schedules-cancelled");
}

#[test]
fn what_is_confirmed_is_done_and_not_what_the_button_has_become() {
    let house = House::up();
    let start = (Utc::now() + TimeDelta::minutes(10)).to_rfc3339();
    let body = json!({ "ship_name": "Defiant", "start_time": start, "duration": 5 });
    let made = house.ask("POST /scheduler/", &body.to_string());
    let id = made["id"].as_str().unwrap();
    let browser = house.open(&format!("{VIEW}?schedule={id}"));
    browser.click("#schedules-one-cancel");
    browser.wait("document.querySelector('#confirm').open");
    house.ask(&format!("POST /scheduler/{id}/cancel"), "");
    browser.wait("document.querySelector('#schedules-one-remove') !== null");
    browser.expect_error("status of 409");
    browser.click_text("#confirm button", "Yes");
    browser.wait(
        "performance.getEntriesByType('resource').some(entry => entry.name.endsWith('/cancel'))",
    );
    assert_eq!(house.ask("GET /scheduler/", "").as_array().unwrap().len(), 1);
}

#[test]
fn hostile_names_of_ships_stay_texts_in_every_view() {
    let house = House::up();
    let browser = house.open(VIEW);
    let start = (Utc::now() + TimeDelta::hours(1)).to_rfc3339();
    for text in hostile_texts() {
        let ship: String = text.chars().filter(|c| *c != '\u{202E}').take(64).collect();
        let body = json!({ "ship_name": ship, "start_time": start, "duration": 5 });
        house.ask("POST /scheduler/", &body.to_string());
        let shown = format!(
            "document.querySelector({}).textContent.includes({})",
            quoted(ROWS),
            quoted(ship.trim())
        );
        browser.wait(&shown);
    }
    browser.resize(PHONE);
    for view in ["schedules", "ships"] {
        browser.click(&format!("nav a[href='#{view}']"));
        browser.wait_shown(&format!("#{view}"));
        browser.audit(&format!("hostile names in {view}"));
    }
    assert_eq!(browser.value("window.wasHurt === undefined"), true);
    assert_eq!(browser.count("main img, main script"), 0);
}
