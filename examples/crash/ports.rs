//! Ports: a free one, and the UDP ports that a process has open, as the kernel says (proc_net(5)).

use std::collections::HashSet;
use std::fs;
use std::net::{Ipv4Addr, TcpListener};
use std::path::Path;

use crate::random::SplitMix64;

/// A free loopback port outside the range from which the kernel takes the client side's ports: one
/// of those could be lent to another connection just while the server is down.
pub(crate) fn free_port(number: u64) -> Result<u16, String> {
    let mut random = SplitMix64::new(u64::from(std::process::id()), number);
    let range = fs::read_to_string(Path::new("/proc/sys/net/ipv4/ip_local_port_range"));
    let range = range.unwrap_or_default();
    let mut limits = range.split_whitespace().filter_map(|word| word.parse::<u64>().ok());
    let (low, high) = (limits.next().unwrap_or(32_768), limits.next().unwrap_or(60_999));
    for _ in 0..1000 {
        let port = random.between(10_000, 32_000);
        if (low..=high).contains(&port) {
            continue;
        }
        let port = u16::try_from(port).map_err(|error| error.to_string())?;
        if TcpListener::bind((Ipv4Addr::LOCALHOST, port)).is_ok() {
            return Ok(port);
        }
    }
    Err("no free port between 10000 and 32000".to_owned())
}

/// The open UDP ports of the process with this number; none when it has ended.
pub(crate) fn udp_ports(process: u32) -> Vec<u16> {
    let folder = format!("/proc/{process}");
    let files = fs::read_dir(format!("{folder}/fd")).into_iter().flatten().flatten();
    let sockets: HashSet<String> = files
        .filter_map(|file| {
            let target = fs::read_link(file.path()).ok()?;
            let socket = target.to_str()?.strip_prefix("socket:[")?.strip_suffix(']')?;
            Some(socket.to_owned())
        })
        .collect();
    let mut ports = Vec::new();
    for table in ["udp", "udp6"] {
        let table = fs::read_to_string(format!("{folder}/net/{table}")).unwrap_or_default();
        ports.extend(table.lines().skip(1).filter_map(|row| port(row, &sockets)));
    }
    ports
}

/// The port of a row, if it is of one of these sockets.
fn port(row: &str, sockets: &HashSet<String>) -> Option<u16> {
    let mut words = row.split_whitespace();
    let (_, port) = words.nth(1)?.rsplit_once(':')?;
    let is_ours = sockets.contains(words.nth(7)?);
    u16::from_str_radix(port, 16).ok().filter(|_| is_ours)
}

#[cfg(test)]
mod tests {
    use super::udp_ports;
    use std::net::UdpSocket;

    #[test]
    fn a_port_is_there_while_it_is_open() {
        let sockets = ["127.0.0.1:0", "[::1]:0"].map(|address| UdpSocket::bind(address).ok());
        let ports: Vec<u16> =
            sockets.iter().flatten().map(|socket| socket.local_addr().unwrap().port()).collect();
        let open = || udp_ports(std::process::id());
        assert!(!ports.is_empty() && ports.iter().all(|port| open().contains(port)));
        drop(sockets);
        assert!(ports.iter().all(|port| !open().contains(port)));
    }
}
