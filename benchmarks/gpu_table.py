"""Writes the tables of h200.json into README.md; `gpu.py` calls it."""

import numpy as np
from record import HERE, fill, read_json


def epoch_lines(large: dict) -> list[str]:
    lines = []
    for way, one in large.items():
        if way != "made by":
            what = (
                f"an epoch of every position at ML-25M's size ({one['targets']:,} targets, rows of "
                f"up to 200, {one['rows a step']:,} a step), {way}"
            )
            figures = (
                f"{one['seconds']} s, {one['targets a second']:,} targets a second, device busy "
                f"{one['busy, %']:.0f} % of the time, at most {one['peak GiB']} GiB"
            )
            lines.append(f"| {what} | {figures} |")
    full = large["full softmax"]
    kernels = full["shares of the device's time, %"].items()
    flash = sum(share for name, share in kernels if "flash" in name)
    peak = 100 * full["share of the bfloat16 peak"]
    return [
        *lines,
        f"| its matrix products | {full['products, TFLOP/s']:.0f} TFLOP/s, {peak:.0f} % of what "
        "this device reaches on large ones in bfloat16 |",
        "| the part of the device's time that the catalogue's fused attention takes | "
        f"{flash:.0f} % |",
    ]


def training_lines(medium: dict) -> list[str]:
    ways = {way: one for way, one in medium.items() if isinstance(one, dict)}
    steps = [(way, one["a step, ms"]) for way, one in ways.items() if "a step, ms" in one]
    return [
        f"| ML-1M's size (planted, {medium['items']:,} items, {medium['targets']:,} targets in "
        f"{medium['steps']:,} steps) | best validation after "
        f"{medium['seconds to the best validation']} s; all of it, with six looks at the "
        f"validation users, {medium['seconds in all']} s |",
        f"| its step | {'; '.join(f'{way} {ms:.0f} ms' for way, ms in steps)} |",
    ]


def loss_lines(softmax: dict) -> list[str]:
    what = "the loss of 65,536 rows over 59,047 items, forward and backward"
    return [
        f"| {what}, {way} | {one['ms']} ms, {one['peak MiB above its inputs']} MiB |"
        for way, one in softmax.items()
        if way != "made by"
    ]


def repeat_line(repeats: dict) -> str:
    ways = {way: one for way, one in repeats.items() if way != "made by"}
    bits = [
        f"{'the same bits' if one['same bits'] else 'other bits'}, {one['seconds']} s"
        for one in ways.values()
    ]
    return f"| the same training twice: {'; '.join(ways)} | {'; '.join(bits)} |"


def agreement_lines(parts: dict) -> list[str]:
    """Differences of GPU and CPU by model, pooled over the runs of this part."""
    pairs: dict[str, list[float]] = {}
    for name, part in parts.items():
        if name.startswith("agreement"):
            for key, one in part["ndcg@20 of the test users"].items():
                seeds = zip(one["cpu, by seed"], one["gpu, by seed"])
                pairs.setdefault(key, []).extend(gpu - cpu for cpu, gpu in seeds)
    what = "NDCG@20 of the test users, GPU less CPU"
    lines = [f"| {what} | mean over seeds | its standard error | seeds |", "|---|---|---|---|"]
    for key, values in pairs.items():
        error = np.std(values, ddof=1) / len(values) ** 0.5
        lines.append(f"| {key} | {np.mean(values):+.4f} | {error:.4f} | {len(values)} |")
    return lines


def write_table() -> None:
    parts = read_json(HERE / "h200.json")
    about = parts["large"]["made by"]
    versions = f"torch {about['versions']['torch']}, CUDA {about['cuda']}"
    lines = [
        f"{about['device']}, {versions}, {about['date']}.",
        "",
        "| what | figure |",
        "|---|---|",
        *epoch_lines(parts["large"]),
        *training_lines(parts["medium"]),
        *loss_lines(parts["softmax"]),
        repeat_line(parts["repeats"]),
        "",
        *agreement_lines(parts),
    ]
    fill("gpu", lines)


if __name__ == "__main__":
    write_table()
