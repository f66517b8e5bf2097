//! Links: looking at them, veth pairs, up and down, MTU, MAC.

use std::os::fd::AsRawFd;
use std::time::Duration;

use netlink_packet_core::{NLM_F_CREATE, NLM_F_EXCL};
use netlink_packet_route::RouteNetlinkMessage;
use netlink_packet_route::link::{
    AfSpecInet6, AfSpecUnspec, In6AddrGenMode, InfoData, InfoKind, InfoVeth, LinkAttribute,
    LinkExtentMask, LinkFlags, LinkInfo, LinkMessage,
};
use nix::errno::Errno;
use serde::{Deserialize, Serialize};

use crate::mac::MacAddr;
use crate::namespace::Namespace;
use crate::netlink::{Netlink, NetlinkError};

/// The group of links (`IFLA_GROUP`, "link group" of ip-link(8)) that are about to be deleted: "carr".
/// Nobody else's link is in it.
const DOOMED: u32 = 0x6361_7272;

/// An interface index.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct LinkIndex(pub u32);

/// A network interface as the kernel tells of it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Link {
    /// Its index.
    pub index: LinkIndex,
    /// Its name.
    pub name: String,
    /// Its Ethernet address; `None` when it has none.
    pub mac: Option<MacAddr>,
    /// Its MTU.
    pub mtu: u32,
    /// Whether it was set up (`IFF_UP`), which says nothing about a carrier.
    pub up: bool,
    /// Whether it is up and has a carrier (`IFF_RUNNING`).
    pub running: bool,
    /// Its kind (`veth`, `geneve`, …); empty for hardware.
    pub kind: String,
    /// Its alias; empty without one.
    pub alias: String,
    /// Index of the link it is bound to, maybe in another namespace: the other end of a veth.
    #[serde(default)]
    pub peer: Option<LinkIndex>,
    /// Index of its bridge, bond or switch.
    pub controller: Option<LinkIndex>,
}

/// A veth pair to make: the host's end here, the peer in another namespace.
#[derive(Debug, Clone)]
pub struct VethSpec<'a> {
    /// Name of the host's end.
    pub host: &'a str,
    /// Alias of the host's end: at most 255 bytes; empty for none.
    pub alias: &'a str,
    /// Name of the end inside `namespace`.
    pub peer: &'a str,
    /// MAC of the end inside `namespace`.
    pub peer_mac: MacAddr,
    /// MTU of both ends.
    pub mtu: u32,
    /// Where the peer goes.
    pub namespace: &'a Namespace,
}

/// How a link makes its IPv6 link-local address (`IFLA_INET6_ADDR_GEN_MODE`).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum AddrGenMode {
    /// From its MAC.
    Eui64,
    /// None is made.
    None,
}

/// Up or down.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum AdminState {
    /// Up.
    Up,
    /// Down.
    Down,
}

impl Netlink {
    /// All links, by index.
    pub async fn links(&self) -> Result<Vec<Link>, NetlinkError> {
        let mut request = LinkMessage::default();
        // Counters are most of what the kernel would tell of a link.
        let without = vec![LinkExtentMask::SkipStats];
        request.attributes.push(LinkAttribute::ExtMask(without));
        let messages = self
            .dump(RouteNetlinkMessage::GetLink(request), || {
                "listing links".into()
            })
            .await?;
        let mut links: Vec<_> = messages.into_iter().filter_map(link_of).collect();
        links.sort_unstable_by_key(|link| link.index);
        Ok(links)
    }

    /// The link with this name.
    pub async fn link(&self, name: &str) -> Result<Option<Link>, NetlinkError> {
        let mut message = LinkMessage::default();
        message
            .attributes
            .push(LinkAttribute::IfName(name.to_owned()));
        self.one_link(message, || format!("looking up link {name}"))
            .await
    }

    /// The link with this index.
    pub async fn link_by_index(&self, index: LinkIndex) -> Result<Option<Link>, NetlinkError> {
        self.one_link(message_for(index), || {
            format!("looking up link {}", index.0)
        })
        .await
    }

