//! Disks that run full, and results that are large.

use serde_json::json;

use super::{everywhere, finished, result, rig, submit_one, try_submit, wait_state, work};
use crate::harness::{Process, Rig, wait_for};
use crate::survive_space::SmallDisk;

everywhere! {
    a_result_of_100_mb_arrives_whole_and_the_server_never_holds_it_in_memory,
}

/// Submits echoes until there is room, or until there is none; those that were accepted.
fn submit_until(full: bool, server: &Process) -> Vec<String> {
    let mut accepted = Vec::new();
    wait_for("a change of what there is room for", || {
        let many: Vec<_> =
            (0..20).map(|_| json!({"kind": "echo", "payload": "x".repeat(3000)})).collect();
        let answer = try_submit(server.address(), &many);
        if answer.status == 201 {
            let ids = answer.json()["ids"].as_array().unwrap().clone();
            accepted.extend(ids.iter().map(|id| id.as_str().unwrap().to_owned()));
        } else {
            assert_eq!(answer.status, 507, "{answer:?}");
        }
        ((answer.status == 507) == full).then_some(())
    });
    accepted
}

#[test]
fn a_full_state_disk_refuses_tasks_and_loses_none_and_work_resumes_with_space() {
    let mut rig = rig();
    rig.set("DISK_LOW_WATER_BYTES", 0);
    let disk = SmallDisk::mount(&rig.state(), 48);
    let server = rig.serve(&["server"]);
    let worker = work(&rig);
    let mut accepted = Vec::new();
    for _ in 0..3 {
        disk.fill(1000);
        accepted.extend(submit_until(true, &server));
        // To the brim, while the worker has results that it cannot deliver.
        disk.fill(0);
        accepted.extend(submit_until(true, &server));
        disk.free();
        accepted.extend(submit_until(false, &server));
        for id in &accepted {
            assert_eq!(finished(server.address(), id), "x".repeat(3000));
        }
    }
    worker.stop();
    server.stop();
}

fn a_result_of_100_mb_arrives_whole_and_the_server_never_holds_it_in_memory(rig: Rig) {
    let bytes: Vec<u8> = (0..13_107_200_u64)
        .flat_map(|number| number.wrapping_mul(0x9E37_79B9_7F4A_7C15).to_le_bytes())
        .collect();
    std::fs::write(rig.dir.path().join("large"), &bytes).unwrap();
    let server = rig.serve(&["server"]);
    let worker = work(&rig);
    let id = submit_one(server.address(), "large", "");
    let shown = wait_state(server.address(), &id, "finished");
    assert_eq!(shown["result_bytes"], bytes.len());
    let answer = result(server.address(), &id);
    assert_eq!(answer.status, 200);
    assert!(answer.body == bytes, "it is another one");
    let status = std::fs::read_to_string(format!("/proc/{}/status", server.id())).unwrap();
    let peak = status.lines().find_map(|line| line.strip_prefix("VmHWM:")).unwrap();
    let peak_kib: u64 = peak.trim().trim_end_matches(" kB").parse().unwrap();
    // Over a broker as many parts are on their way as it may send ahead, whatever the result.
    let is_over_pipes = rig.command(&[]).get_envs().any(|(name, _)| name == "RABBITMQ_URL");
    let peak_kib_max = if is_over_pipes { 192 << 10 } else { 96 << 10 };
    assert!(peak_kib < peak_kib_max, "{peak_kib} KiB");
    worker.stop();
    server.stop();
}
