"""`evitlab bench` and `evitlab profile`: what they measure, keep, print and refuse."""

import json
import sys

import pandas as pd
import pytest
from fake_records import make_peaks, make_self_test

from evitlab import environment
from evitlab.cli import main
from evitlab.desk import bench as bench_module
from evitlab.store import measured, read_records

SMALL = "depth=1,width=24,num_heads=2,image_size=32,num_classes=4"
QUICK = ["--with", "min_rounds=2", "--with", "max_rounds=2", "--batch-size", "2", "--with", "threads=1"]


@pytest.fixture
def evitlab(tmp_path, monkeypatch, capsys):
    """Runs a command line in a folder of its own; gives exit code, stdout and stderr."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(bench_module, "measure_peaks", lambda **_: make_peaks())
    monkeypatch.setattr(environment, "_set_glibc_thresholds", lambda: "not in a test's process")
    monkeypatch.setattr(environment, "_tuned", None)

    def run(*arguments: str) -> tuple[int, str, str]:
        monkeypatch.setattr(sys, "argv", ["evitlab", *arguments])
        with pytest.raises(SystemExit) as stopped:
            main()
        captured = capsys.readouterr()
        return int(stopped.value.code or 0), captured.out, captured.err

    return run


def test_models_of_all_kinds_are_timed_in_one_group(evitlab, tmp_path):
    (tmp_path / "nets.py").write_text(
        "from torch import nn\ndef net():\n    return nn.Sequential(nn.Conv2d(3, 4, 3), nn.Flatten(), nn.Flatten())\n"
    )
    models = [f"deit_t:{SMALL}", f"deit_t:{SMALL},mhsa_ratio=1", "timm:test_resnet", "nets.py:net"]
    code, out, _ = evitlab("bench", *models, *QUICK, "--json")
    assert code == 0
    rows = json.loads(out)["table"]
    assert [row["model"] for row in rows] == models
    (folder,) = (tmp_path / "results").iterdir()
    records = read_records(folder)
    assert [record.variant for record in records] == models
    timings = [measured(record) for record in records]
    assert all(timing.group == tuple(models) and timing.reference == models[0] for timing in timings)
    assert timings[0].ratio is None
    assert timings[1].ratio is not None
    assert timings[1].ratio_low <= timings[1].ratio <= timings[1].ratio_high
    assert [timing.image_size for timing in timings][:2] == [(32, 32)] * 2
    assert timings[3].image_size == (224, 224)
    assert {timing.batch_size for timing in timings} == {2}
    assert records[0].environment.threads == 1
    assert records[0].config["stages"][0]["width"] == 24
    assert records[2].config["source"] == "timm:test_resnet"
    assert (folder / "ratios.png").exists()
    assert len(pd.read_csv(folder / "table.csv")) == 4


def test_conditions_are_set_and_recorded(evitlab, tmp_path):
    extra = ["--with", "precision=bf16", "--with", "memory_format=channels_last", "--with", "fold=false"]
    code, out, _ = evitlab("bench", "efficientvit_m0", "--image-size", "64x96", *QUICK, *extra)
    assert code == 0
    assert "bf16" in out
    assert "channels_last" in out
    (record,) = read_records(tmp_path / "results" / "bench_efficientvit_m0")
    timing = measured(record)
    assert (timing.precision, timing.memory_format, timing.folded) == ("bf16", "channels_last", False)
    assert timing.image_size == (64, 96)


def test_a_model_named_twice_is_two_rows(evitlab, tmp_path):
    model = f"deit_t:{SMALL}"
    code, _, _ = evitlab("bench", model, model, *QUICK)
    assert code == 0
    (folder,) = (tmp_path / "results").iterdir()
    assert [record.variant for record in read_records(folder)] == [model, f"{model} #2"]


def test_set_holds_for_every_model_and_what_is_behind_its_name_comes_first(evitlab, tmp_path):
    model = f"deit_t:{SMALL}"
    code, _, _ = evitlab("bench", model, f"{model},qk_dim=8", "--set", "qk_dim=4", *QUICK)
    assert code == 0
    (folder,) = (tmp_path / "results").iterdir()
    dims = [r.config["stages"][0]["blocks"][0]["layers"][0]["qk_dim"] for r in read_records(folder)]
    assert dims == [4, 8]


@pytest.mark.slow
def test_a_batch_curve(evitlab, tmp_path):
    code, out, _ = evitlab("bench", f"deit_t:{SMALL}", "--batch-curve", "--smoke")
    assert code == 0
    (folder,) = (tmp_path / "results").iterdir()
    (record,) = read_records(folder / "smoke")
    assert record.smoke
    curve = measured(record)
    assert [point.batch_size for point in curve.points] == [1, 2]
    assert "best" in out
    assert (folder / "smoke" / "batch_curve.png").exists()


@pytest.mark.parametrize(("ratios", "code"), [((1.0, 1.001, 0.999), 0), ((1.2, 1.3, 1.1), 1)])
def test_a_self_test_that_fails_has_exit_code_1(evitlab, monkeypatch, ratios, code):
    monkeypatch.setattr(bench_module, "run_self_test", lambda *_, **__: make_self_test(ratios))
    got, out, _ = evitlab("bench", "--self-test")
    assert got == code
    assert f"{ratios[0]:.3f}" in out


@pytest.mark.slow
def test_a_profile_with_its_trace(evitlab, tmp_path):
    code, out, _ = evitlab("profile", f"deit_t:{SMALL}", "--batch-size", "2", "--with", "repeats=2", "--trace")
    assert code == 0
    for words in ("memory-bound", "MHSA", "FFN", "linear"):
        assert words in out
    folder = next(path for path in (tmp_path / "results").iterdir() if path.name != "peaks")
    profile = measured(read_records(folder)[0])
    assert profile.batch_size == 2
    assert profile.peaks == make_peaks()
    for name in ("breakdown.png", "roofline.png", "mhsa_ffn.png", "operators.csv"):
        assert (folder / name).exists()
    trace = json.loads((folder / "traces" / "trace.json").read_text())
    assert any(event.get("name") == "aten::addmm" for event in trace["traceEvents"])


@pytest.mark.slow
def test_peaks_are_measured_once_a_machine(evitlab, tmp_path, monkeypatch):
    asked = []
    monkeypatch.setattr(bench_module, "measure_peaks", lambda **given: asked.append(given["precision"]) or make_peaks())
    command = ["profile", f"deit_t:{SMALL}", "--batch-size", "1", "--with", "repeats=2"]
    assert evitlab(*command)[0] == evitlab(*command)[0] == 0
    assert asked == ["fp32"]
    assert evitlab(*command, "--with", "precision=bf16")[0] == 0
    assert asked == ["fp32", "bf16"]
    assert [record.task for record in read_records(tmp_path / "results" / "peaks")] == ["peaks", "peaks"]


@pytest.mark.slow
def test_show_prints_them_again(evitlab):
    model = f"deit_t:{SMALL}"
    evitlab("bench", model, *QUICK)
    evitlab("profile", model, "--batch-size", "1", "--with", "repeats=2")
    names = [folder["name"] for folder in json.loads(evitlab("show", "--json")[1])]
    assert len(names) == 2
    for name in names:
        code, out, _ = evitlab("show", name)
        assert code == 0
        assert "deit_t" in out
    assert len(json.loads(evitlab("show", names[0], "--json")[1])["table"]) == 1


def test_timings_under_other_conditions_do_not_mix_unless_told_to(evitlab):
    model = f"deit_t:{SMALL}"
    evitlab("bench", model, *QUICK)
    evitlab("bench", model, *QUICK, "--with", "precision=bf16")
    (name,) = [folder["name"] for folder in json.loads(evitlab("show", "--json")[1])]
    code, _, err = evitlab("show", name)
    assert code == 2
    assert "precision" in err
    assert "--mixed" in err
    assert len(json.loads(evitlab("show", name, "--mixed", "--json")[1])["table"]) == 2
    chosen = ["--where", "precision=bf16", "--where", "batch_size=2", "--where", "folded=true", "--where", "threads=1"]
    assert len(json.loads(evitlab("show", name, *chosen, "--json")[1])["table"]) == 1
    assert "no measurement here was made with batch_size=4" in evitlab("show", name, "--where", "batch_size=4")[2]


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["bench"], "bench needs at least one model, such as deit_t"),
        (["bench", "deit_s"], "unknown model 'deit_s'; did you mean deit_t?"),
        (["bench", "deit_t", "--with", "precison=bf16"], "precison cannot be set; did you mean precision?"),
        (["bench", "deit_t", "--batch-size", "0"], "batch_size: must be greater than or equal to 1, but got 0"),
        (["profile", "deit_t", "--batch-size", "0"], "batch_size: must be greater than or equal to 1, but got 0"),
        (["bench", "deit_t", "--with", "threads=0"], "threads must be an integer of at least 1"),
        (["bench", "deit_t", "--set", "qk_dim"], "--set must be given as NAME=VALUE"),
        (["bench", "deit_t", "--image-size", "big"], "--image-size must be pixels"),
        (["bench", "deit_t", "--batch-curve", "--self-test"], "ask for one at a time"),
        (["bench", "deit_t", "swin_t", "--self-test"], "--self-test times one model under two names"),
        (["bench", "deit_t", "--self-test", "--protocol", "cream"], "neither a batch curve nor a self-test"),
        (["bench", "deit_t", "--protocol", "cream", "--batch-size", "4"], "protocol cream sets its own conditions"),
        (["bench", "deit_t", "--results", "taken"], "taken"),
        (["bench", "deit_t", "--device", "tpu"], "device must be cpu, cuda or cuda:N"),
        (["bench", "nets.py:number"], "must give a torch.nn.Module, but got a int"),
        (["bench", "nets.py:gray", *QUICK], "nets.py:gray"),
        (["profile", "deit_s"], "unknown model 'deit_s'"),
        (["profile", "deit_t", "--with", "mode=compiled"], "must be eager to be profiled"),
        (["profile", "nets.py:gray", *QUICK[4:]], "channels"),
        (["show", "bench_none"], "no results of 'bench_none'"),
    ],
)
def test_bad_input_is_one_clear_line(evitlab, tmp_path, arguments, message):
    (tmp_path / "taken").write_text("a file")
    (tmp_path / "nets.py").write_text(
        "from torch import nn\ndef number():\n    return 7\ndef gray():\n    return nn.Conv2d(1, 2, 3)\n"
    )
    code, out, err = evitlab(*arguments)
    assert code == 2
    assert message in err
    assert len(err.strip().splitlines()) == 1
    assert out == ""


def test_interrupted_it_ends_with_130(evitlab, monkeypatch):
    def interrupt(*_, **__):
        raise KeyboardInterrupt

    monkeypatch.setattr(bench_module, "measure_throughput", interrupt)
    code, _, err = evitlab("bench", f"deit_t:{SMALL}")
    assert code == 130
    assert "interrupted" in err
