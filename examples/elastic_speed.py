"""How fast elastic training is, in one run: this project's 12-subnet step against a plain loop, and against its parts.

    python examples/elastic_speed.py [--length 32] [--rounds 5]

plain loop: what DynaBERT's release does in its depth stage, written down plainly: for each depth and width the whole
network forth and back in fp32 through autograd's slices, embeddings included, a teacher run for each width, rows padded
to the full length, AdamW without fusing. bf16, unpadded: that loop in autocast on the batch as it is. parts: the same 12
subnets cut out as models of their own, each forth and back in bf16 autocast on that batch, and one teacher run: what the
step needs at least.
"""

from __future__ import annotations

import argparse
import statistics
import time
from collections.abc import Callable

import torch
import torch.nn.functional as F

from edgebert.checkpoint import load_checkpoint
from edgebert.compress.subnet import extract
from edgebert.data import load_dataset
from edgebert.demo import demo_model_folder, demo_task_folder
from edgebert.modeling import Encoder
from edgebert.rows import rows_of
from edgebert.space import ElasticSpace, fixed_order
from edgebert.spec import SubnetSpec
from edgebert.tokenization import load_tokenizer
from edgebert.train.batches import Batch, Rows, shuffled
from edgebert.train.elastic import Curriculum, distil_step
from edgebert.train.losses import hidden_mse
from edgebert.train.objectives import OBJECTIVES
from edgebert.train.recover import layer_map


def units(subnet: SubnetSpec) -> tuple:
    return (tuple(tuple(range(layer.heads)) for layer in subnet.layers),
            tuple(tuple(range(layer.ffn)) for layer in subnet.layers))


def plain_forward(net: Encoder, batch: Batch, subnet: SubnetSpec) -> tuple[torch.Tensor, list[torch.Tensor]]:
    """A subnet through ordinary slices of ordinary parameters."""
    x, bias = net.embed(batch.ids, batch.types), net.attention_bias(batch.mask)
    states = [x]
    for index, width in zip(subnet.kept, subnet.layers):
        layer, inner = net.layers[index], width.heads * net.shape.head_dim
        split = lambda y, width=width: y.view(*y.shape[:2], width.heads, -1).transpose(1, 2)  # noqa: E731
        query, key, value = (split(F.linear(x, part.weight[:inner], part.bias[:inner]))
                             for part in (layer.query, layer.key, layer.value))
        scores = query @ key.transpose(-1, -2) / net.shape.head_dim**0.5 + bias
        context = (scores.softmax(-1) @ value).transpose(1, 2).flatten(2)
        x = layer.attention_norm(x + F.linear(context, layer.output.weight[:, :inner], layer.output.bias))
        hidden = F.gelu(F.linear(x, layer.up.weight[: width.ffn], layer.up.bias[: width.ffn]))
        x = layer.ffn_norm(x + F.linear(hidden, layer.down.weight[:, : width.ffn], layer.down.bias))
        states.append(x)
    return net.classify(x), states


def padded(batch: Batch, length: int) -> Batch:
    room = (0, length - batch.ids.shape[1])
    return Batch(F.pad(batch.ids, room), F.pad(batch.mask, room), None, batch.labels, batch.index)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--length", type=int, default=32, help="tokens that the plain loop pads to")
    parser.add_argument("--rounds", type=int, default=5)
    asked = parser.parse_args()
    data, folder = load_dataset(demo_task_folder("clinc150")), demo_model_folder()
    train: Rows = rows_of(data.train, data, load_tokenizer(folder), asked.length)[0]
    teacher, net, other = (load_checkpoint(folder, data.labels).net for _ in range(3))
    for one in (teacher, net, other):
        one.dropout = 0.0
    space, objective = ElasticSpace(net.shape, fixed_order(len(net.layers))), OBJECTIVES[data.kind]
    net.word.requires_grad_(False)
    batches = [batch for batch, _ in zip(shuffled(train, 32, 0), range(asked.rounds + 2))]
    grid = [subnet for _, _, subnet in space.grid()]
    step = distil_step(net, teacher, space, Curriculum("grid"), objective)
    fused = torch.optim.AdamW([p for p in net.parameters() if p.requires_grad], lr=1e-5, fused=True)
    loose = torch.optim.AdamW(other.parameters(), lr=1e-5, foreach=False)
    parts = [extract(teacher, subnet, *units(subnet)).train() for subnet in grid]
    for part in parts:
        part.dropout = 0.0
        part.word.requires_grad_(False)

    def lessons(logits: torch.Tensor, states: list, answer: torch.Tensor, target: list, kept: tuple, batch: Batch):
        mapped = [target[0], *(target[i] for i in layer_map(kept, len(teacher.layers)))]
        return objective.soft(logits.float(), answer.float(), batch).mean() + hidden_mse(
            [s.float() for s in states], [t.float() for t in mapped], batch.mask)

    def ours(batch: Batch) -> None:
        fused.zero_grad()
        step(batch, 0)
        torch.nn.utils.clip_grad_norm_(net.parameters(), 1.0)
        fused.step()

    def plain(batch: Batch) -> None:
        slow_step(padded(batch, asked.length))

    def plain_bf16(batch: Batch) -> None:
        with torch.autocast("cpu", torch.bfloat16):
            slow_step(batch)

    def slow_step(batch: Batch) -> None:
        with torch.no_grad():
            taught = [teacher.trace(*batch.inputs) for _ in space.widths]
        loose.zero_grad()
        for position, subnet in enumerate(grid):
            logits, states = plain_forward(other, batch, subnet)
            lessons(logits, states, *taught[position % len(taught)], subnet.kept, batch).backward()
        torch.nn.utils.clip_grad_norm_(other.parameters(), 1.0)
        loose.step()

    def cut_out(batch: Batch) -> None:
        with torch.autocast("cpu", torch.bfloat16):
            with torch.no_grad():
                answer, target = teacher.trace(*batch.inputs)
            for part, subnet in zip(parts, grid):
                part.zero_grad()
                lessons(*part.trace(*batch.inputs), answer, target, subnet.kept, batch).backward()

    ways: dict[str, Callable[[Batch], None]] = {"this project": ours, "plain loop": plain,
                                               "bf16, unpadded": plain_bf16, "parts": cut_out}
    spent: dict[str, list[float]] = {name: [] for name in ways}
    for number, batch in enumerate(batches):
        for name, run in ways.items():
            began = time.perf_counter()
            run(batch)
            if number >= 2:
                spent[name].append(time.perf_counter() - began)
    median = {name: statistics.median(times) for name, times in spent.items()}
    print(f"12 subnets a step, batch 32, {torch.get_num_threads()} threads, medians of {asked.rounds} batches")
    for name, seconds in median.items():
        print(f"  {name:15} {seconds:6.3f} s   {median['plain loop'] / seconds:5.2f} x the plain loop's throughput   "
              f"{seconds / median['parts']:5.2f} of the parts")


if __name__ == "__main__":
    main()
