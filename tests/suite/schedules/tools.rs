//! `schedules`: the same on the command line.

use serde_json::Value;

use super::{get, in_each_store, schedule};
use crate::harness::Rig;

in_each_store!(
    what_is_added_is_listed_shown_cancelled_and_deleted,
    what_is_wrong_is_told_and_stores_nothing,
);

/// What a command that is to end with this code has printed.
fn run(rig: &Rig, arguments: &[&str], code: i32) -> (String, String) {
    let output = rig.run(&[&["schedules"], arguments].concat());
    let text = |bytes: &[u8]| String::from_utf8(bytes.to_vec()).unwrap().trim_end().to_owned();
    let (out, error) = (text(&output.stdout), text(&output.stderr));
    assert_eq!(output.status.code(), Some(code), "{out}\n{error}");
    (out, error)
}

fn json(lines: &str) -> Vec<Value> {
    lines.lines().map(|line| serde_json::from_str(line).unwrap()).collect()
}

fn what_is_added_is_listed_shown_cancelled_and_deleted(rig: Rig) {
    let at = "2999-01-01T00:00:00+01:00";
    let ship = ["add", "--ship-name", "USS Enterprise", "--duration", "9", "--start-time", at];
    let (once, _) = run(&rig, &ship, 0);
    let cron = "0 6 * * MON";
    let task = ["add", "--kind", "echo", "--payload", "hi", "--cron", cron, "--overlap", "allow"];
    let (again, _) = run(&rig, &task, 0);

    // As the scheduler shows them.
    let scheduler = schedule(&rig);
    let (listed, _) = run(&rig, &["list", "--output", "json"], 0);
    assert_eq!(json(&listed), *get(scheduler.address(), "/scheduler/").as_array().unwrap());
    for id in [&once, &again] {
        let (shown, _) = run(&rig, &["show", id, "--output", "json"], 0);
        assert_eq!(json(&shown)[0], get(scheduler.address(), &format!("/scheduler/{id}")));
    }
    let (active, _) = run(&rig, &["list", "--state", "active,ended"], 0);
    assert_eq!(active.lines().count(), 2, "a head and a line: {active}");
    assert!(active.contains(&again) && active.contains("echo"), "{active}");
    let (newest, more) = run(&rig, &["list", "--limit", "1", "--output", "json"], 0);
    assert_eq!((json(&newest).len(), more.contains("there are more")), (1, true), "{more}");
    let (_, more) = run(&rig, &["list", "--limit", "2"], 0);
    assert!(!more.contains("there are more"), "{more}");
    let (of_ship, _) = run(&rig, &["list", "--ship-name", "USS Enterprise"], 0);
    assert!(of_ship.contains(&once) && of_ship.contains(at), "{of_ship}");
    let (shown, _) = run(&rig, &["show", &again], 0);
    assert!(shown.contains(cron) && shown.contains("next_at"), "{shown}");

    let unknown = "019ab3f0-7c1e-7d8a-9f65-1f2e3d4c5b6a";
    let (done, error) = run(&rig, &["cancel", &once, unknown, &again], 1);
    assert_eq!(done.lines().count(), 2, "{done}");
    assert!(error.contains("there is no schedule 019ab3f0"), "{error}");
    run(&rig, &["delete", &once, &again], 0);
    run(&rig, &["show", &once], 1);
    assert_eq!(run(&rig, &["list", "--output", "json"], 0).0, "");
}

fn what_is_wrong_is_told_and_stores_nothing(rig: Rig) {
    schedule(&rig).stop();
    for (arguments, code, said) in [
        (&["add", "--ship-name", "TARDIS", "--duration", "9"][..], 65, "start_time: it is missing"),
        (&["add", "--kind", "echo", "--start-time", "2999-01-01T00:00:00"], 65, "offset"),
        (&["add", "--kind", "echo", "--cron", "0 0 30 2 *"], 65, "cron: it never comes"),
        (&["add", "--kind", "echo", "--every-seconds", "9", "--overlap", "x"], 65, "overlap: "),
        (&["add"], 2, "--ship-name"),
        (&["add", "--kind", "echo", "--ship-name", "TARDIS"], 2, "cannot be used with"),
        (&["list", "--state", "late"], 2, "a state is one of pending, running"),
    ] {
        let (_, error) = run(&rig, arguments, code);
        assert!(error.contains(said), "{arguments:?}: {error}");
    }
    assert_eq!(run(&rig, &["list", "--output", "json"], 0).0, "");
}
