//! `verify`: is every accepted message in a file, waiting, or dead?

use std::io::{ErrorKind, Write};

use anyhow::Context;
use clap::Args;

use super::answer::{Output, print_json};
use super::exit::{Exit, Failure, OrExit};
use super::process::open_existing_state;
use super::settings::{OutputSettings, StateSettings};
use crate::batch::disk::{Disk, OutputDir};
use crate::batch::output::{check, is_bound};
use crate::batch::verify::{Account, ShardAccount, verify};

pub(super) const EXAMPLES: &str = "\
Exit code 1 if messages are missing, doubled or damaged.

Examples:
  async-data-processor verify
  async-data-processor verify --allow-taken-away     # a shipper moves files on
  async-data-processor verify --output json | jq .findings";

/// `verify`.
#[derive(Debug, Args)]
pub(super) struct VerifyCommand {
    #[command(flatten)]
    state: StateSettings,
    #[command(flatten)]
    output_dir: OutputSettings,
    /// A file that is gone was read and taken away, and is not missing.
    #[arg(long)]
    allow_taken_away: bool,
    /// How it is printed.
    #[arg(long, value_name = "FORMAT", default_value = "table")]
    output: Output,
}

pub(super) fn run(command: &VerifyCommand) -> Result<Exit, Failure> {
    super::logging::start(&command.state.log)?;
    let state = open_existing_state(&command.state)?;
    // Without an output directory every file counts as missing, which is what it is.
    let path = &command.output_dir.data_output_dir;
    let disk = match OutputDir::open(path) {
        Err(error) if error.kind() == ErrorKind::NotFound => None,
        opened => Some(
            opened
                .with_context(|| format!("output directory {}", path.display()))
                .or_exit(Exit::CannotCreate)?,
        ),
    };
    if let Some(disk) = &disk
        && is_bound(&state).or_exit(Exit::Io)?
    {
        check(&state, disk, disk.path()).or_exit(Exit::CannotCreate)?;
    }
    let disk = disk.as_ref().map(|disk| disk as &dyn Disk);
    let account = verify(&state, disk, command.allow_taken_away).or_exit(Exit::Io)?;
    let mut out = std::io::stdout().lock();
    let printed = match command.output {
        Output::Json => print_json(&mut out, &account),
        Output::Table => print_account(&mut out, &account),
    };
    printed.context("writing to stdout").or_exit(Exit::Io)?;
    Ok(if account.ok { Exit::Done } else { Exit::CheckFailed })
}

fn print_account(out: &mut impl Write, account: &Account) -> std::io::Result<()> {
    writeln!(
        out,
        "{:>5} {:>12} {:>12} {:>12} {:>12} {:>12} {:>10}",
        "shard", "accepted", "in files", "taken away", "pruned", "waiting", "dead"
    )?;
    for shard in &account.shards {
        let ShardAccount { accepted, in_files, taken_away, pruned, waiting, dead, .. } = shard;
        let shard = shard.key().short();
        writeln!(
            out,
            "{shard:>5} {accepted:>12} {in_files:>12} {taken_away:>12} {pruned:>12} {waiting:>12} \
             {dead:>10}"
        )?;
    }
    let Account { accepted, in_files, waiting, dead, .. } = account;
    let sign = if accepted == &(in_files + waiting + dead) { "=" } else { "!=" };
    writeln!(
        out,
        "accepted {accepted} {sign} in files {in_files} + waiting {waiting} + dead {dead}"
    )?;
    for finding in &account.findings {
        writeln!(
            out,
            "{}: shard {}, offsets {}: {}",
            format!("{:?}", finding.kind).to_lowercase(),
            finding.key().short(),
            finding.range,
            finding.detail
        )?;
    }
    writeln!(out, "{}", if account.ok { "ok" } else { "NOT OK" })
}
