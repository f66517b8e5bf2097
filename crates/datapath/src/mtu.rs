//! The MTU of pods and of the gateway, from the transport interface's.

/// The least MTU of a link that carries IPv6 (RFC 8200 §5).
pub const MIN_V6_MTU: u16 = 1280;
/// The least MTU we run IPv4 on: what every host must reassemble (RFC 791 §3.1).
pub const MIN_V4_MTU: u16 = 576;
/// Tunnel devices of Open vSwitch pass no larger packets.
pub const MAX_MTU: u16 = 65000;

/// Why there is no usable MTU. Each message says how to mend it.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum MtuError {
    /// The MTU asked for does not fit into the transport interface's.
    #[error(
        "traffic.mtu is {asked}, but the transport interface's MTU {transport} leaves {room} after \
         {overhead} bytes of encapsulation: set traffic.mtu to at most {room}, or 0 to compute it"
    )]
    TooLarge {
        /// `traffic.mtu`.
        asked: u16,
        /// MTU of the transport interface.
        transport: u32,
        /// What would fit.
        room: u16,
        /// Bytes of encapsulation.
        overhead: u16,
    },
    /// What remains cannot carry a family of the pods.
    #[error(
        "pods would have an MTU of {mtu}, and {family} needs at least {least}: raise the transport \
         interface's MTU to {transport_least} or more, or set traffic.mtu higher"
    )]
    TooSmall {
        /// What pods would get.
        mtu: u16,
        /// `IPv6` or `IPv4`.
        family: &'static str,
        /// The least MTU of that family.
        least: u16,
        /// The transport MTU that would give it.
        transport_least: u16,
    },
}

/// The MTU pods and the gateway get.
///
/// `transport` is the MTU of the transport interface, `asked` the user's `traffic.mtu` (0 = what
/// fits), `overhead` what a tunnel takes of it, `pods_have_v6` whether pods have IPv6 addresses.
///
/// # Errors
/// `asked` does not fit, or the result is below what a family of the pods needs.
pub fn pod_mtu(
    transport: u32,
    asked: u16,
    overhead: u16,
    pods_have_v6: bool,
) -> Result<u16, MtuError> {
    let room = u16::try_from(transport.saturating_sub(u32::from(overhead)))
        .unwrap_or(u16::MAX)
        .min(MAX_MTU);
    if asked > room {
        return Err(MtuError::TooLarge {
            asked,
            transport,
            room,
            overhead,
        });
    }
    let mtu = if asked == 0 { room } else { asked };
    let (family, least) = if pods_have_v6 {
        ("IPv6", MIN_V6_MTU)
    } else {
        ("IPv4", MIN_V4_MTU)
    };
    if mtu < least {
        return Err(MtuError::TooSmall {
            mtu,
            family,
            least,
            transport_least: least.saturating_add(overhead),
        });
    }
    Ok(mtu)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn computed_from_the_transport() {
        assert_eq!(pod_mtu(1500, 0, 50, true), Ok(1450));
        assert_eq!(pod_mtu(1500, 0, 70, true), Ok(1430));
        assert_eq!(pod_mtu(9001, 0, 50, false), Ok(8951));
        assert_eq!(pod_mtu(65536, 0, 50, false), Ok(MAX_MTU));
        assert_eq!(pod_mtu(1500, 0, 0, true), Ok(1500));
    }

    #[test]
    fn asked_for_and_fitting_is_taken() {
        assert_eq!(pod_mtu(1500, 1400, 50, true), Ok(1400));
        assert_eq!(pod_mtu(1500, 1450, 50, true), Ok(1450));
        assert!(matches!(
            pod_mtu(1500, 1451, 50, true),
            Err(MtuError::TooLarge { room: 1450, .. })
        ));
    }

    #[test]
    fn below_1280_with_ipv6_is_refused_with_the_mend() {
        let error = pod_mtu(1300, 0, 50, true).unwrap_err();
        assert!(
            error
                .to_string()
                .contains("raise the transport interface's MTU to 1330")
        );
        assert_eq!(pod_mtu(1300, 0, 50, false), Ok(1250));
        assert!(pod_mtu(1500, 1279, 50, true).is_err());
        assert!(pod_mtu(100, 0, 50, false).is_err());
    }
}
