//! What nobody should send: each is refused with words that name what is wrong, nothing of it is
//! stored, and whoever comes next is served.

use std::io::{Read, Write};
use std::net::{Shutdown, SocketAddr};

use serde_json::Value;

use crate::harness::{Answer, Process, Rig, connect, entry, post, post_entries, request};

const AT: &str = "\"timestamp\":\"2026-11-22T07:30:00Z\"";
const LINES: (&str, &str) = ("Content-Type", "application/x-ndjson");

/// A server that has stored nothing yet.
struct Bench {
    rig: Rig,
    server: Process,
    address: SocketAddr,
}

impl Bench {
    fn new() -> Self {
        let rig = Rig::new();
        let server = rig.serve(&["server"]);
        let address = server.address();
        Self { rig, server, address }
    }

    /// `body` is refused with `status`, in words that hold `named`.
    fn refuses(&self, body: &[u8], status: u16, named: &str) {
        let shown = shown(body);
        let text = error_text(&post(self.address, body), status, &shown);
        assert!(text.contains(named), "{shown}: {named:?} is not in {text:?}");
    }

    /// Nothing was stored, and a good request is.
    fn has_stored_nothing(self) {
        assert_eq!(self.rig.verify(&[])["accepted"], 0);
        post_entries(self.address, &[entry(0, "good")]);
        assert_eq!(self.rig.verify(&[])["accepted"], 1);
        ends_without_panic(self.server);
    }
}

fn ends_without_panic(server: Process) {
    let log = server.stop();
    assert!(!log.contains("panicked"), "{log}");
}

/// The beginning of what was sent, for a message.
fn shown(body: &[u8]) -> String {
    String::from_utf8_lossy(body).chars().take(200).collect()
}

/// The `{"error": …}` of a refusal.
fn error_text(answer: &Answer, status: u16, sent: &str) -> String {
    assert_eq!(answer.status, status, "{sent}: {answer:?}");
    let body = answer.json();
    let text = body["error"].as_str().unwrap_or_else(|| panic!("{sent}: {answer:?}"));
    assert!(!text.is_empty() && !text.chars().any(char::is_control), "{sent}: {text:?}");
    text.to_owned()
}

#[test]
fn malformed_json_is_not_stored_and_the_answer_says_where_it_breaks() {
    let bench = Bench::new();
    for body in
        ["", " \n", "[", "]", "[,]", "[]]", "[] []", "{", "[NaN]", "[Infinity]", "[undefined]"]
    {
        bench.refuses(body.as_bytes(), 400, "malformed JSON");
        bench.refuses(body.as_bytes(), 400, "at line ");
    }
    // Behind a good entry: all or nothing.
    for rest in [
        "",
        "}",
        ",]",
        ",,{}]",
        ";{}]",
        ",{'a':1}]",
        ",{a:1}]",
        ",{\"a\" 1}]",
        ",{\"a\":}]",
        ",{\"a\":1,}]",
        ",{\"a\":01}]",
        ",{\"a\":+1}]",
        ",{\"a\":.5}]",
        ",{\"a\":1.}]",
        ",{\"a\":0x10}]",
        ",{\"a\":tru}]",
        ",{\"a\":\"b]",
        ",{\"a\":\"\\x\"}]",
        ",{\"a\":\"\\u12\"}]",
        ",{\"a\":\"\n\"}]",
        ",{\"a\":\"\t\"}]",
        ",// no comment\n{}]",
        ",/* nor this */{}]",
        "]\u{0}",
        "]x",
    ] {
        let body = format!("[{{{AT}}}{rest}");
        bench.refuses(body.as_bytes(), 400, "malformed JSON: ");
        bench.refuses(body.as_bytes(), 400, "at line ");
    }
    bench.has_stored_nothing();
}

