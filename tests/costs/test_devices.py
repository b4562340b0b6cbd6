"""GPUs are known by their drivers' names, and a name that is not known is not guessed."""

import pytest

from stoa.costs.devices import GPUS, named, of_driver, peak_tflops

DRIVERS = {
    "Tesla V100-SXM2-16GB": "V100-16",
    "Tesla V100-SXM2-32GB": "V100-32",
    "Tesla V100-SXM3-32GB": "V100-32",
    "NVIDIA A100-SXM4-40GB": "A100-40",
    "NVIDIA A100-SXM4-80GB": "A100-80",
    "NVIDIA H100 80GB HBM3": "H100",
    "NVIDIA H200": "H200",
}


@pytest.mark.parametrize("driver", DRIVERS)
def test_a_driver_s_name(driver):
    gpu = of_driver(driver)
    assert gpu is not None
    assert gpu.name == DRIVERS[driver]


@pytest.mark.parametrize(
    "driver",
    [
        "Tesla V100-PCIE-32GB",
        "NVIDIA H100 PCIe",
        "NVIDIA H100 NVL",
        "NVIDIA H200 NVL",
        "NVIDIA GH200 480GB",
        "Tesla T4",
    ],
)
def test_slower_cards_of_the_same_chip_are_not_taken_for_it(driver):
    assert of_driver(driver) is None


@pytest.mark.parametrize(("name", "near"), [("h200", "H200"), ("V100-32GB", "V100-32"), ("A100", "A100-40")])
def test_an_unknown_name_is_met_by_the_nearest(name, near):
    with pytest.raises(ValueError, match=f"--gpu '{name}' is not known; did you mean '{near}'"):
        named(name)


def test_no_name_is_near():
    with pytest.raises(ValueError, match="expected one of V100-16, V100-32"):
        named("zzz")


def test_each_name_is_its_own():
    assert all(named(name).name == name for name in GPUS)


def test_peaks_are_of_known_devices_alone():
    assert peak_tflops("NVIDIA H200", "bf16") == 989
    assert peak_tflops("Tesla V100-SXM2-32GB", "bf16") is None
    assert peak_tflops("cpu", "fp32") is None
