//! What may happen to the output directory: gone, swapped, read-only, emptied, damaged.

use std::collections::BTreeSet;
use std::fs;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, Ordering};

use serde_json::json;

use crate::harness::{Process, Rig, files_below, wait_for};
use crate::survive_calls::{Faults, start_with_faults};
use crate::survive_signals::{Ledger, Posters, unique_entry};
use crate::survive_space::SmallDisk;

/// Posts so many entries with a server of its own.
fn post_some(rig: &Rig, ledger: &mut Ledger, count: usize) {
    let server = rig.serve(&["server"]);
    let entries: Vec<_> = (0..count).map(|_| unique_entry(20)).collect();
    assert_eq!(ledger.post(server.address(), &entries), 201);
    server.stop();
}

/// Consumes all there is with a consumer of its own.
fn consume(rig: &Rig, flags: &[&str]) {
    let consumer = rig.start(&[&["message-consumer"], flags].concat());
    consumer.wait_log("took over shards");
    wait_for("everything to be in files", || {
        (rig.verify(&["--allow-taken-away"])["waiting"] == 0).then_some(())
    });
    consumer.stop();
}

/// A rig of one shard and one worker that has consumed one entry; its ledger.
fn used_rig() -> (Rig, Ledger) {
    let mut rig = Rig::new();
    rig.set("SHARDS_COUNT", 1).set("WORKERS_COUNT", 1);
    let mut ledger = Ledger::default();
    post_some(&rig, &mut ledger, 1);
    consume(&rig, &[]);
    (rig, ledger)
}

/// Expects the consumer not to start, in words that name all of `named`.
fn assert_refused(rig: &Rig, flags: &[&str], exit: i32, named: &[&str]) {
    let mut consumer = rig.start(&[&["message-consumer"], flags].concat());
    let status = consumer.wait();
    let text = consumer.wait_log("error: ");
    assert_eq!(status.code(), Some(exit), "{text}");
    for name in named {
        assert!(text.contains(name), "{name} is not in: {text}");
    }
}

/// Every line in the batch files of these folders.
fn lines_below(folders: &[&Path]) -> Vec<String> {
    let files = folders.iter().flat_map(|folder| files_below(folder));
    let texts = files.map(|file| fs::read_to_string(file).unwrap());
    texts.flat_map(|text| text.lines().map(str::to_owned).collect::<Vec<_>>()).collect()
}

/// Leaves a batch that is committed but not yet in place.
fn leave_prepared(rig: &Rig) {
    let faults = Faults { calls: "renameat2", fault: "error=EIO:when=1+", paths: &[rig.output()] };
    let mut consumer = start_with_faults(rig, &faults, &["message-consumer"]);
    consumer.wait_log("a batch cannot be placed, yet");
    consumer.signal("TERM");
    assert_eq!(consumer.wait().code(), Some(0), "{}", consumer.log());
    consumer.wait_log("the next start places it");
}

#[test]
fn an_output_directory_that_has_gone_missing_is_not_made_anew() {
    let (rig, mut ledger) = used_rig();
    post_some(&rig, &mut ledger, 5);
    let aside = rig.dir.path().join("aside");
    fs::rename(rig.output(), &aside).unwrap();
    let (state, output) = (rig.state(), rig.output());
    let both = [state.to_str().unwrap(), output.to_str().unwrap(), "is not there"];
    assert_refused(&rig, &[], 73, &both);
    assert!(!rig.output().exists());
    fs::rename(&aside, rig.output()).unwrap();
    consume(&rig, &[]);
    ledger.assert_exactly_once(&rig.lines());
}

#[test]
fn an_output_directory_swapped_under_the_consumer_gets_nothing() {
    let (rig, mut ledger) = used_rig();
    let mut consumer = rig.start(&["message-consumer"]);
    consumer.wait_log("took over shards");
    let aside = rig.dir.path().join("aside");
    fs::rename(rig.output(), &aside).unwrap();
    fs::create_dir(rig.output()).unwrap();
    post_some(&rig, &mut ledger, 5);
    assert_eq!(consumer.wait().code(), Some(74), "{}", consumer.log());
    let error = consumer.wait_log("is not what it was at start");
    assert!(error.contains(rig.output().to_str().unwrap()), "{error}");
    assert_refused(&rig, &[], 73, &["has no marker"]);
    assert_eq!(fs::read_dir(rig.output()).unwrap().count(), 0);
    fs::remove_dir(rig.output()).unwrap();
    fs::rename(&aside, rig.output()).unwrap();
    consume(&rig, &[]);
    ledger.assert_exactly_once(&rig.lines());
}

