//! What runs where, and why something is not ready.

use super::House;
use super::screen::Browser;

const VIEW: &str = "/#health";

fn wait_service(browser: &Browser, service: &str) {
    browser.wait_shown(&format!("#health-running article[id^=process-][data-service={service}]"));
}

#[test]
fn what_comes_and_goes_is_seen_live() {
    let house = House::server();
    let browser = house.open(VIEW);
    wait_service(&browser, "server");
    browser.wait_text("#health-ground", "SQLite");
    browser.wait_shown("#health-disk-meter");
    browser.wait_shown("#absent-message-consumer");
    browser.picture("health-server");
    let consumer = house.rig.start(&["message-consumer"]);
    wait_service(&browser, "message-consumer");
    browser.wait("!document.querySelector('#absent-message-consumer')");
    browser.wait_text("#health-ready", "Everything is ready.");
    browser.picture("health-consumer");
    consumer.stop();
    browser.wait_shown("#absent-message-consumer");
    let worker = house.rig.start(&["task-worker"]);
    wait_service(&browser, "task-worker");
    worker.kill();
    browser.wait("!document.querySelector('[data-service=task-worker][id^=process-]')");
}

#[test]
fn all_in_one_process_is_seen_as_such() {
    let house = House::up();
    let browser = house.open(VIEW);
    wait_service(&browser, "up");
    for part in ["scheduler", "spaceship"] {
        browser.wait_text("#health-running", part);
    }
    browser.wait_text("#health-ready", "Everything is ready.");
    browser.picture("health-up");
}
