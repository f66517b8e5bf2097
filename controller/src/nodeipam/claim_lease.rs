//! The Lease `carrick-node-ipam`: who allocates, and what it is about to write.
//!
//! A CIDR is written to a Node only after a claim for it stands here, and every write here is one
//! that fails if somebody else wrote since (resourceVersion). See [`crate::nodeipam`] for why no
//! two leaders can give one CIDR to two nodes then.

use std::collections::BTreeMap;
use std::time::Duration;

use carrick_api::names::object;
use carrick_k8s::client::{CallError, timely};
use carrick_k8s::elector::EPOCH_ANNOTATION;
use ipnet::IpNet;
use jiff::Timestamp;
use k8s_openapi::api::coordination::v1::{Lease, LeaseSpec};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::{MicroTime, ObjectMeta};
use kube::api::PostParams;
use kube::{Api, Client};
use serde::{Deserialize, Serialize};

/// Annotation with the claims as JSON.
const CLAIMS_ANNOTATION: &str = "carrick.dev/node-cidr-claims";
/// How long one request may take.
const PATIENCE: Duration = Duration::from_secs(10);

/// One claim.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Claimed {
    /// The Node's name.
    pub node: String,
    /// What it is to get.
    #[serde(rename = "podCIDRs")]
    pub pod_cidrs: Vec<IpNet>,
}

/// Claims by the UID of the Node's registration.
pub type ClaimsByUid = BTreeMap<String, Claimed>;

