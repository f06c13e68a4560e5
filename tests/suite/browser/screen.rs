//! What a person does with the page, and sees of it.
//!
//! Whatever is awaited is awaited inside the browser, at each change of the document. In the end
//! each browser has shown no error and has asked no other server, or its test fails.

use std::cell::RefCell;
use std::net::SocketAddr;
use std::path::Path;

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use serde_json::{Value, json};

use super::driver::Driver;
use crate::harness::wait_for;

/// The name under which WebDriver passes an element on.
const ELEMENT: &str = "element-6066-11e4-a52e-4f735466cecf";

const CONTROL: &str = "\u{E009}";
const BACKSPACE: &str = "\u{E003}";
/// Lets go of what is held.
const RELEASED: &str = "\u{E000}";
pub(super) const TAB: &str = "\u{E004}";
pub(super) const ENTER: &str = "\u{E007}";
pub(super) const ESCAPE: &str = "\u{E00C}";

/// A window, in CSS pixels.
#[derive(Clone, Copy)]
pub(super) struct Window {
    pub(super) width: u32,
    pub(super) height: u32,
    pub(super) is_phone: bool,
}

pub(super) const DESK: Window = Window { width: 1280, height: 900, is_phone: false };
pub(super) const PHONE: Window = Window { width: 360, height: 740, is_phone: true };

/// A text as a script writes it.
pub(super) fn quoted(text: &str) -> String {
    Value::from(text).to_string()
}

/// A browser with its tabs.
pub(super) struct Browser {
    driver: Driver,
    /// Whose page is looked at.
    origin: String,
    /// Parts of errors in the console that are no failure.
    expected: RefCell<Vec<String>>,
}

impl Browser {
    /// Opens the page of a server.
    pub(super) fn open(address: SocketAddr, path: &str) -> Self {
        let (driver, origin) = (Driver::start(), format!("http://{address}"));
        let browser = Self { driver, origin, expected: RefCell::default() };
        browser.resize(DESK);
        browser.go(path);
        browser
    }

    /// Goes to a path of the same server.
    pub(super) fn go(&self, path: &str) {
        let url = format!("{}{path}", self.origin);
        self.driver.command("POST /url", &json!({ "url": url }));
    }

    pub(super) fn reload(&self) {
        self.driver.command("POST /refresh", &json!({}));
    }

    pub(super) fn resize(&self, window: Window) {
        let Window { width, height, is_phone } = window;
        let metrics = json!({
            "width": width, "height": height, "deviceScaleFactor": 1, "mobile": is_phone,
        });
        self.driver.chromium("Emulation.setDeviceMetricsOverride", &metrics);
    }

    /// As a reader whose system has these settings: `prefers-color-scheme`, `dark`.
    pub(super) fn prefer(&self, feature: &str, value: &str) {
        let features = json!({ "features": [{ "name": feature, "value": value }] });
        self.driver.chromium("Emulation.setEmulatedMedia", &features);
    }

    /// Moves the reader to another time zone.
    pub(super) fn move_to(&self, zone: &str) {
        self.driver.chromium("Emulation.setTimezoneOverride", &json!({ "timezoneId": zone }));
    }

    /// What a script returns.
    pub(super) fn script(&self, script: &str) -> Value {
        self.driver.command("POST /execute/sync", &json!({ "script": script, "args": [] }))
    }

    /// The value of an expression.
    pub(super) fn value(&self, expression: &str) -> Value {
        self.script(&format!("return ({expression});"))
    }

    /// Waits until an expression is true; its value. An expression that fails is not true yet.
    pub(super) fn wait(&self, expression: &str) -> Value {
        let script = format!(
            "const done = arguments[arguments.length - 1];
             const tried = () => {{ try {{ return ({expression}); }} catch {{ return null; }} }};
             const look = () => {{ const value = tried(); if (value) end(value); }};
             const end = value => {{
                 observer.disconnect(); clearInterval(often); clearTimeout(late); done(value);
             }};
             const observer = new MutationObserver(look);
             const often = setInterval(look, 20);
             const late = setTimeout(() => end(null), 1000);
             observer.observe(document, {{
                 subtree: true, childList: true, attributes: true, characterData: true,
             }});
             look();"
        );
        let body = json!({ "script": script, "args": [] });
        let what = format!("{expression} in the browser");
        wait_for(&what, || {
            // A page that is left takes its scripts along.
            let come = self.driver.ask("POST /execute/async", &body).unwrap_or_default();
            (!come.is_null()).then_some(come)
        })
    }

    /// Waits until the first element that a selector finds holds a text.
    pub(super) fn wait_text(&self, selector: &str, text: &str) {
        let (selector, text) = (quoted(selector), quoted(text));
        self.wait(&format!("document.querySelector({selector}).innerText.includes({text})"));
    }

