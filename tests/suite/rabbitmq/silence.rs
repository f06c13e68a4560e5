//! Something listens where the broker should be, and never says a word.

use std::net::TcpListener;

use crate::harness::{Process, Rig, wait_for};

/// The threads of a process by their names.
fn threads(process: &Process) -> Vec<String> {
    let tasks = std::fs::read_dir(format!("/proc/{}/task", process.id())).unwrap();
    let names = tasks.map(|task| std::fs::read_to_string(task.unwrap().path().join("comm")));
    // One that ends while it is looked at has no name.
    names.filter_map(|name| Some(name.ok()?.trim().to_owned())).collect()
}

/// A server's, to the broker.
const CONNECTIONS: usize = 3;

#[test]
fn attempts_to_connect_leave_no_threads_behind() {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let mut rig = Rig::new();
    let port = listener.local_addr().unwrap().port();
    rig.set("RABBITMQ_URL", format!("amqp://guest:guest@127.0.0.1:{port}/"));
    let server = rig.serve(&["server"]);
    // Each of its connections is tried twice.
    let _silent: Vec<_> = (0..2 * CONNECTIONS).map(|_| listener.accept().unwrap()).collect();
    wait_for("the first attempts to have left nothing", || {
        let threads = threads(&server);
        let attempts = threads.iter().filter(|name| name.contains("lapin")).count();
        (attempts <= CONNECTIONS).then_some(())
    });
    assert!(server.log().contains("no answer within 10 s"));
    server.stop();
}
