//! The example that measures factorials.

use super::Example;

#[test]
fn factorial_prints_times_and_with_memory_the_peak() {
    let times = Example::new("factorial").arg("--runs").arg("1").arg("20").arg("5000").succeed();
    assert!(times.contains("20! has 19 digits: "), "{times}");
    assert!(times.contains("5000! has 16326 digits: "), "{times}");
    let peak = Example::new("factorial").arg("memory").arg("--threads").arg("2").arg("5000");
    let peak = peak.succeed();
    assert!(peak.contains("5000! has 16326 digits: "), "{peak}");
    assert!(peak.ends_with(" KiB resident\n"), "{peak}");
}

#[test]
fn factorial_refuses_what_is_no_number() {
    let (_, said) = Example::new("factorial").arg("twenty").fail();
    assert!(said.contains("twenty is no number"), "{said}");
}
