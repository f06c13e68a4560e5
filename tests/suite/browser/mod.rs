//! The page as a person uses it, in a real browser.
//!
//! `ADP_SCREENSHOTS=folder` keeps pictures of each view.

mod calculations;
mod docs;
mod driver;
mod health;
mod live;
mod pipeline;
mod remote;
mod schedules;
mod screen;
mod ships;
mod tokens;
mod views;

use std::net::SocketAddr;

use self::screen::Browser;
use crate::harness::{Process, Rig, request};
use crate::rabbitmq::ports::free_port;

/// What would run if a text were taken for HTML, an attribute or a script; and what turns the text
/// beside it around, or is longer than any place for it.
fn hostile_texts() -> Vec<String> {
    let [image, script] = [
        "<img src=x onerror=\"window.wasHurt=1\">",
        "</td></script><script>window.wasHurt=1</script>",
    ];
    let quotes = "\" onmouseover=\"window.wasHurt=1\" '`{{7*7}}&lt;";
    let turned = "\u{202E}gnp.exe \u{5E9}\u{5DC}\u{5D5}\u{5DD} \u{1F680}";
    [image, script, quotes, turned].map(str::to_owned).into_iter().collect()
}

/// Processes on a port that they come back to.
struct House {
    rig: Rig,
    command: &'static str,
    process: Option<Process>,
    address: SocketAddr,
}

impl House {
    /// All services in one process.
    fn up() -> Self {
        Self::start(Rig::new(), "up")
    }

    /// A server, and nobody who works.
    fn server() -> Self {
        Self::start(Rig::new(), "server")
    }

    fn start(mut rig: Rig, command: &'static str) -> Self {
        let address = SocketAddr::from(([127, 0, 0, 1], free_port()));
        rig.set("PORT", address.port());
        let process = Some(rig.serve(&[command]));
        Self { rig, command, process, address }
    }

    fn stop(&mut self) {
        self.process.take().unwrap().stop();
    }

    fn start_again(&mut self) {
        self.process = Some(self.rig.serve(&[self.command]));
    }

    /// The page, as soon as it is live.
    fn open(&self, path: &str) -> Browser {
        let browser = Browser::open(self.address, path);
        browser.wait_live();
        browser
    }

    /// Asks the API as somebody else; the answer's JSON.
    fn ask(&self, line: &str, body: &str) -> serde_json::Value {
        let (method, path) = line.split_once(' ').unwrap();
        let headers = [("Content-Type", "application/json")];
        let answer = request(self.address, method, path, &headers, body.as_bytes());
        assert!((200..300).contains(&answer.status), "{line}: {answer:?}");
        answer.json()
    }

    /// Orders a factorial as somebody else; its id.
    fn order(&self, input: u64) -> String {
        let ordered = self.ask("POST /factorial", &format!("{{\"input\":{input}}}"));
        ordered["id"].as_str().unwrap().to_owned()
    }
}
