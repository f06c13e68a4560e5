//! Where a stream may go: to this machine, unless a person has allowed more.
//!
//! A stream is a flood that somebody else aims. So a host's name is resolved once, each of its
//! addresses must be allowed, and the socket is connected to one that was checked: a name that
//! means something else a moment later changes nothing.

use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::time::Duration;

use ipnet::IpNet;

use crate::web::printable;

/// The lowest port that no privilege is needed for.
pub const PORT_MIN: u16 = 1024;
/// How long a name may take to be resolved.
const RESOLVE_TIMEOUT: Duration = Duration::from_secs(5);
/// The most characters of a name (RFC 1035, section 2.3.4).
const HOST_CHARACTERS_MAX: usize = 253;

/// Where streams may go.
#[derive(Debug, Clone, Default)]
pub struct Rules {
    /// Networks beside this machine.
    pub allowed: Vec<IpNet>,
    /// Whether ports below [`PORT_MIN`] may be used.
    pub has_low_ports: bool,
}

/// Why a stream may not go there.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum NoTarget {
    /// The port is reserved.
    #[error("port must be from {PORT_MIN} to 65535, unless the spaceship has ALLOW_LOW_PORTS")]
    LowPort,
    /// Port 0 is none.
    #[error("port must be from 1 to 65535")]
    NoPort,
    /// Nobody, or everybody.
    #[error("host: {0} is not the address of one host")]
    NoHost(IpAddr),
    /// Another machine.
    #[error(
        "host: {0} is not this machine, and ALLOW_TARGET of the spaceship does not have its network"
    )]
    Elsewhere(IpAddr),
    /// A name without an address.
    #[error("host: {0} cannot be resolved: {1}")]
    Unresolved(String, String),
}

impl Rules {
    /// Checks an address: the one to connect to.
    ///
    /// # Errors
    /// What is wrong with it.
    pub fn check(&self, address: SocketAddr) -> Result<SocketAddr, NoTarget> {
        if address.port() == 0 {
            return Err(NoTarget::NoPort);
        }
        if address.port() < PORT_MIN && !self.has_low_ports {
            return Err(NoTarget::LowPort);
        }
        // `::ffff:10.0.0.1` is 10.0.0.1, and is sent to as such.
        let ip = address.ip().to_canonical();
        if is_never_one_host(ip) {
            return Err(NoTarget::NoHost(ip));
        }
        if !ip.is_loopback() && !self.allowed.iter().any(|network| network.contains(&ip)) {
            return Err(NoTarget::Elsewhere(ip));
        }
        Ok(SocketAddr::new(ip, address.port()))
    }

    /// Checks all addresses of a host: the one to connect to. IPv4 goes first, since a receiver
    /// that was written for R2's ships has no other.
    ///
    /// # Errors
    /// None of them, if one is not allowed.
    pub fn choose(&self, addresses: &[SocketAddr]) -> Result<Option<SocketAddr>, NoTarget> {
        let checked: Result<Vec<SocketAddr>, NoTarget> =
            addresses.iter().map(|address| self.check(*address)).collect();
        let checked = checked?;
        Ok(checked.iter().find(|address| address.is_ipv4()).or(checked.first()).copied())
    }

    /// Resolves a host, which may be a name or an address, and checks it. Needs a tokio runtime.
    ///
    /// # Errors
    /// It has no address, or one that is not allowed.
    pub async fn resolve(&self, host: &str, port: u16) -> Result<SocketAddr, NoTarget> {
        let unresolved =
            |why: &dyn ToString| NoTarget::Unresolved(printable(host), printable(&why.to_string()));
        // The port is refused before anybody is asked for an address.
        self.check(SocketAddr::from((Ipv4Addr::LOCALHOST, port)))?;
        let name = host.strip_prefix('[').and_then(|rest| rest.strip_suffix(']')).unwrap_or(host);
        if name.is_empty() || name.chars().count() > HOST_CHARACTERS_MAX {
            return Err(unresolved(&"it is no name"));
        }
        let looked_up =
            tokio::time::timeout(RESOLVE_TIMEOUT, tokio::net::lookup_host((name, port)));
        let found = looked_up.await.map_err(|_| unresolved(&"nobody answers"))?;
        let addresses: Vec<SocketAddr> = found.map_err(|error| unresolved(&error))?.collect();
        self.choose(&addresses)?.ok_or_else(|| unresolved(&"it has no address"))
    }
}

