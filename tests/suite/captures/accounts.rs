//! Whatever comes, the sum is right, and what is said to be stored is.

use std::collections::HashSet;
use std::net::UdpSocket;
use std::path::Path;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, mpsc};
use std::time::Duration;

use async_data_processor::broker::{Publish, PublishError, Published, Unit};
use async_data_processor::tasks::handler::{Ended, Handler, Job, Run};
use chrono::DateTime;
use serde_json::{Value, json};
use tokio::sync::oneshot;

use super::bay::{Bay, job};
use super::fake::{FakeShip, FakeStream, flood, telemetry};
use crate::harness::wait_for;

/// A ship that does this once, and says when it has.
fn ship(script: impl Fn(&FakeStream) + Send + Sync + 'static) -> (FakeShip, mpsc::Receiver<()>) {
    let (done, is_done) = mpsc::channel();
    let ship = FakeShip::start(move |stream| {
        script(stream);
        done.send(()).unwrap();
        stream.wait_unwanted();
    });
    (ship, is_done)
}

fn counts(account: &Value, keys: &[&str]) -> Vec<u64> {
    keys.iter().map(|key| account[*key].as_u64().unwrap_or_else(|| panic!("{account}"))).collect()
}

#[test]
fn duplicates_gaps_garbage_and_foreigners_are_told_apart() {
    let (ship, done) = ship(|stream| {
        let stranger = UdpSocket::bind("127.0.0.1:0").unwrap();
        for number in 0..1000 {
            match number % 10 {
                // Out of order, which is no duplicate.
                0 => stream.send(&telemetry(number + 1)),
                1 => stream.send(&telemetry(number - 1)),
                2 => stream.lose(),
                3 => stream.send(b"no telemetry"),
                4 => stream.send(&[b' '; 2049]),
                5 => {
                    stream.send(&telemetry(number));
                    stream.send_again(&telemetry(number));
                }
                6 => {
                    stream.send(&telemetry(number));
                    stranger.send_to(&telemetry(number), stream.target).unwrap();
                }
                7 => stream.send(&[telemetry(number), vec![b' '; 20]].concat()),
                _ => stream.send(&telemetry(number)),
            }
        }
    });
    let bay = Bay::new(ship.address);
    let capturing = bay.capture("USS Enterprise");
    done.recv().unwrap();
    bay.clock.end_window();
    let account = capturing.account();
    let keys = ["sent", "stored", "malformed", "truncated", "lost", "duplicates", "foreign"];
    assert_eq!(counts(&account, &keys), [1000, 700, 100, 100, 100, 100, 100], "{account}");
    assert_eq!(account["ship_name"], "USS Enterprise");
    assert_eq!(account["ended_by"], "window");
    assert_eq!(account["event_key"], ship.streams()[0].key.to_string());
    let expected = |number: &u64| ![2, 3, 4].contains(&(number % 10));
    let mut stored: Vec<u64> = bay.stored("USS Enterprise").into_iter().flatten().collect();
    stored.sort_unstable();
    assert_eq!(stored, (0..1000).filter(expected).collect::<Vec<_>>());
    assert_eq!(ship.streams()[0].ship, "USS Enterprise");
}

#[test]
fn of_silence_there_is_an_account_too() {
    let (ship, done) = ship(|_| {});
    let bay = Bay::new(ship.address);
    let capturing = bay.capture("TARDIS");
    done.recv().unwrap();
    bay.clock.end_window();
    let account = capturing.account();
    assert_eq!(counts(&account, &["sent", "stored", "lost", "bytes"]), [0; 4]);
    assert_eq!(bay.stored("TARDIS"), []);
}

#[test]
fn of_a_flood_what_is_not_stored_is_lost_and_the_kernel_says_so() {
    let (ship, done) =
        ship(|stream| (0..50_000).for_each(|number| stream.send(&telemetry(number))));
    let mut bay = Bay::new(ship.address);
    bay.capturer.socket.buffer_bytes = 4096;
    let capturing = bay.capture("TARDIS");
    done.recv().unwrap();
    bay.clock.end_window();
    let account = capturing.account();
    let [sent, stored, lost, dropped] =
        counts(&account, &["sent", "stored", "lost", "dropped_by_kernel"])[..]
    else {
        panic!()
    };
    assert_eq!((sent, stored + lost), (50_000, 50_000), "{account}");
    assert!(dropped <= lost, "{account}");
    assert_eq!(bay.stored("TARDIS").len() as u64, stored);
}

