"""From the command line to settings, and from errors to exit codes."""

from __future__ import annotations

import json
import re
import signal
import subprocess
import sys
from difflib import SequenceMatcher
from pathlib import Path

import pytest
from app_runs import environment
from hypothesis import assume, given
from hypothesis import strategies as st

from sicnn_app import __version__
from sicnn_app.cli import dicom, simulate
from sicnn_app.cli.arguments import build_parser, parse
from sicnn_app.cli.main import main
from sicnn_app.errors import (
    DataError,
    DeviceError,
    InternalError,
    MissingInputError,
    NoRunsError,
    NotBidsError,
    OutputError,
    SicnnAppError,
    TryAgainError,
    UsageError,
)
from sicnn_app.methods import METHODS
from sicnn_app.pipeline import dispatch as workflow_module
from sicnn_app.settings import EstimationSettings, Settings, Threshold

BASE = ("bids", "out", "participant")
LABELS = st.text("abcXYZ0123456789", min_size=1, max_size=6)


def read(*options: str) -> Settings:
    return parse([*BASE, *options])


def refusal(*options: str) -> str:
    with pytest.raises(UsageError) as caught:
        read(*options)
    return str(caught.value)


@pytest.fixture
def workflow(monkeypatch):
    """Replaces the work by an error to raise or a code to return."""

    def replace(outcome):
        def run(settings, console):
            if isinstance(outcome, BaseException):
                raise outcome
            return outcome

        monkeypatch.setattr(workflow_module, "run", run)

    return replace


# flags


def test_the_three_positionals_are_enough():
    assert read() == Settings(bids_dir=Path("bids"), output_dir=Path("out"))


@pytest.mark.parametrize(
    ("words", "place", "value"),
    [
        ("--participant-label 01 sub-02", "selection.participant_label", ("01", "02")),
        ("--participant-label 01 sub-01 01", "selection.participant_label", ("01",)),
        ("--session-id ses-pre", "selection.session_id", ("pre",)),
        ("--session-label pre", "selection.session_id", ("pre",)),
        ("--acquisition-label acq-T70", "selection.acquisition_label", ("T70",)),
        ("--run-label run-01 2", "selection.run_label", ("01", "2")),
        ("--skip-bids-validation", "selection.skip_bids_validation", True),
        ("--bids-database-dir db", "selection.bids_database_dir", Path("db")),
        ("--combine acquisition", "selection.combine", "acquisition"),
        ("-d a=/x /y/seg", "inputs.derivatives", {"a": Path("/x"), "seg": Path("/y/seg")}),
        ("--derivatives /y/my?seg", "inputs.derivatives", {"my-seg": Path("/y/my?seg")}),
        ("-d /x --mask-desc brain", "inputs.mask_desc", "brain"),
        ("--anatomy brain", "preprocessing.anatomy", "brain"),
        ("--ignore-bvals 0 12.5", "preprocessing.ignore_bvals", (0.0, 12.5)),
        ("--max-bval 600", "preprocessing.max_bval", 600.0),
        ("--method di-cnn", "estimation.method", "di-cnn"),
        ("--fitting-threshold 0.03", "estimation.fitting_threshold", Threshold(0.03, "absolute")),
        ("--neighbour-threshold 2.5sigma", "estimation.neighbour_threshold", Threshold(2.5, "sigma")),
        ("--neighbour-radius 3", "estimation.neighbour_radius", 3),
        ("--update-rule predicted-neighbours", "estimation.update_rule", "predicted-neighbours"),
        ("--network-input training", "estimation.network_input", "training"),
        ("--rician", "estimation.rician", True),
        ("--lambda 0.1", "estimation.lambda_", Threshold(0.1, "absolute")),
        ("--lambda 0.1sigma", "estimation.lambda_", Threshold(0.1, "sigma")),
        ("--delta 0.2", "estimation.delta", 0.2),
        ("--max-iterations 0", "estimation.max_iterations", 0),
        ("--learning-rate 1e-4", "estimation.learning_rate", 1e-4),
        ("--batch-size 7", "estimation.batch_size", 7),
        ("--dropout 0.5", "estimation.dropout", 0.5),
        ("--random-seed 9", "estimation.random_seed", 9),
        ("--training-scope study", "estimation.training_scope", "study"),
        ("--device cuda:1", "resources.device", "cuda:1"),
        ("--omp-nthreads 3", "resources.omp_nthreads", 3),
        ("-w work", "resources.work_dir", Path("work")),
        ("--work-dir work", "work_dir", Path("work")),
        ("--dry-run", "dry_run", True),
        ("--reports-only", "reports_only", True),
        ("--boilerplate-only", "boilerplate_only", True),
        ("--stop-on-first-crash", "stop_on_first_crash", True),
        ("--overwrite", "overwrite", True),
        ("--clean-workdir", "clean_workdir", True),
        ("-vv", "verbosity", 2),
        ("-v -v -v", "verbosity", 3),
    ],
)
def test_every_flag_reaches_its_setting_in_both_spellings(words, place, value):
    for spelled in (words, " ".join(w.replace("-", "_").replace("__", "--", 1) if w.startswith("--") else w
                                    for w in words.split())):  # fmt: skip
        found = read(*spelled.split())
        for name in place.split("."):
            found = getattr(found, name)
        assert found == value, spelled


