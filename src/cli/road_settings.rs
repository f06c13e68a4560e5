//! The settings of the way to a spaceship.

use std::path::PathBuf;
use std::sync::Arc;

use anyhow::{Context, anyhow};
use clap::Args;
use rustls::pki_types::CertificateDer;
use rustls::pki_types::pem::PemObject;
use rustls::{ClientConfig, RootCertStore};

use super::bench::read_token;
use crate::rooms::telemetry::road::{Network, Road};

/// Where the spaceship of this machine is.
const USUAL_URL: &str = "http://127.0.0.1:8001";

/// Which spaceship is asked for streams, and how.
#[derive(Debug, Clone, Default, Args)]
pub(super) struct RoadSettings {
    /// Where the spaceship is that is asked for streams; unset: `up` its own, else
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

/// The way to a spaceship, with every file read.
#[derive(Debug, Clone)]
pub(super) struct CheckedRoad {
    pub(super) road: Road,
    /// Whether somebody has said which one.
    pub(super) has_choice: bool,
}

impl RoadSettings {
    /// Reads the files and parses the texts; every problem there is.
    pub(super) fn check(&self) -> Result<CheckedRoad, Vec<anyhow::Error>> {
        let mut problems = Vec::new();
        let token = self.spaceship_token_file.as_deref().map(read_token).transpose();
        let token = token.context("SPACESHIP_TOKEN_FILE").map_err(|error| problems.push(error));
        let tls = self.tls().map_err(|error| problems.push(error));
        let (token, tls) = (token.ok().flatten(), tls.ok().flatten());
        match Network::new(self.url(), token, tls).context("SPACESHIP_URL") {
            Ok(network) if problems.is_empty() => {
                let has_choice = self.spaceship_url.is_some();
                Ok(CheckedRoad { road: Road::Network(network), has_choice })
            }
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn everything_that_is_wrong_is_named_at_once() {
        assert!(RoadSettings::default().check().is_ok());
        let wrong = RoadSettings {
            spaceship_url: Some("https://ann:s3cret@ship/".to_owned()),
            spaceship_token_file: Some("/none/token".into()),
            spaceship_ca: Some("/none/ca.pem".into()),
        };
        let problems: Vec<String> =
            wrong.check().unwrap_err().iter().map(|error| format!("{error:#}")).collect();
        let expected = ["SPACESHIP_TOKEN_FILE: ", "SPACESHIP_CA ", "SPACESHIP_URL: "];
        assert_eq!(problems.len(), expected.len(), "{problems:?}");
        for (problem, expected) in problems.iter().zip(expected) {
            assert!(problem.starts_with(expected) && !problem.contains("s3cret"), "{problem}");
        }
    }
}
