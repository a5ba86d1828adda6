"""The results of a benchmark as rows for JSON and as tables."""

import contextlib
import importlib.metadata
import os
import platform
from collections.abc import Sequence
from typing import Any

import jax

from gz_jax.benchmark import roofline, timing
from gz_jax.benchmark.peers import cores, kind
from gz_jax.benchmark.roofline import Ceilings
from gz_jax.benchmark.timing import Stage

PACKAGES = ("jax", "jaxlib", "flax", "optax", "numpy", "pillow", "tensorflow-cpu", "tensorflow")


def row(stage: Stage, samples: Sequence[float], ceilings: Ceilings) -> dict[str, Any]:
    """One stage's numbers; `seconds` are of one call, over `images` galaxies."""
    median, low, high = timing.middle(samples)
    found = {
        "name": stage.name,
        "images": stage.images,
        "seconds": list(samples),
        "median_seconds": median,
        "quartiles": [low, high],
        "images_per_second": stage.images / median,
    }
    if stage.cost:
        fraction, bound = roofline.fraction(stage.cost, median, ceilings)
        found |= {**stage.cost._asdict(), "roofline_fraction": fraction, "bound_by": bound}
    return found


def stage_table(rows: Sequence[dict[str, Any]]) -> str:
    """The stages as a table in Markdown, one line for each."""
    lines = [["stage", "images", "ms", "quartiles", "images/s", "GFLOP", "MB", "of roofline"]]
    for r in rows:
        low, high = (f"{1e3 * q:.3g}" for q in r["quartiles"])
        line = [r["name"], str(r["images"]), f"{1e3 * r['median_seconds']:.3g}", f"{low} to {high}"]
        line.append(f"{r['images_per_second']:,.0f}")
        if "flops" in r:
            share = f"{r['roofline_fraction']:.0%} ({r['bound_by']})"
            line += [f"{r['flops'] / 1e9:.3g}", f"{r['bytes'] / 1e6:,.0f}", share]
        lines.append(line + [""] * (8 - len(line)))
    return markdown(lines)


def peer_rows(rows: Sequence[dict[str, Any]], peers: Sequence[str]) -> list[dict[str, Any]]:
    """gz_jax against each peer, from rows named 'forward', 'forward, torch' and so on, timed in the same rounds.

    If the forward pass was timed at several batch sizes, a last row for each peer compares the fastest size of each.
    """
    by_name = {r["name"]: r for r in rows}
    names = [name for name in by_name if ", " not in name]
    found = [
        _against(name, peer, by_name[name], by_name[theirs])
        for name in names
        for peer in peers
        if (theirs := f"{name}, {peer}") in by_name
    ]
    if _has_sizes(rows):
        forward = [name for name in names if kind(name) == "forward"]
        for peer in peers:
            sides = [[by_name[name] for name in forward], [by_name[f"{name}, {peer}"] for name in forward]]
            found.append(_against("forward, best of each", peer, *(max(side, key=_rate) for side in sides)))
    return found


def _rate(row: dict[str, Any]) -> float:
    return row["images_per_second"]


def _has_sizes(rows: Sequence[dict[str, Any]]) -> bool:
    return sum(kind(r["name"]) == "forward" and ", " not in r["name"] for r in rows) > 1


def _against(name: str, peer: str, ours: dict[str, Any], theirs: dict[str, Any]) -> dict[str, Any]:
    sides = {"ours": ours, "theirs": theirs}
    each = [[seconds / side["images"] for seconds in side["seconds"]] for side in sides.values()]
    median, low, high = timing.ratio(*each)
    rates = {which: _rate(side) for which, side in sides.items()}
    images = [ours["images"], theirs["images"]]
    return {"name": name, "peer": peer, "images": images, **rates, "ratio": median, "range": [low, high]}


def peer_table(rows: Sequence[dict[str, Any]]) -> str:
    """Images per second of both, and the median and range over the rounds of their ratio, in Markdown."""
    lines = [["", "batch", "peer", "gz_jax images/s", "peer images/s", "gz_jax / peer", "smallest to largest"]]
    for r in rows:
        batch = " and ".join(map(str, dict.fromkeys(r["images"])))  # ours and theirs
        rates = [f"{r[side]:,.0f}" for side in ("ours", "theirs")]
        ratio = [f"{r['ratio']:.2f}", " to ".join(f"{x:.2f}" for x in r["range"])]
        lines.append([r["name"], batch, r["peer"], *rates, *ratio])
    return markdown(lines)