def test_the_help_warns_of_what_a_dask_scheduler_may_do():
    (action,) = (item for item in build_parser()._actions if "--dask-scheduler" in item.option_strings)
    assert "can run programs" in action.help
    assert "tls://" in action.help


def test_every_default_stands_in_the_help():
    """A flag that takes a value names its default; a label filter says that it means all."""
    silent = (
        "BIDS_DIR",
        "--bids-filter-file",
        "--bids-database-dir",
        "--mask-desc",
        "--bvals",
        "--config-file",
    )
    for action in build_parser()._actions:
        takes_value = action.nargs != 0 and action.option_strings
        if takes_value and not set(action.option_strings) & set(silent):
            assert "default:" in (action.help or ""), action.option_strings


def test_a_value_may_follow_an_equals_sign_and_keeps_its_underscores():
    settings = read("--work_dir=my_work", "--bids-database-dir", "my_db")
    assert settings.work_dir == Path("my_work")
    assert settings.selection.bids_database_dir == Path("my_db")


@given(label=LABELS, others=st.lists(LABELS, max_size=3))
def test_labels_are_the_same_with_and_without_prefix(label, others):
    plain = read("--participant-label", label, *others)
    prefixed = read("--participant_label", f"sub-{label}", *(f"sub-{other}" for other in others))
    assert plain == prefixed
    assert plain.selection.participant_label == tuple(dict.fromkeys([label, *others]))


@pytest.mark.parametrize("label", ["a_b", "sub-", "sub-01_ses-1", "*", "a/b", "ses-1"])
def test_what_is_no_label_is_refused(label):
    assert "no BIDS label" in refusal("--participant-label", label)


@given(st.floats(min_value=0, max_value=1e6, allow_nan=False))
def test_thresholds_are_absolute_or_in_sigma(value):
    absolute = read(f"--fitting-threshold={value!r}").estimation.fitting_threshold
    relative = read(f"--fitting-threshold={value!r}sigma").estimation.fitting_threshold
    assert (absolute, relative) == (Threshold(value, "absolute"), Threshold(value, "sigma"))


def test_a_preset_sets_what_it_names_and_flags_override_it():
    plain = read("--preset", "supplement").estimation
    assert plain.fitting_threshold == Threshold(0.03, "absolute")
    assert plain.neighbour_threshold == Threshold(0.02, "absolute")
    assert (str(plain.lambda_), plain.delta, plain.learning_rate) == ("0.01", 0.05, 1e-4)
    assert (plain.dropout, plain.batch_size, plain.max_iterations) == (0.01, 25, 200)
    table = read("--preset", "supplement-table").estimation
    assert (table.fitting_threshold.value, table.neighbour_threshold.value) == (0.02, 0.03)
    changed = read("--preset", "supplement", "--delta", "0.1", "--fitting-threshold", "auto").estimation
    assert changed.delta == 0.1
    assert changed.fitting_threshold == EstimationSettings().fitting_threshold
    assert changed.neighbour_threshold == plain.neighbour_threshold


