//! A state directory of the version before ships, with what it held.

use async_data_processor::state::WriteTxn;
use serde_json::Value;

use super::{Fleet, lines, now, rig, ship_lines};
use crate::harness::{Process, Rig, entry, open_state, post_entries};

/// Makes a state directory what that version left: its format, and rows without newer members.
fn set_back(rig: &Rig) {
    let state = open_state(&rig.state(), 64 << 30).unwrap();
    let set_back = |txn: &mut WriteTxn<'_>| {
        let tables = txn.tables;
        tables.meta.put(&mut txn.txn, b"format", &3_u32.to_be_bytes())?;
        assert!(tables.meta.delete(&mut txn.txn, b"batches messages")?);
        let rows: Vec<_> = tables.journal.iter(&txn.txn)?.collect::<Result<_, _>>()?;
        let rows: Vec<_> = rows.iter().map(|(key, row)| (key.to_vec(), row.to_vec())).collect();
        for (key, row) in rows {
            let mut row: Value = serde_json::from_slice(&row).unwrap();
            assert!(row.as_object_mut().unwrap().remove("number_in_topic").is_some());
            tables.journal.put(&mut txn.txn, &key, row.to_string().as_bytes())?;
        }
        Ok(())
    };
    state.commit(set_back).unwrap();
}

#[test]
fn what_an_older_format_holds_is_consumed_counted_and_forgotten_in_its_turn() {
    let mut rig = rig();
    rig.set("JOURNAL_BATCHES", 3).set("WORKERS_COUNT", 1).set("WORKERS_MAX", 1);
    let post = |server: &Process, n| drop(post_entries(server.address(), &[entry(0, n)]));
    let server = rig.serve(&["server"]);
    let consumer = rig.start(&["message-consumer"]);
    for n in ["a", "b", "c"] {
        post(&server, n);
        rig.wait_drained();
    }
    consumer.stop();
    post(&server, "d");
    server.stop();
    set_back(&rig);
    let server = rig.serve(&["server"]);
    let consumer = rig.start(&["message-consumer"]);
    let account = rig.wait_drained();
    assert_eq!(account["in_files"], 4, "{account}");
    let fleet = Fleet::of(&rig);
    let sent = lines("TARDIS", now(), 20);
    fleet.publish("TARDIS", &sent);
    rig.wait_drained();
    assert_eq!(ship_lines(&rig), sent);
    for n in ["e", "f", "g", "h"] {
        post(&server, n);
        rig.wait_drained();
    }
    let account = rig.verify(&[]);
    let shards = account["shards"].as_array().unwrap();
    let pruned = |topic: Value| {
        let of = shards.iter().filter(|shard| shard["topic"] == topic);
        of.map(|shard| shard["pruned"].as_u64().unwrap()).sum::<u64>()
    };
    assert_eq!((pruned(Value::Null), pruned("telemetry".into())), (5, 0), "{account}");
    consumer.stop();
    server.stop();
}
