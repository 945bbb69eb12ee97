"""Many devices: what a compiled update moves between them, and how efficient that is on N hosts.

Collectives are counted in the compiled program of an update's solve for the A1 network, on eight devices made of one
CPU: what stands in the loop of CG happens once in each iteration. Efficiency follows from these counts:

    t(N) = s + r(N),    efficiency = s / t(N)

with s the measured seconds of a product at 7,500 examples a host, and r(N) those of an all-reduce of b bytes among N
hosts with bandwidth B and latency l: 2 (N - 1) / N b / B + 2 (N - 1) l in a ring, and 2 ceil(log2 N) (b / B + l) in a
tree; the faster one counts (Thakur, Rabenseifner and Gropp 2005).

Run: python benchmarks/scale.py [--keep]
"""

from __future__ import annotations

import json
import math
import os
import re
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

import arena

ROOT = Path(__file__).resolve().parents[1]
CASES = ROOT / "tests" / "devices" / "scale_cases.py"
SHAPE, BATCH, HOST_BATCH, ITERATIONS = [784, 1024, 512, 256, 32, 10], 1504, 7500, 20
RUNS, PRECISIONS = ("ffnet", "rnnet", "objective", "squares"), ("float32", "float64")
COLLECTIVES = ("all-reduce", "all-gather", "all-to-all", "collective-permute", "reduce-scatter")
#: Processes and devices for each, of which runs are compared with those of one device.
SPLITS = [(1, 2), (1, 4), (1, 8), (2, 1), (2, 2), (4, 1), (4, 2)]


class Network(NamedTuple):
    """What connects hosts or devices."""

    name: str
    bandwidth: float  # bytes a second
    latency: float  # seconds


LINKS = [
    Network("10 Gbit/s Ethernet", 10e9 / 8, 50e-6),
    Network("100 Gbit/s Ethernet", 100e9 / 8, 20e-6),
    Network("400 Gbit/s InfiniBand", 400e9 / 8, 5e-6),
]


#: Faster hosts: a product on two cores in a quiet hour, on more cores, and on a GPU.
OTHERS = (("159 ms", 0.159), ("50 ms", 0.05), ("a GPU, 1.5 ms", 1.5e-3))


def all_reduce_seconds(size: float, hosts: int, link: Network) -> float:
    """Of so many bytes among so many hosts, by the faster of a ring and a tree."""
    if hosts == 1:
        return 0.0
    ring = 2 * (hosts - 1) / hosts * size / link.bandwidth + 2 * (hosts - 1) * link.latency
    depth = math.ceil(math.log2(hosts))
    return min(ring, 2 * depth * (size / link.bandwidth + link.latency))


def counted() -> dict[str, Any]:
    """What the compiled solve holds, on 1, 2, 4 and 8 devices; run with eight of them."""
    import jax

    import hessianfree as hf
    from hessianfree.devices import meshes, placing
    from hessianfree.engine import system

    layers = [hf.nl.Linear(), *[hf.nl.ReLU()] * 4, hf.nl.Softmax()]
    net = hf.FFNet(SHAPE, layers=layers, rng=0)
    rng = np.random.RandomState(0)
    x = rng.rand(BATCH, SHAPE[0]).astype(np.float32)
    t = np.eye(SHAPE[-1], dtype=np.float32)[rng.randint(0, SHAPE[-1], BATCH)]
    net.cache_minibatch(x, t)
    params = net.params()
    numbers = system.Numbers(*map(np.float32, (1.0, 0.95, 5e-4)))
    found: dict[str, Any] = {"parameters": int(net.W.size)}
    for count in (1, 2, 4, 8):
        mesh = jax.sharding.Mesh(np.array(jax.devices()[:count]), ("examples",))
        parts = meshes.chosen(mesh)
        batch = placing.Placer(parts).of(net.batch_on_host(x, t)).batch
        plan = system.Plan(ITERATIONS, joined=True, parts=parts if count > 1 else None)
        jitted: Any = system.solve.jitted()  # type: ignore[attr-defined]
        program = jitted.lower(plan, net.problem(), params, batch, None, params, numbers).compile()
        cost = program.cost_analysis()
        flops = (cost[0] if isinstance(cost, list) else cost)["flops"]
        found[str(count)] = {"flops": flops, **collectives(program.as_text())}
    return found


