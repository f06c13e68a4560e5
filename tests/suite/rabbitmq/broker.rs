//! A RabbitMQ of the tests' own: Debian's, in a temporary directory, on ports of its own.
//!
//! It needs neither root nor the service nor `epmd`. Its Erlang is asked through `erl_call`, which
//! takes milliseconds where `rabbitmqctl` takes a second.

use std::fmt::Write as _;
use std::fs;
use std::io::{Read, Write};
use std::net::TcpStream;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::sync::atomic::{AtomicUsize, Ordering::Relaxed};
use std::sync::{Mutex, OnceLock};
use std::time::Duration;

use rustix::process::{Signal, kill_process};
use tempfile::TempDir;

use super::certificates::Certificates;
use super::node::Node;
use super::ports::free_port;
use crate::harness::wait_for;

/// What the broker is asked with, known only to it and to its test.
const COOKIE: &str = "asyncdataprocessor";
const INSTALLED_IN: &str = "/usr/lib/rabbitmq/lib";

/// The broker of all tests that leave it in peace: each takes a [`PrivateBroker::vhost`] of its
/// own. It ends with the test process.
pub(crate) fn shared() -> &'static PrivateBroker {
    static SHARED: OnceLock<PrivateBroker> = OnceLock::new();
    SHARED.get_or_init(PrivateBroker::start)
}

/// A running broker; killed when dropped.
pub(crate) struct PrivateBroker {
    dir: TempDir,
    port: u16,
    tls_port: Option<u16>,
    erlang_port: u16,
    node: Mutex<Option<Node>>,
}

/// How many messages a queue holds.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Depth {
    pub(crate) ready: u64,
    pub(crate) unacknowledged: u64,
}

impl PrivateBroker {
    pub(crate) fn start() -> Self {
        Self::with_config("", None)
    }

