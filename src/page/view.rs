//! What a view is: its name, what it has to be drawn again for, and how it is drawn.

use std::time::Duration;

use futures_util::future::BoxFuture;
use percent_encoding::percent_decode_str;
use tokio::sync::watch;

/// The content of one element of the page.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Fragment {
    /// The element's id.
    pub id: &'static str,
    /// What stands in it.
    pub html: String,
}

impl Fragment {
    /// A template as a fragment; what the template says if it cannot be written.
    #[must_use]
    pub fn of(id: &'static str, template: &impl askama::Template) -> Self {
        let html = template.render().unwrap_or_else(|error| format!("not shown: {error}"));
        Self { id, html }
    }

    /// That something is not known yet.
    #[must_use]
    pub fn loading(id: &'static str) -> Self {
        Self { id, html: "<p class=\"loading\">Loading…</p>".to_owned() }
    }

    /// That something cannot be shown now, and why.
    #[must_use]
    pub fn trouble(id: &'static str, what: &str, why: &str) -> Self {
        Self::of(id, &Trouble { what, why })
    }
}

#[derive(askama::Template)]
#[template(path = "trouble.html", config = "src/page/askama.toml")]
struct Trouble<'a> {
    what: &'a str,
    why: &'a str,
}

/// What a view has to be drawn again for.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Sources {
    /// Messages, batches, workers or ship data have changed.
    pub state: bool,
    /// Tasks or schedules have changed.
    pub store: bool,
    /// So much time has gone by.
    pub every: Option<Duration>,
}

/// One view of the page.
pub trait View: Send + Sync + 'static {
    /// Its name: the id of its section, and what stands after the `#` of its address.
    fn name(&self) -> &'static str;

    /// What it has to be drawn again for.
    fn sources(&self) -> Sources;

    /// Rung when something has changed that only the view knows of.
    fn bell(&self) -> Option<watch::Receiver<u64>> {
        None
    }

    /// The names in a focus that make a difference to it.
    fn choices(&self) -> &'static [&'static str] {
        &[]
    }

    /// Draws what stands now: always the same fragments, also where one cannot be read.
    fn draw<'a>(&'a self, focus: &'a Focus) -> BoxFuture<'a, Vec<Fragment>>;
}

/// What of a view somebody looks at: a filter, a page, one of many.
#[derive(Debug, Clone, Default, PartialEq, Eq, Hash)]
pub struct Focus {
    pairs: Vec<(String, String)>,
}

impl Focus {
    /// Reads it as the query of a URL. Whatever is no UTF-8 is shown as such.
    #[must_use]
    pub fn read(text: &str) -> Self {
        let decoded = |text: &str| {
            let spaced = text.replace('+', " ");
            percent_decode_str(&spaced).decode_utf8_lossy().into_owned()
        };
        let pairs = text.split('&').filter(|pair| !pair.is_empty());
        let pairs = pairs.map(|pair| pair.split_once('=').unwrap_or((pair, "")));
        Self { pairs: pairs.map(|(name, value)| (decoded(name), decoded(value))).collect() }
    }

    /// What is chosen for `name`; nothing is no choice.
    #[must_use]
    pub fn get(&self, name: &str) -> Option<&str> {
        let pair = self.pairs.iter().find(|(known, _)| known == name);
        pair.map(|(_, value)| value.as_str()).filter(|value| !value.is_empty())
    }

    /// The same with these names alone, in their order.
    #[must_use]
    pub fn only(&self, names: &[&str]) -> Self {
        let chosen = |name: &&str| Some(((*name).to_owned(), self.get(name)?.to_owned()));
        Self { pairs: names.iter().filter_map(chosen).collect() }
    }

    /// What is chosen for `name`, if it is a value of this type.
    #[must_use]
    pub fn parsed<T: std::str::FromStr>(&self, name: &str) -> Option<T> {
        self.get(name)?.parse().ok()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_focus_is_read_as_a_query_is() {
        let focus = Focus::read("ship=USS%20Enterprise+1&page=2&state=&x=%FF");
        assert_eq!(focus.get("ship"), Some("USS Enterprise 1"));
        assert_eq!(focus.parsed("page"), Some(2));
        assert_eq!(focus.get("state"), None);
        assert_eq!(focus.get("x"), Some("\u{FFFD}"));
        assert_eq!(Focus::read("").get(""), None);
    }

    #[test]
    fn a_reason_cannot_bring_markup_in() {
        let html = Fragment::trouble("id", "Ships", "<script>alert(1)</script>").html;
        assert!(!html.contains("<script>"), "{html}");
    }
}
