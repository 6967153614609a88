//! [`ClusterIdentity`]: a node's proof of its identity to other nodes, and its check of theirs.
//!
//! Owns certificates, keys, and every TLS setting. Knows no socket and no message. A node has one of
//! three identities:
//!
//! - from the cluster's secret: every node derives the same certificate authority from it and issues
//!   itself a certificate with its name. Signature and name are checked, validity periods are not: clocks may be
//!   wrong by decades, and anyone with the secret could issue any period anyway;
//! - from PEM files of an operator's own authority, read again when they change. Here the operator sets
//!   the validity periods, and they are checked;
//! - none: plain TCP, to measure the cost of the rest.
//!
//! A certificate names a node by a DNS name `NAME` or by a URI `replog:node:NAME`. Names are compared
//! byte by byte.
//!
//! | input of HKDF-SHA256 | value |
//! | --- | --- |
//! | salt | `replog cluster secret v1` |
//! | key material | the 32 bytes of the secret |
//! | info | `certificate authority ed25519` |
//! | output | the 32 bytes of the authority's Ed25519 private key |

use std::{
    fmt, fs, io,
    os::unix::fs::{MetadataExt as _, OpenOptionsExt as _},
    path::{Path, PathBuf},
    sync::{Arc, Mutex, PoisonError},
    thread,
    time::{Duration, Instant, SystemTime},
};

use rcgen::{
    BasicConstraints, CertificateParams, CertifiedIssuer, DistinguishedName, DnType,
    ExtendedKeyUsagePurpose, IsCa, KeyPair, KeyUsagePurpose, PKCS_ED25519, SanType, SerialNumber,
    date_time_ymd, string::Ia5String,
};
use ring::hkdf;
use rustix::fs::OFlags;
use rustls::{
    CertificateError, ClientConfig, DigitallySignedStruct, DistinguishedName as SubjectName,
    OtherError, ServerConfig, SignatureScheme,
    client::{
        Resumption,
        danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier},
    },
    crypto::{
        CryptoProvider,
        ring::{self as ring_provider, cipher_suite},
        verify_tls13_signature,
    },
    pki_types::{
        CertificateDer, PrivateKeyDer, PrivatePkcs8KeyDer, ServerName, TrustAnchor, UnixTime,
        pem::PemObject as _,
    },
    server::{
        NoServerSessionStorage,
        danger::{ClientCertVerified, ClientCertVerifier},
    },
    time_provider::TimeProvider,
};
use webpki::{EndEntityCert, KeyUsage, anchor_from_trusted_cert};

use super::ClusterSecret;
use crate::types::NodeName;

/// The ALPN name of the protocol between nodes. Never one that a browser offers.
pub(super) const ALPN: &[u8] = b"replog/2";

/// The prefix of a node's name in a certificate's URI.
const NAME_URI: &str = "replog:node:";

const HKDF_SALT: &[u8] = b"replog cluster secret v1";
const HKDF_INFO: &[u8] = b"certificate authority ed25519";

/// The subject of the derived authority.
const AUTHORITY_NAME: &str = "replog cluster authority";

/// The prefix of the 32 bytes of an Ed25519 private key in PKCS #8 (RFC 8410, section 7).
const ED25519_PKCS8: [u8; 16] = [
    0x30, 0x2e, 0x02, 0x01, 0x00, 0x30, 0x05, 0x06, 0x03, 0x2b, 0x65, 0x70, 0x04, 0x22, 0x04, 0x20,
];

/// A time within the validity period of every certificate from a secret: the first of January 2000.
const SECRET_TIME: Duration = Duration::from_secs(946_684_800);

/// The shortest interval between checks of the PEM files: a stranger who connects repeatedly must not
/// keep the node busy with its file system.
const FILES_CHECK_INTERVAL: Duration = Duration::from_secs(1);

/// The most bytes read of a PEM file.
const PEM_BYTES_MAX: u64 = 1 << 20;

/// The reason, in one sentence, why an identity cannot be used.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{0}")]
pub struct IdentityError(String);

impl IdentityError {
    pub(super) fn new(why: impl Into<String>) -> IdentityError {
        IdentityError(why.into())
    }

