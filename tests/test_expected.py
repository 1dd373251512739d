"""Expected times: arithmetic that follows what is counted, and a real run that keeps what it said in its records."""

from __future__ import annotations

from dataclasses import fields, replace
from pathlib import Path

import pytest

from edgebert.cache import Cache, Finished, NotMade
from edgebert.compress.error_tables import count_cuts
from edgebert.device import Budget, load_profile
from edgebert.evidence import Evidence, Times
from edgebert.expected import IN_ORDER, OBS, Expected, Pace, Work, expected, likely_tables, tables_s
from edgebert.pipeline import fit_device
from edgebert.progress import Reporter
from edgebert.request import EFFORTS, FitRequest
from edgebert.searching import search
from edgebert.spec import EncoderShape, LayerSpec
from edgebert.tables import ErrorTables
from tests.conftest import random_net
from tests.test_pipeline import write_task

MINILM = EncoderShape(hidden=384, head_dim=32, vocab=30522, positions=512, token_types=2, labels=7,
                      layers=(LayerSpec(12, 1536),) * 6)
PACE = Pace(fine_tune=0.5, recover=0.25, elastic=1.0, row=0.004, student_row=0.002, product=0.05, chore=0.03, search=0.5)
WORK = Work(MINILM, MINILM, fine_tune=300, recover=400, tables=True, calibration=1024, table=160, tokens=12.0, cuts=1,
            refit=True, searches=10, select=500, judged=1400, test=700, scored=(2, 2),
            converted={"onnx": 3})


def test_steps_are_multiplied_with_what_one_takes():
    parts = expected(WORK, PACE).parts
    assert parts["teacher"] == 150 and parts["recovery"] == 100 and parts["plan"] == 5
    assert parts["scores"] == pytest.approx(1400 * (2 * 0.004 + 2 * 0.002))
    assert "supernet" not in parts
    twice = Pace(**{one.name: 2 * getattr(PACE, one.name) for one in fields(Pace)})
    assert expected(WORK, twice).seconds == pytest.approx(2 * expected(WORK, PACE).seconds), "a machine half as fast"


def test_what_is_in_the_cache_takes_nothing_and_says_so():
    left = expected(replace(WORK, fine_tune=0, tables=False, cuts=0, recover=0), PACE)
    assert all(left.parts[name] == 0 for name in ("teacher", "tables", "cut", "recovery"))
    assert left.text().startswith("about ") and "teacher from the cache, tables from the cache" in left.text()
    quick = expected(replace(WORK, recover=None), PACE)
    assert "recovery" not in quick.parts, "nothing is trained after the cut"
    assert Expected({"teacher": 370.0, "tables": 40.0}).text(("trials on ssh:pi@board",)) == (
        "about 6 min 50 s (teacher 6 min 10 s, tables 40 s; not counted: trials on ssh:pi@board)")


def test_cuts_of_lower_layers_are_answered_by_more_layers():
    """Against the answers counted one by one: a cut in layer i runs layer i and those above it, of the table's rows."""
    shape = replace(MINILM, layers=(LayerSpec(4, 96), LayerSpec(8, 64), LayerSpec(4, 96)))
    options = (count_cuts(random_net(replace(shape, hidden=32, head_dim=8, vocab=50, positions=40))) - 1) // 3
    work = replace(WORK, source=shape, student=shape, criterion=IN_ORDER)
    answered = tables_s(work, PACE) / PACE.row / work.table
    assert 1 + options * (3 + 2 + 1 - 1.5) / 3 < answered < 4 + (options + 2) * 6 / 3
    assert tables_s(replace(work, criterion="fisher"), PACE) > tables_s(work, PACE)
    assert tables_s(replace(work, criterion=OBS), PACE) > tables_s(work, PACE)
    deeper = replace(work, source=replace(shape, layers=shape.layers * 2))
    assert tables_s(deeper, PACE) / tables_s(work, PACE) == pytest.approx(2.0, rel=0.2), "twice the cuts, each of half"


def test_a_supernet_counts_its_steps_its_order_and_its_checks():
    work = replace(WORK, elastic=1000, checks=4)
    assert expected(work, PACE).parts["supernet"] > 1000 * PACE.elastic
    assert expected(replace(work, checks=5), PACE).parts["supernet"] > expected(work, PACE).parts["supernet"]


def test_likely_tables_lead_to_a_plan_of_about_the_real_size():
    from edgebert.demo import demo_tables

    profile = load_profile("pixel6")
    real = ErrorTables.loads(demo_tables("clinc150").read_text(encoding="utf-8"))
    for limit in (2.0, 4.0):
        plans = [search(tables, profile, Budget(max_latency_ms=limit), "tflite", 1, real.length)
                 for tables in (real, likely_tables(real.source, real.length))]
        assert plans[1].estimate.macs == pytest.approx(plans[0].estimate.macs, rel=0.35)


