//! The binary: everything is in the library, whose front page tells where.

use std::process::ExitCode;

/// Musl and glibc malloc both lose to it under many small, short-lived buffers on several threads.
#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

fn main() -> ExitCode {
    async_data_processor::cli::main()
}
