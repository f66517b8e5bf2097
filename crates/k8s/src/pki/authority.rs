//! Certificate authorities and the leaves they sign.

use std::collections::BTreeSet;
use std::fmt;
use std::net::IpAddr;
use std::time::Duration;

use jiff::Timestamp;
use rcgen::{
    BasicConstraints, CertificateParams, DistinguishedName, DnType, ExtendedKeyUsagePurpose, IsCa,
    Issuer, KeyPair, KeyUsagePurpose, SanType,
};

use super::PkiError;

/// Certificates begin this much before they are made: clocks of nodes differ.
const BACKDATE: Duration = Duration::from_mins(5);

/// A CA: certificate and key, as PEM. `Debug` shows no key.
#[derive(Clone, PartialEq, Eq)]
pub struct Authority {
    certificate: String,
    key: String,
}

impl fmt::Debug for Authority {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Authority")
            .field("certificate", &self.certificate)
            .finish_non_exhaustive()
    }
}

/// A serving certificate and its key, as PEM. `Debug` shows no key.
#[derive(Clone, PartialEq, Eq)]
pub struct Leaf {
    certificate: String,
    key: String,
}

impl fmt::Debug for Leaf {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Leaf")
            .field("certificate", &self.certificate)
            .finish_non_exhaustive()
    }
}

/// What a leaf is valid for.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct LeafNames {
    /// DNS names; the first is the subject.
    pub dns: BTreeSet<String>,
    /// Addresses.
    pub addresses: BTreeSet<IpAddr>,
}

fn times(
    params: &mut CertificateParams,
    now: Timestamp,
    validity: Duration,
) -> Result<(), PkiError> {
    let seconds = now.as_second();
    let epoch = rcgen::date_time_ymd(1970, 1, 1);
    // What rcgen's calendar can hold ends with the year 9999.
    let since = u64::try_from(seconds)
        .ok()
        .filter(|s| s.saturating_add(validity.as_secs()) < 253_000_000_000)
        .ok_or(PkiError::Time { seconds })?;
    let now = epoch + Duration::from_secs(since);
    params.not_before = now - BACKDATE;
    params.not_after = now + validity;
    Ok(())
}

impl Authority {
    /// Makes a CA (P-256) named `name`, valid from shortly before `now`.
    pub fn generate(name: &str, now: Timestamp, validity: Duration) -> Result<Self, PkiError> {
        let make = |source| PkiError::Make {
            what: "a CA",
            source,
        };
        let key = KeyPair::generate().map_err(make)?;
        let mut params = CertificateParams::default();
        let mut subject = DistinguishedName::new();
        subject.push(DnType::CommonName, name);
        params.distinguished_name = subject;
        params.is_ca = IsCa::Ca(BasicConstraints::Constrained(0));
        params.key_usages = vec![KeyUsagePurpose::KeyCertSign, KeyUsagePurpose::CrlSign];
        times(&mut params, now, validity)?;
        let certificate = params.self_signed(&key).map_err(make)?;
        Ok(Self {
            certificate: certificate.pem(),
            key: key.serialize_pem(),
        })
    }

    /// Takes a CA over from storage, checking that both parts parse.
    pub fn from_pem(certificate: String, key: String) -> Result<Self, PkiError> {
        super::inspect("a CA certificate", &certificate)?;
        let pair = KeyPair::from_pem(&key).map_err(|error| PkiError::Parse {
            what: "a CA key",
            problem: error.to_string(),
        })?;
        Issuer::from_ca_cert_pem(&certificate, pair).map_err(|error| PkiError::Parse {
            what: "a CA certificate",
            problem: error.to_string(),
        })?;
        Ok(Self { certificate, key })
    }

    /// The certificate, for bundles.
    #[must_use]
    pub fn certificate(&self) -> &str {
        &self.certificate
    }

    /// The key, for the Secret that keeps it.
    #[must_use]
    pub fn key(&self) -> &str {
        &self.key
    }

    /// Signs a serving certificate with a new key.
    pub fn issue(
        &self,
        names: &LeafNames,
        now: Timestamp,
        validity: Duration,
    ) -> Result<Leaf, PkiError> {
        let make = |source| PkiError::Make {
            what: "a serving certificate",
            source,
        };
        let dns: Vec<String> = names.dns.iter().cloned().collect();
        let mut params = CertificateParams::new(dns).map_err(make)?;
        params.subject_alt_names.extend(
            names
                .addresses
                .iter()
                .map(|address| SanType::IpAddress(*address)),
        );
        let mut subject = DistinguishedName::new();
        if let Some(first) = names.dns.first() {
            subject.push(DnType::CommonName, first.as_str());
        }
        params.distinguished_name = subject;
        params.is_ca = IsCa::ExplicitNoCa;
        params.use_authority_key_identifier_extension = true;
        params.key_usages = vec![KeyUsagePurpose::DigitalSignature];
        params.extended_key_usages = vec![ExtendedKeyUsagePurpose::ServerAuth];
        times(&mut params, now, validity)?;
        let signer = KeyPair::from_pem(&self.key).map_err(|error| PkiError::Parse {
            what: "a CA key",
            problem: error.to_string(),
        })?;
        let issuer = Issuer::from_ca_cert_pem(&self.certificate, signer).map_err(make)?;
        let key = KeyPair::generate().map_err(make)?;
        let certificate = params.signed_by(&key, &issuer).map_err(make)?;
        Ok(Leaf {
            certificate: certificate.pem(),
            key: key.serialize_pem(),
        })
    }
}

impl Leaf {
    /// Takes a leaf over from storage, checking that both parts parse.
    pub fn from_pem(certificate: String, key: String) -> Result<Self, PkiError> {
        super::inspect("a serving certificate", &certificate)?;
        KeyPair::from_pem(&key).map_err(|error| PkiError::Parse {
            what: "a serving certificate's key",
            problem: error.to_string(),
        })?;
        Ok(Self { certificate, key })
    }

    /// The certificate.
    #[must_use]
    pub fn certificate(&self) -> &str {
        &self.certificate
    }

    /// The key, for the Secret that keeps it.
    #[must_use]
    pub fn key(&self) -> &str {
        &self.key
    }
}
