"""From a profile and a budget to a bundle: the one path, told by `fit_device`."""

from __future__ import annotations

import os
import platform
import shutil
from dataclasses import dataclass, replace
from datetime import datetime, timezone
from pathlib import Path

from edgebert import bundle
from edgebert.cache import Cache
from edgebert.checkpoint import Checkpoint, load_checkpoint, resolve
from edgebert.data import Dataset, load_dataset
from edgebert.demo import demo_model_folder, demo_task_folder
from edgebert.device import Budget
from edgebert.errors import AccuracyError, OverBudgetError, UsageError
from edgebert.evidence import Evidence, Score
from edgebert.modeling import Encoder
from edgebert.plan import CompressionPlan
from edgebert.progress import Reporter
from edgebert.proof import Proof, prove
from edgebert.request import EFFORTS, FitRequest
from edgebert.search import front, search
from edgebert.stages import Workplace, rows_of, student_of, tables_of, teacher_of
from edgebert.tables import ErrorTables
from edgebert.tasks import evaluate_logits
from edgebert.tokenization import choose_length, lengths, load_tokenizer
from edgebert.train.batches import Rows
from edgebert.train.loop import Schedule
from edgebert.train.teacher import logits_of

RECOVERY = Schedule(epochs=0, learning_rate=6e-4)