    /// Waits until an element that a selector finds can be seen.
    pub(super) fn wait_shown(&self, selector: &str) {
        self.wait(&format!("document.querySelector({}).checkVisibility()", quoted(selector)));
    }

    /// Waits until the page is live.
    pub(super) fn wait_live(&self) {
        self.wait("document.querySelector('#link').dataset.state === 'live'");
    }

    pub(super) fn text(&self, selector: &str) -> String {
        let found = self.value(&format!("document.querySelector({}).innerText", quoted(selector)));
        found.as_str().unwrap().to_owned()
    }

    pub(super) fn count(&self, selector: &str) -> u64 {
        let found = format!("document.querySelectorAll({}).length", quoted(selector));
        self.value(&found).as_u64().unwrap()
    }

    /// Does something with an element as soon as that can be done: it is there, can be seen, and is
    /// not covered or replaced by another in between.
    fn act(&self, element: &str, action: &str, body: &Value) {
        let mut refused = String::new();
        wait_for(&format!("{action} on {element}"), || {
            let found = self.wait(element);
            let id = found[ELEMENT].as_str().unwrap_or_else(|| panic!("no element: {element}"));
            let done = self.driver.ask(&format!("POST /element/{id}/{action}"), body);
            if let Err(error) = &done {
                let passing = ["stale", "intercepted", "not interactable", "no such element"];
                assert!(passing.iter().any(|kind| error.contains(kind)), "{error}");
                refused.clone_from(error);
            }
            done.ok()
        });
    }

    pub(super) fn click(&self, selector: &str) {
        self.act(&first(selector), "click", &json!({}));
    }

    /// Clicks the element that a selector finds and that says just this.
    pub(super) fn click_text(&self, selector: &str, text: &str) {
        self.act(&saying(selector, text), "click", &json!({}));
    }

    /// Types at the end of a field.
    pub(super) fn type_into(&self, selector: &str, text: &str) {
        self.act(&first(selector), "value", &json!({ "text": text }));
    }

    /// Empties a field and types.
    pub(super) fn fill(&self, selector: &str, text: &str) {
        self.type_into(selector, &format!("{CONTROL}a{RELEASED}{BACKSPACE}{text}"));
    }

    /// Chooses an option of a list by its value.
    pub(super) fn choose(&self, selector: &str, value: &str) {
        self.click(&format!("{selector} option[value={}]", quoted(value)));
    }

    /// Presses keys one after the other, whatever has the focus.
    pub(super) fn press(&self, keys: &[&str]) {
        let strokes = keys.iter().flat_map(|key| [stroke("keyDown", key), stroke("keyUp", key)]);
        self.strokes(strokes.collect());
    }

    /// Goes with the Tab key until what a selector finds has the focus, which is seen all the way.
    pub(super) fn tab_to(&self, selector: &str) {
        let is_there = format!("document.activeElement.matches({})", quoted(selector));
        // Of a time the browser itself marks the part that has it.
        let is_seen = "(element => element.type === 'datetime-local' \
                       || getComputedStyle(element).outlineStyle !== 'none') \
                       (document.activeElement)";
        for _ in 0..100 {
            self.press(&[TAB]);
            let is_in = self.value("document.activeElement !== document.body");
            if is_in == true {
                let focused = self.value("document.activeElement.outerHTML.slice(0, 200)");
                assert_eq!(self.value(is_seen), true, "the focus cannot be seen on {focused}");
            }
            if self.value(&is_there) == true {
                return;
            }
        }
        panic!("the Tab key does not lead to {selector}");
    }

    fn strokes(&self, strokes: Vec<Value>) {
        let keyboard = json!({ "type": "key", "id": "keyboard", "actions": strokes });
        self.driver.command("POST /actions", &json!({ "actions": [keyboard] }));
    }

    /// Opens another tab, and works in it from now on; its handle.
    pub(super) fn open_tab(&self, path: &str) -> String {
        let opened = self.driver.command("POST /window/new", &json!({ "type": "tab" }));
        let handle = opened["handle"].as_str().unwrap().to_owned();
        self.switch_to(&handle);
        self.resize(DESK);
        self.go(path);
        handle
    }

    /// The tab that is worked in.
    pub(super) fn tab(&self) -> String {
        self.driver.command("GET /window", &json!({})).as_str().unwrap().to_owned()
    }

    pub(super) fn switch_to(&self, tab: &str) {
        self.driver.command("POST /window", &json!({ "handle": tab }));
    }

