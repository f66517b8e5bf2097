//! The controller's certificate and the CA behind it, kept in Secrets of ours.
//!
//! The CA's key is read by the operator alone; the controller mounts the leaf; agents trust the
//! bundle, in which two CAs overlap while one follows the other (`carrick_k8s::pki`).

use std::collections::BTreeSet;

use carrick_api::names::object;
use carrick_k8s::pki::rotation::{Policy, Step};
use carrick_k8s::pki::{LeafNames, Pki, PkiData, PkiError};
use jiff::Timestamp;
use tracing::{info, warn};

use crate::cluster::{Cluster, ClusterError};

/// Common name of the CA.
const CA_NAME: &str = "carrick-ca";

/// Certificates could not be made or stored.
#[derive(Debug, thiserror::Error)]
pub enum CertificatesError {
    /// They could not be made.
    #[error("cannot make the controller's certificates")]
    Make(#[source] PkiError),
    /// They could not be read or stored.
    #[error(transparent)]
    Cluster(#[from] ClusterError),
}

/// The certificates of the moment.
#[derive(Debug)]
pub struct Certificates {
    /// What agents trust, PEM.
    pub bundle: String,
    /// When to look again.
    pub until: Timestamp,
    /// Data of the leaf's Secret when it has to be stored: after the bundle, which must be known
    /// first.
    leaf: Option<PkiData>,
}

/// Reads the certificates, does what is due, and stores the CA.
pub async fn ensure(cluster: &Cluster, now: Timestamp) -> Result<Certificates, CertificatesError> {
    let ca = cluster.secret(object::CA).await?;
    let leaf = cluster.secret(object::CONTROLLER_TLS).await?;
    let (pki, aside) = Pki::load(&ca, &leaf);
    for problem in aside {
        warn!(
            problem = problem.problem,
            "a stored certificate cannot be used and is made anew"
        );
    }
    let names = LeafNames {
        dns: BTreeSet::from([object::CONTROLLER.to_owned()]),
        addresses: BTreeSet::new(),
    };
    let (pki, steps, until) = pki
        .advance(CA_NAME, &names, now, &Policy::default())
        .map_err(CertificatesError::Make)?;
    for step in &steps {
        match step {
            Step::CreateAuthority => info!("made a certificate authority"),
            Step::Introduce => info!("introduced the next certificate authority"),
            Step::Promote => info!("the next certificate authority signs from now on"),
            Step::Drop => info!("dropped the previous certificate authority"),
            Step::Issue(reason) => info!(?reason, "signed a certificate for the controller"),
            Step::Wait { .. } => {}
        }
    }
    if pki.ca_data() != ca {
        cluster
            .put_secret(object::CA, "Opaque", pki.ca_data())
            .await?;
    }
    let leaf_data = pki.leaf_data();
    Ok(Certificates {
        bundle: pki.bundle(),
        until,
        leaf: (leaf_data != leaf).then_some(leaf_data),
    })
}

/// Stores the leaf. Called after the bundle was applied.
pub async fn publish(
    cluster: &Cluster,
    certificates: &mut Certificates,
) -> Result<(), ClusterError> {
    if let Some(leaf) = &certificates.leaf {
        cluster
            .put_secret(object::CONTROLLER_TLS, "kubernetes.io/tls", leaf.clone())
            .await?;
        certificates.leaf = None;
    }
    Ok(())
}
