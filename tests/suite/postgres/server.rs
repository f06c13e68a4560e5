//! A PostgreSQL of the tests' own: Debian's, in a temporary directory, on a port of its own.
//!
//! It refuses to run as root; a test process that does lends it a user.

use std::fs;
use std::os::unix::fs::{PermissionsExt, chown};
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::{Mutex, OnceLock};

use rustix::process::{Pid, Signal, getuid, kill_process};
use tempfile::TempDir;

use crate::harness::wait_for;
use crate::rabbitmq::certificates::Certificates;
use crate::rabbitmq::node::Node;
use crate::rabbitmq::ports::free_port;

const INSTALLED_IN: &str = "/usr/lib/postgresql";
pub(crate) const PASSWORD: &str = "s3cret";

/// The server of all tests that leave it in peace: each takes a [`PrivatePostgres::database`] of
/// its own. It ends with the test process.
pub(crate) fn shared() -> &'static PrivatePostgres {
    static SHARED: OnceLock<PrivatePostgres> = OnceLock::new();
    SHARED.get_or_init(PrivatePostgres::start)
}

/// A running server; killed when dropped.
pub(crate) struct PrivatePostgres {
    dir: TempDir,
    port: u16,
    node: Mutex<Option<Node>>,
}

/// Where the server's programs are.
fn binary(name: &str) -> PathBuf {
    let versions = fs::read_dir(INSTALLED_IN).unwrap();
    let bins = versions.map(|entry| entry.unwrap().path().join("bin").join(name));
    bins.filter(|path| path.exists()).max().unwrap()
}

/// The user and group that a program of the server is to have, if not those of the test.
fn user() -> Option<(u32, u32)> {
    if !getuid().is_root() {
        return None;
    }
    let id = |flag| {
        let printed = Command::new("id").args([flag, "postgres"]).output().unwrap().stdout;
        String::from_utf8(printed).unwrap().trim().parse().unwrap()
    };
    Some((id("-u"), id("-g")))
}

/// A program of the server, run as it wants to be.
fn program(name: &str, dir: &Path) -> Command {
    let mut command = match user() {
        Some((user, group)) => {
            let mut command = Command::new("setpriv");
            command.args([format!("--reuid={user}"), format!("--regid={group}")]);
            command.arg("--clear-groups").arg(binary(name));
            command
        }
        None => Command::new(binary(name)),
    };
    command.env_clear().env("PATH", std::env::var_os("PATH").unwrap());
    command.env("LC_ALL", "C.UTF-8").current_dir(dir);
    command
}

/// Hands a file over to the server.
fn give(path: &Path, mode: u32) {
    fs::set_permissions(path, fs::Permissions::from_mode(mode)).unwrap();
    if let Some((user, group)) = user() {
        chown(path, Some(user), Some(group)).unwrap();
    }
}

impl PrivatePostgres {
    pub(crate) fn start() -> Self {
        Self::with_config("")
    }

    /// Speaks TLS too, and shows this certificate.
    pub(crate) fn with_tls(certificate: &Path, key: &Path) -> Self {
        let config = "ssl = on\nssl_cert_file = '../server.pem'\nssl_key_file = '../key.pem'\n";
        Self::with_files(config, &[(certificate, "server.pem"), (key, "key.pem")])
    }

    /// With more lines in `postgresql.conf`.
    pub(crate) fn with_config(config: &str) -> Self {
        Self::with_files(config, &[])
    }

    fn with_files(config: &str, files: &[(&Path, &str)]) -> Self {
        let dir = tempfile::tempdir().unwrap();
        give(dir.path(), 0o700);
        for (from, name) in files {
            fs::copy(from, dir.path().join(name)).unwrap();
            give(&dir.path().join(name), 0o600);
        }
        let password = dir.path().join("password");
        fs::write(&password, PASSWORD).unwrap();
        give(&password, 0o600);
        let mut initdb = program("initdb", dir.path());
        initdb.args(["--no-sync", "-U", "tests", "-A", "scram-sha-256", "-E", "UTF8"]);
        initdb.args(["--locale=C.UTF-8", "--pwfile=password", "-D", "data"]);
        let made = initdb.output().unwrap();
        assert!(made.status.success(), "{made:?}");
        let port = free_port();
        let sockets = dir.path().display();
        let common = format!(
            "port = {port}\nlisten_addresses = '127.0.0.1'\nunix_socket_directories = '{sockets}'\n\
             fsync = on\nmax_connections = 200\nshared_buffers = '64MB'\nwal_level = minimal\n\
             max_wal_senders = 0\nlog_line_prefix = '%m [%p] '\n"
        );
        let file = dir.path().join("data/postgresql.auto.conf");
        fs::write(&file, common + config).unwrap();
        give(&file, 0o600);
        let server = Self { dir, port, node: Mutex::new(None) };
        server.start_again();
        server
    }

