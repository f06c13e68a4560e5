//! Disks that run full and are freed again, and a state map that does.

use std::ffi::OsStr;
use std::io::Write;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::process::Command;

use crate::harness::{Rig, post, wait_for};
use crate::survive_signals::{Ledger, Posters, unique_entry};

/// A small disk of its own at a folder; gone when dropped.
pub(crate) struct SmallDisk {
    path: PathBuf,
}

fn mount(words: &[&str], path: &Path) -> bool {
    let words = words.iter().map(OsStr::new).chain([path.as_os_str()]);
    Command::new("mount").args(words).status().unwrap().success()
}

impl SmallDisk {
    /// Mounts one of so many MiB at `path`.
    pub(crate) fn mount(path: &Path, mebibytes: u32) -> Self {
        std::fs::create_dir_all(path).unwrap();
        let options = format!("size={mebibytes}m,mode=0700");
        let words = ["-t", "tmpfs", "-o", &options, "small-disk"];
        assert!(mount(&words, path), "this test mounts a tmpfs: it needs root");
        Self { path: path.to_owned() }
    }

    /// Remounts it; false while a file is open for writing.
    pub(crate) fn remount(&self, option: &str) -> bool {
        mount(&["-o", &format!("remount,{option}")], &self.path)
    }

    fn filler(&self) -> PathBuf {
        self.path.join("filler")
    }

    /// Fills it up to so many KiB.
    pub(crate) fn fill(&self, leave_kibibytes: u64) {
        let disk = rustix::fs::statvfs(&self.path).unwrap();
        let left = disk.f_bavail * disk.f_frsize;
        let fill = left.saturating_sub(leave_kibibytes << 10);
        let mut options = std::fs::File::options();
        let mut filler = options.create(true).append(true).open(self.filler()).unwrap();
        for _ in 0..fill >> 10 {
            // Others may be quicker to take the last of it.
            if filler.write_all(&[0; 1024]).is_err() {
                break;
            }
        }
    }

    pub(crate) fn free(&self) {
        let room = || rustix::fs::statvfs(&self.path).unwrap().f_bavail;
        let before = room();
        std::fs::remove_file(self.filler()).unwrap();
        // A child that another test is just starting may hold the file for a moment.
        wait_for("room on the disk", || (room() > before).then_some(()));
    }
}

impl Drop for SmallDisk {
    fn drop(&mut self) {
        // Lazily, since a process that a failed test left behind may still use it.
        let _gone = Command::new("umount").arg("--lazy").arg(&self.path).status();
    }
}

/// Posts entries; true if they are refused for want of room, in the words of HTTP.
fn is_full(address: SocketAddr, ledger: &mut Ledger, entries: &[String]) -> bool {
    let answer = post(address, format!("[{}]", entries.join(",")).as_bytes());
    ledger.note(answer.status, entries);
    if answer.status == 201 {
        return false;
    }
    assert_eq!(answer.status, 507, "{answer:?}");
    assert!(answer.header("retry-after").unwrap().parse::<u32>().unwrap() > 0, "{answer:?}");
    let error = answer.json()["error"].as_str().unwrap().to_owned();
    assert!(error.contains("nothing was stored"), "{error}");
    true
}

/// Posts until there is room, or until there is none.
fn post_until(full: bool, address: SocketAddr, ledger: &mut Ledger, bytes: usize) {
    wait_for("a change of what there is room for", || {
        let entries: Vec<_> = (0..10).map(|_| unique_entry(bytes)).collect();
        (is_full(address, ledger, &entries) == full).then_some(())
    });
}

#[test]
fn below_low_water_nothing_is_taken_and_draining_goes_on() {
    let rig = Rig::new();
    let disk = SmallDisk::mount(&rig.state(), 16);
    let server = rig.serve(&["server"]);
    let mut ledger = Ledger::default();
    let entries: Vec<_> = (0..500).map(|_| unique_entry(200)).collect();
    assert_eq!(ledger.post(server.address(), &entries), 201);
    disk.fill(600);
    post_until(true, server.address(), &mut ledger, 20);
    let ready = crate::harness::request(server.address(), "GET", "/readyz", &[], b"");
    assert!(String::from_utf8_lossy(&ready.body).contains("low-water mark"), "{ready:?}");
    let consumer = rig.start(&["message-consumer"]);
    assert!(rig.wait_drained()["in_files"].as_u64().unwrap() >= 500);
    assert!(is_full(server.address(), &mut ledger, &[unique_entry(20)]));
    disk.free();
    post_until(false, server.address(), &mut ledger, 20);
    rig.wait_drained();
    server.stop();
    consumer.stop();
    ledger.assert_exactly_once(&rig.lines());
}

