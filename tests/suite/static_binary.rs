//! The binary needs nothing of the machine but its kernel: no loader, no library, no name service.

use std::fs;
use std::path::Path;
use std::process::Command;

use crate::harness::{BINARY, Process, Rig, entry, post_entries};

/// ELF, figure "Program Header": the type of a segment that names a dynamic loader.
const PT_INTERP: u64 = 3;

/// A number of so many bytes, the lowest first.
fn number(bytes: &[u8], at: usize, count: usize) -> u64 {
    bytes[at..at + count].iter().rev().fold(0, |sum, byte| sum << 8 | u64::from(*byte))
}

/// The types of the segments of a 64-bit little-endian ELF file.
fn segment_types(file: &[u8]) -> Vec<u64> {
    assert_eq!(&file[..6], b"\x7fELF\x02\x01", "not a 64-bit little-endian ELF file");
    let at = |offset, count| usize::try_from(number(file, offset, count)).unwrap();
    let (table, entry_bytes, entries) = (at(32, 8), at(54, 2), at(56, 2));
    (0..entries).map(|n| number(file, table + n * entry_bytes, 4)).collect()
}

#[test]
fn the_binary_asks_for_no_loader() {
    let types = segment_types(&fs::read(BINARY).unwrap());
    assert!(!types.is_empty());
    assert!(!types.contains(&PT_INTERP), "the binary is not static: {types:?}");
}

#[test]
fn the_check_for_a_loader_finds_one() {
    // The shell is linked as everything in Debian is.
    assert!(segment_types(&fs::read("/bin/sh").unwrap()).contains(&PT_INTERP));
}

/// A root with the binary and the names of hosts, and nothing else.
fn empty_root(rig: &Rig, host: &str) {
    let root = rig.dir.path();
    fs::create_dir(root.join("etc")).unwrap();
    fs::write(root.join("etc/hosts"), format!("127.0.0.1 {host}\n")).unwrap();
    let binary = root.join("binary");
    if fs::hard_link(BINARY, &binary).is_err() {
        fs::copy(BINARY, &binary).unwrap();
    }
}

fn command_in(root: &Path, arguments: &[&str]) -> Command {
    let mut command = Command::new("chroot");
    command.arg(root).arg("/binary").args(arguments).env_clear();
    command.env("PATH", std::env::var_os("PATH").unwrap());
    command.env("STATE_DIR", "/state").env("DATA_OUTPUT_DIR", "/output");
    command.env("PORT", "0").env("LOG_FORMAT", "json");
    command
}

#[test]
fn in_an_empty_root_names_are_resolved_and_messages_taken() {
    let rig = Rig::new();
    empty_root(&rig, "nowhere-else.example");
    let mut command = command_in(rig.dir.path(), &["server"]);
    command.env("HOST", "nowhere-else.example");
    let server = Process::start(command);
    assert!(server.address().ip().is_loopback(), "{}", server.log());
    post_entries(server.address(), &[entry(0, "in an empty root")]);
    server.stop();
    let output = command_in(rig.dir.path(), &["verify"]).output().unwrap();
    let text = String::from_utf8(output.stdout).unwrap();
    assert!(text.contains("accepted 1 = in files 0 + waiting 1"), "{text}");
}

#[test]
fn in_an_empty_root_an_unknown_name_is_a_setting_that_is_wrong() {
    let rig = Rig::new();
    empty_root(&rig, "nowhere-else.example");
    let mut command = command_in(rig.dir.path(), &["server"]);
    let output = command.env("HOST", "unknown.invalid").output().unwrap();
    let text = String::from_utf8_lossy(&output.stderr).into_owned();
    assert_eq!(output.status.code(), Some(78), "{text}");
    assert!(text.contains("HOST unknown.invalid: the name cannot be resolved"), "{text}");
}
