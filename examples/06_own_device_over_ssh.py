"""A device of your own behind ssh (or adb): plans are timed there until one keeps the budget, then the bundle.

    python examples/06_own_device_over_ssh.py --device ssh:pi@raspberrypi.local --profile raspberry-pi-4 \
        --data my-data.csv --model ./my-bert --max-latency 25
    python examples/06_own_device_over_ssh.py --device local --toy

The device needs a Python with numpy and onnxruntime (or ai-edge-litert); EDGEBERT_DEVICE_PYTHON names another one than
its python3. `local` is this machine, `adb:SERIAL` a phone with such a Python. Nothing stays on the device.
"""

from __future__ import annotations

from dataclasses import replace

from numbered import flags, parsed, write_texts

import edgebert


def main() -> None:
    parser = flags(__doc__, "a .csv, .tsv or .jsonl with `text` and `label`, or a folder with train, dev and test")
    parser.add_argument("--device", default="local", help="local, ssh:user@host[:port] or adb:SERIAL")
    parser.add_argument("--max-latency", type=float, metavar="MS", help="90th percentile (default: the profile's)")
    given = parsed(parser, write_texts)

    profile = edgebert.load_profile(given.profile)
    if given.toy:  # so small a model keeps any budget; and this machine may lack the cores that the profile names
        profile, given.max_latency = replace(profile, affinity=()), 1000.0
    budget = replace(profile.budget, max_latency_ms=given.max_latency or profile.budget.max_latency_ms)
    request = edgebert.FitRequest(
        profile=profile, budget=budget, out=given.out, model=given.model, task=None, data=given.data,
        verify_on=given.device, threads=profile.threads, **given.settings)
    result = edgebert.fit_device(request, edgebert.Cache(given.cache), edgebert.Reporter())
    print(f"budget: {budget.text()}; {result.plan.provenance['verified on']}")

    for record in edgebert.bench(result.bundle, device=given.device, runs=100):
        p50, p90 = (record.latency_ms(share) for share in (50, 90))
        times = "too few runs to quote a latency" if p50 is None or p90 is None else f"p50 {p50:.2f} ms, p90 {p90:.2f} ms"
        golden = "right" if record.golden and record.golden.ok else "WRONG"
        print(f"{record.file_name} on {given.device}: {times}; golden rows {golden}")
        for warning in record.warnings():
            print(f"  {warning}")


if __name__ == "__main__":
    main()
