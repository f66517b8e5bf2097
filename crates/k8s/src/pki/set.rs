//! Everything that is kept about a component's certificates.

use std::collections::BTreeMap;

use jiff::Timestamp;

use super::rotation::{Policy, Step, View, next_step};
use super::{Authority, Leaf, LeafNames, PkiError, inspect};

/// `data` of a Secret.
pub type PkiData = BTreeMap<String, Vec<u8>>;

/// More steps than any state needs; a guard against a rotation that turns in a circle.
const MOST_STEPS: usize = 8;

/// The CAs and the leaf. Stored in two Secrets: [`Pki::ca_data`] (operator only) and
/// [`Pki::leaf_data`] (mounted by the server); the bundle goes into a ConfigMap.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Pki {
    current: Option<Authority>,
    next: Option<(Authority, Timestamp)>,
    previous: Option<(String, Timestamp)>,
    leaf: Option<Leaf>,
}

/// What stands in the data for one part but cannot be used, for a warning; it is made anew.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SetAside {
    /// Why.
    pub problem: String,
}

impl Pki {
    /// Reads what the two Secrets hold. What cannot be used is left out and named: a rotation then
    /// makes it anew.
    #[must_use]
    pub fn load(ca: &PkiData, leaf: &PkiData) -> (Self, Vec<SetAside>) {
        let mut aside = Vec::new();
        let mut note = |problem: String| aside.push(SetAside { problem });
        let mut keep = |result: Result<Authority, PkiError>| match result {
            Ok(authority) => Some(authority),
            Err(error) => {
                note(error.to_string());
                None
            }
        };
        let current = pair(ca, "tls.crt", "tls.key")
            .and_then(|(certificate, key)| keep(Authority::from_pem(certificate, key)));
        let next = pair(ca, "next.crt", "next.key")
            .and_then(|(certificate, key)| keep(Authority::from_pem(certificate, key)))
            .zip(time(ca, "next.introduced"));
        let previous = text(ca, "previous.crt").zip(time(ca, "previous.retired"));
        let previous = match previous {
            Some((certificate, retired)) => match inspect("the previous CA", &certificate) {
                Ok(_) => Some((certificate, retired)),
                Err(error) => {
                    note(error.to_string());
                    None
                }
            },
            None => None,
        };
        let leaf = match pair(leaf, "tls.crt", "tls.key").map(|(c, k)| Leaf::from_pem(c, k)) {
            Some(Ok(leaf)) => Some(leaf),
            Some(Err(error)) => {
                note(error.to_string());
                None
            }
            None => None,
        };
        (
            Self {
                current,
                next,
                previous,
                leaf,
            },
            aside,
        )
    }

    /// What the Secret with the CA must hold.
    #[must_use]
    pub fn ca_data(&self) -> PkiData {
        let mut data = PkiData::new();
        let mut put =
            |key: &str, value: &str| data.insert(key.to_owned(), value.as_bytes().to_vec());
        if let Some(current) = &self.current {
            put("tls.crt", current.certificate());
            put("tls.key", current.key());
        }
        if let Some((next, introduced)) = &self.next {
            put("next.crt", next.certificate());
            put("next.key", next.key());
            put("next.introduced", &introduced.to_string());
        }
        if let Some((certificate, retired)) = &self.previous {
            put("previous.crt", certificate);
            put("previous.retired", &retired.to_string());
        }
        data
    }

    /// What the Secret with the serving certificate must hold (`kubernetes.io/tls`).
    #[must_use]
    pub fn leaf_data(&self) -> PkiData {
        let mut data = PkiData::new();
        if let Some(leaf) = &self.leaf {
            data.insert("tls.crt".to_owned(), leaf.certificate().as_bytes().to_vec());
            data.insert("tls.key".to_owned(), leaf.key().as_bytes().to_vec());
        }
        data
    }

    /// The certificates clients trust, as one PEM text.
    #[must_use]
    pub fn bundle(&self) -> String {
        let parts = [
            self.current.as_ref().map(Authority::certificate),
            self.next.as_ref().map(|(next, _)| next.certificate()),
            self.previous
                .as_ref()
                .map(|(certificate, _)| certificate.as_str()),
        ];
        let mut bundle = String::new();
        for part in parts.into_iter().flatten() {
            bundle.push_str(part.trim_end());
            bundle.push('\n');
        }
        bundle
    }

    fn view(&self) -> View {
        // What was stored was inspected when it was loaded; what does not parse counts as absent.
        let facts = |pem: &str| inspect("a stored certificate", pem).ok();
        View {
            current: self.current.as_ref().and_then(|ca| facts(ca.certificate())),
            next: self
                .next
                .as_ref()
                .and_then(|(ca, _)| facts(ca.certificate())),
            introduced: self.next.as_ref().map(|(_, introduced)| *introduced),
            previous: self.previous.as_ref().and_then(|(pem, _)| facts(pem)),
            retired: self.previous.as_ref().map(|(_, retired)| *retired),
            leaf: self
                .leaf
                .as_ref()
                .and_then(|leaf| facts(leaf.certificate())),
        }
    }

