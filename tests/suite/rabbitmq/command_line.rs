//! Commands over RabbitMQ: what they do, and that no word of theirs holds the password.

use std::io::Write;
use std::process::{Command, Output, Stdio};

use serde_json::{Value, json};

use super::broker::{PrivateBroker, shared};
use super::wait::{rig_over, wait_in_files, wait_taken};
use crate::harness::{Process, Rig, entry, post, wait_for};

const PASSWORD: &str = "s3cret";
const WITH_BROKER: [&str; 4] = ["server", "message-consumer", "up", "publish"];

fn texts(output: &Output) -> (String, String) {
    let text = |bytes: &[u8]| String::from_utf8(bytes.to_vec()).unwrap();
    (text(&output.stdout), text(&output.stderr))
}

fn lines(entries: &[String]) -> Vec<u8> {
    entries.iter().flat_map(|entry| format!("{entry}\n").into_bytes()).collect()
}

fn entries(count: u32) -> Vec<String> {
    (0..count).map(|n| entry(n, &format!("v{n}"))).collect()
}

#[test]
fn a_password_on_the_command_line_is_refused_and_not_repeated() {
    let rig = Rig::new();
    for command in WITH_BROKER {
        for url in ["amqp://ann:s3cret@127.0.0.1:1/", "http://ann:s3cret@127.0.0.1:1/"] {
            let flag = format!("--rabbitmq-url={url}");
            for words in [vec![command, "--rabbitmq-url", url], vec![command, &flag]] {
                let output = rig.run(&words);
                let (printed, said) = texts(&output);
                assert_eq!(output.status.code(), Some(2), "{said}");
                assert!(said.contains("RABBITMQ_URL") && printed.is_empty(), "{said}");
                assert!(!said.contains(PASSWORD), "{said}");
            }
        }
    }
    assert!(!rig.state().exists());
}

#[test]
fn help_and_config_check_show_no_password_wherever_the_url_comes_from() {
    let mut rig = Rig::new();
    let file = rig.dir.path().join("settings.toml");
    std::fs::write(&file, "rabbitmq_url = \"amqp://ann:s3cret@broker:5673/prod\"\n").unwrap();
    rig.set("CONFIG", file.display());
    for from in ["settings file", "RABBITMQ_URL"] {
        if from == "RABBITMQ_URL" {
            rig.set("CONFIG", "").set(from, "amqp://ann:s3cret@broker:5673/prod");
        }
        let output = rig.run(&["config", "check"]);
        let (printed, said) = texts(&output);
        assert_eq!(output.status.code(), Some(0), "{printed}{said}");
        let line = format!("rabbitmq_url = amqp://ann@broker:5673/prod    # {from}");
        assert!(printed.contains(&line), "{printed}");
        assert!(!format!("{printed}{said}").contains(PASSWORD));
        for command in WITH_BROKER {
            let output = rig.run(&[command, "--help"]);
            assert_eq!(output.status.code(), Some(0));
            assert!(!format!("{output:?}").contains(PASSWORD), "{command}");
        }
    }
    rig.set("RABBITMQ_URL", "ann:s3cret@broker");
    for words in [&["config", "check"][..], &["server"], &["message-consumer"], &["publish"]] {
        let output = rig.run(words);
        let (printed, said) = texts(&output);
        assert!(!output.status.success());
        let told = format!("{printed}{said}");
        assert!(told.contains("not an AMQP URL") && !told.contains(PASSWORD), "{told}");
    }
}

#[test]
fn settings_of_a_broker_without_its_url_are_a_mistake() {
    let mut rig = Rig::new();
    rig.set("RABBITMQ_INTEROP", true).set("RABBITMQ_CA", "/etc/ca.pem");
    for command in WITH_BROKER {
        let output = rig.run(&[command]);
        let (_, said) = texts(&output);
        assert_eq!(output.status.code(), Some(78), "{said}");
        for name in ["RABBITMQ_INTEROP", "RABBITMQ_CA"] {
            assert!(said.contains(&format!("{name} is set, but RABBITMQ_URL is not")), "{said}");
        }
    }
    let output = rig.run(&["config", "check"]);
    assert_eq!(output.status.code(), Some(1));
    assert!(texts(&output).0.contains("RABBITMQ_INTEROP is set, but"), "{output:?}");
}

