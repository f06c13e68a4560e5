//! Certificates of the tests' own.

use std::fs;
use std::path::{Path, PathBuf};

use rcgen::{
    BasicConstraints, CertificateParams, CertifiedIssuer, ExtendedKeyUsagePurpose, IsCa, KeyPair,
    KeyUsagePurpose,
};

/// PEM files.
pub(crate) struct Certificates {
    /// Who signed the server's and the client's.
    pub(crate) ca: PathBuf,
    /// For localhost and 127.0.0.1.
    pub(crate) server: PathBuf,
    pub(crate) server_key: PathBuf,
    pub(crate) client: PathBuf,
    pub(crate) client_key: PathBuf,
    /// For a host of another name.
    pub(crate) stranger: PathBuf,
    pub(crate) stranger_key: PathBuf,
    /// Who signed nothing.
    pub(crate) other_ca: PathBuf,
}

impl Certificates {
    /// Makes them.
    pub(crate) fn in_dir(dir: &Path) -> Self {
        let write = |name: &str, text: String| {
            let path = dir.join(name);
            fs::write(&path, text).unwrap();
            path
        };
        let ca = authority("the tests' authority");
        let here = ["localhost", "127.0.0.1"].as_slice();
        let (server, server_key) = signed_by(&ca, here, ExtendedKeyUsagePurpose::ServerAuth);
        let (client, client_key) = signed_by(&ca, here, ExtendedKeyUsagePurpose::ClientAuth);
        let elsewhere = ["broker.example.org"].as_slice();
        let (stranger, stranger_key) =
            signed_by(&ca, elsewhere, ExtendedKeyUsagePurpose::ServerAuth);
        Self {
            ca: write("ca.pem", ca.pem()),
            server: write("server.pem", server),
            server_key: write("server-key.pem", server_key),
            client: write("client.pem", client),
            client_key: write("client-key.pem", client_key),
            stranger: write("stranger.pem", stranger),
            stranger_key: write("stranger-key.pem", stranger_key),
            other_ca: write("other-ca.pem", authority("another authority").pem()),
        }
    }
}

fn authority(name: &str) -> CertifiedIssuer<'static, KeyPair> {
    let mut params = CertificateParams::default();
    params.distinguished_name.push(rcgen::DnType::CommonName, name);
    params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
    params.key_usages = vec![KeyUsagePurpose::KeyCertSign, KeyUsagePurpose::CrlSign];
    CertifiedIssuer::self_signed(params, KeyPair::generate().unwrap()).unwrap()
}

/// The certificate and its key.
fn signed_by(
    ca: &CertifiedIssuer<'static, KeyPair>,
    names: &[&str],
    purpose: ExtendedKeyUsagePurpose,
) -> (String, String) {
    let names: Vec<_> = names.iter().map(|name| (*name).to_owned()).collect();
    let mut params = CertificateParams::new(names).unwrap();
    params.extended_key_usages = vec![purpose];
    let key = KeyPair::generate().unwrap();
    let certificate = params.signed_by(&key, ca).unwrap();
    (certificate.pem(), key.serialize_pem())
}
