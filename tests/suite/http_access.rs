//! Who may ask what: loopback only unless told otherwise, host and origin, tokens and scopes, TLS.

use std::io::{Error, Read, Write};
use std::net::SocketAddr;
use std::sync::Arc;

use rustls::{ClientConfig, ClientConnection, RootCertStore, StreamOwned};

use crate::harness::{Answer, Rig, connect, entry, post, read_answer, request, wait_for};

const TOKENS: &str = "writer:write:wr1te-s3cret\nreader:read:r3ad-s3cret\nboss:admin:adm1n-s3cret\n\
                      # sha256 of test\nhashed:write,read:sha256=\
                      9f86d081884c7d659a2feaa0c55ad015a3bf4f1b2b0b822cd15d6c15b0f00a08\n";
/// A request with these header lines and no others, `Host` included.
pub(crate) fn ask(address: SocketAddr, line: &str, headers: &[(&str, &str)], body: &str) -> Answer {
    let lines: String =
        headers.iter().map(|(name, value)| format!("{name}: {value}\r\n")).collect();
    let mut stream = connect(address);
    let length = body.len();
    // A server that has heard enough need not read all of it.
    let _refused =
        write!(stream, "{line} HTTP/1.1\r\n{lines}Content-Length: {length}\r\n\r\n{body}");
    read_answer(&mut stream)
}

/// A rig whose server wants tokens.
pub(crate) fn locked() -> Rig {
    let mut rig = Rig::new();
    let path = rig.dir.path().join("tokens");
    std::fs::write(&path, TOKENS).unwrap();
    rig.set("TOKENS_FILE", path.display());
    rig
}

pub(crate) fn with_token(address: SocketAddr, token: &str, line: &str) -> Answer {
    let bearer = format!("Bearer {token}");
    let (method, path) = line.split_once(' ').unwrap();
    let body = if method == "POST" { "[]" } else { "" };
    request(address, method, path, &[("Authorization", &bearer)], body.as_bytes())
}

/// The server does not start: its exit code and its words.
fn refuses_to_start(rig: &Rig, words: &[&str]) {
    let mut server = rig.start(&["server"]);
    assert_eq!(server.wait().code(), Some(78), "{}", server.log());
    let error = server.wait_log("error: ");
    for word in words {
        assert!(error.contains(word), "{word:?} is not in {error}");
    }
    assert!(!server.log().contains("listening"), "{}", server.log());
}

#[test]
fn nobody_else_reaches_the_server_unless_its_owner_says_so() {
    let mut rig = locked();
    rig.set("HOST", "0.0.0.0");
    refuses_to_start(&rig, &["0.0.0.0", "no TLS", "a certificate and its key"]);
    let mut rig = Rig::new();
    assert!(rig.serve(&["server"]).address().ip().is_loopback());
    for host in ["0.0.0.0", "::", "192.0.2.1"] {
        rig.set("HOST", host);
        let remedies = ["127.0.0.1", "a token and a certificate", "--insecure-listen"];
        refuses_to_start(&rig, &[&[host][..], &remedies].concat());
    }
    rig.set("HOST", "0.0.0.0").set("INSECURE_LISTEN", "true");
    let server = rig.serve(&["server"]);
    assert!(server.address().ip().is_unspecified());
    let address = SocketAddr::from(([127, 0, 0, 1], server.address().port()));
    // It has names that it cannot know, so it answers to any; a foreign page stays out.
    let named = [("Host", "messages.example")];
    assert_eq!(ask(address, "POST /message", &named, "[]").status, 201);
    let page = [("Host", "messages.example"), ("Origin", "https://evil.example")];
    assert_eq!(ask(address, "POST /message", &page, "[]").status, 403);
}

