//! Reads JSON to its leaves and holds it to RFC 7493 (I-JSON): no key twice in an object, at any
//! depth; strings and numbers that every reader reads alike.

use std::borrow::Cow;
use std::collections::HashSet;
use std::fmt;

use serde::de::{DeserializeSeed, Error as _, IgnoredAny, MapAccess, SeqAccess, Visitor};

use super::entry::Wrong;

/// Ends reading: what is wrong goes out beside the error.
pub(super) fn end<T, E: serde::de::Error>(slot: &mut Option<Wrong>, wrong: Wrong) -> Result<T, E> {
    *slot = Some(wrong);
    Err(E::custom("refused"))
}

/// The keys of one object; for a few, a look through them is quicker than a hash.
#[derive(Default)]
pub(super) struct Keys<'de> {
    few: Vec<Cow<'de, str>>,
    /// Made when there are more, so that small objects cost nothing.
    many: Option<HashSet<Cow<'de, str>>>,
}

const FEW_KEYS: usize = 16;

impl<'de> Keys<'de> {
    /// Adds a key, unless it stands there already.
    pub(super) fn add(&mut self, key: Cow<'de, str>) -> Result<(), Wrong> {
        if self.few.contains(&key) || self.many.as_ref().is_some_and(|many| many.contains(&key)) {
            return Err(Wrong::duplicate_key(&key));
        }
        if self.few.len() < FEW_KEYS {
            self.few.push(key);
        } else {
            self.many.get_or_insert_default().insert(key);
        }
        Ok(())
    }
}

/// A string, borrowed unless it holds escapes.
pub(super) struct Text<'de>(pub(super) Cow<'de, str>);
/// Reads a [`Text`].
pub(super) struct TextSeed;
/// A string, or `None` for anything else.
pub(super) struct StringSeed;

impl<'de> DeserializeSeed<'de> for TextSeed {
    type Value = Text<'de>;

    fn deserialize<D: serde::Deserializer<'de>>(self, json: D) -> Result<Text<'de>, D::Error> {
        let text = json.deserialize_str(TextVisitor)?;
        text.map(Text).ok_or_else(|| D::Error::custom("expected a string"))
    }
}

impl<'de> DeserializeSeed<'de> for StringSeed {
    type Value = Option<Cow<'de, str>>;

    fn deserialize<D: serde::Deserializer<'de>>(self, json: D) -> Result<Self::Value, D::Error> {
        json.deserialize_any(TextVisitor)
    }
}

struct TextVisitor;

impl<'de> Visitor<'de> for TextVisitor {
    type Value = Option<Cow<'de, str>>;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a string")
    }

    fn visit_borrowed_str<E>(self, text: &'de str) -> Result<Self::Value, E> {
        Ok(Some(Cow::Borrowed(text)))
    }

    fn visit_str<E>(self, text: &str) -> Result<Self::Value, E> {
        Ok(Some(Cow::Owned(text.to_owned())))
    }

    fn visit_bool<E>(self, _: bool) -> Result<Self::Value, E> {
        Ok(None)
    }

    fn visit_i64<E>(self, _: i64) -> Result<Self::Value, E> {
        Ok(None)
    }

    fn visit_u64<E>(self, _: u64) -> Result<Self::Value, E> {
        Ok(None)
    }

    fn visit_f64<E>(self, _: f64) -> Result<Self::Value, E> {
        Ok(None)
    }

    fn visit_unit<E>(self) -> Result<Self::Value, E> {
        Ok(None)
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut array: A) -> Result<Self::Value, A::Error> {
        while array.next_element::<IgnoredAny>()?.is_some() {}
        Ok(None)
    }

    fn visit_map<A: MapAccess<'de>>(self, mut object: A) -> Result<Self::Value, A::Error> {
        while object.next_entry::<IgnoredAny, IgnoredAny>()?.is_some() {}
        Ok(None)
    }
}

/// Any value, checked to its leaves.
pub(super) struct Strict<'a> {
    /// Where to say what is wrong.
    pub(super) wrong: &'a mut Option<Wrong>,
}

impl<'de> DeserializeSeed<'de> for Strict<'_> {
    type Value = ();

    fn deserialize<D: serde::Deserializer<'de>>(self, json: D) -> Result<(), D::Error> {
        json.deserialize_any(self)
    }
}

impl<'de> Visitor<'de> for Strict<'_> {
    type Value = ();

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("any value")
    }

    fn visit_str<E>(self, _: &str) -> Result<(), E> {
        Ok(())
    }

    fn visit_bool<E>(self, _: bool) -> Result<(), E> {
        Ok(())
    }

    fn visit_i64<E>(self, _: i64) -> Result<(), E> {
        Ok(())
    }

    fn visit_u64<E>(self, _: u64) -> Result<(), E> {
        Ok(())
    }

    fn visit_f64<E>(self, _: f64) -> Result<(), E> {
        Ok(())
    }

    fn visit_unit<E>(self) -> Result<(), E> {
        Ok(())
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut array: A) -> Result<(), A::Error> {
        while array.next_element_seed(Strict { wrong: &mut *self.wrong })?.is_some() {}
        Ok(())
    }

    fn visit_map<A: MapAccess<'de>>(self, mut object: A) -> Result<(), A::Error> {
        let mut keys = Keys::default();
        while let Some(Text(key)) = object.next_key_seed(TextSeed)? {
            if let Err(wrong) = keys.add(key) {
                return end(self.wrong, wrong);
            }
            object.next_value_seed(Strict { wrong: &mut *self.wrong })?;
        }
        Ok(())
    }
}
