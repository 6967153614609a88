//! Classification of failed TLS handshakes by what they reveal about the other end.
//!
//! Owns the translation of TLS errors into advice that a person can act on. Decides nothing.

use std::io;

use rustls::{AlertDescription, CertificateError, Error};

use super::ClusterIdentity;

/// The kind of a TLS failure, with a sentence about it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum TlsFailure {
    /// One end's certificate is not from the other's authority.
    OtherAuthority(String),
    /// The other end is not the expected node, or expected a node other than this one.
    OtherName(String),
    /// The other end answers, but not with TLS.
    NotTls(String),
    /// Any other failure, mostly in the words of the TLS library.
    Other(String),
}

pub(super) fn classify(error: &io::Error, own: &ClusterIdentity) -> TlsFailure {
    let tls = error
        .get_ref()
        .and_then(|inner| inner.downcast_ref::<Error>());
    match tls {
        Some(Error::InvalidCertificate(CertificateError::UnknownIssuer)) => {
            let advice = own.advice_on_another_authority();
            TlsFailure::OtherAuthority(format!("its certificate is from another cluster; {advice}"))
        }
        Some(Error::AlertReceived(AlertDescription::UnknownCA)) => {
            let advice = own.advice_on_another_authority();
            let detail =
                format!("it refuses this node's certificate as one from another cluster; {advice}");
            TlsFailure::OtherAuthority(detail)
        }
        Some(Error::InvalidCertificate(CertificateError::NotValidForNameContext {
            presented,
            ..
        })) => TlsFailure::OtherName(match presented.as_slice() {
            [] => "its certificate names no node".to_owned(),
            names => format!("its certificate proves that it is {}", names.join(" or ")),
        }),
        Some(Error::AlertReceived(AlertDescription::BadCertificate)) => {
            let own = own.name();
            let detail = format!("it expected a node other than {own} at this address");
            TlsFailure::OtherName(detail)
        }
        Some(Error::InvalidCertificate(
            error @ (CertificateError::Expired | CertificateError::NotValidYet),
        )) => TlsFailure::Other(format!(
            "its certificate is expired or not yet valid by this node's clock: {error}"
        )),
        Some(Error::AlertReceived(AlertDescription::CertificateExpired)) => TlsFailure::Other(
            "it says that this node's certificate is expired or not yet valid".to_owned(),
        ),
        Some(Error::InvalidCertificate(CertificateError::Other(why))) => {
            TlsFailure::Other(format!("its certificate cannot be used: {why}"))
        }
        Some(Error::AlertReceived(AlertDescription::CertificateUnknown)) => TlsFailure::Other(
            "it cannot use this node's certificate, and says why in its own log".to_owned(),
        ),
        Some(Error::InvalidMessage(error)) => TlsFailure::NotTls(format!("not TLS: {error:?}")),
        Some(error) => TlsFailure::Other(error.to_string()),
        None if error.kind() == io::ErrorKind::UnexpectedEof => {
            TlsFailure::Other("it closed the connection during the TLS handshake".to_owned())
        }
        None => TlsFailure::Other(error.to_string()),
    }
}
