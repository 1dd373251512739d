"""What an assistant needs of a sentence: its intent and its slots, by two small models, as in SNIPS.

    python examples/04_slots.py --data ./snips --model ./my-bert "add Don and Sherri to my jazz playlist"
    python examples/04_slots.py --toy

Rows are JSON lines or Parquet with `tokens`, `tags` and `intent`. The same rows are read twice: once as a tag for each
word, once as a label for the whole sentence. These are two files, each cut to what its own task needs.
"""

from __future__ import annotations

import json

from numbered import flags, opened, parsed, spans_of, write_tags

import edgebert


def main() -> None:
    parser = flags(__doc__, "rows of `tokens`, `tags` and `intent`: a file, or a folder of train, dev, test", "assistant")
    parser.add_argument("texts", nargs="*", default=["play some jazz for b", "is it sunny"], help="asked at the end")
    given = parsed(parser, write_tags)

    profile, models = edgebert.load_profile(given.profile), {}
    for name, kind in (("intent", "single_label_classification"), ("slots", "token_classification")):
        request = edgebert.FitRequest(
            profile=profile, budget=profile.budget, out=given.out / name, model=given.model, task=None,
            data=given.data, kind=kind, threads=profile.threads, **given.settings)
        result = edgebert.fit_device(request, edgebert.Cache(given.cache), edgebert.Reporter())
        models[name] = opened(result.bundle)
        teacher, student = result.evidence.model("teacher"), result.evidence.model("student")
        print(f"{name}: {result.evidence.metric} on dev {teacher.dev.points:.1f} before, {student.dev.points:.1f} now")

    for text in given.texts:
        best = models["intent"].classify(text)[0]
        slots: dict[str, list[str]] = {}
        for kind, span in spans_of(models["slots"].classify(text)):
            slots.setdefault(kind, []).append(span)
        print(json.dumps({"text": text, "intent": best.label, "score": round(best.score, 3), "slots": slots}))


if __name__ == "__main__":
    main()