# refusals


@pytest.mark.parametrize(
    ("words", "part"),
    [
        ("--participant-labels 01", "--participant-labels"),
        ("--part 01", "--part"),
        ("--method unet", "'unet'"),
        ("--preset best", "'best'"),
        ("--anatomy leg", "'leg'"),
        ("--combine subject", "'subject'"),
        ("--delta", "--delta"),
        ("--delta small", "'small'"),
        ("--delta 1", "--delta"),
        ("--delta nan", "--delta"),
        ("--lambda -1", "--lambda"),
        ("--lambda inf", "--lambda"),
        ("--learning-rate 0", "--learning-rate"),
        ("--learning-rate inf", "--learning-rate"),
        ("--batch-size 0", "--batch-size"),
        ("--dropout 1", "--dropout"),
        ("--max-iterations -1", "--max-iterations"),
        ("--random-seed -1", "--random-seed"),
        ("--random-seed 4294967296", "--random-seed"),
        ("--neighbour-radius 0", "--neighbour-radius"),
        ("--fitting-threshold -1", "--fitting-threshold"),
        ("--fitting-threshold 3%", "2.5sigma"),
        ("--neighbour-threshold nan", "threshold"),
        ("--omp-nthreads 0", "--omp-nthreads"),
        ("--device gpu", "--device"),
        ("--max-bval 0", "--max-bval"),
        ("--max-bval inf", "--max-bval"),
        ("--ignore-bvals -5", "--ignore-bvals"),
        ("--mask-desc brain", "--derivatives"),
        (
            "--method lsq --update-rule own-prediction",
            "--update-rule own-prediction contradicts --method lsq",
        ),
        ("--training-scope all", "'all'"),
        ("--method lsq --training-scope study", "--training-scope study contradicts --method lsq"),
        ("--dry-run --reports-only", "--dry-run and --reports-only"),
        ("--reports-only --boilerplate-only", "contradict"),
        ("-d /x/seg /y/seg", "'seg'"),
        ("extra", "extra"),
    ],
)
def test_usage_errors_name_the_culprit(words, part):
    assert part in refusal(*words.split())


LONG_FLAGS = sorted(flag for flag in build_parser()._option_string_actions if len(flag) > 8)


@given(st.sampled_from(LONG_FLAGS), st.data())
def test_a_flag_with_one_wrong_letter_gets_the_one_that_was_meant(flag, data):
    place = data.draw(st.integers(2, len(flag) - 1))
    letter = data.draw(st.sampled_from(["", "x", flag[place] + "x", flag[place] * 2]))
    typed = flag[:place] + letter + flag[place + 1 :]
    assume(typed not in build_parser()._option_string_actions)
    with pytest.raises(UsageError, match=f"did you mean --[a-z-]+ instead of {typed}\\?") as refused:
        read(typed, "1")
    # Two flags can be equally near.
    named = re.search(r"did you mean (--[a-z-]+)", str(refused.value))[1]
    assert SequenceMatcher(None, named, typed).ratio() >= SequenceMatcher(None, flag, typed).ratio()


@pytest.mark.parametrize(
    ("words", "meant"),
    [
        ("bids out participant --partcipant_label 01 02", "--participant-label"),
        ("--metod lsq bids out participant", "--method"),
        ("bids out participant --max-iteration=4", "--max-iterations"),
        ("bids out participant -method lsq", "--method"),
        ("bids out participant --dryrun", "--dry-run"),
    ],
)
def test_what_was_meant_is_named_wherever_the_mistake_stands(words, meant):
    with pytest.raises(UsageError, match=f"did you mean {meant} instead of -"):
        parse(words.split())


