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
        for command in ["server", "message-consumer", "up", "publish"] {
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
fn a_path_that_is_too_long_for_the_tasks_is_refused_before_anything_is_taken() {
    let mut rig = Rig::new();
    let long = ["d".repeat(200), "e".repeat(200), "f".repeat(200)].join("/");
    rig.set("STATE_DIR", rig.dir.path().join(long).display());
    let output = rig.run(&["server", "--port", "0"]);
    assert_eq!(output.status.code(), Some(73));
    assert!(stderr(&output).contains("set STATE_DIR to a shorter one"), "{}", stderr(&output));
}

#[test]
fn long_and_odd_names_work_for_everything() {
    let long = ["d".repeat(200), "e".repeat(200)].join("/");
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
        let mut command = rig.command(&["publish"]);
        command.env_remove("STATE_DIR").env(variable, home.path());
        assert_eq!(command.output().unwrap().status.code(), Some(0));
        assert!(home.path().join(below).join("data.mdb").exists(), "{variable}");
    }
}

#[test]
fn a_tool_refuses_a_state_directory_that_is_none_and_makes_nothing() {
    let mut rig = Rig::new();
    let folder = rig.dir.path().join("folder");
    std::fs::create_dir(&folder).unwrap();
    let file = rig.dir.path().join("file");
    std::fs::write(&file, "not a directory").unwrap();
    for (path, said_so) in [
        (rig.dir.path().join("mistyped"), "is not there: is STATE_DIR right?"),
        (folder.join("a/b"), "is not there: is STATE_DIR right?"),
        (folder.clone(), "is none: it has no data.mdb; is STATE_DIR right?"),
        ("/proc".into(), "is none: it has no data.mdb; is STATE_DIR right?"),
        (file.clone(), "Not a directory"),
        (file.join("below"), "Not a directory"),
        (rig.dir.path().join("x".repeat(256)), "File name too long"),
    ] {
        rig.set("STATE_DIR", path.display());
        for arguments in [&["verify"][..], &["history", "--output", "json"], &["tap"]] {
            let said = refused(&rig.run(arguments), 73);
            let expected = format!("error: state directory {}", path.display());
            assert!(said.starts_with(&expected), "{said}");
            assert!(said.contains(said_so), "{said}");
            assert_eq!(said.lines().count(), 1, "{said}");
        }
    }
    assert_eq!(std::fs::read_dir(&folder).unwrap().count(), 0);
    assert_eq!(std::fs::read_dir(rig.dir.path()).unwrap().count(), 2);
    assert_eq!(std::fs::read_to_string(file).unwrap(), "not a directory");
}

#[test]
fn a_new_state_directory_is_made_by_whatever_stores_and_its_account_is_right() {
    let rig = Rig::new();
    assert_eq!(rig.run_with_input(&["publish"], b"").status.code(), Some(0));
    let output = rig.run(&["verify"]);
    assert_eq!((output.status.code(), stderr(&output).as_str()), (Some(0), ""));
    assert!(stdout(&output).ends_with("accepted 0 = in files 0 + waiting 0 + dead 0\nok\n"));
    let account = rig.verify(&["--allow-taken-away"]);
    assert_eq!((&account["ok"], &account["accepted"]), (&true.into(), &0.into()));
    assert_eq!(stdout(&rig.run(&["history", "--output", "json"])), "[]\n");
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
