//! The settings of whatever keeps account of ships.

use std::sync::Arc;

use clap::Args;

use crate::batch::Companion;
use crate::clock::Clock;
use crate::rooms::telemetry::ships::companion::{Kept, ShipAccounts};

/// What is kept of ships.
#[derive(Debug, Clone, Args)]
pub(super) struct ShipSettings {
    /// For how many seconds back charts have figures for each second.
    #[arg(long, env, value_name = "SECONDS", default_value_t = 86_400)]
    ship_seconds_kept: u64,
    /// For how many minutes back charts have figures for each minute.
    #[arg(long, env, value_name = "MINUTES", default_value_t = 44_640)]
    ship_minutes_kept: u64,
}

impl ShipSettings {
    /// For how long figures are kept.
    pub(super) const fn kept(&self) -> Kept {
        Kept { seconds: self.ship_seconds_kept, minutes: self.ship_minutes_kept }
    }

    /// What keeps the accounts of ships as batches are committed.
    pub(super) fn companion(&self, clock: Arc<dyn Clock>) -> Arc<dyn Companion> {
        Arc::new(ShipAccounts { clock, kept: self.kept() })
    }
}