def batch_table(rows: Sequence[dict[str, Any]]) -> str:
    """Images per second of the forward pass at each batch size, for gz_jax and the peers, in Markdown."""
    forward = [r for r in rows if kind(r["name"]) == "forward"]
    sizes = sorted({r["images"] for r in forward})
    rates = {(r["name"].partition(", ")[2] or "gz_jax", r["images"]): f"{_rate(r):,.0f}" for r in forward}
    lines = [[who, *(rates[who, size] for size in sizes)] for who in dict.fromkeys(who for who, _ in rates)]
    return markdown([["forward, images/s at batch", *map(str, sizes)], *lines])


def markdown(lines: Sequence[Sequence[str]]) -> str:
    """Cells as a Markdown table that is also aligned for a terminal; the first line is the header."""
    widths = [max(len(line[i]) for line in lines) for i in range(len(lines[0]))]
    padded = ["| " + " | ".join(c.ljust(w) for c, w in zip(line, widths, strict=True)) + " |" for line in lines]
    return "\n".join([padded[0], "|" + "|".join("-" * (w + 2) for w in widths) + "|", *padded[1:]])


def text(found: dict[str, Any]) -> str:
    """The content of benchmark.md: a list of facts, and the tables."""
    c, model, device = found["config"], found["config"]["model.name"], found["device"]
    rates = {r["name"]: r["images_per_second"] for r in found["stages"]}
    top, peak = found["ceilings"], found["peak_bytes"]
    sizes = [f"{name} {size / 1e9:.2f} GB" if size else f"{name} not reported" for name, size in peak.items()]
    facts = [
        f"{model}, {c['data.size']} px, batch {c['batch_size']}, {c['model.dtype']}, {found['data']} galaxies; "
        f"{device['count']} x {device['kind']}, {found['host']['cores']} cores (load {found['host']['load']}); "
        f"jax {found['versions']['jax']}",
        f"ceilings of one device: {top['flops'] / 1e9:,.0f} GFLOP/s (matrix product), "
        f"{top['bytes'] / 1e9:,.1f} GB/s (adding in place)",
        "seconds to compile, then with the cache on disk: "
        + ", ".join(f"{name} {t['cold']:.1f}, {t['warm']:.1f}" for name, t in found["compile_seconds"].items()),
        f"peak memory before any peer was loaded: {', '.join(sizes)}",
    ]
    for name in rates:
        if name.startswith(("decode and warp", "epoch")):
            facts.append(f"{name}: {rates[name] / rates['train step']:.2f} times the rate of the train step alone")
    if packages := {name: version for each in found["peer_packages"].values() for name, version in each.items()}:
        facts.append(f"peers: {', '.join(f'{name} {version}' for name, version in packages.items())}")
    facts += [f"not measured: {line}" for line in found["missing"]]
    tables = [stage_table(found["stages"])]
    if found["peers"]:
        tables.append(peer_table([r for r in found["peers"] if " (" not in r["name"]]))
    if _has_sizes(found["peer_samples"]):  # benchmark.json has the ratios at each size
        tables.append(batch_table(found["peer_samples"]))
    return "\n\n".join(["\n".join(f"- {fact}" for fact in facts), *tables]) + "\n"


def circumstances() -> dict[str, Any]:
    """Versions, device and machine."""
    versions = {"python": platform.python_version()}
    for name in PACKAGES:
        with contextlib.suppress(importlib.metadata.PackageNotFoundError):
            versions[name] = importlib.metadata.version(name)
    device = jax.devices()[0]
    return {
        "versions": versions,
        "device": {"kind": device.device_kind, "count": jax.device_count(), "platform": device.platform},
        "host": {
            "cores": cores(),
            "machine": platform.platform(),
            "load": [round(x, 1) for x in os.getloadavg()],
        },
    }
