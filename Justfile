# Short names for what cargo and tests/run do. `just` lists them.

_list:
    @{{ just_executable() }} --list --unsorted

# Start the program: just run up --help
run *arguments:
    cargo run --locked --release -- {{ arguments }}

# All tests; --fast leaves out formatting, lints, release build and crash test
test *options:
    bash tests/run {{ options }}

# Format the sources
fmt:
    cargo fmt --all

# Look for what the compiler lets pass
lint:
    cargo clippy --locked --all-targets -- -D warnings

# Kill the program again and again under load: CRASH_SEED=7 just crash 1000
crash cycles="100":
    bash tests/run --crash-only --crash-cycles {{ cycles }}

# Build the binary
release:
    cargo build --locked --release

# Compare how factorials are calculated with how GMP does it (builds GMP, which needs m4)
compare number="1000000":
    cargo run --locked --release --features gmp --example factorial -- {{ number }}