#[test]
fn no_log_and_no_answer_holds_the_password() {
    let url = shared().vhost("no-password").replace("guest:guest", "guest:s3cret");
    let mut rig = rig_over(&url);
    rig.set("LOG", "trace").set("DEBUG_ERRORS", true);
    // A login that is refused is final.
    for command in ["server", "message-consumer"] {
        let mut process = rig.start(&[command]);
        assert_eq!(process.wait().code(), Some(78), "{}", process.log());
        let log = process.log();
        assert!(log.contains("check user and password in RABBITMQ_URL"), "{log}");
        assert!(!log.contains(PASSWORD), "{log}");
    }
    let output = rig.run_with_input(&["publish"], &lines(&entries(1)));
    let (printed, said) = texts(&output);
    assert_eq!(output.status.code(), Some(78), "{said}");
    assert!(!said.contains(PASSWORD) && printed == "{\"stored\":0,\"lines\":0}\n", "{said}");
    // Nobody listens there.
    let nowhere = format!("amqp://ann:s3cret@127.0.0.1:{}/", super::ports::free_port());
    rig.set("RABBITMQ_URL", nowhere);
    let server = rig.serve(&["server"]);
    server.wait_log("connecting to the broker");
    let answer = post(server.address(), format!("[{}]", entry(0, "a")).as_bytes());
    assert_eq!(answer.status, 503);
    assert!(!String::from_utf8_lossy(&answer.body).contains(PASSWORD), "{answer:?}");
    let log = server.stop();
    assert!(log.contains("amqp://ann@127.0.0.1:") && !log.contains(PASSWORD), "{log}");
}

/// The least that the README gives to a user.
const PERMISSIONS: [&str; 3] = [
    r"'^async-data-processor\.'",
    r"'^(async-data-processor\.|amq\.default$)'",
    r"'^async-data-processor\.'",
];

#[test]
fn a_user_with_the_permissions_of_the_readme_sends_and_gets_messages() {
    let readme = include_str!("../../../README.md");
    assert!(readme.contains(&PERMISSIONS.join(" ")), "the README gives other permissions");
    let vhost = "permitted";
    let url = shared().vhost(vhost).replace("guest:guest", "ann:s3cret");
    let [configure, write, read] = PERMISSIONS.map(|p| p.trim_matches('\'').replace('\\', "\\\\"));
    shared().eval(&format!(
        r#"ok = rabbit_auth_backend_internal:add_user(<<"ann">>, <<"{PASSWORD}">>, <<"test">>),
        ok = rabbit_auth_backend_internal:set_permissions(
            <<"ann">>, <<"{vhost}">>, <<"{configure}">>, <<"{write}">>, <<"{read}">>, <<"test">>)"#
    ));
    let rig = rig_over(&url);
    let up = rig.serve(&["up"]);
    let answer = post(up.address(), format!("[{}]", entries(20).join(",")).as_bytes());
    assert_eq!((answer.status, answer.json()), (201, json!({"accepted": 20})));
    let mut stored = wait_in_files(shared(), vhost, &rig);
    stored.sort();
    assert_eq!(stored, entries(20));
    up.stop();
}

/// `publish` with its pipe open.
struct Publishing {
    child: std::process::Child,
    pipe: std::process::ChildStdin,
}

impl Publishing {
    fn start(rig: &Rig) -> Self {
        let mut command = rig.command(&["publish"]);
        command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped());
        let mut child = command.spawn().unwrap();
        let pipe = child.stdin.take().unwrap();
        Self { child, pipe }
    }

    /// Closes the pipe, if that was not the end of it.
    fn end(self) -> Output {
        drop(self.pipe);
        self.child.wait_with_output().unwrap()
    }
}

#[test]
fn a_pipe_is_stored_once_through_a_restart_of_the_broker() {
    const COUNT: u32 = 25_000;
    let broker = PrivateBroker::start();
    let rig = rig_over(&broker.url());
    let all: Vec<_> = (0..COUNT).map(|n| entry(n, &format!("{n}"))).collect();
    let (first, last) = all.split_at(all.len() / 2);
    let mut publishing = Publishing::start(&rig);
    publishing.pipe.write_all(&lines(first)).unwrap();
    let has_some = || {
        let queues = broker.queues("/");
        let shards = queues.iter().filter(|queue| queue.ends_with(".0"));
        shards.into_iter().any(|queue| broker.depth("/", queue).ready > 0).then_some(())
    };
    wait_for("the first packets", has_some);
    broker.sync_declared();
    broker.stop();
    let written = std::thread::scope(|scope| {
        // It reads no further while it has something to store.
        let writer = scope.spawn(|| publishing.pipe.write_all(&lines(last)));
        broker.start_again();
        writer.join().unwrap()
    });
    let output = publishing.end();
    let (printed, said) = texts(&output);
    assert!(written.is_ok() && output.status.success(), "{said}");
    assert_eq!(printed, format!("{{\"stored\":{COUNT},\"lines\":{COUNT}}}\n"));
    let consumer = rig.start(&["message-consumer"]);
    consumer.wait_log("\"connected to the broker\"");
    let mut stored = wait_in_files(&broker, "/", &rig);
    stored.sort();
    let mut expected = all;
    expected.sort();
    assert!(stored == expected, "{} lines of {COUNT}", stored.len());
    consumer.stop();
}

