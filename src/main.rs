//! The binary: everything is in the library, whose front page tells where.

use std::process::ExitCode;

/// Made for what a server does: many small buffers, made by one thread and dropped by another.
#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

fn main() -> ExitCode {
    async_data_processor::cli::main()
}
