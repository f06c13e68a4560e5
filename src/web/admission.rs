//! How many connections may be open: in all, and per client address.
//!
//! A client over a limit gets a short answer at once instead of silence in the accept queue: it
//! learns that it should come back and when, health checks of a full server don't hang, and a load
//! balancer can turn elsewhere. What waits in the accept queue would tell nobody anything.

use std::collections::HashMap;
use std::net::{IpAddr, Ipv6Addr};
use std::sync::{Arc, Mutex, MutexGuard};

use super::metrics::HttpMetrics;
use super::raw::RawAnswer;
use super::serve::ServeSettings;
use crate::service::held;

/// Why a connection is refused.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Refusal {
    /// The limit of all connections is reached.
    Total,
    /// The limit of the client's address is reached.
    Address,
}

impl Refusal {
    /// The label in the metrics and the log.
    pub(super) const fn reason(self) -> &'static str {
        match self {
            Self::Total => "total",
            Self::Address => "address",
        }
    }

    /// The whole answer.
    pub(super) fn answer(self) -> &'static [u8] {
        match self {
            Self::Total => RawAnswer::ServerFull.bytes(),
            Self::Address => RawAnswer::AddressFull.bytes(),
        }
    }
}

/// The doors of one listener.
#[derive(Debug)]
pub(super) struct Doors {
    settings: Arc<ServeSettings>,
    metrics: Arc<HttpMetrics>,
    open: Mutex<Open>,
}

#[derive(Debug, Default)]
struct Open {
    total: usize,
    by_address: HashMap<IpAddr, usize>,
}

impl Doors {
    pub(super) fn new(settings: Arc<ServeSettings>, metrics: Arc<HttpMetrics>) -> Arc<Self> {
        Arc::new(Self { settings, metrics, open: Mutex::default() })
    }

    /// Counts a connection in, or says why not.
    pub(super) fn enter(self: &Arc<Self>, client: IpAddr) -> Result<Permit, Refusal> {
        let counted = self.counted_as(client);
        let mut open = self.held();
        if open.total >= self.settings.max_connections {
            return Err(Refusal::Total);
        }
        if let Some(address) = counted {
            let count = open.by_address.entry(address).or_default();
            if *count >= self.settings.max_connections_per_address {
                return Err(Refusal::Address);
            }
            *count += 1;
        }
        open.total += 1;
        self.metrics.connections().inc();
        Ok(Permit { doors: Arc::clone(self), counted })
    }

    /// The address a client is counted under; `None` for those whom the limit spares: many clients
    /// stand behind loopback (proxies, tunnels) and behind trusted proxies.
    fn counted_as(&self, client: IpAddr) -> Option<IpAddr> {
        let client = client.to_canonical();
        let spared = self.settings.exempt_loopback && client.is_loopback()
            || self.settings.trusted_proxies.iter().any(|network| network.contains(&client));
        if spared {
            return None;
        }
        Some(match client {
            IpAddr::V4(_) => client,
            // One client commonly has a whole /64 (RFC 6177) and could use each address once.
            IpAddr::V6(address) => {
                IpAddr::V6(Ipv6Addr::from_bits(address.to_bits() & (u128::MAX << 64)))
            }
        })
    }

    fn held(&self) -> MutexGuard<'_, Open> {
        held(&self.open)
    }
}

/// The right to be open; counted out when dropped.
#[derive(Debug)]
pub(super) struct Permit {
    doors: Arc<Doors>,
    counted: Option<IpAddr>,
}

impl Drop for Permit {
    fn drop(&mut self) {
        let mut open = self.doors.held();
        open.total = open.total.saturating_sub(1);
        if let Some(address) = self.counted
            && let Some(count) = open.by_address.get_mut(&address)
        {
            *count -= 1;
            if *count == 0 {
                open.by_address.remove(&address);
            }
        }
        self.doors.metrics.connections().dec();
    }
}

#[cfg(test)]
mod tests {
    use prometheus_client::registry::Registry;

    use super::*;

    fn doors(settings: ServeSettings) -> Arc<Doors> {
        Doors::new(Arc::new(settings), HttpMetrics::register(&mut Registry::default()))
    }

    fn enter(doors: &Arc<Doors>, address: &str) -> Result<Permit, Refusal> {
        doors.enter(address.parse().unwrap())
    }

    #[test]
    fn one_address_cannot_take_all_places_but_proxies_and_loopback_may() {
        let doors = doors(ServeSettings {
            max_connections_per_address: 1,
            trusted_proxies: vec!["10.1.0.0/16".parse().unwrap()],
            ..ServeSettings::default()
        });
        let first = enter(&doors, "192.0.2.1").unwrap();
        assert_eq!(enter(&doors, "192.0.2.1").unwrap_err(), Refusal::Address);
        assert_eq!(enter(&doors, "::ffff:192.0.2.1").unwrap_err(), Refusal::Address);
        let _other = enter(&doors, "192.0.2.2").unwrap();
        drop(first);
        let _again = enter(&doors, "192.0.2.1").unwrap();
        let spared = ["127.0.0.1", "127.0.0.1", "::1", "::1", "10.1.2.3", "10.1.2.3"];
        let _spared: Vec<_> =
            spared.iter().map(|address| enter(&doors, address).unwrap()).collect();
        assert_eq!(doors.held().by_address.len(), 2, "spared ones are not remembered");
    }

    #[test]
    fn an_ipv6_client_cannot_multiply_itself_within_its_network() {
        let doors =
            doors(ServeSettings { max_connections_per_address: 1, ..ServeSettings::default() });
        let _one = enter(&doors, "2001:db8::1").unwrap();
        assert_eq!(enter(&doors, "2001:db8::2").unwrap_err(), Refusal::Address);
        assert!(enter(&doors, "2001:db8:0:1::1").is_ok());
    }

    #[test]
    fn the_total_holds_for_everybody_and_places_come_back() {
        let doors = doors(ServeSettings { max_connections: 1, ..ServeSettings::default() });
        let one = enter(&doors, "127.0.0.1").unwrap();
        assert_eq!(enter(&doors, "127.0.0.1").unwrap_err(), Refusal::Total);
        assert_eq!(doors.metrics.connections().get(), 1);
        drop(one);
        assert_eq!(doors.metrics.connections().get(), 0);
        assert!(enter(&doors, "127.0.0.1").is_ok());
    }
}
