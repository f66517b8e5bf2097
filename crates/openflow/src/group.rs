//! Groups and their modifications (OpenFlow 1.5.1 §7.3.4.3).

use crate::action::Action;
use crate::id::{BucketId, GroupId, OfPort};
use crate::match_::MaskedField;

pub(crate) mod codec;

/// How a group chooses among its buckets (`enum ofp_group_type`).
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum GroupType {
    /// All buckets, each with a copy.
    All,
    /// One bucket, by hash and weight.
    Select,
    /// The only bucket.
    Indirect,
    /// The first bucket that is alive.
    FastFailover,
}

/// A group (OpenFlow 1.5.1 §7.3.4.3, `struct ofp_group_mod`).
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct Group {
    /// Its number.
    pub id: GroupId,
    /// How it chooses.
    pub kind: GroupType,
    /// How a select group computes its hash.
    pub selection: Option<Selection>,
    /// The buckets in order.
    pub buckets: Vec<Bucket>,
}

impl Group {
    /// A group without buckets.
    pub fn new(id: GroupId, kind: GroupType) -> Self {
        Self {
            id,
            kind,
            selection: None,
            buckets: Vec::new(),
        }
    }

    /// With these buckets.
    #[must_use]
    pub fn with_buckets(mut self, buckets: Vec<Bucket>) -> Self {
        self.buckets = buckets;
        self
    }

    /// The same group with no buckets.
    pub(crate) fn without_buckets(&self) -> Self {
        Self {
            id: self.id,
            kind: self.kind,
            selection: self.selection.clone(),
            buckets: Vec::new(),
        }
    }

    /// The form in which groups are compared.
    #[must_use]
    pub fn canonical(&self) -> Self {
        let mut group = self.clone();
        crate::canonical::group(&mut group);
        group
    }
}

/// How a select group computes its hash (`struct ntr_group_prop_selection_method`,
/// include/openflow/netronome-ext.h).
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct Selection {
    /// `hash` or `dp_hash`; at most 15 bytes.
    pub method: String,
    /// Argument of the method.
    pub parameter: u64,
    /// Fields that are hashed, for `hash`: the masks say which bits; values equal the masks.
    pub fields: Vec<MaskedField>,
}

impl Selection {
    /// `selection_method=dp_hash`: by the datapath's hash of the connection.
    pub fn dp_hash() -> Self {
        Self {
            method: "dp_hash".to_owned(),
            parameter: 0,
            fields: Vec::new(),
        }
    }
}

/// A bucket of a group (OpenFlow 1.5.1 §7.3.4.3, `struct ofp_bucket`).
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct Bucket {
    /// Its number within the group.
    pub id: BucketId,
    /// Share of the traffic, for select groups.
    pub weight: Option<u16>,
    /// The port that must be up, for fast failover.
    pub watch_port: Option<OfPort>,
    /// The group that must be alive, for fast failover.
    pub watch_group: Option<GroupId>,
    /// What it does.
    pub actions: Vec<Action>,
}

impl Bucket {
    /// A bucket without weight.
    pub fn new(id: BucketId, actions: Vec<Action>) -> Self {
        Self {
            id,
            weight: None,
            watch_port: None,
            watch_group: None,
            actions,
        }
    }

    /// With this weight.
    #[must_use]
    pub fn with_weight(mut self, weight: u16) -> Self {
        self.weight = Some(weight);
        self
    }
}

/// A group modification (`enum ofp_group_mod_command`).
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum GroupMod {
    /// Adds a group that must not be there.
    Add(Group),
    /// Changes a group that must be there.
    Modify(Group),
    /// Adds or changes a group.
    AddOrModify(Group),
    /// Removes a group ([`GroupId::ALL`]: all), and the flows that send to it.
    Delete(GroupId),
    /// Inserts buckets behind the bucket `after` ([`BucketId::FIRST`]: at the front,
    /// [`BucketId::LAST`]: at the end). Not for fast failover: the message has no place for the
    /// type, and Open vSwitch refuses watched ports without it.
    InsertBuckets {
        /// The group.
        group: GroupId,
        /// Behind which bucket.
        after: BucketId,
        /// The buckets.
        buckets: Vec<Bucket>,
    },
    /// Removes a bucket ([`BucketId::ALL`]: all).
    RemoveBucket {
        /// The group.
        group: GroupId,
        /// The bucket.
        bucket: BucketId,
    },
}

/// What the switch counted of a group (OpenFlow 1.5.1 §7.3.5, `struct ofp_group_stats`).
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct GroupStats {
    /// The group.
    pub id: GroupId,
    /// Flows and groups that send to it.
    pub references: u32,
    /// Packets.
    pub packets: u64,
    /// Bytes.
    pub bytes: u64,
    /// How long it has been there.
    pub duration: std::time::Duration,
    /// Packets and bytes of each bucket.
    pub buckets: Vec<(u64, u64)>,
}
