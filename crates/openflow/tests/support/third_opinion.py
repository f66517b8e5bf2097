"""os-ken as a third opinion on OpenFlow 1.5.

    third_opinion.py read              hex messages on stdin, one a line; a JSON object about each on stdout
    third_opinion.py write             messages os-ken makes by itself: JSON objects {name, hex}
    third_opinion.py bench SECONDS     hex flow-mods on stdin; {"encode": per second, "decode": per second}
"""

import base64
import json
import logging
import re
import sys
import time

from os_ken.lib import mac
from os_ken.ofproto import ofproto_parser, ofproto_protocol
from os_ken.ofproto import ofproto_v1_5 as ofp
from os_ken.ofproto import ofproto_v1_5_parser as of
import netaddr

# What os-ken cannot read it logs with a traceback; the caller gets it as an error.
logging.disable(logging.CRITICAL)

DATAPATH = ofproto_protocol.ProtocolDesc(version=ofp.OFP_VERSION)


def number(value):
    """A value as os-ken shows it, as an integer."""
    if isinstance(value, bytes):
        return int.from_bytes(value, "big")
    if isinstance(value, int):
        return value
    if re.fullmatch("([0-9a-f]{2}:){5}[0-9a-f]{2}", value):
        return int.from_bytes(mac.haddr_to_bin(value), "big")
    try:
        return int(netaddr.IPAddress(value))
    except (netaddr.AddrFormatError, ValueError):
        # A field it does not know: its bytes in base64.
        return int.from_bytes(base64.b64decode(value), "big")


def parse(message):
    version, kind, length, xid = ofproto_parser.header(message)
    return ofproto_parser.msg(DATAPATH, version, kind, length, xid, message)


def fields(match):
    """Name, value and mask of each field, numbers as text: JSON's are too small."""
    result = []
    for name, value in match.items():
        value, mask = value if isinstance(value, tuple) else (value, None)
        mask = None if mask is None else str(number(mask))
        result.append([name, str(number(value)), mask])
    return result


def about(message):
    read = parse(message)
    if read is None:
        return {"error": "os-ken cannot read it"}
    result = {"class": type(read).__name__}
    match = getattr(read, "match", None)
    if match is not None:
        result["match"] = fields(match)
    instructions = getattr(read, "instructions", None)
    if instructions is not None:
        actions = [action for i in instructions for action in getattr(i, "actions", [])]
        result["actions"] = [type(action).__name__ for action in actions]
    body = getattr(read, "body", None)
    if isinstance(body, list):
        result["parts"] = len(body)
    try:
        read.serialize()
        result["again"] = bytes(read.buf).hex()
    except Exception as error:  # what it cannot write, it says
        result["unwritten"] = repr(error)
    return result


def read():
    for line in sys.stdin:
        try:
            result = about(bytes.fromhex(line.strip()))
        except Exception as error:
            result = {"error": repr(error)}
        print(json.dumps(result))


