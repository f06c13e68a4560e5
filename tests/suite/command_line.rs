//! The command line: help, usage, settings and where they come from, what goes to which stream.

mod publish;
mod state_dir;
mod tasks;
mod tools;

use std::process::{Command, Output};

use serde_json::Value;

use crate::harness::{BINARY, Process, Rig};

const COMMANDS: [&[&str]; 39] = [
    &[],
    &["server"],
    &["message-consumer"],
    &["task-worker"],
    &["scheduler"],
    &["up"],
    &["spaceship"],
    &["publish"],
    &["verify"],
    &["history"],
    &["tap"],
    &["dead"],
    &["dead", "list"],
    &["dead", "show"],
    &["dead", "resend"],
    &["doubles"],
    &["ship-data"],
    &["tasks"],
    &["tasks", "list"],
    &["tasks", "show"],
    &["tasks", "cancel"],
    &["tasks", "retry"],
    &["tasks", "submit"],
    &["schedules"],
    &["schedules", "list"],
    &["schedules", "show"],
    &["schedules", "cancel"],
    &["schedules", "delete"],
    &["schedules", "add"],
    &["calculate"],
    &["bench"],
    &["bench", "limit"],
    &["bench", "tasks"],
    &["bench", "calculations"],
    &["bench", "captures"],
    &["bench", "schedules"],
    &["doctor"],
    &["config"],
    &["config", "check"],
];

fn stdout(output: &Output) -> String {
    String::from_utf8(output.stdout.clone()).unwrap()
}

fn stderr(output: &Output) -> String {
    String::from_utf8(output.stderr.clone()).unwrap()
}

/// Expects a code, and nothing on stdout; what it said.
fn refused(output: &Output, code: i32) -> String {
    assert_eq!(output.status.code(), Some(code), "{output:?}");
    assert_eq!(stdout(output), "");
    stderr(output)
}

/// The last words of a process: logs may stand before them.
fn last_line(text: &str) -> &str {
    text.trim_end().lines().last().unwrap_or_default()
}

#[test]
fn help_starts_with_a_sentence_and_ends_with_examples() {
    let rig = Rig::new();
    for command in COMMANDS {
        let output = rig.run(&[command, &["--help"]].concat());
        assert_eq!(output.status.code(), Some(0));
        assert_eq!(stderr(&output), "");
        let help = stdout(&output);
        let (first, rest) = help.split_once("\n\n").unwrap();
        assert!(first.len() > 20 && !first.contains('\n'), "{command:?}: {first}");
        assert!(rest.starts_with("Usage: async-data-processor"), "{command:?}: {rest}");
        let examples = help.rsplit_once("\nExamples:\n").unwrap().1;
        let call = |line: &str| line.starts_with("  ") && !line.trim().is_empty();
        assert!(examples.lines().count() >= 2, "{command:?}: {examples}");
        assert!(examples.lines().all(call), "{command:?} does not end with examples: {examples}");
        assert!(help.lines().all(|line| line.chars().count() <= 100), "{command:?}");
    }
    assert_eq!(std::fs::read_dir(rig.dir.path()).unwrap().count(), 0, "help makes files");
}

#[test]
fn wrong_usage_is_told_apart_and_stores_nothing() {
    let rig = Rig::new();
    for (arguments, said) in [
        (&[][..], "Usage: "),
        (&["histroy"], "a similar subcommand exists: 'history'"),
        (&["server", "--prot", "1"], "a similar argument exists: '--port'"),
        (&["server", "--port", "x"], "invalid value 'x' for '--port <PORT>'"),
        (&["server", "--port", "65536"], "65536 is not in 0..=65535"),
        (&["up", "--shards-count", "0"], "0 is not in 1..=256"),
        (&["up", "--log", "a=b=c"], "invalid value 'a=b=c' for '--log <FILTER>'"),
        (&["history", "--output", "xml"], "[possible values: table, json, csv]"),
        (&["verify", "--output", "csv"], "[possible values: table, json]"),
        (&["tap", "--from", "then"], "it may be now, waiting, or an offset"),
        (&["tap", "--shard", "256"], "256 is not in 0..256"),
        (&["tap", "--count", "0"], "0 is not in 1.."),
        (&["verify", "extra"], "unexpected argument 'extra'"),
        (&["history", "--config"], "a value is required for '--config <FILE>'"),
        (&["config"], "Usage: async-data-processor config"),
    ] {
        let said_so = refused(&rig.run(arguments), 2);
        assert!(said_so.contains(said), "{arguments:?}: {said_so}");
    }
    assert_eq!(std::fs::read_dir(rig.dir.path()).unwrap().count(), 0);
}

