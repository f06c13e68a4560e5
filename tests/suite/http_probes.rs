//! What is served beside the messages: probes, metrics, description; and what every answer carries.

use std::collections::BTreeSet;

use serde_json::Value;

use crate::harness::{Answer, Rig, entry, post, post_entries, request, wait_for};
use crate::http_access::{ask, locked, with_token};
use crate::idempotency::Hold;

const POLICY: &str = "default-src 'none'; script-src 'self'; style-src 'self'; connect-src 'self'; \
                      img-src 'self'";

/// What must stand on an answer, whatever it is.
fn has_security_headers(answer: &Answer, what: &str) {
    assert!(answer.header("content-security-policy").unwrap().starts_with(POLICY), "{what}");
    assert!(answer.head.contains("frame-ancestors 'none'"), "{what}");
    assert_eq!(answer.header("x-content-type-options"), Some("nosniff"), "{what}");
    assert_eq!(answer.header("referrer-policy"), Some("no-referrer"), "{what}");
    assert_eq!(answer.header("cache-control"), Some("no-store"), "{what}");
    assert_eq!(answer.header("server"), None, "{what}");
}

#[test]
fn every_answer_carries_the_security_headers() {
    let mut rig = Rig::new();
    rig.set("CORS_ORIGIN", "https://site.example");
    let server = rig.serve(&["server"]);
    let address = server.address();
    let host = ("Host", "localhost");
    let site = ("Origin", "https://site.example");
    let many: Vec<_> = (0..65).map(|_| ("X-Field", "a")).chain([host]).collect();
    let mut seen = BTreeSet::new();
    for (line, headers, body) in [
        ("GET /health", &[host][..], ""),
        ("POST /message", &[host], "[]"),
        ("POST /message", &[host], "x"),
        ("POST /message", &[host], "[{\"a\":1,\"a\":1}]"),
        ("POST /message", &[host], &" ".repeat((1 << 20) + 1)),
        ("GET /message", &[host], ""),
        ("GET /nothing", &[host], ""),
        ("GET /health", &[("Host", "evil.example")], ""),
        ("GET /health", &[host, ("Origin", "https://evil.example")], ""),
        ("OPTIONS /message", &[host, site, ("Access-Control-Request-Method", "POST")], ""),
        ("GET /health", &many, ""),
    ] {
        let answer = ask(address, line, headers, body);
        has_security_headers(&answer, line);
        seen.insert(answer.status);
    }
    let kinds = [200, 201, 204, 400, 403, 404, 405, 413, 421, 422, 431];
    assert_eq!(seen, BTreeSet::from(kinds));
    let rig = locked();
    let server = rig.serve(&["server"]);
    for (token, status) in [("", 401), ("r3ad-s3cret", 403)] {
        let answer = with_token(server.address(), token, "POST /message");
        assert_eq!(answer.status, status);
        has_security_headers(&answer, token);
    }
}

/// Every route of `server`.
const ROUTES: [&str; 40] = [
    "DELETE /factorial/{id}",
    "DELETE /scheduler/{id}",
    "DELETE /stream/{event_key}",
    "DELETE /tasks/{id}",
    "GET /",
    "GET /dead",
    "GET /dead/{number}",
    "GET /docs",
    "GET /factorial",
    "GET /factorial/{id}",
    "GET /health",
    "GET /healthcheck/",
    "GET /livez",
    "GET /metrics",
    "GET /openapi.json",
    "GET /page/live",
    "GET /page/session",
    "GET /readyz",
    "GET /receipt/{receipt}",
    "GET /scheduler/",
    "GET /scheduler/{id}",
    "GET /scheduler/{id}/occurrences",
    "GET /ships",
    "GET /ships/{name}",
    "GET /stream/",
    "GET /stream/{event_key}",
    "GET /tasks",
    "GET /tasks/{id}",
    "GET /tasks/{id}/result",
    "GET /websockets",
    "POST /dead/{number}/resend",
    "POST /factorial",
    "POST /message",
    "POST /scheduler/",
    "POST /scheduler/{id}/cancel",
    "POST /stream/",
    "POST /tasks",
    "POST /tasks/{id}/retry",
    "PUT /factorial/{id}",
    "PUT /stream/{event_key}",
];

