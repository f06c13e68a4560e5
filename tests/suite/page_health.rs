//! The Health view, as a browser gets it over its WebSocket: what runs and what is wrong is told
//! when it changes, unasked.

use std::net::{SocketAddr, TcpStream};

use serde_json::json;
use tungstenite::client::IntoClientRequest;
use tungstenite::{Message, WebSocket};

use crate::harness::{Rig, connect, request};

/// A browser that looks at the view.
struct Looker(WebSocket<TcpStream>);

impl Looker {
    fn at(server: SocketAddr) -> Self {
        let url = format!("ws://localhost:{}/page/live", server.port());
        let asked = url.into_client_request().unwrap();
        let (mut socket, _) = tungstenite::client(asked, connect(server)).unwrap();
        socket.send(Message::text("health")).unwrap();
        Self(socket)
    }

    /// Waits until the element with this id is told to hold what it should.
    fn wait(&mut self, id: &str, is_so: impl Fn(&str) -> bool) -> String {
        let head = format!("health#{id}\n");
        loop {
            let Message::Text(frame) = self.0.read().unwrap() else { continue };
            let Some(html) = frame.strip_prefix(&head) else { continue };
            if is_so(html) {
                return html.to_owned();
            }
        }
    }
}

#[test]
fn what_starts_is_told_and_what_is_killed_is_missed_at_once() {
    let rig = Rig::new();
    let server = rig.serve(&["server"]);
    let mut looker = Looker::at(server.address());
    let process = |command: &str, id: u32| format!("id=\"process-{command}-{id}\"");
    let running = looker.wait("health-running", |html| html.contains("absent-message-consumer"));
    assert!(running.contains(&process("server", server.id())), "{running}");
    assert!(running.contains(&format!("http://{}", server.address())), "{running}");
    let consumer = rig.start(&["message-consumer"]);
    let running = looker.wait("health-running", |html| html.contains("15 workers for 5 shards"));
    assert!(running.contains(&process("message-consumer", consumer.id())), "{running}");
    assert!(running.contains(rig.output().to_str().unwrap()), "{running}");
    assert!(!running.contains("absent-message-consumer"), "{running}");
    consumer.kill();
    let running = looker.wait("health-running", |html| html.contains("absent-message-consumer"));
    assert!(!running.contains("process-message-consumer"), "{running}");
    server.stop();
}

#[test]
fn a_scheduler_is_missed_when_schedules_recur_and_none_runs() {
    let rig = Rig::new();
    let (server, scheduler) = (rig.serve(&["server"]), rig.serve(&["scheduler"]));
    let mut looker = Looker::at(server.address());
    looker.wait("health-running", |html| !html.contains("absent-scheduler"));
    let hourly = json!({ "kind": "echo", "payload": "a", "every_seconds": 3600 }).to_string();
    let answer = request(scheduler.address(), "POST", "/scheduler/", &[], hourly.as_bytes());
    assert_eq!(answer.status, 201, "{answer:?}");
    scheduler.stop();
    looker
        .wait("health-running", |html| html.contains("nothing of them is started until one runs"));
    server.stop();
}

#[test]
fn what_makes_a_server_not_ready_is_told_with_its_reason() {
    let mut rig = Rig::new();
    rig.set("DISK_LOW_WATER_BYTES", u64::MAX);
    let server = rig.serve(&["server"]);
    let mut looker = Looker::at(server.address());
    let ready = looker.wait("health-ready", |html| html.contains("Not ready."));
    assert!(ready.contains("below the low-water mark"), "{ready}");
    server.stop();
}

#[test]
fn up_is_one_process_with_all_its_parts_and_everything_is_ready() {
    let rig = Rig::new();
    let up = rig.serve(&["up"]);
    let mut looker = Looker::at(up.address());
    looker.wait("health-ready", |html| html.contains("Everything is ready."));
    let parts = ["captures", "message-consumer", "scheduler", "server", "spaceship", "task-worker"];
    looker.wait("health-running", |html| {
        parts.iter().all(|part| html.contains(&format!("<dt>{part}</dt>")))
            && html.matches("<article").count() == 1
    });
    up.stop();
}