def test_a_finished_cache_makes_nothing(tmp_path: Path):
    def make(out: Path, work: Path) -> None:
        (out / "x").write_text("made")

    load, inputs = (lambda entry: (entry / "x").read_text()), {"a": 1}
    look = Finished(tmp_path)
    with pytest.raises(NotMade, match="stage"):
        look.stage("stage", 1, inputs, make, load)
    assert not list(tmp_path.iterdir())
    assert Cache(tmp_path).stage("stage", 1, inputs, make, load) == ("made", False)
    assert look.stage("stage", 1, inputs, make, load) == ("made", False)


@pytest.fixture(scope="module")
def place(tmp_path_factory, bert_folder):
    root = tmp_path_factory.mktemp("efforts")
    return {"root": root, "data": write_task(root / "task"), "model": str(bert_folder), "cache": Cache(root / "cache")}


def fitted(place, effort: str, capsys):
    request = FitRequest(profile=load_profile("pixel6"), budget=Budget(max_latency_ms=None, max_size_mb=0.08),
                         out=place["root"] / effort, model=place["model"], task=None, data=place["data"],
                         runtime="onnx", length=16, effort=effort, teacher_epochs=10, overwrite=True)
    reporter = Reporter()
    result = fit_device(request, place["cache"], reporter)
    return result, reporter, " ".join(capsys.readouterr().err.split())


def test_quick_trains_nothing_after_the_cut_and_standard_does(place, capsys):
    quick, reporter, said = fitted(place, "quick", capsys)
    assert "recover by distillation" not in reporter.seconds and EFFORTS["quick"] == 0
    cut, student = quick.evidence.model("cut"), quick.evidence.model("student")
    assert (cut.dev, cut.test) == (student.dev, student.test), "the student is what was cut"
    assert "expected: about" in said and "recovery" not in said and "took" in said
    assert said.index("expected: about") < said.index("fine-tune the teacher") < said.index("expected from here")
    times = quick.evidence.times
    assert None not in (times.by_plan_s, times.took_s, times.took_processor_s) and times.expected_s > 0
    stored = Evidence.loads((quick.bundle / "results.json").read_text(encoding="utf-8"))
    assert stored.times == times == Times(**vars(times))

    standard, reporter, said = fitted(place, "standard", capsys)
    assert reporter.seconds["recover by distillation"] > 0
    first = said.split("expected from here")[0]
    assert "teacher from the cache, tables from the cache" in first and "cut from the cache" in first
    assert "recovery from the cache" not in first and standard.plan == quick.plan
    again, reporter, said = fitted(place, "standard", capsys)
    assert "cut from the cache, recovery from the cache, scores from the cache" in said.split("expected from here")[0]
    assert again.evidence.times.expected_processor_s < times.expected_processor_s


def test_full_trains_for_rounding_only_where_it_costs(place, capsys, monkeypatch):
    """A supernet of a few steps; then rounding is made to matter, and the file's own answers decide."""
    from edgebert import forecast, origin, probing, recovering
    from edgebert.elastic_stages import settings_for

    few = settings_for("sandwich", schedule={"epochs": 2, "learning_rate": 2e-3}, widths=(1.0, 0.5), depths=(1.0,))
    for module in (origin, forecast, probing):
        monkeypatch.setattr(module, "sandwich", lambda: few)
    result, reporter, said = fitted(place, "full", capsys)
    assert "supernet" in said.split("expected: about")[1].split(")")[0]
    assert reporter.seconds["elastic training in depth"] > 0 and "not trained for" in result.plan.provenance["rounding"]
    assert "recover as the file rounds" not in reporter.seconds
    monkeypatch.setattr(recovering, "ROUNDING_LOSS", -1000.0)
    result, reporter, said = fitted(place, "full", capsys)
    assert reporter.seconds["recover as the file rounds"] > 0
    assert "supernet" not in said.split("expected: about")[1].split(")")[0], "it is in the cache"
    assert "trai" in result.plan.provenance["rounding"] and "rounded" in result.plan.provenance["rounding"]


def test_the_probe_s_batches_are_those_of_an_epoch():
    """Their mean padded length is that of all batches of the pool they are from, within a tenth."""
    import numpy as np

    from edgebert.probing import STEPS, batches_of, step_of
    from edgebert.train.batches import shuffled
    from tests.conftest import random_rows

    rows = random_rows(replace(MINILM, vocab=100), 1024, 30)
    epoch = [batch.ids.shape[1] for batch in shuffled(rows, 32, 3)]
    found = [batch.ids.shape[1] for batch in shuffled(batches_of(rows, 3), 32, 0)]
    assert len(found) == STEPS and np.mean(found) == pytest.approx(np.mean(epoch), rel=0.1)
    assert len(batches_of(rows.take(np.arange(40)), 0)) == STEPS * 32, "few rows are taken several times"

    def train(schedule, tick):
        for _ in range(round(schedule.epochs * STEPS)):
            tick(1)

    assert step_of(train).shape == (2,) and (step_of(train) >= 0).all()
