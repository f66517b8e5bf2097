//! Offloads of a link, through ethtool's generic netlink family (kernel 5.8).
//!
//! On the userspace datapath packets of a pod's veth are read through AF_PACKET, where nobody fills
//! in a checksum the sender left to hardware: the pod's transmit checksum must be off, or conntrack
//! calls its TCP invalid.

use std::io;

use netlink_sys::Socket;
use netlink_sys::protocols::NETLINK_GENERIC;
use nix::errno::Errno;

use crate::namespace::{Namespace, NamespaceError};
use crate::raw::{NESTED, Want, attribute, exchange, find, u16_at};

// include/uapi/linux/genetlink.h, ethtool_netlink.h
const GENERIC_HEADER: usize = 4;
const GENL_ID_CTRL: u16 = 0x10;
const CTRL_CMD_GETFAMILY: u8 = 3;
const CTRL_ATTR_FAMILY_ID: u16 = 1;
const CTRL_ATTR_FAMILY_NAME: u16 = 2;
const ETHTOOL_MSG_FEATURES_SET: u8 = 12;
const ETHTOOL_A_FEATURES_HEADER: u16 = 1;
const ETHTOOL_A_FEATURES_WANTED: u16 = 3;
const ETHTOOL_A_HEADER_DEV_NAME: u16 = 2;
const ETHTOOL_A_BITSET_BITS: u16 = 3;
const ETHTOOL_A_BITSET_BITS_BIT: u16 = 1;
const ETHTOOL_A_BITSET_BIT_NAME: u16 = 2;

/// What `ethtool -K LINK tx off` clears on a veth: the kernel drops TSO by itself with them.
const TX_CHECKSUM: [&str; 2] = ["tx-checksum-ip-generic", "tx-checksum-sctp"];

/// Why an offload could not be changed.
#[derive(Debug, thiserror::Error)]
pub enum EthtoolError {
    /// The namespace could not be entered.
    #[error("changing offloads of {link}")]
    Namespace {
        /// The link.
        link: String,
        /// The cause.
        #[source]
        source: NamespaceError,
    },
    /// The kernel has no ethtool netlink family (`CONFIG_ETHTOOL_NETLINK`), or did not answer.
    #[error("asking for the kernel's ethtool family")]
    Family(#[source] io::Error),
    /// The kernel refused.
    #[error("turning transmit checksums of {link} off")]
    Refused {
        /// The link.
        link: String,
        /// Its answer.
        #[source]
        source: io::Error,
    },
}

/// Turns transmit checksum offload of `link` inside `namespace` off.
pub async fn disable_tx_checksum(namespace: &Namespace, link: &str) -> Result<(), EthtoolError> {
    let name = link.to_owned();
    namespace
        .run(move || clear_features(&name, &TX_CHECKSUM))
        .await
        .map_err(|source| EthtoolError::Namespace {
            link: link.to_owned(),
            source,
        })?
}

fn clear_features(link: &str, features: &[&str]) -> Result<(), EthtoolError> {
    let mut socket = Socket::new(NETLINK_GENERIC).map_err(EthtoolError::Family)?;
    socket.bind_auto().map_err(EthtoolError::Family)?;
    let name = attribute(CTRL_ATTR_FAMILY_NAME, b"ethtool\0");
    let replies = exchange(
        &socket,
        GENL_ID_CTRL,
        Want::One,
        &message(CTRL_CMD_GETFAMILY, &name),
    )
    .map_err(EthtoolError::Family)?;
    let family = replies
        .iter()
        .find_map(|reply| u16_at(find(reply.get(GENERIC_HEADER..)?, CTRL_ATTR_FAMILY_ID)?, 0))
        .ok_or_else(|| EthtoolError::Family(Errno::ENOENT.into()))?;

    let mut bits = Vec::new();
    for feature in features {
        // Named without a value flag: in the mask and clear.
        let name = attribute(ETHTOOL_A_BITSET_BIT_NAME, &terminated(feature));
        bits.extend(attribute(ETHTOOL_A_BITSET_BITS_BIT | NESTED, &name));
    }
    let mut wanted = attribute(
        ETHTOOL_A_FEATURES_HEADER | NESTED,
        &attribute(ETHTOOL_A_HEADER_DEV_NAME, &terminated(link)),
    );
    wanted.extend(attribute(
        ETHTOOL_A_FEATURES_WANTED | NESTED,
        &attribute(ETHTOOL_A_BITSET_BITS | NESTED, &bits),
    ));
    exchange(
        &socket,
        family,
        Want::One,
        &message(ETHTOOL_MSG_FEATURES_SET, &wanted),
    )
    .map(drop)
    .map_err(|source| EthtoolError::Refused {
        link: link.to_owned(),
        source,
    })
}

fn message(command: u8, attributes: &[u8]) -> Vec<u8> {
    let mut body = vec![command, 1, 0, 0];
    body.extend_from_slice(attributes);
    body
}

fn terminated(text: &str) -> Vec<u8> {
    let mut bytes = text.as_bytes().to_vec();
    bytes.push(0);
    bytes
}
