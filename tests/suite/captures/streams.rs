//! No stream stays that nobody wants, and no port; and what the spaceship does meanwhile.

use std::net::{SocketAddr, TcpListener, UdpSocket};
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::Path;
use std::sync::atomic::Ordering;
use std::sync::mpsc;
use std::time::Duration;

use async_data_processor::clock::Clock;
use async_data_processor::tasks::handler::{Ended, Handler, Run};
use serde_json::{Value, json};

use super::bay::{Bay, Capturing, WINDOW, job};
use super::fake::{FakeShip, FakeStream, telemetry};
use crate::harness::wait_for;

/// A ship that sends for as long as it is wanted, and says when it has begun.
fn endless() -> (FakeShip, mpsc::Receiver<SocketAddr>) {
    let (begun, has_begun) = mpsc::channel();
    let ship = FakeShip::start(move |stream| {
        begun.send(stream.target).unwrap();
        send_while_wanted(stream);
    });
    (ship, has_begun)
}

pub(super) fn send_while_wanted(stream: &FakeStream) {
    for number in 0.. {
        if !stream.is_wanted() {
            return;
        }
        stream.send(&telemetry(number));
        std::thread::sleep(Duration::from_millis(1));
    }
}

fn wait_closed(target: SocketAddr) {
    wait_for("the port to be closed", || UdpSocket::bind(target).ok());
}

fn wait_all_off(ship: &FakeShip) {
    let are_off = || ship.streams().iter().all(|stream| !stream.is_on());
    wait_for("all streams to be off", || are_off().then_some(()));
}

fn deletes(ship: &FakeShip) -> usize {
    ship.asked().iter().filter(|asked| asked.starts_with("DELETE")).count()
}

fn refusal(capturing: Capturing) -> (String, bool) {
    let ended = capturing.ended();
    let Ended::Failed { reason, is_final } = ended else { panic!("{ended:?}") };
    (reason, is_final)
}

#[test]
fn a_capture_that_is_not_wanted_any_more_stops_its_stream_and_closes_its_port() {
    let (ship, begun) = endless();
    let bay = Bay::new(ship.address);
    let capturing = bay.capture("TARDIS");
    let target = begun.recv().unwrap();
    wait_for("something to be stored", || (!bay.stored("TARDIS").is_empty()).then_some(()));
    capturing.run.life.stop();
    assert_eq!(capturing.ended(), Ended::Stopped);
    wait_all_off(&ship);
    wait_closed(target);
    assert_eq!(deletes(&ship), 1);
    assert_eq!(bay.stored("TARDIS")[..3], [Some(0), Some(1), Some(2)]);
}

#[test]
fn a_capture_that_panics_stops_its_stream_and_closes_its_port() {
    let (ship, begun) = endless();
    let bay = Bay::new(ship.address);
    let (job, capturer) = (job("TARDIS", bay.clock.wall() + WINDOW), bay.capturer.clone());
    let thread = std::thread::spawn(move || {
        let run = Run::new(Path::new("unused"), Duration::MAX);
        catch_unwind(AssertUnwindSafe(|| capturer.run(&job, &run))).is_err()
    });
    let target = begun.recv().unwrap();
    bay.clock.is_broken.store(true, Ordering::SeqCst);
    assert!(thread.join().unwrap());
    wait_all_off(&ship);
    wait_closed(target);
    assert_eq!(deletes(&ship), 1);
}

#[test]
fn a_stream_that_begins_when_nobody_waits_any_more_is_stopped() {
    let (ship, begun) = endless();
    let bay = Bay::new(ship.address);
    let capturing = bay.capture("TARDIS");
    capturing.run.life.stop();
    assert_eq!(capturing.ended(), Ended::Stopped);
    // It may never have been asked for.
    let _begun = begun.recv_timeout(Duration::from_millis(500));
    wait_all_off(&ship);
}

#[test]
fn the_spaceship_is_asked_five_times_and_no_more() {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let nobody = listener.local_addr().unwrap();
    drop(listener);
    let (reason, is_final) = refusal(Bay::new(nobody).capture("TARDIS"));
    assert!(reason.contains("asked 5 times: it does not answer"), "{reason}");
    assert!(!is_final, "it may be there later");

    let (ship, _) = endless();
    (0..5).for_each(|_| ship.refuse(429, json!({"detail": "too many streams"})));
    let (reason, is_final) = refusal(Bay::new(ship.address).capture("TARDIS"));
    assert!(reason.ends_with("asked 5 times: it answers 429: too many streams"), "{reason}");
    assert!(!is_final);
    assert_eq!(ship.asked(), ["POST /stream/"; 5]);
}

#[test]
fn a_refusal_for_good_is_taken_for_one() {
    let (ship, _) = endless();
    ship.refuse(400, json!({"detail": "this target is refused"}));
    let (reason, is_final) = refusal(Bay::new(ship.address).capture("TARDIS"));
    assert!(reason.ends_with("asked once: it answers 400: this target is refused"), "{reason}");
    assert!(is_final);
    assert_eq!(ship.asked().len(), 1);
}

#[test]
fn a_spaceship_that_comes_back_in_time_is_captured() {
    let (ship, begun) = endless();
    (0..4).for_each(|_| ship.refuse(503, json!({"detail": "not yet"})));
    let bay = Bay::new(ship.address);
    let capturing = bay.capture("TARDIS");
    begun.recv().unwrap();
    bay.clock.end_window();
    let account = capturing.account();
    assert_eq!(account["ended_by"], "window");
}