#[test]
fn a_flood_that_fits_is_stored_whole_and_in_order() {
    let (ship, done) = ship(|stream| {
        for number in 0..30_000 {
            stream.send(&telemetry(number));
            // No faster than a busy machine takes it in.
            if number % 500 == 0 {
                std::thread::sleep(Duration::from_millis(20));
            }
        }
    });
    let bay = Bay::new(ship.address);
    let capturing = bay.capture("TARDIS");
    done.recv().unwrap();
    bay.clock.end_window();
    let account = capturing.account();
    let stored = bay.stored("TARDIS");
    assert_eq!(account["stored"].as_u64(), Some(stored.len() as u64));
    assert!(stored.is_sorted());
    let distinct: HashSet<_> = stored.iter().collect();
    assert_eq!(distinct.len(), stored.len());
}

#[test]
fn a_flood_of_which_nothing_is_stored_does_not_hold_up_the_end() {
    let once = |stream: &FakeStream| stream.send(&telemetry(0));
    let garbage = |stream: &FakeStream| stream.flood(b"no telemetry");
    let again = |stream: &FakeStream| stream.flood(&telemetry(0));
    let foreign = |stream: &FakeStream| {
        let stranger = UdpSocket::bind("127.0.0.1:0").unwrap();
        flood(&stranger, stream.target, &telemetry(1), || stream.is_wanted());
    };
    let floods: [(_, fn(&FakeStream)); 3] =
        [("malformed", garbage), ("duplicates", again), ("foreign", foreign)];
    for (key, flooding) in floods {
        let ship = FakeShip::start(move |stream| {
            once(stream);
            flooding(stream);
        });
        let bay = Bay::new(ship.address);
        let capturing = bay.capture("TARDIS");
        wait_for("what came before", || (!bay.stored("TARDIS").is_empty()).then_some(()));
        bay.clock.end_window();
        let account = capturing.account();
        assert_eq!(account["stored"], 1, "{account}");
        assert!(account[key].as_u64() > Some(1000), "{account}");
        // So is one that is not wanted any more.
        let capturing = bay.capture("TARDIS");
        wait_for("another stream", || ship.streams().get(1).cloned());
        capturing.run.life.stop();
        assert_eq!(capturing.ended(), Ended::Stopped);
        let is_off = || ship.streams().iter().all(|stream| !stream.is_on());
        wait_for("the end of all streams", || is_off().then_some(()));
    }
}

#[test]
fn a_ship_of_r2_is_captured_and_only_its_losses_are_not_known() {
    let (done, is_done) = mpsc::channel();
    let ship = FakeShip::start_r2(move |stream| {
        let datagram = br#"{"timestamp": "2026-11-22T07:30:00+00:00", "value": 5, "unit": "V"}"#;
        (0..100).for_each(|_| stream.send(datagram));
        done.send(()).unwrap();
        stream.wait_unwanted();
    });
    let bay = Bay::new(ship.address);
    let capturing = bay.capture("TARDIS");
    is_done.recv().unwrap();
    bay.clock.end_window();
    let account = capturing.account();
    assert_eq!((&account["sent"], &account["lost"]), (&Value::Null, &Value::Null));
    assert_eq!(counts(&account, &["stored", "duplicates", "foreign"]), [100, 0, 0]);
    assert_eq!(bay.stored("TARDIS"), [None; 100]);
}

#[test]
fn a_ship_that_cannot_be_right_is_not_believed() {
    let (ship, done) = ship(|stream| {
        (0..10).for_each(|number| stream.send_again(&telemetry(number)));
    });
    let bay = Bay::new(ship.address);
    let capturing = bay.capture("TARDIS");
    done.recv().unwrap();
    bay.clock.end_window();
    let account = capturing.account();
    assert_eq!((&account["sent"], &account["stored"]), (&Value::Null, &json!(10)));
}

