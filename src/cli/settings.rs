//! Every setting: flag, environment variable, key of the settings file, default, meaning.
//!
//! A setting's environment variable is its name in capitals, its key in the settings file the same
//! in small letters, its flag the same with dashes. A flag goes before the environment, which goes
//! before the file. The reference systems' variables keep their names.

use std::ffi::OsString;
use std::num::NonZeroU16;
use std::path::PathBuf;
use std::time::Duration;

use anyhow::{Context, anyhow};
use clap::Args;
use clap::builder::{BoolishValueParser, RangedU64ValueParser};
use ipnet::IpNet;

pub(super) use super::batch_settings::{BatchSettings, OutputSettings};
pub(super) use super::capture_settings::{CaptureSettings, CheckedCapture};
pub(super) use super::database_settings::{Database, DatabaseSettings};
use super::exit::tell;
pub(super) use super::rabbitmq_settings::{Broker, ManagementSettings, RabbitSettings};
pub(super) use super::road_settings::{CheckedRoad, RoadSettings};
pub(super) use super::scheduler_settings::{SchedulerCommand, SchedulerPort};
pub(super) use super::ship_settings::{RedisSettings, ShipSettings};
pub(super) use super::spaceship_settings::{SpaceshipCommand, SpaceshipSettings};
pub(super) use super::task_settings::{
    CheckedWorker, RetentionSettings, TaskServerSettings, WorkerSettings,
};
use crate::broker::idempotency::KeyRetention;
use crate::shard::SHARDS_MAX;
use crate::web::{self, CorsOrigins, ListenError, ServeSettings, Tokens, check_listen};

/// Settings of every command that opens the state directory.
#[derive(Debug, Clone, Args)]
pub(super) struct StateSettings {
    /// State directory, on a local disk; all processes that work together share it.
    #[arg(long, env = "STATE_DIR", value_name = "DIR", default_value = default_state_dir())]
    pub(super) state_dir: PathBuf,
    /// The most bytes that waiting messages, the journal and the figures of ships may take up; the
    /// first process decides.
    #[arg(long, env, value_name = "BYTES", default_value_t = 64 << 30)]
    #[arg(value_parser = RangedU64ValueParser::<usize>::new().range(16 << 20..=1 << 46))]
    state_map_bytes: usize,
    /// Free disk in bytes below which no messages are taken; unset: the smaller of 256 MiB and 5 %.
    #[arg(long, env, value_name = "BYTES")]
    pub(super) disk_low_water_bytes: Option<u64>,
    #[command(flatten)]
    pub(super) log: LogSettings,
}

/// What is logged, and how.
#[derive(Debug, Clone, Args)]
pub(super) struct LogSettings {
    /// What is logged: error, warn, info, debug, trace, or a filter such as "info,heed=debug".
    #[arg(long, env, value_name = "FILTER", default_value = "info")]
    #[arg(value_parser = super::logging::parse_filter)]
    pub(super) log: String,
    /// How it is logged: auto is human on a terminal, else json.
    #[arg(long, env, value_name = "FORMAT", default_value = "auto")]
    pub(super) log_format: super::logging::Format,
}

/// Settings of long-running commands.
#[derive(Debug, Clone, Args)]
pub(super) struct ProcessSettings {
    /// How long a stop may take before the process ends anyway, in seconds.
    #[arg(long, env, value_name = "SECONDS", default_value_t = 25)]
    #[arg(value_parser = RangedU64ValueParser::<u64>::new().range(1..=86_400))]
    pub(super) shutdown_seconds: u64,
}

/// How messages are sharded.
#[derive(Debug, Clone, Args)]
pub(super) struct ShardSettings {
    /// Number of shards; a change strands nothing, but over RabbitMQ it stays as it is.
    #[arg(long, env, value_name = "N", default_value_t = 5)]
    #[arg(value_parser = clap::value_parser!(u16).range(1..=i64::from(SHARDS_MAX)))]
    shards_count: u16,
}

