//! The command line: the composition root. One file per command; settings, exit codes, logging.
//!
//! Results go to stdout, everything else to stderr. Here alone the parts are put together, so here
//! alone a backend is named.

mod answer;
mod batch_settings;
mod bench;
mod broker_metrics;
mod calculate;
mod calculate_child;
mod capture_settings;
mod capturing;
mod config;
mod database_settings;
mod dead;
mod doctor;
mod doubles;
mod exit;
mod front;
mod history;
mod input;
mod logging;
mod message_consumer;
mod page;
mod pipe;
mod process;
mod publish;
mod rabbitmq_settings;
mod road_settings;
mod scheduler;
mod scheduler_settings;
mod schedules;
mod server;
mod settings;
mod settings_file;
mod ship_data;
mod ship_settings;
mod signals;
mod spaceship;
mod spaceship_settings;
mod tap;
mod task_rooms;
mod task_settings;
mod task_store;
mod task_worker;
mod tasks;
mod topics;
mod up;
mod verify;

use clap::{CommandFactory, FromArgMatches, Parser, Subcommand};

pub use exit::{Exit, Failure};
use settings_file::Sources;

/// Lands timestamped messages in files, exactly once, with nothing else to install.
#[derive(Debug, Parser)]
#[command(
    name = "async-data-processor",
    version,
    propagate_version = true,
    max_term_width = 100,
    after_help = exit::HELP
)]
struct Cli {
    /// Settings file (TOML); a flag or an environment variable goes before it.
    #[arg(long, env = "CONFIG", global = true, value_name = "FILE")]
    config: Option<std::path::PathBuf>,
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Takes messages over HTTP and stores them durably.
    #[command(after_help = server::EXAMPLES)]
    Server(settings::ServerSettings),
    /// Brings waiting messages into files, exactly once.
    #[command(after_help = message_consumer::EXAMPLES)]
    MessageConsumer(settings::ConsumerCommand),
    /// Runs tasks, and nothing else.
    #[command(after_help = task_worker::EXAMPLES)]
    TaskWorker(settings::TaskWorkerCommand),
    /// Takes schedules over HTTP and starts what is due.
    #[command(after_help = scheduler::EXAMPLES)]
    Scheduler(settings::SchedulerCommand),
    /// Runs all of them in one process, server to spaceship: the quickest start.
    #[command(after_help = up::EXAMPLES)]
    Up(Box<settings::UpSettings>),
    /// Streams telemetry over UDP to whoever asks for it.
    #[command(after_help = spaceship::EXAMPLES)]
    Spaceship(settings::SpaceshipCommand),
    /// Stores entries from stdin, one JSON object per line.
    #[command(after_help = publish::EXAMPLES)]
    Publish(publish::PublishCommand),
    /// Checks that every accepted message is in a file, waiting, or dead.
    #[command(after_help = verify::EXAMPLES)]
    Verify(verify::VerifyCommand),
    /// Shows what each worker has done, ever.
    #[command(after_help = history::EXAMPLES)]
    History(history::HistoryCommand),
    /// Lists, shows and sends again the messages that no worker could do.
    #[command(after_help = dead::EXAMPLES)]
    Dead(dead::DeadCommand),
    /// Names the messages that this host and another have both written.
    #[command(after_help = doubles::EXAMPLES)]
    Doubles(doubles::DoublesCommand),
    /// Watches messages live without consuming them.
    #[command(after_help = tap::EXAMPLES)]
    Tap(tap::TapCommand),
    /// Shows how much is stored of each ship, or what it has measured.
    #[command(after_help = ship_data::EXAMPLES)]
    ShipData(ship_data::ShipDataCommand),
    /// Lists, shows, cancels, retries and adds tasks.
    #[command(after_help = tasks::EXAMPLES)]
    Tasks(tasks::TasksCommand),
    /// Lists, shows, cancels, deletes and adds schedules.
    #[command(after_help = schedules::EXAMPLES)]
    Schedules(schedules::SchedulesCommand),
    /// Calculates the factorial of a number.
    #[command(after_help = calculate::EXAMPLES)]
    Calculate(calculate::CalculateCommand),
    /// Loads a running server and says how fast it is, at what cost, and what arrives.
    #[command(after_help = bench::EXAMPLES)]
    Bench(bench::BenchCommand),
    /// Checks what the promises rest on, and says how to mend what weakens them.
    #[command(after_help = doctor::EXAMPLES)]
    Doctor(doctor::DoctorCommand),
    /// Checks the settings without starting anything.
    #[command(after_help = config::EXAMPLES)]
    Config(config::ConfigCommand),
    /// Calculates one factorial, for a worker.
    #[command(hide = true)]
    CalculateChild(calculate_child::ChildCommand),
}

/// Reads the command line and runs the command.
#[must_use]
pub fn main() -> std::process::ExitCode {
    let sources = Sources::read(&Cli::command());
    let parsed = sources.apply(Cli::command()).try_get_matches();
    if let Some(error) = parsed.as_ref().ok().and_then(rabbitmq_settings::exposed) {
        return Failure::new(Exit::Usage, error).report();
    }
    let cli = match parsed.and_then(|matches| Cli::from_arg_matches(&matches)) {
        Ok(cli) => cli,
        Err(error) => match sources.blame(&error) {
            Some(failure) => return failure.report(),
            // Help and version are answers, not errors; clap knows which stream and which code.
            None => error.exit(),
        },
    };
    // `config check` names what is wrong with the file together with everything else.
    if !matches!(cli.command, Command::Config(_))
        && let Some(failure) = sources.failure()
    {
        return failure.report();
    }
    let outcome = match cli.command {
        Command::Server(settings) => server::run(settings),
        Command::MessageConsumer(settings) => message_consumer::run(settings),
        Command::TaskWorker(settings) => task_worker::run(settings),
        Command::Scheduler(settings) => scheduler::run(settings),
        Command::Up(settings) => up::run(&settings),
        Command::Spaceship(command) => spaceship::run(&command),
        Command::Publish(command) => publish::run(&command),
        Command::Verify(command) => verify::run(&command),
        Command::History(command) => history::run(&command),
        Command::Dead(command) => dead::run(&command),
        Command::Doubles(command) => doubles::run(&command),
        Command::Tap(command) => tap::run(&command),
        Command::ShipData(command) => ship_data::run(&command),
        Command::Tasks(command) => tasks::run(&command),
        Command::Schedules(command) => schedules::run(&command),
        Command::Calculate(command) => calculate::run(&command),
        Command::Bench(command) => bench::run(&command),
        Command::Doctor(command) => doctor::run(&command),
        Command::Config(command) => config::run(&command, sources),
        Command::CalculateChild(command) => calculate_child::run(&command),
    };
    match outcome {
        Ok(exit) => exit.into(),
        Err(failure) => failure.report(),
    }
}