#[test]
fn entries_and_fields_of_another_type_are_not_stored() {
    let bench = Bench::new();
    for body in ["{}", "null", "7", "-0.5", "true", "\"[]\""] {
        bench.refuses(body.as_bytes(), 400, "expected an array of entries");
    }
    // What a client sends that forgot the brackets.
    bench.refuses(entry(0, "a").as_bytes(), 400, "expected an array of entries");
    for bad in ["1", "null", "[]", "\"a\"", "false", "1.5"] {
        let body = format!("[{{{AT}}},{bad}]");
        bench.refuses(body.as_bytes(), 400, "entry 1: an entry must be an object");
    }
    for bad in ["1795332600", "null", "true", "{}", "[\"2026-11-22T07:30:00Z\"]", "-1", "1.5"] {
        let body = format!("[{{\"timestamp\":{bad}}}]");
        bench.refuses(body.as_bytes(), 400, "entry 0: timestamp must be a string");
        let body = format!("[{{{AT},\"value\":{bad}}}]");
        bench.refuses(body.as_bytes(), 400, "entry 0: value must be a string");
    }
    for bad in ["{}", "{\"value\":\"a\"}", "{\"Timestamp\":\"2026-11-22T07:30:00Z\"}"] {
        let body = format!("[{bad}]");
        bench.refuses(body.as_bytes(), 400, "entry 0: timestamp is missing");
    }
    bench.has_stored_nothing();
}

#[test]
fn what_is_no_rfc_3339_time_is_not_stored() {
    let bench = Bench::new();
    for bad in [
        "",
        "now",
        "1795332600",
        "2026-11-22",
        "2026-11-22T07:30:00",
        "2026-11-22T07:30Z",
        "2026-1-22T07:30:00Z",
        "20261122T073000Z",
        "2026-11-22_07:30:00Z",
        "2026-00-01T00:00:00Z",
        "2026-13-01T00:00:00Z",
        "2026-11-31T00:00:00Z",
        "1900-02-29T00:00:00Z",
        "2026-11-22T24:00:00Z",
        "2026-11-22T07:60:00Z",
        "2026-11-22T07:30:61Z",
        // A leap second is only ever the last of a month, in UTC.
        "2026-11-22T07:30:60Z",
        "2026-11-29T23:59:60Z",
        "2026-11-30T23:59:60+01:00",
        "2026-11-22T07:30:00+24:00",
        "2026-11-22T07:30:00+01:60",
        "2026-11-22T07:30:00+0100",
        "2026-11-22T07:30:00 +01:00",
        // U+2212: a minus sign in ISO 8601, not in RFC 3339.
        "2026-11-22T07:30:00\u{2212}01:00",
        "2026-11-22T07:30:00,5Z",
        "2026-11-22T07:30:00.Z",
        "10000-01-01T00:00:00Z",
        "-0001-01-01T00:00:00Z",
        "+2026-11-22T07:30:00Z",
        " 2026-11-22T07:30:00Z",
        "2026-11-22T07:30:00Z ",
        "2026-11-22T07:30:00Z\\u0000",
        "\u{662}026-11-22T07:30:00Z",
    ] {
        let body = format!("[{{\"timestamp\":\"{bad}\"}}]");
        bench.refuses(body.as_bytes(), 400, "entry 0: timestamp is not an RFC 3339 date and time");
    }
    bench.has_stored_nothing();
}

#[test]
fn the_ends_of_time_leap_seconds_and_offsets_are_times() {
    let bench = Bench::new();
    let good = [
        "0000-01-01T00:00:00Z",
        "0000-01-01T00:00:00+23:59",
        "9999-12-31T23:59:59.999999999Z",
        "9999-12-31T23:59:59-23:59",
        "1969-12-31T23:59:59Z",
        "1970-01-01t00:00:00z",
        "2016-12-31T23:59:60Z",
        "2017-01-01T05:29:60.25+05:30",
        "2026-11-22T07:30:00-00:00",
        "2000-02-29T00:00:00.000000000000001+14:00",
    ];
    let entries: Vec<_> = good.iter().map(|at| format!("{{\"timestamp\":\"{at}\"}}")).collect();
    post_entries(bench.address, &entries);
    assert_eq!(bench.rig.verify(&[])["accepted"], good.len());
    ends_without_panic(bench.server);
}

