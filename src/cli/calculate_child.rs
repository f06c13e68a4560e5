//! The hidden command by which a worker has one large factorial calculated in another process.

use std::num::NonZeroUsize;
use std::path::PathBuf;

use clap::Args;

use super::exit::{Exit, Failure, OrExit};
use super::process::without_huge_pages;
use crate::rooms::calculations::work;

/// `calculate-child`.
#[derive(Debug, Args)]
pub(super) struct ChildCommand {
    /// Whose factorial.
    input: u64,
    /// Where the digits go.
    #[arg(long)]
    output: PathBuf,
    /// How many threads.
    #[arg(long)]
    threads: NonZeroUsize,
    /// The process that wants it: this one dies with it.
    #[arg(long)]
    parent: u32,
}

pub(super) fn run(command: &ChildCommand) -> Result<Exit, Failure> {
    let ChildCommand { input, output, threads, parent } = command;
    // Unlike the process that has started this one, it has much in few pieces.
    without_huge_pages(false);
    work::calculate(*input, *threads, output, *parent).or_exit(Exit::Software)?;
    Ok(Exit::Done)
}
