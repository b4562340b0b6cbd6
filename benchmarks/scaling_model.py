"""What is modelled of a recipe on up to 1,024 GPUs, the same model against what others have published, and the tables
of docs/scaling.md.

    python benchmarks/scaling_model.py --out benchmarks/results/scaling-model.json
    python benchmarks/scaling_model.py --tables

Of a published run its own model, batch and machines are given, and the passes take what makes its smallest number of
GPUs as fast as published. What is compared is the efficiency from there on.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from stoa.config import parse_run
from stoa.costs.devices import gpu_named
from stoa.objectives.gather import Collective
from stoa.planning.links import Cluster, communication, gathering, traffic, waiting
from stoa.planning.reading import PROCESS_FRAMES, SLOWER, decoder_clips
from stoa.planning.request import Request, plan

RESULTS = Path(__file__).parent / "results"
MACHINES = {
    "V100-32": {"network_gbit": 100.0, "micro_batch": 32, "cores": 40},
    "H200": {"network_gbit": 3200.0, "micro_batch": 128, "cores": 112},
}
"""Of 8 GPUs: one port of 100 Gbit/s and DGX-1's cores, eight of 400 Gbit/s and DGX H200's."""


@dataclass(frozen=True)
class Published:
    """A run of others, each GPU with as much on any number of them.

    Attributes:
        source: where it stands, with its year.
        cluster: its machines; ``nodes`` is not read.
        parameters: of its model.
        bytes_each: of a gradient.
        stage: of ZeRO, or what corresponds to it; -1 is DDP, which reduces behind the backward pass.
        samples: of a GPU in a step.
        row_bytes: of a sample, that all GPUs gather for a contrastive loss.
        rates: samples/s of a GPU, by GPUs.
    """

    source: str
    cluster: Cluster
    parameters: float
    bytes_each: int
    stage: int
    samples: float
    row_bytes: int
    rates: Mapping[int, float]

    def seconds(self, passes: float, gpus: int) -> float:
        each = self.cluster.gpus_per_node
        cluster = self.cluster._replace(nodes=gpus // each)
        rows = gpus * self.samples * self.row_bytes
        sent = {Collective(name, rows): 1 for name in ("all_gather", "reduce_scatter")} if rows else {}
        size, bucket = self.parameters * self.bytes_each, 100e6
        if self.stage < 0:
            seen = max(0.0, gathering(traffic(1, size, bucket).behind, cluster) - passes * 2 / 3)
        else:
            seen = communication(self.stage, size, bucket, cluster, passes=passes)
        return passes + gathering(sent, cluster) + seen + waiting(passes, cluster)

    def passes(self) -> float:
        """Seconds that make the smallest number of GPUs as fast as published."""
        least = min(self.rates)
        low, high = 0.0, self.samples / self.rates[least]
        for _ in range(60):
            middle = (low + high) / 2
            low, high = (
                (low, middle) if self.seconds(middle, least) > self.samples / self.rates[least] else (middle, high)
            )
        return high

    def efficiencies(self) -> list[dict[str, float]]:
        least, passes = min(self.rates), self.passes()
        return [
            {
                "gpus": gpus,
                "from": least,
                "published": rate / self.rates[least],
                "modelled": self.seconds(passes, least) / self.seconds(passes, gpus),
            }
            for gpus, rate in self.rates.items()
            if gpus > least
        ]


def _machines(gpu: str, gpus_per_node: int, network_gbit: float) -> Cluster:
    return Cluster(gpu_named(gpu, "gpu"), 1, gpus_per_node, network_gbit)


def _of_nodes(rates: list[float], gpus_per_node: int) -> dict[int, float]:
    """Of 1, 2, 4 and so on machines' samples/s."""
    return {gpus_per_node * 2**power: rate / 2**power / gpus_per_node for power, rate in enumerate(rates)}


CLAP = [2495, 4966, 9865, 19572, 38512, 75008, 146767, 278833]
PUBLISHED = {
    "NeMo CLIP g/14, A100": Published(
        "NVIDIA NeMo's documentation, 2023",
        _machines("A100-80", 8, 1600),
        1.37e9,
        2,
        -1,
        80,
        4096,
        _of_nodes([559, 1115, 2190, 4407, 8633], 8),
    ),
    "NeMo CLIP g/14, H100": Published(
        "NVIDIA NeMo's documentation, 2023",
        _machines("H100", 8, 3200),
        1.37e9,
        2,
        -1,
        80,
        4096,
        _of_nodes([935, 1795, 3502, 6771, 13829], 8),
    ),
    "CLAP HTSAT-tiny, GH200": Published(
        "LAION-AI/open-clap-scaling", _machines("H100", 4, 800), 0.156e9, 4, -1, 616, 4096, _of_nodes(CLAP, 4)
    ),
    "Llama 3.1 8B, H100": Published(
        "torchtitan, llama3_h100_202412, 2024", _machines("H100", 8, 3200), 8.03e9, 2, 3, 16384, 0, {8: 5762, 128: 5605}
    ),
}

BERT_PHASES = ((403e6, 65536, 64, 272.0), (20e6, 32768, 8, 52.0))
"""Samples, batch, clips of a GPU in a pass, and samples/s of one GPU alone, all as published."""
BERT_MINUTES = {16: 1993.0, 64: 521.0, 256: 144.0, 1024: 44.0}


