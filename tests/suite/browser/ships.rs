//! Ships: their streams started and stopped by hand, and what has been captured of them.

use std::net::UdpSocket;

use super::House;
use super::screen::quoted;

const VIEW: &str = "/#ships";
const FORM: &str = "form[data-action=start-stream]";
const ROWS: &str = "#ships-streams tbody tr";

#[test]
fn a_stream_is_started_counts_what_it_sends_and_is_stopped() {
    let house = House::up();
    let receiver = UdpSocket::bind("127.0.0.1:0").unwrap();
    let port = receiver.local_addr().unwrap().port().to_string();
    let browser = house.open(VIEW);
    browser.wait_text("#ships-list", "Nothing is stored of any ship yet");
    browser.picture("ships-empty");
    browser.click_text("summary", "Start a stream");
    for (name, value) in [("ship_name", "Rocinante"), ("port", &port), ("rate", "50")] {
        browser.fill(&format!("{FORM} [name={name}]"), value);
    }
    browser.click_text("button", "Start");
    browser.wait_text(ROWS, "Rocinante");
    browser.picture("ships-stream");
    let sent = "Number(document.querySelector('#ships-streams tbody tr').cells[3].innerText)";
    let first = browser.wait(sent).as_u64().unwrap();
    browser.wait(&format!("{sent} > {first}"));
    browser.click("[aria-label='Stop the stream of Rocinante']");
    browser.click_text("#confirm button", "Yes");
    browser.wait(&format!("document.querySelectorAll({}).length === 0", quoted(ROWS)));
    assert_eq!(house.ask("GET /stream/", "")["number_of_active_streams"], 0);
}

#[test]
fn a_stream_that_cannot_be_started_is_told_so() {
    let house = House::up();
    let browser = house.open(VIEW);
    browser.click_text("summary", "Start a stream");
    browser.click_text("button", "Start");
    let wrong = format!("document.querySelector({}).innerText", quoted(&format!("{FORM} .wrong")));
    browser.wait(&format!("{wrong} !== ''"));
    browser.expect_error("status of 4");
    browser.fill(&format!("{FORM} [name=host]"), "192.0.2.1");
    browser.fill(&format!("{FORM} [name=port]"), "9000");
    browser.click_text("button", "Start");
    browser.wait(&format!("{wrong}.includes('192.0.2.1')"));
    assert_eq!(browser.count(ROWS), 0);
}