#[test]
fn a_name_or_a_page_that_is_not_ours_gets_nothing_stored() {
    let rig = Rig::new();
    let server = rig.serve(&["server"]);
    let address = server.address();
    let body = format!("[{}]", entry(0, "a"));
    for host in ["evil.example", "localhost.evil.example", "10.0.0.1:8080", "0.0.0.0", ""] {
        for line in ["POST /message", "GET /health", "GET /nowhere"] {
            let answer = ask(address, line, &[("Host", host)], &body);
            assert_eq!(answer.status, 421, "{line} {host}: {answer:?}");
        }
    }
    let own = format!("localhost:{}", address.port());
    for origin in ["https://evil.example", "null", "http://localhost:1", "http://localhost"] {
        let headers = [("Host", own.as_str()), ("Origin", origin)];
        let answer = ask(address, "POST /message", &headers, &body);
        assert_eq!(answer.status, 403, "{origin}");
        assert!(answer.json()["error"].as_str().unwrap().contains("--cors-origin"), "{answer:?}");
        assert_eq!(ask(address, "OPTIONS /message", &headers, "").status, 403, "{origin}");
    }
    for headers in
        [&[("Host", "evil.example"), ("Host", "localhost")][..], &[], &[("Host", "\u{e9}")]]
    {
        assert_eq!(ask(address, "POST /message", headers, &body).status, 400, "{headers:?}");
    }
    let absolute = "POST http://evil.example/message";
    assert_eq!(ask(address, absolute, &[("Host", "localhost")], &body).status, 421);
    assert_eq!(rig.verify(&[])["accepted"], 0);
    let origin = format!("http://{own}");
    for host in ["localhost", "LOCALHOST.", "127.0.0.1:80", "[::1]:80", "a.localhost"] {
        assert_eq!(ask(address, "POST /message", &[("Host", host)], "[]").status, 201, "{host}");
    }
    let headers = [("Host", own.as_str()), ("Origin", origin.as_str())];
    assert_eq!(ask(address, "POST /message", &headers, "[]").status, 201);
}

#[test]
fn a_site_that_was_let_in_may_call_and_read_and_no_other() {
    let mut rig = Rig::new();
    rig.set("CORS_ORIGIN", "https://site.example,http://other.example:81");
    let server = rig.serve(&["server"]);
    let address = server.address();
    let from = |origin, line: &str, more: &[(&str, &str)]| {
        let headers = [&[("Host", "localhost"), ("Origin", origin)], more].concat();
        ask(address, line, &headers, if line.starts_with("POST") { "[]" } else { "" })
    };
    let preflight = [("Access-Control-Request-Method", "POST")];
    for origin in ["https://site.example", "http://other.example:81"] {
        let answer = from(origin, "OPTIONS /message", &preflight);
        assert_eq!(answer.status, 204, "{answer:?}");
        assert_eq!(answer.header("access-control-allow-origin"), Some(origin));
        assert!(answer.header("access-control-allow-methods").unwrap().contains("POST"));
        let allowed = answer.header("access-control-allow-headers").unwrap();
        for name in ["Authorization", "Content-Type", "Idempotency-Key", "Prefer"] {
            assert!(allowed.contains(name), "{allowed}");
        }
        for (line, status) in [("POST /message", 201), ("GET /nowhere", 404)] {
            let answer = from(origin, line, &[]);
            assert_eq!(answer.status, status, "{answer:?}");
            assert_eq!(answer.header("access-control-allow-origin"), Some(origin));
            assert_eq!(answer.header("vary"), Some("Origin"));
            let exposed = answer.header("access-control-expose-headers").unwrap();
            for name in ["Idempotency-Replayed", "Location", "Retry-After"] {
                assert!(exposed.contains(name), "{name} cannot be read: {exposed}");
            }
        }
    }
    for origin in ["https://site.example:444", "http://site.example", "https://evil.example"] {
        for answer in
            [from(origin, "POST /message", &[]), from(origin, "OPTIONS /message", &preflight)]
        {
            assert_eq!(answer.status, 403, "{answer:?}");
            assert_eq!(answer.header("access-control-allow-origin"), None);
        }
    }
    rig.set("CORS_ORIGIN", "https://site.example/path");
    refuses_to_start(&rig, &["https://site.example/path", "is not an origin"]);
}

