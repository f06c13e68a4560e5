//! The pipeline in the page, without a browser: what its WebSocket says.

use std::collections::HashMap;
use std::net::{SocketAddr, TcpStream};
use std::time::Instant;

use tungstenite::client::IntoClientRequest;
use tungstenite::{Message, WebSocket};

use crate::harness::{PATIENCE, Rig, connect, entry, post_entries, request};

/// What a program says that fails at a message with this word, which a person may not read as such.
const REFUSES_POISON: &str =
    "awk '/poison/ { print \"<script>alert(1)</script>\" > \"/dev/stderr\"; exit 3 } 1'";

/// Somebody who looks at a view.
struct Look {
    client: WebSocket<TcpStream>,
    looked_at: String,
    /// What stands in each element.
    stands: HashMap<String, String>,
}

impl Look {
    fn at(address: SocketAddr, looked_at: &str) -> Self {
        let url = format!("ws://localhost:{}/page/live", address.port());
        let mut request = url.into_client_request().unwrap();
        request.headers_mut().insert("sec-websocket-protocol", "page".parse().unwrap());
        let (mut client, _) = tungstenite::client(request, connect(address)).unwrap();
        client.send(Message::text(looked_at)).unwrap();
        Self { client, looked_at: looked_at.to_owned(), stands: HashMap::new() }
    }

    /// The content of an element, as soon as it holds these texts.
    fn shown(&mut self, element: &str, texts: &[&str]) -> String {
        let address = format!("{}#{element}", self.looked_at);
        let deadline = Instant::now() + PATIENCE;
        loop {
            let html = self.stands.get(&address).map_or("", String::as_str);
            if texts.iter().all(|text| html.contains(text)) {
                return html.to_owned();
            }
            assert!(Instant::now() < deadline, "{texts:?} did not come in {element}, but {html}");
            let Message::Text(text) = self.client.read().unwrap() else { continue };
            let Some((of, html)) = text.split_once('\n') else { continue };
            assert!(!html.contains("<script"), "{of}: {html}");
            self.stands.insert(of.to_owned(), html.to_owned());
        }
    }
}

#[test]
fn messages_are_seen_from_coming_in_to_their_file_and_who_took_them() {
    let mut rig = Rig::new();
    rig.set("SHARDS_COUNT", 2);
    let server = rig.serve(&["server"]);
    let mut look = Look::at(server.address(), "pipeline");
    look.shown("pipeline-now", &["No message has come yet"]);
    look.shown("pipeline-files", &["No file yet"]);
    look.shown("pipeline-workers", &["start <code>async-data-processor message-consumer</code>"]);
    post_entries(server.address(), &[entry(0, "a"), entry(1, "b"), entry(2, "c")]);
    look.shown("pipeline-now", &["<dt>waiting</dt><dd><b>3</b>", "data-age"]);
    let consumer = rig.start(&["message-consumer"]);
    look.shown("pipeline-now", &["<dt>waiting</dt><dd><b>0</b>", "ever</dt><dd><b>3</b>"]);
    look.shown("pipeline-files", &["000000000002-shard-", "data-age"]);
    look.shown("pipeline-worker-history", &["shard-0-worker-", "2 workers, ever"]);
    let pid = format!("message-consumer {}", consumer.id());
    look.shown("pipeline-workers", &["(3 to 4)", "idle", &pid]);
    // A second later it is in the charts.
    look.shown("pipeline-charts", &["highest", "Messages in and out"]);
    consumer.stop();
    look.shown("pipeline-workers", &["Nobody consumes"]);
}

#[test]
fn a_dead_letter_is_seen_with_its_reason_until_it_is_sent_again() {
    let mut rig = Rig::new();
    rig.set("SHARDS_COUNT", 1).set("EXEC", REFUSES_POISON).set("BATCH_ATTEMPTS", 1);
    let up = rig.serve(&["up"]);
    let mut look = Look::at(up.address(), "pipeline");
    look.shown("pipeline-dead", &["None: every message that was handled is in a file"]);
    post_entries(up.address(), &[entry(0, "poison")]);
    let html = look.shown("pipeline-dead", &["exit code 3", "data-action=\"open-dead\""]);
    assert!(html.contains("&#60;script&#62;"), "{html}");
    look.shown("pipeline-now", &["dead letters</dt><dd><b class=\"bad\">1</b>"]);
    look.shown("pipeline-files", &["dead/"]);
    let number = html.split("data-number=\"").nth(1).unwrap().split('"').next().unwrap();
    let body = format!("{{\"messages\":[{{\"offset\":0,\"message\":{}}}]}}", entry(0, "mended"));
    let path = format!("/dead/{number}/resend");
    let sent = request(up.address(), "POST", &path, &[], body.as_bytes());
    assert_eq!(sent.status, 200, "{sent:?}");
    look.shown("pipeline-dead", &["None: every message that was handled is in a file"]);
    look.shown("pipeline-now", &["dead letters</dt><dd><b>0</b>"]);
    let mut all = Look::at(up.address(), "pipeline?dead=all");
    all.shown("pipeline-dead", &["exit code 3", "data-resent", ">Read</button>"]);
}

#[test]
fn many_dead_letters_come_in_pages() {
    let mut rig = Rig::new();
    rig.set("SHARDS_COUNT", 1).set("EXEC", REFUSES_POISON).set("BATCH_ATTEMPTS", 1);
    // Every second one is dead, so that each has a file of its own.
    let name = |n: u32| if n.is_multiple_of(2) { format!("poison-{n}") } else { n.to_string() };
    let lines: String = (0..50).map(|n| entry(0, &name(n)) + "\n").collect();
    rig.run_with_input(&["publish"], lines.as_bytes());
    let up = rig.serve(&["up"]);
    let mut look = Look::at(up.address(), "pipeline");
    let html = look.shown("pipeline-dead", &["href=\"#pipeline?before="]);
    assert_eq!(html.matches("data-number=").count(), 20);
    rig.wait_drained();
    let all = request(up.address(), "GET", "/dead", &[], b"").json();
    let number = |row: usize| all[row]["number"].to_string();
    let mut older = Look::at(up.address(), &format!("pipeline?before={}", number(19)));
    let html = older.shown("pipeline-dead", &[&format!("data-number=\"{}\"", number(20))]);
    assert_eq!(html.matches("data-number=").count(), all.as_array().unwrap().len() - 20);
    assert!(html.contains("Newest") && !html.contains("Older"), "{html}");
}