@pytest.mark.parametrize(
    ("program", "words", "meant"),
    [(simulate, "--presset brain out", "--preset"), (dicom, "out --sorce there", "--source")],
)
def test_the_other_commands_name_what_was_meant_too(program, words, meant, capsys):
    assert program.main(words.split()) == UsageError.exit_code
    assert f"did you mean {meant} instead of -" in capsys.readouterr().err


@pytest.mark.parametrize("words", ["--colour red", "--gpu", "-x 1", "--zzz=1"])
def test_nothing_is_suggested_for_what_is_like_no_flag(words):
    assert "did you mean" not in refusal(*words.split())


def test_a_mistyped_key_of_the_configuration_file_gets_the_one_that_was_meant(tmp_path):
    (tmp_path / "c.toml").write_text("max_iteratons = 4\n")
    assert "did you mean --max-iterations" in refusal("--config-file", str(tmp_path / "c.toml"))


@pytest.mark.parametrize("argv", [(), ("bids",), ("bids", "out"), ("bids", "out", "subject")])
def test_missing_or_unknown_positionals_are_usage_errors(argv, capsys):
    assert main(list(argv)) == 64
    assert capsys.readouterr().err.count("\n") == 1


@pytest.mark.parametrize("flag", ["--reports-only", "--boilerplate-only"])
def test_what_is_for_participants_is_refused_at_the_group_level(flag, capsys):
    assert main(["bids", "out", "group", flag]) == 64
    assert f"{flag} is for the level participant" in capsys.readouterr().err


@given(st.lists(st.text(st.characters(blacklist_categories=("Cs",)), max_size=12), max_size=6))
def test_no_command_line_ends_in_anything_but_settings_or_a_clear_error(words):
    try:
        settings = read(*words)
    except (UsageError, MissingInputError) as error:
        assert str(error)
    except SystemExit as end:
        assert end.code == 0  # --help, --version
    else:
        assert isinstance(settings, Settings)


# folders


FOLDERS = ["/bids", "/out", "participant"]


@pytest.mark.parametrize(
    "argv",
    [
        ["--participant-label", "01", *FOLDERS],
        ["--session_id", "1", "2", *FOLDERS, "--overwrite"],
        ["--run-label", "1", *FOLDERS[:2]],
        ["-d", "/masks", *FOLDERS],
        ["--derivatives", "/masks", "--dry-run", "--ignore-bvals", "5", *FOLDERS],
        ["--ignore-bvals", "5", "10", *FOLDERS],
        ["/bids", "--acquisition-label", "a", "/out", "group"],
        ["/bids", "/out", "-d", "/masks", "participant"],
    ],
)
def test_folders_that_a_flag_took_for_its_values_get_the_hint_that_they_come_first(argv, capsys):
    assert main(argv) == 64
    assert "BIDS_DIR, OUTPUT_DIR and the level come first" in capsys.readouterr().err


@pytest.mark.parametrize(
    "argv",
    [
        [*FOLDERS, "--participant-label", "a/b"],
        [*FOLDERS, "--colour", "red"],
        ["/bids", "/out"],
        ["--method", "magic", *FOLDERS],
        ["--participant-label", "a/b", "--colour", *FOLDERS],
    ],
)
def test_other_mistakes_do_not_get_that_hint(argv, capsys):
    assert main(argv) == 64
    assert "come first" not in capsys.readouterr().err


def test_a_tilde_is_the_home_folder_in_every_path(tmp_path, monkeypatch):
    monkeypatch.setenv("HOME", str(tmp_path))
    (tmp_path / "filters.json").write_text('{"dwi": {}}')
    (tmp_path / "b.txt").write_text("0")
    path = config(tmp_path, 'work-dir = "~/work"\nderivatives = ["~/prep", "masks=~/masks"]\n')
    options = ["--bvals=~/b.txt", "--bids-filter-file=~/filters.json", "--bids-database-dir=~/db"]
    settings = parse(["~/bids", "~/out", "participant", f"--config-file=~/{Path(path).name}", *options])
    assert (settings.bids_dir, settings.output_dir) == (tmp_path / "bids", tmp_path / "out")
    assert settings.work_dir == tmp_path / "work"
    assert settings.inputs.derivatives == {"prep": tmp_path / "prep", "masks": tmp_path / "masks"}
    assert settings.inputs.bvals == tmp_path / "b.txt"
    assert settings.selection.bids_database_dir == tmp_path / "db"
    assert settings.selection.bids_filters == {"dwi": {}}