#[test]
fn a_key_that_stands_twice_is_422_and_is_named() {
    let bench = Bench::new();
    let again = "\"timestamp\":\"1999-01-01T00:00:00Z\"";
    let many: String = (0..40).map(|n| format!("\"{n}\":0,")).collect();
    for (fields, key) in [
        (format!("{AT},{again}"), "timestamp"),
        (format!("{AT},\"time\\u0073tamp\":1"), "timestamp"),
        (format!("{AT},\"value\":\"a\",\"value\":\"b\""), "value"),
        (format!("{AT},\"a\":[{{\"b\":{{\"c\":1,\"c\":1}}}}]"), "c"),
        (format!("{AT},\"\":1,\"\":2"), ""),
        (format!("{AT},{many}\"39\":0"), "39"),
        (format!("{AT},\"\\u0007\":1,\"\\u0007\":2"), "\\u{7}"),
    ] {
        let named = format!("entry 1: the key \"{key}\" stands twice");
        bench.refuses(format!("[{{{AT}}},{{{fields}}}]").as_bytes(), 422, &named);
    }
    bench.has_stored_nothing();
}

#[test]
fn deep_nesting_and_huge_numbers_are_refused_and_not_followed() {
    let bench = Bench::new();
    for (open, close) in [("[", "]"), ("{\"a\":", "}")] {
        let deep = format!("{}1{}", open.repeat(5000), close.repeat(5000));
        let named = "entry 0: malformed JSON: recursion limit exceeded";
        bench.refuses(format!("[{{{AT},\"a\":{deep}}}]").as_bytes(), 400, named);
    }
    bench.refuses("[".repeat(1 << 20).as_bytes(), 400, "malformed JSON");
    bench.refuses("{\"a\":".repeat(200_000).as_bytes(), 400, "expected an array of entries");
    for huge in ["1e309", "-1e309", "1e999999999999999999999", &"9".repeat(400)] {
        let named = "entry 0: malformed JSON: number out of range";
        bench.refuses(format!("[{{{AT},\"a\":{huge}}}]").as_bytes(), 400, named);
    }
    bench.has_stored_nothing();
}

#[test]
fn text_that_is_no_utf_8_or_no_text_at_all_is_not_stored() {
    let bench = Bench::new();
    let raw = |middle: &[u8]| [b"[{", AT.as_bytes(), b",\"a\":\"", middle, b"\"}]"].concat();
    let first_bad = b"[{".len() + AT.len() + b",\"a\":\"".len();
    // A lone byte, an overlong form, a surrogate, beyond Unicode, a character cut short.
    for bad in [&b"\xff"[..], b"\xc0\xaf", b"\xed\xa0\x80", b"\xf5\x80\x80\x80", b"\xe2\x82"] {
        let named = format!("not UTF-8: byte {first_bad} is the first");
        bench.refuses(&raw(bad), 400, &named);
    }
    for lone in ["\\ud800", "\\udc00", "\\udc00\\ud800", "\\ud800x", "\\ud83d\\u0041"] {
        bench.refuses(&raw(lone.as_bytes()), 400, "entry 0: malformed JSON");
    }
    let gzip = b"\x1f\x8b\x08\0\0\0\0\0\0\x03\x8b\x8e\x05\0)\xbbL\r\x02\0\0\0";
    bench.refuses(gzip, 400, "not UTF-8: byte 1 is the first");
    let answer = request(bench.address, "POST", "/message", &[("Content-Encoding", "gzip")], gzip);
    assert!(error_text(&answer, 415, "gzip").contains("gzip is not read here"), "{answer:?}");
    assert_eq!(answer.header("accept-encoding"), Some("identity"));
    let binary: Vec<u8> = (0..=255).cycle().take(4096).collect();
    bench.refuses(&binary, 400, "not UTF-8: byte 128 is the first");
    bench.refuses(&[0; 1000], 400, "malformed JSON");
    bench.refuses("\u{feff}[]".as_bytes(), 400, "malformed JSON");
    let utf_16: Vec<u8> = "[]".encode_utf16().flat_map(u16::to_be_bytes).collect();
    bench.refuses(&utf_16, 400, "malformed JSON");
    bench.has_stored_nothing();
}

