//! The measure of the page: it is opened, looked at and fed.

use super::Example;

#[test]
fn the_page_is_weighed_and_watched() {
    let printed = Example::new("page").arg("5").arg("1").succeed();
    for part in ["the page weighs ", "nobody looks: ", "5 pages look: ", "a change is in a frame "]
    {
        assert!(printed.contains(part), "{printed}");
    }
}
