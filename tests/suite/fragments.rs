//! What the page shows of schedules and ships, as a browser gets it over its WebSocket.

use std::collections::HashMap;
use std::net::{SocketAddr, TcpStream};
use std::time::{Duration, Instant};

use serde_json::{Value, json};
use tungstenite::client::IntoClientRequest;
use tungstenite::{Message, WebSocket};

use crate::harness::{Rig, connect, request};

/// A ship whose name would be markup, if nobody took care.
const HOSTILE: &str = "<script>alert(1)</script> \"&'";
const ESCAPED: &str = "&#60;script&#62;alert(1)&#60;/script&#62; &#34;&#38;&#39;";

/// How long a change is waited for.
const PATIENCE: Duration = Duration::from_secs(20);

/// A browser that looks at one thing.
struct Looker {
    socket: WebSocket<TcpStream>,
    /// What stands in each element.
    shown: HashMap<String, String>,
}

impl Looker {
    fn at(address: SocketAddr, text: &str) -> Self {
        let url = format!("ws://localhost:{}/page/live", address.port());
        let request = url.into_client_request().unwrap();
        let (mut socket, _) = tungstenite::client(request, connect(address)).unwrap();
        socket.send(Message::text(text)).unwrap();
        Self { socket, shown: HashMap::new() }
    }

    /// Waits until this element holds such a text; what it holds then.
    fn sees(&mut self, id: &str, wanted: &str) -> String {
        let deadline = Instant::now() + PATIENCE;
        loop {
            let html = self.shown.get(id);
            if let Some(html) = html.filter(|html| html.contains(wanted)) {
                return html.clone();
            }
            assert!(Instant::now() < deadline, "no {wanted} in {id}, but: {html:?}");
            let Message::Text(text) = self.socket.read().unwrap() else { continue };
            assert!(!text.contains("<script>"), "{text}");
            let Some((head, html)) = text.split_once('\n') else { continue };
            let (_, element) = head.split_once('#').unwrap();
            self.shown.insert(element.to_owned(), html.to_owned());
        }
    }
}

fn post(address: SocketAddr, path: &str, body: &Value) -> Value {
    let answer = request(address, "POST", path, &[], body.to_string().as_bytes());
    assert!(answer.status < 300, "{answer:?}");
    answer.json()
}

#[test]
fn a_schedule_is_shown_when_it_is_made_and_when_it_is_cancelled() {
    let rig = Rig::new();
    let server = rig.serve(&["server"]);
    let address = server.address();
    let mut all = Looker::at(address, "schedules");
    all.sees("schedules-list", "Nothing is scheduled yet");
    let far = json!({"ship_name": HOSTILE, "start_time": "2999-01-01T00:00:00Z", "duration": 60});
    let id = post(address, "/scheduler/", &far)["id"].as_str().unwrap().to_owned();
    let list = all.sees("schedules-list", "cancel-schedule");
    assert!(list.contains(ESCAPED), "{list}");
    let mut one = Looker::at(address, &format!("schedules?schedule={id}"));
    one.sees("schedules-one", "2999-01-01T00:00:00.000Z");
    let mut cancelled = Looker::at(address, "schedules?state=cancelled");
    cancelled.sees("schedules-list", "None is cancelled");
    post(address, &format!("/scheduler/{id}/cancel"), &Value::Null);
    all.sees("schedules-list", "–</span> cancelled");
    one.sees("schedules-one", "remove-schedule");
    cancelled.sees("schedules-list", ESCAPED);
    let again = json!({"kind": "echo", "cron": "0 0 1 1 *", "time_zone": "Europe/Berlin"});
    post(address, "/scheduler/", &again);
    all.sees("schedules-list", "0 0 1 1 * (Europe/Berlin)");
    all.sees("schedules-timeline", "");
    Looker::at(address, "schedules?schedule=none").sees("schedules-one", "no such schedule");
}

#[test]
fn the_times_of_what_recurs_are_shown_as_they_come() {
    let mut rig = Rig::new();
    rig.set("SCHEDULER_PORT", 0).set("SPACESHIP_PORT", 0);
    let up = rig.serve(&["up"]);
    let address = up.address();
    let again = json!({"kind": "echo", "payload": "<b>hello</b>", "every_seconds": 1});
    let id = post(address, "/scheduler/", &again)["id"].as_str().unwrap().to_owned();
    let mut one = Looker::at(address, &format!("schedules?schedule={id}&span=10m"));
    let html = one.sees("schedules-one", "finished</span> &#60;b&#62;hello");
    assert!(!html.contains("<b>hello"), "{html}");
    one.sees("schedules-timeline", "data-state=\"finished\"");
    up.stop();
}

#[test]
fn a_stream_a_capture_and_its_account_are_shown_as_they_go_on() {
    let mut rig = Rig::new();
    rig.set("SCHEDULER_PORT", 0).set("SPACESHIP_PORT", 0).set("STREAM_RATE", 50);
    let up = rig.serve(&["up"]);
    up.wait_log("running captures");
    let address = up.address();
    let mut ships = Looker::at(address, "ships");
    ships.sees("ships-streams", "Nothing streams now");
    ships.sees("ships-captures", "No capture has begun yet");
    let wish = json!({"host": "127.0.0.1", "port": 9999, "ship_name": HOSTILE, "rate": 1});
    let started = post(address, "/stream/", &wish);
    ships.sees("ships-streams", ESCAPED);
    let path = format!("/stream/{}", started["event_key"].as_str().unwrap());
    assert_eq!(request(address, "DELETE", &path, &[], b"").status, 200);
    ships.sees("ships-streams", "Nothing streams now");
    let every = json!({"ship_name": "TARDIS", "duration": 1, "every_seconds": 2});
    post(address, "/scheduler/", &every);
    ships.sees("ships-captures", "told when it has ended");
    let html = ships.sees("ships-captures", "title=\"sent\"");
    assert!(html.contains("title=\"lost\">0<"), "{html}");
    ships.sees("ships-list", "ship=TARDIS");
    let mut one = Looker::at(address, "ships?ship=TARDIS&span=5m");
    one.sees("ships-chart", "class=\"line two\"");
    Looker::at(address, "ships?ship=nobody").sees("ships-chart", "Nothing is stored of a ship");
    up.stop();
}

#[test]
fn where_no_spaceship_is_the_page_says_what_to_do() {
    let mut rig = Rig::new();
    rig.set("SPACESHIP_URL", "http://127.0.0.1:1");
    let server = rig.serve(&["server"]);
    let mut ships = Looker::at(server.address(), "ships");
    ships.sees("ships-streams", "start `spaceship`, or set SPACESHIP_URL");
    ships.sees("ships-list", "Nothing is stored of any ship yet");
}
