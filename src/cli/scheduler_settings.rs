//! The settings of whatever answers for schedules.

use clap::Args;

use super::settings::{
    DatabaseSettings, HttpSettings, Port, ProcessSettings, RetentionSettings, StateSettings,
};

/// Where the scheduler listens.
#[derive(Debug, Clone, Args)]
pub(super) struct SchedulerPort {
    /// Port of the scheduler to listen on; 0 takes a free one and prints it.
    #[arg(long, env, value_name = "PORT", default_value_t = 8000)]
    scheduler_port: u16,
}

impl SchedulerPort {
    pub(super) const fn port(&self) -> Port {
        Port { service: "scheduler", number: self.scheduler_port, setting: "SCHEDULER_PORT" }
    }
}

/// `scheduler`.
#[derive(Debug, Clone, Args)]
pub(super) struct SchedulerCommand {
    #[command(flatten)]
    pub(super) state: StateSettings,
    #[command(flatten)]
    pub(super) process: ProcessSettings,
    #[command(flatten)]
    pub(super) database: DatabaseSettings,
    #[command(flatten)]
    pub(super) http: HttpSettings,
    #[command(flatten)]
    pub(super) port: SchedulerPort,
    #[command(flatten)]
    pub(super) retention: RetentionSettings,
}
