//! Tests of the proofs of an identity, and of who accepts them.

use rcgen::{Issuer, KeyUsagePurpose};

use super::*;
use crate::transport::net::tests::{name, secret};

fn key_of(secret: &ClusterSecret) -> String {
    let authority = authority(secret).unwrap();
    let key = authority.key().public_key_raw();
    key.iter().map(|byte| format!("{byte:02x}")).collect()
}

#[test]
fn all_nodes_with_the_secret_derive_the_same_authority() {
    let der = |byte| authority(&secret(byte)).unwrap().der().clone();
    assert_eq!(der(7), der(7));
    assert_ne!(der(7), der(8));
    // Nodes of all versions must agree on it.
    assert_eq!(
        key_of(&secret(7)),
        "8736afe6bcaadcacaf3029ad0770125f0f32491eed0688a7f1ca97519ca46c43"
    );
}

#[test]
fn a_certificate_from_a_secret_proves_its_name_whatever_the_clock_says() {
    let long = "x".repeat(64);
    for text in [
        "master",
        "-",
        "_",
        ".a",
        "a..b",
        "A-b_c.D",
        "0",
        long.as_str(),
    ] {
        let credentials = ClusterIdentity::from_secret(&secret(7), &name(text))
            .unwrap()
            .credentials()
            .unwrap();
        let own = &credentials.chain[0];
        assert!(names(own, &name(text)), "{text}");
        for other in ["mastEr", "aster", "replog:node:master"] {
            let Ok(other) = NodeName::new(other) else {
                continue;
            };
            assert!(!names(own, &other), "{text} {other}");
        }
        for seconds in [0, 1_700_000_000, 253_402_300_800, u64::MAX] {
            let now = UnixTime::since_unix_epoch(Duration::from_secs(seconds));
            for usage in [KeyUsage::server_auth(), KeyUsage::client_auth()] {
                let checked = credentials.trust.check_chain(own, &[], now, usage);
                assert_eq!(checked, Ok(()), "{text} {seconds}");
            }
        }
    }
}

#[test]
fn a_certificate_of_another_secret_proves_nothing() {
    let of = |byte| {
        let identity = ClusterIdentity::from_secret(&secret(byte), &name("master"));
        identity.unwrap().credentials().unwrap()
    };
    let (ours, theirs) = (of(7), of(8));
    for usage in [KeyUsage::server_auth(), KeyUsage::client_auth()] {
        let checked = ours.trust.check_chain(&theirs.chain[0], &[], now(), usage);
        assert_eq!(checked, Err(CertificateError::UnknownIssuer));
    }
    // A node's certificate is not an authority.
    let key = KeyPair::generate_for(&PKCS_ED25519).unwrap();
    let node_key = KeyPair::try_from(&ours.key).unwrap();
    let issuer = Issuer::from_params(&long_lived_params("master"), node_key)
        .key()
        .serialize_der();
    let issuer_key = KeyPair::try_from(issuer).unwrap();
    let mut params = long_lived_params("rogue");
    let uri = Ia5String::try_from("replog:node:rogue".to_owned()).unwrap();
    params.subject_alt_names = vec![SanType::URI(uri)];
    let forged = params
        .signed_by(&key, &Issuer::new(long_lived_params("master"), issuer_key))
        .unwrap();
    let checked = ours.trust.check_chain(
        forged.der(),
        &[ours.chain[0].clone()],
        now(),
        KeyUsage::client_auth(),
    );
    // For this reason only: its signature is valid.
    let refused = checked.unwrap_err().to_string();
    assert!(refused.contains("EndEntityUsedAsCa"), "{refused}");
}

#[test]
fn debug_output_shows_no_secret() {
    let identity = ClusterIdentity::from_secret(&secret(0xab), &name("master")).unwrap();
    let shown = format!("{identity:?} {:?}", secret(0xab));
    assert!(!shown.contains("abab") && !shown.contains("171"), "{shown}");
}

/// A PEM section (RFC 7468).
fn pem(label: &str, der: &[u8]) -> String {
    const DIGITS: &[u8; 64] = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/";
    let mut text = format!("-----BEGIN {label}-----\n");
    for line in der.chunks(48) {
        for group in line.chunks(3) {
            let bits = (0..3).fold(0_u32, |bits, at| {
                bits << 8 | u32::from(group.get(at).copied().unwrap_or(0))
            });
            for at in 0..4 {
                let digit = char::from(DIGITS[(bits >> (18 - 6 * at) & 63) as usize]);
                text.push(if at <= group.len() { digit } else { '=' });
            }
        }
        text.push('\n');
    }
    text + &format!("-----END {label}-----\n")
}

/// An operator's authority with files of one node.
struct Operator {
    directory: tempfile::TempDir,
    authority: CertifiedIssuer<'static, KeyPair>,
}

impl Operator {
    fn new() -> Operator {
        let mut params = long_lived_params("an operator's authority");
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        params.key_usages = vec![KeyUsagePurpose::KeyCertSign];
        let authority = CertifiedIssuer::self_signed(params, KeyPair::generate().unwrap());
        let operator = Operator {
            directory: tempfile::tempdir().unwrap(),
            authority: authority.unwrap(),
        };
        fs::write(
            operator.files().ca,
            pem("CERTIFICATE", operator.authority.der()),
        )
        .unwrap();
        operator
    }

    fn files(&self) -> PemFiles {
        let at = |name| self.directory.path().join(name);
        PemFiles {
            cert: at("node.pem"),
            key: at("node.key"),
            ca: at("ca.pem"),
        }
    }