    pub(super) fn io(what: &str, path: &Path, error: io::Error) -> IdentityError {
        IdentityError(format!("{what} {}: {error}", path.display()))
    }
}

/// The PEM files of a node whose certificate is issued by an operator's authority.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PemFiles {
    /// The node's certificate, which names it, and any intermediate certificates.
    pub cert: PathBuf,
    /// The node's private key.
    pub key: PathBuf,
    /// The certificates of the authorities whose nodes are trusted.
    pub ca: PathBuf,
}

/// One node's proof of its identity. Clones share it.
#[derive(Clone)]
pub struct ClusterIdentity {
    name: NodeName,
    source: Arc<Source>,
    /// The path of the secret's file, for messages to people.
    kept_in: Option<Arc<Path>>,
}

enum Source {
    Insecure,
    Secret(Arc<Credentials>),
    Pem(PemFiles, Box<Mutex<Loaded>>),
}

/// The credentials read from the PEM files, and the state of the files at that time.
struct Loaded {
    credentials: Arc<Credentials>,
    stamps: [Option<Stamp>; 3],
    checked_at: Instant,
    /// True while a thread checks the files.
    is_checking: bool,
}

/// A stamp that distinguishes versions of a file.
#[derive(Clone, Copy, PartialEq, Eq)]
struct Stamp {
    inode: u64,
    bytes: u64,
    modified: (i64, i64),
}

/// Certificates, key, and the TLS configuration built from them.
pub(super) struct Credentials {
    chain: Vec<CertificateDer<'static>>,
    key: PrivateKeyDer<'static>,
    trust: Arc<Trust>,
    server: Arc<ServerConfig>,
}

impl ClusterIdentity {
    /// Derives the authority from `secret` and issues a certificate to the node `name`.
    ///
    /// # Errors
    ///
    /// [`IdentityError`] if the system gives no random bytes.
    pub fn from_secret(
        secret: &ClusterSecret,
        name: &NodeName,
    ) -> Result<ClusterIdentity, IdentityError> {
        let credentials = issue(secret, name)
            .map_err(|error| IdentityError(format!("cannot create a certificate: {error}")))?;
        let credentials = Arc::new(credentials?);
        Ok(ClusterIdentity::new(name, Source::Secret(credentials)))
    }

    /// Sets the path of the secret's file, for log lines that say which file to copy.
    #[must_use]
    pub fn kept_in(mut self, path: &Path) -> ClusterIdentity {
        self.kept_in = Some(path.into());
        self
    }

    /// Reads a node's certificate, key and authority. Changed files are read again on a separate thread,
    /// within a second and the next connection; if they cannot be used, the previous ones are kept, with a
    /// warning. Open streams stay open: to shut out a node whose certificate is withdrawn, restart the
    /// nodes to which it is connected.
    ///
    /// # Errors
    ///
    /// [`IdentityError`] if a file cannot be read, or if the certificate does not name `name`, does not
    /// belong to the key, is not from the authority, or may not be used at both ends of a connection. An
    /// expired or not yet valid certificate only causes a warning, because clocks may be wrong.
    pub fn from_pem(files: PemFiles, name: &NodeName) -> Result<ClusterIdentity, IdentityError> {
        let stamps = files.stamps();
        let credentials = Arc::new(files.load(name)?);
        let loaded = Mutex::new(Loaded {
            credentials,
            stamps,
            checked_at: Instant::now(),
            is_checking: false,
        });
        Ok(ClusterIdentity::new(
            name,
            Source::Pem(files, Box::new(loaded)),
        ))
    }

    /// Returns an identity that proves nothing and accepts every name: plain TCP. Only for measuring the cost of
    /// the rest, with every address on the loopback device.
    #[must_use]
    pub fn insecure(name: &NodeName) -> ClusterIdentity {
        ClusterIdentity::new(name, Source::Insecure)
    }

    fn new(name: &NodeName, source: Source) -> ClusterIdentity {
        ClusterIdentity {
            name: name.clone(),
            source: Arc::new(source),
            kept_in: None,
        }
    }

    /// Returns the name of the node.
    #[must_use]
    pub fn name(&self) -> &NodeName {
        &self.name
    }

