//! Factorials by the plainest road there is: one number after the other, in limbs of nine digits.

/// Nine decimal digits.
const LIMB: u64 = 1_000_000_000;

/// A factorial that goes up.
pub(crate) struct Factorial {
    input: u64,
    /// The least first.
    limbs: Vec<u64>,
}

impl Factorial {
    /// 0!.
    pub(crate) fn new() -> Self {
        Self { input: 0, limbs: vec![1] }
    }

    /// Goes up to `input`!, which is not below the last one; its digits.
    pub(crate) fn digits(&mut self, input: u64) -> String {
        while self.input < input {
            self.input += 1;
            let mut carry = 0;
            for limb in &mut self.limbs {
                let product = *limb * self.input + carry;
                *limb = product % LIMB;
                carry = product / LIMB;
            }
            while carry > 0 {
                self.limbs.push(carry % LIMB);
                carry /= LIMB;
            }
        }
        let mut limbs = self.limbs.iter().rev();
        let mut digits = limbs.next().map(u64::to_string).unwrap_or_default();
        for limb in limbs {
            digits += &format!("{limb:09}");
        }
        digits
    }
}

#[cfg(test)]
mod tests {
    use super::Factorial;

    #[test]
    fn factorials_are_those_of_the_books() {
        let mut factorial = Factorial::new();
        assert_eq!(factorial.digits(0), "1");
        assert_eq!(factorial.digits(1), "1");
        assert_eq!(factorial.digits(13), "6227020800");
        assert_eq!(factorial.digits(25), "15511210043330985984000000");
        let thousand = factorial.digits(1000);
        assert_eq!(thousand.len(), 2568);
        assert!(thousand.starts_with("402387260077093773543702433923003985719374864210714632"));
        assert_eq!(thousand.len() - thousand.trim_end_matches('0').len(), 249);
    }
}