    /// Does everything that is due at `now` and says what it did and when to come again. `name` is
    /// the CA's common name. The caller stores the bundle *before* the leaf.
    pub fn advance(
        mut self,
        name: &str,
        names: &LeafNames,
        now: Timestamp,
        policy: &Policy,
    ) -> Result<(Self, Vec<Step>, Timestamp), PkiError> {
        let mut done = Vec::new();
        for _ in 0..MOST_STEPS {
            let step = next_step(&self.view(), names, now, policy);
            match step {
                Step::Wait { until } => return Ok((self, done, until)),
                Step::CreateAuthority => {
                    self = Self {
                        current: Some(Authority::generate(name, now, policy.ca_validity)?),
                        ..Self::default()
                    };
                }
                Step::Introduce => {
                    let next = Authority::generate(name, now, policy.ca_validity)?;
                    self.next = Some((next, now));
                }
                Step::Promote => {
                    if let Some((next, _)) = self.next.take() {
                        self.previous = self
                            .current
                            .replace(next)
                            .map(|old| (old.certificate().to_owned(), now));
                    }
                }
                Step::Drop => self.previous = None,
                Step::Issue(_) => {
                    if let Some(current) = &self.current {
                        self.leaf = Some(current.issue(names, now, policy.leaf_validity)?);
                    }
                }
            }
            done.push(step);
        }
        Ok((self, done, now))
    }
}

fn text(data: &PkiData, key: &str) -> Option<String> {
    data.get(key)
        .and_then(|bytes| String::from_utf8(bytes.clone()).ok())
}

fn pair(data: &PkiData, certificate: &str, key: &str) -> Option<(String, String)> {
    text(data, certificate).zip(text(data, key))
}

fn time(data: &PkiData, key: &str) -> Option<Timestamp> {
    text(data, key).and_then(|text| text.trim().parse().ok())
}

#[cfg(test)]
mod tests {
    use super::super::rotation::LeafReason;
    use super::*;
    use std::time::Duration;

    fn at(day: i64) -> Timestamp {
        Timestamp::from_second(1_800_000_000 + day * 86_400).unwrap()
    }

    fn names() -> LeafNames {
        LeafNames {
            dns: ["carrick-controller".to_owned()].into(),
            addresses: [].into(),
        }
    }

    fn advance(pki: Pki, now: Timestamp) -> (Pki, Vec<Step>, Timestamp) {
        pki.advance("carrick", &names(), now, &Policy::default())
            .unwrap()
    }

    #[test]
    fn a_first_start_makes_a_ca_and_a_leaf() {
        let (pki, done, until) = advance(Pki::default(), at(0));
        assert_eq!(
            done,
            [Step::CreateAuthority, Step::Issue(LeafReason::Missing)]
        );
        assert!(until > at(200) && until < at(300), "{until}");
        let (loaded, aside) = Pki::load(&pki.ca_data(), &pki.leaf_data());
        assert_eq!((loaded, aside), (pki.clone(), vec![]));
        assert_eq!(advance(pki, at(1)).1, []);
    }

    #[test]
    fn a_leaf_is_signed_again_when_it_ages_or_its_names_change() {
        let (pki, ..) = advance(Pki::default(), at(0));
        let (pki, done, _) = advance(pki, at(250));
        assert_eq!(done, [Step::Issue(LeafReason::Aged)]);
        let more = LeafNames {
            addresses: ["192.0.2.1".parse().unwrap()].into(),
            ..names()
        };
        let (_, done, _) = pki
            .advance("carrick", &more, at(251), &Policy::default())
            .unwrap();
        assert_eq!(done, [Step::Issue(LeafReason::Names)]);
    }

    #[test]
    fn a_new_ca_is_trusted_before_it_signs_and_the_old_one_after() {
        let hour = |h: i64| Timestamp::from_second(at(2500).as_second() + h * 3600).unwrap();
        let (pki, ..) = advance(Pki::default(), at(0));
        let first = pki.bundle();
        let (pki, done, until) = advance(pki, hour(0));
        assert_eq!(done, [Step::Introduce, Step::Issue(LeafReason::Aged)]);
        assert_eq!(until, hour(1));
        let two = pki.bundle();
        assert!(two.starts_with(&first) && two.matches("BEGIN CERTIFICATE").count() == 2);

        let (pki, done, _) = advance(pki, hour(1));
        assert_eq!(done, [Step::Promote, Step::Issue(LeafReason::Authority)]);
        assert_eq!(pki.bundle().matches("BEGIN CERTIFICATE").count(), 2);

        let (pki, done, _) = advance(pki, hour(2));
        assert_eq!(done, [Step::Drop]);
        assert!(two.ends_with(&pki.bundle()));
    }

    #[test]
    fn what_cannot_be_read_is_named_and_made_anew() {
        let (pki, ..) = advance(Pki::default(), at(0));
        let mut data = pki.ca_data();
        data.insert("tls.key".into(), b"garbage".to_vec());
        let (loaded, aside) = Pki::load(&data, &pki.leaf_data());
        assert_eq!(aside.len(), 1);
        assert!(!aside[0].problem.contains("garbage"));
        let (_, done, _) = advance(loaded, at(1));
        assert_eq!(
            done,
            [Step::CreateAuthority, Step::Issue(LeafReason::Missing)]
        );
    }

    #[test]
    fn keys_are_not_shown() {
        let (pki, ..) = advance(Pki::default(), at(0));
        assert!(!format!("{pki:?}").contains("PRIVATE"));
    }

    #[test]
    fn a_short_lived_policy_ends() {
        let policy = Policy {
            ca_validity: Duration::from_secs(2),
            leaf_validity: Duration::from_secs(2),
            overlap: Duration::ZERO,
        };
        // Backdating makes such certificates old at birth; the rotation must still return.
        assert!(
            Pki::default()
                .advance("x", &names(), at(0), &policy)
                .is_ok()
        );
    }
}
