#!/usr/bin/env python3
"""Computes what recodex-monitor needs: processor time, memory, and, with a cluster, Redis and the number of monitors.

    python3 sizing.py                                      the tables of sizing.md
    python3 sizing.py --viewers 1000 --rate 5              one load, in detail
    python3 sizing.py --viewers 1000 --rate 5 --nodes 2    the same with a cluster of two monitors
    python3 sizing.py --check measured.json                compares the model with what was measured

The constants below are measured, or say that they are not; sizing.md explains the model. It needs Python 3.7 and nothing else.
"""

import argparse
import bisect
import json
import math
import sys

# One monitor. Measured: see benches/README.md, Figures.
DELIVERY_US = [(1, 5.0), (1_000, 5.4), (9_000, 8.2), (18_900, 8.5)]  # CPU of one write, by the viewers of one process
READ_US = 19.5          # CPU to wake up and read once: 24.8 for a message to one viewer, less INGEST_US and a delivery
INGEST_US = 0.3         # CPU of a message that is received and appended, nobody watching
BASE_MIB = 3.0          # memory of an idle monitor
VIEWER_KIB = 0.2        # memory of a quiet viewer (0.11 to 0.16, more after it was busy); with TLS 9.2
CHANNEL_BYTES = 660     # memory of a channel besides its messages (470 to 660)
OPEN_SLACK = 1.4        # the log of an open job doubles when it is full; that of a finished one is exact. Computed
READS_PER_SECOND = 10_000  # a busy thread reads several messages at once, so it does not read more often. Assumed

# A cluster. Measured: see benches/README.md, A cluster. The machine was faster on that day: its floor was 3.96. So the first three are
# scaled by FLOOR_US / 3.96, from 0.27, 0.25 and 21.
FLOOR_US = 5.40         # CPU of one write by the floor, in the runs of the constants above
FOREIGN_US = 0.37       # CPU of a node for a message from the stream that it has no viewer for
APPEND_US = 0.34        # CPU of the node that has the broker, for a message that it appends
BATCH_US = 29           # CPU of that node for a batch, besides the read of its messages and the one of the stream
BATCHES_PER_SECOND = 9_000  # of one ingest: it has one batch in flight, so this is 1 / (time of one append)
# Redis. 1.2 million messages/s with 2 readers fill its core, which is 0.83 µs a message; how it is divided is assumed.
REDIS_APPEND_US = 0.4   # CPU of Redis for a message that is appended
REDIS_READ_US = 0.2     # CPU of Redis for a message and a reader
REDIS_FACTOR = 1.3      # memory of Redis for a byte of the stream

FULL = 0.7              # a thread is planned to this part of a core
FILES = 130_000         # viewers of one process: LimitNOFILE of the unit, less its own files
TOTAL_MIB = 256.0       # history.total_bytes, the default

INPUTS = {
    "viewers": (1_000, "viewers that are connected at once"),
    "viewers_per_job": (1, "viewers of each job"),
    "rate": (5.0, "messages of one job in a second"),
    "bytes": (96, "bytes of a message, as sent to viewers"),
    "job_seconds": (60.0, "length of a job"),
    "finished": (300.0, "history.finished"),
    "nodes": (0, "monitors in the cluster; 0: one monitor without a cluster"),
    "ingests": (1, "monitors that have a broker; the messages are divided evenly"),
}


def delivery_us(viewers):
    """The cost of one delivery, between the measured numbers of viewers."""
    points = [x for x, _ in DELIVERY_US]
    i = bisect.bisect_left(points, viewers)
    if i == 0:
        return DELIVERY_US[0][1]
    if i == len(points):
        return DELIVERY_US[-1][1]
    (x0, y0), (x1, y1) = DELIVERY_US[i - 1], DELIVERY_US[i]
    return y0 + (y1 - y0) * (math.log(viewers) - math.log(x0)) / (math.log(x1) - math.log(x0))


