//! Groups by difference: who is new and who is gone, and the hash of what the group is afterwards.

use carrick_policy::{GroupKey, MemberKey, Members, NamedPort};
use prost::Message as _;
use sha2::{Digest, Sha256};

use crate::entry::ContentHash;
use crate::invalid::{Invalid, at_most};
use crate::limits;
use crate::policy::{group_key, member_key, member_to_wire, members_from_wire, members_to_wire};
use crate::v1;

/// The hash of a group's content, kept while members come and go: the sum of the hashes of its key and of
/// its members, so that one member costs one SHA-256 whatever the group's size.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct GroupHash(u128);

impl GroupHash {
    /// Of a group without members.
    #[must_use]
    pub fn new(group: &GroupKey) -> Self {
        Self(hash_of(group.to_string().as_bytes()))
    }

    /// Of a group with these members.
    #[must_use]
    pub fn of(group: &GroupKey, members: &Members) -> Self {
        let mut hash = Self::new(group);
        for (member, ports) in members {
            hash.add(member, ports);
        }
        hash
    }

    /// Of a group whose record has this hash.
    #[must_use]
    pub const fn resume(hash: ContentHash) -> Self {
        Self(u128::from_be_bytes(*hash.as_bytes()))
    }

    /// A member is there that was not.
    pub fn add(&mut self, member: &MemberKey, ports: &[NamedPort]) {
        self.0 = self.0.wrapping_add(member_hash(member, ports));
    }

    /// A member is gone that was there with these ports.
    pub fn remove(&mut self, member: &MemberKey, ports: &[NamedPort]) {
        self.0 = self.0.wrapping_sub(member_hash(member, ports));
    }

    /// The hash of the group's record.
    #[must_use]
    pub const fn content_hash(self) -> ContentHash {
        ContentHash::from_bytes(self.0.to_be_bytes())
    }
}

fn member_hash(member: &MemberKey, ports: &[NamedPort]) -> u128 {
    hash_of(&member_to_wire(member, ports).encode_to_vec())
}

fn hash_of(bytes: &[u8]) -> u128 {
    let digest: [u8; 32] = Sha256::digest(bytes).into();
    let mut hash = [0; 16];
    hash.copy_from_slice(&digest[..16]);
    u128::from_be_bytes(hash)
}

/// What changes of a group ([`v1::GroupDifference`]).
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct GroupDifference {
    /// Which group.
    pub group: GroupKey,
    /// The hash of its content afterwards.
    pub hash: ContentHash,
    /// Who is gone.
    pub removed: Vec<MemberKey>,
    /// Who is new, or calls its ports otherwise.
    pub added: Members,
}

impl GroupDifference {
    /// The message for this difference.
    #[must_use]
    pub fn to_wire(&self) -> v1::GroupDifference {
        let removed = self.removed.iter();
        v1::GroupDifference {
            group: self.group.to_string(),
            hash: self.hash.as_bytes().to_vec(),
            added: members_to_wire(&self.added),
            removed: removed.map(|member| member_to_wire(member, &[])).collect(),
        }
    }
}

impl TryFrom<v1::GroupDifference> for GroupDifference {
    type Error = Invalid;

    fn try_from(wire: v1::GroupDifference) -> Result<Self, Invalid> {
        at_most("removed", wire.removed.len(), limits::MEMBERS)?;
        let removed = wire.removed.iter().map(|member| {
            if !member.ports.is_empty() {
                let found = member.ports.len();
                let field = "removed.ports";
                return Err(Invalid::TooLarge {
                    field,
                    found,
                    limit: 0,
                });
            }
            member_key(member)
        });
        Ok(Self {
            group: group_key(&wire.group)?,
            hash: ContentHash::try_from(wire.hash.as_slice())?,
            removed: removed.collect::<Result<_, _>>()?,
            added: members_from_wire(wire.added)?,
        })
    }
}
