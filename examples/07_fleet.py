"""A bundle for each of several devices, from one teacher and one set of error tables.

    python examples/07_fleet.py --profiles pixel6 raspberry-pi-4 galaxy-s24 --data my-data.csv --model ./my-bert
    python examples/07_fleet.py --toy

What the devices share is made once and found in the cache by the next one. A device whose budget no plan keeps is told,
and stops no other. `edgebert fit-device --profiles A,B --workers 4` does the same on several processes or a Ray cluster.
"""

from __future__ import annotations

from numbered import flags, parsed, write_texts

import edgebert


def main() -> int:
    parser = flags(__doc__, "a file with `text` and `label`, or a folder with train, dev and test", "fleet", None)
    parser.add_argument("--profiles", nargs="+", default=["pixel6", "raspberry-pi-4"], metavar="NAME",
                        help=f"of {len(edgebert.list_profiles())}: see `edgebert profiles`")
    given = parsed(parser, write_texts)

    failed, lines = [], []
    for name in given.profiles:
        profile = edgebert.load_profile(name)
        request = edgebert.FitRequest(
            profile=profile, budget=profile.budget, out=given.out / name, threads=profile.threads, model=given.model,
            task=None, data=given.data, **given.settings)
        try:
            result = edgebert.fit_device(request, edgebert.Cache(given.cache), edgebert.Reporter())
        except edgebert.EdgeBertError as error:
            failed.append(f"{name}: {error}")
            continue
        own, student = result.plan.estimate, result.evidence.model("student")
        lines.append(f"{name:<18}{own.text():<46}{own.file_bytes / 1e6:5.1f} MB  dev {student.dev.points:.1f}  "
                     f"{result.bundle}")
    print("\n".join([*lines, *failed]))
    return 1 if failed else 0


if __name__ == "__main__":
    raise SystemExit(main())
