//! The settings of captures.

use std::net::IpAddr;
use std::ops::RangeInclusive;
use std::path::PathBuf;
use std::sync::Arc;

use anyhow::{Context, anyhow};
use clap::Args;
use clap::builder::RangedU64ValueParser;
use rustls::pki_types::CertificateDer;
use rustls::pki_types::pem::PemObject;
use rustls::{ClientConfig, RootCertStore};

use super::bench::read_token;
use crate::rooms::telemetry::capture::road::{Network, Road};
use crate::rooms::telemetry::capture::socket::SocketSettings;

/// Where the spaceship of this machine is.
const USUAL_URL: &str = "http://127.0.0.1:8001";

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
    /// Where the spaceship is whose streams are captured; unset: `up` its own, else
    /// http://127.0.0.1:8001
    #[arg(long, env, value_name = "URL")]
    spaceship_url: Option<String>,
    /// File with the bearer token for the spaceship, on its first line.
    #[arg(long, env, value_name = "FILE")]
    spaceship_token_file: Option<PathBuf>,
    /// Authorities to trust instead of the system's for an https spaceship (PEM).
    #[arg(long, env, value_name = "FILE")]
    spaceship_ca: Option<PathBuf>,
}

/// What captures, with every file read and every text parsed.
#[derive(Debug, Clone)]
pub(super) struct CheckedCapture {
    /// How many run at once.
    pub(super) captures_max: usize,
    pub(super) socket: SocketSettings,
    /// The way to the spaceship.
    pub(super) road: Road,
    /// Whether somebody has said which one.
    pub(super) has_choice: bool,
}

impl CaptureSettings {
    /// Reads the files and parses the texts; every problem there is.
    pub(super) fn check(&self) -> Result<CheckedCapture, Vec<anyhow::Error>> {
        let mut problems = Vec::new();
        if self.capture_host.is_unspecified() || self.capture_host.is_multicast() {
            let host = self.capture_host;
            problems.push(anyhow!("CAPTURE_HOST {host} is no address that a ship can send to"));
        }
        let token = self.spaceship_token_file.as_deref().map(read_token).transpose();
        let token = token.context("SPACESHIP_TOKEN_FILE").map_err(|error| problems.push(error));
        let tls = self.tls().map_err(|error| problems.push(error));
        let (token, tls) = (token.ok().flatten(), tls.ok().flatten());
        match Network::new(self.url(), token, tls).context("SPACESHIP_URL") {
            Ok(network) if problems.is_empty() => Ok(CheckedCapture {
                captures_max: self.captures_max,
                socket: SocketSettings {
                    host: self.capture_host,
                    ports: self.capture_ports.clone(),
                    buffer_bytes: self.capture_buffer_bytes,
                },
                road: Road::Network(network),
                has_choice: self.spaceship_url.is_some(),
            }),
            network => {
                problems.extend(network.err());
                Err(problems)
            }
        }
    }

    fn url(&self) -> &str {
        self.spaceship_url.as_deref().unwrap_or(USUAL_URL)
    }

    /// How to speak TLS with the spaceship, if it is to be.
    fn tls(&self) -> anyhow::Result<Option<Arc<ClientConfig>>> {
        if !self.url().starts_with("https://") {
            return Ok(None);
        }
        let mut roots = RootCertStore::empty();
        match &self.spaceship_ca {
            Some(file) => {
                let context = || format!("SPACESHIP_CA {}", file.display());
                for certificate in CertificateDer::pem_file_iter(file).with_context(context)? {
                    let certificate = certificate.with_context(context)?;
                    roots.add(certificate).with_context(context)?;
                }
                if roots.is_empty() {
                    return Err(anyhow!("{}: it holds no certificate", context()));
                }
            }
            None => {
                let system = rustls_native_certs::load_native_certs();
                roots.add_parsable_certificates(system.certs);
            }
        }
        let provider = Arc::new(rustls::crypto::ring::default_provider());
        let builder = ClientConfig::builder_with_provider(provider);
        let builder = builder.with_safe_default_protocol_versions().context("TLS")?;
        Ok(Some(Arc::new(builder.with_root_certificates(roots).with_no_client_auth())))
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

    fn settings() -> CaptureSettings {
        CaptureSettings {
            captures_max: 1,
            capture_host: "127.0.0.1".parse().unwrap(),
            capture_ports: None,
            capture_buffer_bytes: 4096,
            spaceship_url: None,
            spaceship_token_file: None,
            spaceship_ca: None,
        }
    }

    #[test]
    fn ports_are_a_range_or_one() {
        assert_eq!(ports("20000-20099"), Ok(20000..=20099));
        assert_eq!(ports("7"), Ok(7..=7));
        for wrong in ["", "0", "9-8", "1-2-3", "65536", "0-5", "a-b"] {
            assert!(ports(wrong).is_err(), "{wrong}");
        }
    }

    #[test]
    fn everything_that_is_wrong_is_named_at_once() {
        assert!(settings().check().is_ok());
        let wrong = CaptureSettings {
            capture_host: "0.0.0.0".parse().unwrap(),
            spaceship_url: Some("https://ann:s3cret@ship/".to_owned()),
            spaceship_token_file: Some("/none/token".into()),
            spaceship_ca: Some("/none/ca.pem".into()),
            ..settings()
        };
        let problems: Vec<String> =
            wrong.check().unwrap_err().iter().map(|error| format!("{error:#}")).collect();
        let expected =
            ["CAPTURE_HOST 0.0.0.0", "SPACESHIP_TOKEN_FILE: ", "SPACESHIP_CA ", "SPACESHIP_URL: "];
        assert_eq!(problems.len(), expected.len(), "{problems:?}");
        for (problem, expected) in problems.iter().zip(expected) {
            assert!(problem.starts_with(expected) && !problem.contains("s3cret"), "{problem}");
        }
    }
}
