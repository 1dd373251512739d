"""One text, one label: your CSV and checkpoint become a bundle for a device, and the bundle answers.

    python examples/01_classify.py --data my-data.csv --model ./my-bert "play some jazz"
    python examples/01_classify.py --toy

my-data.csv has the columns `text` and `label`. A checkpoint that has no classifier for these labels is fine-tuned first.
"""

from __future__ import annotations

from numbered import flags, opened, parsed, write_texts

import edgebert


def main() -> None:
    parser = flags(__doc__, "a .csv, .tsv or .jsonl with `text` and `label`, or a folder with train, dev and test")
    parser.add_argument("texts", nargs="*", default=["play some jazz", "is it sunny today"], help="asked at the end")
    given = parsed(parser, write_texts)

    profile = edgebert.load_profile(given.profile)
    request = edgebert.FitRequest(
        profile=profile, budget=profile.budget, out=given.out, model=given.model, task=None, data=given.data,
        threads=profile.threads, **given.settings)
    result = edgebert.fit_device(request, edgebert.Cache(given.cache), edgebert.Reporter())

    teacher, student = result.evidence.model("teacher"), result.evidence.model("student")
    print(f"plan: {result.plan.estimate.text()} at {result.plan.estimate.percentile} on {profile.title}")
    print(f"dev: {teacher.dev.points:.1f} before, {student.dev.points:.1f} now; "
          f"{student.params / teacher.params:.0%} of the parameters")
    for what, detail in edgebert.verify(result.bundle).checks:
        print(f"  ok  {what}: {detail}")

    classifier = opened(result.bundle)
    for text in given.texts:
        best = classifier.classify(text)[0]
        print(f"{best.label}\t{best.score:.3f}\t{text}")


if __name__ == "__main__":
    main()
