"""What plans are cut from: the teacher itself, or a supernet trained to be cut."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from edgebert.checkpoint import load_checkpoint
from edgebert.elastic_stages import elastic_of, elastic_tables, sandwich
from edgebert.errors import UsageError
from edgebert.material import Material
from edgebert.modeling import Encoder
from edgebert.request import FitRequest
from edgebert.space import ElasticSpace
from edgebert.stages import Workplace, tables_of
from edgebert.tables import ErrorTables

if TYPE_CHECKING:
    from edgebert.supernet import Supernet


@dataclass(frozen=True)
class Origin:
    """net: what is cut. tables: errors of its single cuts. space: of the subnets that answer well as they are cut, None
    where there are none."""

    net: Encoder
    tables: ErrorTables
    space: ElasticSpace | None = None


def origin_of(request: FitRequest, supernet: Supernet | None, material: Material, teacher: Encoder,
              work: Workplace) -> Origin:
    """The opened supernet, or one trained now (effort "full"), or the teacher.

    Raises UsageError where the data are not those the supernet was trained on."""
    if supernet is not None:
        if material.data.sha256 != supernet.task.sha256:
            raise UsageError(f"{supernet.folder}: trained on other data than {material.data.name} holds now; train it "
                             "again, or give the data it was trained on")
        net = load_checkpoint(supernet.weights_folder, material.data.labels, kind=material.data.kind).net
        return Origin(net, supernet.tables, supernet.space)
    if request.effort == "full":
        elastic = elastic_of(teacher, material, sandwich(), request.criterion, work)
        return Origin(elastic.net, elastic_tables(elastic.net, material, work), elastic.space)
    return Origin(teacher, tables_of(teacher, material.data, material.train, request.criterion, work))