    /// Reports whether the identity proves anything.
    #[must_use]
    pub fn is_secure(&self) -> bool {
        !matches!(*self.source, Source::Insecure)
    }

    /// Returns the certificates and the key to use now; `None` for plain TCP.
    pub(super) fn credentials(&self) -> Option<Arc<Credentials>> {
        match &*self.source {
            Source::Insecure => None,
            Source::Secret(credentials) => Some(Arc::clone(credentials)),
            Source::Pem(files, loaded) => {
                let mut loaded = loaded.lock().unwrap_or_else(PoisonError::into_inner);
                let credentials = Arc::clone(&loaded.credentials);
                if !loaded.is_checking && loaded.checked_at.elapsed() >= FILES_CHECK_INTERVAL {
                    (loaded.checked_at, loaded.is_checking) = (Instant::now(), true);
                    drop(loaded);
                    self.check_files_in_background(files);
                }
                Some(credentials)
            }
        }
    }

    /// Checks the files on a separate thread: they may be on a file system that hangs, and this is called
    /// on the thread of the node's actors.
    fn check_files_in_background(&self, files: &PemFiles) {
        let (identity, files) = (self.clone(), files.clone());
        let started = thread::Builder::new()
            .name("replog-certs".to_owned())
            .spawn(move || identity.reload_if_changed(&files));
        if let Err(error) = started {
            tracing::warn!(node = %self.name, %error, "cannot start a thread to check the certificate files");
            if let Source::Pem(_, loaded) = &*self.source {
                let mut loaded = loaded.lock().unwrap_or_else(PoisonError::into_inner);
                loaded.is_checking = false;
            }
        }
    }

    /// Reads the files if they changed, without blocking users of the current credentials.
    fn reload_if_changed(&self, files: &PemFiles) {
        let Source::Pem(_, loaded) = &*self.source else {
            return;
        };
        let lock = || loaded.lock().unwrap_or_else(PoisonError::into_inner);
        let stamps = files.stamps();
        let changed = lock().stamps != stamps;
        let read = changed.then(|| files.load(&self.name));
        let mut loaded = lock();
        (loaded.stamps, loaded.is_checking) = (stamps, false);
        match read {
            None => {}
            Some(Ok(credentials)) => {
                loaded.credentials = Arc::new(credentials);
                tracing::info!(node = %self.name, "the certificate files were read again");
            }
            // Logged once per change, because the stamps are stored even after an error.
            Some(Err(error)) => {
                tracing::warn!(node = %self.name, %error, "cannot use the changed certificate files: the previous ones are kept");
            }
        }
    }

    /// Returns advice, in one sentence, about a node that does not belong to the same authority.
    pub(super) fn advice_on_another_authority(&self) -> String {
        match (&*self.source, &self.kept_in) {
            (Source::Insecure, _) => "start both nodes with the same kind of identity".to_owned(),
            (Source::Secret(_), Some(path)) => {
                let (name, path) = (&self.name, path.display());
                format!(
                    "the two nodes have different cluster secrets, {name} the one in {path} on its own machine: \
                     copy the secret file of the node that belongs to the cluster over that of the node that is new or lost \
                     its disk, with mode 0600, and restart the latter"
                )
            }
            (Source::Secret(_), None) => {
                "the two nodes have different cluster secrets: give both the same one".to_owned()
            }
            (Source::Pem(files, _), _) => {
                let (cert, ca) = (files.cert.display(), files.ca.display());
                format!("each node's {cert} must be signed by an authority in the other's {ca}")
            }
        }
    }
}

impl fmt::Debug for ClusterIdentity {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let source: &dyn fmt::Debug = match &*self.source {
            Source::Insecure => &"insecure",
            Source::Secret(_) => &"secret",
            Source::Pem(files, _) => files,
        };
        f.debug_struct("ClusterIdentity")
            .field("name", &self.name)
            .field("source", source)
            .finish()
    }
}

impl PemFiles {
    fn stamps(&self) -> [Option<Stamp>; 3] {
        [&self.cert, &self.key, &self.ca].map(|path| {
            let about = fs::metadata(path).ok()?;
            Some(Stamp {
                inode: about.ino(),
                bytes: about.len(),
                modified: (about.mtime(), about.mtime_nsec()),
            })
        })
    }

