//! Flows in ovs-ofctl syntax, generated from the table of fields and listed by hand.

use carrick_openflow::Field;
use carrick_openflow::field::{Access, FieldInfo, Format, Maskable, Prerequisite};

/// What must stand before a field of this prerequisite.
fn before(prerequisite: Prerequisite) -> &'static str {
    match prerequisite {
        Prerequisite::VlanVid => "dl_vlan=5,",
        Prerequisite::Mpls => "mpls,",
        Prerequisite::Ipv4 | Prerequisite::Ip => "ip,",
        Prerequisite::Ipv6 => "ipv6,",
        Prerequisite::Arp => "arp,",
        Prerequisite::Tcp => "tcp,",
        Prerequisite::Udp => "udp,",
        Prerequisite::Sctp => "sctp6,",
        Prerequisite::Icmpv4 => "icmp,",
        Prerequisite::Icmpv6 => "icmp6,",
        Prerequisite::Nd | Prerequisite::NdSolicit => "icmp6,icmp_type=135,icmp_code=0,",
        Prerequisite::NdAdvert => "icmp6,icmp_type=136,icmp_code=0,",
        Prerequisite::Nsh => "eth_type=0x894f,",
        Prerequisite::Ct => "ct_state=+trk+est,ip,",
        _ => "",
    }
}

/// A value and a masked one.
fn values(info: &FieldInfo) -> (String, Option<String>) {
    let ones = info.all_ones();
    let number = 0x1234_5678_9abc_def0_1122_3344_5566_7788_u128 & ones;
    if info.field == Field::ArpOp {
        return ("2".into(), None);
    }
    if info.field == Field::NshTtl {
        return ("5".into(), None);
    }
    let (value, masked) = match info.format {
        Format::Ethernet => (
            "02:00:0a:f4:01:07".into(),
            "01:00:00:00:00:00/01:00:00:00:00:00".into(),
        ),
        Format::Ipv4 => ("10.244.1.7".into(), "10.244.0.0/16".into()),
        Format::Ipv6 => ("fd00:10:244::7".into(), "fd00:10:244::/64".into()),
        Format::Port | Format::Port16 => ("7".into(), String::new()),
        Format::Frag => ("later".into(), "yes".into()),
        Format::CtState => ("+new-est+trk".into(), "-inv+trk".into()),
        Format::TcpFlags => ("0x12".into(), "+syn-ack".into()),
        Format::TunFlags => ("+oam".into(), "-oam".into()),
        Format::PacketType => ("(1,0x800)".into(), String::new()),
        Format::Decimal => {
            let mask = ones ^ 1;
            (
                number.to_string(),
                format!("{:#x}/{mask:#x}", number & mask),
            )
        }
        _ => (
            format!("{number:#x}"),
            format!("{:#x}/{:#x}", number & (ones >> 1), ones >> 1),
        ),
    };
    (
        value,
        (info.maskable == Maskable::Arbitrary && info.bits > 1).then_some(masked),
    )
}

/// Fields that ovs-ofctl does not match or that need more than a prerequisite.
fn special(field: Field) -> bool {
    matches!(
        field,
        Field::PacketType | Field::DpHash | Field::RecircId | Field::ActsetOutput | Field::InPort16
            // Open vSwitch sends a mask for these that is their value.
            | Field::TunErspanIdx | Field::TunErspanVer | Field::TunErspanDir | Field::TunErspanHwid
            | Field::TunGtpuFlags | Field::TunGtpuMsgtype | Field::TunGbpFlags
            // It drops bits of masks of the priority.
            | Field::VlanTci
            | Field::VlanVid | Field::InPort | Field::NdReserved | Field::NdOptionsType
    ) || field.info().is_variable()
        || field.info().prerequisite == Prerequisite::Nsh
}