/// A port to listen on, who does, and the setting that says so.
#[derive(Debug, Clone, Copy)]
pub(super) struct Port {
    pub(super) service: &'static str,
    pub(super) number: u16,
    pub(super) setting: &'static str,
}

/// Where the server listens.
#[derive(Debug, Clone, Args)]
pub(super) struct ServerPort {
    /// Port to listen on; 0 takes a free one and prints it.
    #[arg(long, env, value_name = "PORT", default_value_t = 8080)]
    port: u16,
}

impl ServerPort {
    pub(super) const fn port(&self) -> Port {
        Port { service: "server", number: self.port, setting: "PORT" }
    }
}

/// How requests are answered.
#[derive(Debug, Clone, Args)]
pub(super) struct HttpSettings {
    /// Address or name to listen on.
    #[arg(long, env, value_name = "ADDRESS", default_value = "127.0.0.1")]
    pub(super) host: String,
    /// Listen on a non-loopback address without tokens or TLS.
    #[arg(long, env, value_parser = BoolishValueParser::new())]
    pub(super) insecure_listen: bool,
    /// TLS certificate chain (PEM); needs the key as well.
    #[arg(long, env, value_name = "FILE")]
    tls_cert: Option<PathBuf>,
    /// Private key of the TLS certificate (PEM).
    #[arg(long, env, value_name = "FILE")]
    tls_key: Option<PathBuf>,
    /// File with bearer tokens, a line each: name:scope[,scope]:token (scopes write, read, admin).
    #[arg(long, env, value_name = "FILE")]
    tokens_file: Option<PathBuf>,
    /// Requests per second and token; 0 is no limit.
    #[arg(long, env, value_name = "N", default_value_t = 0)]
    pub(super) rate_limit: u32,
    /// Sites elsewhere that may call, separated by commas: https://example.org
    #[arg(long, env, value_name = "ORIGIN", value_delimiter = ',')]
    cors_origin: Vec<String>,
    /// Proxies exempt from the limit of connections per address, separated by commas: 10.0.0.0/8
    #[arg(long, env, value_name = "CIDR", value_delimiter = ',')]
    trusted_proxies: Vec<IpNet>,
    /// Show internal details of errors to clients.
    #[arg(long, env, value_parser = BoolishValueParser::new())]
    pub(super) debug_errors: bool,
    /// How long Idempotency-Keys are kept, in seconds; the smaller of the two limits wins.
    #[arg(long, env, value_name = "SECONDS", default_value_t = 86_400)]
    idempotency_seconds: u64,
}

/// How many requests with an Idempotency-Key are remembered.
#[derive(Debug, Clone, Args)]
pub(super) struct KeySettings {
    /// How many Idempotency-Keys are kept.
    #[arg(long, env, value_name = "N", default_value_t = 100_000)]
    #[arg(value_parser = RangedU64ValueParser::<u64>::new().range(1..))]
    pub(super) idempotency_keys: u64,
}

/// What the long-running commands have in common.
#[derive(Debug, Clone, Args)]
pub(super) struct CommonSettings {
    #[command(flatten)]
    pub(super) state: StateSettings,
    #[command(flatten)]
    pub(super) process: ProcessSettings,
    #[command(flatten)]
    pub(super) shards: ShardSettings,
    #[command(flatten)]
    pub(super) rabbitmq: RabbitSettings,
    #[command(flatten)]
    pub(super) keys: KeySettings,
    #[command(flatten)]
    pub(super) database: DatabaseSettings,
}

/// `server`.
#[derive(Debug, Clone, Args)]
pub(super) struct ServerSettings {
    #[command(flatten)]
    pub(super) common: CommonSettings,
    #[command(flatten)]
    pub(super) port: ServerPort,
    #[command(flatten)]
    pub(super) http: HttpSettings,
    #[command(flatten)]
    pub(super) tasks: TaskServerSettings,
    #[command(flatten)]
    pub(super) road: RoadSettings,
}

