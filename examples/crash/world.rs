//! The world of one crash test: its directory, port and settings, and the processes in it.

use std::ffi::OsString;
use std::fs;
use std::io::{Read, Write};
use std::net::{Ipv4Addr, SocketAddr, TcpStream};
use std::path::PathBuf;
use std::process::Command;
use std::time::{Duration, Instant};

use crate::args::Flags;
use crate::broker::Broker;
use crate::database::Database;
use crate::ports::free_port;
use crate::process::{Process, leashed};
use crate::programs;

const HEALTH_PATIENCE: Duration = Duration::from_secs(20);

/// Which processes are the victims.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Mode {
    Server,
    Consumer,
    /// Both at once, every time.
    Both,
    /// One process that is both.
    Up,
    /// Any of the two, always within the first 60 ms, while it recovers.
    Recovery,
    /// Everything in turn.
    Mixed,
}

impl Mode {
    fn parse(text: &str) -> Result<Self, String> {
        Ok(match text {
            "server" => Self::Server,
            "consumer" => Self::Consumer,
            "both" => Self::Both,
            "up" => Self::Up,
            "recovery" => Self::Recovery,
            "mixed" => Self::Mixed,
            _ => return Err(format!("--mode {text:?} is none")),
        })
    }
}

/// What is done meanwhile, and must have been done in the end.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Load {
    Messages,
    /// Two workers beside the server, or one beside `up`.
    Tasks,
    /// Spacecraft: a server, a consumer that captures, a scheduler and a spaceship, or `up`.
    Ships,
}

/// The settings that hold for a number of cycles; every segment has others.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Segment {
    /// One process (`up`) instead of two.
    pub(crate) is_up: bool,
    load: Load,
    shards: u32,
    /// Every message a batch of its own, if it comes alone.
    has_small_batches: bool,
}

impl Segment {
    /// The settings of segment `number`, counted from 0.
    pub(crate) fn new(number: u64, mode: Mode, load: Load) -> Self {
        let shards = match number % 3 {
            0 => 5,
            1 => 3,
            _ => 7,
        };
        let is_up = mode == Mode::Up || (mode == Mode::Mixed && number % 4 == 1);
        Self { is_up, load, shards, has_small_batches: number.is_multiple_of(2) }
    }

    /// The processes.
    pub(crate) const fn names(&self) -> &'static [&'static str] {
        match (self.load, self.is_up) {
            (Load::Messages, false) => &["server", "message-consumer"],
            (Load::Messages | Load::Ships, true) => &["up"],
            (Load::Tasks, false) => &["server", "worker-1", "worker-2"],
            (Load::Tasks, true) => &["up", "worker-1"],
            (Load::Ships, false) => &["server", "message-consumer", "scheduler", "spaceship"],
        }
    }
}

/// What the command line asks for.
pub(crate) struct Options {
    pub(crate) binary: PathBuf,
    pub(crate) oracle: PathBuf,
    pub(crate) seed: u64,
    pub(crate) cycles: u64,
    pub(crate) mode: Mode,
    pub(crate) keep: bool,
    pub(crate) load: Load,
    has_broker: bool,
    has_database: bool,
    directory: PathBuf,
    /// Further environment variables for the processes.
    variables: Vec<(String, String)>,
}

impl Options {
    /// Checks the flags.
    pub(crate) fn read(flags: &Flags) -> Result<Self, String> {
        let file = |name: &str| {
            let path = flags.required(name)?;
            // Absolute: the processes run in the test's directory.
            fs::canonicalize(path).map_err(|error| format!("{name} {path}: {error}"))
        };
        let seed = flags.number("--seed", 1)?;
        let fallback = std::env::temp_dir().join(format!("crash-{seed}-{}", std::process::id()));
        let variables = flags.all("--set").into_iter().map(|pair| {
            let (name, value) = pair.split_once('=').ok_or("--set needs NAME=VALUE")?;
            Ok((name.to_owned(), value.to_owned()))
        });
        let load = match (flags.has("--tasks"), flags.has("--ships")) {
            (false, false) => Load::Messages,
            (true, false) => Load::Tasks,
            (false, true) => Load::Ships,
            (true, true) => return Err("--tasks and --ships are two tests".to_owned()),
        };
        let (has_broker, has_database) = (flags.has("--rabbitmq"), flags.has("--postgres"));
        if has_database && load == Load::Messages {
            return Err("--postgres goes with --tasks or --ships".to_owned());
        }
        Ok(Self {
            binary: file("--binary")?,
            oracle: file("--oracle")?,
            seed,
            cycles: flags.number("--cycles", 200)?.max(1),
            mode: Mode::parse(flags.all("--mode").last().unwrap_or(&"mixed"))?,
            keep: flags.has("--keep"),
            load,
            has_broker,
            has_database,
            directory: flags.all("--dir").last().map_or(fallback, PathBuf::from),
            variables: variables.collect::<Result<_, &str>>()?,
        })
    }
}

