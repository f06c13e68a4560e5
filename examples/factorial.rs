//! How long factorials take and how much memory: ours, and GMP's own beside it.
//!
//! ```text
//! cargo run --release --features gmp --example factorial -- 1000000 10000000
//! cargo run --release --example factorial -- memory 10000000
//! ```
//!
//! The first, for each number, computes the digits by turns in both ways, checks that they are the
//! same, and prints the medians and their ratio; without the feature `gmp`, which needs m4 to
//! build, there is nothing to compare with. The second computes each number once and prints the
//! peak of the resident memory; the digits go nowhere. Settings come first: `--threads N`, by
//! default all cores, and `--runs N`, by default 5.

use std::error::Error;
use std::io::{self, Write};
use std::num::NonZeroUsize;
use std::time::{Duration, Instant};

use async_data_processor::rooms::calculations::factorial::{
    Progress, backend, digits_estimate, write_factorial,
};

/// As in the program.
#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

type Outcome<T> = Result<T, Box<dyn Error>>;

struct Order {
    threads: NonZeroUsize,
    runs: usize,
    is_for_memory: bool,
    numbers: Vec<u64>,
}

impl Order {
    fn read(mut words: impl Iterator<Item = String>) -> Outcome<Self> {
        let threads = std::thread::available_parallelism()?;
        let mut order = Self { threads, runs: 5, is_for_memory: false, numbers: Vec::new() };
        while let Some(word) = words.next() {
            let mut value = || words.next().ok_or(format!("{word} takes a number"));
            match word.as_str() {
                "--threads" => order.threads = value()?.parse()?,
                "--runs" => order.runs = value()?.parse::<NonZeroUsize>()?.get(),
                "memory" => order.is_for_memory = true,
                number => {
                    let number = number.parse().map_err(|_| format!("{number} is no number"))?;
                    order.numbers.push(number);
                }
            }
        }
        if order.numbers.is_empty() {
            order.numbers.push(1_000_000);
        }
        Ok(order)
    }
}

fn main() -> Outcome<()> {
    let order = Order::read(std::env::args().skip(1))?;
    let mut out = io::stdout().lock();
    writeln!(out, "{}, threads: {}", backend(), order.threads)?;
    for n in &order.numbers {
        if order.is_for_memory {
            let (time, digits) = ours(*n, order.threads, &mut io::sink())?;
            let peak_kib = peak_resident_kib()?;
            let digits = format!("{n}! has {digits} digits");
            writeln!(out, "{digits}: {time:.3?}, at most {peak_kib} KiB resident")?;
        } else {
            compare(*n, &order, &mut out)?;
        }
    }
    Ok(())
}

fn compare(n: u64, order: &Order, out: &mut impl Write) -> Outcome<()> {
    let room = usize::try_from(digits_estimate(n))?;
    let (mut our_digits, mut gmp_digits) = (Vec::with_capacity(room), Vec::new());
    let (mut our_times, mut gmp_times) = (Vec::new(), Vec::new());
    for _ in 0..order.runs {
        our_digits.clear();
        our_times.push(ours(n, order.threads, &mut our_digits)?.0);
        gmp_digits.clear();
        if let Some(time) = gmp(n, &mut gmp_digits)? {
            gmp_times.push(time);
            if our_digits != gmp_digits {
                return Err(format!("the digits of {n}! differ").into());
            }
        }
    }
    let (our_time, digits) = (median(our_times), our_digits.len());
    write!(out, "{n}! has {digits} digits: {our_time:.3?}, median of {}", order.runs)?;
    if !gmp_times.is_empty() {
        let gmp_time = median(gmp_times);
        let ratio = our_time.as_secs_f64() / gmp_time.as_secs_f64();
        write!(out, "; GMP {gmp_time:.3?}, the same digits; ratio {ratio:.3}")?;
    }
    writeln!(out)?;
    Ok(())
}

fn ours(n: u64, threads: NonZeroUsize, sink: &mut dyn Write) -> Outcome<(Duration, u64)> {
    let start = Instant::now();
    let digits = write_factorial(n, threads, &Progress::default(), sink)?;
    Ok((start.elapsed(), digits))
}

#[cfg(feature = "gmp")]
fn gmp(n: u64, sink: &mut dyn Write) -> Outcome<Option<Duration>> {
    let start = Instant::now();
    async_data_processor::rooms::calculations::factorial::gmp::write_factorial(n, sink)?;
    Ok(Some(start.elapsed()))
}

#[cfg(not(feature = "gmp"))]
fn gmp(_: u64, _: &mut dyn Write) -> Outcome<Option<Duration>> {
    Ok(None)
}

fn median(mut times: Vec<Duration>) -> Duration {
    times.sort();
    times.get(times.len() / 2).copied().unwrap_or_default()
}

/// The peak of this process up to now.
fn peak_resident_kib() -> Outcome<u64> {
    let status = std::fs::read_to_string("/proc/self/status")?;
    let peak = status.lines().find_map(|line| line.strip_prefix("VmHWM:"));
    let peak = peak.ok_or("the kernel tells no VmHWM")?;
    Ok(peak.trim().trim_end_matches("kB").trim().parse()?)
}