#[test]
fn a_token_is_asked_for_and_does_no_more_than_its_scope() {
    let mut rig = locked();
    rig.set("LOG", "trace");
    let server = rig.serve(&["server"]);
    let address = server.address();
    let receipt = with_token(address, "adm1n-s3cret", "POST /message").json()["receipt"].clone();
    let receipt = format!("GET /receipt/{}", receipt.as_str().unwrap());
    for (token, write, read) in [
        ("wr1te-s3cret", 201, 403),
        ("r3ad-s3cret", 403, 200),
        ("adm1n-s3cret", 201, 200),
        ("test", 201, 200),
        ("wr1te-s3cre", 401, 401),
        ("wr1te-s3crett", 401, 401),
        ("9f86d081884c7d659a2feaa0c55ad015a3bf4f1b2b0b822cd15d6c15b0f00a08", 401, 401),
    ] {
        for (line, status) in
            [("POST /message", write), ("GET /metrics", read), (receipt.as_str(), read)]
        {
            let answer = with_token(address, token, line);
            assert_eq!(answer.status, status, "{token} {line}: {answer:?}");
            let challenge = answer.header("www-authenticate").unwrap_or_default();
            let expected = match status {
                401 => "invalid_token",
                403 => "insufficient_scope",
                _ => "",
            };
            assert!(challenge.contains(expected), "{token} {line}: {challenge}");
        }
    }
    let answer = post(address, b"[]");
    assert_eq!(answer.status, 401);
    assert!(answer.json()["error"].as_str().unwrap().contains("token"), "{answer:?}");
    for (name, value) in [
        ("Authorization", "Basic wr1te-s3cret"),
        ("Authorization", "wr1te-s3cret"),
        ("Cookie", "token=wr1te-s3cret"),
    ] {
        let answer = request(address, "POST", "/message", &[(name, value)], b"[]");
        assert_eq!(answer.status, 401, "{name}: {value}");
        assert_eq!(
            answer.header("www-authenticate"),
            Some(r#"Bearer realm="async-data-processor""#)
        );
    }
    let query = request(address, "POST", "/message?access_token=wr1te-s3cret", &[], b"[]");
    assert_eq!(query.status, 401);
    for path in ["/health", "/healthcheck/", "/livez", "/readyz", "/openapi.json"] {
        assert_eq!(request(address, "GET", path, &[], b"").status, 200, "{path} wants no token");
    }
    let log = server.stop();
    assert!(!log.contains("s3cret"), "a token is in the log: {log}");
}

#[test]
fn a_token_list_with_a_mistake_does_not_open_the_server() {
    let rig = locked();
    let path = rig.dir.path().join("tokens");
    for (list, words) in [
        ("", &["TOKENS_FILE", "there is no token in it"][..]),
        ("s3cret\na:s3cret", &["line 1: it is not name:scopes:token", "line 2: it is not"]),
        ("a:write:ok\nb:fly:s3cret\na:read:s3cret!", &["line 2: b: a scope", "line 3: a: a token"]),
    ] {
        std::fs::write(&path, list).unwrap();
        refuses_to_start(&rig, words);
        let mut server = rig.start(&["server"]);
        server.wait();
        assert!(!server.wait_log("error: ").contains("s3cret"), "{}", server.log());
    }
    std::fs::remove_file(&path).unwrap();
    refuses_to_start(&rig, &["TOKENS_FILE", "No such file"]);
}

#[test]
fn a_token_over_its_rate_is_429_until_it_waited_and_others_go_on() {
    let mut rig = locked();
    rig.set("RATE_LIMIT", 1);
    let server = rig.serve(&["server"]);
    let address = server.address();
    let answer = wait_for("the rate to be exceeded", || {
        let answer = with_token(address, "wr1te-s3cret", "POST /message");
        (answer.status != 201).then_some(answer)
    });
    assert_eq!((answer.status, answer.header("retry-after")), (429, Some("1")), "{answer:?}");
    assert!(!answer.json()["error"].as_str().unwrap().is_empty());
    assert_eq!(with_token(address, "test", "POST /message").status, 201);
    assert_eq!(request(address, "GET", "/health", &[], b"").status, 200);
    wait_for("the token's next turn", || {
        let answer = with_token(address, "wr1te-s3cret", "POST /message");
        (answer.status == 201).then_some(())
    });
}

/// Makes a certificate for localhost; a client that trusts it.
fn certify(rig: &mut Rig) -> Arc<ClientConfig> {
    let pair = rcgen::generate_simple_self_signed(["localhost".to_owned()]).unwrap();
    let (chain, key) = (rig.dir.path().join("chain.pem"), rig.dir.path().join("key.pem"));
    std::fs::write(&chain, pair.cert.pem()).unwrap();
    std::fs::write(&key, pair.signing_key.serialize_pem()).unwrap();
    rig.set("TLS_CERT", chain.display()).set("TLS_KEY", key.display());
    let mut roots = RootCertStore::empty();
    roots.add(pair.cert.der().clone()).unwrap();
    trusting(roots)
}

fn trusting(roots: RootCertStore) -> Arc<ClientConfig> {
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let client = ClientConfig::builder_with_provider(provider);
    let client = client.with_safe_default_protocol_versions().unwrap();
    Arc::new(client.with_root_certificates(roots).with_no_client_auth())
}

/// Posts nothing through TLS; the beginning of the answer.
fn post_secured(
    address: SocketAddr,
    client: &Arc<ClientConfig>,
    name: &str,
) -> Result<String, Error> {
    let name = name.to_owned().try_into().unwrap();
    let session = ClientConnection::new(Arc::clone(client), name).unwrap();
    let mut stream = StreamOwned::new(session, connect(address));
    stream.write_all(
        b"POST /message HTTP/1.1\r\nHost: localhost\r\nAuthorization: Bearer test\r\n",
    )?;
    stream.write_all(b"Content-Length: 2\r\n\r\n[]")?;
    let mut status = [0; 12];
    stream.read_exact(&mut status)?;
    Ok(String::from_utf8(status.to_vec()).unwrap())
}

#[test]
fn a_server_with_a_certificate_speaks_tls_to_those_who_trust_it_and_nothing_else() {
    let mut rig = locked();
    let client = certify(&mut rig);
    // Token and TLS: now everybody may reach it.
    rig.set("HOST", "0.0.0.0");
    let server = rig.serve(&["server"]);
    assert!(server.wait_log("\"listening\"").contains("https://0.0.0.0:"));
    let address = SocketAddr::from(([127, 0, 0, 1], server.address().port()));
    assert_eq!(post_secured(address, &client, "localhost").unwrap(), "HTTP/1.1 201");
    assert!(post_secured(address, &client, "messages.example").is_err(), "another's name");
    assert!(post_secured(address, &trusting(RootCertStore::empty()), "localhost").is_err());
    let mut plain = connect(address);
    plain.write_all(b"GET /health HTTP/1.1\r\nHost: localhost\r\n\r\n").unwrap();
    let mut answer = Vec::new();
    let _reset = plain.read_to_end(&mut answer);
    assert!(!String::from_utf8_lossy(&answer).contains("HTTP/1.1"), "{answer:?}");
    assert_eq!(post_secured(address, &client, "localhost").unwrap(), "HTTP/1.1 201");
}

#[test]
fn a_certificate_without_its_key_does_not_start_a_server_without_tls() {
    let mut rig = Rig::new();
    let _client = certify(&mut rig);
    let stranger = rcgen::generate_simple_self_signed(["localhost".to_owned()]).unwrap();
    std::fs::write(rig.dir.path().join("key.pem"), stranger.signing_key.serialize_pem()).unwrap();
    refuses_to_start(&rig, &["key.pem is not the key of the first certificate", "chain.pem"]);
    let mut rig = Rig::new();
    rig.set("TLS_CERT", "chain.pem");
    refuses_to_start(&rig, &["TLS_CERT", "TLS_KEY"]);
}
