//! Where the database is and how it is spoken to: URL, and TLS as `sslmode` says.
//!
//! | `sslmode` | without `DATABASE_CA` | with it |
//! |---|---|---|
//! | `disable` | not encrypted | refused |
//! | `allow`, `prefer` | encrypted if the server can, nothing is verified | refused |
//! | `require` | encrypted, nothing is verified | as `verify-ca` |
//! | `verify-ca` | signed by one of the system's authorities | by one in the file |
//! | `verify-full` | that, and for the host's name | the same |
//! | not given | as `prefer` | as `verify-full` |
//!
//! That is what libpq does, but for the last cell and the refusals, where it would encrypt without
//! looking at the authorities that were given. Unix sockets are never encrypted.

use std::fmt::{self, Write as _};
use std::path::PathBuf;

use rustls::pki_types::CertificateDer;
use rustls::pki_types::pem::PemObject;
use rustls::{CertificateError, Error as TlsError, RootCertStore};
use tokio_postgres::config::{Host, SslMode, TargetSessionAttrs};
use tokio_postgres::tls::MakeTlsConnect;
use tokio_postgres::{Client, Config, Connection, Socket};
use tokio_postgres_rustls::MakeRustlsConnect;

use super::error::DatabaseError;
use super::trust::{Trust, client_config};

/// How long sent bytes may stay unacknowledged, and a silent server is not asked whether it lives.
const SILENCE_MAX: std::time::Duration = std::time::Duration::from_secs(10);
/// How long one address of a host may take to answer.
const DIAL_TIMEOUT: std::time::Duration = std::time::Duration::from_secs(5);

/// A connection's stream of messages.
pub(super) type Wire = Connection<Socket, <MakeRustlsConnect as MakeTlsConnect<Socket>>::Stream>;

/// The address of a database: cloning it is cheap, printing it shows no password.
#[derive(Clone)]
pub struct Address {
    config: Config,
    tls: MakeRustlsConnect,
    verifies: bool,
}

/// Why an address cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum AddressError {
    /// The URL is none. Neither it nor the parser's words are repeated, which may hold a password.
    #[error(
        "not a PostgreSQL URL such as postgres://user:password@host:5432/name (special characters \
         of the password as %XX)"
    )]
    Url,
    /// It names no host.
    #[error("names no host: postgres://user:password@host:5432/name")]
    NoHost,
    /// A way to encrypt that there is not.
    #[error(
        "sslmode={0} is none of disable, allow, prefer, require, verify-ca, verify-full (and the \
         authorities are set by DATABASE_CA)"
    )]
    Mode(String),
    /// Authorities, but nothing is verified.
    #[error("DATABASE_CA needs sslmode=verify-full, and the URL says sslmode={0}")]
    Unverified(String),
    /// Authorities, but TLS is not spoken.
    #[error("DATABASE_CA is of no use for a Unix socket, which is not encrypted")]
    Socket,
    /// A file can't be read, or holds nothing of use.
    #[error("{}: {reason}", .file.display())]
    File {
        /// The file.
        file: PathBuf,
        /// Why.
        reason: String,
    },
    /// The system has no certificates of authorities.
    #[error("this system has no trusted authorities: set DATABASE_CA")]
    NoAuthorities,
    /// TLS cannot be set up.
    #[error("TLS: {0}")]
    Tls(TlsError),
}

/// A URL taken apart: what the client library knows, and `sslmode`, of which it knows half.
fn parse(url: &str) -> Result<(Config, Option<String>), AddressError> {
    if !["postgres://", "postgresql://"].iter().any(|scheme| url.starts_with(scheme)) {
        return Err(AddressError::Url);
    }
    let (bare, query) = url.split_once('?').unwrap_or((url, ""));
    let (modes, others): (Vec<&str>, Vec<&str>) = query
        .split('&')
        .filter(|pair| !pair.is_empty())
        .partition(|pair| pair.starts_with("sslmode="));
    let mut rest = bare.to_owned();
    if !others.is_empty() {
        let _infallible = write!(rest, "?{}", others.join("&"));
    }
    let config: Config = rest.parse().map_err(|_| AddressError::Url)?;
    let mode = modes.last().and_then(|pair| pair.split_once('=')).map(|(_, mode)| mode.to_owned());
    Ok((config, mode))
}

