//! The page without a browser: its documents, and what its WebSocket says.

use std::collections::HashMap;
use std::net::{SocketAddr, TcpStream};
use std::time::Duration;

use tungstenite::client::IntoClientRequest;
use tungstenite::protocol::frame::coding::CloseCode;
use tungstenite::{HandshakeError, Message, WebSocket};

use crate::harness::{Rig, connect, request};

type Client = WebSocket<TcpStream>;

fn open(address: SocketAddr, protocols: &str) -> Result<Client, u16> {
    let url = format!("ws://localhost:{}/page/live", address.port());
    let mut request = url.into_client_request().unwrap();
    request.headers_mut().insert("sec-websocket-protocol", protocols.parse().unwrap());
    let stream = connect(address);
    stream.set_read_timeout(Some(Duration::from_secs(60))).unwrap();
    match tungstenite::client(request, stream) {
        Ok((client, _)) => Ok(client),
        Err(HandshakeError::Failure(tungstenite::Error::Http(answer))) => {
            Err(answer.status().as_u16())
        }
        Err(other) => panic!("{other}"),
    }
}

fn say(client: &mut Client, text: &str) {
    client.send(Message::text(text)).unwrap();
}

/// The next text.
fn told(client: &mut Client) -> String {
    loop {
        match client.read().unwrap() {
            Message::Text(text) => return text.as_str().to_owned(),
            Message::Ping(_) => {}
            other => panic!("{other:?}"),
        }
    }
}

/// Whether it is the time, by which ages are reckoned.
fn is_answer(text: &str) -> bool {
    let ahead_ms = text.parse::<i64>().unwrap() - chrono::Utc::now().timestamp_millis();
    ahead_ms.abs() < 60_000
}

/// Reads on until an element has this in it, among what was shown before and what comes.
fn shown(client: &mut Client, so_far: &mut HashMap<String, String>, element: &str, what: &str) {
    while !so_far.get(element).is_some_and(|html| html.contains(what)) {
        let text = told(client);
        if let Some((address, html)) = text.split_once('\n') {
            so_far.insert(address.to_owned(), html.to_owned());
        }
    }
}

#[test]
fn what_is_looked_at_comes_at_once_and_then_whenever_it_changes() {
    let rig = Rig::new();
    let server = rig.serve(&["server"]);
    let mut client = open(server.address(), "page").unwrap();
    say(&mut client, "calculations");
    assert!(is_answer(&told(&mut client)), "each text is answered");
    let (mut so_far, table) = (HashMap::new(), "calculations#calculations-table");
    let mut shows = |client: &mut Client, element: &str, what: &str| {
        shown(client, &mut so_far, element, what);
    };
    shows(&mut client, table, "Nothing computed");
    request(server.address(), "POST", "/factorial", &[], b"{\"input\":31}");
    shows(&mut client, table, ">31<");
    shows(&mut client, "calculations#calculations-summary", "nobody computes");
    say(&mut client, "calculations?status=finished");
    let filtered = "calculations?status=finished#calculations-table";
    shows(&mut client, filtered, "none of these");
    // A server that stops says so to all who look, before it ends.
    let stopping = std::thread::spawn(move || server.stop());
    loop {
        match client.read() {
            Ok(Message::Close(frame)) => {
                assert_eq!(frame.unwrap().code, CloseCode::Away);
                break;
            }
            Ok(_) => {}
            Err(error) => panic!("{error}"),
        }
    }
    while client.read().is_ok() {}
    stopping.join().unwrap();
}

#[test]
fn a_view_that_there_is_not_ends_the_conversation() {
    let rig = Rig::new();
    let server = rig.serve(&["server"]);
    for wrong in ["passwords", "calculations#x", "calculations?\n"] {
        let mut client = open(server.address(), "page").unwrap();
        say(&mut client, wrong);
        let code = loop {
            if let Message::Close(frame) = client.read().unwrap() {
                break frame.unwrap().code;
            }
        };
        assert_eq!(code, CloseCode::Policy, "{wrong}");
    }
    // The others are not disturbed by it.
    let mut client = open(server.address(), "page").unwrap();
    say(&mut client, "");
    assert!(is_answer(&told(&mut client)));
}

#[test]
fn whoever_has_no_token_sees_an_empty_house_and_whoever_may_not_write_is_told() {
    let mut rig = Rig::new();
    let tokens = rig.dir.path().join("tokens");
    std::fs::write(&tokens, "ann:read,write:0pen\neve:read:l00k\nbob:write:wr1te\n").unwrap();
    rig.set("TOKENS_FILE", tokens.to_str().unwrap());
    let server = rig.serve(&["server"]);
    let address = server.address();
    let get = |path: &str, token: &str| {
        let bearer = format!("Bearer {token}");
        let headers = [("Authorization", bearer.as_str())];
        let headers = if token.is_empty() { &[] } else { &headers[..] };
        request(address, "GET", path, headers, b"")
    };
    let document = get("/", "");
    assert_eq!(document.status, 200);
    assert!(String::from_utf8_lossy(&document.body).contains("data-locked"));
    assert_eq!(get("/page/page.js", "").status, 200);
    assert_eq!(get("/page/session", "").status, 401);
    assert_eq!(get("/page/session", "wr1te").status, 403);
    assert_eq!(get("/page/session", "0pen").json()["may_write"], true);
    let eve = get("/page/session", "l00k").json();
    assert_eq!((eve["name"].as_str(), eve["may_write"].as_bool()), (Some("eve"), Some(false)));
    assert_eq!(open(address, "page").err(), Some(401));
    assert_eq!(open(address, "page, bearer.wr1te").err(), Some(403));
    let mut client = open(address, "page, bearer.l00k").unwrap();
    say(&mut client, "calculations");
    assert!(is_answer(&told(&mut client)));
}