#[test]
fn a_wrong_value_is_told_by_where_it_comes_from() {
    let mut rig = Rig::new();
    rig.set("SHARDS_COUNT", "0");
    let said = refused(&rig.run(&["publish"]), 78);
    assert_eq!(said, "error: SHARDS_COUNT is \"0\": 0 is not in 1..=256\n");
    let said = refused(&rig.run(&["publish", "--shards-count", "0"]), 2);
    assert!(said.contains("'--shards-count <N>'"), "{said}");
    assert_eq!(rig.run(&["publish", "--shards-count", "3"]).status.code(), Some(0));
    assert_eq!(rig.run(&["history"]).status.code(), Some(0), "history has no shards");
    rig.set("SHARDS_COUNT", "");
    let file = rig.dir.path().join("settings.toml");
    std::fs::write(&file, "shards_count = 257\n").unwrap();
    rig.set("CONFIG", file.display());
    let said = refused(&rig.run(&["publish"]), 78);
    let expected = "shards_count in the settings file is \"257\": 257 is not in 1..=256";
    assert_eq!(said, format!("error: {expected}\n"));
}

#[test]
fn a_flag_goes_before_environment_before_file_before_default() {
    let mut rig = Rig::new();
    let file = rig.dir.path().join("settings.toml");
    std::fs::write(&file, "host = \"127.0.0.2\"\ninsecure_listen = true\n").unwrap();
    let host = |rig: &Rig, arguments: &[&str]| {
        let server = rig.serve(&[&["server"], arguments].concat());
        let address = server.address().ip().to_string();
        server.stop();
        address
    };
    let shown = |rig: &Rig| {
        let report = stdout(&rig.run(&["config", "check"]));
        report.lines().find(|line| line.starts_with("host = ")).unwrap().to_owned()
    };
    assert_eq!(host(&rig, &[]), "127.0.0.1");
    assert_eq!(shown(&rig), "host = 127.0.0.1    # default");
    rig.set("CONFIG", file.display());
    assert_eq!(host(&rig, &[]), "127.0.0.2");
    assert_eq!(shown(&rig), "host = 127.0.0.2    # settings file");
    rig.set("HOST", "127.0.0.3");
    assert_eq!(host(&rig, &[]), "127.0.0.3");
    assert_eq!(shown(&rig), "host = 127.0.0.3    # HOST");
    assert_eq!(host(&rig, &["--host", "127.0.0.4"]), "127.0.0.4");
    rig.set("HOST", "");
    assert_eq!(host(&rig, &[]), "127.0.0.2", "an empty variable counts as not set");
}

#[test]
fn config_check_names_every_problem_at_once_and_starts_nothing() {
    let mut rig = Rig::new();
    let file = rig.dir.path().join("settings.toml");
    let text = "prot = 1\nshard_count = 3\nbatch_max = \"many\"\nbatch_linger_ms = 5\n\
                tls_cert = \"/nowhere\"\ncors_origin = [\"https://a.example\", \"b.example\"]\n";
    std::fs::write(&file, text).unwrap();
    rig.set("CONFIG", file.display()).set("SHARDS_COUNT", "0").set("LOG", "a=b=c");
    rig.set("FILES_PER_SECOND", "-1").set("HOST", "0.0.0.0").set("LOG_FORMAT", "xml");
    rig.set("STATE_DIR", file.display());
    let output = rig.run(&["config", "check"]);
    assert_eq!(output.status.code(), Some(1));
    assert_eq!(stderr(&output), "");
    let report = stdout(&output);
    let problems: Vec<_> =
        report.lines().filter_map(|line| line.strip_prefix("problem: ")).collect();
    for expected in [
        "unknown key \"prot\"; did you mean \"port\"?",
        "unknown key \"shard_count\"; did you mean \"shards_count\"?",
        "batch_max in the settings file is \"many\": ",
        "SHARDS_COUNT is \"0\": 0 is not in 1..=256",
        "LOG is \"a=b=c\": ",
        "LOG_FORMAT is \"xml\": it may be auto, human, json",
        "FILES_PER_SECOND must be",
        "HOST: 0.0.0.0 can be reached from other machines, but there is no token",
        "TLS_CERT and TLS_KEY go together, but TLS_KEY is not set",
        "CORS_ORIGIN: b.example is not an origin",
        "settings.toml is there, but is no directory",
    ] {
        let found = problems.iter().filter(|problem| problem.contains(expected)).count();
        assert_eq!(found, 1, "{expected} in\n{report}");
    }
    assert_eq!(problems.len(), 11, "{report}");
    assert!(report.ends_with("NOT OK\n"), "{report}");
    assert!(report.contains("\nbatch_linger_ms = 5    # settings file\n"), "{report}");
    assert_eq!(std::fs::read_dir(rig.dir.path()).unwrap().count(), 1, "it makes files");
}

#[test]
fn config_check_is_content_with_what_a_start_is_content_with() {
    let mut rig = Rig::new();
    let report = stdout(&rig.run(&["config", "check"]));
    assert!(report.ends_with("\nok\n"), "{report}");
    rig.set("TRUSTED_PROXIES", "").set("CORS_ORIGIN", "").set("TLS_CERT", "").set("LOG", "");
    rig.set("INSECURE_LISTEN", "1").set("DEBUG_ERRORS", "no");
    let output = rig.run(&["config", "check"]);
    assert_eq!(output.status.code(), Some(0), "{}", stdout(&output));
    rig.serve(&["up"]).stop();
}

