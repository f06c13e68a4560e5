//! State directories as people have them: missing, not theirs, no directory, long and odd names.

use super::{last_line, refused, stderr, stdout};
use crate::harness::{Rig, entry, post_entries};

#[test]
fn a_state_directory_that_cannot_be_is_told_with_its_path() {
    let mut rig = Rig::new();
    let file = rig.dir.path().join("file");
    std::fs::write(&file, "not a directory").unwrap();
    let component = rig.dir.path().join("x".repeat(256));
    let path = rig.dir.path().join("y/".repeat(2500));
    for odd in [file.clone(), file.join("below"), "/proc".into(), "/proc/none".into()]
        .into_iter()
        .chain([component, path, "/dev/null".into()])
    {
        rig.set("STATE_DIR", odd.display());
        for command in ["server", "message-consumer", "up", "publish", "verify", "history"] {
            let said = refused(&rig.run(&[command]), if odd == *"/proc" { 78 } else { 73 });
            let said = last_line(&said);
            assert!(said.starts_with("error: state directory "), "{said}");
            assert!(said.contains(odd.to_str().unwrap().trim_end_matches('/')), "{said}");
            // The system's words once, not once per layer.
            assert_eq!(said.matches("(os error").count(), 1, "{said}");
        }
    }
    assert_eq!(std::fs::read_to_string(file).unwrap(), "not a directory");
}

#[test]
fn long_and_odd_names_work_for_everything() {
    let long = ["d".repeat(200), "e".repeat(200), "f".repeat(200)].join("/");
    for name in ["with spaces and 'quotes'", "ünï-日本-🚀", "-dash", "%41\\x41", long.as_str()]
    {
        let mut rig = Rig::new();
        let state = rig.dir.path().join(name);
        rig.set("STATE_DIR", state.display());
        rig.set("DATA_OUTPUT_DIR", rig.dir.path().join("out").join(name).display());
        let server = rig.serve(&["server"]);
        let consumer = rig.start(&["message-consumer"]);
        post_entries(server.address(), &[entry(0, "a"), entry(1, "b")]);
        let line = format!("{}\n", entry(2, "c"));
        assert_eq!(rig.run_with_input(&["publish"], line.as_bytes()).status.code(), Some(0));
        let account = rig.wait_drained();
        assert_eq!(account["in_files"], 3, "{name}");
        server.stop();
        consumer.stop();
        assert!(state.join("data.mdb").exists());
    }
}

#[test]
fn a_relative_state_directory_and_none_at_all_work() {
    let mut rig = Rig::new();
    rig.set("STATE_DIR", "here/below");
    let line = format!("{}\n", entry(0, "a"));
    assert_eq!(rig.run_with_input(&["publish"], line.as_bytes()).status.code(), Some(0));
    assert_eq!(rig.verify(&[])["accepted"], 1);
    assert!(rig.dir.path().join("here/below/data.mdb").exists());
    for (variable, below) in
        [("HOME", ".local/state/async-data-processor"), ("XDG_STATE_HOME", "async-data-processor")]
    {
        let home = tempfile::tempdir().unwrap();
        let mut command = rig.command(&["verify"]);
        command.env_remove("STATE_DIR").env(variable, home.path());
        assert_eq!(command.output().unwrap().status.code(), Some(0));
        assert!(home.path().join(below).join("data.mdb").exists(), "{variable}");
    }
}

#[test]
fn a_new_state_directory_is_right_but_not_without_a_word() {
    let rig = Rig::new();
    let output = rig.run(&["verify"]);
    assert_eq!(output.status.code(), Some(0));
    assert!(stdout(&output).ends_with("accepted 0 = in files 0 + waiting 0 + dead 0\nok\n"));
    assert!(stderr(&output).contains("this state directory is new"), "{}", stderr(&output));
    let again = rig.run(&["verify"]);
    assert_eq!((again.status.code(), stderr(&again).as_str()), (Some(0), ""));
    let account = rig.verify(&["--allow-taken-away"]);
    assert_eq!((&account["ok"], &account["accepted"]), (&true.into(), &0.into()));
    let other = Rig::new();
    let history = other.run(&["history", "--output", "json"]);
    assert_eq!(stdout(&history), "[]\n");
    assert!(stderr(&history).contains("this state directory is new"));
}

#[test]
fn the_state_directory_is_for_its_user_alone() {
    use std::os::unix::fs::PermissionsExt;

    let rig = Rig::new();
    let up = rig.serve(&["up"]);
    post_entries(up.address(), &[entry(0, "a")]);
    rig.wait_drained();
    up.stop();
    let mode = |path: &std::path::Path| path.metadata().unwrap().permissions().mode() & 0o777;
    assert_eq!(mode(&rig.state()), 0o700);
    for file in rig.files() {
        assert_eq!(mode(&file) & 0o137, 0, "{}", file.display());
    }
}