/// The directory with everything in it, and the processes under test.
pub(crate) struct World {
    pub(crate) options: Options,
    pub(crate) directory: PathBuf,
    /// The broker over which messages travel, if they do.
    pub(crate) broker: Option<Broker>,
    /// The database in which tasks are, if they are in one.
    pub(crate) database: Option<Database>,
    port: u16,
    scheduler_port: u16,
    spaceship_port: u16,
    segment: Segment,
    /// The processes under test with their commands: several, or one in an `up` segment.
    running: Vec<(&'static str, Process)>,
}

impl World {
    /// Makes the directory, which must be new or empty, and chooses a port.
    pub(crate) fn new(options: Options) -> Result<Self, String> {
        let place = |error: std::io::Error| format!("{}: {error}", options.directory.display());
        fs::create_dir_all(&options.directory).map_err(place)?;
        let directory = fs::canonicalize(&options.directory).map_err(place)?;
        if fs::read_dir(&directory).map_err(place)?.next().is_some() {
            return Err(format!("{} is not empty", directory.display()));
        }
        for name in ["state", "output"] {
            fs::create_dir(directory.join(name)).map_err(place)?;
        }
        let segment = Segment::new(0, options.mode, options.load);
        let broker = match options.has_broker {
            true => Some(Broker::start(&directory.join("broker"), free_port(1)?, free_port(2)?)?),
            false => None,
        };
        let database = match options.has_database {
            true => Some(Database::start(&directory.join("database"), free_port(3)?)?),
            false => None,
        };
        if options.load == Load::Tasks {
            programs::write(&directory).map_err(place)?;
        }
        let (port, scheduler_port, spaceship_port) = match options.load {
            Load::Ships => (free_port(0)?, free_port(4)?, free_port(5)?),
            Load::Messages | Load::Tasks => (free_port(0)?, 0, 0),
        };
        Ok(Self {
            options,
            directory,
            broker,
            database,
            port,
            scheduler_port,
            spaceship_port,
            segment,
            running: Vec::new(),
        })
    }

    /// Runs `command` of the binary with the settings of the segment and nothing else from here.
    pub(crate) fn command(&self, arguments: &[&str]) -> Command {
        let mut command = leashed(&self.options.binary);
        command.args(arguments).current_dir(&self.directory).env_clear();
        for name in ["PATH", "TMPDIR", "RUST_BACKTRACE", "RUST_LOG"] {
            command.envs(std::env::var_os(name).map(|value| (OsString::from(name), value)));
        }
        command
            .env("HOME", &self.directory)
            .env("STATE_DIR", self.directory.join("state"))
            .env("DATA_OUTPUT_DIR", self.output())
            .env("HOST", "127.0.0.1")
            .env("PORT", self.port.to_string())
            .env("SCHEDULER_PORT", self.scheduler_port.to_string())
            .env("SPACESHIP_PORT", self.spaceship_port.to_string())
            .env("SHARDS_COUNT", self.segment.shards.to_string())
            .env("FILES_PER_SECOND", "0");
        if let Some(broker) = &self.broker {
            // The broker's queues are for one number of shards.
            command.env("RABBITMQ_URL", broker.url()).env("SHARDS_COUNT", "5");
        }
        match self.options.load {
            Load::Messages => {}
            Load::Tasks => {
                command.env("TASK_EXEC", programs::settings()).env("TASK_WORKERS", "4");
            }
            Load::Ships => {
                command.env("STREAM_RATE", "200");
                if !self.segment.is_up {
                    command.env("SPACESHIP_URL", format!("http://{}", self.spaceship()));
                }
            }
        }
        // With a broker, workers know nothing of the database.
        if let Some(database) = &self.database
            && (self.broker.is_none() || arguments != ["task-worker"])
        {
            command.env("DATABASE_URL", database.url());
        }
        if self.segment.has_small_batches {
            command.env("BATCH_MIN", "1");
        }
        command.envs(self.options.variables.iter().map(|(name, value)| (name, value)));
        command
    }

    /// Where the processes write the files.
    pub(crate) fn output(&self) -> PathBuf {
        self.directory.join("output")
    }

    /// The log of the processes with this name.
    pub(crate) fn log(&self, name: &str) -> PathBuf {
        self.directory.join(format!("{name}.log"))
    }

    /// Where the server listens.
    pub(crate) fn address(&self) -> SocketAddr {
        SocketAddr::from((Ipv4Addr::LOCALHOST, self.port))
    }

    /// Where the scheduler listens.
    pub(crate) fn scheduler(&self) -> SocketAddr {
        SocketAddr::from((Ipv4Addr::LOCALHOST, self.scheduler_port))
    }

    /// Where the spaceship listens.
    pub(crate) fn spaceship(&self) -> SocketAddr {
        SocketAddr::from((Ipv4Addr::LOCALHOST, self.spaceship_port))
    }

