"""The command line: what each command prints, imports and refuses; `capture` and `audit` on the model that ships."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
import tomllib
from html import unescape
from pathlib import Path

import numpy as np
import pytest
import toy_gguf
import toys
from typer.testing import CliRunner

from sublinattn import claims_command, cli, theory
from sublinattn.cli import app
from sublinattn.lab import ledger
from sublinattn.lab.models import TINY, open_model
from sublinattn.lab.workloads.instance import Captured, Instance
from sublinattn.theory.claim import BASES

COMMANDS = ("run", "verify", "claims", "report", "bench", "capture", "audit", "fetch", "leaderboard")
NOTEBOOKS = {"IPython", "nbconvert", "papermill", "distributed"}
DECODER = {"sublinattn.lm.decoder", "torch"}


def call(*arguments, code=0):
    result = CliRunner().invoke(app, [str(argument) for argument in arguments], catch_exceptions=False)
    assert result.exit_code == code, result.output
    return result.output


@pytest.fixture
def toy_claims(monkeypatch):
    for claim in toys.ALL:
        monkeypatch.setitem(theory.CLAIMS, claim.id, claim)


@pytest.fixture(scope="module")
def captured(tmp_path_factory):
    out = tmp_path_factory.mktemp("captured") / "qkv.safetensors"
    assert "Captured 200 tokens" in call("capture", "-n", "200", "--out", out, "--backend", "numpy")
    return out


# --------------------------------------------------------------------------------------------------- help and imports
@pytest.mark.parametrize("command", [(), *((name,) for name in COMMANDS)])
def test_help_shows_an_example(command):
    text = call(*command, "--help")
    assert "Example" in text and "sublinattn " in text


def test_the_version_is_the_one_in_pyproject():
    pyproject = tomllib.loads((Path(__file__).parents[1] / "pyproject.toml").read_text())
    assert call("--version") == f"sublinattn {pyproject['project']['version']}\n"


@pytest.mark.parametrize(
    ("words", "offered", "not_offered"),
    [
        ("verify ha24.lemm", "ha24.lemma1", "ha24.theorem1-exponents"),
        ("run --only 0", "03-spectral-error", "20-perplexity"),
        ("claims --paper HA", "HA24", "AS23"),
        ("capture --model sm", "smollm2", "tiny"),
        ("claims --outcome u", "undecided", "supported"),
    ],
)
def test_a_shell_completes(words, offered, not_offered):
    words = f"sublinattn {words}"
    completing = {"_SUBLINATTN_COMPLETE": "complete_bash", "COMP_WORDS": words, "COMP_CWORD": str(words.count(" "))}
    command = [sys.executable, "-m", "sublinattn"]
    done = subprocess.run(command, env=os.environ | completing, capture_output=True, text=True, check=True)
    assert offered in done.stdout.split() and not_offered not in done.stdout.split()


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("verify", "ha24.lema1"), "did you mean 'ha24.lemma1'?"),
        (("run", "--only", "03-spectral-eror"), "did you mean '03-spectral-error'?"),
        (("capture", "--model", "smolm2", "--out", "x"), "did you mean 'smollm2'?"),
        (("claims", "--paper", "ha42"), "did you mean 'HA24'?"),
        (("claims", "--outcome", "refuted"), "there is no ledger.json here"),
        (("claims", "--outcome", "refuted", "--ledger", "x.json"), "x.json"),
        (("audit", "qkv.safetensors", "--budget", "a tenth"), "1/8 or 0.125"),
    ],
)
def test_a_slip_is_answered_by_what_was_meant(arguments, message, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert message in " ".join(unboxed(call(*arguments, code=2)).split())
    assert list(tmp_path.iterdir()) == []


def unboxed(text):
    return text.replace("│", "")


@pytest.mark.parametrize(
    ("arguments", "unused"),
    [
        (["--help"], {"numpy", "pandas", "sympy", "matplotlib"} | NOTEBOOKS | DECODER),
        (["claims"], {"numpy", "pandas", "sympy", "matplotlib"} | NOTEBOOKS | DECODER),
        (["verify", "rs21.merge"], {"matplotlib"} | NOTEBOOKS | DECODER),
        # seaborn brings IPython where ipywidgets is installed.
        (["audit", "qkv.safetensors", "--share", "0.25"], NOTEBOOKS - {"IPython"} | DECODER),
    ],
)
def test_a_command_imports_nothing_that_it_does_not_use(tmp_path, arguments, unused):
    if arguments == ["claims"]:
        call(*arguments)  # lists the claims of these sources once, so that the list is stored
    x = np.random.default_rng(0).standard_normal((1, 1, 128, 8)).astype(np.float32)
    Instance(x, x, x, scale=1.0).save(tmp_path / "qkv.safetensors")
    command = [sys.executable, "-X", "importtime", "-m", "sublinattn", *arguments]
    done = subprocess.run(command, capture_output=True, text=True, check=True, cwd=tmp_path)
    imported = {line.rpartition("|")[2].strip() for line in done.stderr.splitlines()}
    assert "sublinattn.cli" in imported
    assert imported & unused == set()


def test_ctrl_c_during_the_import_ends_without_a_traceback():
    code = """
