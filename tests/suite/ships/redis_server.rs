//! A Redis of the tests' own: Debian's, in a temporary directory, on a port of its own.

use std::fs;
use std::process::Command;
use std::sync::Mutex;

use rustix::process::{Signal, kill_process};
use tempfile::TempDir;

use crate::harness::wait_for;
use crate::rabbitmq::node::Node;
use crate::rabbitmq::ports::free_port;

const PASSWORD: &str = "s3cret";

/// A server, which runs or does not; killed when dropped.
pub(crate) struct PrivateRedis {
    dir: TempDir,
    port: u16,
    persists: bool,
    node: Mutex<Option<Node>>,
}

impl PrivateRedis {
    /// One that keeps what it has answered.
    pub(crate) fn start() -> Self {
        let redis = Self::stopped(true);
        redis.start_again();
        redis
    }

    /// One that is not started yet.
    pub(crate) fn stopped(persists: bool) -> Self {
        let dir = tempfile::tempdir().unwrap();
        Self { dir, port: free_port(), persists, node: Mutex::new(None) }
    }

    /// Starts it on its port and what it had stored.
    pub(crate) fn start_again(&self) {
        let mut node = self.node.lock().unwrap();
        assert!(node.is_none(), "the server runs");
        let data = self.dir.path().join("data");
        fs::create_dir_all(&data).unwrap();
        let mut command = Command::new("redis-server");
        command.args(["--bind", "127.0.0.1", "--port", &self.port.to_string()]);
        command.args(["--requirepass", PASSWORD, "--save", "", "--appendfsync", "always"]);
        command.args(["--appendonly", if self.persists { "yes" } else { "no" }]);
        command.arg("--dir").arg(data).env("PATH", std::env::var_os("PATH").unwrap());
        let started = Node::start(self.dir.path(), &command);
        wait_for("the server to answer", || {
            let log = || fs::read_to_string(self.dir.path().join("out")).unwrap_or_default();
            assert!(started.is_there(), "the server ended while it started:\n{}", log());
            (self.ask(0, &["PING"]) == "PONG").then_some(())
        });
        *node = Some(started);
    }

    pub(crate) fn kill(&self) {
        self.node.lock().unwrap().take().unwrap().end(Signal::KILL);
    }

    /// It stands still, its connections stay open.
    pub(crate) fn pause(&self) {
        kill_process(self.node.lock().unwrap().as_ref().unwrap().pid, Signal::STOP).unwrap();
    }

    pub(crate) fn resume(&self) {
        kill_process(self.node.lock().unwrap().as_ref().unwrap().pid, Signal::CONT).unwrap();
    }

    pub(crate) fn url(&self) -> String {
        format!("redis://:{PASSWORD}@127.0.0.1:{}", self.port)
    }

    /// What a command answers, as text: a line for each element.
    pub(crate) fn ask(&self, database: u8, command: &[&str]) -> String {
        let mut cli = Command::new("redis-cli");
        cli.args(["-p", &self.port.to_string(), "-n", &database.to_string(), "--raw"]);
        let output = cli.env("REDISCLI_AUTH", PASSWORD).args(command).output().unwrap();
        String::from_utf8(output.stdout).unwrap().trim_end().to_owned()
    }

    /// The list of a ship, from its first element on.
    pub(crate) fn list(&self, ship: &str) -> Vec<String> {
        self.ask(1, &["LRANGE", ship, "0", "-1"]).lines().map(str::to_owned).collect()
    }

    pub(crate) fn length(&self, ship: &str) -> u64 {
        self.ask(1, &["LLEN", ship]).parse().unwrap_or(0)
    }

    /// How many datagrams of a ship were pushed, ever.
    pub(crate) fn count(&self, ship: &str) -> u64 {
        self.ask(0, &["HGET", "async-data-processor:ships", ship]).parse().unwrap_or(0)
    }
}