impl Address {
    /// The address `url`, and a file of authorities to trust instead of the system's (PEM).
    ///
    /// # Errors
    /// The URL is none, or a file cannot be used.
    pub fn new(url: &str, authorities: Option<&PathBuf>) -> Result<Self, AddressError> {
        let (mut config, mode) = parse(url)?;
        if config.get_hosts().is_empty() && config.get_hostaddrs().is_empty() {
            return Err(AddressError::NoHost);
        }
        let is_socket = |host: &Host| matches!(host, Host::Unix(_));
        let is_local = !config.get_hosts().is_empty() && config.get_hosts().iter().all(is_socket);
        let default = if authorities.is_some() { "verify-full" } else { "prefer" };
        let mode = mode.unwrap_or_else(|| default.to_owned());
        let (ssl_mode, trust) = match (mode.as_str(), authorities) {
            (_, Some(_)) if is_local => return Err(AddressError::Socket),
            ("disable" | "allow" | "prefer", Some(_)) => {
                return Err(AddressError::Unverified(mode));
            }
            ("disable", None) => (SslMode::Disable, Trust::Anyone),
            ("allow" | "prefer", None) => (SslMode::Prefer, Trust::Anyone),
            ("require", None) => (SslMode::Require, Trust::Anyone),
            ("require" | "verify-ca", _) => (SslMode::Require, Trust::Signed(roots(authorities)?)),
            ("verify-full", _) => (SslMode::Require, Trust::Named(roots(authorities)?)),
            _ => return Err(AddressError::Mode(mode)),
        };
        let verifies = !matches!(trust, Trust::Anyone);
        let tls = client_config(trust).map_err(AddressError::Tls)?;
        config.ssl_mode(if is_local { SslMode::Disable } else { ssl_mode });
        config.target_session_attrs(TargetSessionAttrs::ReadWrite);
        config.connect_timeout(DIAL_TIMEOUT);
        config.keepalives_idle(SILENCE_MAX).keepalives_interval(SILENCE_MAX / 4);
        config.keepalives_retries(3).tcp_user_timeout(SILENCE_MAX);
        Ok(Self { config, tls: MakeRustlsConnect::new(tls), verifies })
    }

    /// Whether `url` holds a password, which must not stand on a command line.
    #[must_use]
    pub fn holds_password(url: &str) -> bool {
        let (_, rest) = url.split_once("://").unwrap_or_default();
        let (place, query) = rest.split_once('?').unwrap_or((rest, ""));
        let authority = place.split(['/', '#']).next().unwrap_or_default();
        authority.rsplit_once('@').is_some_and(|(user, _)| user.contains(':'))
            || query.split('&').any(|pair| pair.starts_with("password="))
    }

    /// `url` as it may be shown: without password, and without query.
    #[must_use]
    pub fn redact(url: &str) -> String {
        parse(url).map_or_else(|_| "not a PostgreSQL URL".to_owned(), |(config, _)| show(&config))
    }

    /// Whether the server's certificate is verified, or nothing is sent over a network.
    #[must_use]
    pub fn is_verified(&self) -> bool {
        self.verifies || self.is_local()
    }

    /// Whether it is reached without a network.
    #[must_use]
    pub fn is_local(&self) -> bool {
        self.config.get_hosts().iter().all(|host| match host {
            Host::Tcp(name) => ["localhost", "127.0.0.1", "::1"].contains(&name.as_str()),
            Host::Unix(_) => true,
        }) && self.config.get_hostaddrs().iter().all(std::net::IpAddr::is_loopback)
    }

    /// The same, where a standby will do.
    pub(super) fn any_server(&self) -> Self {
        let mut any = self.clone();
        any.config.target_session_attrs(TargetSessionAttrs::Any);
        any
    }

    /// Opens one connection, called so in the database's lists.
    pub(super) async fn connect(&self, name: &str) -> Result<(Client, Wire), DatabaseError> {
        let mut config = self.config.clone();
        if config.get_application_name().is_none() {
            config.application_name(format!("{} {name}", env!("CARGO_PKG_NAME")));
        }
        Ok(config.connect(self.tls.clone()).await?)
    }

    /// What a person can do about it, where it is a matter of certificates, with a colon before it.
    /// Those of the server may be renewed at any time, so it is tried again all the same.
    pub(super) fn advice(&self, error: &DatabaseError) -> &'static str {
        let DatabaseError::Said(error) = error else { return "" };
        let mut cause = std::error::Error::source(error);
        while let Some(error) = cause {
            let inner = error.downcast_ref::<std::io::Error>().and_then(std::io::Error::get_ref);
            if let Some(error) = inner.and_then(|inner| inner.downcast_ref::<TlsError>()) {
                return certificate_advice(error);
            }
            cause = error.source();
        }
        ""
    }
}

fn certificate_advice(error: &TlsError) -> &'static str {
    match error {
        TlsError::InvalidCertificate(
            CertificateError::NotValidForName | CertificateError::NotValidForNameContext { .. },
        ) => ": DATABASE_URL must call the server by a name that its certificate holds",
        TlsError::InvalidCertificate(CertificateError::UnknownIssuer) => {
            ": set DATABASE_CA to the authority that has signed the server's certificate"
        }
        TlsError::InvalidCertificate(_) => ": renew the server's certificate, or DATABASE_CA",
        _ => "",
    }
}