    fn load(&self, name: &NodeName) -> Result<Credentials, IdentityError> {
        let chain = certificates(&self.cert)?;
        let authorities = certificates(&self.ca)?;
        let bad = |path: &Path, why: String| IdentityError(format!("{}: {why}", path.display()));
        let key = read_pem(&self.key)?;
        warn_of_readers(name, &self.key);
        let key = PrivateKeyDer::from_pem_slice(&key)
            .map_err(|error| bad(&self.key, format!("no private key: {error}")))?;
        let anchors = authorities
            .iter()
            .map(|authority| Ok(anchor_from_trusted_cert(authority)?.to_owned()))
            .collect::<Result<Vec<_>, webpki::Error>>()
            .map_err(|error| {
                bad(
                    &self.ca,
                    format!("not a certificate of an authority: {error}"),
                )
            })?;
        let trust = Arc::new(Trust::new(anchors, Times::Checked));
        let [own, intermediates @ ..] = chain.as_slice() else {
            return Err(bad(&self.cert, "no certificate".to_owned()));
        };
        if !names(own, name) {
            let found = names_in(own).join(", ");
            let why = format!(
                "the certificate names {found:?}, not this node: it needs the DNS name {name} or \
                 the URI {NAME_URI}{name}"
            );
            return Err(bad(&self.cert, why));
        }
        for usage in [KeyUsage::server_auth(), KeyUsage::client_auth()] {
            match trust.check_chain(own, intermediates, now(), usage) {
                Ok(()) => {}
                Err(error @ (CertificateError::Expired | CertificateError::NotValidYet)) => {
                    tracing::warn!(node = %name, file = %self.cert.display(), %error, "this node's certificate is not valid now");
                }
                Err(error) => {
                    let ca = self.ca.display();
                    let why = format!(
                        "the certificate is not issued by an authority in {ca} for both ends of a \
                         connection: {error}"
                    );
                    return Err(bad(&self.cert, why));
                }
            }
        }
        Credentials::new(chain, key, trust).map_err(|error| {
            bad(
                &self.key,
                format!("not the key of the certificate: {error}"),
            )
        })
    }
}

fn certificates(path: &Path) -> Result<Vec<CertificateDer<'static>>, IdentityError> {
    let bad = |why: String| IdentityError(format!("{}: {why}", path.display()));
    let pem = read_pem(path)?;
    let certificates = CertificateDer::pem_slice_iter(&pem)
        .collect::<Result<Vec<_>, _>>()
        .map_err(|error| bad(format!("not PEM: {error}")))?;
    match certificates.is_empty() {
        true => Err(bad("no certificate in it".to_owned())),
        false => Ok(certificates),
    }
}

/// Reads a file and follows links, with which operators' tools install new certificates. Reads only regular
/// files, so that a pipe cannot block it.
fn read_pem(path: &Path) -> Result<Vec<u8>, IdentityError> {
    use io::Read as _;
    let read = || {
        let file = fs::OpenOptions::new()
            .read(true)
            .custom_flags(OFlags::NONBLOCK.bits() as i32)
            .open(path)?;
        if !file.metadata()?.is_file() {
            return Err(io::Error::new(io::ErrorKind::InvalidInput, "not a file"));
        }
        let mut text = Vec::new();
        file.take(PEM_BYTES_MAX).read_to_end(&mut text)?;
        Ok(text)
    };
    read().map_err(|error| IdentityError::io("cannot read", path, error))
}

/// Warns about a private key that every user on the machine may read. Its group may: containers get their secrets
/// that way.
fn warn_of_readers(name: &NodeName, key: &Path) {
    // An error means that the file was read a moment ago and is gone now.
    if fs::metadata(key).is_ok_and(|about| about.mode() & 0o007 != 0) {
        tracing::warn!(
            node = %name, file = %key.display(),
            "every user of this machine may read the node's private key: chmod 600"
        );
    }
}

