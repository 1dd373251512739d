"""Two texts, one label: paraphrases, entailment, whether an answer fits a question.

    python examples/02_pairs.py --data ./my-pairs --model ./my-bert --metric macro_f1
    python examples/02_pairs.py --toy

Rows have the columns `text_a`, `text_b` and `label`; other names are told by --first, --second and --label. Both texts go
in together, so a pair that is too long is cut where it is longest, in training and in the app alike.
"""

from __future__ import annotations

from numbered import flags, opened, parsed, write_pairs

import edgebert


def main() -> None:
    parser = flags(__doc__, "a file with two texts and a label, or a folder with train, dev and test")
    for flag, default in (("--first", "text_a"), ("--second", "text_b"), ("--label", "label")):
        parser.add_argument(flag, default=default, metavar="COLUMN")
    parser.add_argument("--metric", choices=("accuracy", "macro_f1", "matthews"), default="accuracy")
    parser.add_argument("--ask", nargs=2, default=["play some jazz", "some music"], metavar="TEXT", help="at the end")
    given = parsed(parser, write_pairs)

    profile = edgebert.load_profile(given.profile)
    request = edgebert.FitRequest(
        profile=profile, budget=profile.budget, out=given.out, model=given.model, task=None, data=given.data,
        columns=edgebert.Columns(given.first, given.second, given.label), metric=given.metric,
        threads=profile.threads, **given.settings)
    result = edgebert.fit_device(request, edgebert.Cache(given.cache), edgebert.Reporter())

    teacher, student = result.evidence.model("teacher"), result.evidence.model("student")
    print(f"{given.metric} on dev: {teacher.dev.points:.1f} before, {student.dev.points:.1f} now")
    for one in opened(result.bundle).classify(*given.ask):
        print(f"{one.label}\t{one.score:.3f}")


if __name__ == "__main__":
    main()