    /// Listens with TLS too, see [`Self::tls_url`], and refuses clients without a certificate there
    /// if `demand_client_certificate`.
    pub(crate) fn with_tls(certificates: &Certificates, demand_client_certificate: bool) -> Self {
        let port = free_port();
        let Certificates { ca, server, server_key, .. } = certificates;
        let verify = if demand_client_certificate { "verify_peer" } else { "verify_none" };
        let config = format!(
            r#", {{ssl_listeners, [{{"127.0.0.1", {port}}}]}}, {{ssl_options, [
                {{cacertfile, {ca:?}}}, {{certfile, {server:?}}}, {{keyfile, {server_key:?}}},
                {{verify, {verify}}}, {{fail_if_no_peer_cert, {demand_client_certificate}}}]}}"#
        );
        Self::with_config(&config, Some(port))
    }

    /// With more settings of the application `rabbit`, as Erlang terms with a leading comma.
    fn with_config(config: &str, tls_port: Option<u16>) -> Self {
        let dir = tempfile::tempdir().unwrap();
        let (port, erlang_port) = (free_port(), free_port());
        let config = format!(
            r#"[{{rabbit, [{{tcp_listeners, [{{"127.0.0.1", {port}}}]}},
                {{disk_free_limit, 1000000}},
                {{log, [{{console, [{{enabled, false}}]}},
                        {{file, [{{file, "broker.log"}}]}}]}}{config}]}}]."#
        );
        fs::write(dir.path().join("rabbitmq.config"), config).unwrap();
        fs::write(dir.path().join("enabled_plugins"), "[].").unwrap();
        link_libraries(&dir.path().join("libraries"));
        let broker = Self { dir, port, tls_port, erlang_port, node: Mutex::new(None) };
        broker.start_again();
        broker
    }

    /// Starts it on its ports and what it had stored, after [`Self::kill`] or [`Self::stop`].
    pub(crate) fn start_again(&self) {
        let mut node = self.node.lock().unwrap();
        assert!(node.is_none(), "the broker runs");
        let started = Node::start(self.dir.path(), &self.erlang());
        wait_for("the broker to listen", || {
            assert!(started.is_there(), "the broker ended while it started:\n{}", self.log());
            greets(self.port).then_some(())
        });
        *node = Some(started);
    }

    /// `erl` with what makes it this broker, as `rabbitmq-server` does it.
    fn erlang(&self) -> Command {
        let mut command = Command::new("erl");
        // Two schedulers that never spin; a signal from the terminal is not for it.
        command.args("-noinput +B i +S 2:2 +sbwt none +sbwtdcpu none +sbwtdio none".split(' '));
        command.args("-boot start_sasl -s rabbit boot -sname rabbit@localhost".split(' '));
        command.args("-syslog logger [] -syslog syslog_error_logger false".split(' '));
        command.args(["-setcookie", COOKIE, "-start_epmd", "false"]);
        command.args(["-erl_epmd_port", &self.erlang_port.to_string()]);
        command.args(["-kernel", "inet_dist_use_interface", "{127,0,0,1}"]);
        let dir = self.dir.path();
        command.env_clear().env("PATH", std::env::var_os("PATH").unwrap());
        command.env("LC_ALL", "C.UTF-8").env("HOME", dir).current_dir(dir);
        command.env("RABBITMQ_NODENAME", "rabbit@localhost");
        command.env("RABBITMQ_CONF_ENV_FILE", "/dev/null");
        for (name, file) in [
            ("ERL_LIBS", "libraries"),
            ("RABBITMQ_PLUGINS_DIR", "libraries"),
            ("RABBITMQ_MNESIA_BASE", "data"),
            ("RABBITMQ_LOG_BASE", "log"),
            ("RABBITMQ_CONFIG_FILE", "rabbitmq.config"),
            ("RABBITMQ_ADVANCED_CONFIG_FILE", "none.config"),
            ("RABBITMQ_ENABLED_PLUGINS_FILE", "enabled_plugins"),
        ] {
            command.env(name, dir.join(file));
        }
        command
    }

    /// Its default virtual host.
    pub(crate) fn url(&self) -> String {
        format!("amqp://guest:guest@127.0.0.1:{}/%2f", self.port)
    }

    /// The same with TLS, by a name that its certificate holds.
    pub(crate) fn tls_url(&self) -> String {
        let port = self.tls_port.unwrap();
        format!("amqps://guest:guest@localhost:{port}/%2f")
    }

    pub(crate) fn port(&self) -> u16 {
        self.port
    }

    /// Makes a virtual host, of letters, digits and hyphens; its URL.
    pub(crate) fn vhost(&self, name: &str) -> String {
        let done = self.eval(&format!(
            r#"ok = rabbit_vhost:add(<<"{name}">>, <<"test">>),
            rabbit_auth_backend_internal:set_permissions(
                <<"guest">>, <<"{name}">>, <<".*">>, <<".*">>, <<".*">>, <<"test">>)"#
        ));
        assert_eq!(done, "ok");
        format!("amqp://guest:guest@127.0.0.1:{}/{name}", self.port)
    }

    /// Evaluates Erlang in the broker, which is all that `rabbitmqctl` does; the value as text.
    pub(crate) fn eval(&self, erlang: &str) -> String {
        let mut command = Command::new("erl_call");
        // Two callers of one name at once would be refused, and the random names of -r are few.
        static CALLS: AtomicUsize = AtomicUsize::new(0);
        let caller = format!("caller{}", CALLS.fetch_add(1, Relaxed));
        command.args(["-h", &caller, "-c", COOKIE, "-e", "-fetch_stdout", "-timeout", "60"]);
        command.args(["-address", &format!("127.0.0.1:{}", self.erlang_port)]);
        command.stdin(Stdio::piped()).stdout(Stdio::piped()).env("HOME", self.dir.path());
        let mut child = command.spawn().unwrap();
        let mut stdin = child.stdin.take().unwrap();
        writeln!(stdin, "io:format(\"~0tp\", [begin {erlang} end]).").unwrap();
        drop(stdin);
        let printed = String::from_utf8(child.wait_with_output().unwrap().stdout).unwrap();
        let value = printed.strip_suffix("{ok, ok}");
        value.unwrap_or_else(|| panic!("{erlang}: {printed:?}")).to_owned()
    }

    /// Puts on the disk which quorum queues there are. RabbitMQ 3.10 does that seconds after it
    /// declared one; killed before, it forgets all that the queue held, confirmed or not, and never
    /// finds a leader for it again. To be called before [`Self::kill`] if a queue may be so young.
    pub(crate) fn sync_declared(&self) {
        self.eval("[ok = dets:sync(Table) || Table <- dets:all()]");
    }

    /// Ends it at once.
    pub(crate) fn kill(&self) {
        self.take_node().end(Signal::KILL);
    }

    /// Ends it in order.
    pub(crate) fn stop(&self) {
        self.take_node().end(Signal::TERM);
    }

    fn take_node(&self) -> Node {
        self.node.lock().unwrap().take().unwrap()
    }

    /// It stands still, its connections stay open.
    pub(crate) fn pause(&self) {
        self.signal(Signal::STOP);
        let stat = format!("/proc/{}/stat", self.pid());
        wait_for("the broker to stand still", || {
            fs::read_to_string(&stat).unwrap().contains(") T ").then_some(())
        });
    }

    pub(crate) fn resume(&self) {
        self.signal(Signal::CONT);
    }

    fn signal(&self, signal: Signal) {
        kill_process(self.node.lock().unwrap().as_ref().unwrap().pid, signal).unwrap();
    }

    /// Publishers are blocked as if memory were short.
    pub(crate) fn memory_alarm(&self, on: bool) {
        self.alarm("memory", on);
    }

    /// Publishers are blocked as if the disk were full.
    pub(crate) fn disk_alarm(&self, on: bool) {
        self.alarm("disk", on);
    }

    fn alarm(&self, source: &str, on: bool) {
        let alarm = format!("{{resource_limit, {source}, node()}}");
        let event = match on {
            true => format!("{{set_alarm, {{{alarm}, []}}}}"),
            false => format!("{{clear_alarm, {alarm}}}"),
        };
        // Every connection has been told when this returns.
        assert_eq!(self.eval(&format!("gen_event:sync_notify(rabbit_alarm, {event})")), "ok");
    }

    /// A user's connections of before stay; new ones need the new password.
    pub(crate) fn change_password(&self, user: &str, password: &str) {
        let done = self.eval(&format!(
            r#"rabbit_auth_backend_internal:change_password(
                <<"{user}">>, <<"{password}">>, <<"test">>)"#
        ));
        assert_eq!(done, "ok");
    }

    /// Closes all connections, as an operator does: with 320 `CONNECTION_FORCED`.
    pub(crate) fn close_connections(&self) {
        self.eval(
            "[rabbit_networking:close_connection(Pid, \"closed by the test\")
                || Pid <- rabbit_networking:connections()]",
        );
    }

    /// How many clients are connected.
    pub(crate) fn connections(&self) -> usize {
        self.eval("length(rabbit_networking:connections())").parse().unwrap()
    }

    /// Deletes a queue and what is in it, whoever consumes from it.
    pub(crate) fn delete_queue(&self, vhost: &str, queue: &str) {
        self.eval(&format!(
            r#"{}, element(1, rabbit_amqqueue:delete(Queue, false, false, <<"test">>))"#,
            lookup(vhost, queue)
        ));
    }

    /// The queues of a virtual host, sorted.
    pub(crate) fn queues(&self, vhost: &str) -> Vec<String> {
        let mut names = self.all_queues(vhost);
        // What carries tasks is the same everywhere, and empty where no test has tasks.
        names.retain(|name| {
            name != "results" && !name.ends_with(".tasks") && !name.starts_with("amq.")
        });
        names
    }

    /// The same, with those that carry tasks.
    pub(crate) fn all_queues(&self, vhost: &str) -> Vec<String> {
        let names = self.eval(&format!(
            r#"[binary_to_list(element(4, amqqueue:get_name(Queue)))
                || Queue <- rabbit_amqqueue:list(<<"{vhost}">>)]"#
        ));
        // A list of strings is printed as JSON would be.
        let mut names: Vec<String> = serde_json::from_str(&names).unwrap();
        names.sort();
        names
    }

    /// What it was declared with, as Erlang prints it:
    /// `[{<<"x-queue-type">>,longstr,<<"quorum">>}]`.
    pub(crate) fn queue_arguments(&self, vhost: &str, queue: &str) -> String {
        self.eval(&format!("{}, amqqueue:get_arguments(Queue)", lookup(vhost, queue)))
    }

    /// What a queue holds at this moment.
    pub(crate) fn depth(&self, vhost: &str, queue: &str) -> Depth {
        // The figures that everybody sees of a quorum queue are seconds old: its machine is asked.
        // One that was made in this instant cannot say yet, and holds nothing.
        let counts = self.eval(&format!(
            r#"{}, case amqqueue:get_type(Queue) of
                rabbit_quorum_queue ->
                    case ra:leader_query(
                        amqqueue:get_pid(Queue), fun rabbit_fifo:overview/1) of
                        {{ok, {{_, Seen}}, _}} ->
                            {{maps:get(num_ready_messages, Seen), maps:get(num_checked_out, Seen)}};
                        {{error, _}} ->
                            {{0, 0}}
                    end;
                rabbit_classic_queue ->
                    [{{_, Ready}}, {{_, Unacknowledged}}] = rabbit_amqqueue:info(
                        Queue, [messages_ready, messages_unacknowledged]),
                    {{Ready, Unacknowledged}}
            end"#,
            lookup(vhost, queue)
        ));
        let counts = counts.trim_matches(['{', '}']).split_once(',').unwrap();
        Depth { ready: counts.0.parse().unwrap(), unacknowledged: counts.1.parse().unwrap() }
    }

    /// The end of what it has said: a test that fails for its sake shows it.
    pub(crate) fn log(&self) -> String {
        let mut log = String::new();
        for file in ["out", "log/broker.log"] {
            let text = fs::read(self.dir.path().join(file)).unwrap_or_default();
            let tail = &text[text.len().saturating_sub(4_000)..];
            writeln!(log, "== {file}\n{}", String::from_utf8_lossy(tail)).unwrap();
        }
        log
    }

    /// Where everything of it lies.
    pub(crate) fn directory(&self) -> &Path {
        self.dir.path()
    }

    /// The process of the broker.
    pub(crate) fn pid(&self) -> u32 {
        let node = self.node.lock().unwrap();
        node.as_ref().unwrap().pid.as_raw_nonzero().get().unsigned_abs()
    }
}