/// Issues a certificate of the secret's authority to `name`.
fn issue(
    secret: &ClusterSecret,
    name: &NodeName,
) -> Result<Result<Credentials, IdentityError>, rcgen::Error> {
    let authority = authority(secret)?;
    let key = KeyPair::generate_for(&PKCS_ED25519)?;
    let mut params = long_lived_params(name.as_str());
    let uri = Ia5String::try_from(format!("{NAME_URI}{name}"))?;
    params.subject_alt_names = vec![SanType::URI(uri)];
    params.is_ca = IsCa::ExplicitNoCa;
    params.key_usages = vec![KeyUsagePurpose::DigitalSignature];
    params.extended_key_usages = vec![
        ExtendedKeyUsagePurpose::ServerAuth,
        ExtendedKeyUsagePurpose::ClientAuth,
    ];
    let certificate = params.signed_by(&key, &authority)?;
    let key = PrivateKeyDer::Pkcs8(PrivatePkcs8KeyDer::from(key.serialize_der()));
    let anchor = anchor_from_trusted_cert(authority.der())
        .expect("the derived authority is a valid certificate")
        .to_owned();
    let trust = Arc::new(Trust::new(vec![anchor], Times::Ignored));
    let chain = vec![certificate.der().clone()];
    Ok(Credentials::new(chain, key, trust)
        .map_err(|error| IdentityError(format!("cannot use TLS with this identity: {error}"))))
}

/// Derives the authority from the secret, byte for byte the same on every node.
fn authority(secret: &ClusterSecret) -> Result<CertifiedIssuer<'static, KeyPair>, rcgen::Error> {
    let mut seed = [0; 32];
    hkdf::Salt::new(hkdf::HKDF_SHA256, HKDF_SALT)
        .extract(secret.bytes())
        .expand(&[HKDF_INFO], hkdf::HKDF_SHA256)
        .and_then(|derived| derived.fill(&mut seed))
        .expect("32 bytes are one block of HKDF-SHA256");
    let key = [&ED25519_PKCS8[..], &seed].concat();
    let key = KeyPair::try_from(&PrivatePkcs8KeyDer::from(key))?;
    let mut params = long_lived_params(AUTHORITY_NAME);
    params.serial_number = Some(SerialNumber::from_slice(&[1]));
    // It signs nodes but no other authority.
    params.is_ca = IsCa::Ca(BasicConstraints::Constrained(0));
    params.key_usages = vec![KeyUsagePurpose::KeyCertSign];
    CertifiedIssuer::self_signed(params, key)
}

/// Returns the parameters of a certificate with the longest possible validity.
fn long_lived_params(name: &str) -> CertificateParams {
    let mut params = CertificateParams::default();
    params.not_before = date_time_ymd(1970, 1, 1);
    params.not_after = date_time_ymd(9999, 12, 31);
    params.distinguished_name = DistinguishedName::new();
    params.distinguished_name.push(DnType::CommonName, name);
    params
}

impl Credentials {
    fn new(
        chain: Vec<CertificateDer<'static>>,
        key: PrivateKeyDer<'static>,
        trust: Arc<Trust>,
    ) -> Result<Credentials, rustls::Error> {
        let mut server = ServerConfig::builder_with_details(provider(), Arc::new(Clock))
            .with_protocol_versions(&[&rustls::version::TLS13])?
            .with_client_cert_verifier(Arc::new(ClientVerifier(Arc::clone(&trust))))
            .with_single_cert(chain.clone(), key.clone_key())?;
        server.alpn_protocols = vec![ALPN.to_vec()];
        // Each connection proves its identity anew: no tickets, no early data.
        server.session_storage = Arc::new(NoServerSessionStorage {});
        server.send_tls13_tickets = 0;
        server.max_early_data_size = 0;
        let credentials = Credentials {
            chain,
            key,
            trust,
            server: Arc::new(server),
        };
        Ok(credentials)
    }

    #[cfg(test)]
    pub(super) fn certificate_and_key(
        &self,
    ) -> (Vec<CertificateDer<'static>>, PrivateKeyDer<'static>) {
        (self.chain.clone(), self.key.clone_key())
    }

    /// Returns the TLS configuration for incoming connections.
    pub(super) fn server(&self) -> Arc<ServerConfig> {
        Arc::clone(&self.server)
    }