def model(load):
    """Computes all outputs for a load. CPU is in cores: 1.0 is one core at its limit."""
    jobs = load["viewers"] / load["viewers_per_job"]
    messages = jobs * load["rate"]
    nodes = max(1, load["nodes"])
    viewers = load["viewers"] / nodes
    deliveries = messages * load["viewers_per_job"] / nodes
    deliver = deliveries * delivery_us(viewers)
    out = {"messages": messages, "deliveries": messages * load["viewers_per_job"]}
    if load["nodes"] == 0:
        out["node_cpu"] = (min(messages, READS_PER_SECOND) * READ_US + messages * INGEST_US + deliver) / 1e6
    else:
        ingests = min(load["ingests"], nodes)
        batches = min(messages, ingests * BATCHES_PER_SECOND, READS_PER_SECOND)
        read = batches * READ_US + messages * FOREIGN_US
        own = messages / ingests
        appended = min(own, BATCHES_PER_SECOND) * BATCH_US + own * APPEND_US
        append = min(own, READS_PER_SECOND) * READ_US + appended
        out["node_cpu"] = (read + deliver) / 1e6
        out["foreign_cpu"] = messages * FOREIGN_US / 1e6
        out["ingest_cpu"] = (read + deliver + append) / 1e6
        out["redis_cpu"] = messages * (REDIS_APPEND_US + nodes * REDIS_READ_US) / 1e6
        out["redis_out_mbit"] = messages * load["bytes"] * nodes * 8 / 1e6
    out["us_per_delivery"] = out["node_cpu"] * 1e6 / deliveries if deliveries else 0.0
    # Each message is kept until its job's end and `finished` longer; on average a job that runs is half done.
    kept = load["bytes"] * (load["finished"] + load["job_seconds"] / 2 * OPEN_SLACK)
    channels = jobs * (1 + load["finished"] / load["job_seconds"])
    out["history_mib"] = (messages * kept + channels * CHANNEL_BYTES) / 2**20
    out["connections_mib"] = BASE_MIB + viewers * VIEWER_KIB / 1024
    out["memory_mib"] = out["connections_mib"] + out["history_mib"]
    if load["nodes"]:
        stream = messages * load["bytes"] * (load["finished"] + load["job_seconds"])
        out["redis_mib"] = stream * REDIS_FACTOR / 2**20
    return out


def table(head, rows):
    """Prints a table in Markdown."""
    print("| " + " | ".join(head) + " |\n|" + "---|" * len(head))
    for row in rows:
        print("| " + " | ".join(str(x) for x in row) + " |")
    print()


def load_of(**changes):
    return {**{name: value for name, (value, _) in INPUTS.items()}, **changes}


def number(x):
    """At most three digits that count."""
    if x == 0:
        return "0"
    digits = max(0, 2 - math.floor(math.log10(abs(x))))
    return f"{round(x, digits):,.{digits if x < 100 else 0}f}"


def size(mib):
    for unit in ("MiB", "GiB"):
        if mib < 1024:
            return f"{number(mib)} {unit}"
        mib /= 1024
    return f"{number(mib)} TiB"


def percent(cores):
    return f"{cores * 100:.{0 if cores >= 0.01 else 1}f} %"


def most_viewers(**changes):
    """The largest number of viewers that one monitor can serve at FULL of a core."""
    low, high = 1, 10**8
    while high - low > 1:
        middle = (low + high) // 2
        low, high = (middle, high) if model(load_of(viewers=middle, **changes))["node_cpu"] <= FULL else (low, middle)
    return low


def capacity():
    rows = []
    for rate in (0.2, 1, 5):
        for viewers_per_job in (1, 10, 1_000):
            viewers = most_viewers(rate=rate, viewers_per_job=viewers_per_job)
            out = model(load_of(viewers=viewers, rate=rate, viewers_per_job=viewers_per_job))
            limit = "files" if viewers > FILES else "core"
            if limit == "files":
                out = model(load_of(viewers=FILES, rate=rate, viewers_per_job=viewers_per_job))
            rows.append((rate, f"{viewers_per_job:,}", f"{min(viewers, FILES) // 100 * 100:,}", limit,
                         f"{number(out['messages'])}", f"{number(out['deliveries'])}", size(out["history_mib"])))
    print(f"One monitor, one core at {FULL:.0%}:\n")
    table(("messages/s of a job", "viewers of a job", "viewers", "limit", "messages/s", "deliveries/s", "history, default times"), rows)
    print("Memory for connections alone, viewers in 1 GiB: "
          f"{number(1024 * 1024 / VIEWER_KIB)} (TLS in the monitor: {number(1024 * 1024 / 9.2)})\n")


def plan(viewers, link_mbit, **changes):
    """The smallest number of partitions, and of monitors for each, with which no part is over its limit."""
    for power in range(0, 16):
        partitions = 2**power
        share = load_of(viewers=viewers / partitions, **changes)
        for nodes in range(1, 65):
            # An ingest takes the messages of its partition; more than one is needed if it is full.
            for ingests in range(1, nodes + 1):
                out = model({**share, "nodes": nodes, "ingests": ingests})
                if out["ingest_cpu"] <= FULL:
                    break
            fits = (out["ingest_cpu"] <= FULL and out["redis_cpu"] <= FULL and out["redis_out_mbit"] <= link_mbit
                    and share["viewers"] / nodes <= FILES)
            if fits:
                return partitions, nodes, out
            if out["redis_cpu"] > FULL or out["redis_out_mbit"] > link_mbit:
                break
    return None


