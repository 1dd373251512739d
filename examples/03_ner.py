"""A tag for each word: named entities, as in WNUT17.

    python examples/03_ner.py --data ./wnut17 --model ./my-ner "Ada Lovelace was in London"
    python examples/03_ner.py --toy

Rows are JSON lines or Parquet with `tokens` and `tags`, tags as B-person, I-person and O: a file, or a folder with train,
dev and test. The metric is span F1. WNUT17 is not part of this project: bring it as such rows, one for each sentence.
"""

from __future__ import annotations

from numbered import flags, opened, parsed, spans_of, write_tags

import edgebert


def main() -> None:
    parser = flags(__doc__, "a .jsonl with `tokens` and `tags`, or a folder with train, dev and test", "ner-bundle")
    parser.add_argument("texts", nargs="*", default=["play some jazz for b", "is it sunny"], help="asked at the end")
    given = parsed(parser, write_tags)

    profile = edgebert.load_profile(given.profile)
    request = edgebert.FitRequest(
        profile=profile, budget=profile.budget, out=given.out, model=given.model, task=None, data=given.data,
        kind="token_classification", threads=profile.threads, **given.settings)
    result = edgebert.fit_device(request, edgebert.Cache(given.cache), edgebert.Reporter())

    teacher, student = result.evidence.model("teacher"), result.evidence.model("student")
    print(f"span F1 on dev: {teacher.dev.points:.1f} before, {student.dev.points:.1f} now")
    for found in result.evidence.classes:
        print(f"  {found.label}: {found.file} of {found.rows} spans of the test split found; teacher {found.teacher}")
    tagger = opened(result.bundle)
    for text in given.texts:
        print(f"{text}\t{', '.join(f'{kind}: {span}' for kind, span in spans_of(tagger.classify(text))) or 'no entity'}")


if __name__ == "__main__":
    main()