#[test]
fn several_captures_at_once_do_not_mix() {
    let (done, is_done) = mpsc::channel();
    let ship = FakeShip::start(move |stream| {
        let count = stream.ship.parse::<u64>().unwrap() * 100;
        (0..count).for_each(|number| stream.send(&telemetry(number)));
        done.send(()).unwrap();
        stream.wait_unwanted();
    });
    let bay = Bay::new(ship.address);
    let names: Vec<String> = (1..=8).map(|number: u64| number.to_string()).collect();
    let capturing: Vec<_> = names.iter().map(|name| bay.capture(name)).collect();
    names.iter().for_each(|_| is_done.recv().unwrap());
    bay.clock.end_window();
    for (name, capturing) in names.iter().zip(capturing) {
        let (account, count) = (capturing.account(), name.parse::<u64>().unwrap() * 100);
        assert_eq!(counts(&account, &["sent", "stored", "foreign"]), [count, count, 0]);
        assert_eq!(bay.stored(name), (0..count).map(Some).collect::<Vec<_>>());
    }
}

/// Takes nothing until it is told to; then what it stands before does.
struct Gate {
    is_open: AtomicBool,
    behind: Arc<dyn Publish>,
}

impl Publish for Gate {
    fn publish(&self, unit: Unit) -> oneshot::Receiver<Result<Published, PublishError>> {
        if self.is_open.load(Ordering::SeqCst) {
            return self.behind.publish(unit);
        }
        let (reply, answer) = oneshot::channel();
        reply.send(Err(PublishError::Unavailable("away".to_owned()))).unwrap();
        answer
    }
}

fn gate(bay: &mut Bay) -> Arc<Gate> {
    let behind = Arc::clone(&bay.capturer.publisher);
    let gate = Arc::new(Gate { is_open: AtomicBool::new(false), behind });
    bay.capturer.publisher = Arc::clone(&gate) as Arc<dyn Publish>;
    gate
}

#[test]
fn what_storage_did_not_take_at_first_is_stored_once_it_does() {
    let (ship, done) = ship(|stream| (0..100).for_each(|number| stream.send(&telemetry(number))));
    let mut bay = Bay::new(ship.address);
    let gate = gate(&mut bay);
    let capturing = bay.capture("TARDIS");
    done.recv().unwrap();
    bay.clock.end_window();
    wait_for("the end of the stream", || (!ship.streams()[0].is_on()).then_some(()));
    gate.is_open.store(true, Ordering::SeqCst);
    assert_eq!(counts(&capturing.account(), &["stored", "lost"]), [100, 0]);
    assert_eq!(bay.stored("TARDIS").len(), 100);
}

#[test]
fn what_storage_never_takes_is_lost() {
    let (ship, done) = ship(|stream| (0..100).for_each(|number| stream.send(&telemetry(number))));
    let mut bay = Bay::new(ship.address);
    let _closed = gate(&mut bay);
    let capturing = bay.capture("TARDIS");
    done.recv().unwrap();
    bay.clock.end_window();
    wait_for("the end of the stream", || (!ship.streams()[0].is_on()).then_some(()));
    // Nobody waits for it for ever.
    let account = capturing.account();
    assert_eq!(counts(&account, &["sent", "stored", "lost", "bytes"]), [100, 0, 100, 0]);
}

#[test]
fn a_window_that_is_over_is_missed_and_what_is_no_order_fails() {
    let ship = FakeShip::start(FakeStream::wait_unwanted);
    let bay = Bay::new(ship.address);
    let run = Run::new(Path::new("unused"), Duration::ZERO);
    let late = job("TARDIS", DateTime::UNIX_EPOCH);
    let Ended::Missed { reason } = bay.capturer.run(&late, &run) else { panic!() };
    assert!(reason.contains("over before it began"), "{reason}");
    let none = Job { payload: b"{}".to_vec(), ..late };
    let ended = bay.capturer.run(&none, &run);
    assert!(matches!(ended, Ended::Failed { is_final: true, .. }), "{ended:?}");
    assert_eq!(ship.asked(), [""; 0], "nobody asked for a stream");
}