#[test]
fn the_output_directory_of_another_state_directory_is_refused() {
    let (mut rig, _) = used_rig();
    let (other, _) = used_rig();
    rig.set("DATA_OUTPUT_DIR", other.output().display());
    for flags in [&[][..], &["--adopt-output-dir"]] {
        assert_refused(&rig, flags, 73, &["belongs to another state directory"]);
    }
    assert_eq!(other.lines().len(), 1);
}

#[test]
fn another_output_directory_needs_to_be_adopted_and_nothing_on_its_way() {
    let (mut rig, mut ledger) = used_rig();
    post_some(&rig, &mut ledger, 5);
    leave_prepared(&rig);
    let second = rig.dir.path().join("second");
    fs::create_dir(&second).unwrap();
    let first = rig.output();
    rig.set("DATA_OUTPUT_DIR", second.display());
    assert_refused(&rig, &[], 73, &["has no marker", "--adopt-output-dir"]);
    assert_refused(&rig, &["--adopt-output-dir"], 73, &["has 1 batches on their way"]);
    rig.set("DATA_OUTPUT_DIR", first.display());
    consume(&rig, &[]);
    post_some(&rig, &mut ledger, 5);
    rig.set("DATA_OUTPUT_DIR", second.display());
    consume(&rig, &["--adopt-output-dir"]);
    assert_eq!(rig.lines().len(), 6);
    ledger.assert_exactly_once(&lines_below(&[&first, &second]));
}

#[test]
fn the_directory_given_up_for_an_adopted_one_is_refused() {
    let (mut rig, mut ledger) = used_rig();
    let (first, second) = (rig.output(), rig.dir.path().join("second"));
    fs::create_dir(&second).unwrap();
    rig.set("DATA_OUTPUT_DIR", second.display());
    consume(&rig, &["--adopt-output-dir"]);
    post_some(&rig, &mut ledger, 5);
    let faults = Faults { calls: "renameat2", fault: "error=EIO:when=1+", paths: &[second] };
    let mut consumer = start_with_faults(&rig, &faults, &["message-consumer"]);
    consumer.wait_log("a batch cannot be placed, yet");
    consumer.signal("TERM");
    consumer.wait();
    // There everything that is on its way would look as if somebody had taken it away.
    rig.set("DATA_OUTPUT_DIR", first.display());
    assert_refused(&rig, &[], 73, &[first.to_str().unwrap()]);
}

