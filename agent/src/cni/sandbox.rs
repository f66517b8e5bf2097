//! The kernel's side of one attachment: the veth pair and what is inside the sandbox.

use std::collections::BTreeSet;
use std::fs;
use std::io;
use std::net::IpAddr;
use std::os::unix::fs::MetadataExt;
use std::path::Path;

use carrick_node::{
    AdminState, EthtoolError, MacAddr, Namespace, NamespaceError, Neighbour, Netlink, NetlinkError,
    Route, RouteOrigin, SysctlError, Sysctls, VethSpec, disable_tx_checksum,
};
use ipnet::IpNet;
use parking_lot::Mutex;
use tracing::debug;

use super::alias::LinkAlias;
use super::network::{DatapathKind, PodNetworkSettings};
use super::result::gateway_of;
use crate::ipam::Attachment;

/// Why a sandbox's interface could not be made, looked at or removed.
#[derive(Debug, thiserror::Error)]
pub enum SandboxError {
    /// The namespace cannot be used.
    #[error(transparent)]
    Namespace(#[from] NamespaceError),
    /// The kernel refused a link, an address, a route or a neighbour.
    #[error(transparent)]
    Netlink(#[from] NetlinkError),
    /// A sysctl could not be set.
    #[error(transparent)]
    Sysctl(#[from] SysctlError),
    /// An offload could not be set.
    #[error(transparent)]
    Offload(#[from] EthtoolError),
    /// No netlink socket.
    #[error("opening a netlink socket")]
    Socket(#[source] io::Error),
    /// Something is not as ADD left it.
    #[error("{what}")]
    Missing {
        /// What is missing, in words.
        what: String,
    },
}

/// Makes and removes veth pairs from the host's namespace.
#[derive(Debug)]
pub struct Sandboxes {
    host: Netlink,
    sysctls: Sysctls,
    /// Links to be deleted by whoever has the turn.
    doomed: Mutex<Vec<String>>,
    deleting: tokio::sync::Mutex<()>,
}

impl Sandboxes {
    /// Works through `host`, the host's netlink, and `sysctls`, a writable tree.
    pub fn new(host: Netlink, sysctls: Sysctls) -> Self {
        Self {
            host,
            sysctls,
            doomed: Mutex::default(),
            deleting: tokio::sync::Mutex::default(),
        }
    }

    /// The host's netlink.
    pub fn host(&self) -> &Netlink {
        &self.host
    }

    /// Makes the pair, both ends down, and returns the sandbox's namespace. A leftover pair of the same
    /// name is removed first.
    pub async fn create(
        &self,
        attachment: &Attachment,
        settings: &PodNetworkSettings,
    ) -> Result<Namespace, SandboxError> {
        let namespace = Namespace::open(&attachment.netns)?;
        self.host.delete_link(&attachment.host_link).await?;
        let ifname = &attachment.key.ifname;
        self.host
            .create_veth(&VethSpec {
                host: &attachment.host_link,
                alias: &LinkAlias::of(attachment).to_string(),
                peer: ifname,
                peer_mac: attachment.mac,
                mtu: settings.mtu,
                namespace: &namespace,
            })
            .await?;
        // Nobody speaks IPv6 there. Open vSwitch looks at every address of the host for every route, each time
        // one of them changes: a link-local address per pod costs it 0.1 s per port with 250 of them.
        let key = format!("ipv6/conf/{}/disable_ipv6", attachment.host_link);
        self.sysctls.set_if_there(&key, "1")?;
        Ok(namespace)
    }

    /// Makes the pod's end ready and sets it up; the host's end is down until [`Self::set_up`].
    pub async fn furnish(
        &self,
        namespace: &Namespace,
        attachment: &Attachment,
        settings: &PodNetworkSettings,
    ) -> Result<(), SandboxError> {
        let ifname = &attachment.key.ifname;
        let value = |key: String, value: &str| (key, value.to_owned());
        let mut values = vec![
            value(format!("-ipv6/conf/{ifname}/accept_ra"), "0"),
            value(format!("-ipv6/conf/{ifname}/accept_dad"), "0"),
            value(format!("-ipv6/conf/{ifname}/dad_transmits"), "0"),
        ];
        if attachment.addresses.iter().any(IpAddr::is_ipv6) {
            // Runtimes switch IPv6 off in new namespaces when they know of no IPv6 network.
            values.push(value(format!("ipv6/conf/{ifname}/disable_ipv6"), "0"));
            values.push(value("ipv6/conf/lo/disable_ipv6".to_owned(), "0"));
        }
        self.sysctls.set_in(namespace, values).await?;
        if settings.datapath == DatapathKind::Userspace {
            disable_tx_checksum(namespace, ifname).await?;
        }

        let pod = Netlink::open_in(namespace).await?;
        let link = pod
            .link(ifname)
            .await?
            .ok_or_else(|| missing(format!("no {ifname}")))?;
        if let Some(loopback) = pod.link("lo").await?
            && !loopback.up
        {
            pod.set_state(loopback.index, AdminState::Up).await?;
        }
        pod.set_state(link.index, AdminState::Up).await?;
        for &address in &attachment.addresses {
            pod.add_address(link.index, IpNet::from(address)).await?;
            let Some(gateway) = gateway_of(address, settings) else {
                continue;
            };
            let mac = settings.gateway_mac;
            pod.put_neighbour(
                link.index,
                Neighbour {
                    address: gateway,
                    mac,
                },
            )
            .await?;
            let any = match address {
                IpAddr::V4(_) => IpNet::V4(ipnet::Ipv4Net::default()),
                IpAddr::V6(_) => IpNet::V6(ipnet::Ipv6Net::default()),
            };
            // `proto static`: inside a pod nobody looks for routes of ours.
            let route = Route {
                origin: RouteOrigin::STATIC,
                ..Route::via(any, link.index, gateway, None)
            };
            pod.replace_route(&route).await?;
        }
        Ok(())
    }

    /// Sets the host's end up: the port has its flows.
    pub async fn set_up(&self, attachment: &Attachment) -> Result<(), SandboxError> {
        let name = &attachment.host_link;
        let link = self
            .host
            .link(name)
            .await?
            .ok_or_else(|| missing(format!("no {name}")))?;
        Ok(self.host.set_state(link.index, AdminState::Up).await?)
    }

    /// Deletes the pair, by its host's end: the sandbox may be gone already. The kernel takes long to
    /// delete a link, and no longer for many, so that those that meet are deleted together: whoever
    /// has the turn does it for all that wait.
    pub async fn delete(&self, host_link: &str) -> Result<(), SandboxError> {
        self.doomed.lock().push(host_link.to_owned());
        let _turn = self.deleting.lock().await;
        let doomed = std::mem::take(&mut *self.doomed.lock());
        if !doomed.is_empty()
            && let Err(error) = self.host.delete_links(&doomed).await
        {
            debug!(links = doomed.len(), %error, "links are deleted one by one");
        }
        // Another may have had the turn and failed, or been given up.
        Ok(self.host.delete_link(host_link).await?)
    }

    /// MAC of the host's end, when it exists.
    pub async fn host_mac(&self, attachment: &Attachment) -> Result<Option<MacAddr>, SandboxError> {
        Ok(self
            .host
            .link(&attachment.host_link)
            .await?
            .and_then(|link| link.mac))
    }

    /// Whether nothing of the attachment is left: neither its namespace nor its host's link.
    pub async fn is_gone(&self, attachment: &Attachment) -> Result<bool, SandboxError> {
        let exists =
            Namespace::exists(&attachment.netns).map_err(|source| NamespaceError::Open {
                path: attachment.netns.clone(),
                source,
            })?;
        Ok(!exists && self.host.link(&attachment.host_link).await?.is_none())
    }

    /// Looks whether the interface is as ADD left it: links, MAC, addresses, a default route per
    /// family. Later plugins of a chain may have added more.
    pub async fn check(&self, attachment: &Attachment) -> Result<(), SandboxError> {
        let name = &attachment.host_link;
        match self.host.link(name).await? {
            None => return Err(missing(format!("the host has no link {name}"))),
            Some(link) if !link.up => return Err(missing(format!("link {name} is down"))),
            Some(_) => {}
        }
        let namespace = Namespace::open(&attachment.netns)?;
        let pod = Netlink::open_in(&namespace).await?;
        let ifname = &attachment.key.ifname;
        let Some(link) = pod.link(ifname).await? else {
            return Err(missing(format!("the sandbox has no link {ifname}")));
        };
        if !link.up {
            return Err(missing(format!("{ifname} in the sandbox is down")));
        }
        if link.mac != Some(attachment.mac) {
            return Err(missing(format!(
                "{ifname} has not the MAC {}",
                attachment.mac
            )));
        }
        let present: BTreeSet<IpAddr> = pod
            .addresses(Some(link.index))
            .await?
            .iter()
            .map(|found| found.net.addr())
            .collect();
        let routes = pod.routes().await?;
        for address in &attachment.addresses {
            if !present.contains(address) {
                return Err(missing(format!("{ifname} has not the address {address}")));
            }
            let default = |route: &Route| {
                route.destination.prefix_len() == 0
                    && route.destination.addr().is_ipv4() == address.is_ipv4()
            };
            if !routes.iter().any(default) {
                return Err(missing(format!(
                    "the sandbox has no default route for {address}"
                )));
            }
        }
        Ok(())
    }
}

/// Whether two paths lead to one namespace: `/var/run` and `/run` are often the same.
pub(super) fn same_namespace(one: &Path, other: &Path) -> bool {
    let identity = |path: &Path| {
        fs::metadata(path)
            .ok()
            .map(|found| (found.dev(), found.ino()))
    };
    one == other || identity(one).is_some_and(|one| Some(one) == identity(other))
}

fn missing(what: String) -> SandboxError {
    SandboxError::Missing { what }
}
