//! Certificates and keys of a cluster, made once and kept while it lives.

use std::fs;
use std::net::IpAddr;
use std::os::unix::fs::OpenOptionsExt as _;
use std::path::{Path, PathBuf};

use anyhow::{Context as _, Result};
use rcgen::{
    BasicConstraints, CertificateParams, CertifiedIssuer, DistinguishedName, DnType,
    ExtendedKeyUsagePurpose, IsCa, KeyPair, KeyUsagePurpose, SanType,
};

/// A cluster's directory of certificates.
#[derive(Debug)]
pub struct Pki {
    dir: PathBuf,
    ca: CertifiedIssuer<'static, KeyPair>,
}

/// What a certificate says.
#[derive(Debug, Clone, Copy)]
pub struct Subject<'a> {
    /// Common name: the user, for client certificates.
    pub name: &'a str,
    /// Organization: the user's group.
    pub group: Option<&'a str>,
}

impl Pki {
    /// Reads the CA, or makes one, and the key of ServiceAccount tokens.
    pub fn open(dir: &Path) -> Result<Self> {
        fs::create_dir_all(dir).with_context(|| format!("create {}", dir.display()))?;
        let mut params = CertificateParams::default();
        params.distinguished_name = distinguished(Subject {
            name: "carrick-testbed-ca",
            group: None,
        });
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        params.key_usages = vec![
            KeyUsagePurpose::KeyCertSign,
            KeyUsagePurpose::CrlSign,
            KeyUsagePurpose::DigitalSignature,
        ];
        let key = dir.join("ca.key");
        let ca = if key.exists() {
            // The name and the key make the issuer: a certificate signed anew is as good as the old
            // one, but clients hold the old one, so that stays on disk.
            let pem =
                fs::read_to_string(&key).with_context(|| format!("read {}", key.display()))?;
            CertifiedIssuer::self_signed(params, KeyPair::from_pem(&pem).context("parse ca.key")?)?
        } else {
            let pair = KeyPair::generate()?;
            let pem = pair.serialize_pem();
            let ca = CertifiedIssuer::self_signed(params, pair)?;
            public(&dir.join("ca.crt"), &ca.pem())?;
            secret(&key, &pem)?;
            ca
        };
        let accounts = dir.join("sa.key");
        if !accounts.exists() {
            let pair = KeyPair::generate()?;
            public(&dir.join("sa.pub"), &pair.public_key_pem())?;
            secret(&accounts, &pair.serialize_pem())?;
        }
        Ok(Self {
            dir: dir.to_path_buf(),
            ca,
        })
    }

    /// The path of one of its files.
    pub fn file(&self, name: &str) -> PathBuf {
        self.dir.join(name)
    }

    /// Makes `FILE.crt` and `FILE.key` unless they exist. With names or addresses it serves too.
    pub fn issue(
        &self,
        file: &str,
        subject: Subject<'_>,
        names: &[&str],
        addresses: &[IpAddr],
    ) -> Result<()> {
        let (crt, key) = (
            self.file(&format!("{file}.crt")),
            self.file(&format!("{file}.key")),
        );
        if crt.exists() && key.exists() {
            return Ok(());
        }
        let mut params = CertificateParams::default();
        params.distinguished_name = distinguished(subject);
        params.key_usages = vec![
            KeyUsagePurpose::DigitalSignature,
            KeyUsagePurpose::KeyEncipherment,
        ];
        params.extended_key_usages = vec![ExtendedKeyUsagePurpose::ClientAuth];
        for name in names {
            params
                .subject_alt_names
                .push(SanType::DnsName((*name).try_into().context("a DNS name")?));
        }
        params
            .subject_alt_names
            .extend(addresses.iter().map(|address| SanType::IpAddress(*address)));
        if !params.subject_alt_names.is_empty() {
            params
                .extended_key_usages
                .push(ExtendedKeyUsagePurpose::ServerAuth);
        }
        let pair = KeyPair::generate()?;
        let certificate = params
            .signed_by(&pair, &self.ca)
            .with_context(|| format!("sign {file}"))?;
        secret(&key, &pair.serialize_pem())?;
        public(&crt, &certificate.pem())
    }

    /// Writes `FILE.conf`, a kubeconfig with the certificate of that name inside, and returns its path.
    pub fn kubeconfig(&self, file: &str, server: &str, cluster: &str) -> Result<PathBuf> {
        let read = |name: String| {
            let path = self.file(&name);
            fs::read_to_string(&path).with_context(|| format!("read {}", path.display()))
        };
        let encode = |pem: String| base64(pem.as_bytes());
        let ca = encode(read("ca.crt".to_owned())?);
        let certificate = encode(read(format!("{file}.crt"))?);
        let key = encode(read(format!("{file}.key"))?);
        let name = format!("carrick-{cluster}");
        // JSON is YAML.
        let config = serde_json::json!({
            "apiVersion": "v1", "kind": "Config", "current-context": name,
            "clusters": [{"name": name, "cluster": {"server": server, "certificate-authority-data": ca}}],
            "users": [{"name": name, "user": {"client-certificate-data": certificate, "client-key-data": key}}],
            "contexts": [{"name": name, "context": {"cluster": name, "user": name}}],
        });
        let path = self.file(&format!("{file}.conf"));
        secret(&path, &serde_json::to_string_pretty(&config)?)?;
        Ok(path)
    }
}

fn distinguished(subject: Subject<'_>) -> DistinguishedName {
    let mut name = DistinguishedName::new();
    if let Some(group) = subject.group {
        name.push(DnType::OrganizationName, group);
    }
    name.push(DnType::CommonName, subject.name);
    name
}

fn public(path: &Path, content: &str) -> Result<()> {
    crate::exec::write(path, content)
}

fn secret(path: &Path, content: &str) -> Result<()> {
    use std::io::Write as _;
    let partial = path.with_extension("secret.partial");
    fs::remove_file(&partial).ok();
    fs::File::options()
        .write(true)
        .create_new(true)
        .mode(0o600)
        .open(&partial)
        .and_then(|mut file| file.write_all(content.as_bytes()))
        .and_then(|()| fs::rename(&partial, path))
        .with_context(|| format!("write {}", path.display()))
}

fn base64(bytes: &[u8]) -> String {
    use base64::Engine as _;
    base64::engine::general_purpose::STANDARD.encode(bytes)
}
