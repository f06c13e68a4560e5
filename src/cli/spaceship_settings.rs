//! The settings of streams of telemetry.

use std::sync::Arc;

use clap::Args;
use clap::builder::{BoolishValueParser, RangedU64ValueParser};
use ipnet::IpNet;

use super::settings::{HttpSettings, LogSettings, Port, ProcessSettings};
use crate::clock::Clock;
use crate::rooms::telemetry::spaceship::entry::{Defaults, RATE_MAX};
use crate::rooms::telemetry::spaceship::fleet::Fleet;
use crate::rooms::telemetry::spaceship::metrics::StreamMetrics;
use crate::rooms::telemetry::spaceship::target::Rules;

/// How streams are sent, and where to.
#[derive(Debug, Clone, Args)]
pub(super) struct SpaceshipSettings {
    /// Port of the spaceship to listen on; 0 takes a free one and prints it.
    #[arg(long, env, value_name = "PORT", default_value_t = 8001)]
    spaceship_port: u16,
    /// Streams that may be active at once.
    #[arg(long, env, value_name = "N", default_value_t = 100)]
    #[arg(value_parser = RangedU64ValueParser::<usize>::new().range(1..=10_000))]
    streams_max: usize,
    /// Datagrams per second of a stream that does not say; 0 is as fast as it can.
    #[arg(long, env, value_name = "N", default_value_t = 1000)]
    #[arg(value_parser = clap::value_parser!(u32).range(0..=i64::from(RATE_MAX)))]
    stream_rate: u32,
    /// After how many seconds a stream ends that does not say, and the most that it may say.
    #[arg(long, env, value_name = "SECONDS", default_value_t = 3600)]
    #[arg(value_parser = RangedU64ValueParser::<u64>::new().range(1..=31_536_000))]
    stream_lifetime_seconds: u64,
    /// Networks that may be streamed to beside this machine, separated by commas: 10.0.0.0/8
    #[arg(long, env, value_name = "CIDR", value_delimiter = ',')]
    allow_target: Vec<IpNet>,
    /// Allow streams to ports below 1024.
    #[arg(long, env, value_parser = BoolishValueParser::new())]
    allow_low_ports: bool,
}

/// `spaceship`.
#[derive(Debug, Clone, Args)]
pub(super) struct SpaceshipCommand {
    #[command(flatten)]
    pub(super) log: LogSettings,
    #[command(flatten)]
    pub(super) process: ProcessSettings,
    #[command(flatten)]
    pub(super) http: HttpSettings,
    #[command(flatten)]
    pub(super) spaceship: SpaceshipSettings,
}

impl SpaceshipSettings {
    /// Where it listens.
    pub(super) const fn port(&self) -> Port {
        Port { service: "spaceship", number: self.spaceship_port, setting: "SPACESHIP_PORT" }
    }

    /// The streams, none of which has begun.
    pub(super) fn fleet(&self, clock: Arc<dyn Clock>, metrics: StreamMetrics) -> Fleet {
        Fleet::new(self.streams_max, clock, metrics)
    }

    /// Where they may go.
    pub(super) fn rules(&self) -> Rules {
        Rules { allowed: self.allow_target.clone(), has_low_ports: self.allow_low_ports }
    }

    /// What they are unless it is said.
    pub(super) const fn defaults(&self) -> Defaults {
        Defaults { rate: self.stream_rate, lifetime_seconds: self.stream_lifetime_seconds }
    }
}
