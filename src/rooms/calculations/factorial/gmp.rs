//! Factorials by GMP, to compare with: another way, by another hand, to the same digits.

use std::io::Write;

use rug::Integer;

use super::FactorialError;

/// Writes `n!` in decimal to `sink` as GMP's `mpz_fac_ui` and `mpz_get_str` make it, on one thread;
/// returns the number of digits.
///
/// GMP ends the process if memory runs out.
///
/// # Errors
///
/// [`FactorialError::TooLarge`] from 2^32 on, and errors of the sink.
pub fn write_factorial(n: u64, sink: &mut dyn Write) -> Result<u64, FactorialError> {
    let n = u32::try_from(n).map_err(|_| FactorialError::TooLarge)?;
    let digits = Integer::from(Integer::factorial(n)).to_string();
    sink.write_all(digits.as_bytes())?;
    Ok(digits.len() as u64)
}