#[test]
fn one_bad_entry_among_thousands_is_named_and_none_is_stored() {
    let bench = Bench::new();
    let mut entries: Vec<_> = (0..10_000).map(|n| entry(n, "v")).collect();
    entries[7777] = "{\"timestamp\":\"soon\"}".to_owned();
    let body = format!("[{}]", entries.join(","));
    bench.refuses(body.as_bytes(), 400, "entry 7777: timestamp is not an RFC 3339");
    let lines = format!("{}\n", entries.join("\n"));
    let answer = request(bench.address, "POST", "/message", &[LINES], lines.as_bytes());
    let text = error_text(&answer, 400, "10,000 lines");
    assert!(text.starts_with("line 7778: timestamp is not an RFC 3339"), "{text}");
    bench.has_stored_nothing();
}

#[test]
fn too_many_entries_and_too_long_ones_are_413_with_the_limit() {
    let bench = Bench::new();
    let many = vec![format!("{{{AT}}}"); 10_001].join(",");
    bench.refuses(format!("[{many}]").as_bytes(), 413, "more than 10000 entries");
    let value = "v".repeat((48 << 10) + 1);
    let body = format!("[{}]", entry(0, &value));
    bench.refuses(body.as_bytes(), 413, "entry 0: value has 49153 bytes, more than 49152");
    let body = format!("[{{{AT},\"a\":\"{}\"}}]", "a".repeat(64 << 10));
    bench.refuses(body.as_bytes(), 413, "entry 0: the entry has ");
    bench.has_stored_nothing();
}

#[test]
fn a_bad_line_is_named_by_its_number_and_no_line_is_stored() {
    let bench = Bench::new();
    let good = entry(0, "a");
    for (lines, named) in [
        (format!("{good}\n\n{{}}\n"), "line 3: timestamp is missing"),
        (format!("{good}\r\n{good}\r\n[{good}]"), "line 3: an entry must be an object"),
        (format!("{good}\n{good}{good}\n"), "line 2: malformed JSON"),
        (format!("{good}\n{}", &good[..good.len() - 1]), "line 2: malformed JSON"),
        (format!("{good},\n{good}"), "line 1: malformed JSON"),
        (format!("[\n{good}\n]"), "line 1: an entry must be an object"),
        (format!("\u{feff}{good}"), "line 1: malformed JSON"),
    ] {
        let answer = request(bench.address, "POST", "/message", &[LINES], lines.as_bytes());
        let text = error_text(&answer, 400, &lines);
        assert!(text.starts_with(named), "{lines}: {text}");
    }
    bench.has_stored_nothing();
}

#[test]
fn nothing_to_store_is_a_201_that_accepted_nothing() {
    let bench = Bench::new();
    for (headers, body) in [(&[][..], "[]"), (&[], " [ ]\r\n"), (&[LINES], ""), (&[LINES], "\n \n")]
    {
        let answer = request(bench.address, "POST", "/message", headers, body.as_bytes());
        assert_eq!((answer.status, answer.json()["accepted"].as_u64()), (201, Some(0)), "{body}");
    }
    bench.has_stored_nothing();
}

#[test]
fn wrong_paths_are_404_and_wrong_methods_405_with_those_allowed() {
    let bench = Bench::new();
    for path in ["/messages", "/message/", "//message", "/message/1", "/MESSAGE", "/%6dessage"] {
        let answer = request(bench.address, "POST", path, &[], b"[]");
        assert_eq!((answer.status, &answer.json()["status"]), (404, &Value::from(404)), "{path}");
        assert_eq!(answer.header("content-type"), Some("application/problem+json"), "{path}");
    }
    for receipt in ["x", "..%2f..%2fetc", "%00", "%ff", "0_0-0-1", "00000000_0-0-1", "%F0%9F%9A%80"]
    {
        let answer = request(bench.address, "GET", &format!("/receipt/{receipt}"), &[], b"");
        assert_eq!(error_text(&answer, 404, receipt), "no such receipt");
    }
    let methods = [("/message", "POST"), ("/receipt/x", "GET,HEAD"), ("/health", "GET,HEAD")];
    for (path, allowed) in methods {
        for method in ["PUT", "DELETE", "PATCH", "TRACE", "OPTIONS", "BREW"] {
            let answer = request(bench.address, method, path, &[], b"[]");
            assert_eq!(answer.status, 405, "{method} {path}");
            assert_eq!(answer.header("allow"), Some(allowed), "{method} {path}");
        }
    }
    let answer = request(bench.address, "GET", "/message", &[], b"");
    assert!(error_text(&answer, 405, "GET /message").contains("Allow"));
    bench.has_stored_nothing();
}

