//! The settings of whatever speaks to RabbitMQ.

use std::fmt;
use std::num::NonZeroU16;
use std::path::PathBuf;

use anyhow::{Context, anyhow, bail};
use clap::builder::BoolishValueParser;
use clap::parser::ValueSource;
use clap::{ArgMatches, Args};

use crate::broker::rabbitmq::address::{Address, TlsFiles};
use crate::broker::rabbitmq::management::Management;
use crate::broker::rabbitmq::topology::{Format, Topology};
use crate::rooms::telemetry::ships::redis::Address as RedisAddress;
use crate::store::postgres::address::Address as DatabaseAddress;

/// A URL that may hold a password, and so is never printed as it is.
#[derive(Clone)]
pub(super) struct SecretUrl(String);

impl SecretUrl {
    /// The URL, for whoever connects.
    pub(super) fn exposed(&self) -> &str {
        &self.0
    }
}

impl From<String> for SecretUrl {
    fn from(url: String) -> Self {
        Self(url)
    }
}

impl fmt::Debug for SecretUrl {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&redact(&self.0))
    }
}

/// The settings that hold such a URL.
pub(super) const SECRET_URLS: [&str; 4] =
    ["rabbitmq_url", "rabbitmq_management_url", "database_url", "redis_url"];

/// A URL as it may be shown.
pub(super) fn redact(url: &str) -> String {
    match url.split_once(':').map(|(scheme, _)| scheme) {
        Some("http" | "https") => Management::redact(url),
        Some("postgres" | "postgresql") => DatabaseAddress::redact(url),
        Some("redis" | "rediss") => RedisAddress::redact(url),
        _ => Address::redact(url),
    }
}

/// Whether messages travel over RabbitMQ, and how.
#[derive(Debug, Clone, Args)]
pub(super) struct RabbitSettings {
    /// Messages and tasks travel over RabbitMQ: amqp://user:password@host:5672/vhost, or amqps://.
    #[arg(long, env, value_name = "URL", hide_default_value = true)]
    rabbitmq_url: Option<SecretUrl>,
    /// Plain queues that other programs share: task_queue_0 and so on, one JSON object a message.
    #[arg(long, env, value_parser = BoolishValueParser::new())]
    rabbitmq_interop: bool,
    /// Certificate authorities to trust instead of the system's (PEM), for an amqps:// URL.
    #[arg(long, env, value_name = "FILE")]
    rabbitmq_ca: Option<PathBuf>,
    /// Client certificate chain to show to the broker (PEM); needs its key as well.
    #[arg(long, env, value_name = "FILE")]
    rabbitmq_cert: Option<PathBuf>,
    /// Private key of the client certificate (PEM).
    #[arg(long, env, value_name = "FILE")]
    rabbitmq_key: Option<PathBuf>,
}

/// Whom to ask about a broker.
#[derive(Debug, Clone, Args)]
pub(super) struct ManagementSettings {
    /// RabbitMQ's management API, to check more: http://user:password@host:15672/, or https://.
    #[arg(long, env, value_name = "URL", hide_default_value = true)]
    rabbitmq_management_url: Option<SecretUrl>,
}

/// A broker to use.
#[derive(Debug, Clone)]
pub(super) struct Broker {
    pub(super) address: Address,
    pub(super) topology: Topology,
}

impl RabbitSettings {
    /// The broker, if messages travel over one; every problem there is.
    pub(super) fn check(&self, shards: NonZeroU16) -> Result<Option<Broker>, Vec<anyhow::Error>> {
        let Some(SecretUrl(url)) = &self.rabbitmq_url else { return self.unused() };
        let files = self.files().map_err(|error| vec![error])?;
        let address = Address::new(url, &files).context("RABBITMQ_URL").map_err(|e| vec![e])?;
        let format = if self.rabbitmq_interop { Format::Interop } else { Format::Packed };
        Ok(Some(Broker { address, topology: Topology { format, shards } }))
    }

    fn files(&self) -> anyhow::Result<TlsFiles> {
        let identity = match (&self.rabbitmq_cert, &self.rabbitmq_key) {
            (Some(chain), Some(key)) => Some((chain.clone(), key.clone())),
            (None, None) => None,
            (chain, _) => {
                let missing = if chain.is_some() { "RABBITMQ_KEY" } else { "RABBITMQ_CERT" };
                bail!("RABBITMQ_CERT and RABBITMQ_KEY go together, but {missing} is not set");
            }
        };
        Ok(TlsFiles { authorities: self.rabbitmq_ca.clone(), identity })
    }

    /// The management API, if it is to be asked; what is wrong with it.
    pub(super) fn management(
        &self,
        settings: &ManagementSettings,
    ) -> Result<Option<Management>, Vec<anyhow::Error>> {
        let Some(SecretUrl(url)) = &settings.rabbitmq_management_url else { return Ok(None) };
        if self.rabbitmq_url.is_none() {
            let text = "RABBITMQ_MANAGEMENT_URL is set, but RABBITMQ_URL is not";
            return Err(vec![anyhow!(text)]);
        }
        let files = self.files().map_err(|error| vec![error])?;
        let management = Management::new(url, &files).context("RABBITMQ_MANAGEMENT_URL");
        management.map(Some).map_err(|error| vec![error])
    }

    /// Whoever sets the rest probably wants a broker.
    fn unused(&self) -> Result<Option<Broker>, Vec<anyhow::Error>> {
        let set = [
            ("RABBITMQ_INTEROP", self.rabbitmq_interop),
            ("RABBITMQ_CA", self.rabbitmq_ca.is_some()),
            ("RABBITMQ_CERT", self.rabbitmq_cert.is_some()),
            ("RABBITMQ_KEY", self.rabbitmq_key.is_some()),
        ];
        let set = set.into_iter().filter(|(_, is_set)| *is_set);
        let problems: Vec<_> =
            set.map(|(name, _)| anyhow!("{name} is set, but RABBITMQ_URL is not")).collect();
        if problems.is_empty() { Ok(None) } else { Err(problems) }
    }
}

/// What is wrong with a URL on the command line, which every user of the machine can read.
pub(super) fn exposed(matches: &ArgMatches) -> Option<anyhow::Error> {
    let (_, command) = matches.subcommand()?;
    SECRET_URLS
        .iter()
        .find_map(|setting| exposed_setting(command, setting))
        .or_else(|| exposed(command))
}

fn exposed_setting(command: &ArgMatches, setting: &str) -> Option<anyhow::Error> {
    let known = command.try_contains_id(setting).is_ok();
    if !known || command.value_source(setting) != Some(ValueSource::CommandLine) {
        return None;
    }
    let url = command.try_get_one::<SecretUrl>(setting).ok()??;
    let holds_password = Address::holds_password(&url.0) || DatabaseAddress::holds_password(&url.0);
    holds_password.then(|| {
        anyhow!(
            "--{} holds a password, and others can read a command line: set the variable {}, or \
             {setting} in the settings file",
            setting.replace('_', "-"),
            setting.to_ascii_uppercase()
        )
    })
}
