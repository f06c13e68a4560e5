//! A RabbitMQ of the test's own, in its directory and on its ports, which is hit like the others.

use std::fs;
use std::io::{Read, Write};
use std::net::{Ipv4Addr, TcpStream};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use crate::cycles::Tally;
use crate::process::{Process, leashed};
use crate::random::SplitMix64;

const INSTALLED_IN: &str = "/usr/lib/rabbitmq/lib";
const COOKIE: &str = "crash";
const PATIENCE: Duration = Duration::from_secs(60);
const POLL: Duration = Duration::from_millis(50);
/// Of a hundred cycles so many hit the broker too.
const STRUCK_PERCENT: u64 = 25;

const ALARM: &str = "{resource_limit, memory, node()}";
/// Puts on the disk which queues there are: RabbitMQ 3.10 does so seconds later, and killed before,
/// it forgets them and what it confirmed.
const SYNC_DECLARED: &str = "[ok = dets:sync(Table) || Table <- dets:all()]";
const QUEUES: &str = "length([Queue || Queue <- rabbit_amqqueue:list(),
    amqqueue:get_type(Queue) =:= rabbit_quorum_queue])";
/// Five for the shards of each topic and one for what it was given back, of two topics; tasks,
/// captures, results, and what nobody could run.
const QUEUES_MAX: &str = "16";
const MESSAGES: &str = "lists:sum([begin
    {ok, {_, #{num_messages := Count}}, _} =
        ra:leader_query(amqqueue:get_pid(Queue), fun rabbit_fifo:overview/1),
    Count end || Queue <- rabbit_amqqueue:list(),
    amqqueue:get_type(Queue) =:= rabbit_quorum_queue])";
const CLOSE_CONNECTIONS: &str = "[rabbit_networking:close_connection(Pid, \"crash\")
    || Pid <- rabbit_networking:connections()]";

/// What was done to the broker and is to be undone.
#[derive(Clone, Copy, PartialEq, Eq)]
enum State {
    Well,
    Killed,
    Paused,
    Alarmed,
}

/// A broker; it is killed when this value is dropped.
pub(crate) struct Broker {
    directory: PathBuf,
    port: u16,
    erlang_port: u16,
    process: Process,
    state: State,
    started_at: Instant,
}

impl Broker {
    /// Starts it in a new directory and waits until it listens.
    pub(crate) fn start(directory: &Path, port: u16, erlang_port: u16) -> Result<Self, String> {
        let place = |error: std::io::Error| format!("{}: {error}", directory.display());
        fs::create_dir(directory).map_err(place)?;
        let config = format!(
            "[{{rabbit, [{{tcp_listeners, [{{\"127.0.0.1\", {port}}}]}},
                {{disk_free_limit, 1000000}}]}}]."
        );
        fs::write(directory.join("rabbitmq.config"), config).map_err(place)?;
        fs::write(directory.join("enabled_plugins"), "[].").map_err(place)?;
        let process = spawn(directory, erlang_port)?;
        let directory = directory.to_owned();
        let (state, started_at) = (State::Well, Instant::now());
        let mut broker = Self { directory, port, erlang_port, process, state, started_at };
        broker.wait_until_ready()?;
        Ok(broker)
    }

    /// Where the binary finds it.
    pub(crate) fn url(&self) -> String {
        format!("amqp://guest:guest@127.0.0.1:{}/%2f", self.port)
    }

    /// Waits until all queues are there to stay.
    pub(crate) fn settle(&self) -> Result<(), String> {
        let since = Instant::now();
        // A queue is in the list an instant before it works.
        while self.evaluate(QUEUES)? != QUEUES_MAX || self.is_empty().is_err() {
            if since.elapsed() > PATIENCE {
                let there = self.evaluate(QUEUES)?;
                return Err(format!("the broker has {there} queues, not {QUEUES_MAX}"));
            }
            std::thread::sleep(POLL);
        }
        self.evaluate(SYNC_DECLARED).map(drop)
    }

    /// Whether no queue holds a message, not even the one for what was given up.
    pub(crate) fn is_empty(&self) -> Result<bool, String> {
        Ok(self.evaluate(MESSAGES)? == "0")
    }

    /// Does it some harm, or none.
    pub(crate) fn strike(
        &mut self,
        random: &mut SplitMix64,
        tally: &mut Tally,
    ) -> Result<(), String> {
        if !random.chance(STRUCK_PERCENT) {
            return Ok(());
        }
        self.wait_until_ready()?;
        match random.below(4) {
            0 => {
                tally.killed_broker += 1;
                self.process.kill()?;
                self.state = State::Killed;
            }
            1 => {
                tally.paused_broker += 1;
                self.process.signal("STOP")?;
                self.state = State::Paused;
            }
            2 => {
                tally.alarms += 1;
                self.alarm(&format!("set_alarm, {{{ALARM}, []}}"))?;
                self.state = State::Alarmed;
            }
            _ => {
                tally.cut_connections += 1;
                self.evaluate(CLOSE_CONNECTIONS)?;
            }
        }
        Ok(())
    }

    /// Undoes the harm; a killed one is on its way when this returns.
    pub(crate) fn restore(&mut self) -> Result<(), String> {
        match self.state {
            State::Well => {}
            State::Killed => self.process = spawn(&self.directory, self.erlang_port)?,
            State::Paused => self.process.signal("CONT")?,
            State::Alarmed => self.alarm(&format!("clear_alarm, {ALARM}"))?,
        }
        self.state = State::Well;
        Ok(())
    }

    fn alarm(&self, event: &str) -> Result<(), String> {
        self.evaluate(&format!("gen_event:sync_notify(rabbit_alarm, {{{event}}})")).map(drop)
    }

    /// Waits until it answers a client.
    pub(crate) fn wait_until_ready(&mut self) -> Result<(), String> {
        let since = Instant::now();
        while !is_ready(self.port) {
            self.process.check_alive()?;
            if since.elapsed() > PATIENCE {
                return Err(format!("the broker does not listen\n{}", self.process.log_tail()));
            }
            std::thread::sleep(POLL);
        }
        Ok(())
    }

    /// Evaluates Erlang in the broker, which is all that `rabbitmqctl` does; the value as text.
    fn evaluate(&self, erlang: &str) -> Result<String, String> {
        let complain = |error: std::io::Error| format!("erl_call: {error}");
        let mut command = Command::new("erl_call");
        // A name that the broker still knows, of another call, would be refused.
        let name = format!("call-{}", self.started_at.elapsed().as_nanos());
        command.args(["-h", &name, "-c", COOKIE, "-e", "-fetch_stdout", "-timeout", "60"]);
        command.args(["-address", &format!("127.0.0.1:{}", self.erlang_port)]);
        command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped());
        let mut child = command.env("HOME", &self.directory).spawn().map_err(complain)?;
        let line = format!("io:format(\"~0tp\", [begin {erlang} end]).\n");
        if let Some(mut stdin) = child.stdin.take() {
            stdin.write_all(line.as_bytes()).map_err(complain)?;
        }
        let output = child.wait_with_output().map_err(complain)?;
        let printed = String::from_utf8_lossy(&output.stdout).into_owned();
        let value = printed.strip_suffix("{ok, ok}").map(str::to_owned);
        value.ok_or_else(|| {
            format!("{erlang}: {printed}{}", String::from_utf8_lossy(&output.stderr))
        })
    }
}