/// Claims could not be read or written.
#[derive(Debug, thiserror::Error)]
pub enum ClaimError {
    /// A leader of a higher epoch allocates, or did before the leader's Lease was lost.
    #[error("the Lease {} is held for the higher epoch {epoch}", object::NODE_IPAM)]
    Superseded {
        /// That epoch.
        epoch: u64,
    },
    /// Somebody else wrote it first.
    #[error("the Lease {} was written by somebody else", object::NODE_IPAM)]
    Lost,
    /// It does not say what it should.
    #[error(
        "the claims in the Lease {} cannot be read (annotation {CLAIMS_ANNOTATION}): with all controllers scaled \
         down, delete the Lease",
        object::NODE_IPAM
    )]
    Damaged(#[source] serde_json::Error),
    /// Claims could not be expressed.
    #[error("claims cannot be written as JSON")]
    Unwritable(#[source] serde_json::Error),
    /// A request failed.
    #[error("cannot {verb} the Lease {}", object::NODE_IPAM)]
    Request {
        /// What was attempted.
        verb: &'static str,
        /// The cause.
        #[source]
        source: CallError,
    },
}

/// The Lease in our hands, as it was when we wrote it last.
#[derive(Debug)]
pub struct ClaimLease {
    api: Api<Lease>,
    lease: Lease,
    claims: ClaimsByUid,
}

impl ClaimLease {
    /// Makes it ours by writing it: from then on no other replica can add a claim. The claims in
    /// it stay.
    pub async fn take(
        client: Client,
        namespace: &str,
        identity: &str,
        epoch: u64,
    ) -> Result<Self, ClaimError> {
        let api: Api<Lease> = Api::namespaced(client, namespace);
        let request = api.get_opt(object::NODE_IPAM);
        let read = timely("reading the claims", PATIENCE, request).await;
        let read = read.map_err(|source| ClaimError::Request {
            verb: "read",
            source,
        })?;
        let (there, claims) = match &read {
            None => (0, ClaimsByUid::new()),
            Some(lease) => (epoch_of(lease), claims_of(lease)?),
        };
        if there > epoch {
            return Err(ClaimError::Superseded { epoch: there });
        }
        let mut lease = read.unwrap_or_else(|| Lease {
            metadata: ObjectMeta {
                name: Some(object::NODE_IPAM.to_owned()),
                namespace: Some(namespace.to_owned()),
                ..ObjectMeta::default()
            },
            spec: None,
        });
        let spec = lease.spec.get_or_insert_with(LeaseSpec::default);
        if there != epoch {
            spec.acquire_time = Some(MicroTime(Timestamp::now()));
        }
        spec.holder_identity = Some(identity.to_owned());
        let annotations = lease.metadata.annotations.get_or_insert_default();
        annotations.insert(EPOCH_ANNOTATION.to_owned(), epoch.to_string());
        let mut taken = Self { api, lease, claims };
        taken.write(taken.claims.clone()).await?;
        Ok(taken)
    }

    /// The claims that stand.
    #[must_use]
    pub fn claims(&self) -> &ClaimsByUid {
        &self.claims
    }

    /// Replaces the claims. After an error nobody knows what stands: take it anew.
    pub async fn write(&mut self, claims: ClaimsByUid) -> Result<(), ClaimError> {
        let text = serde_json::to_string(&claims).map_err(ClaimError::Unwritable)?;
        let mut lease = self.lease.clone();
        let annotations = lease.metadata.annotations.get_or_insert_default();
        annotations.insert(CLAIMS_ANNOTATION.to_owned(), text);
        let spec = lease.spec.get_or_insert_with(LeaseSpec::default);
        // Changes with every write, so that none leaves the resourceVersion as it was.
        spec.renew_time = Some(MicroTime(Timestamp::now()));
        let params = PostParams::default();
        let answer = if lease.metadata.resource_version.is_none() {
            let request = self.api.create(&params, &lease);
            timely("creating the claims", PATIENCE, request).await
        } else {
            let request = self.api.replace(object::NODE_IPAM, &params, &lease);
            timely("writing the claims", PATIENCE, request).await
        };
        match answer {
            Ok(lease) => {
                self.lease = lease;
                self.claims = claims;
                Ok(())
            }
            Err(error) if matches!(error.status(), Some(404 | 409)) => Err(ClaimError::Lost),
            Err(source) => Err(ClaimError::Request {
                verb: "write",
                source,
            }),
        }
    }
}

fn epoch_of(lease: &Lease) -> u64 {
    let annotations = lease.metadata.annotations.as_ref();
    annotations
        .and_then(|all| all.get(EPOCH_ANNOTATION))
        .and_then(|text| text.parse().ok())
        .unwrap_or(0)
}

fn claims_of(lease: &Lease) -> Result<ClaimsByUid, ClaimError> {
    let annotations = lease.metadata.annotations.as_ref();
    match annotations.and_then(|all| all.get(CLAIMS_ANNOTATION)) {
        Some(text) => serde_json::from_str(text).map_err(ClaimError::Damaged),
        None => Ok(ClaimsByUid::new()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::collections::BTreeMap;

    fn lease(annotations: &[(&str, &str)]) -> Lease {
        let annotations: BTreeMap<String, String> = annotations
            .iter()
            .map(|(key, value)| ((*key).to_owned(), (*value).to_owned()))
            .collect();
        Lease {
            metadata: ObjectMeta {
                annotations: Some(annotations),
                ..ObjectMeta::default()
            },
            spec: None,
        }
    }

    #[test]
    fn claims_are_read_as_they_are_written() {
        let claims = ClaimsByUid::from([(
            "u".to_owned(),
            Claimed {
                node: "a".into(),
                pod_cidrs: vec!["10.0.0.0/24".parse().unwrap(), "fd00::/64".parse().unwrap()],
            },
        )]);
        let text = serde_json::to_string(&claims).unwrap();
        assert_eq!(
            text,
            r#"{"u":{"node":"a","podCIDRs":["10.0.0.0/24","fd00::/64"]}}"#
        );
        let there = lease(&[(CLAIMS_ANNOTATION, &text), (EPOCH_ANNOTATION, "7")]);
        assert_eq!(claims_of(&there).unwrap(), claims);
        assert_eq!(epoch_of(&there), 7);
        assert_eq!(claims_of(&lease(&[])).unwrap(), ClaimsByUid::new());
    }

    /// Taking damaged claims for none could give a CIDR away that is about to be written.
    #[test]
    fn damaged_claims_are_an_error_with_its_mend() {
        let there = lease(&[(CLAIMS_ANNOTATION, "{")]);
        let error = claims_of(&there).unwrap_err().to_string();
        assert!(error.contains("delete the Lease"), "{error}");
    }
}
