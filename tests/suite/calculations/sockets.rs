//! `/websockets`, with a client of its own.

use std::net::TcpStream;

use async_data_processor::store::{NewTask, Store};
use async_data_processor::task::{Beat, TaskId, WorkerId};
use serde_json::{Value, json};
use tungstenite::client::IntoClientRequest;
use tungstenite::handshake::client::Response;
use tungstenite::protocol::frame::coding::CloseCode;
use tungstenite::{HandshakeError, Message, WebSocket};

use super::house::{House, LISTENERS_MAX};
use crate::harness::{connect, wait_for};

type Client = WebSocket<TcpStream>;

fn open_with(house: &House, headers: &[(&'static str, &str)]) -> Result<(Client, Response), u16> {
    let url = format!("ws://localhost:{}/websockets", house.address.port());
    let mut request = url.into_client_request().unwrap();
    for (name, value) in headers {
        request.headers_mut().insert(*name, value.parse().unwrap());
    }
    match tungstenite::client(request, connect(house.address)) {
        Ok(opened) => Ok(opened),
        Err(HandshakeError::Failure(tungstenite::Error::Http(answer))) => {
            Err(answer.status().as_u16())
        }
        Err(other) => panic!("{other}"),
    }
}

fn open(house: &House) -> Client {
    open_with(house, &[]).unwrap().0
}

/// The next item.
fn item(client: &mut Client) -> Value {
    loop {
        match client.read().unwrap() {
            Message::Text(text) => return serde_json::from_str(&text).unwrap(),
            Message::Ping(_) => {}
            other => panic!("{other:?}"),
        }
    }
}

/// The code that the server closes with, whatever comes before it.
fn closed(client: &mut Client) -> CloseCode {
    loop {
        if let Message::Close(frame) = client.read().unwrap() {
            return frame.unwrap().code;
        }
    }
}

#[test]
fn every_change_of_an_item_is_told_in_the_shape_of_the_list() {
    let house = House::new();
    let before = house.order(4);
    let mut clients = [open(&house), open(&house)];
    let id = house.order(25);
    for client in &mut clients {
        let told = item(client);
        assert_eq!((&told["id"], &told["status"]), (&json!(id), &json!("pending")), "{before}");
    }
    let path = format!("PUT /factorial/{id}");
    house.ask(&path, &json!({ "calcStartedAt": "2026-11-22T07:30:00Z" }));
    let output = "15511210043330985984000000";
    for client in &mut clients {
        assert_eq!(item(client)["state"], "running");
    }
    house.ask(&path, &json!({ "finishedAt": "2026-11-22T07:30:00Z", "output": output }));
    for client in &mut clients {
        let told = item(client);
        assert_eq!(told, house.get("/factorial?status=finished").json()[0]);
        assert_eq!(told["output"], "15511210043330985984e6");
    }
    house.ask(&format!("DELETE /factorial/{before}"), &Value::Null);
    assert_eq!(item(&mut clients[0])["state"], "cancelled");
}

#[test]
fn progress_is_told_by_the_hundredth() {
    let house = House::new();
    let mut client = open(&house);
    house.order(5);
    item(&mut client);
    let worker = WorkerId::new();
    let task = house.claim("factorial", worker).unwrap();
    assert_eq!(item(&mut client)["progress"], 0.0);
    for progress in [3, 9, 10, 14, 500] {
        let beat = Beat { id: task.id, attempt: task.attempt, progress };
        house.wait(house.store.beat(worker, vec![beat], 0)).unwrap();
        if [10, 500].contains(&progress) {
            let told = item(&mut client)["progress"].as_f64().unwrap();
            assert!((told - f64::from(progress) / 1000.0).abs() < 1e-9, "{told}");
        }
    }
}

#[test]
fn a_page_of_another_site_cannot_listen_unless_it_may() {
    let house = House::guarded(None, &["https://site.example"]);
    let own = format!("http://localhost:{}", house.address.port());
    for (origin, status) in [
        ("https://evil.example", Some(403)),
        ("null", Some(403)),
        ("https://site.example", None),
        (&own, None),
    ] {
        assert_eq!(open_with(&house, &[("origin", origin)]).err(), status, "{origin}");
    }
}

#[test]
fn a_token_is_needed_where_tokens_are_set_and_a_browser_has_a_way_to_send_it() {
    let house = House::guarded(Some("r:read:r34d/x=\nw:write:wr1te"), &[]);
    let asked = |headers: &[(&'static str, &str)]| open_with(&house, headers);
    assert_eq!(asked(&[]).err(), Some(401));
    assert_eq!(asked(&[("authorization", "Bearer wr1te")]).err(), Some(403));
    assert!(asked(&[("authorization", "Bearer r34d/x=")]).is_ok());
    let protocols = [("sec-websocket-protocol", "items, bearer.r34d%2Fx%3D")];
    let (_client, answer) = asked(&protocols).unwrap();
    assert_eq!(answer.headers()["sec-websocket-protocol"], "items");
    let own = format!("http://localhost:{}", house.address.port());
    let foreign = [protocols[0], ("origin", "https://evil.example")];
    assert_eq!(asked(&foreign).err(), Some(403));
    assert!(asked(&[protocols[0], ("origin", &own)]).is_ok());
}

#[test]
fn a_stop_closes_every_socket_with_1001() {
    let mut house = House::new();
    let mut clients = [open(&house), open(&house)];
    house.stop();
    for client in &mut clients {
        assert_eq!(closed(client), CloseCode::Away);
        // Answers the close.
        while client.read().is_ok() {}
    }
    house.wait(house.seats.closed());
}

#[test]
fn no_more_listen_than_may_and_a_place_is_free_again() {
    let house = House::new();
    let mut clients: Vec<_> = (0..LISTENERS_MAX).map(|_| open(&house)).collect();
    assert_eq!(open_with(&house, &[]).err(), Some(503));
    clients.pop();
    wait_for("a free place", || open_with(&house, &[]).ok());
    let metrics = String::from_utf8(house.get("/metrics").body).unwrap();
    assert!(metrics.contains("websocket_clients "), "{metrics}");
}

#[test]
fn what_is_no_websocket_is_told_so() {
    let house = House::new();
    let answer = house.get("/websockets");
    assert_eq!(answer.status, 426);
    assert!(answer.json()["error"].as_str().unwrap().contains("WebSocket"));
}

#[test]
fn who_reads_too_slowly_is_told_so_and_holds_up_nobody() {
    let house = House::new();
    let mut slow = open(&house);
    let new = |_| {
        let id = TaskId::new();
        NewTask {
            id,
            kind: "factorial".parse().unwrap(),
            endpoint: None,
            payload: Vec::new(),
            run_at_ms: 0,
            expires_at_ms: None,
            failures_max: 1,
            key: None,
            is_watched: true,
        }
    };
    // More than the queue and the buffers of two sockets hold.
    for _ in 0..6 {
        house.wait(house.store.submit((0..10_000).map(new).collect(), 0)).unwrap();
    }
    let mut other = open(&house);
    let id = house.order(5);
    wait_for("news for the other", || (item(&mut other)["id"] == json!(id)).then_some(()));
    assert_eq!(closed(&mut slow), CloseCode::Again);
}
