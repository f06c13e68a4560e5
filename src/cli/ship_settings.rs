//! The settings of whatever keeps account of ships, or of Redis.

use std::sync::Arc;

use anyhow::Context;
use clap::Args;
use clap::builder::RangedU64ValueParser;

use super::rabbitmq_settings::SecretUrl;
use crate::batch::Companion;
use crate::clock::Clock;
use crate::rooms::telemetry::ships::companion::{Kept, ShipAccounts};
use crate::rooms::telemetry::ships::redis::Address;

/// What is kept of ships, and where else it goes.
#[derive(Debug, Clone, Args)]
pub(super) struct ShipSettings {
    /// For how many seconds back charts have figures for each second: 110 bytes each for a ship.
    #[arg(long, env, value_name = "SECONDS", default_value_t = 86_400)]
    ship_seconds_kept: u64,
    /// For how many minutes back charts have figures for each minute: 110 bytes each for a ship.
    #[arg(long, env, value_name = "MINUTES", default_value_t = 44_640)]
    ship_minutes_kept: u64,
    #[command(flatten)]
    pub(super) redis: RedisSettings,
    /// The most readings of a ship's list in Redis; 0 is no limit.
    #[arg(long, env, value_name = "N", default_value_t = 1_000_000)]
    #[arg(value_parser = RangedU64ValueParser::<u64>::new().range(0..=u64::from(u32::MAX)))]
    pub(super) ship_list_max: u64,
}

/// Where Redis is, if there is one.
#[derive(Debug, Clone, Args)]
pub(super) struct RedisSettings {
    /// Telemetry goes into lists of this Redis as well: redis://user:password@host:6379/
    #[arg(long, env, value_name = "URL", hide_default_value = true)]
    redis_url: Option<SecretUrl>,
}

impl RedisSettings {
    /// Redis, if there is one; what is wrong with its URL.
    pub(super) fn check(&self) -> Result<Option<Address>, Vec<anyhow::Error>> {
        let address = self.redis_url.as_ref().map(|url| Address::new(url.exposed()));
        address.transpose().context("REDIS_URL").map_err(|error| vec![error])
    }
}

impl ShipSettings {
    /// What keeps the accounts of ships as batches are committed.
    pub(super) fn companion(&self, clock: Arc<dyn Clock>) -> Arc<dyn Companion> {
        let kept = Kept { seconds: self.ship_seconds_kept, minutes: self.ship_minutes_kept };
        Arc::new(ShipAccounts { clock, kept })
    }
}