@pytest.mark.parametrize(
    ("flag", "value"),
    [("--work-dir", "~nobody-of-that-name/work"), ("--work-dir", ""), ("-d", "masks=~nobody-of-that-name")],
)
def test_a_path_that_leads_nowhere_is_a_usage_error(flag, value):
    said = refusal(flag, value)
    assert "home folder" in said or "empty" in said


# configuration file


def config(folder: Path, text: str) -> str:
    path = folder / "config.toml"
    path.write_text(text, encoding="utf-8")
    return str(path)


def test_a_configuration_file_holds_flags_as_keys_and_the_command_line_overrides(tmp_path):
    path = config(
        tmp_path,
        'method = "di-cnn"\ndelta = 0.1\nparticipant_label = ["sub-01", "02"]\nfitting-threshold = "2sigma"\n'
        "overwrite = true\ndry-run = false\nignore_bvals = [0, 10.5]\nlambda = 0.2\n",
    )
    settings = read("--config-file", path, "--delta", "0.3")
    assert settings.estimation.method == "di-cnn"
    assert settings.estimation.delta == 0.3
    assert settings.estimation.lambda_ == Threshold(0.2, "absolute")
    assert settings.estimation.fitting_threshold == Threshold(2.0, "sigma")
    assert settings.selection.participant_label == ("01", "02")
    assert settings.preprocessing.ignore_bvals == (0.0, 10.5)
    assert settings.overwrite
    assert not settings.dry_run


@given(st.sampled_from(list(METHODS)), st.integers(0, 100), st.booleans())
def test_a_configuration_file_says_the_same_as_the_command_line(tmp_path_factory, method, seed, overwrite):
    folder = tmp_path_factory.mktemp("config")
    text = f'method = "{method}"\nrandom-seed = {seed}\noverwrite = {str(overwrite).lower()}\n'
    flags = ["--method", method, "--random-seed", str(seed), *(["--overwrite"] if overwrite else [])]
    assert read("--config-file", config(folder, text)) == read(*flags)


@pytest.mark.parametrize(
    ("text", "part"),
    [
        ("method = ", "not valid TOML"),
        ("metod = 'lsq'", "--metod"),
        ("method = 'unet'", "'unet'"),
        ("delta = true", "--delta"),
        ("[estimation]\ndelta = 0.1", "--estimation"),
        ("participant_label = []", "--participant-label"),
        ("bids_dir = '/x'", "--bids-dir"),
        ("help = true", "--help"),
        ("nprocs = 0", "--nprocs"),
        ("overwrite = 1", "unrecognized"),
        ("random_seed = -1", "--random-seed"),
    ],
)
def test_a_configuration_file_that_does_not_parse_is_a_usage_error(tmp_path, text, part):
    assert part in refusal("--config-file", config(tmp_path, text))


def test_a_configuration_file_that_is_no_text_is_a_usage_error(tmp_path):
    (tmp_path / "config.toml").write_bytes(b"\xff\xfe\x00")
    assert "cannot be read" in refusal("--config-file", str(tmp_path / "config.toml"))
    assert "cannot be read" in refusal("--config-file", str(tmp_path))


@pytest.mark.parametrize("flag", ["--config-file", "--bids-filter-file", "--bvals"])
def test_a_file_named_by_a_flag_must_exist(tmp_path, flag, capsys):
    assert main([*BASE, flag, str(tmp_path / "none")]) == 66
    assert str(tmp_path / "none") in capsys.readouterr().err


# filter file


def test_a_filter_file_is_handed_on(tmp_path):
    path = tmp_path / "filter.json"
    path.write_text(json.dumps({"dwi": {"acquisition": "ivim"}, "t1w": {"datatype": "anat"}}))
    filters = read("--bids-filter-file", str(path)).selection.bids_filters
    assert filters["dwi"] == {"acquisition": "ivim"}


