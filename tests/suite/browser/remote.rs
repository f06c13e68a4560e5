//! The page over a broker and a database: what is seen and done is the same.

use super::House;
use super::calculations::wait_first;
use super::schedules::set_start;
use crate::harness::Rig;
use crate::{postgres, rabbitmq};

#[test]
fn every_view_is_used_over_rabbitmq_and_postgresql() {
    let mut rig = Rig::new();
    rig.set("RABBITMQ_URL", rabbitmq::broker::shared().vhost("page"));
    rig.set("DATABASE_URL", postgres::server::shared().database("page"));
    let house = House::start(rig, "up");
    let browser = house.open("/");
    browser.click_text("button", "calc");
    wait_first(&browser, "2000", "finished");
    browser.click("nav a[href='#pipeline']");
    browser.fill("#pipeline-value", "by hand");
    browser.fill("#pipeline-timestamp", "2026-11-22T07:30:01Z");
    browser.click_text("button", "Send");
    browser.wait_text("#pipeline-sent", "Stored.");
    browser.wait_text("#pipeline-files tbody tr", "shard-1-worker");
    browser.picture("remote-pipeline");
    browser.click("nav a[href='#schedules']");
    browser.fill("form[data-action=add-schedule] [name=ship_name]", "TARDIS");
    browser.fill("form[data-action=add-schedule] [name=duration]", "1");
    set_start(&browser, 3);
    browser.click_text("button", "Schedule");
    browser.wait_shown("#schedules-list tbody tr[data-state=finished]");
    browser.click("nav a[href='#ships']");
    browser.wait_text("#ships-list", "TARDIS");
    browser.click("nav a[href='#health']");
    browser.wait_text("#health-ground", "RabbitMQ");
    browser.wait_text("#health-ground", "PostgreSQL");
    browser.wait_text("#health-ready", "Everything is ready.");
    browser.picture("remote-health");
}
