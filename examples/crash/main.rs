//! The crash test: kills, pauses and ends the processes of the binary at random points, again and
//! again under load, and then lets the oracle say whether every accepted message is in the files
//! exactly once.
//!
//! It knows the binary from the outside only. What is drawn from the seed repeats; what the
//! machine's timing makes of it does not, so a failing seed may need several runs.

#[path = "../oracle/args.rs"]
mod args;
mod broker;
mod cycles;
mod database;
mod finish;
mod finish_ships;
mod finish_tasks;
#[path = "../oracle/http.rs"]
#[expect(dead_code, reason = "the oracle uses more of it")]
mod http;
#[path = "../oracle/json.rs"]
#[expect(dead_code, reason = "the oracle uses more of it")]
mod json;
mod ports;
mod process;
mod programs;
#[path = "../oracle/random.rs"]
mod random;
mod world;

use std::io::Write;
use std::process::ExitCode;
use std::time::Instant;

use args::Flags;
use cycles::Tally;
use finish::{Accepted, Loads};
use finish_tasks::Verdict;
use random::SplitMix64;
use world::{Load, Options, World};

const USAGE: &str = "\
Kills the processes of the binary again and again under load and checks that nothing is lost.

crash --binary PATH --oracle PATH [--seed 1] [--cycles 200] [--mode MODE] [--rabbitmq]
      [--tasks | --ships] [--postgres] [--dir DIR] [--keep] [--set NAME=VALUE …]
  --mode   server, consumer, both, up, recovery or mixed (default)
  --rabbitmq  messages and tasks travel over a RabbitMQ that the test starts (Debian's, as
           installed), kills, pauses, alarms and starts again
  --tasks  tasks instead of messages: a server and two workers, one of which may be spared for a
           while; mixed mode, or up
  --ships  spacecraft instead of messages: a server, a message-consumer that captures, a scheduler
           and a spaceship, one of which may be spared for a while, or up
  --postgres  tasks and schedules are in a PostgreSQL that the test starts, kills, pauses and starts
           again
  --dir    a new or empty directory to work in (default: one in the temporary directory)
  --keep   keep the directory also after a success; after a failure it is always kept
  --set    a further environment variable for the processes of the binary

Example:
  BUILD=target/x86_64-unknown-linux-gnu/release
  crash --binary $BUILD/async-data-processor --oracle $BUILD/examples/oracle --seed 7

Exit code 0: exactly once (of tasks and schedules: each ended once, and as it must), 1: a failure
(with the directory and the command to repeat), 2: usage.
";

fn main() -> ExitCode {
    let valued = ["--binary", "--oracle", "--seed", "--cycles", "--mode", "--dir", "--set"];
    let words: Vec<String> = std::env::args().skip(1).collect();
    if words.iter().any(|word| word == "--help") {
        return say(&mut std::io::stdout(), USAGE, 0);
    }
    let bare = ["--keep", "--rabbitmq", "--tasks", "--ships", "--postgres"];
    let options = Flags::parse(words, &valued, &bare).and_then(|flags| Options::read(&flags));
    let mut world = match options.and_then(World::new) {
        Ok(world) => world,
        Err(error) => return say(&mut std::io::stderr(), &format!("crash: {error}\n{USAGE}"), 2),
    };
    let started_at = Instant::now();
    let mut tally = Tally::default();
    match test(&mut world, &mut tally) {
        Ok(shown) => {
            let removed = if world.options.keep { Ok(()) } else { world.remove() };
            let text = success(&world, &tally, &shown, started_at.elapsed().as_secs_f64());
            match removed {
                Ok(()) => say(&mut std::io::stdout(), &text, 0),
                Err(error) => say(&mut std::io::stderr(), &error, 1),
            }
        }
        Err(error) => {
            let text = failure(&world, &error);
            // The processes end with the world, before anyone looks at the directory.
            drop(world);
            say(&mut std::io::stderr(), &text, 1)
        }
    }
}