/// `task-worker`.
#[derive(Debug, Clone, Args)]
pub(super) struct TaskWorkerCommand {
    #[command(flatten)]
    pub(super) state: StateSettings,
    #[command(flatten)]
    pub(super) process: ProcessSettings,
    #[command(flatten)]
    pub(super) rabbitmq: RabbitSettings,
    #[command(flatten)]
    pub(super) database: DatabaseSettings,
    #[command(flatten)]
    pub(super) worker: WorkerSettings,
}

/// `message-consumer`.
#[derive(Debug, Clone, Args)]
pub(super) struct ConsumerCommand {
    #[command(flatten)]
    pub(super) common: CommonSettings,
    #[command(flatten)]
    pub(super) batch: BatchSettings,
    #[command(flatten)]
    pub(super) worker: WorkerSettings,
    #[command(flatten)]
    pub(super) capture: CaptureSettings,
    #[command(flatten)]
    pub(super) road: RoadSettings,
}

/// `up`.
#[derive(Debug, Clone, Args)]
pub(super) struct UpSettings {
    #[command(flatten)]
    pub(super) common: CommonSettings,
    #[command(flatten)]
    pub(super) port: ServerPort,
    #[command(flatten)]
    pub(super) http: HttpSettings,
    #[command(flatten)]
    pub(super) tasks: TaskServerSettings,
    #[command(flatten)]
    pub(super) batch: BatchSettings,
    #[command(flatten)]
    pub(super) worker: WorkerSettings,
    #[command(flatten)]
    pub(super) capture: CaptureSettings,
    #[command(flatten)]
    pub(super) road: RoadSettings,
    #[command(flatten)]
    pub(super) scheduler: SchedulerPort,
    #[command(flatten)]
    pub(super) spaceship: SpaceshipSettings,
}

/// `$XDG_STATE_HOME/async-data-processor`, by default beneath the home directory (XDG Base
/// Directory Specification 0.8); for a user without a home, `/var/lib`.
fn default_state_dir() -> OsString {
    let absolute = |name| std::env::var_os(name).map(PathBuf::from).filter(|p| p.is_absolute());
    let base = absolute("XDG_STATE_HOME")
        .or_else(|| absolute("HOME").map(|home| home.join(".local/state")))
        .unwrap_or_else(|| PathBuf::from("/var/lib"));
    base.join(env!("CARGO_PKG_NAME")).into_os_string()
}

impl StateSettings {
    /// What opening the state environment needs; `on_poison` hears of a failed sync.
    pub(super) fn options(
        &self,
        on_poison: Box<dyn Fn(&str) + Send + Sync>,
    ) -> crate::state::StateOptions {
        crate::state::StateOptions {
            dir: self.state_dir.clone(),
            map_bytes: self.state_map_bytes,
            low_water_bytes: self.disk_low_water_bytes,
            on_poison,
        }
    }
}

impl ShardSettings {
    /// How many shards.
    pub(super) fn count(&self) -> NonZeroU16 {
        NonZeroU16::new(self.shards_count).unwrap_or(NonZeroU16::MIN)
    }
}

/// What HTTP needs, with every file read and every text parsed.
pub(super) struct CheckedHttp {
    pub(super) tokens: Option<Tokens>,
    pub(super) tls: Option<std::sync::Arc<rustls::ServerConfig>>,
    pub(super) cors: CorsOrigins,
}

impl HttpSettings {
    /// Reads the files and parses the texts; every problem there is.
    pub(super) fn check(&self) -> Result<CheckedHttp, Vec<anyhow::Error>> {
        let mut problems = Vec::new();
        let mut keep = |error: anyhow::Error| problems.push(anyhow!(tell(&error)));
        let tokens = self.tokens().map_err(&mut keep).ok().flatten();
        let tls = match (&self.tls_cert, &self.tls_key) {
            (Some(chain), Some(key)) => {
                web::load_tls(chain, key).context("TLS_CERT, TLS_KEY").map_err(&mut keep).ok()
            }
            (None, None) => None,
            (chain, _) => {
                let missing = if chain.is_some() { "TLS_KEY" } else { "TLS_CERT" };
                keep(anyhow!("TLS_CERT and TLS_KEY go together, but {missing} is not set"));
                None
            }
        };
        let cors = CorsOrigins::parse(&self.cors_origin).context("CORS_ORIGIN");
        let cors = cors.map_err(&mut keep).ok();
        match cors {
            Some(cors) if problems.is_empty() => Ok(CheckedHttp { tokens, tls, cors }),
            _ => Err(problems),
        }
    }

