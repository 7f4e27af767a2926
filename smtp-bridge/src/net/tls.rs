//! TLS over any stream: an [`Acceptor`] for what others dial, a [`Connector`] for what we dial.
//!
//! TLS 1.2 and 1.3 on aws-lc-rs, the hybrid X25519MLKEM768 first. No session is resumed: a ticket would let its issuer
//! tell that two connections have the same end.

use std::io;
use std::path::{Path, PathBuf};
use std::sync::{Arc, PoisonError, RwLock};
use std::time::Duration;

use rustls::client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier};
use rustls::client::{Resumption, WebPkiServerVerifier};
use rustls::crypto::{CryptoProvider, aws_lc_rs, verify_tls12_signature, verify_tls13_signature};
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer, ServerName, UnixTime};
use rustls::server::NoServerSessionStorage;
use rustls::time_provider::TimeProvider;
use rustls::{
    ClientConfig, ConfigBuilder, DigitallySignedStruct, RootCertStore, ServerConfig, SignatureScheme, WantsVerifier,
};
use tokio_rustls::{TlsAcceptor, TlsConnector};

use super::{BoxStream, Clock};

/// Longest PEM file that is read, in bytes.
const PEM_BYTES_MAX: u64 = 1 << 20;

/// Why certificates or a key cannot be used: a sentence that says what to do.
#[derive(Debug, thiserror::Error)]
pub enum TlsError {
    /// A file cannot be read.
    #[error("cannot read {}: {error}", path.display())]
    File {
        /// The file.
        path: PathBuf,
        /// What the system says.
        error: io::Error,
    },
    /// A file is too long to be what it should.
    #[error("{} is longer than 1 MiB: is it a PEM file?", path.display())]
    Long {
        /// The file.
        path: PathBuf,
    },
    /// A file holds no certificate.
    #[error("{} holds no certificate in PEM form (BEGIN CERTIFICATE)", path.display())]
    NoCertificate {
        /// The file.
        path: PathBuf,
    },
    /// A file holds no private key.
    #[error("{} holds no unencrypted private key in PEM form (BEGIN PRIVATE KEY)", path.display())]
    NoKey {
        /// The file.
        path: PathBuf,
    },
    /// The two do not belong together, or cannot be used.
    #[error("the certificate and its key cannot be used together: {0}")]
    Pair(rustls::Error),
    /// No authority of a file can be used.
    #[error("{} holds an authority that cannot be used: {error}", path.display())]
    Authority {
        /// The file.
        path: PathBuf,
        /// What is wrong.
        error: rustls::Error,
    },
}

/// The server's end: shows a certificate to whoever dials, and asks for none.
pub struct Acceptor {
    certificates: PathBuf,
    key: PathBuf,
    clock: Arc<dyn Clock>,
    config: RwLock<Arc<ServerConfig>>,
}

impl Acceptor {
    /// Reads a certificate chain, the server's own first, and its unencrypted key, both in PEM form.
    pub fn from_files(certificates: &Path, key: &Path, clock: Arc<dyn Clock>) -> Result<Self, TlsError> {
        Ok(Self {
            config: RwLock::new(server_config(certificates, key, &clock)?),
            certificates: certificates.to_owned(),
            key: key.to_owned(),
            clock,
        })
    }

    /// Reads the same files again, for connections from now on. After an error the certificate stays as it was.
    pub fn reload(&self) -> Result<(), TlsError> {
        let config = server_config(&self.certificates, &self.key, &self.clock)?;
        *self.config.write().unwrap_or_else(PoisonError::into_inner) = config;
        Ok(())
    }

    /// Answers the handshake of a client. Sets no time limit.
    pub async fn accept(&self, stream: BoxStream) -> io::Result<BoxStream> {
        let config = Arc::clone(&self.config.read().unwrap_or_else(PoisonError::into_inner));
        Ok(Box::new(TlsAcceptor::from(config).accept(stream).await?))
    }
}

/// Whose certificate is taken.
#[derive(Clone)]
pub enum Trust {
    /// Anybody's: the line is closed to those who listen, and open to whoever stands in between.
    Anybody,
    /// That of whoever shows, by a known authority, that the name dialled is its own.
    Authorities,
    /// The same, by an authority of this file alone.
    File(PathBuf),
}

/// The client's end.
#[derive(Clone)]
pub struct Connector {
    connector: TlsConnector,
}

impl Connector {
    /// A connector that trusts as said.
    pub fn new(trust: &Trust, clock: Arc<dyn Clock>) -> Result<Self, TlsError> {
        let config = builder(ClientConfig::builder_with_details(provider(), time(&clock)));
        let mut config = match trust {
            Trust::Anybody => config
                .dangerous()
                .with_custom_certificate_verifier(Arc::new(AnyCertificate(provider()))),
            Trust::Authorities => config.with_webpki_verifier(verifier(known_authorities())),
            Trust::File(path) => config.with_webpki_verifier(verifier(authorities(path)?)),
        }
        .with_no_client_auth();
        config.resumption = Resumption::disabled();
        Ok(Self {
            connector: TlsConnector::from(Arc::new(config)),
        })
    }