#[test]
fn a_full_state_disk_loses_nothing_and_work_resumes_with_space() {
    let mut rig = Rig::new();
    rig.set("DISK_LOW_WATER_BYTES", 0).set("FILES_PER_SECOND", 0);
    let disk = SmallDisk::mount(&rig.state(), 12);
    let server = rig.serve(&["server"]);
    let mut consumer = rig.start(&["message-consumer"]);
    consumer.wait_log("took over shards");
    let posters = Posters::start(server.address(), 3, 2000);
    for _ in 0..3 {
        posters.wait_accepted(60);
        // While it runs there always is room, since it makes some.
        consumer.stop();
        disk.fill(0);
        posters.wait_refused(507);
        consumer = rig.start(&["message-consumer"]);
        disk.free();
        consumer.wait_log("took over shards");
        posters.wait_accepted(60);
    }
    let ledger = posters.stop();
    rig.wait_drained();
    server.stop();
    consumer.stop();
    ledger.assert_exactly_once(&rig.lines());
}

#[test]
fn a_consumer_without_any_space_waits_for_it_and_is_stopped_in_order() {
    let mut rig = Rig::new();
    rig.set("DISK_LOW_WATER_BYTES", 0);
    let disk = SmallDisk::mount(&rig.state(), 8);
    let server = rig.serve(&["server"]);
    let consumer = rig.start(&["message-consumer"]);
    consumer.wait_log("took over shards");
    consumer.signal("STOP");
    let mut ledger = Ledger::default();
    disk.fill(0);
    post_until(true, server.address(), &mut ledger, 4000);
    consumer.signal("CONT");
    // Whether it gets by with the pages that are free already or not, a stop is orderly.
    consumer.stop();
    disk.free();
    let consumer = rig.start(&["message-consumer"]);
    consumer.wait_log("took over shards");
    post_until(false, server.address(), &mut ledger, 20);
    rig.wait_drained();
    server.stop();
    consumer.stop();
    ledger.assert_exactly_once(&rig.lines());
}

#[test]
fn a_full_output_disk_loses_nothing_and_work_resumes_with_space() {
    let rig = Rig::new();
    let disk = SmallDisk::mount(&rig.output(), 8);
    let server = rig.serve(&["server"]);
    let consumer = rig.start(&["message-consumer"]);
    let mut ledger = Ledger::default();
    assert_eq!(ledger.post(server.address(), &[unique_entry(20)]), 201);
    rig.wait_drained();
    disk.fill(0);
    let entries: Vec<_> = (0..200).map(|_| unique_entry(100)).collect();
    assert_eq!(ledger.post(server.address(), &entries), 201);
    consumer.wait_log("batch not written, yet");
    // It stops in order too; the next one meets the same, and gets on when there is space.
    consumer.stop();
    let consumer = rig.start(&["message-consumer"]);
    consumer.wait_log("batch not written, yet");
    disk.free();
    rig.wait_drained();
    server.stop();
    consumer.stop();
    ledger.assert_exactly_once(&rig.lines());
    let history = String::from_utf8(rig.run(&["history", "--output", "json"]).stdout).unwrap();
    assert!(history.contains("\"errors\":1"), "{history}");
}

#[test]
fn a_full_map_refuses_and_draining_makes_room_again() {
    let mut rig = Rig::new();
    rig.set("STATE_MAP_BYTES", 16 << 20).set("FILES_PER_SECOND", 0);
    let server = rig.serve(&["server"]);
    let mut ledger = Ledger::default();
    for _ in 0..3 {
        // To the brim: what a large one leaves is not enough to hold the reserve against.
        for bytes in [40_000, 2_000, 20] {
            post_until(true, server.address(), &mut ledger, bytes);
        }
        let consumer = rig.start(&["message-consumer"]);
        consumer.wait_log("took over shards");
        rig.wait_drained();
        post_until(false, server.address(), &mut ledger, 20);
        let log = consumer.stop();
        assert!(!log.contains("map is full"), "{log}");
    }
    let consumer = rig.start(&["message-consumer"]);
    let posters = Posters::start(server.address(), 4, 40_000);
    posters.wait_accepted(1500);
    ledger.add(posters.stop());
    rig.wait_drained();
    server.stop();
    let log = consumer.stop();
    assert!(!log.contains("map is full"), "{log}");
    ledger.assert_exactly_once(&rig.lines());
}