    /// Waits until a link with this name exists (Open vSwitch makes internal ports some time after
    /// the transaction), at most `limit`.
    pub async fn wait_link(&self, name: &str, limit: Duration) -> Result<Link, NetlinkError> {
        let wait = async {
            let mut pause = Duration::from_millis(5);
            loop {
                if let Some(link) = self.link(name).await? {
                    return Ok(link);
                }
                tokio::time::sleep(pause).await;
                pause = (pause * 2).min(Duration::from_millis(200));
            }
        };
        tokio::time::timeout(limit, wait).await.unwrap_or_else(|_| {
            Err(NetlinkError::new(
                format!("waiting for link {name}"),
                Errno::ETIMEDOUT,
            ))
        })
    }

    /// Makes a veth pair, both ends down, the peer already in its namespace under its final name.
    pub async fn create_veth(&self, spec: &VethSpec<'_>) -> Result<Link, NetlinkError> {
        let mut peer = LinkMessage::default();
        peer.attributes = vec![
            LinkAttribute::IfName(spec.peer.to_owned()),
            LinkAttribute::Address(spec.peer_mac.octets().to_vec()),
            LinkAttribute::Mtu(spec.mtu),
            LinkAttribute::NetNsFd(spec.namespace.file().as_raw_fd()),
        ];
        let mut message = LinkMessage::default();
        message.attributes = vec![
            LinkAttribute::IfName(spec.host.to_owned()),
            LinkAttribute::Mtu(spec.mtu),
            LinkAttribute::LinkInfo(vec![
                LinkInfo::Kind(InfoKind::Veth),
                LinkInfo::Data(InfoData::Veth(InfoVeth::Peer(peer))),
            ]),
        ];
        let operation = || {
            let path = spec.namespace.path().display();
            format!(
                "creating veth pair {} and {} in {path}",
                spec.host, spec.peer
            )
        };
        self.change(
            RouteNetlinkMessage::NewLink(message),
            NLM_F_CREATE | NLM_F_EXCL,
            operation,
        )
        .await?;
        let absent = || NetlinkError::new(format!("finding veth {}", spec.host), Errno::ENODEV);
        let mut link = self.link(spec.host).await?.ok_or_else(absent)?;
        if !spec.alias.is_empty() {
            // The kernel ignores an alias in the request that makes a link.
            let mut message = message_for(link.index);
            message
                .attributes
                .push(LinkAttribute::IfAlias(spec.alias.to_owned()));
            self.set_link(message, || format!("setting the alias of {}", spec.host))
                .await?;
            spec.alias.clone_into(&mut link.alias);
        }
        Ok(link)
    }

    /// Deletes a link (and the other end of a pair). `Ok` when there is none.
    pub async fn delete_link(&self, name: &str) -> Result<(), NetlinkError> {
        let Some(link) = self.link(name).await? else {
            return Ok(());
        };
        let message = RouteNetlinkMessage::DelLink(message_for(link.index));
        match self
            .change(message, 0, || format!("deleting link {name}"))
            .await
        {
            Err(error) if !error.is_not_found() => Err(error),
            _ => Ok(()),
        }
    }

    /// Deletes links (and the other ends of pairs) together: the kernel waits once for all that still
    /// looks at them, not once for each. Links that do not exist are no error.
    pub async fn delete_links(&self, names: &[String]) -> Result<(), NetlinkError> {
        if let [name] = names {
            return self.delete_link(name).await;
        }
        let mut doomed = false;
        for name in names {
            let Some(link) = self.link(name).await? else {
                continue;
            };
            let mut message = message_for(link.index);
            message.attributes.push(LinkAttribute::Group(DOOMED));
            match self
                .set_link(message, || format!("condemning link {name}"))
                .await
            {
                Ok(()) => doomed = true,
                Err(error) if error.is_not_found() => {}
                Err(error) => return Err(error),
            }
        }
        if !doomed {
            return Ok(());
        }
        let mut message = LinkMessage::default();
        message.attributes.push(LinkAttribute::Group(DOOMED));
        let operation = || format!("deleting {} links", names.len());
        match self
            .change(RouteNetlinkMessage::DelLink(message), 0, operation)
            .await
        {
            Err(error) if !error.is_not_found() => Err(error),
            _ => Ok(()),
        }
    }

    /// Sets a link up or down.
    pub async fn set_state(&self, index: LinkIndex, state: AdminState) -> Result<(), NetlinkError> {
        let mut message = message_for(index);
        message.header.change_mask = LinkFlags::Up;
        if state == AdminState::Up {
            message.header.flags = LinkFlags::Up;
        }
        self.set_link(message, || format!("setting link {} {state:?}", index.0))
            .await
    }