/// Sends bytes, and nothing after them; what came back until the close.
fn exchange(address: SocketAddr, bytes: &[u8]) -> String {
    let mut stream = connect(address);
    // The server may close before it has read everything, but not without an answer.
    let _refused = stream.write_all(bytes).and_then(|()| stream.shutdown(Shutdown::Write));
    let mut answers = Vec::new();
    let _reset = stream.read_to_end(&mut answers);
    String::from_utf8_lossy(&answers).into_owned()
}

#[test]
fn broken_framing_is_refused_and_smuggles_nothing_in() {
    let bench = Bench::new();
    let hidden = "POST /message HTTP/1.1\r\nHost: localhost\r\nContent-Length: 2\r\n\r\n[]";
    let entry = format!("[{}]", entry(0, "a"));
    for (framing, body) in [
        ("", String::new()),
        ("Transfer-Encoding: chunked\r\n", format!("zz\r\n{entry}\r\n0\r\n\r\n")),
        ("Transfer-Encoding: chunked\r\n", format!("{:x}\r\n{entry}", entry.len() + 1)),
        ("Transfer-Encoding: chunked\r\n", format!("ffffffffffffffffff\r\n{entry}\r\n0\r\n\r\n")),
        ("Transfer-Encoding: chunked\r\n", format!("-1\r\n{entry}\r\n0\r\n\r\n")),
        ("Transfer-Encoding: chunked\r\n", format!("{:x}\r\n{entry}0\r\n\r\n", entry.len())),
        ("Transfer-Encoding: gzip\r\n", entry.clone()),
        ("Transfer-Encoding: chunked, gzip\r\n", entry.clone()),
        ("Content-Length: 9999\r\n", entry.clone()),
        ("Content-Length: -1\r\n", entry.clone()),
        ("Content-Length: 0x10\r\n", entry.clone()),
        ("Content-Length: 1\r\nContent-Length: 2\r\n", entry.clone()),
        ("Content-Length: 99999999999999999999999\r\n", entry.clone()),
        ("Content-Length : 2\r\n", hidden.to_owned()),
        ("Content-Length: 2\r\n folded\r\n", hidden.to_owned()),
    ] {
        let sent = format!("POST /message HTTP/1.1\r\nHost: localhost\r\n{framing}\r\n{body}");
        let answers = exchange(bench.address, sent.as_bytes());
        assert!(answers.starts_with("HTTP/1.1 400 "), "{sent}: {answers:?}");
        assert_eq!(answers.matches("HTTP/1.1 ").count(), 1, "{sent}: {answers}");
    }
    // Where both stand, the length does not count, and nothing may follow on the connection.
    let both = format!(
        "POST /message HTTP/1.1\r\nHost: localhost\r\nContent-Length: 2\r\n\
         Transfer-Encoding: chunked\r\n\r\n0\r\n\r\n{hidden}"
    );
    let answers = exchange(bench.address, both.as_bytes());
    assert!(!answers.contains("\"accepted\""), "{answers}");
    for garbage in
        [&b"\0\x01\x02\r\n\r\n"[..], b"\x16\x03\x01\x02\0\x01\0\x01\xfc\x03\x03", b"[]\r\n\r\n"]
    {
        let answers = exchange(bench.address, garbage);
        assert!(answers.starts_with("HTTP/1.1 400 "), "{answers:?}");
    }
    bench.has_stored_nothing();
}