/// Waits until a process has logged one of two texts: which.
fn says(process: &Process, texts: [&'static str; 2]) -> &'static str {
    wait_for("a process to say how it goes on", || {
        let log = process.log();
        texts.into_iter().find(|text| log.contains(text))
    })
}

#[test]
fn adopting_another_directory_beside_a_running_consumer_loses_nothing() {
    let (mut rig, mut ledger) = used_rig();
    let (first, second) = (rig.output(), rig.dir.path().join("second"));
    fs::create_dir(&second).unwrap();
    let faults = Faults {
        calls: "renameat2",
        fault: "error=EIO:when=1+",
        paths: std::slice::from_ref(&first),
    };
    let running = start_with_faults(&rig, &faults, &["message-consumer"]);
    running.wait_log("took over shards");
    rig.set("DATA_OUTPUT_DIR", second.display());
    let adopting = rig.start(&["message-consumer", "--adopt-output-dir"]);
    says(&adopting, ["error: ", "standing by"]);
    post_some(&rig, &mut ledger, 5);
    says(&running, ["error: ", "a batch cannot be placed, yet"]);
    running.kill();
    // Whichever goes on: what is on its way is looked for where it is, and nowhere else.
    if says(&adopting, ["error: ", "took over shards"]) == "error: " {
        rig.set("DATA_OUTPUT_DIR", first.display());
        consume(&rig, &[]);
    } else {
        wait_for("everything to be in files", || {
            (rig.verify(&["--allow-taken-away"])["waiting"] == 0).then_some(())
        });
        adopting.stop();
    }
    ledger.assert_exactly_once(&lines_below(&[&first, &second]));
}

#[test]
fn a_read_only_output_directory_loses_nothing_and_work_resumes() {
    let mut rig = Rig::new();
    rig.set("FILES_PER_SECOND", 0);
    let disk = SmallDisk::mount(&rig.output(), 16);
    let server = rig.serve(&["server"]);
    let consumer = rig.start(&["message-consumer"]);
    consumer.wait_log("took over shards");
    let posters = Posters::start(server.address(), 2, 20);
    posters.wait_accepted(60);
    // Busy for as long as a file is being written.
    wait_for("the disk to become read-only", || disk.remount("ro").then_some(()));
    posters.wait_accepted(60);
    consumer.wait_log("Read-only file system");
    assert!(disk.remount("rw"));
    posters.wait_accepted(60);
    let ledger = posters.stop();
    rig.wait_drained();
    server.stop();
    consumer.stop();
    ledger.assert_exactly_once(&rig.lines());
}

/// Ends the reader also when the test fails.
struct SetOnDrop<'a>(&'a AtomicBool);

impl Drop for SetOnDrop<'_> {
    fn drop(&mut self) {
        self.0.store(true, Ordering::Relaxed);
    }
}

/// Moves every committed file away, and the folders with them, until told to stop; how many
/// folders it could remove.
fn take_away(output: &Path, taken: &Path, stopped: &AtomicBool) -> usize {
    let mut folders = 0;
    while !stopped.load(Ordering::Relaxed) {
        let files = files_below(output);
        let parents: BTreeSet<PathBuf> =
            files.iter().map(|file| file.parent().unwrap().into()).collect();
        for file in files {
            let target = taken.join(file.file_name().unwrap());
            assert!(!target.exists(), "{} a second time", target.display());
            fs::rename(&file, &target).unwrap();
        }
        for folder in parents {
            // A file may have come in meanwhile.
            let removed = [&*folder, folder.parent().unwrap()].map(|at| fs::remove_dir(at).is_ok());
            folders += removed.into_iter().filter(|removed| *removed).count();
        }
    }
    folders
}

#[test]
fn a_reader_that_takes_everything_at_once_gets_each_message_once() {
    let mut rig = Rig::new();
    rig.set("FILES_PER_SECOND", 0).set("BATCH_MIN", 1);
    let taken = rig.dir.path().join("taken");
    fs::create_dir(&taken).unwrap();
    let stopped = AtomicBool::new(false);
    let server = rig.serve(&["server"]);
    let consumer = rig.start(&["message-consumer"]);
    let (ledger, folders) = std::thread::scope(|scope| {
        let reader = scope.spawn(|| take_away(&rig.output(), &taken, &stopped));
        let stop = SetOnDrop(&stopped);
        let posters = Posters::start(server.address(), 2, 20);
        posters.wait_accepted(1000);
        let ledger = posters.stop();
        wait_for("everything to be in files", || {
            let account = rig.verify(&["--allow-taken-away"]);
            assert_eq!(account["ok"], true, "{account}");
            (account["waiting"] == 0).then_some(())
        });
        drop(stop);
        (ledger, reader.join().unwrap())
    });
    server.stop();
    consumer.stop();
    assert!(folders > 10, "the reader never got in between: {folders} folders");
    ledger.assert_exactly_once(&lines_below(&[&rig.output(), &taken]));
    assert_eq!(rig.verify(&["--allow-taken-away"])["ok"], true);
    let account = rig.verify(&[]);
    assert_eq!(account["findings"][0]["kind"], "missing", "{account}");
}

