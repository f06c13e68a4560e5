//! What `bench captures` starts: a spaceship and a message-consumer, in a folder of their own.

use std::fs;
use std::io::{BufRead, BufReader};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use anyhow::{Context, anyhow, bail};
use crossbeam_channel::{Receiver, bounded};
use rustix::process::{Pid, Signal, kill_process};
use serde_json::Value;

/// How long a command may take to be ready.
const READY_WITHIN: Duration = Duration::from_secs(30);
/// Lines of its log that wait to be looked at; later ones nobody looks at.
const LINES_MAX: usize = 1024;

/// A folder that is removed again.
#[derive(Debug)]
pub(super) struct Folder(PathBuf);

impl Folder {
    /// One of its own in a directory.
    pub(super) fn new(directory: &Path) -> anyhow::Result<Self> {
        let name = format!("bench-captures-{}", std::process::id());
        // As the commands see it, wherever they are started.
        let path = std::path::absolute(directory.join(name))?;
        fs::create_dir(&path).with_context(|| path.display().to_string())?;
        Ok(Self(path))
    }

    pub(super) fn state(&self) -> PathBuf {
        self.0.join("state")
    }

    pub(super) fn output(&self) -> PathBuf {
        self.0.join("output")
    }
}

impl Drop for Folder {
    fn drop(&mut self) {
        if let Err(error) = fs::remove_dir_all(&self.0) {
            tracing::warn!(path = %self.0.display(), %error, "a folder of the bench stays");
        }
    }
}

/// A command of this program that runs, until this value is dropped.
#[derive(Debug)]
pub(super) struct Hand {
    name: &'static str,
    child: Child,
    log: Receiver<String>,
}

impl Hand {
    /// Starts a spaceship whose streams have this rate; where it listens.
    pub(super) fn spaceship(rate: u32, streams: usize) -> anyhow::Result<(Self, String)> {
        let (rate, streams) = (rate.to_string(), streams.to_string());
        let settings = ["--spaceship-port", "0", "--stream-rate", &rate, "--streams-max", &streams];
        let hand = Self::start("spaceship", Command::new("").args(settings))?;
        let line = hand.wait_log("\"listening\"")?;
        let line: Value = serde_json::from_str(&line).context("the spaceship's log")?;
        let url = line.get("url").and_then(Value::as_str).context("the spaceship's address")?;
        Ok((hand, url.to_owned()))
    }

    /// Starts a message-consumer that captures from this spaceship, and runs no other tasks.
    pub(super) fn consumer(
        folder: &Folder,
        spaceship: &str,
        captures: usize,
    ) -> anyhow::Result<Self> {
        let mut settings = Command::new("");
        settings.arg("--state-dir").arg(folder.state());
        settings.arg("--data-output-dir").arg(folder.output());
        settings.args(["--spaceship-url", spaceship, "--task-workers", "0"]);
        settings.args(["--captures-max", &captures.to_string()]);
        let hand = Self::start("message-consumer", &settings)?;
        hand.wait_log("\"running captures\"")?;
        Ok(hand)
    }

    /// With these arguments, and without settings from anywhere else.
    fn start(name: &'static str, settings: &Command) -> anyhow::Result<Self> {
        let binary = std::env::current_exe().context("finding this program")?;
        let mut command = Command::new(binary);
        command.arg(name).args(settings.get_args()).args(["--log-format", "json"]);
        command.env_clear().stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::piped());
        let mut child = command.spawn().with_context(|| format!("starting {name}"))?;
        let stderr = child.stderr.take().with_context(|| format!("{name} is mute"))?;
        let (lines, log) = bounded(LINES_MAX);
        std::thread::spawn(move || {
            for line in BufReader::new(stderr).lines().map_while(Result::ok) {
                let _nobody_looks = lines.try_send(line);
            }
        });
        Ok(Self { name, child, log })
    }

    /// The process.
    pub(super) fn id(&self) -> u32 {
        self.child.id()
    }

    /// Waits for a line of its log that holds this.
    fn wait_log(&self, text: &str) -> anyhow::Result<String> {
        let mut last = String::new();
        loop {
            let Ok(line) = self.log.recv_timeout(READY_WITHIN) else {
                bail!("{} does not start; it said last: {last}", self.name);
            };
            if line.contains(text) {
                return Ok(line);
            }
            last = line;
        }
    }

    /// Ends it in order.
    pub(super) fn stop(mut self) -> anyhow::Result<()> {
        let pid = i32::try_from(self.child.id()).ok().and_then(Pid::from_raw);
        kill_process(pid.context("its number")?, Signal::TERM)?;
        let status = self.child.wait()?;
        match status.success() {
            true => Ok(()),
            false => Err(anyhow!("{} ended with {status}", self.name)),
        }
    }
}

impl Drop for Hand {
    fn drop(&mut self) {
        // In vain, once it has ended in order.
        let _ended = self.child.kill();
        let _status = self.child.wait();
    }
}