/// Each field matched exactly and with a mask.
pub fn matches() -> Vec<String> {
    let mut result = Vec::new();
    for field in Field::all().filter(|field| !special(*field)) {
        let info = field.info();
        let (mut value, masked) = values(info);
        if field == Field::NwTos {
            value = "0xb8".into();
        }
        let before = match field {
            Field::EthType | Field::CtState => "",
            Field::IpProto => "ip,",
            Field::CtIpv6Src | Field::CtIpv6Dst => "ct_state=+trk+est,ipv6,",
            Field::IcmpType | Field::IcmpCode => "icmp,",
            _ => before(info.prerequisite),
        };
        if matches!(field, Field::CtNwProto) {
            value = "6".into();
        }
        let before = match field {
            Field::CtTpSrc | Field::CtTpDst => "ct_state=+trk+est,ip,ct_nw_proto=6,",
            _ => before,
        };
        let name = if field == Field::IpDscp {
            "ip_dscp"
        } else {
            info.name
        };
        result.push(format!("table=1,{before}{name}={value} actions=drop"));
        if let Some(masked) = masked {
            result.push(format!("table=1,{before}{name}={masked} actions=drop"));
        }
    }
    result.extend(
        [
            "in_port=5", "in_port=LOCAL", "dl_vlan=5", "dl_vlan=5,dl_vlan_pcp=3", "dl_vlan_pcp=3",
            "vlan_tci=0x1000/0x1000", "vlan_tci=0x0000/0x1fff", "dl_vlan=0xffff", "vlan_tci=0x1005",
            "ip,nw_frag=no", "ip,nw_frag=first", "ip,nw_frag=not_later", "ipv6,nw_ttl=64",
            "reg0=1,reg1=2", "reg0=1/3,reg1=2", "reg1=5", "reg3=5/0xf,reg2=0", "xreg0=0x1/0xff",
            "xxreg1=0x1/0xff", "reg15=1", "reg4=0/0xf0", "metadata=0", "ct_mark=0", "tun_id=0/1", "ct_label=0/1", "conj_id=12,ip", "tcp,tp_src=80/0xfff0,tp_dst=443",
            "udp6,tp_dst=53", "sctp,tp_dst=80", "icmp,icmp_type=8,icmp_code=0", "arp,arp_op=1,nw_src=1.2.3.4",
            "icmp6,icmp_type=136,icmp_code=0,nd_target=fe80::1", "rarp", "mpls,mpls_label=5", "ipv6,ipv6_src=::",
            "tun_id=5", "tun_src=1.2.3.4,tun_dst=5.6.7.8", "tun_id=0x10/0xff,in_port=1",
            "tun_metadata0=0x12345678", "tun_metadata3=0x12/0x7f", "ip,nw_src=10.0.0.1/255.0.255.0",
            "ipv6,ipv6_src=fe80::1/ff00::ff", "ct_state=+trk,ip", "ct_state=0x20/0x20", "ip,nw_tos=184",
            "ip,ip_dscp=46,nw_ecn=1", "ipv6,ipv6_label=0x5/0xff", "metadata=5/0xff", "pkt_mark=0x80000000/0x80000000",
            "dl_type=0x88cc", "dl_dst=01:00:00:00:00:00/01:00:00:00:00:00",
            "ct_state=-new+trk,ct_mark=0x1/0x1,ct_label=0x5/0xff,ct_zone=65520",
            "priority=65535,cookie=0xfffffffffffffffe,idle_timeout=65535,hard_timeout=1,importance=7,send_flow_rem,check_overlap,reset_counts,no_packet_counts,no_byte_counts,ip",
            "",
        ]
        .map(|text| format!("table=2,{text} actions=drop").replace("2, ", "2 ")),
    );
    result
}

