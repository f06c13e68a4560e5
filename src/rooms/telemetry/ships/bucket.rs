//! The readings of a second or a minute: how many, the least, the most, and their sum.
//!
//! ```text
//! count u64 | least f64 | most f64 | sum f64          (big-endian)
//! ```

/// The readings of a span of time; at least one.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Bucket {
    /// How many.
    pub count: u64,
    /// The least.
    pub least: f64,
    /// The most.
    pub most: f64,
    /// Their sum.
    pub sum: f64,
}

impl Bucket {
    /// One reading, which is finite.
    #[must_use]
    pub(super) const fn of(value: f64) -> Self {
        Self { count: 1, least: value, most: value, sum: value }
    }

    /// Takes another one in.
    pub(super) fn add(&mut self, other: Self) {
        self.count = self.count.saturating_add(other.count);
        self.least = self.least.min(other.least);
        self.most = self.most.max(other.most);
        // So that an average is a number, whatever ships send.
        self.sum = (self.sum + other.sum).clamp(f64::MIN, f64::MAX);
    }

    /// What a reading is on average.
    #[must_use]
    pub fn average(&self) -> f64 {
        #[expect(clippy::cast_precision_loss, reason = "beyond 2^53 the count may be off by one")]
        let count = self.count as f64;
        (self.sum / count).clamp(self.least, self.most)
    }

    /// The stored form.
    pub(super) fn encode(self) -> [u8; 32] {
        let mut bytes = [0; 32];
        let fields = [self.count, self.least.to_bits(), self.most.to_bits(), self.sum.to_bits()];
        for (place, field) in bytes.as_chunks_mut::<8>().0.iter_mut().zip(fields) {
            *place = field.to_be_bytes();
        }
        bytes
    }

    /// Reads a stored form.
    pub(super) fn decode(bytes: &[u8]) -> Option<Self> {
        let (fields, []) = bytes.as_chunks::<8>() else { return None };
        let mut fields = fields.iter().map(|field| u64::from_be_bytes(*field));
        let count = fields.next()?;
        let mut value = || fields.next().map(f64::from_bits);
        Some(Self { count, least: value()?, most: value()?, sum: value()? })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn buckets_that_are_brought_together_read_back() {
        let mut bucket = Bucket::of(-1.5);
        bucket.add(Bucket::of(7.0));
        bucket.add(Bucket::of(0.25));
        assert_eq!(bucket, Bucket { count: 3, least: -1.5, most: 7.0, sum: 5.75 });
        assert_eq!(Bucket::decode(&bucket.encode()), Some(bucket));
        assert_eq!(Bucket::decode(&[0; 31]), None);
        assert_eq!(Bucket::decode(&[0; 24]), None);
    }

    #[test]
    fn an_average_is_finite_whatever_ships_send() {
        let mut bucket = Bucket::of(f64::MAX);
        bucket.add(Bucket::of(f64::MAX));
        assert!(bucket.average().is_finite());
        // Rounding must not put it beyond what was measured.
        let mut bucket = Bucket::of(0.1);
        (0..2).for_each(|_| bucket.add(Bucket::of(0.1)));
        assert!(bucket.average() >= 0.1 && bucket.average() <= 0.1);
    }
}
