//! The script that pushes, by itself: what it does twice, or out of its turn, it does once.

use super::redis_server::PrivateRedis;

const SCRIPT: &str = include_str!("../../../src/rooms/telemetry/ships/redis/apply.lua");

/// Pushes two datagrams of a ship from a place to another; the place that it says.
fn push(redis: &PrivateRedis, from: &str, to: &str) -> String {
    let keys = ["async-data-processor:places:test", "async-data-processor:ships"];
    let piece = ["t2", from, to, "0", "TARDIS", "2", "a", "b"];
    redis.ask(1, &[&["EVAL", SCRIPT, "2"], &keys[..], &piece[..]].concat())
}

#[test]
fn a_piece_that_is_pushed_again_or_out_of_turn_is_in_no_list_twice() {
    let redis = PrivateRedis::start();
    assert_eq!(push(&redis, "0:0", "3:2"), "3:2");
    // Its answer got lost.
    assert_eq!(push(&redis, "0:0", "3:2"), "3:2");
    // Of a process that knows another place.
    assert_eq!(push(&redis, "3:1", "3:3"), "3:2");
    assert_eq!((redis.list("TARDIS"), redis.count("TARDIS")), (vec!["a".into(), "b".into()], 2));
    assert_eq!(push(&redis, "3:2", "4:4"), "4:4");
    assert_eq!((redis.length("TARDIS"), redis.count("TARDIS")), (4, 4));
}