/// Actions, one flow each.
pub fn actions() -> Vec<String> {
    let mut result = Vec::new();
    for field in Field::all().filter(|field| !special(*field)) {
        let info = field.info();
        let ct = matches!(field, Field::CtMark | Field::CtLabel);
        if info.access == Access::ReadOnly || field == Field::NwTos || ct {
            continue;
        }
        let (value, masked) = values(info);
        let before = before(info.prerequisite);
        let name = info.name;
        result.push(format!("{before}actions=set_field:{value}->{name}"));
        if let Some(masked) = masked {
            result.push(format!("{before}actions=set_field:{masked}->{name}"));
        }
        if info.bits >= 16 {
            result.push(format!("{before}actions=load:0x5->{name}[3..10]"));
            result.push(format!("{before}actions=move:{name}[0..7]->reg9[8..15]"));
        }
    }
    let more = [
        "output:2",
        "output:LOCAL",
        "in_port",
        "NORMAL",
        "FLOOD",
        "ALL",
        "CONTROLLER:128",
        "controller",
        "output:reg1",
        "output:NXM_NX_REG1[0..15]",
        "output(port=3,max_len=100)",
        "output:tun_erspan_idx",
        "group:4",
        "meter:3",
        "set_queue:7",
        "set_queue:7,output:2,pop_queue",
        "set_field:10.0.0.1->tun_dst",
        "set_field:fd00::1->tun_ipv6_dst",
        "set_field:0x12345678->tun_metadata0",
        "set_field:0x12/0x7f->tun_metadata1",
        "load:1->reg0[]",
        "load:0xffff->NXM_OF_IN_PORT[]",
        "set_field:0->in_port",
        "load:0->NXM_OF_IN_PORT[]",
        "move:NXM_OF_ETH_SRC[]->NXM_OF_ETH_DST[]",
        "move:xxreg0[0..63]->xreg3[]",
        "move:NXM_NX_TUN_ID[0..31]->NXM_NX_REG1[]",
        "push:reg0[0..7],pop:reg1[8..15]",
        "push:NXM_NX_REG2[]",
        "push:xreg0[5..20]",
        "set_tunnel:5",
        "mod_dl_src:02:00:00:00:00:01,mod_dl_dst:02:00:00:00:00:02",
        "push_vlan:0x8100,set_field:4101->vlan_vid,output:2",
        "resubmit:7",
        "resubmit(,5)",
        "resubmit(3,5)",
        "resubmit(3,)",
        "resubmit:LOCAL",
        "ct_clear",
        "exit",
        "note:01.02.03",
        "note:01.02.03.04.05.06.07",
        "note:",
        "clone(output:2)",
        "clone(clone(set_field:1->reg0,output:2),output:3)",
        "check_pkt_larger(1400)->NXM_NX_REG0[3]",
        "check_pkt_larger(1400)->reg4[31]",
        "delete_field:tun_metadata5",
        "multipath(eth_src,50,modulo_n,4,0,reg1[0..15])",
        "multipath(symmetric_l3l4+udp,1,iter_hash,16,32,NXM_NX_REG0[])",
        "multipath(nw_dst,1,hrw,3,0,NXM_NX_REG0[0..7])",
        "controller(userdata=01.02,pause,id=4)",
        "controller(reason=invalid_ttl,max_len=64)",
        "controller(id=7)",
        "controller(max_len=64)",
        "controller(meter_id=5,userdata=00.01.02.03.04.05.06.07)",
        "controller(reason=no_match,id=1,max_len=5,userdata=ff)",
        "write_metadata:0x5",
        "write_metadata:0x5/0xff,goto_table:9",
        "goto_table:9",
        "clear_actions",
        "write_actions(output:2,set_field:1->reg0)",
        "output:1,clear_actions,write_actions(output:2),write_metadata:1/1,goto_table:7",
        "drop",
        "conjunction(4,1/2)",
        "conjunction(4,1/2),conjunction(5,3/64)",
    ];
    result.extend(more.map(|text| format!("actions={text}")));
    let tracked = [
        "ct()",
        "ct(commit)",
        "ct(commit,force)",
        "ct(table=22,zone=65520)",
        "ct(zone=reg3[0..15])",
        "ct(zone=NXM_NX_REG3[16..31],table=5)",
        "ct(commit,zone=1,exec(set_field:0x1/0x1->ct_mark))",
        "ct(commit,exec(set_field:0x1->ct_mark,set_field:0x5/0xff->ct_label,load:3->ct_label[64..67]))",
        "ct(commit,exec(move:NXM_NX_REG1[]->NXM_NX_CT_MARK[]))",
        "ct(nat)",
        "ct(commit,nat(src=10.0.0.1))",
        "ct(commit,nat(src=10.0.0.1-10.0.0.9))",
        "ct(commit,nat(dst=10.0.0.1:80))",
        "ct(commit,nat(dst=10.0.0.1-10.0.0.2:80-90,random))",
        "ct(commit,nat(src=10.0.0.1:1000-2000,hash,persistent))",
        "ct(commit,nat(src))",
        "ct(commit,nat(dst))",
        "ct(commit,table=3,zone=9,nat(src=10.0.0.1),exec(set_field:1->ct_mark))",
        "resubmit(3,5,ct)",
        "resubmit(,5,ct)",
        "ct(commit,alg=ftp),ct_clear",
        "dec_ttl",
        "mod_nw_ttl:5",
        "learn(table=5,NXM_OF_ETH_DST[]=NXM_OF_ETH_SRC[],output:NXM_OF_IN_PORT[])",
        "learn(table=5,hard_timeout=10,idle_timeout=20,fin_idle_timeout=1,fin_hard_timeout=2,priority=7,cookie=0x12,send_flow_rem,delete_learned,eth_type=0x800,nw_proto=6,NXM_OF_IP_SRC[],tcp_dst=80,load:NXM_NX_REG4[]->NXM_NX_REG4[],load:0x1->NXM_NX_REG0[16..18])",
        "learn(table=5,limit=3,result_dst=reg0[4],NXM_OF_ETH_SRC[],load:NXM_OF_IN_PORT[]->NXM_NX_REG1[0..15])",
        "set_field:10.0.0.1->ip_src",
        "mod_nw_dst:10.0.0.1",
        "set_field:46->ip_dscp",
        "set_field:1->nw_ecn",
        "set_field:7->nw_ttl",
    ];
    result.extend(tracked.map(|text| format!("tcp,ct_state=+trk+new actions={text}")));
    result.extend(
        [
            "learn(table=5,limit=3,eth_type=0x86dd,NXM_NX_IPV6_SRC[],load:0x5->NXM_NX_REG1[0..3])",
            "learn(table=5,eth_type=0x86dd,nw_proto=17,udp_dst=53,NXM_NX_IPV6_SRC[]=NXM_NX_IPV6_DST[],NXM_NX_REG1[0..7]=0x5,load:NXM_NX_XXREG0[]->NXM_NX_XXREG1[])",
            "ct(commit,nat(src=fe80::1))", "ct(commit,nat(src=fe80::1-fe80::9))",
            "ct(commit,nat(dst=[fe80::1]:80))", "ct(commit,nat(dst=[fe80::1]-[fe80::2]:80-90,hash))",
        ]
        .map(|text| format!("tcp6 actions={text}")),
    );
    result.extend(
        [
            "push_mpls:0x8847,set_field:5->mpls_label,output:2",
            "dec_mpls_ttl",
            "set_mpls_ttl(5)",
            "pop_mpls:0x0800",
            "set_field:1->mpls_tc",
        ]
        .map(|text| format!("mpls actions={text}")),
    );
    // Words of earlier versions of OpenFlow.
    result.extend(
        [
            "actions=mod_vlan_vid:5",
            "dl_vlan=3 actions=mod_vlan_vid:5",
            "dl_vlan_pcp=3 actions=mod_vlan_vid:5",
            "vlan_tci=0x1000/0x1000 actions=mod_vlan_vid:5",
            "dl_vlan=0xffff actions=mod_vlan_vid:5",
            "actions=mod_vlan_vid:5,mod_vlan_pcp:3",
            "actions=mod_vlan_pcp:3",
            "dl_vlan=3 actions=mod_vlan_pcp:3",
            "dl_vlan=3 actions=strip_vlan,mod_vlan_pcp:3",
            "dl_vlan=3 actions=set_vlan_vid:5,set_vlan_pcp:1",
            "actions=push_vlan:0x8100,set_vlan_vid:3,mod_vlan_pcp:1",
            "actions=clone(mod_vlan_vid:5),mod_vlan_vid:5",
            "dl_vlan=3 actions=clone(strip_vlan,mod_vlan_vid:6),mod_vlan_vid:5",
            "actions=write_actions(mod_vlan_vid:5)",
            "tcp actions=mod_tp_src:80",
            "udp actions=mod_tp_dst:80",
            "sctp6 actions=mod_tp_dst:80",
            "tcp actions=clone(mod_tp_dst:80),write_actions(mod_tp_src:1)",
            "ip actions=mod_nw_tos:184",
            "ipv6 actions=mod_nw_tos:0",
            "ip actions=mod_nw_src:10.0.0.1,mod_nw_ecn:2,mod_nw_ttl:5,dec_ttl",
            "actions=set_tunnel:0x100000000",
        ]
        .map(str::to_owned),
    );
    result.push("udp actions=ct(commit,alg=tftp)".into());
    result.push("dl_vlan=5 actions=strip_vlan".into());
    result.push("dl_vlan=5 actions=pop_vlan,output:2".into());
    result
}