    /// Shakes hands with the server that was dialled by `name`, a domain name or an address. Sets no time limit.
    pub async fn connect(&self, name: &str, stream: BoxStream) -> io::Result<BoxStream> {
        let name = ServerName::try_from(name.trim_end_matches('.').to_owned())
            .map_err(|error| io::Error::new(io::ErrorKind::InvalidInput, error))?;
        Ok(Box::new(self.connector.connect(name, stream).await?))
    }
}

fn provider() -> Arc<CryptoProvider> {
    Arc::new(aws_lc_rs::default_provider())
}

fn builder<S: rustls::ConfigSide>(builder: ConfigBuilder<S, rustls::WantsVersions>) -> ConfigBuilder<S, WantsVerifier> {
    builder
        .with_safe_default_protocol_versions()
        .expect("the provider has suites of both versions")
}

fn server_config(certificates: &Path, key: &Path, clock: &Arc<dyn Clock>) -> Result<Arc<ServerConfig>, TlsError> {
    let chain = read_certificates(certificates)?;
    let key = PrivateKeyDer::from_pem_slice(&read(key)?).map_err(|_| TlsError::NoKey { path: key.to_owned() })?;
    let mut config = builder(ServerConfig::builder_with_details(provider(), time(clock)))
        .with_no_client_auth()
        .with_single_cert(chain, key)
        .map_err(TlsError::Pair)?;
    config.session_storage = Arc::new(NoServerSessionStorage {});
    config.send_tls13_tickets = 0;
    Ok(Arc::new(config))
}

fn read(path: &Path) -> Result<Vec<u8>, TlsError> {
    let file_error = |error| TlsError::File {
        path: path.to_owned(),
        error,
    };
    if std::fs::metadata(path).map_err(file_error)?.len() > PEM_BYTES_MAX {
        return Err(TlsError::Long { path: path.to_owned() });
    }
    std::fs::read(path).map_err(file_error)
}

fn read_certificates(path: &Path) -> Result<Vec<CertificateDer<'static>>, TlsError> {
    let read = read(path)?;
    let certificates: Result<Vec<_>, _> = CertificateDer::pem_slice_iter(&read).collect();
    match certificates {
        Ok(certificates) if !certificates.is_empty() => Ok(certificates),
        _ => Err(TlsError::NoCertificate { path: path.to_owned() }),
    }
}

fn known_authorities() -> RootCertStore {
    RootCertStore::from_iter(webpki_roots::TLS_SERVER_ROOTS.iter().cloned())
}

fn authorities(path: &Path) -> Result<RootCertStore, TlsError> {
    let mut roots = RootCertStore::empty();
    for certificate in read_certificates(path)? {
        roots.add(certificate).map_err(|error| TlsError::Authority {
            path: path.to_owned(),
            error,
        })?;
    }
    Ok(roots)
}

fn verifier(roots: RootCertStore) -> Arc<WebPkiServerVerifier> {
    WebPkiServerVerifier::builder_with_provider(Arc::new(roots), provider())
        .build()
        .expect("there is an authority, and no list of revoked certificates")
}

fn time(clock: &Arc<dyn Clock>) -> Arc<dyn TimeProvider> {
    Arc::new(HostTime(Arc::clone(clock)))
}

/// The host's clock, as rustls asks for it.
struct HostTime(Arc<dyn Clock>);

impl TimeProvider for HostTime {
    fn current_time(&self) -> Option<UnixTime> {
        Some(UnixTime::since_unix_epoch(Duration::from_secs(self.0.unix_seconds())))
    }
}

impl std::fmt::Debug for HostTime {
    fn fmt(&self, formatter: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        formatter.write_str("HostTime")
    }
}

/// Takes every certificate, and still has the server show that it holds the key (opportunistic security, RFC 7435).
#[derive(Debug)]
struct AnyCertificate(Arc<CryptoProvider>);

impl ServerCertVerifier for AnyCertificate {
    fn verify_server_cert(
        &self,
        _end_entity: &CertificateDer<'_>,
        _intermediates: &[CertificateDer<'_>],
        _server_name: &ServerName<'_>,
        _ocsp_response: &[u8],
        _now: UnixTime,
    ) -> Result<ServerCertVerified, rustls::Error> {
        Ok(ServerCertVerified::assertion())
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signature: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        let schemes = &self.0.signature_verification_algorithms;
        verify_tls12_signature(message, certificate, signature, schemes)
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signature: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        let schemes = &self.0.signature_verification_algorithms;
        verify_tls13_signature(message, certificate, signature, schemes)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.0.signature_verification_algorithms.supported_schemes()
    }
}

#[cfg(test)]
mod tests {
    use rcgen::{BasicConstraints, CertificateParams, CertifiedIssuer, IsCa, KeyPair};
    use tempfile::TempDir;
    use tokio::io::{AsyncReadExt, AsyncWriteExt, duplex};

    use super::*;

    struct Now;

    impl Clock for Now {
        fn unix_seconds(&self) -> u64 {
            1_800_000_000
        }
    }

