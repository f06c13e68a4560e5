//! What all loads have in common: where to send to, for how long, and with how many clients.

use std::net::{SocketAddr, ToSocketAddrs};
use std::path::PathBuf;
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use crate::args::Flags;
use crate::ledger::Ledger;

/// Where to send to and for how long.
pub(crate) struct Plan {
    pub(crate) authority: String,
    pub(crate) address: SocketAddr,
    pub(crate) seed: u64,
    pub(crate) pause: Duration,
    /// When it was made: part of every id of this run.
    pub(crate) now_ms: u64,
    connections: u64,
    ledger: PathBuf,
    ends_at: Option<Instant>,
    stop_file: Option<PathBuf>,
}

impl Plan {
    pub(crate) fn read(flags: &Flags) -> Result<Self, String> {
        let url = flags.required("--url")?;
        let authority = url.strip_prefix("http://").ok_or("--url must start with http://")?;
        let authority = authority.trim_end_matches('/').to_owned();
        let mut addresses = authority.to_socket_addrs().map_err(|error| error.to_string())?;
        let seconds = flags.number("--seconds", 0)?;
        let since_1970 = SystemTime::now().duration_since(UNIX_EPOCH);
        let now_ms = since_1970.map_err(|error| error.to_string())?.as_millis();
        Ok(Self {
            address: addresses.next().ok_or("--url names no address")?,
            authority,
            seed: flags.number("--seed", 1)?,
            pause: Duration::from_millis(flags.number("--rate-pause-ms", 0)?),
            now_ms: u64::try_from(now_ms).unwrap_or(0),
            connections: flags.number("--connections", 4)?.max(1),
            ledger: flags.required("--ledger")?.into(),
            ends_at: (seconds > 0).then(|| Instant::now() + Duration::from_secs(seconds)),
            stop_file: flags.all("--stop-file").last().map(PathBuf::from),
        })
    }

    /// Whether it is over some day.
    pub(crate) const fn has_end(&self) -> bool {
        self.ends_at.is_some() || self.stop_file.is_some()
    }

    pub(crate) fn is_over(&self) -> bool {
        self.ends_at.is_some_and(|end| Instant::now() >= end)
            || self.stop_file.as_ref().is_some_and(|path| path.exists())
    }

    /// Runs a client for each connection, all with one ledger; what each of them has to say.
    pub(crate) fn run<T: Send>(
        &self,
        client: impl Fn(Ledger, u64) -> Result<T, String> + Sync,
    ) -> Result<Vec<T>, String> {
        let (ledger, writer) = Ledger::open(&self.ledger)?;
        let client = &client;
        let results: Vec<Result<T, String>> = std::thread::scope(|scope| {
            let clients: Vec<_> = (0..self.connections)
                .map(|number| {
                    let ledger = ledger.clone();
                    scope.spawn(move || client(ledger, number))
                })
                .collect();
            let joined = clients.into_iter().map(|client| client.join());
            joined.map(|end| end.unwrap_or_else(|_| Err("a client panicked".to_owned()))).collect()
        });
        drop(ledger);
        writer.join().map_err(|_| "the ledger's writer panicked")?;
        results.into_iter().collect()
    }
}