    /// Returns the TLS configuration for a connection to the node `expected`, and to no other.
    pub(super) fn client(&self, expected: &NodeName) -> Result<Arc<ClientConfig>, rustls::Error> {
        let verifier = ServerVerifier {
            trust: Arc::clone(&self.trust),
            expected: expected.clone(),
        };
        let mut client = ClientConfig::builder_with_details(provider(), Arc::new(Clock))
            .with_protocol_versions(&[&rustls::version::TLS13])?
            .dangerous()
            .with_custom_certificate_verifier(Arc::new(verifier))
            .with_client_auth_cert(self.chain.clone(), self.key.clone_key())?;
        client.alpn_protocols = vec![ALPN.to_vec()];
        client.resumption = Resumption::disabled();
        client.enable_sni = false;
        client.enable_early_data = false;
        Ok(Arc::new(client))
    }
}

/// Reports whether a certificate names this node.
pub(super) fn names(certificate: &CertificateDer<'_>, name: &NodeName) -> bool {
    names_in(certificate).iter().any(|found| {
        let found = found.strip_prefix(NAME_URI).unwrap_or(found);
        found == name.as_str()
    })
}

/// Returns the node names in a certificate: those of its names that are valid node names.
fn node_names_in(certificate: &CertificateDer<'_>) -> Vec<String> {
    let found = names_in(certificate).into_iter();
    let names = found.filter_map(|found| {
        let name = found.strip_prefix(NAME_URI).unwrap_or(&found);
        Some(NodeName::new(name).ok()?.to_string())
    });
    names.collect()
}

/// Returns a placeholder for the server name that TLS requires. It is neither sent nor checked: the certificate
/// is checked for the node's name, which need not be a DNS name.
pub(super) fn placeholder_name() -> ServerName<'static> {
    ServerName::try_from("node.invalid").expect("a valid DNS name")
}

/// Returns the names in a certificate that may be a node's, verbatim.
fn names_in(certificate: &CertificateDer<'_>) -> Vec<String> {
    let Ok(certificate) = EndEntityCert::try_from(certificate) else {
        return Vec::new();
    };
    let by_uri = certificate
        .valid_uri_names()
        .filter(|uri| uri.starts_with(NAME_URI));
    let by_dns = certificate.valid_dns_names();
    by_uri.chain(by_dns).map(str::to_owned).collect()
}

/// Returns the crypto provider. It prefers AES-128, which is as far out of reach as AES-256 and costs a quarter
/// less for each record.
fn provider() -> Arc<CryptoProvider> {
    let cipher_suites = vec![
        cipher_suite::TLS13_AES_128_GCM_SHA256,
        cipher_suite::TLS13_AES_256_GCM_SHA384,
        cipher_suite::TLS13_CHACHA20_POLY1305_SHA256,
    ];
    Arc::new(CryptoProvider {
        cipher_suites,
        ..ring_provider::default_provider()
    })
}

/// The wall clock. TLS has no time before 1970: earlier times count as 1970.
#[derive(Debug)]
struct Clock;

impl TimeProvider for Clock {
    fn current_time(&self) -> Option<UnixTime> {
        Some(now())
    }
}

fn now() -> UnixTime {
    let since_1970 = SystemTime::now()
        .duration_since(SystemTime::UNIX_EPOCH)
        .unwrap_or_default();
    UnixTime::since_unix_epoch(since_1970)
}

/// The authorities that a node trusts.
#[derive(Debug)]
struct Trust {
    anchors: Vec<TrustAnchor<'static>>,
    times: Times,
}

#[derive(Clone, Copy, Debug)]
enum Times {
    Checked,
    Ignored,
}

impl Trust {
    fn new(anchors: Vec<TrustAnchor<'static>>, times: Times) -> Trust {
        Trust { anchors, times }
    }

