//! The measure of telemetry: both topics store what was sent.

use super::Example;

#[test]
fn telemetry_is_measured_beside_messages() {
    let printed = Example::new("telemetry").arg("20000").arg("2").succeed();
    let rows: Vec<_> = printed.lines().skip(1).map(|line| line.split_whitespace()).collect();
    let names: Vec<_> = rows.into_iter().map(|mut row| row.next().unwrap()).collect();
    assert_eq!(names, ["messages", "telemetry"], "{printed}");
}
