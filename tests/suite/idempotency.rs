//! `Idempotency-Key`: a request that is repeated, for whatever reason, is stored once, and says so.

use std::io::{Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::sync::mpsc;
use std::thread::JoinHandle;

use async_data_processor::state::{State, StateOptions};

use crate::harness::{Answer, Rig, entry, post, request, wait_for};

const KEY_BYTES_MAX: usize = 255;

/// Posts a body with a key.
fn post_with(address: SocketAddr, key: &str, body: &str) -> Answer {
    request(address, "POST", "/message", &[("Idempotency-Key", key)], body.as_bytes())
}

/// The write lock of a state environment, held by this process.
pub(crate) struct Hold {
    until: mpsc::Sender<()>,
    holder: JoinHandle<()>,
}

impl Hold {
    pub(crate) fn take(rig: &Rig) -> Self {
        let (until, end) = mpsc::channel();
        let (held, is_held) = mpsc::channel();
        let options = StateOptions {
            dir: rig.state(),
            map_bytes: 64 << 30,
            low_water_bytes: None,
            on_poison: Box::new(|_| {}),
        };
        let holder = std::thread::spawn(move || {
            let state = State::open(options).unwrap();
            let held = state.commit(move |_| {
                held.send(()).unwrap();
                end.recv().unwrap();
                Ok(())
            });
            held.unwrap();
        });
        is_held.recv().unwrap();
        Self { until, holder }
    }

    pub(crate) fn let_go(self) {
        self.until.send(()).unwrap();
        self.holder.join().unwrap();
    }
}

fn body(entries: u32, value: &str) -> String {
    let entries: Vec<_> = (0..entries).map(|n| entry(n, value)).collect();
    format!("[{}]", entries.join(","))
}

fn receipt(answer: &Answer) -> String {
    assert_eq!(answer.status, 201, "{answer:?}");
    answer.json()["receipt"].as_str().unwrap().to_owned()
}

fn is_replayed(answer: &Answer) -> bool {
    assert_eq!(answer.status, 201, "{answer:?}");
    let said = answer.header("idempotency-replayed");
    assert!(said.is_none() || said == Some("true"), "{answer:?}");
    said.is_some()
}

fn accepted(rig: &Rig) -> u64 {
    rig.verify(&[])["accepted"].as_u64().unwrap()
}

#[test]
fn a_repeated_request_gets_the_first_answer_and_is_stored_once() {
    let rig = Rig::new();
    let server = rig.serve(&["server"]);
    let address = server.address();
    for (key, entries) in [("one", 7), ("none", 0), (&"k".repeat(KEY_BYTES_MAX), 1)] {
        let before = accepted(&rig);
        let first = post_with(address, key, &body(entries, "a"));
        assert!(!is_replayed(&first));
        assert_eq!(first.json()["accepted"], entries);
        // Whatever happens in between.
        assert_eq!(post(address, body(2, "b").as_bytes()).status, 201);
        for again in [key.to_owned(), format!("\"{key}\"")] {
            let again = post_with(address, &again, &body(entries, "a"));
            assert!(is_replayed(&again), "{again:?}");
            assert_eq!(again.body, first.body);
            assert_eq!(again.header("location"), first.header("location"));
        }
        assert_eq!(accepted(&rig), before + u64::from(entries) + 2);
    }
}

#[test]
fn another_body_under_the_same_key_is_422_and_not_stored() {
    let rig = Rig::new();
    let server = rig.serve(&["server"]);
    let address = server.address();
    let first = receipt(&post_with(address, "one", &body(1, "a")));
    for other in [body(1, "b"), body(2, "a"), "[]".to_owned(), format!("{} ", body(1, "a"))] {
        let answer = post_with(address, "one", &other);
        assert_eq!(answer.status, 422, "{answer:?}");
        assert!(answer.json()["error"].as_str().unwrap().contains("Idempotency-Key"), "{answer:?}");
    }
    assert_eq!(receipt(&post_with(address, "one", &body(1, "a"))), first);
    assert_eq!(accepted(&rig), 1);
}

#[test]
fn a_request_that_was_refused_does_not_use_up_its_key() {
    let rig = Rig::new();
    let server = rig.serve(&["server"]);
    let address = server.address();
    assert_eq!(post_with(address, "one", "[{}]").status, 400);
    assert_eq!(post_with(address, "one", "[{\"a\":1,\"a\":1}]").status, 422);
    assert!(!is_replayed(&post_with(address, "one", &body(1, "a"))));
    assert_eq!(accepted(&rig), 1);
}

#[test]
fn a_key_that_cannot_be_kept_is_400_and_nothing_is_stored() {
    let rig = Rig::new();
    let server = rig.serve(&["server"]);
    let address = server.address();
    for key in ["", "\"\"", &"k".repeat(KEY_BYTES_MAX + 1), "sch\u{f6}n"] {
        let answer = post_with(address, key, &body(1, "a"));
        assert_eq!(answer.status, 400, "{key}: {answer:?}");
        let text = answer.json()["error"].as_str().unwrap().to_owned();
        assert!(text.contains("Idempotency-Key") && text.contains("255"), "{text}");
    }
    let twice = [("Idempotency-Key", "a"), ("Idempotency-Key", "b")];
    let answer = request(address, "POST", "/message", &twice, body(1, "a").as_bytes());
    assert_eq!(answer.status, 400, "{answer:?}");
    assert_eq!(accepted(&rig), 0);
}

#[test]
fn an_echo_is_echoed_again() {
    let rig = Rig::new();
    let server = rig.serve(&["server"]);
    let sent = body(3, "a");
    let lines: Vec<_> = (0..3).map(|n| entry(n, "a")).collect();
    let lines = lines.join("\r\n");
    let prefer = ("Prefer", "return=representation");
    for (key, media_type, text) in
        [("array", "application/json", &sent), ("lines", "application/x-ndjson", &lines)]
    {
        let headers = [("Idempotency-Key", key), ("Content-Type", media_type), prefer];
        let ask = || request(server.address(), "POST", "/message", &headers, text.as_bytes());
        let (first, again) = (ask(), ask());
        assert!(!is_replayed(&first) && is_replayed(&again), "{again:?}");
        for answer in [&first, &again] {
            assert_eq!(String::from_utf8_lossy(&answer.body), sent);
            assert_eq!(answer.header("preference-applied"), Some("return=representation"));
        }
        assert_eq!(first.header("location"), again.header("location"));
    }
    assert_eq!(accepted(&rig), 6);
}

#[test]
fn a_key_that_is_being_worked_on_is_409_for_others_until_it_is_stored() {
    let rig = Rig::new();
    let server = rig.serve(&["server"]);
    let address = server.address();
    // No request gets on meanwhile.
    let hold = Hold::take(&rig);
    let (told, answers) = mpsc::channel();
    let all: Vec<_> = (0..8)
        .map(|_| {
            let told = told.clone();
            std::thread::spawn(move || told.send(post_with(address, "one", &body(2, "a"))).unwrap())
        })
        .collect();
    for _ in 0..7 {
        let answer = answers.recv().unwrap();
        assert_eq!((answer.status, answer.header("retry-after")), (409, Some("1")), "{answer:?}");
        assert!(answer.json()["error"].as_str().unwrap().contains("Idempotency-Key"), "{answer:?}");
    }
    hold.let_go();
    assert!(!is_replayed(&answers.recv().unwrap()));
    for thread in all {
        thread.join().unwrap();
    }
    assert!(is_replayed(&post_with(address, "one", &body(2, "a"))));
    assert_eq!(accepted(&rig), 2);
}

/// Posts one body again and again under one key from many clients, to each server in turn, until
/// each client has its 201. Exactly one of them is not a replay, and all have one receipt.
fn race(addresses: &[SocketAddr], key: &str) {
    let outcomes: Vec<_> = std::thread::scope(|scope| {
        let clients: Vec<_> = (0..16)
            .map(|client| {
                let address = addresses[client % addresses.len()];
                scope.spawn(move || {
                    wait_for("a 201", || {
                        let answer = post_with(address, key, &body(3, "a"));
                        assert!([201, 409].contains(&answer.status), "{answer:?}");
                        (answer.status == 201).then(|| (is_replayed(&answer), receipt(&answer)))
                    })
                })
            })
            .collect();
        clients.into_iter().map(|client| client.join().unwrap()).collect()
    });
    assert_eq!(outcomes.iter().filter(|(replayed, _)| !replayed).count(), 1, "{outcomes:?}");
    assert!(outcomes.iter().all(|(_, receipt)| *receipt == outcomes[0].1), "{outcomes:?}");
}

#[test]
fn many_at_once_with_one_key_are_stored_once_also_by_two_servers() {
    let rig = Rig::new();
    let servers = [rig.serve(&["server"]), rig.serve(&["server"])];
    let addresses = servers.each_ref().map(|server| server.address());
    for round in 0..10 {
        race(&addresses[..1], &format!("one {round}"));
        race(&addresses, &format!("two {round}"));
    }
    assert_eq!(accepted(&rig), 20 * 3);
}

/// The same from a server that may die of it: no answer, or a whole one.
fn try_post(address: SocketAddr, key: &str, body: &str) -> Option<Answer> {
    let mut stream = TcpStream::connect(address).ok()?;
    let head = format!(
        "POST /message HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\
         Idempotency-Key: {key}\r\nContent-Length: {}\r\n\r\n",
        body.len()
    );
    stream.write_all(head.as_bytes()).and_then(|()| stream.write_all(body.as_bytes())).ok()?;
    let mut text = String::new();
    stream.read_to_string(&mut text).ok()?;
    let (head, body) = text.split_once("\r\n\r\n")?;
    let status = head.split(' ').nth(1)?.parse().ok()?;
    let answer = Answer { status, head: head.to_owned(), body: body.as_bytes().to_vec() };
    (answer.header("content-length")? == body.len().to_string()).then_some(answer)
}

/// Posts two entries under a key of its own, again and again until the server dies; the key that
/// got no answer.
fn post_until_death(
    address: SocketAddr,
    name: &str,
    told: &mpsc::Sender<(String, String)>,
) -> String {
    let mut keys = (0..).map(|n| format!("{name}-{n}"));
    let unanswered = keys.find(|key| match try_post(address, key, &body(2, key)) {
        Some(answer) => {
            told.send((key.clone(), receipt(&answer))).unwrap();
            false
        }
        None => true,
    });
    unanswered.unwrap()
}

#[test]
fn what_was_sent_before_a_kill_and_is_repeated_after_it_is_stored_once() {
    let mut rig = Rig::new();
    let mut stored = 0;
    for round in 0..6 {
        let server = rig.serve(&["server"]);
        let address = server.address();
        let (told, answers) = mpsc::channel();
        let clients: Vec<_> = (0..4)
            .map(|client| {
                let (told, name) = (told.clone(), format!("{round}-{client}"));
                std::thread::spawn(move || post_until_death(address, &name, &told))
            })
            .collect();
        drop(told);
        let mut answered: Vec<_> = answers.iter().take(20 + 7 * round).collect();
        server.kill();
        answered.extend(answers);
        let cut: Vec<_> = clients.into_iter().map(|client| client.join().unwrap()).collect();
        // Another number of shards does not change what was answered.
        rig.set("SHARDS_COUNT", 3 + round);
        let server = rig.serve(&["server"]);
        for (key, first) in &answered {
            let again = post_with(server.address(), key, &body(2, key));
            assert!(is_replayed(&again), "{key}: {again:?}");
            assert_eq!(receipt(&again), *first, "{key}");
        }
        for key in &cut {
            let first = receipt(&post_with(server.address(), key, &body(2, key)));
            let again = post_with(server.address(), key, &body(2, key));
            assert!(is_replayed(&again));
            assert_eq!(receipt(&again), first, "{key}");
        }
        stored += 2 * (answered.len() + cut.len());
        assert_eq!(accepted(&rig), u64::try_from(stored).unwrap());
        server.kill();
    }
}

#[test]
fn a_key_belongs_to_the_token_it_came_with() {
    let mut rig = Rig::new();
    let path = rig.dir.path().join("tokens");
    std::fs::write(&path, "ann:write:4nn\nanna:write:4nn4\nbob:write:b0b\n").unwrap();
    rig.set("TOKENS_FILE", path.display());
    let server = rig.serve(&["server"]);
    let post = |token: &str, key: &str, value: &str| {
        let bearer = format!("Bearer {token}");
        let headers = [("Authorization", bearer.as_str()), ("Idempotency-Key", key)];
        request(server.address(), "POST", "/message", &headers, body(1, value).as_bytes())
    };
    // Name and key together are the same text for both.
    assert!(!is_replayed(&post("4nn", "a-one", "a")));
    assert!(!is_replayed(&post("4nn4", "-one", "b")));
    assert!(!is_replayed(&post("4nn4", "a-one", "c")));
    assert!(!is_replayed(&post("b0b", "a-one", "d")));
    assert!(is_replayed(&post("4nn", "a-one", "a")));
    assert!(is_replayed(&post("4nn4", "a-one", "c")));
    assert_eq!(post("4nn", "a-one", "c").status, 422);
    assert_eq!(accepted(&rig), 4);
}

#[test]
fn beyond_the_number_of_keys_the_oldest_is_forgotten_and_no_other() {
    let mut rig = Rig::new();
    rig.set("IDEMPOTENCY_KEYS", 2);
    let server = rig.serve(&["server"]);
    let is_known = |key| is_replayed(&post_with(server.address(), key, &body(1, "a")));
    assert!(!is_known("one"));
    assert!(!is_known("two"));
    assert!(is_known("one"));
    assert!(is_known("two"));
    // A replay does not make a key younger.
    assert!(is_known("one"));
    assert!(!is_known("three"));
    assert!(is_known("two"));
    assert!(is_known("three"));
    assert!(!is_known("one"));
    assert!(is_known("three"));
    assert!(!is_known("two"));
    assert_eq!(accepted(&rig), 5);
}

#[test]
fn a_smaller_number_of_keys_is_reached_after_a_restart() {
    let mut rig = Rig::new();
    let server = rig.serve(&["server"]);
    let keys: Vec<_> = (0..9).map(|n| format!("key {n}")).collect();
    for key in &keys {
        assert!(!is_replayed(&post_with(server.address(), key, &body(1, "a"))));
    }
    server.stop();
    rig.set("IDEMPOTENCY_KEYS", 1);
    let server = rig.serve(&["server"]);
    let address = server.address();
    // Some are dropped with each new key.
    for n in 0..3 {
        assert!(!is_replayed(&post_with(address, &format!("new {n}"), &body(1, "a"))));
    }
    assert!(is_replayed(&post_with(address, "new 2", &body(1, "a"))));
    for key in keys.iter().rev() {
        assert!(!is_replayed(&post_with(address, key, &body(1, "a"))), "{key}");
    }
    assert_eq!(accepted(&rig), 9 + 3 + 9);
}

#[test]
fn a_key_that_is_older_than_allowed_is_a_new_one() {
    for seconds in [0, 1] {
        let mut rig = Rig::new();
        rig.set("IDEMPOTENCY_SECONDS", seconds);
        let server = rig.serve(&["server"]);
        let address = server.address();
        let first = post_with(address, "one", &body(1, "a"));
        assert!(!is_replayed(&first));
        for stored in 2..=3 {
            let other = wait_for("the key's end", || {
                let answer = post_with(address, "one", &body(1, "a"));
                (!is_replayed(&answer)).then_some(answer)
            });
            assert_ne!(receipt(&other), receipt(&first));
            assert_eq!(accepted(&rig), stored);
        }
        // Another body is then no conflict.
        wait_for("the key's end", || {
            let answer = post_with(address, "one", &body(2, "b"));
            (answer.status != 422).then(|| assert!(!is_replayed(&answer)))
        });
        assert_eq!(accepted(&rig), 5);
    }
}