#[test]
fn the_description_names_every_route_and_every_route_it_names_answers() {
    let mut rig = Rig::new();
    // Where no spaceship is.
    rig.set("SPACESHIP_URL", "http://127.0.0.1:1");
    rig.set("EXEC", "exit 3").set("BATCH_ATTEMPTS", 1);
    rig.run_with_input(&["publish"], entry(0, "dead").as_bytes());
    let consumer = rig.start(&["message-consumer"]);
    assert_eq!(rig.wait_drained()["dead"], 1);
    consumer.stop();
    let server = rig.serve(&["server"]);
    let address = server.address();
    let receipt = post_entries(address, &[entry(0, "a")]);
    let calculation = request(address, "POST", "/factorial", &[], b"{\"input\":5}").json();
    let calculation = calculation["id"].as_str().unwrap().to_owned();
    let task = request(address, "POST", "/tasks", &[], b"{\"kind\":\"nobody-knows-it\"}").json();
    let task = task["ids"][0].as_str().unwrap().to_owned();
    let document = request(address, "GET", "/openapi.json", &[], b"").json();
    assert!(document["openapi"].as_str().unwrap().starts_with("3.1."));
    let paths = document["paths"].as_object().unwrap();
    let mut routes = BTreeSet::new();
    for (path, methods) in paths {
        let id = if path.starts_with("/tasks") { &task } else { &calculation };
        let target = path.replace("{receipt}", &receipt).replace("{id}", id);
        let target = target.replace("{name}", "TARDIS").replace("{number}", "1");
        let target = target.replace("{event_key}", &calculation);
        let allowed =
            request(address, "BREW", &target, &[], b"").header("allow").map(str::to_owned);
        let allowed = allowed.unwrap_or_else(|| panic!("{path} is described but not served"));
        for method in allowed.split(',').filter(|method| *method != "HEAD") {
            let described = &methods[method.to_ascii_lowercase()];
            assert!(described["summary"].is_string(), "{method} {path} is not described");
        }
        for method in methods.as_object().unwrap().keys().map(|name| name.to_ascii_uppercase()) {
            let body: &[u8] = match method.as_str() {
                "POST" if path == "/factorial" => b"{\"input\":5}",
                "POST" if path == "/scheduler/" => b"{\"kind\":\"echo\",\"every_seconds\":9}",
                "POST" if path == "/dead/{number}/resend" => b"",
                "POST" => b"[]",
                "PUT" => b"{}",
                _ => b"",
            };
            let answer = request(address, &method, &target, &[], body);
            let described = &methods[method.to_ascii_lowercase()]["responses"];
            // There is no result of what nobody runs, these are no WebSockets, no ship has sent or
            // is there, and the id is no schedule's.
            let refused = ["/tasks/{id}/result", "/websockets", "/page/live", "/ships/{name}"];
            let mut refused = refused.into_iter().chain(["/scheduler/{id}", "/stream"]);
            let is_refused = refused.any(|refused| path.starts_with(refused));
            assert_eq!(answer.status >= 300, is_refused, "{method} {path}: {answer:?}");
            assert!(described[answer.status.to_string()].is_object(), "{method} {path}");
            routes.insert(format!("{method} {path}"));
        }
    }
    assert_eq!(routes.iter().map(String::as_str).collect::<Vec<_>>(), ROUTES);
    for reference in document.to_string().split("\"$ref\":\"#").skip(1) {
        let pointer = reference.split('"').next().unwrap();
        assert!(document.pointer(pointer).is_some(), "{pointer} is referred to but not there");
    }
}

#[test]
fn nothing_is_served_that_is_not_described() {
    let rig = Rig::new();
    std::fs::write(rig.dir.path().join("index.html"), "hello").unwrap();
    let server = rig.serve(&["up"]);
    let files = [
        "/index.html",
        "/favicon.ico",
        "/page/",
        "/page/mod.rs",
        "/static/",
        "/state/data.mdb",
        "/output/",
        "/../etc",
    ];
    for path in files.into_iter().chain(["/admin", "/debug", "/healthz"]) {
        let answer = request(server.address(), "GET", path, &[], b"");
        assert_eq!(answer.status, 404, "{path}: {answer:?}");
        assert_eq!(answer.header("content-type"), Some("application/problem+json"));
    }
}