@pytest.mark.parametrize("text", ["{", "[]", '"dwi"', ""])
def test_a_filter_file_that_does_not_parse_is_a_usage_error(tmp_path, text):
    path = tmp_path / "filter.json"
    path.write_text(text)
    assert str(path) in refusal("--bids-filter-file", str(path))


# exit codes


@pytest.mark.parametrize(
    ("error", "code"),
    [
        (NotBidsError, 16),
        (NoRunsError, 18),
        (UsageError, 64),
        (DataError, 65),
        (MissingInputError, 66),
        (DeviceError, 69),
        (InternalError, 70),
        (OutputError, 73),
        (TryAgainError, 75),
    ],
)
def test_an_error_is_one_line_and_its_code(workflow, capsys, error: type[SicnnAppError], code):
    workflow(error("FILE: what is wrong: what to do"))
    assert main(BASE) == code
    said = capsys.readouterr()
    assert said.err == "sicnn-app: FILE: what is wrong: what to do\n"
    assert said.out == ""


@pytest.mark.parametrize("code", [0, 1, 65])
def test_the_code_of_the_work_is_the_code_of_the_call(workflow, code):
    workflow(code)
    assert main(BASE) == code


def test_a_bug_is_an_internal_error_in_one_line(workflow, capsys):
    workflow(ZeroDivisionError("by zero\nsecond line of it"))
    assert main(BASE) == 70
    said = capsys.readouterr().err
    assert said.count("\n") == 1
    assert "ZeroDivisionError: by zero" in said
    assert "Traceback" not in said


@pytest.mark.parametrize("flags", [("-vv",), ("-v", "-v"), ("-vvv",)])
def test_a_traceback_shows_with_vv(workflow, capsys, flags):
    workflow(DataError("wrong"))
    assert main([*BASE, *flags]) == 65
    said = capsys.readouterr().err
    assert said.startswith("Traceback")
    assert said.endswith("sicnn-app: wrong\n")


@pytest.mark.parametrize(
    ("number", "code", "word"), [(signal.SIGINT, 130, "interrupted"), (signal.SIGTERM, 75, "SIGTERM")]
)
def test_a_signal_is_one_line_and_its_code_and_handlers_come_back(
    monkeypatch, capsys, signals_as_in_a_terminal, number, code, word
):
    before = [signal.getsignal(one) for one in (signal.SIGINT, signal.SIGTERM)]
    monkeypatch.setattr(workflow_module, "run", lambda settings, console: signal.raise_signal(number))
    assert main(BASE) == code
    said = capsys.readouterr().err
    assert (said.count("\n"), word in said) == (1, True)
    assert [signal.getsignal(one) for one in (signal.SIGINT, signal.SIGTERM)] == before


def test_a_signal_that_is_ignored_stays_ignored(monkeypatch):
    monkeypatch.setattr(
        workflow_module, "run", lambda settings, console: signal.raise_signal(signal.SIGINT) or 0
    )
    before = signal.signal(signal.SIGINT, signal.SIG_IGN)
    try:
        assert main(BASE) == 0
    finally:
        signal.signal(signal.SIGINT, before)


def test_the_version_is_printed(capsys):
    with pytest.raises(SystemExit) as end:
        main(["--version"])
    assert end.value.code == 0
    assert capsys.readouterr().out == f"sicnn-app {__version__}\n"


def test_help_needs_no_heavy_library_and_names_every_flag():
    code = (
        "import sys\nfrom sicnn_app.cli.main import main\n"
        "try:\n    main(['--help'])\nexcept SystemExit as end:\n"
        "    heavy = {'torch', 'numpy', 'bids', 'matplotlib', 'dipy'} & set(sys.modules)\n"
        "    print('LOADED', sorted(heavy), 'CODE', end.code)"
    )
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, env=environment(), check=True
    )
    assert done.stdout.endswith("LOADED [] CODE 0\n")
    for action in build_parser()._actions:
        for flag in action.option_strings:
            assert flag in done.stdout
