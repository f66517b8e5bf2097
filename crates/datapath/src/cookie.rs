//! Cookies: which object a flow belongs to.
//!
//! A cookie is stable: it names the kind and the id of the object and nothing that a restart
//! changes. Layout, from the highest bit: 8 bits kind, 24 bits zero (kept for classes within a
//! kind), 32 bits id of the object in the [`IdLedger`](crate::ledger::IdLedger).

/// What kind of object a flow was made for.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
#[repr(u8)]
pub enum Kind {
    /// The pipeline itself: miss flows, gateway, tunnel. Object id 0.
    Pipeline = 0x01,
    /// Another node: routes to its pods.
    Peer = 0x02,
    /// A pod of this node.
    Pod = 0x03,
    /// A Service: its frontends and, with affinity, its endpoints.
    Service = 0x04,
    /// Flows that a Service's affinity has learned; the id is the Service's.
    Affinity = 0x05,
    /// A group of a Service. No flow has a cookie of this kind: groups have numbers.
    ServiceGroup = 0x06,
    /// A rule of a network policy, or what isolates the pods it is for.
    PolicyRule = 0x07,
    /// Flows that rules share. Object id 0.
    PolicyClause = 0x08,
}

impl Kind {
    /// Every kind.
    pub const ALL: [Self; 8] = [
        Self::Pipeline,
        Self::Peer,
        Self::Pod,
        Self::Service,
        Self::Affinity,
        Self::ServiceGroup,
        Self::PolicyRule,
        Self::PolicyClause,
    ];

    /// The kind of a cookie's highest byte, if it is one of ours.
    pub fn from_byte(byte: u8) -> Option<Self> {
        Self::ALL.into_iter().find(|kind| *kind as u8 == byte)
    }

    /// The highest id an object of this kind may have. Numbers of groups have their kind in the highest
    /// of four bytes.
    pub const fn max_id(self) -> u32 {
        match self {
            Self::ServiceGroup => 0x00ff_ffff,
            _ => u32::MAX,
        }
    }

    /// The cookies of all objects of this kind, as value and mask.
    pub const fn cookies(self) -> (u64, u64) {
        ((self as u64) << 56, 0xff << 56)
    }

    /// A short name for people.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Pipeline => "pipeline",
            Self::Peer => "peer",
            Self::Pod => "pod",
            Self::Service => "service",
            Self::Affinity => "affinity",
            Self::ServiceGroup => "service-group",
            Self::PolicyRule => "policy-rule",
            Self::PolicyClause => "policy-clause",
        }
    }
}

/// A flow's cookie, taken apart.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct CookieParts {
    /// Kind of the object.
    pub kind: Kind,
    /// Its id in the ledger; 0 for [`Kind::Pipeline`], and for flows that belong to several objects or to
    /// none ([`Kind::PolicyClause`]).
    pub object: u32,
}

impl CookieParts {
    /// Cookie of the pipeline's own flows.
    pub const PIPELINE: Self = Self {
        kind: Kind::Pipeline,
        object: 0,
    };

    /// The 64 bits as the switch holds them.
    pub const fn to_bits(self) -> u64 {
        ((self.kind as u64) << 56) | self.object as u64
    }

    /// Takes the switch's 64 bits apart; `None` when no build of ours made them.
    pub fn from_bits(bits: u64) -> Option<Self> {
        if bits >> 32 & 0x00ff_ffff != 0 {
            return None;
        }
        let [kind, ..] = bits.to_be_bytes();
        let object = u32::try_from(bits & u64::from(u32::MAX)).ok()?;
        Some(Self {
            kind: Kind::from_byte(kind)?,
            object,
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn bits_and_parts_are_one_to_one() {
        for kind in Kind::ALL {
            let parts = CookieParts {
                kind,
                object: 0xdead_beef,
            };
            assert_eq!(CookieParts::from_bits(parts.to_bits()), Some(parts));
        }
        assert_eq!(CookieParts::PIPELINE.to_bits(), 0x0100_0000_0000_0000);
    }

    #[test]
    fn foreign_cookies_are_told_apart() {
        for bits in [0, 1, 0xff00_0000_0000_0001, 0x0300_0001_0000_0001, u64::MAX] {
            assert_eq!(CookieParts::from_bits(bits), None, "{bits:#x}");
        }
    }
}
