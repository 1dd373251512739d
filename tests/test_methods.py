"""Which methods a search may use, what it says of them, and a run that uses them all."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest

from edgebert.cache import Cache
from edgebert.cli_options import vocabulary_choice
from edgebert.device import Budget, load_profile
from edgebert.errors import UsageError
from edgebert.methods import METHODS, parse_methods, why_refit, why_searched
from edgebert.pricing import options_of
from edgebert.searching import search
from tests.test_pricing import LENGTH, profile, with_ranks


@pytest.mark.parametrize(("text", "names"), [
    ("all", tuple(METHODS)), ("none", ()), ("lowrank, refit", ("refit", "lowrank")), ("vocabulary", ("vocabulary",))])
def test_methods_come_in_the_order_they_are_applied(text: str, names: tuple[str, ...]) -> None:
    assert parse_methods(text) == names


def test_an_unknown_method_is_refused_with_the_known_ones() -> None:
    with pytest.raises(UsageError, match="--methods: 'svd' is not known, choose from vocabulary, refit, stream, lowrank"):
        parse_methods("refit,svd")


def test_flags_for_a_vocabulary_that_is_not_trimmed_are_refused(tmp_path: Path) -> None:
    assert vocabulary_choice(False, None, None, None, None) is None
    with pytest.raises(UsageError, match="--min-count: say how to trim the vocabulary; ask for that with --trim"):
        vocabulary_choice(False, None, None, 2, None)
    (tmp_path / "texts.txt").write_text("play a song\n")
    found = vocabulary_choice(True, [tmp_path / "texts.txt"], "en, de", None, 50)
    assert found is not None and found.languages == ("en", "de") and (found.min_count, found.size) == (1, 50)


@pytest.mark.parametrize("ranks_cost", [0.0, 9.0])
def test_the_reasons_are_what_another_search_finds(ranks_cost: float) -> None:
    base, device = with_ranks(2), profile()
    layers = tuple(replace(e, qk_dim={2: ranks_cost}, ranks={name: dict.fromkeys(errors, ranks_cost)
                                                             for name, errors in e.ranks.items()}) for e in base.layers)
    given = replace(base, layers=layers, word_ranks={4: 9.0})
    rows = {row.precision: row for row in device.rows if row.runtime == "onnx"}
    whole = search(given.without("lowrank"), device, Budget(), "onnx", 1, LENGTH)
    budget = Budget(max_latency_ms=0.9 * whole.estimate.tail_ms)

    def again(tables):
        return search(tables, device, budget, "onnx", 1, LENGTH)

    plan = again(given)
    lowrank, embeddings = why_searched(given, plan, options_of(given, rows, LENGTH), again)
    if ranks_cost:
        assert not plan.subnet.layers[0].ranks and lowrank.startswith("low rank: not used: ")
    else:
        assert any(layer.ranks for layer in plan.subnet.layers)
        other = again(given.without("lowrank")).predicted_error
        assert lowrank.startswith("low rank: used: ") and f"{other:.3g}" in lowrank and other >= plan.predicted_error
    assert embeddings.startswith("embeddings: not used: only bytes")


def test_a_refit_says_what_it_did() -> None:
    assert why_refit(80.0, 90.5) == "refit: used: 80.00 -> 90.50 on the selection split"
    assert "not used: the cut network scores 80.00" in why_refit(80.0, 79.0)


def test_all_methods_together_make_a_verified_bundle(tmp_path: Path, bert_folder: Path) -> None:
    from edgebert.bundle import verify
    from edgebert.pipeline import fit_device
    from edgebert.plan import CompressionPlan
    from edgebert.progress import Reporter
    from edgebert.request import FitRequest
    from edgebert.trimming import VocabularyChoice
    from tests.test_pipeline import write_task

    request = FitRequest(profile=load_profile("pixel6"), budget=Budget(max_size_mb=0.09), out=tmp_path / "bundle",
                         model=str(bert_folder), task=None, data=write_task(tmp_path / "task"), runtime="onnx",
                         teacher_epochs=4, methods=tuple(METHODS), vocabulary=VocabularyChoice(), effort="quick")
    result = fit_device(request, Cache(tmp_path / "cache"), Reporter(quiet=True))
    assert verify(result.bundle).checks
    plan = CompressionPlan.loads((result.bundle / "plan.json").read_text())
    assert {"vocabulary", "refit", "stream", "low rank", "embeddings"} <= set(plan.provenance)
    whole = load_vocabulary(bert_folder)
    assert plan.source.vocab < whole and len((result.bundle / "vocab.txt").read_text().splitlines()) == plan.source.vocab
    page = (result.bundle / "report.html").read_text()
    assert "Methods beside width and depth" in page and plan.provenance["refit"] in page


def load_vocabulary(folder: Path) -> int:
    return len((folder / "vocab.txt").read_text().splitlines())


def test_a_supernet_with_a_trimmed_vocabulary_is_cut_with_every_method(tmp_path: Path, bert_folder: Path) -> None:
    from edgebert.bundle import verify
    from edgebert.elastic_stages import settings_for
    from edgebert.pipeline import fit_device
    from edgebert.progress import Reporter
    from edgebert.request import FitRequest
    from edgebert.train_elastic import ElasticRequest, train_elastic
    from edgebert.trimming import VocabularyChoice
    from tests.test_pipeline import write_task

    cache, quiet = Cache(tmp_path / "cache"), Reporter(quiet=True)
    settings = settings_for("sandwich", schedule={"epochs": 3, "learning_rate": 2e-3}, widths=(1.0, 0.5), depths=(1.0,))
    supernet = train_elastic(ElasticRequest(settings, tmp_path / "s", model=str(bert_folder), task=None, length=16,
                                            data=write_task(tmp_path / "task"), teacher_epochs=4,
                                            vocabulary=VocabularyChoice()), cache, quiet)
    whole = FitRequest(profile=load_profile("pixel6"), budget=Budget(max_size_mb=1.0), out=tmp_path / "whole",
                       supernet=supernet.folder, runtime="onnx", effort="quick", methods=())
    limit = 0.8 * fit_device(whole, cache, quiet).plan.estimate.tail_ms
    every = tuple(name for name in METHODS if name != "vocabulary")
    tight = replace(whole, out=tmp_path / "b", budget=Budget(max_latency_ms=limit), methods=every)
    result = fit_device(tight, cache, quiet)
    assert verify(result.bundle).checks and result.plan.estimate.tail_ms <= limit
    assert result.plan.source.vocab == supernet.space.source.vocab < load_vocabulary(bert_folder)
    assert "stream" in result.plan.provenance and "vocabulary" not in result.plan.provenance