import os, runpy, signal, sys
class Interrupting:
    def find_spec(self, name, path=None, target=None):
        if name == "sublinattn.terminal":
            os.kill(os.getpid(), signal.SIGINT)
signal.signal(signal.SIGINT, signal.default_int_handler)
sys.meta_path.insert(0, Interrupting())
runpy.run_module("sublinattn", run_name="__main__")
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert (done.returncode, done.stdout, done.stderr) == (130, "", "")


# ---------------------------------------------------------------------------------------------------- claims and verify
def test_claims_lists_every_claim_and_where_its_trial_stands():
    listed = json.loads(call("claims", "--json"))
    assert [row["id"] for row in listed] == sorted(theory.CLAIMS)
    merge = next(row for row in listed if row["id"] == "rs21.merge")
    assert (merge["paper"], merge["kind"], merge["sabotages"]) == ("RS21", "exact", 1)
    lines = call("claims").splitlines()
    assert lines[0] == "id\tpaper\tbasis\ttitle\tkind\toutcome\tsabotages\ttrial" and len(lines) == 1 + len(listed)
    assert "\t".join("" if merge[name] is None else str(merge[name]) for name in lines[0].split("\t")) in lines


def test_claims_of_a_paper_of_a_kind_and_with_an_outcome(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    every = json.loads(call("claims", "--json"))
    assert {row["outcome"] for row in every} == {None}
    growths = [row["id"] for row in every if (row["paper"], row["kind"]) == ("HA24", "growth")]
    assert [row["id"] for row in json.loads(call("claims", "--paper", "HA24", "--kind", "growth", "--json"))] == growths
    assert {row["basis"] for row in json.loads(call("claims", "--basis", "theorem", "--json"))} == {"theorem"}
    assert list(claims_command.Basis) == list(BASES)  # written there again, so that help loads no SymPy
    entries = {"ha24.lemma1": {"outcome": "vacuous"}, "ha24.lemma2": {"outcome": "undecided"}}
    (tmp_path / "ledger.json").write_text(json.dumps({"claims": entries}))
    assert [row["id"] for row in json.loads(call("claims", "--outcome", "vacuous", "--json"))] == ["ha24.lemma1"]
    assert call("claims", "--outcome", "refuted") == call("claims").splitlines()[0] + "\n"
    (tmp_path / "other.json").write_text('{"claims": [1]}')
    assert "other.json is not a ledger" in call("claims", "--ledger", "other.json", code=2)


@pytest.mark.parametrize(
    ("claim", "outcome", "code"),
    [
        ("holds", "supported", 0), ("fails", "refuted", 1), ("open", "undecided", 0), ("empty", "vacuous", 0),
        ("mean", "supported", 0), ("clock", "supported", 0), ("always", "supported", 0),
    ],
)  # fmt: skip
def test_verify_prints_the_outcome_and_fails_only_when_refuted(toy_claims, claim, outcome, code):
    text = call("verify", f"toy.{claim}", code=code)
    assert outcome in text and "caught" in text and "trial: tests/toys.py:" in text
    assert ("instances" in text) == (claim == "always"), "of few instances the limits of a failure rate say nothing"
    assert ("99 % limits" in text) == (claim not in ("always", "clock"))
    record = json.loads(call("verify", f"toy.{claim}", "--json", "--seed", "3", code=code))
    assert record["outcome"] == outcome and record["seed"] == 3


def test_verify_takes_processes_here_or_a_scheduler_that_answers(toy_claims, monkeypatch):
    monkeypatch.setattr("sublinattn.lab.cluster.CONNECT_SECONDS", 0.5)
    there = ("verify", "toy.holds", "--scheduler", "tcp://127.0.0.1:9")
    assert "no Dask scheduler answers at 'tcp://127.0.0.1:9'" in call(*there, code=2)
    assert "not both; got 2 and tcp://127.0.0.1:9" in call(*there, "--jobs", "2", code=2)
    assert "takes an address" in call("verify", "toy.holds", "--scheduler", "", code=2)


def test_verify_with_two_processes_finds_the_same(toy_claims):
    one, two = (json.loads(call("verify", "toy.fails", "--json", "--jobs", jobs, code=1)) for jobs in "12")
    assert ledger.comparable(one) == ledger.comparable(two)


# ------------------------------------------------------------------------------------------------------- run and report
def test_run_passes_its_options_on_and_says_where_the_report_is(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    ledger.check([toys.FAILS, toys.OPEN], out="earlier")
    earlier = ledger.merge(Path("earlier/verdicts").glob("*.json"))
    earlier["claims"]["toy.fails"]["outcome"] = "supported"
    ledger.write("ledger.json", earlier)
    toys.notebook(tmp_path / "notebooks/a.ipynb", toys.checking("a", "FAILS"), "assert n == 5 and seed == 2")
    toys.notebook(tmp_path / "notebooks/b.ipynb", "1 / 0")
    text = call("run", "--only", "a", "--param", "n=5", "--seed", "2", "--out", "here", code=1)
    assert (
        "toy.fails: on record supported, now refuted" in text
        and "toy.open" not in text
        and "here/report/index.html" in text
    )
    assert ledger.load("here/ledger.json")["claims"]["toy.fails"]["seed"] == 2
    assert "here/report/index.html" in call("report", "here")


# ---------------------------------------------------------------------------------------------------- capture and audit
def test_capture_writes_what_the_model_computes(captured):
    written, model = Captured.open(captured), open_model()
    q, k, v = model.qkv(model.beginning(200))
    assert (written.layers, written.heads, written.kv_heads, written.tokens) == (4, 4, 4, 200)
    assert "tiny" in written.source and "held-out" in written.source
    for layer, head in ((0, 0), (3, 2)):
        x = written.head(layer, head)
        for tensor, whole in zip("qkv", (q, k, v), strict=True):
            np.testing.assert_allclose(getattr(x, tensor), whole[layer, head], atol=2e-5)


def test_capture_takes_a_text_and_a_folder_of_the_user_and_writes_half_precision(captured, tmp_path):
    (tmp_path / "text.txt").write_bytes(b"def f(x):\n    return x\n" * 8)
    shutil.copytree(TINY, tmp_path / "model")
    out = tmp_path / "qkv.safetensors"
    call("capture", "--model", tmp_path / "model", "--text", tmp_path / "text.txt", "--out", out, "--half")
    assert Captured.open(out).tokens == 8 * 23
    assert out.stat().st_size / captured.stat().st_size == pytest.approx(8 * 23 / 200 / 2, rel=0.01)


def test_capture_takes_a_gguf_file(tmp_path):
    pytest.importorskip("gguf")
    toy_gguf.write(tmp_path / "toy.gguf", "Q8_0", keys={"llama.vocab_size": 256}, vocab_size=256)
    out = tmp_path / "qkv.safetensors"
    assert "Captured 50 tokens" in call("capture", "--model", tmp_path / "toy.gguf", "-n", "50", "--out", out)
    written, model = Captured.open(out), open_model(str(tmp_path / "toy.gguf"))
    assert (written.layers, written.heads, written.kv_heads, written.tokens) == (2, 4, 2, 50)
    q, _, _ = model.qkv(model.beginning(50))
    np.testing.assert_allclose(written.head(1, 3).q, q[1, 3], atol=2e-5)


def test_a_folder_that_cannot_be_written_is_refused_before_anything_is_measured(captured, tmp_path, monkeypatch):
    (tmp_path / "file").touch()
    for measure in ("leaderboard.board.measure", "audit.page.measure", "audit.apply.losses"):
        monkeypatch.setattr(f"sublinattn.suite.{measure}", None)
    for out in (tmp_path / "file", tmp_path / "file" / "out"):
        assert f"Not a directory: '{tmp_path / 'file'}'" in call("leaderboard", "--out", out, code=2)
        assert f"Not a directory: '{tmp_path / 'file'}'" in call("audit", captured, "--out", out, code=2)


def test_audit_advises_measures_once_and_is_applied(captured, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    lines = call("audit", captured, "--share", "1/4", "--backend", "numpy").splitlines()
    assert lines[0].startswith("layer\tcaches of its key heads\t") and len(lines) == 1 + 4 + 2
    assert lines[-2].startswith("Saves ") and lines[-1] == "Page: audit/index.html"
    found = json.loads(Path("audit/recommendation.json").read_text())
    assert f"{found['saved']:.0%}" in lines[-2] and f"<h1>{lines[-2]}" in unescape(Path("audit/index.html").read_text())
    monkeypatch.setattr("sublinattn.suite.audit.page.measure", None)
    assert "median key head" in call("audit", "audit", "--budget", "1/4", "--out", "quarter")
    assert json.loads(Path("quarter/recommendation.json").read_text())["bytes"] <= found["exact_bytes"] / 4
    few = ["-n", "160", "--passages", "2", "--documents", "2", "--backend", "numpy"]
    text = call("audit", "--apply", "quarter/recommendation.json", *few)
    assert "exact\t100.0%\t" in text and "the advice\t" in text and "times its perplexity" in text
    perplexity, retrieval = (line for line in text.splitlines() if " the best single method, " in line)
    assert "documents of" in retrieval and "(plain lines), exact attention answers" in retrieval
    page = unescape(Path("quarter/index.html").read_text())
    assert perplexity in page and retrieval in page


# -------------------------------------------------------------------------------------------------------- what is wrong
@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        ("verify ha24.lema1", "no claim has the id 'ha24.lema1'; did you mean 'ha24.lemma1'?"),
        ("verify nothing", "`sublinattn claims` lists them"),
        ("run --notebooks nowhere", "nowhere"),
        ("run --param novalue", "NAME=VALUE"),
        ("run --effort huge", "huge"),
        ("run --record missing.json", "missing.json"),
        ("report nowhere", "nowhere holds no ledger.json; `sublinattn run --out nowhere` writes one"),
        ("bench everything", "everything"),
        ("capture --model nowhere --out x", "nowhere is no folder"),
        ("fetch nothing", "nothing"),
        ("capture --text nowhere.txt --out x", "nowhere.txt"),
        ("capture -n 10000000 --out x", "n must be at most"),
        ("audit nowhere.safetensors", "nowhere.safetensors"),
        ("audit model.gguf", "model.gguf is a model: write what it attends with by `sublinattn capture --model"),
        ("audit nowhere.safetensors --tolerance 0", "tolerance must be above 0"),
        ("audit nowhere.safetensors --share all", "takes a number such as 1/8"),
        ("audit smollm2", "first run `sublinattn capture --model smollm2"),
        ("audit", "audit takes a captured file or an earlier audit's folder, or else --apply RECOMMENDATION"),
        ("audit --apply nowhere.json", "nowhere.json"),
    ],
)
def test_a_bad_request_ends_with_one_clear_line_and_leaves_nothing(tmp_path, monkeypatch, arguments, words):
    monkeypatch.chdir(tmp_path)
    text = call(*arguments.split(), code=2)
    assert words in text and "Traceback" not in text
    assert not list(tmp_path.iterdir())


# ---------------------------------------------------------------------------------------------------------- the program
def program(*arguments, **environment):
    """The program in a process of its own, as a shell starts it."""
    command = [sys.executable, "-m", "sublinattn", *arguments]
    return subprocess.run(command, capture_output=True, env=os.environ | environment, timeout=120)


def test_what_a_terminal_cannot_show_is_replaced():
    """A dash in a verdict ended in a UnicodeEncodeError, and with it the exit code of a refutation."""
    done = program("verify", "ha24.gray-adjacency", PYTHONIOENCODING="ascii")
    assert done.returncode == 0 and b"supported" in done.stdout


def test_an_error_of_the_program_is_no_refutation(monkeypatch, capsys):
    def crash(**_):
        raise ZeroDivisionError("of the program")

    monkeypatch.setattr(cli, "app", crash)
    with pytest.raises(SystemExit) as end:
        cli.main()
    assert end.value.code == cli.INTERNAL_ERROR and "of the program" in capsys.readouterr().err
    assert f"{cli.INTERNAL_ERROR} an error of this program" in " ".join(call("--help").split())


@pytest.mark.parametrize(
    "arguments",
    [("report", "cut"), ("report", "old"), ("audit", "folder"), ("capture", "-n", "128", "--out", "folder")],
)
def test_an_error_names_the_file_or_folder(arguments, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    for name, text in (("cut", "{"), ("old", '{"schema": 1, "claims": {}}')):
        (tmp_path / name).mkdir()
        (tmp_path / name / "ledger.json").write_text(text)
    (tmp_path / "folder").mkdir()
    result = CliRunner().invoke(app, list(arguments), catch_exceptions=False)
    assert result.exit_code == 2
    assert {"cut": "cut/ledger.json", "old": "old/ledger.json"}.get(arguments[1], "folder") in result.output
    assert list((tmp_path / "folder").iterdir()) == []