#[test]
fn a_wrong_line_or_ctrl_c_stores_what_stands_before_it() {
    let vhost = "publish-stops";
    let rig = rig_over(&shared().vhost(vhost));
    let input = [lines(&entries(10)), b"{}\n".to_vec(), lines(&entries(5))].concat();
    let output = rig.run_with_input(&["publish"], &input);
    let (printed, said) = texts(&output);
    assert_eq!(
        (output.status.code(), printed.as_str()),
        (Some(65), "{\"stored\":10,\"lines\":10}\n")
    );
    assert!(said.contains("line 11: timestamp is missing"), "{said}");
    let consumer = rig.start(&["message-consumer"]);
    let mut publishing = Publishing::start(&rig);
    publishing.pipe.write_all(&lines(&entries(8))).unwrap();
    wait_for("all to be in files", || (rig.lines().len() == 18).then_some(()));
    let id = publishing.child.id().to_string();
    assert!(Command::new("kill").args(["-s", "INT", &id]).status().unwrap().success());
    wait_for("its end", || publishing.child.try_wait().unwrap());
    let output = publishing.end();
    assert_eq!(output.status.code(), Some(130), "{output:?}");
    assert_eq!(texts(&output).0, "{\"stored\":8,\"lines\":8}\n");
    wait_taken(shared(), vhost);
    consumer.stop();
    assert_eq!(rig.verify(&[])["in_files"], 18);
}

#[test]
fn tools_of_the_consumers_state_directory_tell_of_what_it_took() {
    let vhost = "tools";
    let url = shared().vhost(vhost);
    let (mut rig, server_host) = (rig_over(&url), rig_over(&url));
    // What was consumed is soon deleted: it waits until all have been seen.
    let all_seen = rig.dir.path().join("seen");
    rig.set("EXEC", format!("until [ -e {} ]; do sleep 0.05; done; cat", all_seen.display()));
    let server = server_host.serve(&["server"]);
    let consumer = rig.start(&["message-consumer"]);
    consumer.wait_log("\"took over shards\"");
    let wrapper = ["bash", "-c", "exec \"$0\" \"$@\" >printed"];
    let mut command = rig.wrapped(&wrapper, &["tap", "--count", "5"]);
    command.env("LOG", "debug");
    let mut tap = Process::start(command);
    tap.wait_log("watching");
    let answer = post(server.address(), format!("[{}]", entries(5).join(",")).as_bytes());
    assert_eq!(answer.status, 201);
    assert_eq!(tap.wait().code(), Some(0), "{}", tap.log());
    let seen = std::fs::read_to_string(rig.dir.path().join("printed")).unwrap();
    let mut seen: Vec<_> = seen.lines().map(str::to_owned).collect();
    seen.sort();
    assert_eq!(seen, entries(5));
    std::fs::write(all_seen, "").unwrap();
    wait_in_files(shared(), vhost, &rig);
    let history: Value =
        serde_json::from_slice(&rig.run(&["history", "--output", "json"]).stdout).unwrap();
    let messages = history.as_array().unwrap().iter().map(|worker| worker["messages"].as_u64());
    assert_eq!(messages.map(Option::unwrap).sum::<u64>(), 5, "{history}");
    let account = server_host.verify(&[]);
    assert_eq!((&account["accepted"], &account["ok"]), (&0.into(), &true.into()), "{account}");
    consumer.stop();
    server.stop();
}

#[test]
fn bench_counts_what_came_through_the_broker() {
    let rig = rig_over(&shared().vhost("bench"));
    let up = rig.serve(&["up"]);
    let url = format!("http://{}", up.address());
    let load = ["--count", "2000", "--entries", "50", "--connections", "4"];
    let words = [&["bench", "--output", "json", "--url", &url][..], &load].concat();
    let output = rig.run(&words);
    let (printed, said) = texts(&output);
    assert_eq!(output.status.code(), Some(0), "{said}");
    let figures: Value = serde_json::from_str(&printed).unwrap();
    let verified = &figures["verified"];
    assert_eq!((&figures["accepted"], &verified["in_files"]), (&2000.into(), &2000.into()));
    assert_eq!(verified["ok"], true, "{figures}");
    up.stop();
}
