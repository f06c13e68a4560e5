//! What ends before its window does, and what goes on after its process did.

use serde_json::json;

use super::harbour::{Harbour, everywhere};
use crate::harness::request;
use crate::ships::ship_lines;

everywhere! {
    what_is_cancelled_or_deleted_in_its_window_leaves_no_stream_and_no_port,
    what_stops_in_a_window_and_starts_again_captures_the_rest_of_it,
}

/// Longer than any test takes.
const LONG_SECONDS: u64 = 3600;

fn what_is_cancelled_or_deleted_in_its_window_leaves_no_stream_and_no_port(mut harbour: Harbour) {
    let (cancelled, deleted) =
        (harbour.capture("TARDIS", LONG_SECONDS), harbour.capture("Enterprise", LONG_SECONDS));
    let streams = ["TARDIS", "Enterprise"].map(|ship| harbour.wait_stream(ship));
    assert!(harbour.capture_ports().len() >= 2);
    let path = format!("/scheduler/{cancelled}/cancel");
    let answer = request(harbour.scheduler, "POST", &path, &[], b"");
    assert_eq!((answer.status, &answer.json()["state"]), (200, &json!("cancelled")));
    let path = format!("/scheduler/{deleted}");
    let answer = request(harbour.scheduler, "DELETE", &path, &[], b"");
    assert_eq!(answer.status, 200, "{answer:?}");
    harbour.wait_quiet();
    for stream in streams {
        let path = format!("/stream/{}", stream["event_key"].as_str().unwrap());
        let stream = request(harbour.spaceship, "GET", &path, &[], b"").json();
        assert_eq!(stream["reason"], "stopped", "{stream}");
    }
    assert_eq!(harbour.ended(&cancelled)["state"], "cancelled");
    assert_eq!(request(harbour.scheduler, "GET", &path, &[], b"").status, 404);
    harbour.stop();
}

fn what_stops_in_a_window_and_starts_again_captures_the_rest_of_it(mut harbour: Harbour) {
    let id = harbour.capture("TARDIS", 12);
    let first = harbour.wait_stream("TARDIS");
    harbour.restart();
    let second = harbour.wait_stream("TARDIS");
    assert_ne!(first["event_key"], second["event_key"]);
    let schedule = harbour.ended(&id);
    assert_eq!(schedule["state"], "finished", "{schedule}");
    assert_eq!(schedule["outcome"]["event_key"], second["event_key"]);
    let rest = harbour.check_outcome("TARDIS", &schedule["outcome"]);
    harbour.wait_quiet();
    harbour.rig.wait_drained();
    let all = u64::try_from(ship_lines(&harbour.rig).len()).unwrap();
    assert!(all > rest, "{all} in files, {rest} of them after the new start");
    harbour.wait_counts(&[("TARDIS", all)]);
    harbour.stop();
}
