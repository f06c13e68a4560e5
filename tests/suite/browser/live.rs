//! What is shown is what stands, whatever happens to the server meanwhile; what is typed stays.

use super::House;
use super::screen::{Browser, quoted};

const FIELD: &str = "#calculations-input";

/// What the browser itself says of a server that is away.
fn expect_absence(browser: &Browser) {
    browser.expect_error("ERR_CONNECTION_REFUSED");
    browser.expect_error("ERR_CONNECTION_RESET");
    browser.expect_error("WebSocket connection to");
}

fn typed(browser: &Browser) -> String {
    let value = browser.value(&format!("document.querySelector({}).value", quoted(FIELD)));
    value.as_str().unwrap().to_owned()
}

#[test]
fn a_server_that_comes_back_is_live_again_and_what_was_typed_is_there() {
    let mut house = House::server();
    let browser = house.open("/");
    expect_absence(&browser);
    house.order(41);
    browser.wait_text("#calculations-table", "41");
    browser.fill(FIELD, "12");
    house.stop();
    browser.wait("document.querySelector('#link').dataset.state !== 'live'");
    browser.picture("away");
    browser.type_into(FIELD, "34");
    browser.click_text("button", "calc");
    browser.wait_text("#calculations-wrong", "cannot be reached");
    browser.wait_text("#calculations-table", "41");
    house.start_again();
    browser.wait_live();
    assert_eq!(typed(&browser), "1234");
    let told = "document.querySelector('#calculations-wrong').innerText";
    browser.click_text("button", "calc");
    browser.wait_text("#calculations-table", "1234");
    browser.wait(&format!("{told} === ''"));
    house.order(43);
    browser.wait_text("#calculations-table", "43");
}

#[test]
fn a_server_that_is_killed_is_noticed_and_found_again() {
    let mut house = House::server();
    let browser = house.open("/");
    expect_absence(&browser);
    house.process.take().unwrap().kill();
    browser.wait("document.querySelector('#link').dataset.state === 'lost'");
    browser.wait_text("#link", "No connection");
    house.start_again();
    browser.wait_live();
    house.order(44);
    browser.wait_text("#calculations-table", "44");
}

#[test]
fn what_was_typed_survives_a_reload() {
    let house = House::server();
    let browser = house.open("/");
    browser.fill(FIELD, "4321");
    browser.reload();
    browser.wait_live();
    assert_eq!(typed(&browser), "4321");
}

#[test]
fn focus_and_selection_stay_while_things_change_around_them() {
    let house = House::server();
    let browser = house.open("/");
    let id = house.order(51);
    let button = format!("#calculation-{id} [data-action=cancel-calculation]");
    browser.wait_shown(&button);
    browser.script(&format!("document.querySelector({}).focus()", quoted(&button)));
    for input in [52, 53, 54] {
        house.order(input);
        browser.wait_text("#calculations-table", &input.to_string());
        let is_there = format!("document.activeElement.matches({})", quoted(&button));
        assert_eq!(browser.value(&is_there), true);
    }
}

#[test]
fn ten_tabs_are_all_live_and_none_stalls() {
    let house = House::server();
    let browser = house.open("/");
    let mut tabs = vec![browser.tab()];
    for _ in 1..10 {
        tabs.push(browser.open_tab("/"));
        browser.wait_live();
    }
    browser.fill(FIELD, "61");
    browser.click_text("button", "calc");
    for tab in &tabs {
        browser.switch_to(tab);
        browser.wait_text("#calculations-table", "61");
    }
    house.order(62);
    for tab in &tabs {
        browser.switch_to(tab);
        browser.wait_text("#calculations-table", "62");
    }
}

#[test]
fn back_and_forward_go_through_what_was_looked_at() {
    let house = House::server();
    let browser = house.open("/");
    house.order(71);
    browser.click_text(".filters a", "Finished");
    browser.wait_text("#calculations-table", "There are none of these.");
    browser.script("history.back()");
    browser.wait_text("#calculations-table", "71");
    browser.script("history.forward()");
    browser.wait_text("#calculations-table", "There are none of these.");
    browser.reload();
    browser.wait_text("#calculations-table", "There are none of these.");
}

#[test]
fn times_are_the_readers_and_exact_on_demand() {
    let house = House::server();
    let id = house.order(81);
    let created = house.ask(&format!("GET /factorial/{id}"), "")["createdAt"].clone();
    let browser = house.open("/");
    browser.move_to("Asia/Kolkata");
    browser.reload();
    browser.wait_live();
    let time = format!("#calculation-{id} time");
    browser.wait_text(&time, " s");
    let title = browser.value(&format!("document.querySelector({}).title", quoted(&time)));
    let (title, created) = (title.as_str().unwrap(), created.as_str().unwrap());
    assert!(title.contains("GMT+5:30") && title.contains(&created[..19]), "{title} {created}");
}
