//! All that spacecraft take: in one process or in several, with servers or without.

use std::collections::BTreeSet;
use std::net::SocketAddr;
use std::path::Path;
use std::sync::atomic::{AtomicUsize, Ordering::Relaxed};

use chrono::{DateTime, TimeDelta, Utc};
use serde_json::{Value, json};

use crate::harness::{Process, Rig, request, wait_for};
use crate::ships::redis_server::PrivateRedis;
use crate::ships::ship_lines;
use crate::{postgres, rabbitmq};

/// Makes a test of each function for each way in which spacecraft can be run.
macro_rules! everywhere {
    ($($test:ident),+ $(,)?) => {
        mod up {
            $(#[test] fn $test() { super::$test(super::Harbour::up()); })+
        }
        mod apart {
            $(#[test] fn $test() { super::$test(super::Harbour::apart()); })+
        }
        mod with_servers {
            $(#[test] fn $test() { super::$test(super::Harbour::with_servers()); })+
        }
    };
}
pub(super) use everywhere;

/// The services that run, and where they are asked.
pub(super) struct Harbour {
    pub(super) rig: Rig,
    pub(super) redis: Option<PrivateRedis>,
    is_up: bool,
    /// Who captures, before those who are stopped after it.
    processes: Vec<Process>,
    pub(super) scheduler: SocketAddr,
    pub(super) spaceship: SocketAddr,
}

impl Harbour {
    /// Everything in one process.
    pub(super) fn up() -> Self {
        Self::open(rig(), true, None)
    }

    /// A process for each service.
    pub(super) fn apart() -> Self {
        Self::open(rig(), false, None)
    }

    /// A process for each service, and between them RabbitMQ, PostgreSQL and Redis.
    pub(super) fn with_servers() -> Self {
        static NUMBERS: AtomicUsize = AtomicUsize::new(0);
        let (number, mut rig) = (NUMBERS.fetch_add(1, Relaxed), rig());
        let database = postgres::server::shared().database(&format!("spacecraft_{number}"));
        let vhost = rabbitmq::broker::shared().vhost(&format!("spacecraft-{number}"));
        let redis = PrivateRedis::start();
        rig.set("DATABASE_URL", database).set("RABBITMQ_URL", vhost);
        rig.set("REDIS_URL", redis.url());
        Self::open(rig, false, Some(redis))
    }

    fn open(rig: Rig, is_up: bool, redis: Option<PrivateRedis>) -> Self {
        let nowhere = SocketAddr::from(([127, 0, 0, 1], 0));
        let (processes, scheduler, spaceship) = (Vec::new(), nowhere, nowhere);
        let mut harbour = Self { rig, redis, is_up, processes, scheduler, spaceship };
        harbour.start();
        harbour
    }

    fn start(&mut self) {
        if self.is_up {
            let up = self.rig.start(&["up"]);
            self.scheduler = up.address_of("scheduler");
            self.spaceship = up.address_of("spaceship");
            up.wait_log("running captures");
            self.processes = vec![up];
            return;
        }
        let spaceship = self.rig.start(&["spaceship"]);
        self.spaceship = spaceship.address();
        self.rig.set("SPACESHIP_URL", format!("http://{}", self.spaceship));
        let (server, scheduler) = (self.rig.serve(&["server"]), self.rig.start(&["scheduler"]));
        self.scheduler = scheduler.address();
        let consumer = self.rig.start(&["message-consumer"]);
        consumer.wait_log("running captures");
        self.processes = vec![consumer, scheduler, server, spaceship];
    }

    /// Stops them in order, those that capture first. What streams nobody stopped.
    pub(super) fn stop(&mut self) {
        for (number, process) in std::mem::take(&mut self.processes).into_iter().enumerate() {
            process.stop();
            if number == 0 && !self.is_up {
                assert_eq!(self.streams()["number_of_active_streams"], 0, "{}", self.streams());
            }
        }
    }

    /// Stops all, and starts it again.
    pub(super) fn restart(&mut self) {
        self.stop();
        self.start();
    }

    pub(super) fn get(&self, path: &str) -> Value {
        let answer = request(self.scheduler, "GET", path, &[], b"");
        assert_eq!(answer.status, 200, "{path}: {answer:?}");
        answer.json()
    }

    /// Posts a schedule from the next moment on; what it was answered with. A moment that has
    /// passed when the request arrives is followed by a later one.
    pub(super) fn schedule(&self, body: impl Fn(DateTime<Utc>) -> Value) -> Value {
        for lead_seconds in [1, 2, 4, 8, 16] {
            let body = body(Utc::now() + TimeDelta::seconds(lead_seconds)).to_string();
            let answer = request(self.scheduler, "POST", "/scheduler/", &[], body.as_bytes());
            if answer.status == 201 {
                return answer.json();
            }
            let detail = answer.json()["detail"].as_str().unwrap().to_owned();
            assert!(detail.contains("in the future"), "{answer:?}");
        }
        panic!("no request arrives in time");
    }

    /// Schedules a capture from the next moment on; its id.
    pub(super) fn capture(&self, ship: &str, duration_seconds: u64) -> String {
        let created = self.schedule(|start| {
            let start_time = start.to_rfc3339();
            json!({"ship_name": ship, "start_time": start_time, "duration": duration_seconds})
        });
        created["id"].as_str().unwrap().to_owned()
    }

    /// The schedule, once it has ended.
    pub(super) fn ended(&self, id: &str) -> Value {
        wait_for(&format!("the end of schedule {id}"), || {
            let schedule = self.get(&format!("/scheduler/{id}"));
            let is_open = ["pending", "running", "active"].map(Value::from);
            (!is_open.contains(&schedule["state"])).then_some(schedule)
        })
    }

    pub(super) fn streams(&self) -> Value {
        request(self.spaceship, "GET", "/stream/", &[], b"").json()
    }

    /// Waits until a ship streams, and has sent something.
    pub(super) fn wait_stream(&self, ship: &str) -> Value {
        wait_for(&format!("a stream of {ship}"), || {
            let all = self.streams()["streams"].clone();
            let is_on = |stream: &&Value| {
                stream["ship_name"] == ship
                    && stream["state"] == "active"
                    && stream["sent"].as_u64().unwrap() > 0
            };
            all.as_array().unwrap().iter().find(is_on).cloned()
        })
    }

    /// Waits until no stream is on, and no process has a UDP port.
    pub(super) fn wait_quiet(&self) {
        wait_for("all streams to end and all ports to be closed", || {
            let ports = self.processes.iter().map(|process| udp_ports(process.id()).len());
            let is_quiet = self.streams()["number_of_active_streams"] == 0;
            (is_quiet && ports.sum::<usize>() == 0).then_some(())
        });
    }

    /// The UDP ports of the process that captures.
    pub(super) fn capture_ports(&self) -> BTreeSet<u16> {
        udp_ports(self.processes[0].id())
    }

    /// Checks an outcome's sum, and that it says what the spaceship does; what is stored of it.
    pub(super) fn check_outcome(&self, ship: &str, outcome: &Value) -> u64 {
        let count = |member: &str| outcome[member].as_u64().unwrap();
        let told = ["stored", "malformed", "truncated", "lost"].map(count);
        assert_eq!(count("sent"), told.iter().sum::<u64>(), "{outcome}");
        assert!(count("stored") > 0, "{outcome}");
        assert_eq!(outcome["ship_name"], ship);
        let key = outcome["event_key"].as_str().unwrap();
        let stream = request(self.spaceship, "GET", &format!("/stream/{key}"), &[], b"").json();
        assert_eq!((&stream["state"], &stream["reason"]), (&json!("ended"), &json!("stopped")));
        assert_eq!(stream["sent"], outcome["sent"]);
        count("stored")
    }

    /// Waits until `ship-data` prints these counts, and nothing else; files and Redis have as many.
    pub(super) fn wait_counts(&self, counts: &[(&str, u64)]) {
        let mut counts = counts.to_vec();
        counts.sort_unstable();
        let expected: String =
            counts.iter().map(|(ship, count)| format!("{ship}: {count}\n")).collect();
        let wait_printed = |arguments: &[&str]| {
            wait_for(&format!("{arguments:?} to print {expected}"), || {
                let printed = String::from_utf8(self.rig.run(arguments).stdout).unwrap();
                (printed == expected).then_some(())
            });
        };
        wait_printed(&["ship-data"]);
        let lines = ship_lines(&self.rig);
        let total: u64 = counts.iter().map(|(_, count)| count).sum();
        assert_eq!(u64::try_from(lines.len()).unwrap(), total);
        let distinct: BTreeSet<&String> = lines.iter().collect();
        assert_eq!(distinct.len(), lines.len(), "a datagram is stored twice");
        let Some(redis) = &self.redis else { return };
        wait_printed(&["ship-data", "--from-redis"]);
        for (ship, count) in counts {
            assert_eq!(redis.length(ship), count, "{ship}");
        }
    }
}

/// So that what is due is, and what is in files.
fn rig() -> Rig {
    let mut rig = Rig::new();
    rig.set("FILES_PER_SECOND", 0);
    rig
}

/// The UDP ports that a process has open, as the kernel says.
fn udp_ports(process: u32) -> BTreeSet<u16> {
    let folder = format!("/proc/{process}");
    let inode = |target: &Path| -> Option<String> {
        let socket = target.to_str()?.strip_prefix("socket:[")?.strip_suffix(']')?;
        Some(socket.to_owned())
    };
    let files = std::fs::read_dir(format!("{folder}/fd")).unwrap();
    let targets = files.filter_map(|file| std::fs::read_link(file.ok()?.path()).ok());
    let sockets: BTreeSet<String> = targets.filter_map(|target| inode(&target)).collect();
    let tables = ["udp", "udp6"]
        .map(|table| std::fs::read_to_string(format!("{folder}/net/{table}")).unwrap_or_default());
    let rows = tables.iter().flat_map(|table| table.lines().skip(1));
    let ports = rows.filter_map(|row| {
        let words: Vec<&str> = row.split_whitespace().collect();
        let port = words.get(1)?.rsplit(':').next()?;
        sockets.contains(*words.get(9)?).then(|| u16::from_str_radix(port, 16).unwrap())
    });
    ports.collect()
}