    /// Why the address may not be listened on, as far as it is one and no name.
    pub(super) fn exposed(&self) -> Option<ListenError> {
        let address = self.host.trim_matches(['[', ']']).parse().ok()?;
        let (tokens, tls) = (self.tokens_file.is_some(), self.tls_cert.is_some());
        check_listen(address, tokens, tls, self.insecure_listen).err()
    }

    /// How long Idempotency-Keys are kept.
    pub(super) const fn key_retention(&self, keys: &KeySettings) -> KeyRetention {
        KeyRetention {
            keys_max: keys.idempotency_keys,
            age_ms_max: self.idempotency_seconds.saturating_mul(1000),
        }
    }

    fn tokens(&self) -> anyhow::Result<Option<Tokens>> {
        let Some(path) = &self.tokens_file else { return Ok(None) };
        let text = std::fs::read_to_string(path)
            .with_context(|| format!("TOKENS_FILE {}", path.display()))?;
        let tokens =
            Tokens::parse(&text).with_context(|| format!("TOKENS_FILE {}", path.display()))?;
        Ok(Some(tokens))
    }

    /// The limits of connections; a stop drains for at most `drain`.
    pub(super) fn serve_settings(&self, drain: Duration) -> ServeSettings {
        ServeSettings {
            trusted_proxies: self.trusted_proxies.clone(),
            drain_timeout: drain,
            ..ServeSettings::default()
        }
    }
}

/// The servers of others to use.
#[derive(Debug, Clone)]
pub(super) struct Servers {
    /// Where messages travel, and tasks.
    pub(super) broker: Option<Broker>,
    /// Where tasks are kept.
    pub(super) database: Option<Database>,
}

impl CommonSettings {
    /// The servers to use; every problem there is.
    pub(super) fn servers(&self) -> Result<Servers, Vec<anyhow::Error>> {
        let checked = both(self.rabbitmq.check(self.shards.count()), self.database.check());
        checked.map(|(broker, database)| Servers { broker, database })
    }
}

/// Two checks as one; every problem there is.
pub(super) fn both<A, B>(
    one: Result<A, Vec<anyhow::Error>>,
    other: Result<B, Vec<anyhow::Error>>,
) -> Result<(A, B), Vec<anyhow::Error>> {
    match (one, other) {
        (Ok(one), Ok(other)) => Ok((one, other)),
        (one, other) => {
            let problems = one.err().into_iter().chain(other.err());
            Err(problems.flatten().collect())
        }
    }
}

/// The parts of `up`, checked.
pub(super) struct CheckedUp {
    pub(super) http: CheckedHttp,
    pub(super) worker: CheckedWorker,
    pub(super) capture: CheckedCapture,
    pub(super) road: CheckedRoad,
    pub(super) servers: Servers,
}

impl UpSettings {
    /// Checks all parts; every problem there is.
    pub(super) fn check(&self) -> Result<CheckedUp, Vec<anyhow::Error>> {
        let capture_and_road = both(self.capture.check(), self.road.check());
        let work_and_capture = both(self.worker.check(), capture_and_road);
        let http_and_servers = both(self.http.check(), self.common.servers());
        let checked = both(self.batch.check(), both(work_and_capture, http_and_servers));
        let ((), ((worker, (capture, road)), (http, servers))) = checked?;
        worker.fits(&servers)?;
        Ok(CheckedUp { http, worker, capture, road, servers })
    }
}