#[test]
fn secrets_are_not_printed() {
    let mut rig = Rig::new();
    let tokens = rig.dir.path().join("tokens");
    std::fs::write(&tokens, "shop:wirte:s3cret\ns3cret\nops:read:s3cret!\n").unwrap();
    rig.set("TOKENS_FILE", tokens.display());
    let report = stdout(&rig.run(&["config", "check"]));
    assert!(report.contains("line 2: it is not name:scopes:token"), "{report}");
    let started = rig.run(&["server"]);
    assert_eq!(started.status.code(), Some(78));
    let file = rig.dir.path().join("settings.toml");
    std::fs::write(&file, "port = 1\ntoken = s3cret\n").unwrap();
    rig.set("CONFIG", file.display());
    let malformed = rig.run(&["history"]);
    let said = refused(&malformed, 78);
    assert!(said.contains("settings.toml: line 2: "), "{said}");
    std::fs::write(&tokens, "shop:write:s3cret\n").unwrap();
    rig.set("CONFIG", "").set("LOG", "trace");
    let help = stdout(&rig.run(&["server", "--help"]));
    let log = rig.serve(&["server"]).stop();
    for text in [report, stderr(&started), said, help, log] {
        assert!(!text.contains("s3cret"), "{text}");
    }
}

#[test]
fn a_broken_settings_file_stops_a_start_but_no_help() {
    let mut rig = Rig::new();
    rig.set("CONFIG", "/nowhere/settings.toml");
    let said = refused(&rig.run(&["up"]), 78);
    assert!(
        said.starts_with("error: settings file /nowhere/settings.toml: No such file"),
        "{said}"
    );
    assert_eq!(rig.run(&["up", "--help"]).status.code(), Some(0));
    let file = rig.dir.path().join("settings.toml");
    for text in ["[table]\nport = 1\n", "port = 2026-11-22\n"] {
        std::fs::write(&file, text).unwrap();
        rig.set("CONFIG", file.display());
        let said = refused(&rig.run(&["up"]), 78);
        assert!(said.contains("is neither text, number, flag nor list"), "{said}");
    }
}

#[test]
fn two_servers_on_one_port_do_not_both_start() {
    let mut rig = Rig::new();
    let first = rig.serve(&["server"]);
    rig.set("PORT", first.address().port());
    for command in ["server", "up"] {
        let said = refused(&rig.run(&[command]), 69);
        let expected = format!("error: cannot listen on {} (HOST, PORT): ", first.address());
        assert!(last_line(&said).starts_with(&expected), "{said}");
        assert!(last_line(&said).contains("Address already in use"), "{said}");
    }
    first.stop();
}

#[test]
fn results_go_to_stdout_and_logs_to_stderr() {
    let mut rig = Rig::new();
    rig.set("LOG", "trace");
    let line = "{\"timestamp\":\"2026-11-22T07:30:00Z\"}\n".as_bytes();
    let published = rig.run_with_input(&["publish"], line);
    assert_eq!(stdout(&published), "{\"stored\":1,\"lines\":1}\n");
    for arguments in [&["verify", "--output", "json"][..], &["history", "--output", "json"]] {
        let output = rig.run(arguments);
        serde_json::from_slice::<Value>(&output.stdout).unwrap();
        assert_eq!(stdout(&output).lines().count(), 1);
        for line in stderr(&output).lines() {
            serde_json::from_str::<Value>(line).unwrap();
        }
    }
    let wrapper = ["bash", "-c", "exec \"$0\" \"$@\" >printed"];
    let up = Process::start(rig.wrapped(&wrapper, &["up"]));
    up.wait_log("took over shards");
    for line in up.stop().lines() {
        serde_json::from_str::<Value>(line).unwrap();
    }
    assert_eq!(std::fs::read_to_string(rig.dir.path().join("printed")).unwrap(), "");
}

#[test]
fn there_are_no_colours_without_a_terminal() {
    let mut rig = Rig::new();
    rig.set("LOG_FORMAT", "human").set("LOG", "debug").set("TERM", "xterm-256color");
    let line = "{\"timestamp\":\"2026-11-22T07:30:00Z\"}\nwrong\n".as_bytes();
    let mut outputs = vec![rig.run_with_input(&["publish"], line)];
    for arguments in
        [&["--help"][..], &["server", "--prot"], &["verify"], &["history"], &["config", "check"]]
    {
        outputs.push(rig.run(arguments));
    }
    for output in outputs {
        assert!(!output.stdout.is_empty() || !output.stderr.is_empty());
        let text = stdout(&output) + &stderr(&output);
        assert!(!text.contains('\u{1b}'), "{text:?}");
    }
    let process = rig.start(&["message-consumer"]);
    process.wait_log("took over shards");
    let log = process.stop();
    assert!(log.contains(" INFO ") && !log.contains('\u{1b}'), "{log:?}");
}

#[test]
fn the_version_is_that_of_the_package() {
    let output = Command::new(BINARY).arg("--version").output().unwrap();
    let expected = concat!("async-data-processor ", env!("CARGO_PKG_VERSION"), "\n");
    assert_eq!(stdout(&output), expected);
}