#[test]
fn a_spaceship_that_is_started_anew_is_asked_for_another_stream() {
    let (ship, begun) = endless();
    let bay = Bay::new(ship.address);
    let capturing = bay.capture("TARDIS");
    let first = begun.recv().unwrap();
    wait_for("something to be stored", || (!bay.stored("TARDIS").is_empty()).then_some(()));
    ship.forget();
    let second = begun.recv().unwrap();
    assert_eq!(first, second, "the port is the same");
    wait_for("something of the second", || (ship.streams()[0].sent() > 10).then_some(()));
    bay.clock.end_window();
    let account = capturing.account();
    assert_eq!(account["sent"], Value::Null, "what the first has sent nobody knows");
    assert_eq!(account["event_key"], ship.streams()[0].key.to_string());
    let stored = bay.stored("TARDIS");
    assert_eq!(account["stored"], stored.len());
    assert_eq!(stored.iter().filter(|number| **number == Some(0)).count(), 2);
    wait_all_off(&ship);
}

#[test]
fn a_spaceship_that_ends_the_stream_for_good_ends_the_capture() {
    let (done, is_done) = mpsc::channel();
    let ship = FakeShip::start(move |stream| {
        (0..10).for_each(|number| stream.send(&telemetry(number)));
        done.send(()).unwrap();
        stream.wait_unwanted();
    });
    let bay = Bay::new(ship.address);
    let capturing = bay.capture("TARDIS");
    is_done.recv().unwrap();
    wait_for("all of it", || (bay.stored("TARDIS").len() == 10).then_some(()));
    ship.refuse(400, json!({"detail": "no more"}));
    ship.forget();
    let account = capturing.account();
    assert_eq!((&account["ended_by"], &account["stored"]), (&json!("spaceship"), &json!(10)));
}

#[test]
fn a_spaceship_that_is_gone_for_longer_than_a_lease_is_told_of_and_captured_again() {
    let (ship, begun) = endless();
    let bay = Bay::new(ship.address);
    let capturing = bay.capture("TARDIS");
    begun.recv().unwrap();
    ship.set_out(true);
    wait_for("the capture to look for another stream", || {
        ship.asked().iter().skip(1).any(|asked| asked == "POST /stream/").then_some(())
    });
    assert!(!ship.streams()[0].is_on(), "its lease has run out");
    ship.set_out(false);
    begun.recv().unwrap();
    let stored = bay.stored("TARDIS").len();
    wait_for("something of the second", || (bay.stored("TARDIS").len() > stored).then_some(()));
    bay.clock.end_window();
    let account = capturing.account();
    assert_eq!((&account["ended_by"], &account["streams"]), (&json!("window"), &json!(2)));
    assert_eq!(account["sent"], Value::Null, "what the first has sent nobody says");
    wait_all_off(&ship);
}

#[test]
fn a_spaceship_that_is_gone_for_good_is_said_to_have_ended_the_capture() {
    let (ship, begun) = endless();
    let bay = Bay::new(ship.address);
    let capturing = bay.capture("TARDIS");
    begun.recv().unwrap();
    ship.set_out(true);
    wait_for("the capture to look for another stream", || {
        ship.asked().iter().skip(1).any(|asked| asked == "POST /stream/").then_some(())
    });
    bay.clock.end_window();
    let account = capturing.account();
    assert_eq!((&account["ended_by"], &account["streams"]), (&json!("spaceship"), &json!(1)));
    assert_eq!(account["stored"], bay.stored("TARDIS").len());
}

#[test]
fn an_end_whose_answer_is_lost_is_learnt_all_the_same() {
    let (ship, begun) = endless();
    let bay = Bay::new(ship.address);
    let capturing = bay.capture("TARDIS");
    begun.recv().unwrap();
    wait_for("something to be stored", || (!bay.stored("TARDIS").is_empty()).then_some(()));
    ship.lose_answers(1);
    bay.clock.end_window();
    let account = capturing.account();
    assert_eq!(account["sent"], ship.streams()[0].sent(), "{account}");
    assert_eq!(deletes(&ship), 2);
}

#[test]
fn a_key_that_comes_twice_hides_nothing() {
    let (ship, begun) = endless();
    let bay = Bay::new(ship.address);
    let key = "01a2035d-8f3c-7d22-9b41-6f0a52c3be10".parse().unwrap();
    ship.name_streams(key);
    for round in 1..=2 {
        let stored = bay.stored("TARDIS").len();
        let capturing = bay.capture("TARDIS");
        begun.recv().unwrap();
        wait_for("something to be stored", || (bay.stored("TARDIS").len() > stored).then_some(()));
        bay.clock.end_window();
        let account = capturing.account();
        let all = bay.stored("TARDIS").len();
        assert_eq!(account["stored"], all - stored, "in round {round}");
        ship.forget();
    }
}

#[test]
fn a_wall_clock_that_is_set_while_it_runs_neither_ends_nor_prolongs_a_capture() {
    let (ship, begun) = endless();
    let bay = Bay::new(ship.address);
    let capturing = bay.capture("TARDIS");
    begun.recv().unwrap();
    for hours in [1, -1, 24, -24] {
        bay.clock.set_wall(hours * 3600);
        let stored = bay.stored("TARDIS").len();
        // Two of them, so that the clock was looked at in between.
        for more in 1..=2 {
            let is_more = || bay.stored("TARDIS").len() > stored + more;
            wait_for("more to be stored", || is_more().then_some(()));
        }
    }
    bay.clock.end_window();
    let account = capturing.account();
    assert_eq!((&account["ended_by"], &account["streams"]), (&json!("window"), &json!(1)));
    assert_eq!(account["sent"], ship.streams()[0].sent());
}
