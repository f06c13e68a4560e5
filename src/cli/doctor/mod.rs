//! `doctor`: checks what the promises rest on, and says how to mend what weakens them.
//!
//! Each check is a file of its own, which gives findings and knows of no other. None of them
//! changes anything: no file is made, no queue declared that is not there, no message sent.
//!
//! | check | looks at |
//! |---|---|
//! | `state`, `output` | the directories and their disks |
//! | `access` | what the URL of the broker gives away |
//! | `product` | what the broker says to be |
//! | `queues` | whether they are what a start would make, and what waits in them |
//! | `nodes`, `policies` | what only the management API tells |
//! | `database` | the PostgreSQL that tasks are kept in |

mod access;
mod broker;
mod database;
mod disk;
mod finding;
mod management;
mod nodes;
mod output;
mod policies;
mod product;
mod queues;
mod state;

use anyhow::Context;
use clap::Args;

use super::answer::{Output, print_json};
use super::exit::{Exit, Failure, OrExit};
use super::process::network_runtime;
use super::settings::{
    Broker, Database, DatabaseSettings, ManagementSettings, OutputSettings, RabbitSettings,
    ShardSettings, StateSettings, both,
};
use crate::broker::rabbitmq::management::Management;
use finding::{Finding, Report};

pub(super) const EXAMPLES: &str = "\
Nothing is changed: no directory or queue is made, no message sent. Exit code 1 if there is a
problem, 69 if the broker or the database cannot be reached.

Examples:
  async-data-processor doctor
  async-data-processor doctor --output json | jq '.findings[] | select(.level == \"problem\")'
  RABBITMQ_URL=amqp://ann:secret@broker/ async-data-processor doctor";

/// `doctor`.
#[derive(Debug, Args)]
pub(super) struct DoctorCommand {
    #[command(flatten)]
    state: StateSettings,
    #[command(flatten)]
    shards: ShardSettings,
    #[command(flatten)]
    rabbitmq: RabbitSettings,
    #[command(flatten)]
    management: ManagementSettings,
    #[command(flatten)]
    database: DatabaseSettings,
    #[command(flatten)]
    output_dir: OutputSettings,
    /// How it is printed.
    #[arg(long, value_name = "FORMAT", default_value = "table")]
    output: Output,
}

pub(super) fn run(command: &DoctorCommand) -> Result<Exit, Failure> {
    super::logging::start(&command.state.log)?;
    let broker = command.rabbitmq.check(command.shards.count());
    let management = command.rabbitmq.management(&command.management);
    let broker = both(broker, management);
    let database = command.database.check();
    let ((broker, management), database) = both(broker, database).map_err(Failure::of_settings)?;
    let (mut findings, state) = state::check(&command.state);
    findings.extend(output::check(&command.output_dir, &command.state, state.as_ref()));
    drop(state);
    let mut is_reached = true;
    if let Some(broker) = broker {
        let (found, reached) = check_broker(&broker, management.as_ref())?;
        findings.extend(found);
        is_reached = reached;
    }
    if let Some(database) = database {
        let (found, reached) = check_database(&database)?;
        findings.extend(found);
        is_reached &= reached;
    }
    let report = Report::new(findings);
    let mut out = std::io::stdout().lock();
    let printed = match command.output {
        Output::Json => print_json(&mut out, &report),
        Output::Table => report.print(&mut out),
    };
    printed.context("writing to stdout").or_exit(Exit::Io)?;
    Ok(match (is_reached, report.ok) {
        (false, _) => Exit::Unavailable,
        (true, false) => Exit::CheckFailed,
        (true, true) => Exit::Done,
    })
}

/// What is found of a database, and whether it could be reached.
fn check_database(database: &Database) -> Result<(Vec<Finding>, bool), Failure> {
    Ok(network_runtime(1)?.block_on(database::check(&database.address)))
}

/// What is found of a broker, and whether it could be reached.
fn check_broker(
    broker: &Broker,
    management: Option<&Management>,
) -> Result<(Vec<Finding>, bool), Failure> {
    let runtime = network_runtime(1)?;
    Ok(runtime.block_on(async {
        let mut findings = access::check(&broker.address);
        let met = broker::check(broker).await;
        findings.extend(met.findings);
        findings.extend(management::check(management, broker, met.greeting.as_ref()).await);
        (findings, met.is_reached)
    }))
}
