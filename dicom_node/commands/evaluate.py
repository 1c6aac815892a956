"""`radnode eval`: numbers against a reference, for the tables of others and for the models of this node.

Subcommands are entry points of ``radnode.eval_commands``, loaded when one is called; the arithmetic is in `eval`.
"""

from __future__ import annotations

import click

from dicom_node.commands.lazy import LazyGroup

SUMMARIES = {
    "froc": "Lesions found against false marks, by the rules of LUNA16.",
    "roc": "Cases told apart: AUROC, operating point, calibration, subgroups.",
    "boxes": "Average precision of boxes, COCO or VOC, flat or in volumes.",
    "proportions": "Sensitivity, specificity and the like with their intervals.",
    "paired": "Two methods on the same cases: McNemar, Tango, non-inferiority.",
    "mrmc": "Several readers, several treatments: Obuchowski and Rockette.",
    "jafroc": "Readers who mark and rate lesions: wAFROC, LROC and relatives.",
    "sample-size": "How many cases a study needs.",
    "drift": "Whether scores have moved since the reference.",
    "run": "Run a model over a data set and keep its findings.",
    "compare": "Hold two runs against each other and against declared margins.",
    "report": "Make the evaluation report of a run.",
    "log": "Log an evaluation run and its report in MLflow.",
}


@click.command(name="eval", cls=LazyGroup, entry_group="radnode.eval_commands", summaries=SUMMARIES)
def evaluate() -> None:
    """Evaluate: statistics, runs over data sets, reports."""
