//! The one table of fields: code, documentation and tests come from it.
//!
//! Rows stand in the order in which Open vSwitch writes a match (`nx_put_raw` in `lib/nx-match.c`),
//! so a prerequisite always comes before what needs it. Names, widths, prerequisites and headers
//! are those of ovs-fields(7).

use super::{Access, FieldInfo, Format, Header, Maskable, Prerequisite};

const fn of(number: u8) -> Header {
    Header::new(0x8000, number, 0)
}
const fn pkt_reg(number: u8) -> Header {
    Header::new(0x8001, number, 0)
}
const fn nxm(number: u8) -> Header {
    Header::new(0x0000, number, 0)
}
const fn nx(number: u8) -> Header {
    Header::new(0x0001, number, 0)
}
const fn eric(number: u8) -> Header {
    Header::new(0x1000, number, 0)
}
const fn onf(number: u8) -> Header {
    Header::new(0xffff, number, 0x4f4e_4600)
}
const fn nxet(number: u8) -> Header {
    Header::new(0xffff, number, 0x0000_2320)
}
const fn nsh(number: u8) -> Header {
    Header::new(0xffff, number, 0x005a_d650)
}

macro_rules! fields {
    ($($(#[doc = $doc:literal])* $variant:ident $name:literal $aliases:tt $header:expr, $others:tt
       $width:literal / $bits:literal $mask:ident $prerequisite:ident $format:ident $access:ident;)*) => {
        /// A packet header or metadata field that can be matched, read or written.
        ///
        /// Order is that of a match on the wire. See ovs-fields(7).
        #[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
        #[repr(u8)]
        #[non_exhaustive]
        pub enum Field {
            $($(#[doc = $doc])* $variant,)*
        }

        pub(super) const TABLE: &[FieldInfo] = &[
            $(FieldInfo {
                field: Field::$variant,
                name: $name,
                aliases: &$aliases,
                header: $header,
                other_headers: &$others,
                bytes: $width / 8,
                bits: $bits,
                maskable: Maskable::$mask,
                prerequisite: Prerequisite::$prerequisite,
                format: Format::$format,
                access: Access::$access,
            },)*
        ];
    };
}

fields! {
    /// Namespace and type of the packet; 0 is Ethernet.
    PacketType "packet_type" [] of(44), [] 32/32 Exact None PacketType ReadOnly;
    /// Hash a `dp_hash` group or `multipath` computed.
    DpHash "dp_hash" [] nx(35), [] 32/32 Arbitrary None Hex ReadOnly;
    /// Recirculation id.
    RecircId "recirc_id" [] nx(36), [] 32/32 Exact None Decimal ReadOnly;
    /// Id of the conjunction that matched.
    ConjId "conj_id" [] nx(37), [] 32/32 Exact None Decimal ReadOnly;
    /// Ingress port, 32 bits; `in_port` of a match is this one.
    InPort "in_port_oxm" [] of(0), [] 32/32 Exact None Port ReadWrite;
    /// Ingress port, 16 bits, as Nicira actions address it.
    InPort16 "in_port" [] nxm(0), [] 16/16 Exact None Port16 ReadWrite;
    /// Output port in the action set.
    ActsetOutput "actset_output" [] of(43), [onf(43)] 32/32 Exact None Port ReadOnly;
    /// Ethernet source.
    EthSrc "eth_src" ["dl_src"] of(4), [nxm(2)] 48/48 Arbitrary Ethernet Ethernet ReadWrite;
    /// Ethernet destination.
    EthDst "eth_dst" ["dl_dst"] of(3), [nxm(1)] 48/48 Arbitrary Ethernet Ethernet ReadWrite;
    /// Ethernet type.
    EthType "eth_type" ["dl_type"] of(5), [nxm(3)] 16/16 Exact Ethernet Hex ReadOnly;
    /// 802.1Q tag control information, with the CFI bit as "present".
    VlanTci "vlan_tci" [] nxm(4), [] 16/16 Arbitrary Ethernet Hex ReadWrite;
    /// VLAN id and, at 0x1000, "present".
    VlanVid "vlan_vid" [] of(6), [] 16/13 Arbitrary Ethernet Decimal ReadWrite;
    /// VLAN priority.
    VlanPcp "vlan_pcp" [] of(7), [] 8/3 Exact VlanVid Decimal ReadWrite;
    /// MPLS traffic class.
    MplsTc "mpls_tc" [] of(35), [] 8/3 Exact Mpls Decimal ReadWrite;
    /// MPLS bottom of stack.
    MplsBos "mpls_bos" [] of(36), [] 8/1 Exact Mpls Decimal ReadOnly;
    /// MPLS time to live.
    MplsTtl "mpls_ttl" [] nx(30), [] 8/8 Exact Mpls Decimal ReadWrite;
    /// MPLS label.
    MplsLabel "mpls_label" [] of(34), [] 32/20 Exact Mpls Decimal ReadWrite;
    /// IPv4 source.
    Ipv4Src "ip_src" ["nw_src"] of(11), [nxm(7)] 32/32 Arbitrary Ipv4 Ipv4 ReadWrite;
    /// IPv4 destination.
    Ipv4Dst "ip_dst" ["nw_dst"] of(12), [nxm(8)] 32/32 Arbitrary Ipv4 Ipv4 ReadWrite;
    /// IPv6 source.
    Ipv6Src "ipv6_src" [] of(26), [nx(19)] 128/128 Arbitrary Ipv6 Ipv6 ReadWrite;
    /// IPv6 destination.
    Ipv6Dst "ipv6_dst" [] of(27), [nx(20)] 128/128 Arbitrary Ipv6 Ipv6 ReadWrite;
    /// Fragment state: 1 is a fragment, 3 a later one.
    IpFrag "ip_frag" ["nw_frag"] nx(26), [] 8/2 Arbitrary Ip Frag ReadOnly;
    /// Type of service with the two ECN bits zero.
    NwTos "nw_tos" [] nxm(5), [] 8/8 Exact Ip Decimal ReadWrite;
    /// Differentiated services code point.
    IpDscp "ip_dscp" [] of(8), [] 8/6 Exact Ip Decimal ReadWrite;
    /// Explicit congestion notification.
    IpEcn "nw_ecn" ["ip_ecn"] of(9), [nx(28)] 8/2 Exact Ip Decimal ReadWrite;
    /// Time to live or hop limit.
    IpTtl "nw_ttl" [] nx(29), [] 8/8 Exact Ip Decimal ReadWrite;
    /// IPv6 flow label.
    Ipv6Label "ipv6_label" [] of(28), [nx(27)] 32/20 Arbitrary Ipv6 Hex ReadWrite;
    /// IP protocol.
    IpProto "nw_proto" ["ip_proto"] of(10), [nxm(6)] 8/8 Exact Ip Decimal ReadOnly;
    /// TCP source port.
    TcpSrc "tcp_src" ["tp_src"] of(13), [nxm(9)] 16/16 Arbitrary Tcp Decimal ReadWrite;
    /// TCP destination port.
    TcpDst "tcp_dst" ["tp_dst"] of(14), [nxm(10)] 16/16 Arbitrary Tcp Decimal ReadWrite;
    /// TCP flags.
    TcpFlags "tcp_flags" [] of(42), [nx(34), onf(42)] 16/12 Arbitrary Tcp TcpFlags ReadOnly;
    /// UDP source port.
    UdpSrc "udp_src" [] of(15), [nxm(11)] 16/16 Arbitrary Udp Decimal ReadWrite;
    /// UDP destination port.
    UdpDst "udp_dst" [] of(16), [nxm(12)] 16/16 Arbitrary Udp Decimal ReadWrite;
    /// SCTP source port.
    SctpSrc "sctp_src" [] of(17), [] 16/16 Arbitrary Sctp Decimal ReadWrite;
    /// SCTP destination port.
    SctpDst "sctp_dst" [] of(18), [] 16/16 Arbitrary Sctp Decimal ReadWrite;
    /// ICMP type.
    IcmpType "icmp_type" [] of(19), [nxm(13)] 8/8 Exact Icmpv4 Decimal ReadWrite;
    /// ICMP code.
    IcmpCode "icmp_code" [] of(20), [nxm(14)] 8/8 Exact Icmpv4 Decimal ReadWrite;
    /// ICMPv6 type.
    Icmpv6Type "icmpv6_type" [] of(29), [nx(21)] 8/8 Exact Icmpv6 Decimal ReadWrite;
    /// ICMPv6 code.
    Icmpv6Code "icmpv6_code" [] of(30), [nx(22)] 8/8 Exact Icmpv6 Decimal ReadWrite;
    /// Neighbour discovery target.
    NdTarget "nd_target" [] of(31), [nx(23)] 128/128 Arbitrary Nd Ipv6 ReadWrite;
    /// Source link-layer address of a neighbour solicitation.
    NdSll "nd_sll" [] of(32), [nx(24)] 48/48 Arbitrary NdSolicit Ethernet ReadWrite;
    /// Target link-layer address of a neighbour advertisement.
    NdTll "nd_tll" [] of(33), [nx(25)] 48/48 Arbitrary NdAdvert Ethernet ReadWrite;
    /// Reserved word of neighbour discovery.
    NdReserved "nd_reserved" [] eric(1), [] 32/32 Exact Nd Decimal ReadWrite;
    /// Type of the first neighbour discovery option.
    NdOptionsType "nd_options_type" [] eric(2), [] 8/8 Exact Nd Decimal ReadWrite;
    /// ARP operation.
    ArpOp "arp_op" [] of(21), [nxm(15)] 16/16 Exact Arp Decimal ReadWrite;
    /// ARP sender protocol address.
    ArpSpa "arp_spa" [] of(22), [nxm(16)] 32/32 Arbitrary Arp Ipv4 ReadWrite;
    /// ARP target protocol address.
    ArpTpa "arp_tpa" [] of(23), [nxm(17)] 32/32 Arbitrary Arp Ipv4 ReadWrite;
    /// ARP sender hardware address.
    ArpSha "arp_sha" [] of(24), [nx(17)] 48/48 Arbitrary Arp Ethernet ReadWrite;
    /// ARP target hardware address.
    ArpTha "arp_tha" [] of(25), [nx(18)] 48/48 Arbitrary Arp Ethernet ReadWrite;
    /// Tunnel key.
    TunId "tun_id" ["tunnel_id"] of(38), [nx(16)] 64/64 Arbitrary None Hex ReadWrite;
    /// Tunnel flags: 1 is OAM.
    TunFlags "tun_flags" [] nx(104), [] 16/1 Arbitrary None TunFlags ReadWrite;
    /// Outer IPv4 source.
    TunSrc "tun_src" [] nx(31), [] 32/32 Arbitrary None Ipv4 ReadWrite;
    /// Outer IPv4 destination.
    TunDst "tun_dst" [] nx(32), [] 32/32 Arbitrary None Ipv4 ReadWrite;
    /// Outer IPv6 source.
    TunIpv6Src "tun_ipv6_src" [] nx(109), [] 128/128 Arbitrary None Ipv6 ReadWrite;
    /// Outer IPv6 destination.
    TunIpv6Dst "tun_ipv6_dst" [] nx(110), [] 128/128 Arbitrary None Ipv6 ReadWrite;
    /// VXLAN group policy id.
    TunGbpId "tun_gbp_id" [] nx(38), [] 16/16 Arbitrary None Decimal ReadWrite;
    /// VXLAN group policy flags.
    TunGbpFlags "tun_gbp_flags" [] nx(39), [] 8/8 Arbitrary None Hex ReadWrite;
    /// Geneve option mapped to metadata 0.
    TunMetadata0 "tun_metadata0" [] nx(40), [] 992/992 Arbitrary None Hex ReadWrite;
    /// Geneve option mapped to metadata 1.
    TunMetadata1 "tun_metadata1" [] nx(41), [] 992/992 Arbitrary None Hex ReadWrite;
    /// Geneve option mapped to metadata 2.
    TunMetadata2 "tun_metadata2" [] nx(42), [] 992/992 Arbitrary None Hex ReadWrite;
    /// Geneve option mapped to metadata 3.
    TunMetadata3 "tun_metadata3" [] nx(43), [] 992/992 Arbitrary None Hex ReadWrite;
    /// Geneve option mapped to metadata 4.
    TunMetadata4 "tun_metadata4" [] nx(44), [] 992/992 Arbitrary None Hex ReadWrite;
    /// Geneve option mapped to metadata 5.
    TunMetadata5 "tun_metadata5" [] nx(45), [] 992/992 Arbitrary None Hex ReadWrite;
    /// Geneve option mapped to metadata 6.
    TunMetadata6 "tun_metadata6" [] nx(46), [] 992/992 Arbitrary None Hex ReadWrite;
    /// Geneve option mapped to metadata 7.
    TunMetadata7 "tun_metadata7" [] nx(47), [] 992/992 Arbitrary None Hex ReadWrite;
    /// Geneve option mapped to metadata 8.
    TunMetadata8 "tun_metadata8" [] nx(48), [] 992/992 Arbitrary None Hex ReadWrite;
    /// Geneve option mapped to metadata 9.
    TunMetadata9 "tun_metadata9" [] nx(49), [] 992/992 Arbitrary None Hex ReadWrite;
    /// Geneve option mapped to metadata 10.
    TunMetadata10 "tun_metadata10" [] nx(50), [] 992/992 Arbitrary None Hex ReadWrite;
    /// Geneve option mapped to metadata 11.
    TunMetadata11 "tun_metadata11" [] nx(51), [] 992/992 Arbitrary None Hex ReadWrite;
    /// Geneve option mapped to metadata 12.
    TunMetadata12 "tun_metadata12" [] nx(52), [] 992/992 Arbitrary None Hex ReadWrite;
    /// Geneve option mapped to metadata 13.
    TunMetadata13 "tun_metadata13" [] nx(53), [] 992/992 Arbitrary None Hex ReadWrite;
    /// Geneve option mapped to metadata 14.
    TunMetadata14 "tun_metadata14" [] nx(54), [] 992/992 Arbitrary None Hex ReadWrite;
    /// Geneve option mapped to metadata 15.
    TunMetadata15 "tun_metadata15" [] nx(55), [] 992/992 Arbitrary None Hex ReadWrite;
    /// Geneve option mapped to metadata 16.
    TunMetadata16 "tun_metadata16" [] nx(56), [] 992/992 Arbitrary None Hex ReadWrite;
    /// Geneve option mapped to metadata 17.
    TunMetadata17 "tun_metadata17" [] nx(57), [] 992/992 Arbitrary None Hex ReadWrite;
    /// Geneve option mapped to metadata 18.
    TunMetadata18 "tun_metadata18" [] nx(58), [] 992/992 Arbitrary None Hex ReadWrite;
    /// Geneve option mapped to metadata 19.
    TunMetadata19 "tun_metadata19" [] nx(59), [] 992/992 Arbitrary None Hex ReadWrite;
    /// Geneve option mapped to metadata 20.
    TunMetadata20 "tun_metadata20" [] nx(60), [] 992/992 Arbitrary None Hex ReadWrite;
    /// Geneve option mapped to metadata 21.
    TunMetadata21 "tun_metadata21" [] nx(61), [] 992/992 Arbitrary None Hex ReadWrite;
    /// Geneve option mapped to metadata 22.
    TunMetadata22 "tun_metadata22" [] nx(62), [] 992/992 Arbitrary None Hex ReadWrite;
    /// Geneve option mapped to metadata 23.
    TunMetadata23 "tun_metadata23" [] nx(63), [] 992/992 Arbitrary None Hex ReadWrite;
    /// Geneve option mapped to metadata 24.
    TunMetadata24 "tun_metadata24" [] nx(64), [] 992/992 Arbitrary None Hex ReadWrite;
    /// Geneve option mapped to metadata 25.
    TunMetadata25 "tun_metadata25" [] nx(65), [] 992/992 Arbitrary None Hex ReadWrite;
    /// Geneve option mapped to metadata 26.
    TunMetadata26 "tun_metadata26" [] nx(66), [] 992/992 Arbitrary None Hex ReadWrite;
    /// Geneve option mapped to metadata 27.
    TunMetadata27 "tun_metadata27" [] nx(67), [] 992/992 Arbitrary None Hex ReadWrite;
    /// Geneve option mapped to metadata 28.
    TunMetadata28 "tun_metadata28" [] nx(68), [] 992/992 Arbitrary None Hex ReadWrite;
    /// Geneve option mapped to metadata 29.
    TunMetadata29 "tun_metadata29" [] nx(69), [] 992/992 Arbitrary None Hex ReadWrite;
    /// Geneve option mapped to metadata 30.
    TunMetadata30 "tun_metadata30" [] nx(70), [] 992/992 Arbitrary None Hex ReadWrite;
    /// Geneve option mapped to metadata 31.
    TunMetadata31 "tun_metadata31" [] nx(71), [] 992/992 Arbitrary None Hex ReadWrite;
    /// Geneve option mapped to metadata 32.
    TunMetadata32 "tun_metadata32" [] nx(72), [] 992/992 Arbitrary None Hex ReadWrite;
    /// Geneve option mapped to metadata 33.
    TunMetadata33 "tun_metadata33" [] nx(73), [] 992/992 Arbitrary None Hex ReadWrite;
    /// Geneve option mapped to metadata 34.
    TunMetadata34 "tun_metadata34" [] nx(74), [] 992/992 Arbitrary None Hex ReadWrite;
    /// Geneve option mapped to metadata 35.
    TunMetadata35 "tun_metadata35" [] nx(75), [] 992/992 Arbitrary None Hex ReadWrite;
    /// Geneve option mapped to metadata 36.
    TunMetadata36 "tun_metadata36" [] nx(76), [] 992/992 Arbitrary None Hex ReadWrite;
    /// Geneve option mapped to metadata 37.
    TunMetadata37 "tun_metadata37" [] nx(77), [] 992/992 Arbitrary None Hex ReadWrite;
    /// Geneve option mapped to metadata 38.
    TunMetadata38 "tun_metadata38" [] nx(78), [] 992/992 Arbitrary None Hex ReadWrite;
    /// Geneve option mapped to metadata 39.
    TunMetadata39 "tun_metadata39" [] nx(79), [] 992/992 Arbitrary None Hex ReadWrite;
    /// Geneve option mapped to metadata 40.
    TunMetadata40 "tun_metadata40" [] nx(80), [] 992/992 Arbitrary None Hex ReadWrite;
    /// Geneve option mapped to metadata 41.
    TunMetadata41 "tun_metadata41" [] nx(81), [] 992/992 Arbitrary None Hex ReadWrite;
    /// Geneve option mapped to metadata 42.
    TunMetadata42 "tun_metadata42" [] nx(82), [] 992/992 Arbitrary None Hex ReadWrite;
    /// Geneve option mapped to metadata 43.
    TunMetadata43 "tun_metadata43" [] nx(83), [] 992/992 Arbitrary None Hex ReadWrite;
    /// Geneve option mapped to metadata 44.
    TunMetadata44 "tun_metadata44" [] nx(84), [] 992/992 Arbitrary None Hex ReadWrite;
    /// Geneve option mapped to metadata 45.
    TunMetadata45 "tun_metadata45" [] nx(85), [] 992/992 Arbitrary None Hex ReadWrite;
    /// Geneve option mapped to metadata 46.
    TunMetadata46 "tun_metadata46" [] nx(86), [] 992/992 Arbitrary None Hex ReadWrite;
    /// Geneve option mapped to metadata 47.
    TunMetadata47 "tun_metadata47" [] nx(87), [] 992/992 Arbitrary None Hex ReadWrite;
    /// Geneve option mapped to metadata 48.
    TunMetadata48 "tun_metadata48" [] nx(88), [] 992/992 Arbitrary None Hex ReadWrite;
    /// Geneve option mapped to metadata 49.
    TunMetadata49 "tun_metadata49" [] nx(89), [] 992/992 Arbitrary None Hex ReadWrite;
    /// Geneve option mapped to metadata 50.
    TunMetadata50 "tun_metadata50" [] nx(90), [] 992/992 Arbitrary None Hex ReadWrite;
    /// Geneve option mapped to metadata 51.
    TunMetadata51 "tun_metadata51" [] nx(91), [] 992/992 Arbitrary None Hex ReadWrite;
    /// Geneve option mapped to metadata 52.
    TunMetadata52 "tun_metadata52" [] nx(92), [] 992/992 Arbitrary None Hex ReadWrite;
    /// Geneve option mapped to metadata 53.
    TunMetadata53 "tun_metadata53" [] nx(93), [] 992/992 Arbitrary None Hex ReadWrite;
    /// Geneve option mapped to metadata 54.
    TunMetadata54 "tun_metadata54" [] nx(94), [] 992/992 Arbitrary None Hex ReadWrite;
    /// Geneve option mapped to metadata 55.
    TunMetadata55 "tun_metadata55" [] nx(95), [] 992/992 Arbitrary None Hex ReadWrite;
    /// Geneve option mapped to metadata 56.
    TunMetadata56 "tun_metadata56" [] nx(96), [] 992/992 Arbitrary None Hex ReadWrite;
    /// Geneve option mapped to metadata 57.
    TunMetadata57 "tun_metadata57" [] nx(97), [] 992/992 Arbitrary None Hex ReadWrite;
    /// Geneve option mapped to metadata 58.
    TunMetadata58 "tun_metadata58" [] nx(98), [] 992/992 Arbitrary None Hex ReadWrite;
    /// Geneve option mapped to metadata 59.
    TunMetadata59 "tun_metadata59" [] nx(99), [] 992/992 Arbitrary None Hex ReadWrite;
    /// Geneve option mapped to metadata 60.
    TunMetadata60 "tun_metadata60" [] nx(100), [] 992/992 Arbitrary None Hex ReadWrite;
    /// Geneve option mapped to metadata 61.
    TunMetadata61 "tun_metadata61" [] nx(101), [] 992/992 Arbitrary None Hex ReadWrite;
    /// Geneve option mapped to metadata 62.
    TunMetadata62 "tun_metadata62" [] nx(102), [] 992/992 Arbitrary None Hex ReadWrite;
    /// Geneve option mapped to metadata 63.
    TunMetadata63 "tun_metadata63" [] nx(103), [] 992/992 Arbitrary None Hex ReadWrite;
    /// ERSPAN index.
    TunErspanIdx "tun_erspan_idx" [] nxet(11), [] 32/20 Arbitrary None Hex ReadWrite;
    /// ERSPAN version.
    TunErspanVer "tun_erspan_ver" [] nxet(12), [] 8/4 Arbitrary None Decimal ReadWrite;
    /// ERSPAN direction.
    TunErspanDir "tun_erspan_dir" [] nxet(13), [] 8/1 Arbitrary None Decimal ReadWrite;
    /// ERSPAN hardware id.
    TunErspanHwid "tun_erspan_hwid" [] nxet(14), [] 8/6 Arbitrary None Hex ReadWrite;
    /// GTP-U flags.
    TunGtpuFlags "tun_gtpu_flags" [] nxet(15), [] 8/8 Arbitrary None Hex ReadOnly;
    /// GTP-U message type.
    TunGtpuMsgtype "tun_gtpu_msgtype" [] nxet(16), [] 8/8 Arbitrary None Decimal ReadOnly;
    /// NSH flags.
    NshFlags "nsh_flags" [] nsh(1), [] 8/8 Arbitrary Nsh Decimal ReadWrite;
    /// NSH time to live.
    NshTtl "nsh_ttl" [] nsh(10), [] 8/8 Exact Nsh Decimal ReadWrite;
    /// NSH metadata type.
    NshMdtype "nsh_mdtype" [] nsh(2), [] 8/8 Exact Nsh Decimal ReadOnly;
    /// NSH next protocol.
    NshNp "nsh_np" [] nsh(3), [] 8/8 Exact Nsh Decimal ReadOnly;
    /// NSH service path.
    NshSpi "nsh_spi" ["nsp"] nsh(4), [] 32/24 Exact Nsh Hex ReadWrite;
    /// NSH service index.
    NshSi "nsh_si" ["nsi"] nsh(5), [] 8/8 Exact Nsh Decimal ReadWrite;
    /// NSH context 1.
    NshC1 "nsh_c1" ["nshc1"] nsh(6), [] 32/32 Arbitrary Nsh Hex ReadWrite;
    /// NSH context 2.
    NshC2 "nsh_c2" ["nshc2"] nsh(7), [] 32/32 Arbitrary Nsh Hex ReadWrite;
    /// NSH context 3.
    NshC3 "nsh_c3" ["nshc3"] nsh(8), [] 32/32 Arbitrary Nsh Hex ReadWrite;
    /// NSH context 4.
    NshC4 "nsh_c4" ["nshc4"] nsh(9), [] 32/32 Arbitrary Nsh Hex ReadWrite;
    /// Register 0, 32 bits.
    Reg0 "reg0" [] nx(0), [] 32/32 Arbitrary None Hex ReadWrite;
    /// Register 1, 32 bits.
    Reg1 "reg1" [] nx(1), [] 32/32 Arbitrary None Hex ReadWrite;
    /// Register 2, 32 bits.
    Reg2 "reg2" [] nx(2), [] 32/32 Arbitrary None Hex ReadWrite;
    /// Register 3, 32 bits.
    Reg3 "reg3" [] nx(3), [] 32/32 Arbitrary None Hex ReadWrite;
    /// Register 4, 32 bits.
    Reg4 "reg4" [] nx(4), [] 32/32 Arbitrary None Hex ReadWrite;
    /// Register 5, 32 bits.
    Reg5 "reg5" [] nx(5), [] 32/32 Arbitrary None Hex ReadWrite;
    /// Register 6, 32 bits.
    Reg6 "reg6" [] nx(6), [] 32/32 Arbitrary None Hex ReadWrite;
    /// Register 7, 32 bits.
    Reg7 "reg7" [] nx(7), [] 32/32 Arbitrary None Hex ReadWrite;
    /// Register 8, 32 bits.
    Reg8 "reg8" [] nx(8), [] 32/32 Arbitrary None Hex ReadWrite;
    /// Register 9, 32 bits.
    Reg9 "reg9" [] nx(9), [] 32/32 Arbitrary None Hex ReadWrite;
    /// Register 10, 32 bits.
    Reg10 "reg10" [] nx(10), [] 32/32 Arbitrary None Hex ReadWrite;
    /// Register 11, 32 bits.
    Reg11 "reg11" [] nx(11), [] 32/32 Arbitrary None Hex ReadWrite;
    /// Register 12, 32 bits.
    Reg12 "reg12" [] nx(12), [] 32/32 Arbitrary None Hex ReadWrite;
    /// Register 13, 32 bits.
    Reg13 "reg13" [] nx(13), [] 32/32 Arbitrary None Hex ReadWrite;
    /// Register 14, 32 bits.
    Reg14 "reg14" [] nx(14), [] 32/32 Arbitrary None Hex ReadWrite;
    /// Register 15, 32 bits.
    Reg15 "reg15" [] nx(15), [] 32/32 Arbitrary None Hex ReadWrite;
    /// Registers 0 (high) and 1 (low) as one of 64 bits.
    XReg0 "xreg0" [] pkt_reg(0), [] 64/64 Arbitrary None Hex ReadWrite;
    /// Registers 2 (high) and 3 (low) as one of 64 bits.
    XReg1 "xreg1" [] pkt_reg(1), [] 64/64 Arbitrary None Hex ReadWrite;
    /// Registers 4 (high) and 5 (low) as one of 64 bits.
    XReg2 "xreg2" [] pkt_reg(2), [] 64/64 Arbitrary None Hex ReadWrite;
    /// Registers 6 (high) and 7 (low) as one of 64 bits.
    XReg3 "xreg3" [] pkt_reg(3), [] 64/64 Arbitrary None Hex ReadWrite;
    /// Registers 8 (high) and 9 (low) as one of 64 bits.
    XReg4 "xreg4" [] pkt_reg(4), [] 64/64 Arbitrary None Hex ReadWrite;
    /// Registers 10 (high) and 11 (low) as one of 64 bits.
    XReg5 "xreg5" [] pkt_reg(5), [] 64/64 Arbitrary None Hex ReadWrite;
    /// Registers 12 (high) and 13 (low) as one of 64 bits.
    XReg6 "xreg6" [] pkt_reg(6), [] 64/64 Arbitrary None Hex ReadWrite;
    /// Registers 14 (high) and 15 (low) as one of 64 bits.
    XReg7 "xreg7" [] pkt_reg(7), [] 64/64 Arbitrary None Hex ReadWrite;
    /// Registers 0 (high) to 3 (low) as one of 128 bits.
    XxReg0 "xxreg0" [] nx(111), [] 128/128 Arbitrary None Hex ReadWrite;
    /// Registers 4 (high) to 7 (low) as one of 128 bits.
    XxReg1 "xxreg1" [] nx(112), [] 128/128 Arbitrary None Hex ReadWrite;
    /// Registers 8 (high) to 11 (low) as one of 128 bits.
    XxReg2 "xxreg2" [] nx(113), [] 128/128 Arbitrary None Hex ReadWrite;
    /// Registers 12 (high) to 15 (low) as one of 128 bits.
    XxReg3 "xxreg3" [] nx(114), [] 128/128 Arbitrary None Hex ReadWrite;
    /// Packet mark (skb mark).
    PktMark "pkt_mark" [] nx(33), [] 32/32 Arbitrary None Hex ReadWrite;
    /// Connection tracking state.
    CtState "ct_state" [] nx(105), [] 32/32 Arbitrary None CtState ReadOnly;
    /// Connection tracking zone.
    CtZone "ct_zone" [] nx(106), [] 16/16 Exact None Hex ReadOnly;
    /// Connection mark.
    CtMark "ct_mark" [] nx(107), [] 32/32 Arbitrary None Hex ReadWrite;
    /// Connection label.
    CtLabel "ct_label" [] nx(108), [] 128/128 Arbitrary None Hex ReadWrite;
    /// IPv4 source of the original direction.
    CtNwSrc "ct_nw_src" [] nx(120), [] 32/32 Arbitrary Ct Ipv4 ReadOnly;
    /// IPv6 source of the original direction.
    CtIpv6Src "ct_ipv6_src" [] nx(122), [] 128/128 Arbitrary Ct Ipv6 ReadOnly;
    /// IPv4 destination of the original direction.
    CtNwDst "ct_nw_dst" [] nx(121), [] 32/32 Arbitrary Ct Ipv4 ReadOnly;
    /// IPv6 destination of the original direction.
    CtIpv6Dst "ct_ipv6_dst" [] nx(123), [] 128/128 Arbitrary Ct Ipv6 ReadOnly;
    /// Protocol of the original direction.
    CtNwProto "ct_nw_proto" [] nx(119), [] 8/8 Exact Ct Decimal ReadOnly;
    /// Source port of the original direction.
    CtTpSrc "ct_tp_src" [] nx(124), [] 16/16 Arbitrary Ct Decimal ReadOnly;
    /// Destination port of the original direction.
    CtTpDst "ct_tp_dst" [] nx(125), [] 16/16 Arbitrary Ct Decimal ReadOnly;
    /// OpenFlow metadata.
    Metadata "metadata" [] of(2), [] 64/64 Arbitrary None Hex ReadWrite;
}
