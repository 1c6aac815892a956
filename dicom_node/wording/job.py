"""The text of the report on a job of the ledger: the same words that its SR carries.

Called by the account of a study, and by whoever writes documents for the record, so that all of them are one text.
"""

from __future__ import annotations

from collections.abc import Sequence

from dicom_node.ledger.instances import StoredInstance
from dicom_node.ledger.jobs import Job
from dicom_node.wording.report import report_text
from dicom_node.wording.shown import shown_images
from dicom_node.wording.values import ReportText
from models.card import ModelCard


def text_of_job(
    job: Job, stored: Sequence[StoredInstance], card: ModelCard | None, *, language: str
) -> ReportText | None:
    """The report of a job in words.

    Parameters
    ----------
    job : Job
    stored : sequence of StoredInstance
        Instances of the study; those that the job was given are picked out, those replaced since included.
    card : ModelCard or None
        The installed card of the job's model; another card than the one that spoke counts as none.
    language : str
        ``"ru"`` or ``"en"``.

    Returns
    -------
    ReportText or None
        None where the job has said nothing yet, or where its findings cannot be told without the card that is gone.
    """
    spoke = card if card is not None and card.model_digest == job.model_digest else None
    if job.findings is None:
        return report_text(None, spoke, language=language, refusal=job.refusal) if job.refusal else None
    if spoke is None:
        return None
    given = {one.sop_instance_uid: one.facts for one in stored if one.id in set(job.instance_ids)}
    shown = shown_images({uid: facts for uid, facts in given.items() if facts is not None})
    return report_text(job.findings, spoke, language=language, shown=shown, images_given=len(given))
