//! `spaceship`, as R2's clients and as captures use it.

mod ends;
mod forward;
mod receiver;
mod requests;
mod streams;

use std::net::SocketAddr;

use serde_json::{Value, json};

use self::receiver::Receiver;
use crate::harness::{Answer, Process, Rig, request, wait_for};

/// A spaceship that runs.
struct Spaceship {
    process: Process,
    address: SocketAddr,
}

impl Spaceship {
    fn start(rig: &mut Rig) -> Self {
        rig.set("SPACESHIP_PORT", 0);
        let process = rig.serve(&["spaceship"]);
        let address = process.address();
        Self { process, address }
    }

    fn ask(&self, line: &str, body: &Value) -> Answer {
        let (method, path) = line.split_once(' ').unwrap();
        let body = if body.is_null() { String::new() } else { body.to_string() };
        request(self.address, method, path, &[], body.as_bytes())
    }

    /// A request that succeeds.
    fn told(&self, line: &str, body: &Value) -> Value {
        let answer = self.ask(line, body);
        assert_eq!(answer.status, 200, "{line} {body}: {answer:?}");
        answer.json()
    }

    /// A stream to a receiver, with these members beside; its key.
    fn stream(&self, receiver: &Receiver, members: &Value) -> String {
        let mut body = json!({"host": "127.0.0.1", "port": receiver.port()});
        body.as_object_mut().unwrap().extend(members.as_object().unwrap().clone());
        let started = self.told("POST /stream/", &body);
        assert_eq!(started["message"], "Communication started");
        started["event_key"].as_str().unwrap().to_owned()
    }

    fn show(&self, key: &str) -> Value {
        self.told(&format!("GET /stream/{key}"), &Value::Null)
    }

    /// Stops a stream.
    fn delete(&self, key: &str) -> Value {
        self.told(&format!("DELETE /stream/{key}"), &Value::Null)
    }

    fn active(&self) -> u64 {
        let list = self.told("GET /stream/", &Value::Null);
        let number = list["number_of_active_streams"].as_u64().unwrap();
        assert_eq!(list["streams"].as_array().unwrap().len() as u64, number);
        number
    }

    /// Waits until a stream has ended by itself.
    fn wait_ended(&self, key: &str) -> Value {
        wait_for("the end of a stream", || {
            Some(self.show(key)).filter(|stream| stream["state"] == "ended")
        })
    }
}