    /// Checks that a certificate is issued by a trusted authority for this usage.
    fn check_chain(
        &self,
        certificate: &CertificateDer<'_>,
        intermediates: &[CertificateDer<'_>],
        now: UnixTime,
        usage: KeyUsage,
    ) -> Result<(), CertificateError> {
        let certificate =
            EndEntityCert::try_from(certificate).map_err(|_| CertificateError::BadEncoding)?;
        let now = match self.times {
            Times::Checked => now,
            Times::Ignored => UnixTime::since_unix_epoch(SECRET_TIME),
        };
        let algorithms = ring_provider::default_provider().signature_verification_algorithms;
        let checked = certificate.verify_for_usage(
            algorithms.all,
            &self.anchors,
            intermediates,
            now,
            usage,
            None,
            None,
        );
        use webpki::Error as E;
        match checked {
            Ok(_) => Ok(()),
            Err(E::CertExpired { .. }) => Err(CertificateError::Expired),
            Err(E::CertNotValidYet { .. }) => Err(CertificateError::NotValidYet),
            #[allow(deprecated, reason = "webpki may still return this variant")]
            Err(E::RequiredEkuNotFound | E::RequiredEkuNotFoundContext(_)) => {
                Err(CertificateError::InvalidPurpose)
            }
            // Another authority. Derived authorities share one name and differ only in their keys.
            Err(E::UnknownIssuer | E::InvalidSignatureForPublicKey) => {
                Err(CertificateError::UnknownIssuer)
            }
            Err(E::CaUsedAsEndEntity) => Err(unusable(
                "it is the certificate of an authority, not one that an authority issued to a node",
            )),
            Err(error) => Err(unusable(error)),
        }
    }
}

/// Returns the error of a certificate whose problem is not its issuer or its name, with the reason in one sentence.
fn unusable(why: impl Into<Box<dyn std::error::Error + Send + Sync>>) -> CertificateError {
    CertificateError::Other(OtherError(Arc::from(why.into())))
}

/// A verifier of the node that answers where a certain node is expected.
#[derive(Debug)]
struct ServerVerifier {
    trust: Arc<Trust>,
    expected: NodeName,
}

impl ServerCertVerifier for ServerVerifier {
    fn verify_server_cert(
        &self,
        certificate: &CertificateDer<'_>,
        intermediates: &[CertificateDer<'_>],
        _: &ServerName<'_>,
        _: &[u8],
        now: UnixTime,
    ) -> Result<ServerCertVerified, rustls::Error> {
        self.trust
            .check_chain(certificate, intermediates, now, KeyUsage::server_auth())?;
        match names(certificate, &self.expected) {
            true => Ok(ServerCertVerified::assertion()),
            false => Err(CertificateError::NotValidForNameContext {
                expected: placeholder_name(),
                presented: node_names_in(certificate),
            }
            .into()),
        }
    }

    fn verify_tls12_signature(
        &self,
        _: &[u8],
        _: &CertificateDer<'_>,
        _: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        Err(only_tls13())
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signed: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        verify_signature(message, certificate, signed)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        schemes()
    }
}

/// A verifier of connecting nodes: any node of the authority may connect. The stream then says which node it
/// is, and is held to that.
#[derive(Debug)]
struct ClientVerifier(Arc<Trust>);

impl ClientCertVerifier for ClientVerifier {
    fn root_hint_subjects(&self) -> &[SubjectName] {
        &[]
    }

    fn verify_client_cert(
        &self,
        certificate: &CertificateDer<'_>,
        intermediates: &[CertificateDer<'_>],
        now: UnixTime,
    ) -> Result<ClientCertVerified, rustls::Error> {
        self.0
            .check_chain(certificate, intermediates, now, KeyUsage::client_auth())?;
        Ok(ClientCertVerified::assertion())
    }

    fn verify_tls12_signature(
        &self,
        _: &[u8],
        _: &CertificateDer<'_>,
        _: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        Err(only_tls13())
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signed: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        verify_signature(message, certificate, signed)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        schemes()
    }
}

fn only_tls13() -> rustls::Error {
    rustls::Error::General("only TLS 1.3 is supported".to_owned())
}

fn verify_signature(
    message: &[u8],
    certificate: &CertificateDer<'_>,
    signed: &DigitallySignedStruct,
) -> Result<HandshakeSignatureValid, rustls::Error> {
    let algorithms = ring_provider::default_provider().signature_verification_algorithms;
    verify_tls13_signature(message, certificate, signed, &algorithms)
}

fn schemes() -> Vec<SignatureScheme> {
    ring_provider::default_provider()
        .signature_verification_algorithms
        .supported_schemes()
}

#[cfg(test)]
mod tests;
