//! What the kernel tells by itself: links and addresses that change.

use std::io;

use netlink_packet_core::{NetlinkMessage, NetlinkPayload};
use netlink_packet_route::RouteNetlinkMessage;
use netlink_packet_route::link::LinkAttribute;
use netlink_proto::sys::{
    AsyncSocket, AsyncSocketExt, SocketAddr, TokioSocket, protocols::NETLINK_ROUTE,
};
use nix::errno::Errno;

use crate::link::LinkIndex;

// include/uapi/linux/rtnetlink.h, enum rtnetlink_groups
const RTNLGRP_LINK: u32 = 1;
const RTNLGRP_IPV4_IFADDR: u32 = 5;
const RTNLGRP_IPV6_IFADDR: u32 = 9;

/// Something of the host changed. What it is now must be read: a change tells of a moment.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Change {
    /// A link came, went, or is otherwise than it was (name, MTU, MAC, up or down).
    Link {
        /// Its name.
        name: String,
    },
    /// An address came or went.
    Address {
        /// On this link.
        link: LinkIndex,
    },
    /// There were more changes than could be told: anything may have changed.
    Lost,
}

/// Listens to the namespace of the calling process. What changed before [`Monitor::open`] returned is
/// not told.
pub struct Monitor {
    socket: TokioSocket,
}

impl std::fmt::Debug for Monitor {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Monitor").finish_non_exhaustive()
    }
}

impl Monitor {
    /// Begins to listen. Needs a tokio runtime.
    ///
    /// # Errors
    /// The kernel gives no socket.
    pub fn open() -> io::Result<Self> {
        let mut socket = TokioSocket::new(NETLINK_ROUTE)?;
        socket.socket_mut().bind(&SocketAddr::new(0, 0))?;
        for group in [RTNLGRP_LINK, RTNLGRP_IPV4_IFADDR, RTNLGRP_IPV6_IFADDR] {
            socket.socket_ref().add_membership(group)?;
        }
        Ok(Self { socket })
    }

    /// The next changes: as many as the kernel told in one datagram. Cancel-safe: what was not
    /// returned is told by the next call.
    ///
    /// # Errors
    /// The socket is broken; it must be opened anew.
    pub async fn next(&mut self) -> io::Result<Vec<Change>> {
        match self.socket.recv_from_full().await {
            Ok((bytes, _)) => Ok(changes(&bytes)),
            // The socket's buffer was full (netlink(7)).
            Err(error) if error.raw_os_error() == Some(Errno::ENOBUFS as i32) => {
                Ok(vec![Change::Lost])
            }
            Err(error) => Err(error),
        }
    }
}

/// The changes in a datagram. What cannot be read may be anything.
fn changes(bytes: &[u8]) -> Vec<Change> {
    let mut found = Vec::new();
    let mut rest = bytes;
    while !rest.is_empty() {
        let Ok(message) = NetlinkMessage::<RouteNetlinkMessage>::deserialize(rest) else {
            found.push(Change::Lost);
            break;
        };
        let length = usize::try_from(message.header.length).unwrap_or(usize::MAX);
        rest = rest
            .get(length.next_multiple_of(4)..)
            .filter(|_| length > 0)
            .unwrap_or_default();
        let NetlinkPayload::InnerMessage(inner) = message.payload else {
            continue;
        };
        match inner {
            RouteNetlinkMessage::NewLink(link) | RouteNetlinkMessage::DelLink(link) => {
                let name = link.attributes.into_iter().find_map(|attribute| {
                    let LinkAttribute::IfName(name) = attribute else {
                        return None;
                    };
                    Some(name)
                });
                found.push(name.map_or(Change::Lost, |name| Change::Link { name }));
            }
            RouteNetlinkMessage::NewAddress(address) | RouteNetlinkMessage::DelAddress(address) => {
                found.push(Change::Address {
                    link: LinkIndex(address.header.index),
                });
            }
            _ => {}
        }
    }
    found
}

#[cfg(test)]
mod tests {
    use netlink_packet_route::address::AddressMessage;
    use netlink_packet_route::link::LinkMessage;
    use proptest::prelude::*;

    use super::*;

    fn encoded(message: RouteNetlinkMessage) -> Vec<u8> {
        let mut message = NetlinkMessage::from(message);
        message.finalize();
        let mut bytes = vec![0; message.buffer_len()];
        message.serialize(&mut bytes);
        bytes.resize(bytes.len().next_multiple_of(4), 0);
        bytes
    }

    #[test]
    fn every_message_of_a_datagram_is_told() {
        let mut link = LinkMessage::default();
        link.attributes.push(LinkAttribute::IfName("eth1".into()));
        let mut address = AddressMessage::default();
        address.header.index = 7;
        let mut bytes = encoded(RouteNetlinkMessage::NewLink(link.clone()));
        bytes.extend(encoded(RouteNetlinkMessage::DelAddress(address)));
        bytes.extend(encoded(RouteNetlinkMessage::DelLink(link)));
        let name = "eth1".to_owned();
        let link = Change::Link { name };
        let address = Change::Address { link: LinkIndex(7) };
        assert_eq!(changes(&bytes), [link.clone(), address, link]);
        assert_eq!(changes(&[]), []);
    }

    proptest! {
        #[test]
        fn no_bytes_panic_or_loop(bytes in proptest::collection::vec(any::<u8>(), 0..256)) {
            prop_assert!(changes(&bytes).len() <= 64);
        }
    }
}
