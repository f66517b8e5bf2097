"""Adds ports by Open vSwitch's Python client, each by a transaction of its own until cur_cfg.

    bench_ports.py SOCKET SCHEMA BRIDGE FIRST COUNT    prints {"wall": seconds, "cpu": seconds}
"""

import json
import sys
import time

from ovs import poller
from ovs.db import idl as ovsdb


def wait(idl, condition):
    while not condition():
        seqno = idl.change_seqno
        idl.run()
        if idl.change_seqno == seqno:
            poll = poller.Poller()
            idl.wait(poll)
            poll.block()


def add(idl, root, bridge, name):
    transaction = ovsdb.Transaction(idl)
    interface = transaction.insert(idl.tables["Interface"])
    interface.name = name
    interface.type = "internal"
    port = transaction.insert(idl.tables["Port"])
    port.name = name
    port.interfaces = [interface]
    bridge.addvalue("ports", port)
    root.increment("next_cfg")
    status = transaction.commit_block()
    if status != ovsdb.Transaction.SUCCESS:
        sys.exit("%s: %s" % (status, transaction.get_error()))
    wanted = transaction.get_increment_new_value()
    wait(idl, lambda: root.cur_cfg >= wanted)


def main(socket, schema, bridge, first, count):
    helper = ovsdb.SchemaHelper(schema)
    helper.register_columns("Open_vSwitch", ["bridges", "cur_cfg", "next_cfg"])
    helper.register_columns("Bridge", ["name", "ports"])
    helper.register_columns("Port", ["name", "interfaces"])
    helper.register_columns("Interface", ["name", "type", "ofport", "error"])
    idl = ovsdb.Idl("unix:" + socket, helper)
    wait(idl, lambda: idl.has_ever_connected())
    root = next(iter(idl.tables["Open_vSwitch"].rows.values()))
    row = next(row for row in idl.tables["Bridge"].rows.values() if row.name == bridge)
    wall, cpu = time.monotonic(), time.process_time()
    for number in range(int(first), int(first) + int(count)):
        add(idl, root, row, "p%d" % number)
    print(json.dumps({"wall": time.monotonic() - wall, "cpu": time.process_time() - cpu}))
    idl.close()


main(*sys.argv[1:])
