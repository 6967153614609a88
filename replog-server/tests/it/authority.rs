//! Nodes that prove who they are with certificates of an operator's own authority.

use std::{fs, path::PathBuf};

use base64::{Engine as _, prelude::BASE64_STANDARD};
use rcgen::{
    BasicConstraints, CertificateParams, CertifiedIssuer, DnType, IsCa, KeyPair, KeyUsagePurpose,
    SanType, string::Ia5String,
};
use serde_json::Value;
use tempfile::TempDir;

use crate::nodes::{Cluster, Node, Process, eventually};

/// An operator's authority.
struct Authority(CertifiedIssuer<'static, KeyPair>);

impl Authority {
    fn new(name: &str) -> Authority {
        let mut params = CertificateParams::default();
        params.distinguished_name.push(DnType::CommonName, name);
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        params.key_usages = vec![KeyUsagePurpose::KeyCertSign];
        let key = KeyPair::generate().expect("a key");
        Authority(CertifiedIssuer::self_signed(params, key).expect("a certificate"))
    }

    fn pem(&self) -> String {
        pem("CERTIFICATE", self.0.der())
    }
}

fn pem(label: &str, der: &[u8]) -> String {
    let text = BASE64_STANDARD.encode(der);
    let lines: Vec<&str> = (0..text.len())
        .step_by(64)
        .map(|at| &text[at..text.len().min(at + 64)])
        .collect();
    let body = lines.join("\n");
    format!("-----BEGIN {label}-----\n{body}\n-----END {label}-----\n")
}

/// The files of the nodes; each node has its own.
struct Files(TempDir);

impl Files {
    fn at(&self, node: &str, file: &str) -> PathBuf {
        self.0.path().join(format!("{node}.{file}"))
    }

    /// Replaces a node's certificate with one for this name.
    fn issue(&self, node: &str, name: &str, authority: &Authority) {
        let mut params = CertificateParams::default();
        let dns = Ia5String::try_from(name.to_owned()).expect("ASCII");
        params.subject_alt_names = vec![SanType::DnsName(dns)];
        let key = KeyPair::generate().expect("a key");
        let certificate = params.signed_by(&key, &authority.0).expect("signed");
        let write = |file: &str, text: String| {
            let new = self.at(node, "new");
            fs::write(&new, text).expect("room for it");
            fs::rename(new, self.at(node, file)).expect("it is there");
        };
        write("crt", pem("CERTIFICATE", certificate.der()));
        write("key", pem("PRIVATE KEY", &key.serialize_der()));
    }

    /// Sets the authority whose certificates a node believes.
    fn trust(&self, node: &str, authorities: &[&Authority]) {
        let text: String = authorities.iter().map(|one| one.pem()).collect();
        fs::write(self.at(node, "ca"), text).expect("room for it");
    }

    fn add_flags(&self, node: &mut Node) {
        let name = node.name.clone();
        let flags = [
            ("--cluster-cert", "crt"),
            ("--cluster-key", "key"),
            ("--cluster-ca", "ca"),
        ];
        for (flag, file) in flags {
            node.add_flag(flag);
            node.add_flag(&self.at(&name, file).display().to_string());
        }
    }
}

/// Prepares a master and a secondary with certificates of this authority, and starts neither.
fn prepared(authority: &Authority) -> (Cluster, Files) {
    let mut cluster = Cluster::prepare(1, &[]);
    let files = Files(TempDir::new().expect("a temporary directory"));
    for node in [&mut cluster.master, &mut cluster.secondaries[0]] {
        files.issue(&node.name, &node.name, authority);
        files.trust(&node.name, &[authority]);
        files.add_flags(node);
    }
    (cluster, files)
}

fn secondary_is(cluster: &Cluster, member: &str, wanted: &str) {
    eventually(wanted, || {
        let health = cluster.master.health();
        (health["secondaries"][0][member] == wanted).then_some(())
    });
}

#[test]
fn certificates_and_their_authority_are_renewed_while_the_master_runs() {
    let (old, new) = (Authority::new("old"), Authority::new("new"));
    let (mut cluster, files) = prepared(&old);
    cluster.secondaries[0].start();
    cluster.master.start();
    cluster.wait_read_write();
    assert_eq!(cluster.append("by the old authority", 2).status, 201);
    assert!(!cluster.secret_file().exists(), "no secret is made");

    // The master reloads the authority that it believes.
    files.trust("master", &[&old, &new]);
    cluster.secondaries[0].terminate();
    // Its own certificate must be of an authority that it believes.
    files.trust("secondary-1", &[&old, &new]);
    files.issue("secondary-1", "secondary-1", &new);
    cluster.secondaries[0].start();
    secondary_is(&cluster, "status", "Healthy");
    assert_eq!(cluster.append("by both", 2).status, 201);

    // And its own certificate: the secondary believes only the new authority.
    files.issue("master", "master", &new);
    files.trust("master", &[&new]);
    cluster.secondaries[0].terminate();
    files.trust("secondary-1", &[&new]);
    cluster.secondaries[0].start();
    secondary_is(&cluster, "status", "Healthy");
    assert_eq!(cluster.append("by the new one", 2).status, 201);
    let expected: Vec<Value> = ["by the old authority", "by both", "by the new one"]
        .map(Value::from)
        .to_vec();
    cluster.wait_equal();
    assert_eq!(cluster.secondaries[0].data(), expected);
}

#[test]
fn a_certificate_with_another_name_is_refused_by_its_own_node_and_by_others() {
    let authority = Authority::new("an operator");
    let (mut cluster, files) = prepared(&authority);
    files.issue("secondary-1", "secondary-9", &authority);
    cluster.secondaries[0].launch();
    let mut process = cluster.secondaries[0].take();
    assert_eq!(process.wait().code(), Some(1));
    let log = process.log_text();
    assert!(log.contains("needs the DNS name secondary-1"), "{log}");

    // A node that accepts its own certificate, at an address where another node is expected.
    let place = cluster.secondaries[0].cluster_address.to_string();
    let at = |file: &str| files.at("secondary-1", file).display().to_string();
    let (data, crt, key, ca) = (at("data"), at("crt"), at("key"), at("ca"));
    let args = [
        ["secondary", "--name", "secondary-9"].as_slice(),
        &[
            "--listen",
            "127.0.0.1:0",
            "--cluster-listen",
            &place,
            "--data-dir",
            &data,
        ],
        &[
            "--cluster-cert",
            &crt,
            "--cluster-key",
            &key,
            "--cluster-ca",
            &ca,
        ],
    ]
    .concat();
    let other = Process::start(&args, &files.at("secondary-9", "log"));
    other.line();
    cluster.master.start();
    secondary_is(&cluster, "reason", "wrong_node");
    assert_eq!(cluster.master.health()["mode"], "recovering");
    assert_eq!(other.terminate().code(), Some(0));

    // And a certificate of an unknown authority with the same name.
    let stranger = Authority::new("an operator");
    files.issue("secondary-1", "secondary-9", &stranger);
    files.trust("secondary-1", &[&stranger]);
    let other = Process::start(&args, &files.at("secondary-9", "log"));
    other.line();
    secondary_is(&cluster, "reason", "wrong_secret");
}