/// Starts Erlang with what makes it this broker, as `rabbitmq-server` does it.
fn spawn(directory: &Path, erlang_port: u16) -> Result<Process, String> {
    let mut command = leashed(Path::new("/usr/bin/erl"));
    command.args("-noinput +B i +S 2:2 +sbwt none +sbwtdcpu none +sbwtdio none".split(' '));
    command.args("-boot start_sasl -s rabbit boot -sname rabbit@localhost".split(' '));
    command.args("-syslog logger [] -syslog syslog_error_logger false".split(' '));
    command.args(["-setcookie", COOKIE, "-start_epmd", "false"]);
    command.args(["-erl_epmd_port", &erlang_port.to_string()]);
    command.args(["-kernel", "inet_dist_use_interface", "{127,0,0,1}"]);
    let path = std::env::var_os("PATH").unwrap_or_default();
    command.env_clear().env("PATH", path).env("LC_ALL", "C.UTF-8").env("HOME", directory);
    command.current_dir(directory).env("RABBITMQ_NODENAME", "rabbit@localhost");
    let plugins = installed()?.join("plugins");
    command.env("ERL_LIBS", &plugins).env("RABBITMQ_PLUGINS_DIR", &plugins);
    command.env("RABBITMQ_CONF_ENV_FILE", "/dev/null");
    for (name, file) in [
        ("RABBITMQ_MNESIA_BASE", "data"),
        ("RABBITMQ_LOG_BASE", "log"),
        ("RABBITMQ_CONFIG_FILE", "rabbitmq.config"),
        ("RABBITMQ_ADVANCED_CONFIG_FILE", "none.config"),
        ("RABBITMQ_ENABLED_PLUGINS_FILE", "enabled_plugins"),
    ] {
        command.env(name, directory.join(file));
    }
    Process::start("broker", &mut command, &directory.join("out.log"), None)
}

fn installed() -> Result<PathBuf, String> {
    let missing = || format!("no RabbitMQ in {INSTALLED_IN}: apt-get install rabbitmq-server");
    let versions = fs::read_dir(INSTALLED_IN).map_err(|_| missing())?;
    versions.filter_map(|version| Some(version.ok()?.path())).max().ok_or_else(missing)
}

/// Whether it answers the header of AMQP.
fn is_ready(port: u16) -> bool {
    let ask = || -> std::io::Result<()> {
        let mut stream = TcpStream::connect((Ipv4Addr::LOCALHOST, port))?;
        stream.set_read_timeout(Some(Duration::from_secs(5)))?;
        stream.write_all(b"AMQP\0\0\x09\x01")?;
        stream.read_exact(&mut [0; 8])
    };
    ask().is_ok()
}
