"""Peaks are of the GPUs that drivers name so, and of no other."""

import pytest

from stoa.costs.devices import GPUS, gpu_named, peak_tflops


@pytest.mark.parametrize(
    ("driver", "fp16", "bf16", "fp32"),
    [
        ("Tesla V100-SXM2-16GB", 125, None, 15.7),
        ("Tesla V100-SXM2-32GB", 125, None, 15.7),
        ("Tesla V100-SXM3-32GB", 125, None, 15.7),
        ("NVIDIA A100-SXM4-40GB", 312, 312, 19.5),
        ("NVIDIA A100-SXM4-80GB", 312, 312, 19.5),
        ("NVIDIA H100 80GB HBM3", 989, 989, 67),
        ("NVIDIA H200", 989, 989, 67),
    ],
)
def test_a_driver_s_name(driver, fp16, bf16, fp32):
    assert [peak_tflops(driver, precision) for precision in ("fp16", "bf16", "fp32")] == [fp16, bf16, fp32]


@pytest.mark.parametrize(
    "driver",
    [
        "Tesla V100-PCIE-32GB",
        "NVIDIA H100 PCIe",
        "NVIDIA H100 NVL",
        "NVIDIA H200 NVL",
        "NVIDIA GH200 480GB",
        "Tesla T4",
        "cpu",
    ],
)
def test_slower_cards_of_the_same_chip_are_not_taken_for_it(driver):
    assert peak_tflops(driver, "fp16") is None


@pytest.mark.parametrize(
    ("said", "name"),
    [("h200", "H200"), ("V100-32GB", "V100-32"), ("NVIDIA A100-80GB", "A100-80"), ("a100 40", "A100-40")],
)
def test_the_names_that_people_give(said, name):
    assert gpu_named(said, "--gpu").name == name


@pytest.mark.parametrize(
    ("said", "advice"),
    [
        ("V100", "did you mean V100-32?"),
        ("H20", "did you mean H200?"),
        ("A100-8", "did you mean A100-80?"),
        ("RTX 4090", "known are"),
        ("", "known are"),
    ],
)
def test_another_name_is_met_by_the_nearest(said, advice):
    with pytest.raises(ValueError, match=r"--gpu .* is no GPU known here") as caught:
        gpu_named(said, "--gpu")
    assert advice in str(caught.value)
    assert all(gpu.name in str(caught.value) for gpu in GPUS)