    /// Sets a link's MTU.
    pub async fn set_mtu(&self, index: LinkIndex, mtu: u32) -> Result<(), NetlinkError> {
        let mut message = message_for(index);
        message.attributes.push(LinkAttribute::Mtu(mtu));
        self.set_link(message, || {
            format!("setting the MTU of link {} to {mtu}", index.0)
        })
        .await
    }

    /// Sets a link's MAC.
    pub async fn set_mac(&self, index: LinkIndex, mac: MacAddr) -> Result<(), NetlinkError> {
        let mut message = message_for(index);
        message
            .attributes
            .push(LinkAttribute::Address(mac.octets().to_vec()));
        self.set_link(message, || {
            format!("setting the MAC of link {} to {mac}", index.0)
        })
        .await
    }

    /// Sets how a link makes its IPv6 link-local address. `Ok` where the kernel has no IPv6.
    pub async fn set_addr_gen_mode(
        &self,
        index: LinkIndex,
        mode: AddrGenMode,
    ) -> Result<(), NetlinkError> {
        let value = match mode {
            AddrGenMode::Eui64 => In6AddrGenMode::Eui64,
            AddrGenMode::None => In6AddrGenMode::None,
        };
        let mut message = message_for(index);
        message
            .attributes
            .push(LinkAttribute::AfSpecUnspec(vec![AfSpecUnspec::Inet6(
                vec![AfSpecInet6::AddrGenMode(value)],
            )]));
        let operation = || format!("setting addr_gen_mode {mode:?} of link {}", index.0);
        match self.set_link(message, operation).await {
            Err(error) if error.source.raw_os_error() == Some(Errno::EAFNOSUPPORT as i32) => Ok(()),
            result => result,
        }
    }

    /// Renames a link, which must be down on kernels before 6.2.
    pub async fn rename_link(&self, index: LinkIndex, name: &str) -> Result<(), NetlinkError> {
        let mut message = message_for(index);
        message
            .attributes
            .push(LinkAttribute::IfName(name.to_owned()));
        self.set_link(message, || format!("renaming link {} to {name}", index.0))
            .await
    }

    async fn set_link(
        &self,
        message: LinkMessage,
        operation: impl FnOnce() -> String,
    ) -> Result<(), NetlinkError> {
        self.change(RouteNetlinkMessage::NewLink(message), 0, operation)
            .await
    }

    async fn one_link(
        &self,
        message: LinkMessage,
        operation: impl FnOnce() -> String,
    ) -> Result<Option<Link>, NetlinkError> {
        match self
            .get(RouteNetlinkMessage::GetLink(message), operation)
            .await
        {
            Ok(messages) => Ok(messages.into_iter().find_map(link_of)),
            Err(error) if error.is_not_found() => Ok(None),
            Err(error) => Err(error),
        }
    }
}

fn message_for(index: LinkIndex) -> LinkMessage {
    let mut message = LinkMessage::default();
    message.header.index = index.0;
    message
}

fn link_of(message: RouteNetlinkMessage) -> Option<Link> {
    let RouteNetlinkMessage::NewLink(message) = message else {
        return None;
    };
    let mut link = Link {
        index: LinkIndex(message.header.index),
        name: String::new(),
        mac: None,
        mtu: 0,
        up: message.header.flags.contains(LinkFlags::Up),
        running: message.header.flags.contains(LinkFlags::Running),
        kind: String::new(),
        alias: String::new(),
        peer: None,
        controller: None,
    };
    for attribute in message.attributes {
        match attribute {
            LinkAttribute::IfName(name) => link.name = name,
            LinkAttribute::IfAlias(alias) => link.alias = alias,
            LinkAttribute::Mtu(mtu) => link.mtu = mtu,
            LinkAttribute::Address(bytes) => {
                link.mac = <[u8; 6]>::try_from(bytes.as_slice()).ok().map(MacAddr);
            }
            LinkAttribute::Link(index) if index != 0 => link.peer = Some(LinkIndex(index)),
            LinkAttribute::Controller(index) if index != 0 => {
                link.controller = Some(LinkIndex(index));
            }
            LinkAttribute::LinkInfo(infos) => {
                for info in infos {
                    if let LinkInfo::Kind(kind) = info {
                        link.kind = kind.to_string();
                    }
                }
            }
            _ => {}
        }
    }
    Some(link)
}
