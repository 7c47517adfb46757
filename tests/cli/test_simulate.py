import subprocess
import sys

import numpy as np
import pytest

import sicnn_app
from sicnn_app.cli import simulate as cli
from sicnn_app.cli.simulate import build_parser, main
from sicnn_app.phantoms.acquire import DEFAULT_BVALS

SMALL = ["--shape", "12", "11", "2"]


@pytest.mark.parametrize("preset", ["abdomen", "brain"])
def test_writes_a_dataset_with_the_default_bvals(tmp_path, preset, capsys):
    assert main([str(tmp_path / "ds"), "--preset", preset, *SMALL]) == 0
    bvals = np.loadtxt(tmp_path / "ds/sub-01/dwi/sub-01_dwi.bval")
    np.testing.assert_array_equal(bvals, DEFAULT_BVALS[preset])
    assert "files" in capsys.readouterr().out


def test_both_spellings_of_a_flag_are_the_same(tmp_path):
    flags = {"-": ["--b0-repeats", "3", "--inherit-bval"], "_": ["--b0_repeats=3", "--inherit_bval"]}
    made = []
    for name, words in flags.items():
        assert main([str(tmp_path / name), "--preset=brain", *SMALL, *words]) == 0
        made.append(sorted(p.read_bytes() for p in (tmp_path / name).rglob("*") if p.is_file()))
    assert made[0] == made[1]


def test_the_command_in_the_readme_makes_the_dataset_again(tmp_path):
    words = ["--preset", "brain", *SMALL, "--bvals", "0", "7.5", "90", "--snr", "inf", "--repeats", "2"]
    words += [
        "--b0-repeats",
        "1",
        "--directions",
        "3",
        "--subjects",
        "2",
        "--sessions",
        "1",
        "--random-seed",
        "9",
    ]
    words += ["--texture", "0.2", "--between-subject-variation", "0", "--inherit-bval"]
    words += ["--anatomy", "random", "--values", "drawn", "--deformation", "0.2", "--partial-volume", "2"]
    words += ["--shading", "0.3", "--equal-s0", "--lesions", "1", "--lesion-voxels", "1", "2"]
    words += ["--correlation-length", "2", "--pulsation", "0.1", "--losses", "1", "--g-factor", "2"]
    assert main([str(tmp_path / "a"), *words]) == 0
    readme = (tmp_path / "a" / "README.md").read_text()
    command = next(line for line in readme.splitlines() if "sicnn-simulate OUT_BIDS" in line).split()
    assert main([str(tmp_path / "b"), *command[2:]]) == 0
    made = [
        {p.relative_to(root): p.read_bytes() for p in root.rglob("*") if p.is_file()}
        for root in (tmp_path / "a", tmp_path / "b")
    ]
    assert made[0] == made[1]


def test_choices_that_are_as_usual_change_no_byte(tmp_path):
    words = "--anatomy drawing --values literature --deformation 0 --partial-volume 1 --shading 0 "
    words += "--lesions 0 --lesion-voxels 2 4 --correlation-length 4 --pulsation 0 --losses 0 --g-factor 1"
    assert main([str(tmp_path / "a"), "--preset", "abdomen", *SMALL]) == 0
    assert main([str(tmp_path / "b"), "--preset", "abdomen", *SMALL, *words.split()]) == 0
    made = [
        {p.relative_to(root): p.read_bytes() for p in root.rglob("*") if p.is_file()}
        for root in (tmp_path / "a", tmp_path / "b")
    ]
    assert made[0] == made[1]


@pytest.mark.parametrize(
    "words",
    [
        [],
        ["--preset", "knee"],
        ["--preset", "brain", "--no-such-flag"],
        ["--preset", "brain", "--sub", "2"],
        ["--preset", "brain", "--snr", "loud"],
        ["--preset", "brain", "--snr", "0"],
        ["--preset", "brain", "--bvals", "0", "-10"],
        ["--preset", "brain", "--repeats", "0"],
        ["--preset", "brain", "--shape", "0", "3", "3"],
        ["--preset", "brain", "--random-seed", "-1"],
        ["--preset", "brain", "--anatomy", "knee"],
        ["--preset", "abdomen", "--values", "contrasts"],
        ["--preset", "abdomen", "--partial-volume", "0"],
        ["--preset", "abdomen", "--lesion-voxels", "3", "2"],
        ["--preset", "abdomen", "--g-factor", "0.5"],
        ["--preset", "abdomen", "--shape", "8", "8", "1", "--lesions", "99"],
        ["--preset", "abdomen", "--assess", "--losses", "1"],
    ],
)
def test_usage_errors_are_64_in_one_line_and_write_nothing(tmp_path, words, capsys):
    assert main([str(tmp_path / "ds"), *words]) == 64
    message = capsys.readouterr().err.strip()
    assert message.startswith("sicnn-simulate: error:")
    assert "\n" not in message
    assert not (tmp_path / "ds").exists() or not list((tmp_path / "ds").iterdir())


def test_a_folder_with_content_is_64_and_overwrite_replaces_it(tmp_path, capsys):
    words = [str(tmp_path / "ds"), "--preset", "brain", *SMALL]
    assert main(words) == 0
    assert main(words) == 64
    assert "--overwrite" in capsys.readouterr().err
    assert main([*words, "--overwrite"]) == 0


@pytest.mark.parametrize("place", ["file", "file/below"])
def test_an_output_that_cannot_be_made_is_73(tmp_path, place, capsys):
    (tmp_path / "file").write_text("")
    assert main([str(tmp_path / place), "--preset", "brain", *SMALL]) == 73
    assert str(tmp_path / place) in capsys.readouterr().err


def test_a_bug_is_70_and_interruption_130_without_traceback(tmp_path, monkeypatch, capsys):
    for raised, code in ((ZeroDivisionError("boom"), 70), (KeyboardInterrupt(), 130)):

        def broken(*_args, raised=raised, **_options):
            raise raised

        monkeypatch.setattr(cli, "write_dataset", broken)
        assert main([str(tmp_path / "ds"), "--preset", "brain"]) == code
        assert "Traceback" not in capsys.readouterr().err
    monkeypatch.setattr(cli, "write_dataset", lambda *_args, **_options: 1 / 0)
    assert main([str(tmp_path / "ds"), "--preset", "brain", "-vv"]) == 70
    assert "Traceback" in capsys.readouterr().err


def test_help_states_every_default_and_what_snr_means():
    text = " ".join(build_parser().format_help().split())
    required = {"-h", "--preset", "--version"}
    for action in build_parser()._actions:
        if action.option_strings and not required & set(action.option_strings):
            assert "(default:" in action.help, action.option_strings
    assert "standard deviation of the Gaussian noise" in text
    assert "400 600" in text


def test_version_and_no_torch():
    code = "import sys; import sicnn_app.cli.simulate; print('torch' in sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "False"
    with pytest.raises(SystemExit) as stop:
        main(["--version"])
    assert stop.value.code == 0


def test_version_is_the_packages(capsys):
    with pytest.raises(SystemExit):
        main(["--version"])
    assert capsys.readouterr().out.strip() == f"sicnn-simulate {sicnn_app.__version__}"