/// Whether the address can be no host's, whatever is allowed: what it stands for depends on who
/// sends, and from where.
fn is_never_one_host(ip: IpAddr) -> bool {
    match ip {
        // All of 0.0.0.0/8 is "this network" (RFC 6890, section 2.2.2).
        IpAddr::V4(ip) => {
            let [first, ..] = ip.octets();
            first == 0 || ip.is_broadcast() || ip.is_multicast() || ip.is_link_local()
        }
        IpAddr::V6(ip) => ip.is_unspecified() || ip.is_multicast() || ip.is_unicast_link_local(),
    }
}

#[cfg(test)]
mod tests {
    use std::net::Ipv6Addr;

    use proptest::prelude::*;

    use super::*;

    fn all() -> Rules {
        let allowed = ["0.0.0.0/0", "::/0"].map(|network| network.parse().unwrap());
        Rules { allowed: allowed.to_vec(), has_low_ports: true }
    }

    fn check(rules: &Rules, text: &str) -> Result<SocketAddr, NoTarget> {
        rules.check(text.parse().unwrap())
    }

    #[test]
    fn without_leave_only_this_machine_is_streamed_to() {
        let rules = Rules::default();
        for own in ["127.0.0.1:1024", "127.255.255.254:65535", "[::1]:9999"] {
            assert_eq!(check(&rules, own), Ok(own.parse().unwrap()));
        }
        for other in ["10.0.0.1:9999", "192.0.2.1:9999", "[2001:db8::1]:9999", "[::127.0.0.1]:9999"]
        {
            assert!(matches!(check(&rules, other), Err(NoTarget::Elsewhere(_))), "{other}");
        }
    }

    #[test]
    fn what_is_no_host_is_refused_whatever_is_allowed() {
        for nobody in [
            "0.0.0.0",
            "0.1.2.3",
            "255.255.255.255",
            "224.0.0.1",
            "239.255.255.255",
            "169.254.169.254",
            "[::]",
            "[ff02::1]",
            "[fe80::1]",
            "[::ffff:0.0.0.0]",
            "[::ffff:169.254.169.254]",
            "[::ffff:224.0.0.1]",
        ] {
            let address = format!("{nobody}:9999");
            assert!(matches!(check(&all(), &address), Err(NoTarget::NoHost(_))), "{nobody}");
        }
    }

    #[test]
    fn a_mapped_address_is_the_one_it_stands_for() {
        let ten = Rules { allowed: vec!["10.0.0.0/8".parse().unwrap()], ..Rules::default() };
        assert_eq!(check(&ten, "[::ffff:10.1.2.3]:9999"), check(&ten, "10.1.2.3:9999"));
        assert_eq!(check(&ten, "10.1.2.3:9999"), Ok("10.1.2.3:9999".parse().unwrap()));
        let refused = Err(NoTarget::Elsewhere("11.0.0.1".parse().unwrap()));
        assert_eq!(check(&ten, "[::ffff:11.0.0.1]:9999"), refused);
        let own = check(&ten, "[::ffff:127.0.0.1]:9999");
        assert_eq!(own, Ok("127.0.0.1:9999".parse().unwrap()));
    }

    #[test]
    fn low_ports_need_leave_and_port_0_is_none() {
        let low = Rules { has_low_ports: true, ..Rules::default() };
        assert_eq!(check(&Rules::default(), "127.0.0.1:1023"), Err(NoTarget::LowPort));
        assert!(check(&low, "127.0.0.1:1001").is_ok());
        for rules in [low, Rules::default()] {
            assert_eq!(check(&rules, "127.0.0.1:0"), Err(NoTarget::NoPort));
        }
    }

