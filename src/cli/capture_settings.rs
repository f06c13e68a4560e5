//! The settings of captures.

use std::net::IpAddr;
use std::ops::RangeInclusive;

use anyhow::anyhow;
use clap::Args;
use clap::builder::RangedU64ValueParser;

use crate::rooms::telemetry::capture::socket::SocketSettings;

/// Whether the telemetry of ships is captured, and how.
#[derive(Debug, Clone, Args)]
pub(super) struct CaptureSettings {
    /// Captures that run at once, beside other tasks; 0: none do here.
    #[arg(long, env, value_name = "N", default_value_t = 100)]
    #[arg(value_parser = RangedU64ValueParser::<usize>::new().range(0..=1000))]
    captures_max: usize,
    /// Address of this machine to which ships are told to stream.
    #[arg(long, env, value_name = "ADDRESS", default_value = "127.0.0.1")]
    capture_host: IpAddr,
    /// Ports that captures receive on, FIRST-LAST, one each; unset: any free one.
    #[arg(long, env, value_name = "PORTS", value_parser = ports)]
    capture_ports: Option<RangeInclusive<u16>>,
    /// Receive buffer of a capture, in bytes; the kernel may give less (net.core.rmem_max).
    #[arg(long, env, value_name = "BYTES", default_value_t = 8 << 20)]
    #[arg(value_parser = RangedU64ValueParser::<usize>::new().range(4096..=1 << 30))]
    capture_buffer_bytes: usize,
}

/// What captures, with every file read and every text parsed.
#[derive(Debug, Clone)]
pub(super) struct CheckedCapture {
    /// How many run at once.
    pub(super) captures_max: usize,
    pub(super) socket: SocketSettings,
}

impl CaptureSettings {
    /// What is to be done, if it can be.
    pub(super) fn check(&self) -> Result<CheckedCapture, Vec<anyhow::Error>> {
        let host = self.capture_host;
        if host.is_unspecified() || host.is_multicast() {
            return Err(vec![anyhow!("CAPTURE_HOST {host} is no address that a ship can send to")]);
        }
        let (ports, buffer_bytes) = (self.capture_ports.clone(), self.capture_buffer_bytes);
        let socket = SocketSettings { host, ports, buffer_bytes };
        Ok(CheckedCapture { captures_max: self.captures_max, socket })
    }
}

/// Reads `FIRST-LAST`, or one port.
fn ports(text: &str) -> Result<RangeInclusive<u16>, String> {
    let (first, last) = text.split_once('-').unwrap_or((text, text));
    let port = |text: &str| text.trim().parse::<u16>().ok().filter(|port| *port > 0);
    match (port(first), port(last)) {
        (Some(first), Some(last)) if first <= last => Ok(first..=last),
        _ => Err("write FIRST-LAST, as in 20000-20099".to_owned()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ports_are_a_range_or_one() {
        assert_eq!(ports("20000-20099"), Ok(20000..=20099));
        assert_eq!(ports("7"), Ok(7..=7));
        for wrong in ["", "0", "9-8", "1-2-3", "65536", "0-5", "a-b"] {
            assert!(ports(wrong).is_err(), "{wrong}");
        }
    }
}
