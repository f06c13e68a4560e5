//! A Chromium of a test's own, without a screen, and the program that drives it: WebDriver (W3C)
//! with the commands of Chromium's own protocol. Neither outlives the test.

use std::net::SocketAddr;
use std::process::Command;
use std::sync::{Condvar, Mutex};

use serde_json::{Value, json};
use tempfile::TempDir;

use crate::harness::{request, wait_for};
use crate::rabbitmq::node::Node;
use crate::rabbitmq::ports::free_port;

/// How many browsers run at once: each keeps a core busy while it starts.
const BROWSERS_MAX: usize = 2;

static BROWSERS: Mutex<usize> = Mutex::new(0);
static LEFT: Condvar = Condvar::new();

/// A place among the browsers that run at once.
struct Place;

impl Place {
    fn take() -> Self {
        let browsers = BROWSERS.lock().unwrap();
        *LEFT.wait_while(browsers, |browsers| *browsers >= BROWSERS_MAX).unwrap() += 1;
        Self
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        *BROWSERS.lock().unwrap() -= 1;
        LEFT.notify_one();
    }
}

/// A session of one browser.
pub(super) struct Driver {
    address: SocketAddr,
    session: String,
    // A driver that is killed takes its browser along: the pipe between them closes.
    _node: Node,
    _dir: TempDir,
    _place: Place,
}

impl Driver {
    pub(super) fn start() -> Self {
        let place = Place::take();
        let dir = tempfile::tempdir().unwrap();
        let address = SocketAddr::from(([127, 0, 0, 1], free_port()));
        let mut command = Command::new("chromedriver");
        command.arg(format!("--port={}", address.port()));
        command.env("PATH", std::env::var_os("PATH").unwrap());
        command.env("HOME", dir.path()).env("TMPDIR", dir.path());
        let node = Node::start(dir.path(), &command);
        wait_for("the driver of the browser", || {
            assert!(node.is_there(), "it ended; is the package chromium-driver installed?");
            std::net::TcpStream::connect(address).ok()
        });
        let profile = dir.path().join("profile");
        let mut driver =
            Self { address, session: String::new(), _node: node, _dir: dir, _place: place };
        let arguments = [
            "--headless=new",
            // What is opened is ours, and root has no sandbox.
            "--no-sandbox",
            "--remote-debugging-pipe",
            "--disable-gpu",
            "--disable-dev-shm-usage",
            "--disable-background-networking",
            "--disable-component-update",
            "--disable-breakpad",
            "--no-first-run",
            "--host-resolver-rules=MAP * ~NOTFOUND, EXCLUDE 127.0.0.1",
            &format!("--user-data-dir={}", profile.display()),
        ];
        let capabilities = json!({ "capabilities": { "alwaysMatch": {
            "browserName": "chrome",
            "goog:chromeOptions": { "binary": "/usr/bin/chromium", "args": arguments },
            "goog:loggingPrefs": { "browser": "ALL", "performance": "ALL" },
        } } });
        let session = driver.send("POST", "/session", &capabilities).unwrap();
        driver.session = session["sessionId"].as_str().unwrap().to_owned();
        driver
    }

    /// A command of the session: its value, or the driver's error.
    pub(super) fn ask(&self, line: &str, body: &Value) -> Result<Value, String> {
        let (method, path) = line.split_once(' ').unwrap();
        self.send(method, &format!("/session/{}{path}", self.session), body)
    }

    /// A command of the session that cannot fail.
    pub(super) fn command(&self, line: &str, body: &Value) -> Value {
        self.ask(line, body).unwrap_or_else(|error| panic!("{line} {body}: {error}"))
    }

    /// A command of Chromium's own protocol.
    pub(super) fn chromium(&self, name: &str, parameters: &Value) -> Value {
        self.command("POST /goog/cdp/execute", &json!({ "cmd": name, "params": parameters }))
    }

    fn send(&self, method: &str, path: &str, body: &Value) -> Result<Value, String> {
        let body = if method == "POST" { body.to_string() } else { String::new() };
        let headers = [("Content-Type", "application/json")];
        let answer = request(self.address, method, path, &headers, body.as_bytes());
        let value = answer.json()["value"].take();
        if answer.status == 200 {
            return Ok(value);
        }
        Err(format!("{}: {}", value["error"], value["message"]))
    }
}

impl Drop for Driver {
    fn drop(&mut self) {
        // Else it would write into a directory that is being removed.
        let _ended = self.ask("DELETE ", &Value::Null);
    }
}