/// The authorities in the file, or those of the system.
fn roots(file: Option<&PathBuf>) -> Result<RootCertStore, AddressError> {
    let mut roots = RootCertStore::empty();
    let Some(file) = file else {
        roots.add_parsable_certificates(rustls_native_certs::load_native_certs().certs);
        return if roots.is_empty() { Err(AddressError::NoAuthorities) } else { Ok(roots) };
    };
    let wrong = |reason: String| AddressError::File { file: file.clone(), reason };
    let certificates: Vec<_> = CertificateDer::pem_file_iter(file)
        .and_then(Iterator::collect)
        .map_err(|error| wrong(error.to_string()))?;
    roots.add_parsable_certificates(certificates);
    if roots.is_empty() {
        return Err(wrong("holds no certificate (PEM)".to_owned()));
    }
    Ok(roots)
}

fn show(config: &Config) -> String {
    let user = config.get_user().map(|user| format!("{user}@")).unwrap_or_default();
    let ports = config.get_ports();
    let port = |index: usize| ports.get(index).or(ports.first()).copied().unwrap_or(5432);
    let hosts: Vec<String> = (0..)
        .zip(config.get_hosts())
        .map(|(index, host)| match host {
            Host::Tcp(name) if name.contains(':') => format!("[{name}]:{}", port(index)),
            Host::Tcp(name) => format!("{name}:{}", port(index)),
            Host::Unix(path) => format!("{}:{}", path.display(), port(index)),
        })
        .collect();
    let name = config.get_dbname().or(config.get_user()).unwrap_or_default();
    format!("postgres://{user}{}/{name}", hosts.join(","))
}

impl fmt::Display for Address {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&show(&self.config))
    }
}

impl fmt::Debug for Address {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Address({self})")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_address_shows_no_password() {
        for (url, shown) in [
            ("postgres://ann:s3cret@db:5433/jobs", "postgres://ann@db:5433/jobs"),
            ("postgresql://ann:s3cret@db?sslmode=require", "postgres://ann@db:5432/ann"),
            ("postgres://ann@%2Frun%2Fpg/jobs?password=s3cret", "postgres://ann@/run/pg:5432/jobs"),
            ("postgres://a:s3cret@one:1,two:2/jobs", "postgres://a@one:1,two:2/jobs"),
        ] {
            let address = Address::new(url, None).unwrap();
            assert_eq!(address.to_string(), shown);
            assert!(!format!("{address:?}").contains("s3cret"));
            assert_eq!(Address::redact(url), shown);
            assert!(Address::holds_password(url), "{url}");
        }
        for wrong in ["http://a:s3cret@b/", "a:s3cret@b", "postgres://a:s3cret@b:x/"] {
            let error = Address::new(wrong, None).unwrap_err();
            assert!(!error.to_string().contains("s3cret"), "{error}");
        }
        assert!(!Address::holds_password("postgres://ann@db:5432/jobs?sslmode=require"));
    }

    #[test]
    fn what_is_verified_is_as_sslmode_says() {
        let dir = tempfile::tempdir().unwrap();
        let key = rcgen::generate_simple_self_signed(["db".to_owned()]).unwrap();
        let ca = dir.path().join("ca.pem");
        std::fs::write(&ca, key.cert.pem()).unwrap();
        let address = |mode: &str, ca: Option<&PathBuf>| {
            let query = if mode.is_empty() { String::new() } else { format!("?sslmode={mode}") };
            Address::new(&format!("postgres://ann@db/jobs{query}"), ca)
        };
        for mode in ["", "disable", "allow", "prefer", "require"] {
            assert!(!address(mode, None).unwrap().is_verified(), "{mode}");
        }
        for mode in ["", "require", "verify-ca", "verify-full"] {
            assert!(address(mode, Some(&ca)).unwrap().is_verified(), "{mode}");
        }
        for mode in ["disable", "allow", "prefer"] {
            assert!(matches!(address(mode, Some(&ca)), Err(AddressError::Unverified(_))), "{mode}");
        }
        assert!(matches!(address("full", None), Err(AddressError::Mode(_))));
        let none = dir.path().join("none.pem");
        assert!(matches!(address("", Some(&none)), Err(AddressError::File { .. })));
        let socket = "postgres://ann@%2Frun%2Fpg/jobs";
        assert!(Address::new(socket, None).unwrap().is_verified());
        assert!(matches!(Address::new(socket, Some(&ca)), Err(AddressError::Socket)));
    }
}