/// Runs the test; what it has shown, as members of a JSON object.
fn test(world: &mut World, tally: &mut Tally) -> Result<String, String> {
    let mut random = SplitMix64::new(world.options.seed, 0);
    match world.options.load {
        Load::Messages => test_messages(world, &mut random, tally),
        Load::Tasks => {
            let mut load = finish_tasks::start(world)?;
            cycles::run(world, &mut random, tally)?;
            let Verdict { load, report, orphaned_ms } = finish_tasks::run(world, &mut load)?;
            let (load, report) = (load.trim(), report.trim());
            let orphaned = format!(r#""killed_to_next_run_ms_max":{orphaned_ms}"#);
            Ok(format!(r#""submitted":{load},"ended":{report},{orphaned}"#))
        }
        Load::Ships => {
            let mut load = finish_ships::start(world)?;
            cycles::run(world, &mut random, tally)?;
            let (load, report) = finish_ships::run(world, &mut load)?;
            Ok(format!(r#""scheduled":{},"ended":{}"#, load.trim(), report.trim()))
        }
    }
}

fn test_messages(
    world: &mut World,
    random: &mut SplitMix64,
    tally: &mut Tally,
) -> Result<String, String> {
    let mut loads = Loads::start(world)?;
    cycles::run(world, random, tally)?;
    let (Accepted { requests, entries, unknown_requests }, report) =
        finish::run(world, &mut loads)?;
    Ok(members(&[
        ("accepted_requests", requests),
        ("accepted_entries", entries),
        ("unknown_requests", unknown_requests),
        ("files", finish::number(&report, "files")?),
        ("recovered", finish::number(&report, "recovered")?),
        ("lost", finish::number(&report, "lost")?),
        ("duplicated", finish::number(&report, "duplicated")?),
    ]))
}

fn members(numbers: &[(&str, u64)]) -> String {
    let members = numbers.iter().map(|(name, number)| format!("\"{name}\":{number}"));
    members.collect::<Vec<_>>().join(",")
}

fn success(world: &World, tally: &Tally, shown: &str, seconds: f64) -> String {
    let cycles = world.options.cycles;
    let done = members(&[
        ("seed", world.options.seed),
        ("cycles", cycles),
        ("killed_server", tally.killed_server),
        ("killed_consumer", tally.killed_consumer),
        ("killed_worker", tally.killed_worker),
        ("killed_scheduler", tally.killed_scheduler),
        ("killed_spaceship", tally.killed_spaceship),
        ("killed_up", tally.killed_up),
        ("killed_within_60_ms", tally.killed_young),
        ("paused", tally.paused),
        ("terminated", tally.terminated),
        ("terminated_before_ready", tally.terminated_early),
        ("killed_broker", tally.killed_broker),
        ("paused_broker", tally.paused_broker),
        ("cut_connections", tally.cut_connections),
        ("alarms", tally.alarms),
        ("killed_database", tally.killed_database),
        ("restarted_database", tally.restarted_database),
        ("paused_database", tally.paused_database),
        ("cut_sessions", tally.cut_sessions),
    ]);
    let mode = format!("\"mode\":\"{:?}\"", world.options.mode).to_lowercase();
    let rate = 3.0 / cycles as f64;
    let bound = format!("\"bounds the failure rate at 3/{cycles} = {rate:.4} (95 %)\"");
    format!("{{{mode},{done},{shown},\"seconds\":{seconds:.1},\"bound\":{bound}}}")
}

fn failure(world: &World, error: &str) -> String {
    let mut words = std::env::args();
    let mut repeat = String::new();
    while let Some(word) = words.next() {
        if word == "--dir" {
            // The directory must be empty, and this one is kept.
            words.next();
        } else {
            repeat += &format!(" {word}");
        }
    }
    let (seed, directory) = (world.options.seed, world.directory.display());
    format!("FAILED: {error}\nseed {seed}, everything is in {directory}\nagain:{repeat}")
}

fn say(to: &mut dyn Write, text: &str, code: u8) -> ExitCode {
    match writeln!(to, "{}", text.trim_end()) {
        Ok(()) => ExitCode::from(code),
        Err(_) => ExitCode::from(code.max(1)),
    }
}