/// Erlang that binds `Queue`.
fn lookup(vhost: &str, queue: &str) -> String {
    format!(
        r#"{{ok, Queue}} = rabbit_amqqueue:lookup(
            rabbit_misc:r(<<"{vhost}">>, queue, <<"{queue}">>))"#
    )
}

/// Whether it answers the header of AMQP.
fn greets(port: u16) -> bool {
    let greet = || -> std::io::Result<()> {
        let mut stream = TcpStream::connect(("127.0.0.1", port))?;
        stream.set_read_timeout(Some(Duration::from_secs(5)))?;
        stream.write_all(b"AMQP\0\0\x09\x01")?;
        stream.read_exact(&mut [0; 8])
    };
    greet().is_ok()
}

/// The broker without its plugins: Erlang looks for each module in each library, so that the sixty
/// that nobody needs would make the start twice as long.
fn link_libraries(into: &Path) {
    fs::create_dir(into).unwrap();
    let is_wanted =
        |name: &str| !name.starts_with("rabbitmq_") || name.starts_with("rabbitmq_prelaunch-");
    for library in fs::read_dir(installed().join("plugins")).unwrap() {
        let library = library.unwrap();
        let name = library.file_name().into_string().unwrap();
        if is_wanted(&name) && name != "README" {
            std::os::unix::fs::symlink(library.path(), into.join(name)).unwrap();
        }
    }
}

fn installed() -> PathBuf {
    let versions = fs::read_dir(INSTALLED_IN).unwrap_or_else(|_| {
        panic!("no RabbitMQ in {INSTALLED_IN}: apt-get install rabbitmq-server, or bash tests/run")
    });
    versions.map(|version| version.unwrap().path()).max().unwrap()
}
