//! TLS from two PEM files: certificate chain and private key.
//!
//! TLS 1.2 and 1.3 with the `ring` provider; ALPN offers `http/1.1` only (RFC 7301).

use std::path::{Path, PathBuf};
use std::sync::Arc;

use rustls::ServerConfig;
use rustls::pki_types::pem::{self, PemObject};
use rustls::pki_types::{CertificateDer, PrivateKeyDer};

/// Why TLS could not be set up: which file, what is wrong, what to do.
#[derive(Debug, thiserror::Error)]
pub enum TlsError {
    /// A file could not be read.
    #[error("cannot read {}: {source}; check the path, and that this user may read it",
            path.display())]
    Read {
        /// The file.
        path: PathBuf,
        /// What the system said.
        source: std::io::Error,
    },
    /// A file is not PEM, or a part of it is damaged.
    #[error("{} is not a sound PEM file: {source}; export it again, with its BEGIN and END \
             lines", path.display())]
    Damaged {
        /// The file.
        path: PathBuf,
        /// What the parser said.
        source: pem::Error,
    },
    /// No certificate in the chain's file.
    #[error("{} holds no certificate; it must hold the server's, then the intermediate ones, \
             each as BEGIN CERTIFICATE", path.display())]
    NoCertificate {
        /// The file.
        path: PathBuf,
    },
    /// No usable key in the key's file.
    #[error("{} holds no private key that can be used; it must hold one without a password, as \
             BEGIN PRIVATE KEY, RSA PRIVATE KEY or EC PRIVATE KEY", path.display())]
    NoKey {
        /// The file.
        path: PathBuf,
    },
    /// Certificate and key are not a pair.
    #[error("{} is not the key of the first certificate in {}; give the two files that were made \
             together, the server's certificate first", key.display(), chain.display())]
    Mismatch {
        /// The chain's file.
        chain: PathBuf,
        /// The key's file.
        key: PathBuf,
    },
    /// The library refuses the pair for another reason.
    #[error("{} and {} cannot be used: {source}; make a new certificate (ECDSA P-256 or \
             RSA 2048 and up)", chain.display(), key.display())]
    Refused {
        /// The chain's file.
        chain: PathBuf,
        /// The key's file.
        key: PathBuf,
        /// What the library said.
        source: rustls::Error,
    },
}

fn read(path: &Path) -> Result<Vec<u8>, TlsError> {
    std::fs::read(path).map_err(|source| TlsError::Read { path: path.to_owned(), source })
}

/// Loads the certificate chain (the server's first) and its key.
///
/// # Errors
/// See [`TlsError`].
pub fn load(chain: &Path, key: &Path) -> Result<Arc<ServerConfig>, TlsError> {
    let damaged = |path: &Path, source| TlsError::Damaged { path: path.to_owned(), source };
    let certificates = CertificateDer::pem_slice_iter(&read(chain)?)
        .collect::<Result<Vec<_>, _>>()
        .map_err(|source| damaged(chain, source))?;
    if certificates.is_empty() {
        return Err(TlsError::NoCertificate { path: chain.to_owned() });
    }
    let secret = PrivateKeyDer::from_pem_slice(&read(key)?).map_err(|source| match source {
        pem::Error::NoItemsFound => TlsError::NoKey { path: key.to_owned() },
        other => damaged(key, other),
    })?;
    let refused = |source| {
        let (chain, key) = (chain.to_owned(), key.to_owned());
        match source {
            rustls::Error::InconsistentKeys(rustls::InconsistentKeys::KeyMismatch) => {
                TlsError::Mismatch { chain, key }
            }
            source => TlsError::Refused { chain, key, source },
        }
    };
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let mut config = ServerConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()
        .map_err(refused)?
        .with_no_client_auth()
        .with_single_cert(certificates, secret)
        .map_err(refused)?;
    config.alpn_protocols = vec![b"http/1.1".to_vec()];
    Ok(Arc::new(config))
}

#[cfg(test)]
mod tests {
    use super::*;

    struct Files {
        directory: tempfile::TempDir,
    }

    impl Files {
        fn write(&self, name: &str, content: &str) -> PathBuf {
            let path = self.directory.path().join(name);
            std::fs::write(&path, content).unwrap();
            path
        }
    }

    fn files() -> Files {
        Files { directory: tempfile::tempdir().unwrap() }
    }

    #[test]
    fn each_mistake_is_named_with_its_file() {
        let files = files();
        let pair = rcgen::generate_simple_self_signed(["localhost".to_owned()]).unwrap();
        let other = rcgen::generate_simple_self_signed(["localhost".to_owned()]).unwrap();
        let chain = files.write("chain.pem", &pair.cert.pem());
        let key = files.write("key.pem", &pair.signing_key.serialize_pem());
        let foreign = files.write("foreign.pem", &other.signing_key.serialize_pem());
        let empty = files.write("empty.pem", "# nothing\n");
        let cut = files.write("cut.pem", "-----BEGIN CERTIFICATE-----\nAAAA\n");
        let absent = files.directory.path().join("absent.pem");
        assert!(load(&chain, &key).is_ok());
        let message = |chain: &Path, key: &Path| load(chain, key).unwrap_err().to_string();
        for (text, file, what) in [
            (message(&absent, &key), "absent.pem", "cannot read"),
            (message(&empty, &key), "empty.pem", "no certificate"),
            (message(&key, &key), "key.pem", "no certificate"),
            (message(&cut, &key), "cut.pem", "not a sound PEM"),
            (message(&chain, &empty), "empty.pem", "no private key"),
            (message(&chain, &chain), "chain.pem", "no private key"),
            (message(&chain, &foreign), "foreign.pem", "not the key"),
        ] {
            assert!(text.contains(file) && text.contains(what), "{text}");
        }
    }

    #[test]
    fn only_http_1_1_is_offered() {
        let files = files();
        let pair = rcgen::generate_simple_self_signed(["localhost".to_owned()]).unwrap();
        let chain = files.write("chain.pem", &pair.cert.pem());
        let key = files.write("key.pem", &pair.signing_key.serialize_pem());
        assert_eq!(load(&chain, &key).unwrap().alpn_protocols, [b"http/1.1".to_vec()]);
    }
}
