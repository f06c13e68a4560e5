//! Every view in every light and at every width, and how soon the first of it is seen.

use super::House;
use super::screen::{Browser, DESK, PHONE};
use crate::harness::{entry, post_entries};

/// A house in which something has happened.
fn lively() -> House {
    let house = House::up();
    let entries: Vec<String> = (0..50).map(|second| entry(second, "hello")).collect();
    post_entries(house.address, &entries);
    house.order(2000);
    house.order(25);
    house
}

/// The views that the page offers.
fn views(browser: &Browser) -> Vec<String> {
    let links = browser.value("[...document.querySelectorAll('nav a')].map(link => link.hash)");
    let links = links.as_array().unwrap().iter().map(|link| link.as_str().unwrap());
    let views: Vec<String> = links.map(|link| link.trim_start_matches('#').to_owned()).collect();
    assert!(views.iter().any(|view| view == "calculations"), "{views:?}");
    views
}

/// Waits until everything that a view shows has come.
fn go_to(browser: &Browser, view: &str) {
    browser.click(&format!("nav a[href='#{view}']"));
    browser.wait_shown(&format!("#{view}"));
    browser.wait(&format!("!document.querySelector('#{view} .fragment .loading')"));
    browser.wait_live();
}

#[test]
fn every_view_is_readable_in_light_and_dark_on_a_desk_and_on_a_phone() {
    let house = lively();
    let browser = house.open("/");
    for (window, size) in [(DESK, "desk"), (PHONE, "phone")] {
        browser.resize(window);
        for scheme in ["light", "dark"] {
            browser.prefer("prefers-color-scheme", scheme);
            for view in views(&browser) {
                go_to(&browser, &view);
                browser.picture(&format!("{view}-{size}-{scheme}"));
                browser.audit(&format!("{view}, {size}, {scheme}"));
            }
        }
    }
}

#[test]
fn the_views_are_reached_with_the_keyboard_and_say_which_is_shown() {
    let house = lively();
    let browser = house.open("/");
    for view in views(&browser) {
        browser.tab_to(&format!("nav a[href='#{view}']"));
        browser.press(&[super::screen::ENTER]);
        browser.wait_shown(&format!("#{view}"));
        browser
            .wait(&format!("document.querySelector('nav [aria-current=page]').hash === '#{view}'"));
        let title = browser.value("document.title");
        assert!(title.as_str().unwrap().contains(" · "), "{title}");
    }
}

#[test]
fn the_first_words_are_seen() {
    let house = House::server();
    let browser = house.open("/");
    // The first load warms the browser.
    browser.reload();
    browser.wait_live();
    let paint =
        browser.wait("performance.getEntriesByName('first-contentful-paint')[0]?.startTime");
    let timing = |name: &str| {
        let entry = "performance.getEntriesByType('navigation')[0]";
        browser.value(&format!("{entry}.{name}")).as_f64().unwrap()
    };
    let after = paint.as_f64().unwrap() - timing("responseEnd");
    eprintln!("first contentful paint {after:.0} ms after the response (bar: 100 ms)");
}