    /// The address to publish to.
    pub(crate) fn url(&self) -> String {
        format!("http://127.0.0.1:{}", self.port)
    }

    /// Starts the processes of `segment`; none may be running.
    pub(crate) fn start(&mut self, segment: Segment) -> Result<(), String> {
        self.segment = segment;
        for &name in segment.names() {
            let process = self.spawn(name)?;
            self.running.push((name, process));
        }
        Ok(())
    }

    /// Starts the named process anew, in the place of one that ended.
    pub(crate) fn restart(&mut self, name: &'static str) -> Result<(), String> {
        let process = self.spawn(name)?;
        self.running.retain(|(running, _)| *running != name);
        self.running.push((name, process));
        Ok(())
    }

    fn spawn(&self, name: &str) -> Result<Process, String> {
        let arguments = if name.starts_with("worker") { "task-worker" } else { name };
        Process::start(name, &mut self.command(&[arguments]), &self.log(name), None)
    }

    /// The running process with this name.
    pub(crate) fn process(&mut self, name: &str) -> Result<&mut Process, String> {
        let found = self.running.iter_mut().find(|(running, _)| *running == name);
        found.map(|(_, process)| process).ok_or_else(|| format!("{name} is not running"))
    }

    /// The processes under test.
    pub(crate) fn processes(&mut self) -> impl Iterator<Item = (&'static str, &mut Process)> {
        self.running.iter_mut().map(|(name, process)| (*name, process))
    }

    /// Forgets the processes, all of which ended.
    pub(crate) fn clear(&mut self) {
        self.running.clear();
    }

    /// Waits until the server answers `GET /health` with 200.
    pub(crate) fn wait_until_healthy(&mut self) -> Result<(), String> {
        self.wait_until_well("/health")
    }

    /// Waits until nothing is in the way of messages: until `GET /readyz` is answered with 200.
    pub(crate) fn wait_until_ready(&mut self) -> Result<(), String> {
        if let Some(broker) = &mut self.broker {
            broker.wait_until_ready()?;
        }
        if let Some(database) = &mut self.database {
            database.wait_until_ready()?;
        }
        self.wait_until_well("/readyz")
    }

    fn wait_until_well(&mut self, path: &str) -> Result<(), String> {
        let since = Instant::now();
        let ports = [self.port, self.scheduler_port, self.spaceship_port];
        // There is no port 0: that service is not tested.
        while !ports.iter().all(|port| *port == 0 || is_well(*port, path)) {
            for (_, process) in self.processes() {
                process.check_alive()?;
            }
            if since.elapsed() > HEALTH_PATIENCE {
                let mut what = format!("GET {path} is not answered 200 after 20 s");
                for (_, process) in self.processes() {
                    what += &format!("\n{}", process.log_tail());
                }
                return Err(what);
            }
            std::thread::sleep(Duration::from_millis(10));
        }
        Ok(())
    }

    /// Removes the directory.
    pub(crate) fn remove(&mut self) -> Result<(), String> {
        (self.broker, self.database) = (None, None);
        fs::remove_dir_all(&self.directory).map_err(|error| error.to_string())
    }

    /// A path in the directory.
    pub(crate) fn path(&self, name: &str) -> PathBuf {
        self.directory.join(name)
    }
}

fn is_well(port: u16, path: &str) -> bool {
    let ask = || -> std::io::Result<bool> {
        let address = SocketAddr::from((Ipv4Addr::LOCALHOST, port));
        let patience = Duration::from_secs(2);
        let mut stream = TcpStream::connect_timeout(&address, patience)?;
        stream.set_read_timeout(Some(patience))?;
        let head = format!("GET {path} HTTP/1.1\r\nHost: {address}\r\nConnection: close\r\n\r\n");
        stream.write_all(head.as_bytes())?;
        let mut status = [0; 12];
        stream.read_exact(&mut status)?;
        Ok(status.starts_with(b"HTTP/1.") && status.ends_with(b" 200"))
    };
    ask().unwrap_or(false)
}

#[cfg(test)]
mod tests {
    use super::{Load, Mode, Segment};

    #[test]
    fn every_combination_of_settings_is_met() {
        let segments: Vec<_> =
            (0..12).map(|number| Segment::new(number, Mode::Mixed, Load::Messages)).collect();
        for shards in [3, 5, 7] {
            assert!(segments.iter().any(|segment| segment.shards == shards && segment.is_up));
            assert!(segments.iter().any(|segment| segment.shards == shards && !segment.is_up));
        }
        assert!(segments.iter().any(|segment| segment.is_up && !segment.has_small_batches));
        assert!(!Segment::new(1, Mode::Recovery, Load::Messages).is_up);
        assert!(Segment::new(0, Mode::Up, Load::Messages).is_up);
    }
}