def plans(link_mbit):
    rows = []
    for viewers in (10**5, 10**6, 10**7):
        for rate in (0.2, 1):
            found = plan(viewers, link_mbit, rate=rate, finished=60.0)
            if not found:
                rows.append((f"{viewers:,}", rate, "no plan fits") + ("",) * 7)
                continue
            partitions, nodes, out = found
            rows.append((f"{viewers:,}", rate, number(viewers * rate), partitions, f"{nodes} = {nodes * partitions:,} in all",
                         f"{out['foreign_cpu']:.0%}", f"{out['ingest_cpu']:.0%}", f"{out['redis_cpu']:.0%}",
                         f"{number(out['redis_out_mbit'])}", f"{size(out['memory_mib'])}"))
    print(f"A cluster of partitions, history.finished 60 s, a network of {link_mbit:,} Mbit/s:\n")
    table(("viewers", "messages/s of a job", "messages/s", "partitions", "monitors of each", "a node's core for messages of others",
           "in all, with a broker", "core of Redis", "Mbit/s out of it", "memory of a node"), rows)


def answer(load, out):
    where = f"for each of {load['nodes']} monitors " if load["nodes"] else ""
    return (f"{load['viewers']:,} students, {load['rate']:g} messages/s each: {where}{percent(out['node_cpu'])} of a core, "
            f"{number(out['memory_mib'])} MiB, of which {number(out['history_mib'])} MiB are history")


def answers():
    """What usual numbers of students need, each with a job of one minute."""
    print(answer(load_of(), model(load_of())) + "\n")
    rows = []
    for viewers, rate in ((100, 1), (1_000, 1), (1_000, 5), (10_000, 1), (10_000, 5)):
        out = model(load_of(viewers=viewers, rate=rate))
        rows.append((f"{viewers:,}", rate, percent(out["node_cpu"]), size(out["connections_mib"]), size(out["history_mib"])))
    table(("students", "messages/s each", "of a core", "memory", "and history, if there is room for it"), rows)


def detail(load):
    out = model(load)
    names = {
        "messages": "messages a second, in all", "deliveries": "deliveries a second, in all",
        "node_cpu": "cores of a monitor", "ingest_cpu": "cores of a monitor with a broker",
        "foreign_cpu": "cores of it for messages that none of its viewers gets",
        "us_per_delivery": "CPU µs for each delivery", "redis_cpu": "cores of Redis", "redis_out_mbit": "Mbit/s out of Redis",
        "history_mib": "MiB of history", "connections_mib": "MiB without history", "memory_mib": "MiB of a monitor",
        "redis_mib": "MiB of Redis",
    }
    table(("result", "value"), [(names[key], number(value)) for key, value in out.items()])
    print(answer(load, out))
    if out["history_mib"] > TOTAL_MIB:
        print(f"warning: this is more than history.total_bytes ({TOTAL_MIB:.0f} MiB by default); jobs would be dropped early")
    if max(out["node_cpu"], out.get("ingest_cpu", 0)) > FULL:
        print(f"warning: more than {FULL:.0%} of a core; use more monitors")


def check(path):
    """Compares the model with measurements. Returns false if one is more than 20 % away.

    The file is a list of objects: {"name": …, "load": {inputs}, "measured": {outputs}, "floor": …}, with the names of --list. The floor
    is its CPU µs of a delivery in the same run. What was measured is scaled to FLOOR_US by it; without it, it is taken as it is.
    """
    with open(path, encoding="utf-8") as file:
        runs = json.load(file)
    rows, good = [], True
    for run in runs:
        wrong = set(run["load"]) - set(INPUTS)
        if wrong:
            sys.exit(f"{path}: {run['name']}: there is no input {sorted(wrong)[0]}; expected {', '.join(INPUTS)}")
        out = model(load_of(**run["load"]))
        for key, measured in run["measured"].items():
            if key not in out:
                sys.exit(f"{path}: {run['name']}: there is no output {key} of this load; expected {', '.join(out)}")
            floor = run.get("floor", FLOOR_US)
            scaled = measured * FLOOR_US / floor
            ratio = out[key] / scaled
            fits = 0.8 <= ratio <= 1.2
            good &= fits
            rows.append((run["name"], key, number(measured), number(floor), number(scaled), number(out[key]), f"{ratio:.2f}",
                         "" if fits else "NO"))
    table(("run", "what", "measured", "floor", "scaled", "model", "ratio", "within 20 %"), rows)
    return good


def main():
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    for name, (value, text) in INPUTS.items():
        parser.add_argument(f"--{name.replace('_', '-')}", type=type(value), help=f"{text} [{value}]")
    parser.add_argument("--link", type=int, default=10_000, help="network of Redis in the plan, in Mbit/s [10000]")
    parser.add_argument("--check", metavar="FILE", help="compare with what was measured")
    parser.add_argument("--list", action="store_true", help="print the names of the inputs and outputs for --check")
    arguments = parser.parse_args()
    if arguments.check:
        sys.exit(0 if check(arguments.check) else 1)
    if arguments.list:
        print("inputs:", ", ".join(INPUTS))
        print("outputs:", ", ".join(model(load_of(nodes=1))))
        return
    given = {name: getattr(arguments, name) for name in INPUTS if getattr(arguments, name) is not None}
    if given:
        detail(load_of(**given))
        return
    answers()
    capacity()
    plans(arguments.link)


if __name__ == "__main__":
    main()