def requests():
    match = of.OFPMatch(eth_type=0x800, ipv4_src=("10.0.0.0", "255.0.0.0"))
    output = of.OFPActionOutput(2, 0)
    apply = of.OFPInstructionActions(ofp.OFPIT_APPLY_ACTIONS, [output])
    goto = of.OFPInstructionGotoTable(5)
    bucket = of.OFPBucket(bucket_id=1, actions=[output],
                          properties=[of.OFPGroupBucketPropWeight(
                              type_=ofp.OFPGBPT_WEIGHT, length=8, weight=7)])
    band = of.OFPMeterBandDrop(rate=100, burst_size=10)
    yield "hello", of.OFPHello(DATAPATH, elements=[of.OFPHelloElemVersionBitmap(versions=[6])])
    yield "echo request", of.OFPEchoRequest(DATAPATH, data=b"abc")
    yield "echo reply", of.OFPEchoReply(DATAPATH, data=b"abc")
    yield "error", of.OFPErrorMsg(DATAPATH, type_=ofp.OFPET_BAD_REQUEST, code=6, data=b"x" * 64)
    yield "features request", of.OFPFeaturesRequest(DATAPATH)
    yield "get config", of.OFPGetConfigRequest(DATAPATH)
    yield "set config", of.OFPSetConfig(DATAPATH, 0, 128)
    yield "packet out", of.OFPPacketOut(DATAPATH, ofp.OFP_NO_BUFFER,
                                        of.OFPMatch(in_port=3), [output], b"\xff" * 20)
    for name, command in [("add", ofp.OFPFC_ADD), ("modify", ofp.OFPFC_MODIFY),
                          ("modify strict", ofp.OFPFC_MODIFY_STRICT),
                          ("delete", ofp.OFPFC_DELETE),
                          ("delete strict", ofp.OFPFC_DELETE_STRICT)]:
        yield "flow " + name, of.OFPFlowMod(
            DATAPATH, cookie=5, cookie_mask=0, table_id=3, command=command, idle_timeout=4,
            hard_timeout=6, priority=7, buffer_id=ofp.OFP_NO_BUFFER, out_port=ofp.OFPP_ANY,
            out_group=ofp.OFPG_ANY, flags=ofp.OFPFF_SEND_FLOW_REM, importance=9, match=match,
            instructions=[apply, goto])
    for name, command in [("add", ofp.OFPGC_ADD), ("modify", ofp.OFPGC_MODIFY),
                          ("delete", ofp.OFPGC_DELETE),
                          ("insert bucket", ofp.OFPGC_INSERT_BUCKET),
                          ("remove bucket", ofp.OFPGC_REMOVE_BUCKET)]:
        named = command in (ofp.OFPGC_INSERT_BUCKET, ofp.OFPGC_REMOVE_BUCKET)
        empty = command in (ofp.OFPGC_DELETE, ofp.OFPGC_REMOVE_BUCKET)
        yield "group " + name, of.OFPGroupMod(
            DATAPATH, command=command, group_id=5,
            # Said only where it counts.
            type_=ofp.OFPGT_SELECT if not named and not empty else ofp.OFPGT_ALL,
            command_bucket_id=1 if named else ofp.OFPG_BUCKET_ALL, buckets=[] if empty else [bucket])
    for name, command in [("add", ofp.OFPMC_ADD), ("modify", ofp.OFPMC_MODIFY),
                          ("delete", ofp.OFPMC_DELETE)]:
        bands = [] if command == ofp.OFPMC_DELETE else [band]
        flags = 0 if command == ofp.OFPMC_DELETE else ofp.OFPMF_PKTPS | ofp.OFPMF_BURST
        yield "meter " + name, of.OFPMeterMod(DATAPATH, command, flags, 3, bands)
    yield "barrier", of.OFPBarrierRequest(DATAPATH)
    yield "role", of.OFPRoleRequest(DATAPATH, ofp.OFPCR_ROLE_MASTER, 0, 5)
    yield "get async", of.OFPGetAsyncRequest(DATAPATH)
    yield "set async", of.OFPSetAsync(
        DATAPATH, [of.OFPAsyncConfigPropReasons(ofp.OFPACPT_PACKET_IN_MASTER, 8, 7)])
    yield "bundle open", of.OFPBundleCtrlMsg(DATAPATH, 9, ofp.OFPBCT_OPEN_REQUEST, 3, [])
    inner = of.OFPFlowMod(DATAPATH, table_id=3, match=match, instructions=[goto])
    # The same transaction id inside and outside (OpenFlow 1.5.1 §7.3.9.6).
    inner.set_xid(7)
    yield "bundle add", of.OFPBundleAddMsg(DATAPATH, 9, 3, inner, [])
    yield "desc", of.OFPDescStatsRequest(DATAPATH, 0)
    yield "flow desc", of.OFPFlowDescStatsRequest(
        DATAPATH, 0, 3, ofp.OFPP_ANY, ofp.OFPG_ANY, 5, 0xFF, match)
    yield "aggregate", of.OFPAggregateStatsRequest(
        DATAPATH, 0, 3, ofp.OFPP_ANY, ofp.OFPG_ANY, 5, 0xFF, match)
    yield "table stats", of.OFPTableStatsRequest(DATAPATH, 0)
    yield "port stats", of.OFPPortStatsRequest(DATAPATH, 0, 2)
    yield "port desc", of.OFPPortDescStatsRequest(DATAPATH, 0, 2)
    yield "group stats", of.OFPGroupStatsRequest(DATAPATH, 0, 5)
    yield "group desc", of.OFPGroupDescStatsRequest(DATAPATH, 0, 5)
    yield "group features", of.OFPGroupFeaturesStatsRequest(DATAPATH, 0)
    yield "meter stats", of.OFPMeterStatsRequest(DATAPATH, 0, 3)
    yield "meter desc", of.OFPMeterDescStatsRequest(DATAPATH, 0, 3)
    yield "meter features", of.OFPMeterFeaturesStatsRequest(DATAPATH, 0)


def write():
    for name, message in requests():
        message.set_xid(7)
        message.serialize()
        print(json.dumps({"name": name, "hex": bytes(message.buf).hex()}))


def rate(seconds, run, count):
    """How many a second, the best of some runs."""
    best = 0.0
    end = time.monotonic() + seconds
    while time.monotonic() < end:
        begun = time.process_time()
        run()
        best = max(best, count / (time.process_time() - begun))
    return best


def bench(seconds):
    messages = [bytes.fromhex(line.strip()) for line in sys.stdin]
    parsed = [parse(message) for message in messages]

    def encode():
        for message in parsed:
            message.buf = None
            message.serialize()

    def decode():
        for message in messages:
            parse(message)

    print(json.dumps({"encode": rate(seconds, encode, len(messages)),
                      "decode": rate(seconds, decode, len(messages))}))


if __name__ == "__main__":
    verb = sys.argv[1] if len(sys.argv) > 1 else ""
    if verb == "read":
        read()
    elif verb == "write":
        write()
    elif verb == "bench":
        bench(float(sys.argv[2]))
    else:
        sys.exit(__doc__)
