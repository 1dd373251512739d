"""What plans are cut from: the teacher itself, or a supernet trained to be cut."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

from edgebert.checkpoint import load_checkpoint
from edgebert.compress.importance import IN_ORDER
from edgebert.compress.obs import CRITERION as OBS
from edgebert.elastic_stages import elastic_of, sandwich
from edgebert.errors import UsageError
from edgebert.material import Material
from edgebert.method_tables import tables_with_embeddings, tables_with_hidden, tables_with_ranks
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


def require_origin(request: FitRequest, supernet: Supernet | None, material: Material) -> None:
    """Raises UsageError, before anything is trained, where the data are not those the supernet was trained on, or where
    the supernet that effort "full" would train has widths that the model's heads do not allow."""
    if supernet is not None:
        if material.data.sha256 != supernet.task.sha256:
            raise UsageError(f"{supernet.folder}: trained on other data than {material.data.name} holds now; train it "
                             "again, or say with --data where the data it was trained on are now")
    elif request.effort == "full":
        sandwich().space(material.checkpoint.net.shape)


def supernet_criterion(request: FitRequest) -> str:
    """How units of a supernet are ranked. What stays is trained in every width: updates that make up for one cut have no
    place in it."""
    return "fisher" if request.criterion == OBS else request.criterion


def origin_of(request: FitRequest, supernet: Supernet | None, material: Material, teacher: Encoder,
              work: Workplace) -> Origin:
    """The opened supernet, or one trained now (effort "full"), or the teacher, with the errors of all that the request's
    methods may do to it."""
    if supernet is not None:
        net = load_checkpoint(supernet.weights_folder, material.data.labels, kind=material.data.kind).net
        origin = Origin(net, supernet.tables, supernet.space)
    elif request.effort == "full":
        elastic = elastic_of(teacher, material, sandwich(), supernet_criterion(request), work)
        origin = Origin(elastic.net, tables_of(elastic.net, material.data, material.train, IN_ORDER, work), elastic.space)
    else:
        origin = Origin(teacher, tables_of(teacher, material.data, material.train, request.criterion, work))
    if "lowrank" in request.methods:
        rows = tuple(row for row in request.profile.rows if row.threads == request.threads
                     and request.runtime in (row.runtime, "auto", "both"))
        origin = replace(origin, tables=tables_with_ranks(origin.tables, origin.net, material, rows, work))
    if "stream" in request.methods:
        origin = replace(origin, tables=tables_with_hidden(origin.tables, origin.net, material, work))
    if "embeddings" in request.methods:
        tables = tables_with_embeddings(origin.tables, origin.net, material, work)
        if request.tflite_compat:  # tflite-runtime 2.14.0 answers zeros for 4-bit files
            tables = replace(tables, int4_embedding=None)
        origin = replace(origin, tables=tables)
    return replace(origin, tables=replace(origin.tables, tokens=dict(material.tokens)))