    fn clock() -> Arc<dyn Clock> {
        Arc::new(Now)
    }

    /// A folder with `ca.pem`, and `cert.pem` and `key.pem` of the name given.
    struct Files(TempDir);

    impl Files {
        fn of(name: &str) -> Self {
            let files = Files(tempfile::tempdir().unwrap());
            files.write(name);
            files
        }

        fn path(&self, name: &str) -> PathBuf {
            self.0.path().join(name)
        }

        fn write(&self, name: &str) {
            let mut params = CertificateParams::new(vec![]).unwrap();
            params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
            let issuer = CertifiedIssuer::self_signed(params, KeyPair::generate().unwrap()).unwrap();
            let key = KeyPair::generate().unwrap();
            let params = CertificateParams::new(vec![name.to_owned()]).unwrap();
            let certificate = params.signed_by(&key, &issuer).unwrap();
            for (file, text) in [
                ("ca.pem", issuer.pem()),
                ("cert.pem", certificate.pem()),
                ("key.pem", key.serialize_pem()),
            ] {
                std::fs::write(self.path(file), text).unwrap();
            }
        }

        fn acceptor(&self) -> Result<Acceptor, TlsError> {
            Acceptor::from_files(&self.path("cert.pem"), &self.path("key.pem"), clock())
        }
    }

    /// Whether a client that trusts so and dialled `name` can speak with the server.
    async fn speaks(acceptor: &Acceptor, trust: &Trust, name: &str) -> bool {
        let connector = Connector::new(trust, clock()).unwrap();
        let (ours, theirs) = duplex(1 << 16);
        let server = async {
            let mut stream = acceptor.accept(Box::new(theirs)).await?;
            let mut said = [0; 5];
            stream.read_exact(&mut said).await?;
            stream.write_all(&said).await?;
            stream.shutdown().await
        };
        let client = async {
            let mut stream = connector.connect(name, Box::new(ours)).await?;
            stream.write_all(b"hello").await?;
            let mut heard = Vec::new();
            stream.read_to_end(&mut heard).await?;
            io::Result::Ok(heard)
        };
        let (served, heard) = tokio::join!(server, client);
        served.is_ok() && heard.is_ok_and(|heard| heard == b"hello")
    }

    #[tokio::test]
    async fn anybody_is_taken_only_where_that_was_said() {
        let files = Files::of("mx.test");
        let acceptor = files.acceptor().unwrap();
        let ca = Trust::File(files.path("ca.pem"));
        assert!(speaks(&acceptor, &Trust::Anybody, "mx.test").await);
        assert!(speaks(&acceptor, &Trust::Anybody, "other.test.").await);
        assert!(speaks(&acceptor, &Trust::Anybody, "192.0.2.1").await);
        assert!(speaks(&acceptor, &ca, "mx.test").await);
        assert!(speaks(&acceptor, &ca, "MX.test.").await);
        assert!(!speaks(&acceptor, &ca, "other.test").await);
        assert!(!speaks(&acceptor, &Trust::Authorities, "mx.test").await);
        let others = Files::of("mx.test");
        let stranger = Trust::File(others.path("ca.pem"));
        assert!(!speaks(&acceptor, &stranger, "mx.test").await);
    }

    #[tokio::test]
    async fn a_renewed_certificate_is_shown_after_a_reload_and_a_broken_one_is_not() {
        let files = Files::of("old.test");
        let acceptor = files.acceptor().unwrap();
        files.write("new.test");
        let ca = Trust::File(files.path("ca.pem"));
        assert!(!speaks(&acceptor, &ca, "new.test").await);
        acceptor.reload().unwrap();
        assert!(speaks(&acceptor, &ca, "new.test").await);
        std::fs::write(files.path("cert.pem"), "-----BEGIN CERTIFICATE-----\n").unwrap();
        assert!(matches!(acceptor.reload(), Err(TlsError::NoCertificate { .. })));
        assert!(speaks(&acceptor, &ca, "new.test").await);
    }

    #[test]
    fn what_cannot_be_used_is_named() {
        let files = Files::of("mx.test");
        let swapped = Acceptor::from_files(&files.path("key.pem"), &files.path("cert.pem"), clock());
        assert!(matches!(swapped, Err(TlsError::NoCertificate { .. })));
        let no_key = Acceptor::from_files(&files.path("cert.pem"), &files.path("ca.pem"), clock());
        assert!(matches!(no_key, Err(TlsError::NoKey { .. })));
        let absent = Acceptor::from_files(&files.path("none.pem"), &files.path("key.pem"), clock());
        assert!(matches!(absent, Err(TlsError::File { .. })));
        let other = Files::of("mx.test");
        let mismatch = Acceptor::from_files(&files.path("cert.pem"), &other.path("key.pem"), clock());
        assert!(matches!(mismatch, Err(TlsError::Pair(_))));
        std::fs::write(files.path("cert.pem"), vec![b'x'; PEM_BYTES_MAX as usize + 1]).unwrap();
        assert!(matches!(files.acceptor(), Err(TlsError::Long { .. })));
    }
}