    /// Starts it on its port and what it had stored, after [`Self::kill`] or [`Self::stop`].
    pub(crate) fn start_again(&self) {
        let mut node = self.node.lock().unwrap();
        assert!(node.is_none(), "the server runs");
        let mut command = program("postgres", self.dir.path());
        command.args(["-D", "data"]);
        let started = Node::start(self.dir.path(), &command);
        wait_for("the server to take connections", || {
            assert!(started.is_there(), "the server ended while it started:\n{}", self.log());
            self.psql("postgres", "SELECT 1").ok()
        });
        *node = Some(started);
    }

    /// A new and empty database, of small letters, digits and underscores; its URL.
    pub(crate) fn database(&self, name: &str) -> String {
        self.sql("postgres", &format!("CREATE DATABASE {name}"));
        self.url(name)
    }

    pub(crate) fn url(&self, database: &str) -> String {
        format!("postgres://tests:{PASSWORD}@127.0.0.1:{}/{database}", self.port)
    }

    /// The same by way of the Unix socket.
    pub(crate) fn socket_url(&self, database: &str) -> String {
        let path = self.dir.path().display().to_string().replace('/', "%2F");
        format!("postgres://tests:{PASSWORD}@{path}:{}/{database}", self.port)
    }

    pub(crate) fn port(&self) -> u16 {
        self.port
    }

    fn psql(&self, database: &str, sql: &str) -> Result<String, String> {
        let mut psql = Command::new("psql");
        psql.args(["-XAtq", "-v", "ON_ERROR_STOP=1", "-c", sql, &self.url(database)]);
        let output = psql.output().unwrap();
        let text = |bytes| String::from_utf8(bytes).unwrap().trim_end().to_owned();
        if output.status.success() { Ok(text(output.stdout)) } else { Err(text(output.stderr)) }
    }

    /// What a statement gives, as text.
    pub(crate) fn sql(&self, database: &str, sql: &str) -> String {
        self.psql(database, sql).unwrap()
    }

    /// Ends it at once, as a power cut ends the processes.
    pub(crate) fn kill(&self) {
        let node = self.node.lock().unwrap().take().unwrap();
        // None may stay behind: it would hold the shared memory that the next start needs.
        let children = children(node.pid);
        node.end(Signal::KILL);
        for child in &children {
            let _gone = kill_process(*child, Signal::KILL);
        }
        wait_for("the end of its processes", || children.iter().all(has_ended).then_some(()));
    }

    /// Ends it in order, whoever is connected.
    pub(crate) fn stop(&self) {
        self.node.lock().unwrap().take().unwrap().end(Signal::INT);
    }

    /// It stands still, its connections stay open.
    pub(crate) fn pause(&self) {
        self.signal(Signal::STOP);
    }

    pub(crate) fn resume(&self) {
        self.signal(Signal::CONT);
    }

    fn signal(&self, signal: Signal) {
        let pid = self.node.lock().unwrap().as_ref().unwrap().pid;
        kill_process(pid, signal).unwrap();
        // It starts no others while it stands still.
        for child in children(pid) {
            let _gone = kill_process(child, signal);
        }
    }

    /// Closes the connections of a database, as an operator does.
    pub(crate) fn close_connections(&self, database: &str) {
        let close = "SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE datname";
        self.sql("postgres", &format!("{close} = '{database}'"));
    }

    /// The end of what it has said: a test that fails for its sake shows it.
    pub(crate) fn log(&self) -> String {
        let log = fs::read(self.dir.path().join("out")).unwrap_or_default();
        String::from_utf8_lossy(&log[log.len().saturating_sub(4_000)..]).into_owned()
    }
}

fn children(parent: Pid) -> Vec<Pid> {
    let parent = parent.as_raw_nonzero();
    let path = format!("/proc/{parent}/task/{parent}/children");
    let children = fs::read_to_string(path).unwrap_or_default();
    children.split_whitespace().filter_map(|pid| Pid::from_raw(pid.parse().unwrap())).collect()
}

fn has_ended(process: &Pid) -> bool {
    let stat = fs::read_to_string(format!("/proc/{}/stat", process.as_raw_nonzero()));
    stat.map_or(true, |stat| stat.contains(") Z "))
}

/// Certificates in a directory of their own.
pub(crate) fn certificates() -> (TempDir, Certificates) {
    let dir = tempfile::tempdir().unwrap();
    let certificates = Certificates::in_dir(dir.path());
    (dir, certificates)
}