    fn issue(&self, change: impl FnOnce(&mut CertificateParams)) {
        let mut params = long_lived_params("a node");
        let dns = |name: &str| SanType::DnsName(Ia5String::try_from(name.to_owned()).unwrap());
        params.subject_alt_names = vec![dns("db-1.example.org"), dns("master")];
        change(&mut params);
        let key = KeyPair::generate().unwrap();
        let certificate = params.signed_by(&key, &self.authority).unwrap();
        fs::write(self.files().cert, pem("CERTIFICATE", certificate.der())).unwrap();
        fs::write(self.files().key, pem("PRIVATE KEY", &key.serialize_der())).unwrap();
    }

    fn load(&self, text: &str) -> Result<ClusterIdentity, String> {
        ClusterIdentity::from_pem(self.files(), &name(text)).map_err(|error| error.to_string())
    }
}

#[test]
fn an_operators_certificate_must_match_the_node_the_key_and_the_authority() {
    let operator = Operator::new();
    operator.issue(|_| {});
    operator.load("master").unwrap();
    operator.load("db-1.example.org").unwrap();
    let refused = operator.load("secondary-1").unwrap_err();
    assert!(
        refused.contains("needs the DNS name secondary-1"),
        "{refused}"
    );
    assert!(operator.load("Master").is_err());

    operator.issue(|params| params.extended_key_usages = vec![ExtendedKeyUsagePurpose::ServerAuth]);
    let refused = operator.load("master").unwrap_err();
    assert!(refused.contains("both ends"), "{refused}");

    operator.issue(|_| {});
    fs::write(
        operator.files().key,
        pem("PRIVATE KEY", &KeyPair::generate().unwrap().serialize_der()),
    )
    .unwrap();
    let refused = operator.load("master").unwrap_err();
    assert!(
        refused.contains("not the key of the certificate"),
        "{refused}"
    );

    operator.issue(|_| {});
    fs::write(
        operator.files().ca,
        pem("CERTIFICATE", Operator::new().authority.der()),
    )
    .unwrap();
    let refused = operator.load("master").unwrap_err();
    assert!(refused.contains("ca.pem"), "{refused}");

    for (file, text) in [
        (operator.files().cert, "no certificate in it"),
        (operator.files().ca, "no certificate in it"),
        (operator.files().key, "no private key"),
    ] {
        let operator = Operator::new();
        operator.issue(|_| {});
        let of_this = operator.directory.path().join(file.file_name().unwrap());
        fs::write(&of_this, "nothing").unwrap();
        let refused = operator.load("master").unwrap_err();
        assert!(refused.contains(text), "{refused}");
        fs::remove_file(&of_this).unwrap();
        let refused = operator.load("master").unwrap_err();
        assert!(refused.contains("cannot read"), "{refused}");
    }
}

#[test]
fn an_authoritys_own_certificate_is_refused_as_a_nodes() {
    let operator = Operator::new();
    let mut params = long_lived_params("an authority and a node");
    params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
    let dns = Ia5String::try_from("master".to_owned()).unwrap();
    params.subject_alt_names = vec![SanType::DnsName(dns)];
    let key = KeyPair::generate().unwrap();
    let certificate = params.self_signed(&key).unwrap();
    let files = operator.files();
    for path in [&files.cert, &files.ca] {
        fs::write(path, pem("CERTIFICATE", certificate.der())).unwrap();
    }
    fs::write(&files.key, pem("PRIVATE KEY", &key.serialize_der())).unwrap();
    let refused = operator.load("master").unwrap_err();
    assert!(refused.contains("certificate of an authority"), "{refused}");
    assert!(!refused.contains("UnknownIssuer"), "{refused}");
}

#[test]
fn a_pipe_in_place_of_a_certificate_is_refused_without_blocking() {
    let operator = Operator::new();
    operator.issue(|_| {});
    let cert = operator.files().cert;
    fs::remove_file(&cert).unwrap();
    let mode = rustix::fs::Mode::RUSR | rustix::fs::Mode::WUSR;
    rustix::fs::mknodat(rustix::fs::CWD, &cert, rustix::fs::FileType::Fifo, mode, 0).unwrap();
    let refused = operator.load("master").unwrap_err();
    assert!(refused.contains("not a file"), "{refused}");
}

#[test]
fn validity_periods_of_an_operators_certificates_are_checked() {
    let operator = Operator::new();
    // The node's own only causes a warning: the clock may be wrong.
    operator.issue(|params| params.not_after = date_time_ymd(2001, 1, 1));
    let identity = operator.load("master").unwrap();
    let credentials = identity.credentials().unwrap();
    let check = |year_2000: bool| {
        let seconds = if year_2000 {
            946_684_800
        } else {
            1_700_000_000
        };
        let now = UnixTime::since_unix_epoch(Duration::from_secs(seconds));
        credentials
            .trust
            .check_chain(&credentials.chain[0], &[], now, KeyUsage::client_auth())
    };
    assert_eq!(check(true), Ok(()));
    assert_eq!(check(false), Err(CertificateError::Expired));
}

#[test]
fn changed_files_are_read_again_and_bad_ones_are_not_used() {
    let operator = Operator::new();
    operator.issue(|_| {});
    let identity = operator.load("master").unwrap();
    let Source::Pem(files, loaded) = &*identity.source else {
        panic!("made of files");
    };
    let look = || {
        identity.reload_if_changed(files);
        Arc::clone(&loaded.lock().unwrap().credentials)
    };
    let first = look();
    assert!(Arc::ptr_eq(&first, &look()));
    fs::write(&files.cert, "half of it").unwrap();
    assert!(Arc::ptr_eq(&first, &look()));
    operator.issue(|_| {});
    let second = look();
    assert_ne!(first.chain, second.chain);
    assert!(Arc::ptr_eq(&second, &look()));
}
