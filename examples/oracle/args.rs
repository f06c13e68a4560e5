//! Command-line flags: `--name value` and bare `--name`, an unknown name is an error.

/// The flags of one command line, in order.
pub(crate) struct Flags {
    given: Vec<(String, String)>,
}

impl Flags {
    /// Reads `words`. `valued` are the names that take a value, `bare` those that take none.
    pub(crate) fn parse(
        words: impl IntoIterator<Item = String>,
        valued: &[&str],
        bare: &[&str],
    ) -> Result<Self, String> {
        let mut given = Vec::new();
        let mut words = words.into_iter();
        while let Some(name) = words.next() {
            let value = if bare.contains(&name.as_str()) {
                String::new()
            } else if valued.contains(&name.as_str()) {
                words.next().ok_or_else(|| format!("{name} needs a value"))?
            } else {
                return Err(format!("unknown flag {name:?}"));
            };
            given.push((name, value));
        }
        Ok(Self { given })
    }

    /// Every value given for `name`.
    pub(crate) fn all(&self, name: &str) -> Vec<&str> {
        let named = self.given.iter().filter(|(given, _)| given == name);
        named.map(|(_, value)| value.as_str()).collect()
    }

    /// Whether `name` was given.
    pub(crate) fn has(&self, name: &str) -> bool {
        !self.all(name).is_empty()
    }

    /// The last value given for `name`, or an error that names it.
    pub(crate) fn required(&self, name: &str) -> Result<&str, String> {
        self.all(name).last().copied().ok_or_else(|| format!("{name} is missing"))
    }

    /// The last value given for `name` as a whole number, or `default`.
    pub(crate) fn number(&self, name: &str, default: u64) -> Result<u64, String> {
        match self.all(name).last() {
            None => Ok(default),
            Some(text) => text.parse().map_err(|_| format!("{name} {text:?} is no whole number")),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::Flags;

    fn parse(line: &str) -> Result<Flags, String> {
        let words = line.split(' ').filter(|word| !word.is_empty()).map(String::from);
        Flags::parse(words, &["--file", "--seed"], &["--keys"])
    }

    #[test]
    fn values_repeat_and_the_last_one_counts_for_numbers() {
        let flags = parse("--file a --seed 1 --keys --file b --seed 2").unwrap();
        assert_eq!(flags.all("--file"), ["a", "b"]);
        assert_eq!(flags.number("--seed", 9).unwrap(), 2);
        assert_eq!(flags.required("--file").unwrap(), "b");
        assert!(flags.has("--keys"));
    }

    #[test]
    fn mistakes_are_named() {
        assert!(parse("--sed 1").is_err());
        assert!(parse("--seed").is_err());
        assert!(parse("--seed x").unwrap().number("--seed", 0).is_err());
        assert!(parse("").unwrap().required("--file").is_err());
    }
}
