//! What a chart looks like as a whole.

use super::*;

/// 2026-11-22T07:30:00Z.
const START_MS: u64 = 1_795_332_600_000;

fn chart(series: Vec<Series<'_>>) -> String {
    let (from_ms, to_ms) = (START_MS, START_MS + 300_000);
    let (title, unit) = ("Messages", "messages/s");
    Chart { title, unit, from_ms, to_ms, scale: Scale::Zero, series }.figure()
}

fn series<'a>(name: &'a str, shape: Shape) -> Series<'a> {
    Series { name, class: "one", shape }
}

#[test]
fn a_chart_says_in_words_what_it_shows() {
    let values = (0..300).map(|second| (second != 100).then_some(f64::from(second)));
    let html = chart(vec![series("in", Shape::steps(START_MS, 1000, values))]);
    let said = "From 07:30:00 to 07:35:00 UTC, in messages/s. in: latest 299, highest 299 at \
                07:34:59.";
    assert!(html.contains(said), "{html}");
    assert!(html.contains("in <output>299</output>"), "{html}");
    assert!(html.contains(r#"data-time="2026-11-22T07:32:00.000Z">07:32:00</text>"#), "{html}");
    // At 100 s it breaks; the axis goes up to 300.
    assert!(html.contains(" 198,100.5M202,99.5 "), "{html}");
    assert!(!html.contains("style="), "{html}");
}

#[test]
fn a_chart_without_values_says_so() {
    let empty = chart(vec![series("in", Shape::Line(Vec::new()))]);
    assert!(empty.contains("No values in this time"), "{empty}");
    assert!(empty.contains("in: no values."), "{empty}");
    let odd = [Some(f64::NAN), Some(f64::INFINITY), None];
    let odd = chart(vec![series("in", Shape::steps(START_MS, 1000, odd))]);
    assert!(odd.contains("No values in this time"), "{odd}");
    assert!(!odd.contains("NaN") && !odd.contains("inf"), "{odd}");
}

#[test]
fn a_line_that_ends_in_a_gap_has_no_latest_value() {
    let values = [Some(7.0), Some(8.0), None];
    let html = chart(vec![series("in", Shape::steps(START_MS, 1000, values))]);
    assert!(html.contains("in: latest none, highest 8 at 07:30:01."), "{html}");
    assert!(!html.contains("<output>"), "{html}");
}

#[test]
fn values_that_come_rarely_are_joined_only_if_they_are_close() {
    let at = |second: u64| START_MS + second * 1000;
    let values = [(at(0), 1.0), (at(2), 1.0), (at(60), 1.0)];
    let html = chart(vec![series("TARDIS", Shape::broken_after(5000, values))]);
    assert!(html.contains(r#"d="M0,0 4,0"#), "{html}");
    assert!(html.contains(r#"<path class="dots one" d="M120,0h0"/>"#), "{html}");
}

#[test]
fn a_hostile_name_stays_text() {
    let name = r#"<script>"'&"#;
    let html = chart(vec![series(name, Shape::steps(START_MS, 1000, [Some(1.0)]))]);
    assert!(!html.contains("<script"), "{html}");
    assert!(html.contains("&lt;script&gt;&quot;&#39;&amp;"), "{html}");
}

#[test]
fn a_chart_of_600_points_is_small() {
    let values = (0..600).map(|n| Some(f64::from(n * 7919 % 1000)));
    let html = chart(vec![series("in", Shape::steps(START_MS, 500, values))]);
    assert!(html.len() <= 8 * 1024, "{}", html.len());
    let values = (0..60_000).map(|n| Some(f64::from(n * 7919 % 1000)));
    let html = chart(vec![series("in", Shape::steps(START_MS, 5, values))]);
    assert!(html.len() <= 9 * 1024, "{}", html.len());
}