#[test]
fn the_probes_and_metrics_say_what_their_readers_expect() {
    let rig = Rig::new();
    let server = rig.serve(&["server"]);
    let get = |path| request(server.address(), "GET", path, &[], b"");
    assert_eq!(get("/health").body, br#"{"status":"ok"}"#);
    assert_eq!(get("/healthcheck/").body, br#"{"message":"Service is up and running."}"#);
    assert_eq!(get("/livez").body, br#"{"live":true}"#);
    assert_eq!(get("/readyz").body, br#"{"ready":true}"#);
    post_entries(server.address(), &[entry(0, "a"), entry(0, "b"), entry(1, "c")]);
    post(server.address(), b"x");
    let metrics = get("/metrics");
    let text = String::from_utf8(metrics.body.clone()).unwrap();
    let total = |name: &str, labels: &[&str]| -> f64 {
        let lines = text.lines().filter(|line| {
            line.starts_with(&format!("async_data_processor_{name}"))
                && labels.iter().all(|label| line.contains(label))
        });
        lines.map(|line| line.rsplit(' ').next().unwrap().parse::<f64>().unwrap()).sum()
    };
    assert!(metrics.header("content-type").unwrap().starts_with("application/openmetrics-text"));
    assert!(text.ends_with("# EOF\n"), "{text}");
    assert_eq!(total("messages_accepted_total", &[]), 3.0);
    assert_eq!(total("messages_waiting{", &[]), 3.0);
    let posts = ["method=\"POST\"", "route=\"/message\""];
    assert_eq!(total("http_requests_total", &[&posts[..], &["status=\"2xx\""]].concat()), 1.0);
    assert_eq!(total("http_requests_total", &[&posts[..], &["status=\"4xx\""]].concat()), 1.0);
}

#[test]
fn a_server_whose_messages_nobody_consumes_says_so_until_a_consumer_comes() {
    let rig = Rig::new();
    let server = rig.serve(&["server"]);
    let address = server.address();
    let ready = || request(address, "GET", "/readyz", &[], b"");
    assert_eq!(ready().status, 200);
    post_entries(address, &[entry(0, "a")]);
    assert_eq!(ready().status, 200, "it may take a moment until somebody consumes");
    let answer = wait_for("the server to miss a consumer", || {
        let answer = ready();
        (answer.status != 200).then_some(answer)
    });
    assert_eq!((answer.status, &answer.json()["ready"]), (503, &Value::from(false)));
    let reasons = answer.json()["reasons"].to_string();
    assert!(reasons.contains("1 messages wait") && reasons.contains("start message-consumer"));
    // It takes messages all the same, and need not be restarted.
    post_entries(address, &[entry(1, "b")]);
    assert_eq!(request(address, "GET", "/livez", &[], b"").status, 200);
    let consumer = rig.start(&["message-consumer"]);
    wait_for("the server to be ready again", || (ready().status == 200).then_some(()));
    rig.wait_drained();
    consumer.stop();
}

#[test]
fn a_process_that_holds_the_state_environment_is_named_until_it_lets_go() {
    let rig = Rig::new();
    let server = rig.serve(&["server"]);
    let address = server.address();
    let hold = Hold::take(&rig);
    let waiting = std::thread::spawn(move || post_entries(address, &[entry(0, "a")]));
    let named = format!("process {} holds the state environment", std::process::id());
    wait_for("the holder to be named", || {
        let answer = request(address, "GET", "/readyz", &[], b"");
        (answer.status == 503)
            .then(|| assert!(answer.json()["reasons"].to_string().contains(&named)))
    });
    assert!(!waiting.is_finished(), "201 before the commit");
    hold.let_go();
    waiting.join().unwrap();
    assert_eq!(request(address, "GET", "/readyz", &[], b"").status, 200);
}
