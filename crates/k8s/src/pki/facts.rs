//! What a certificate says.

use std::collections::BTreeSet;
use std::net::IpAddr;

use jiff::Timestamp;
use x509_parser::extensions::{GeneralName, ParsedExtension};
use x509_parser::pem::Pem;

use super::PkiError;

/// What a certificate says, as far as rotation asks.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct CertificateFacts {
    /// Valid from.
    pub not_before: Timestamp,
    /// Valid until.
    pub not_after: Timestamp,
    /// Subject key identifier.
    pub key_id: Vec<u8>,
    /// Authority key identifier.
    pub issuer_key_id: Vec<u8>,
    /// DNS names it is valid for.
    pub dns: BTreeSet<String>,
    /// Addresses it is valid for.
    pub addresses: BTreeSet<IpAddr>,
}

/// Reads the first certificate of a PEM text; `what` names it in errors.
pub fn inspect(what: &'static str, pem: &str) -> Result<CertificateFacts, PkiError> {
    let fail = |problem: &dyn std::fmt::Display| PkiError::Parse {
        what,
        problem: problem.to_string(),
    };
    let block = Pem::iter_from_buffer(pem.as_bytes())
        .next()
        .ok_or_else(|| fail(&"it is empty"))?
        .map_err(|error| fail(&error))?;
    let certificate = block.parse_x509().map_err(|error| fail(&error))?;
    let time =
        |seconds: i64| Timestamp::from_second(seconds).map_err(|_| PkiError::Time { seconds });
    let mut facts = CertificateFacts {
        not_before: time(certificate.validity().not_before.timestamp())?,
        not_after: time(certificate.validity().not_after.timestamp())?,
        key_id: Vec::new(),
        issuer_key_id: Vec::new(),
        dns: BTreeSet::new(),
        addresses: BTreeSet::new(),
    };
    for extension in certificate.extensions() {
        match extension.parsed_extension() {
            ParsedExtension::SubjectKeyIdentifier(id) => facts.key_id = id.0.to_vec(),
            ParsedExtension::AuthorityKeyIdentifier(id) => {
                facts.issuer_key_id = id
                    .key_identifier
                    .as_ref()
                    .map(|id| id.0.to_vec())
                    .unwrap_or_default();
            }
            ParsedExtension::SubjectAlternativeName(names) => {
                for name in &names.general_names {
                    match name {
                        GeneralName::DNSName(dns) => {
                            facts.dns.insert((*dns).to_owned());
                        }
                        GeneralName::IPAddress(bytes) => {
                            if let Ok(v4) = <[u8; 4]>::try_from(*bytes) {
                                facts.addresses.insert(v4.into());
                            } else if let Ok(v6) = <[u8; 16]>::try_from(*bytes) {
                                facts.addresses.insert(v6.into());
                            }
                        }
                        _ => {}
                    }
                }
            }
            _ => {}
        }
    }
    Ok(facts)
}
