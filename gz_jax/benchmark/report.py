"""What was timed, as JSON-ready rows and as tables."""

from collections.abc import Sequence
from typing import Any

from gz_jax.benchmark import roofline, timing
from gz_jax.benchmark.roofline import Ceilings
from gz_jax.benchmark.timing import Stage


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
    """The stages in Markdown, a line each."""
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
    """Ours against each peer, from rows named 'forward', 'forward, torch' and so on, timed in the same rounds."""
    by_name = {r["name"]: r for r in rows}
    found = []
    for name in (r["name"] for r in rows if ", " not in r["name"]):
        for peer in peers:
            other = by_name[f"{name}, {peer}"]
            median, low, high = timing.ratio(by_name[name]["seconds"], other["seconds"])
            rates = {"ours": by_name[name]["images_per_second"], "theirs": other["images_per_second"]}
            found.append({"name": name, "peer": peer, **rates, "ratio": median, "range": [low, high]})
    return found


def peer_table(rows: Sequence[dict[str, Any]]) -> str:
    """Images per second of both, and the ratio round by round, in Markdown."""
    lines = [["", "peer", "gz_jax images/s", "peer images/s", "gz_jax / peer", "smallest to largest"]]
    for r in rows:
        rates = [f"{r[side]:,.0f}" for side in ("ours", "theirs")]
        lines.append([r["name"], r["peer"], *rates, f"{r['ratio']:.2f}", " to ".join(f"{x:.2f}" for x in r["range"])])
    return markdown(lines)


def markdown(lines: Sequence[Sequence[str]]) -> str:
    """Cells as a Markdown table that is also aligned for a terminal; the first line is the header."""
    widths = [max(len(line[i]) for line in lines) for i in range(len(lines[0]))]
    padded = ["| " + " | ".join(c.ljust(w) for c, w in zip(line, widths, strict=True)) + " |" for line in lines]
    return "\n".join([padded[0], "|" + "|".join("-" * (w + 2) for w in widths) + "|", *padded[1:]])


def text(found: dict[str, Any]) -> str:
    """Everything in words and tables, as Markdown."""
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
    facts += [f"not measured: {line}" for line in found["missing"]]
    tables = [stage_table(found["stages"])]
    if found["peers"]:
        tables.append(peer_table(found["peers"]))
    return "\n\n".join(["\n".join(f"- {fact}" for fact in facts), *tables]) + "\n"