    /// The answer to the next request that the page makes is lost; `window.answers` counts them.
    pub(super) fn lose_an_answer(&self) {
        self.script(
            "const real = window.fetch;
             window.answers = 0;
             window.fetch = async (...asked) => {
               const got = await real(...asked);
               window.answers += 1;
               if (window.answers === 1) throw new TypeError('the answer is lost');
               return got;
             };",
        );
    }

    /// Lets the page use the clipboard, as a person is asked to.
    pub(super) fn let_copy(&self) {
        let permissions = ["clipboardReadWrite", "clipboardSanitizedWrite"];
        let granted = json!({ "origin": self.origin, "permissions": permissions });
        self.driver.chromium("Browser.grantPermissions", &granted);
    }

    /// Where downloads go from now on.
    pub(super) fn download_to(&self, folder: &Path) {
        let chosen = json!({ "behavior": "allow", "downloadPath": folder });
        self.driver.chromium("Browser.setDownloadBehavior", &chosen);
    }

    /// Fails if something that is shown cannot be read, named, or does not fit.
    pub(super) fn audit(&self, what: &str) {
        let findings = self.script(include_str!("audit.js"));
        assert_eq!(findings, json!([]), "{what}: {findings:#}");
    }

    /// Keeps a picture of the window in the directory that `ADP_SCREENSHOTS` names, if any.
    pub(super) fn picture(&self, name: &str) {
        let Some(folder) = std::env::var_os("ADP_SCREENSHOTS") else { return };
        let taken = self.driver.command("GET /screenshot", &json!({}));
        let bytes = STANDARD.decode(taken.as_str().unwrap()).unwrap();
        let folder = Path::new(&folder);
        std::fs::create_dir_all(folder).unwrap();
        std::fs::write(folder.join(format!("{name}.png")), bytes).unwrap();
    }

    /// An error in the console that holds this text is what the test is about.
    pub(super) fn expect_error(&self, text: &str) {
        self.expected.borrow_mut().push(text.to_owned());
    }

    /// What the browser has logged since it was last asked.
    fn log(&self, kind: &str) -> Vec<Value> {
        let log = self.driver.command("POST /se/log", &json!({ "type": kind }));
        log.as_array().unwrap().clone()
    }

    /// Fails if the console shows an error, or if anything was asked of anybody else.
    fn check(&self) {
        let is_expected = |text: &str| {
            self.expected.borrow().iter().any(|expected| text.contains(expected.as_str()))
        };
        for entry in self.log("browser") {
            let (level, text) = (&entry["level"], entry["message"].as_str().unwrap());
            let is_wrong = [json!("SEVERE"), json!("WARNING")].contains(level);
            assert!(!is_wrong || is_expected(text), "in the console: {level} {text}");
        }
        for entry in self.log("performance") {
            let message: Value = serde_json::from_str(entry["message"].as_str().unwrap()).unwrap();
            let message = &message["message"];
            let url = match message["method"].as_str().unwrap() {
                "Network.requestWillBeSent" => &message["params"]["request"]["url"],
                "Network.webSocketCreated" => &message["params"]["url"],
                _ => continue,
            };
            let url = url.as_str().unwrap();
            assert!(self.is_own(url), "asked of somebody else: {url}");
        }
    }

    fn is_own(&self, url: &str) -> bool {
        let host = self.origin.strip_prefix("http://").unwrap();
        let schemes = ["http://", "ws://", "blob:http://"];
        let rest = schemes.iter().find_map(|scheme| url.strip_prefix(scheme));
        // What a new tab shows; nothing of it is asked of anybody.
        let is_nothing = ["about:", "data:", "chrome:"].iter().any(|none| url.starts_with(none));
        is_nothing || rest.is_some_and(|rest| rest.split('/').next() == Some(host))
    }
}

impl Drop for Browser {
    #[expect(clippy::print_stderr, reason = "it tells what the failed test has seen")]
    fn drop(&mut self) {
        if std::thread::panicking() {
            let console: Vec<_> = self.log("browser");
            eprintln!("the console of the browser: {console:#?}");
            self.picture(std::thread::current().name().unwrap_or("failed"));
        } else {
            self.check();
        }
    }
}

/// The first element that a selector finds, as an expression.
fn first(selector: &str) -> String {
    format!("document.querySelector({})", quoted(selector))
}

/// The first element that a selector finds, that can be seen and says just this.
pub(super) fn saying(selector: &str, text: &str) -> String {
    let (selector, text) = (quoted(selector), quoted(text));
    format!(
        "[...document.querySelectorAll({selector})].find(element => \
         element.checkVisibility() && element.innerText.trim() === {text})"
    )
}

fn stroke(kind: &str, key: &str) -> Value {
    json!({ "type": kind, "value": key })
}
