//! The oracle: judges from the outside whether every accepted message is in the files exactly once.
//!
//! It shares no code with the program, so that no mistake can hide on both sides. `oracle load`
//! publishes entries with unique ids and keeps a synced ledger of what it sent and what was
//! answered; `oracle check` compares ledgers with files: lost, duplicated, unexpected, torn and
//! damaged are failures. It works against anything that takes `POST /message` and writes JSON
//! lines.

mod args;
mod book;
mod caller;
mod check;
mod entry;
mod factorial;
mod http;
mod json;
mod ledger;
mod load;
mod names;
mod plan;
mod random;
mod ship_book;
mod ship_check;
mod ship_load;
mod ship_server;
mod task_book;
mod task_check;
mod task_load;
mod task_server;
mod work;

use std::io::Write;
use std::process::ExitCode;

use args::Flags;

const USAGE: &str = "\
Judges from the outside whether every accepted message is in the files exactly once.

oracle load --url http://HOST:PORT --ledger FILE [--seed 1] [--connections 4] [--entries 20]
            [--requests N] [--seconds S] [--stop-file PATH] [--keys] [--rate-pause-ms M]
  Publishes requests of 1 to --entries entries until N requests were sent, S seconds have passed or
  PATH exists, whichever is first. --keys: each request has an Idempotency-Key and is repeated
  until its outcome is known. Prints a JSON summary; 0: done, 1: an answer named a wrong count.

oracle check --ledger FILE [--ledger FILE …] --output DIR [--output DIR …] [--allow-waiting]
             [--allow-torn]
  Compares ledgers and files. --allow-waiting: accepted entries may not be in the files yet.
  --allow-torn: a request that was not accepted may be there in part.
  Prints a JSON report; 0: nothing lost, duplicated, unexpected, torn or damaged, 1: something.

oracle task-load --url http://HOST:PORT --ledger FILE [--seed 1] [--connections 4] [--seconds S]
                 [--stop-file PATH] [--rate-pause-ms M]
  Submits and cancels tasks of every kind in `work.rs`, half of the requests repeated until their
  outcome is known. Prints a JSON summary; 0: done, 1: an answer was wrong.

oracle task-check --url http://HOST:PORT --ledger FILE [--runs FILE …] [--patience-seconds 60]
                  [--allow-again]
  Waits until every task has ended, then compares ledger, states and results, and the lines
  `ID ATTEMPT …` that programs have written into FILE when they began. --allow-again: an attempt may
  begin again, as over a broker, when its worker dies before anybody has heard of it.
  Prints a JSON report; 0: every accepted task has ended once and as it must, 1: one has not.

oracle ship-load --url http://SCHEDULER --ledger FILE [--seed 1] [--connections 4] [--seconds S]
                 [--stop-file PATH] [--rate-pause-ms M]
  Schedules captures, once and again and again, cancels and deletes some, half of the requests
  repeated until their outcome is known. Prints a JSON summary; 0: done, 1: an answer was wrong.

oracle ship-check --url http://SERVER --scheduler http://SCHEDULER --ledger FILE --output DIR
                  --counts FILE [--allow-again]
  When everything has ended: compares ledger, schedules, tasks, files, and what `ship-data` has
  printed into FILE. --allow-again: as for tasks.
  Prints a JSON report; 0: each schedule has one outcome, none early, none silent, and files are as
  the accounts say, 1: something is not.

Examples:
  oracle load --url http://127.0.0.1:8080 --ledger /tmp/ledger --seconds 10
  oracle check --ledger /tmp/ledger --output ./data_dump

Exit code 2: usage, or the check could not be made.
";

fn main() -> ExitCode {
    let mut words = std::env::args().skip(1);
    let word = words.next().unwrap_or_default();
    let result = match word.as_str() {
        "--help" | "help" => Ok((USAGE.trim_end().to_owned(), true)),
        command => judge(command, words),
    };
    match result {
        Ok((report, well)) => match writeln!(std::io::stdout(), "{report}") {
            Ok(()) => ExitCode::from(u8::from(!well)),
            Err(_) => ExitCode::from(2),
        },
        Err(error) => {
            // With stderr gone as well there is nobody left to tell.
            writeln!(std::io::stderr(), "oracle: {error}").ok();
            ExitCode::from(2)
        }
    }
}

/// Runs a command; its report, and whether all is well.
fn judge(command: &str, words: impl Iterator<Item = String>) -> Result<(String, bool), String> {
    let of_load = [
        "--url",
        "--ledger",
        "--seed",
        "--connections",
        "--seconds",
        "--rate-pause-ms",
        "--stop-file",
    ];
    match command {
        "load" => {
            let valued = [of_load.as_slice(), &["--requests", "--entries"]].concat();
            load::run(&Flags::parse(words, &valued, &["--keys"])?)
        }
        "check" => {
            let bare = ["--allow-waiting", "--allow-torn"];
            check::run(&Flags::parse(words, &["--ledger", "--output"], &bare)?)
        }
        "task-load" => task_load::run(&Flags::parse(words, &of_load, &[])?),
        "task-check" => {
            let valued = ["--url", "--ledger", "--runs", "--patience-seconds"];
            task_check::run(&Flags::parse(words, &valued, &["--allow-again"])?)
        }
        "ship-load" => ship_load::run(&Flags::parse(words, &of_load, &[])?),
        "ship-check" => {
            let valued = ["--url", "--scheduler", "--ledger", "--output", "--counts"];
            ship_check::run(&Flags::parse(words, &valued, &["--allow-again"])?)
        }
        _ => Err(USAGE.to_owned()),
    }
}