def collectives(text: str) -> dict[str, list[str]]:
    """The collectives inside of loops and outside, by the shapes that they move."""
    inside: list[str] = []
    outside: list[str] = []
    name = ""
    bodies = set(re.findall(r"body=%?([\w.\-]+)", text))
    for line in text.splitlines():
        if line and not line[0].isspace():
            name = line.removeprefix("ENTRY ").lstrip("%").split(" ")[0]
        made = re.search(rf"= (.*?) ({'|'.join(COLLECTIVES)})(-start)?\(", line)
        if made:
            told = f"{made.group(2)} {re.sub(r'{[^}]*}', '', made.group(1))}"
            (inside if name in bodies else outside).append(told)
    return {"in an iteration": inside, "besides": outside}


def agreement(folder: Path) -> list[dict[str, Any]]:
    """The largest difference from one device after twenty updates, for each case, precision and split."""
    names = [
        f"{case}-{dtype}" for case in ("ffnet", "rnnet", "objective", "squares") for dtype in ("float32", "float64")
    ]
    alone = _weights(1, 1, folder, names)
    rows = []
    for processes, devices in SPLITS:
        found = _weights(processes, devices, folder, names)
        apart = {name: float(abs(found[name] - alone[name]).max()) for name in names}
        rows.append({"processes": processes, "devices each": devices, **apart})
        print(rows[-1], flush=True)
    return rows


def _weights(processes: int, devices: int, folder: Path, names: list[str]) -> dict[str, Any]:
    file, port = folder / f"{processes}-{devices}.npz", str(20_000 + os.getpid() % 20_000 + 10 * processes + devices)
    environment = {**os.environ, "XLA_FLAGS": f"--xla_force_host_platform_device_count={devices}"}
    command = [sys.executable, str(CASES), str(processes)]
    rest = [port, str(devices), str(file), *names]
    started = [
        subprocess.Popen([*command, str(rank), *rest], env=environment, stderr=subprocess.DEVNULL)
        for rank in range(processes)
    ]
    if any(process.wait() for process in started):
        raise RuntimeError(f"{processes} processes with {devices} devices have failed")
    return dict(np.load(file))


def main() -> None:
    """Count, measure a product, compute the efficiency, and compare runs."""
    if sys.argv[1:] == ["count"]:
        print(json.dumps(counted()))
        return
    environment = {**os.environ, "XLA_FLAGS": "--xla_force_host_platform_device_count=8"}
    told = subprocess.run(
        [sys.executable, __file__, "count"], env=environment, capture_output=True, text=True, check=True
    )
    counts = json.loads(told.stdout)
    seconds = _product_seconds()
    size = 4 * counts["parameters"]
    eight = counts["8"]
    rows = [
        {"host": host, "link": link.name, **{f"N = {n}": _percent(s, size, n, link) for n in (2, 8, 32, 128, 1000)}}
        for host, s in ((f"this one, {1e3 * seconds:.0f} ms", seconds), *OTHERS)
        for link in LINKS
    ]
    if "--keep" in sys.argv:  # the differences on record, which take ten minutes
        differences = json.loads((arena.RESULTS / "scale.json").read_text())["differences"]
    else:
        with tempfile.TemporaryDirectory() as folder:
            differences = agreement(Path(folder))
    worst = {
        dtype: max(row[name] for row in differences for name in row if dtype in name)
        for dtype in ("float32", "float64")
    }
    arena.report(
        "scale",
        "many devices: collectives of an update, and the efficiency that follows, A1 network, 7,500 examples a host",
        rows,
        {
            "collectives in an iteration of CG, 8 devices": "; ".join(eight["in an iteration"]),
            "in the rest of the solve": "; ".join(eight["besides"]),
            "flops of a device, 8 devices / 1 (1/8 = 0.125)": round(eight["flops"] / counts["1"]["flops"], 4),
            "efficiency, 8 hosts, 10 Gbit/s (bar 85 %)": f"{_percent(seconds, size, 8, LINKS[0])} %",
            "the same where a product takes 159 ms": f"{_percent(0.159, size, 8, LINKS[0])} %",
            "weights after 20 updates, largest difference, float32 (bar 1e-5)": f"{worst['float32']:.1e}",
            "weights after 20 updates, largest difference, float64 (bar 1e-11)": f"{worst['float64']:.1e}",
        },
        counts=counts,
        differences=differences,
    )


def _product_seconds() -> float:
    """The median of a product on this machine, at a host's batch."""
    import a1_product
    from hessianfree.console.measuring import product_seconds

    measure = product_seconds(a1_product.network(np.random.RandomState(0)))
    return arena.median(measure() for _ in range(7))


def _percent(seconds: float, size: float, hosts: int, link: Network) -> float:
    return round(100 * seconds / (seconds + all_reduce_seconds(size, hosts, link)), 1)


if __name__ == "__main__":
    main()
