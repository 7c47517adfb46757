"""Which device is used, and that a GPU asked for is never silently replaced."""

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from sicnn_app.errors import DeviceError, UsageError
from sicnn_app.settings import ResourceSettings
from sicnn_app.system.device import choose_device, describe_device, limit_threads


@pytest.fixture
def no_gpu(monkeypatch):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)


@pytest.fixture
def two_gpus(monkeypatch):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)
    monkeypatch.setattr(torch.cuda, "get_device_name", lambda device: f"GPU {device}")


def test_auto_without_a_gpu_takes_the_cpu_and_says_so(no_gpu):
    assert choose_device("auto") == ("cpu", "no CUDA device was found")


@pytest.mark.parametrize("requested", ["cuda", "cuda:0", "cuda:3"])
def test_a_gpu_that_is_not_there_is_an_error_that_names_the_way_out(no_gpu, requested):
    with pytest.raises(DeviceError, match=rf"--device {requested}: .*--gpus all.*--device cpu"):
        choose_device(requested)


@pytest.mark.parametrize(
    ("requested", "device"), [("auto", "cuda:0"), ("cuda", "cuda:0"), ("cuda:1", "cuda:1"), ("cpu", "cpu")]
)
def test_a_gpu_that_is_there_is_used(two_gpus, requested, device):
    chosen, reason = choose_device(requested)
    assert chosen == device
    assert reason == ("--device cpu" if device == "cpu" else f"GPU {device[-1]} was found")


def test_a_number_beyond_the_last_gpu_is_an_error(two_gpus):
    with pytest.raises(DeviceError, match="--device cuda:2: there are 2 CUDA devices, numbered from 0"):
        choose_device("cuda:2")


def test_the_record_names_the_model_of_a_gpu(two_gpus):
    assert describe_device("cpu") == "cpu"
    assert describe_device("cuda:1") == "cuda:1 GPU cuda:1"


@given(st.text(max_size=12).filter(lambda text: text not in ("auto", "cpu", "cuda")))
def test_no_other_word_is_a_device(text):
    if text.startswith("cuda:") and text[5:].isdecimal():
        assert ResourceSettings(device=text).device == text
    else:
        with pytest.raises(UsageError, match="--device must be"):
            ResourceSettings(device=text)


def test_the_number_of_threads_is_the_one_asked_for():
    before = torch.get_num_threads()
    try:
        limit_threads(1)
        assert torch.get_num_threads() == 1
        assert torch.backends.cudnn.deterministic
        assert not torch.backends.cudnn.benchmark
    finally:
        torch.set_num_threads(before)


@pytest.mark.gpu
def test_auto_takes_the_gpu_of_this_machine():
    if not torch.cuda.is_available():
        pytest.skip("no CUDA device here")
    device, _ = choose_device("auto")
    assert device == "cuda:0"
    assert torch.ones(1, device=device).item() == 1.0
    assert torch.cuda.get_device_name(0) in describe_device(device)