#[test]
fn what_is_not_ours_in_the_output_directory_is_left_alone() {
    let (rig, mut ledger) = used_rig();
    let folder = rig.files()[0].parent().unwrap().to_owned();
    let notes = [
        rig.output().join("notes.txt"),
        rig.output().join(".staging/notes.txt"),
        rig.output().join(".staging/messages-7/0-1-1-0"),
        folder.join("notes.jsonl.tmp"),
        folder.join(".hidden"),
    ];
    fs::create_dir(rig.output().join(".staging/messages-7")).unwrap();
    notes.iter().for_each(|path| fs::write(path, "mine\n").unwrap());
    post_some(&rig, &mut ledger, 5);
    consume(&rig, &[]);
    rig.wait_drained();
    for path in &notes {
        assert_eq!(fs::read_to_string(path).unwrap(), "mine\n", "{}", path.display());
    }
    ledger.assert_exactly_once(&rig.lines());
}

#[test]
fn a_file_that_has_the_name_of_the_next_batch_is_not_overwritten() {
    let (rig, mut ledger) = used_rig();
    let first = &rig.files()[0];
    let next = first.file_name().unwrap().to_str().unwrap().replacen("01-", "02-", 1);
    // In whatever hour the batch will be.
    let mut planted = Vec::new();
    let hour = chrono::Utc::now();
    for hour in [hour, hour + chrono::TimeDelta::hours(1)] {
        let folder = rig.output().join(hour.format("%Y-%m-%d/%H").to_string());
        fs::create_dir_all(&folder).unwrap();
        planted.push(folder.join(&next));
        fs::write(folder.join(&next), "mine\n").unwrap();
    }
    post_some(&rig, &mut ledger, 5);
    let named = ["is there already, but not by this program", &next, "move it away"];
    assert_refused(&rig, &[], 74, &named);
    assert_refused(&rig, &[], 74, &[&next, "is damaged"]);
    for path in &planted {
        assert_eq!(fs::read_to_string(path).unwrap(), "mine\n");
        fs::remove_file(path).unwrap();
    }
    consume(&rig, &[]);
    rig.wait_drained();
    ledger.assert_exactly_once(&rig.lines());
}

#[test]
fn verify_names_the_offsets_of_damaged_missing_and_doubled_files() {
    let mut rig = Rig::new();
    rig.set("SHARDS_COUNT", 1).set("WORKERS_COUNT", 1).set("BATCH_MAX", 5);
    post_some(&rig, &mut Ledger::default(), 20);
    consume(&rig, &[]);
    let files = rig.files();
    assert_eq!(files.len(), 4);
    let mut bytes = fs::read(&files[0]).unwrap();
    bytes[7] ^= 1;
    fs::write(&files[0], bytes).unwrap();
    fs::remove_file(&files[1]).unwrap();
    let elsewhere = rig.output().join("2000-01-01/00");
    fs::create_dir_all(&elsewhere).unwrap();
    fs::copy(&files[2], elsewhere.join(files[2].file_name().unwrap())).unwrap();
    let account = rig.verify(&[]);
    let findings = account["findings"].as_array().unwrap().iter().enumerate();
    for (n, finding) in findings {
        let range = json!({ "first": n * 5, "end": n * 5 + 5 });
        assert_eq!((&finding["shard"], &finding["range"]), (&json!(0), &range), "{finding}");
        assert_eq!(finding["kind"], ["damaged", "missing", "doubled"][n], "{finding}");
        let name = files[n].file_name().unwrap().to_str().unwrap();
        assert!(finding["detail"].as_str().unwrap().contains(name), "{finding}");
    }
    assert_eq!(account["findings"].as_array().unwrap().len(), 3, "{account}");
    let taken_away = rig.verify(&["--allow-taken-away"]);
    assert_eq!(taken_away["findings"].as_array().unwrap().len(), 2, "{taken_away}");
    let table = rig.run(&["verify"]);
    assert_eq!(table.status.code(), Some(1));
    let text = String::from_utf8(table.stdout).unwrap();
    assert!(text.contains("missing: shard 0, offsets 5..10: "), "{text}");
}

#[test]
fn other_shard_counts_strand_nothing() {
    let mut rig = Rig::new();
    let mut ledger = Ledger::default();
    for shards in [8, 3] {
        rig.set("SHARDS_COUNT", shards);
        post_some(&rig, &mut ledger, 40);
    }
    rig.set("SHARDS_COUNT", 2);
    consume(&rig, &[]);
    assert_eq!(rig.wait_drained()["accepted"], 80);
    ledger.assert_exactly_once(&rig.lines());
}