    #[test]
    fn one_address_that_is_not_allowed_spoils_the_name_and_ipv4_goes_first() {
        let rules = Rules::default();
        let parse = |texts: &[&str]| -> Vec<SocketAddr> {
            texts.iter().map(|text| text.parse().unwrap()).collect()
        };
        let both = parse(&["[::1]:9999", "127.0.0.1:9999"]);
        assert_eq!(rules.choose(&both), Ok(Some(both[1])));
        assert_eq!(rules.choose(&both[..1]), Ok(Some(both[0])));
        assert_eq!(rules.choose(&[]), Ok(None));
        for spoilt in [["127.0.0.1:9999", "192.0.2.1:9999"], ["192.0.2.1:9999", "127.0.0.1:9999"]] {
            assert!(rules.choose(&parse(&spoilt)).is_err());
        }
    }

    #[tokio::test]
    async fn hosts_are_names_or_addresses_in_any_spelling() {
        let rules = Rules::default();
        let own: SocketAddr = "127.0.0.1:9999".parse().unwrap();
        for host in ["localhost", "127.0.0.1", "::ffff:127.0.0.1", "[::ffff:127.0.0.1]"] {
            assert_eq!(rules.resolve(host, 9999).await, Ok(own), "{host}");
        }
        assert_eq!(rules.resolve("::1", 9999).await, Ok("[::1]:9999".parse().unwrap()));
        for host in ["", "[]", " ", "no host", "a\u{0}b", &"a".repeat(254)] {
            let refused = rules.resolve(host, 9999).await;
            assert!(matches!(refused, Err(NoTarget::Unresolved(..))), "{host}: {refused:?}");
        }
        assert!(matches!(rules.resolve("0", 9999).await, Err(NoTarget::NoHost(_))));
        // The port is wrong whatever the name is.
        assert_eq!(rules.resolve("no host", 80).await, Err(NoTarget::LowPort));
    }

    fn ip() -> impl Strategy<Value = IpAddr> {
        let v4 = any::<[u8; 4]>().prop_map(|octets| IpAddr::V4(octets.into()));
        let v6 = any::<[u8; 16]>().prop_map(|octets| IpAddr::V6(octets.into()));
        let mapped =
            any::<[u8; 4]>().prop_map(|octets| IpAddr::V6(Ipv4Addr::from(octets).to_ipv6_mapped()));
        let local = any::<[u8; 3]>().prop_map(|[b, c, d]| IpAddr::V4([127, b, c, d].into()));
        prop_oneof![v4, v6, mapped, local, Just(IpAddr::V6(Ipv6Addr::LOCALHOST))]
    }

    proptest! {
        #[test]
        fn what_passes_is_this_machine_or_was_allowed(
            ip in ip(), port: u16, network in ip(), prefix in 0_u8..=32, has_low_ports: bool,
        ) {
            let network = IpNet::new(network, prefix).unwrap();
            let rules = Rules { allowed: vec![network], has_low_ports };
            if let Ok(checked) = rules.check(SocketAddr::new(ip, port)) {
                prop_assert_eq!(checked.ip(), ip.to_canonical());
                let port_min = if has_low_ports { 1 } else { PORT_MIN };
                prop_assert!(checked.port() >= port_min);
                prop_assert!(checked.ip().is_loopback() || network.contains(&checked.ip()));
                prop_assert!(!checked.ip().is_multicast() && !checked.ip().is_unspecified());
                // What was checked is checked with the same outcome again.
                prop_assert_eq!(rules.check(checked), Ok(checked));
            }
        }

        #[test]
        fn mapped_or_not_the_verdict_is_the_same(octets: [u8; 4], port: u16) {
            let v4 = Ipv4Addr::from(octets);
            let mapped = SocketAddr::from((v4.to_ipv6_mapped(), port));
            for rules in [Rules::default(), all()] {
                prop_assert_eq!(rules.check(mapped), rules.check(SocketAddr::from((v4, port))));
            }
        }
    }
}
