//! A table of names, each with a number: millions of them in some 40 bytes each plus their text.

use std::collections::HashMap;
use std::hash::{BuildHasher, RandomState};

/// Names in the order in which they came; the n-th has the number n.
#[derive(Default)]
pub(crate) struct Names {
    text: String,
    ends: Vec<usize>,
    /// From a hash to a number; a name whose place is taken by another goes to the next free one.
    places: HashMap<u64, u32>,
    hashing: RandomState,
}

impl Names {
    /// Adds `name`; `None` when it is there already (or the table is full).
    pub(crate) fn insert(&mut self, name: &str) -> Option<u32> {
        let Err(place) = self.look_up(name) else { return None };
        let number = u32::try_from(self.ends.len()).ok()?;
        self.text.push_str(name);
        self.ends.push(self.text.len());
        self.places.insert(place, number);
        Some(number)
    }

    /// The number of `name`.
    pub(crate) fn find(&self, name: &str) -> Option<u32> {
        self.look_up(name).ok()
    }

    /// The name with this number; empty when there is none.
    pub(crate) fn name(&self, number: u32) -> &str {
        let Ok(number) = usize::try_from(number) else { return "" };
        let before = number.checked_sub(1).and_then(|before| self.ends.get(before));
        let start = before.copied().unwrap_or(0);
        let end = self.ends.get(number).copied().unwrap_or(start);
        self.text.get(start..end).unwrap_or_default()
    }

    /// The number of `name`, or the free place where it belongs.
    fn look_up(&self, name: &str) -> Result<u32, u64> {
        let mut place = self.hashing.hash_one(name);
        while let Some(&number) = self.places.get(&place) {
            if self.name(number) == name {
                return Ok(number);
            }
            place = place.wrapping_add(1);
        }
        Err(place)
    }
}

#[cfg(test)]
mod tests {
    use super::Names;

    #[test]
    fn names_are_numbered_once() {
        let mut names = Names::default();
        assert_eq!(names.find("a"), None);
        for number in 0..10_000 {
            assert_eq!(names.insert(&format!("n{number}")), Some(number));
        }
        assert_eq!(names.insert("n77"), None);
        assert_eq!(names.find("n77"), Some(77));
        assert_eq!(names.name(9_999), "n9999");
        assert_eq!(names.name(0), "n0");
        assert_eq!(names.name(10_000), "");
    }
}