def bert_minutes(gpus: int) -> float:
    """DeepSpeed's BERT-Large, 336 M parameters in fp16, on DGX-2 machines (16 V100, 800 Gbit/s): the batch is the same
    on any number of GPUs. Gradients are reduced behind all passes of a step, hidden by none."""
    cluster = _machines("V100-32", 16, 800)._replace(nodes=gpus // 16)
    minutes = 0.0
    for samples, batch, size, rate in BERT_PHASES:
        passes = batch / gpus / rate
        assert batch / gpus >= size
        seen = communication(0, 336e6 * 2, 100e6, cluster, passes=passes)
        minutes += samples / batch * (passes + seen + waiting(passes, cluster)) / 60
    return minutes


def modelled(gpu: str) -> dict[str, Any]:
    """Of the recipe stoa on machines with 8 GPUs each."""
    given = MACHINES[gpu]
    config = parse_run(["--recipe", "recipes/stoa.yaml", "--deepspeed_config", "none"])
    asked = Request(
        gpu=gpu, nodes=16, network_gbit=given["network_gbit"], micro_batch=int(given["micro_batch"]), scaling=1024
    )
    found = plan(config, asked)
    assert found.scaling is not None
    rows, frames = found.scaling.as_json(), config.model.num_frames
    eaten = next(row["samples_per_second"] for row in rows if row["gpus"] == 8)
    cores = {files: given["cores"] * PROCESS_FRAMES / times / frames for files, times in SLOWER.items()}
    decoded = {**cores, "original files, NVDEC": decoder_clips(gpu_named(gpu, "gpu"), 8)}
    return {"modelled": True, **given, "rows": rows, "eaten by a machine": eaten, "decoded by a machine": decoded}


def published() -> dict[str, Any]:
    """Efficiencies, or minutes, as published and as modelled."""
    minutes = [
        {"gpus": gpus, "published": found, "modelled": bert_minutes(gpus)} for gpus, found in BERT_MINUTES.items()
    ]
    runs = {name: {"source": run.source, "rows": run.efficiencies()} for name, run in PUBLISHED.items()}
    return {"efficiency": runs, "minutes of BERT-Large": minutes}


def _table(heads: list[str], rows: list[list[str]]) -> str:
    return "\n".join("| " + " | ".join(row) + " |" for row in [heads, ["---"] * len(heads), *rows])


def tables(measured: dict[str, Any], model: dict[str, Any]) -> dict[str, str]:
    """Of docs/scaling.md, by what they are of."""

    def around(key: str, unit: str = "") -> str:
        one = measured[key]
        return f"{one['median']:.2f}{unit} ({one['lowest']:.2f} to {one['highest']:.2f})"

    found = {
        "measured": _table(
            ["", "median (lowest to highest)"],
            [
                ["a step of two processes of a run, over one of two apart", around("a run over apart")],
                ["the same, CPU seconds", around("a run over apart, CPU seconds")],
                ["a step of two processes apart, over one of a single process", around("apart over one")],
                ["its gradients and weights, sent by themselves", around("sent alone: gradients and weights", " s")],
                ["its clips for the losses, sent by themselves", around("sent alone: objectives", " s")],
                ["modelled: a run over apart", around("modelled: a run over apart")],
            ],
        )
    }
    for gpu, one in model["clusters"].items():
        heads = ["GPUs", "clips in a loss", "step, s", "passes", "clips of others", "gradients, weights", "waits"]
        rows = [
            [
                f"{row['gpus']:,}",
                f"{row['gpus'] * one['micro_batch']:,}",
                *(f"{row['seconds'][key]:.3f}" for key in ("total", "device", "gathering", "communication", "waiting")),
                f"{row['samples_per_second']:,.0f}",
                f"{row['efficiency']:.0%}",
            ]
            for row in one["rows"]
            if row["gpus"] >= 8
        ]
        found[gpu] = _table([*heads, "samples/s", "efficiency"], rows)
    decoded = {gpu: (one["decoded by a machine"], one["eaten by a machine"]) for gpu, one in model["clusters"].items()}
    found["decoding"] = _table(
        ["clips/s of a machine", *decoded],
        [
            ["its 8 GPUs take", *(f"{eaten:,.0f}" for _, eaten in decoded.values())],
            *(
                [files, *(f"{give[files]:,.0f} ({give[files] / eaten:.0%})" for give, eaten in decoded.values())]
                for files in next(iter(decoded.values()))[0]
            ),
        ],
    )
    checks = [
        [name, run["source"], f"{row['from']} to {row['gpus']}", f"{row['published']:.1%}", f"{row['modelled']:.1%}"]
        for name, run in model["published"]["efficiency"].items()
        for row in (run["rows"][-1],)
    ]
    found["published"] = _table(["run", "source", "GPUs", "published", "modelled"], checks)
    found["bert"] = _table(
        ["V100", "published, minutes", "modelled", "modelled over published"],
        [
            [
                f"{one['gpus']:,}",
                f"{one['published']:,.0f}",
                f"{one['modelled']:,.0f}",
                f"{one['modelled'] / one['published']:.2f}",
            ]
            for one in model["published"]["minutes of BERT-Large"]
        ],
    )
    return found


def read_results() -> tuple[dict[str, Any], dict[str, Any]]:
    measured, model = (json.loads((RESULTS / f"scaling-{name}.json").read_text()) for name in ("cpu", "model"))
    return measured, model


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, help="JSON file to write")
    parser.add_argument("--tables", action="store_true", help="print the tables of what is written")
    args = parser.parse_args()
    if args.tables:
        print("\n\n".join(f"{name}:\n\n{text}" for name, text in tables(*read_results()).items()))
        return
    found = {"clusters": {gpu: modelled(gpu) for gpu in MACHINES}, "published": published()}
    text = json.dumps(found, indent=2)
    print(text)
    if args.out:
        args.out.write_text(text + "\n")


if __name__ == "__main__":
    main()
