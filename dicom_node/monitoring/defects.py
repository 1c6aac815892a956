"""Technological defects, classes А to Д, and how each is seen from the ledger: one table, with the reason for each row.

A refusal is a defect of the service only where the service failed: a study that is not what the model is made for was
rightly declined. Counted by `dicom_node.ledger.service`; the share of studies with any is held against the
limit of the settings.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from enum import StrEnum
from typing import Final

from inference.refusals import Reason
from models.codes import Text


class Seen(StrEnum):
    """How much the ledger knows of a class."""

    COUNTED = "counted"  # rows show it
    EXCLUDED = "excluded"  # the node cannot write such a result; tests hold it to that
    NOT_SEEN = "not_seen"  # only a person who looks at the pictures can tell


@dataclass(frozen=True, kw_only=True, slots=True)
class DefectClass:
    """One class.

    Attributes
    ----------
    code : str
        Letter and number, in Cyrillic as the letter is written.
    title : Text
    seen : Seen
    why : Text
        What in the ledger shows it, or why nothing does.
    """

    code: str
    title: Text
    seen: Seen
    why: Text


CLASSES: Final = (
    DefectClass(
        code="А",
        title=Text(en="late", ru="результат поздно"),
        seen=Seen.COUNTED,
        why=Text(
            en="the first destination confirmed the result later than monitoring.late_after_s after the last image",
            ru="от последнего снимка до первого подтверждения получателем прошло больше monitoring.late_after_s",
        ),
    ),
    DefectClass(
        code="Б",
        title=Text(en="no result", ru="нет результата"),
        seen=Seen.COUNTED,
        why=Text(
            en="the job failed, was refused for a reason of the service's own (table of reasons), or after the same "
            "time has reached no destination",
            ru="задание не выполнено, отклонено по причине на стороне сервиса (таблица причин) или за то же время не "
            "дошло ни до одного получателя",
        ),
    ),
    DefectClass(
        code="В1",
        title=Text(en="no series of pictures", ru="нет серии изображений"),
        seen=Seen.COUNTED,
        why=Text(
            en="a result set of a profile that writes pictures has none",
            ru="в наборе результата нет изображений, хотя профиль их пишет",
        ),
    ),
    DefectClass(
        code="В2",
        title=Text(en="no structured report", ru="нет структурированного отчёта"),
        seen=Seen.COUNTED,
        why=Text(
            en="a result set has no report, though its profile writes one (sr with findings, negative_sr without)",
            ru="в наборе нет отчёта, хотя профиль его пишет (sr при находках, negative_sr без них)",
        ),
    ),
    DefectClass(
        code="В3",
        title=Text(en="more than one structured report", ru="более одного структурированного отчёта"),
        seen=Seen.COUNTED,
        why=Text(en="a result set has two reports or more", ru="в наборе два отчёта или больше"),
    ),
    DefectClass(
        code="В4",
        title=Text(en="no name of the service", ru="нет названия сервиса"),
        seen=Seen.EXCLUDED,
        why=Text(
            en="every object takes the model's name from its card, which cannot be without",
            ru="каждый объект берёт название из карточки модели, где оно обязательно",
        ),
    ),
    DefectClass(
        code="В5",
        title=Text(en="no version of the service", ru="нет версии сервиса"),
        seen=Seen.EXCLUDED,
        why=Text(
            en="every object takes the model's version from its card, which cannot be without",
            ru="каждый объект берёт версию из карточки модели, где она обязательна",
        ),
    ),
    DefectClass(
        code="Г1",
        title=Text(en="picture cropped", ru="изображение обрезано"),
        seen=Seen.NOT_SEEN,
        why=Text(
            en="the ledger knows no pixels of results; a person compares them",
            ru="пикселей результатов журнал не хранит; сравнивает человек",
        ),
    ),
    DefectClass(
        code="Г2",
        title=Text(en="contrast of the picture wrong", ru="неверный контраст изображения"),
        seen=Seen.NOT_SEEN,
        why=Text(
            en="the ledger knows no pixels of results; a person looks at them",
            ru="пикселей результатов журнал не хранит; смотрит человек",
        ),
    ),
    DefectClass(
        code="Г3",
        title=Text(en="not all images", ru="обработаны не все изображения"),
        seen=Seen.COUNTED,
        why=Text(
            en="analysed, but images meant for the model could not be read and were left out",
            ru="исследование проанализировано, но часть предназначенных модели снимков не прочитана",
        ),
    ),
    DefectClass(
        code="Г4",
        title=Text(en="incomplete set", ru="неполный комплект"),
        seen=Seen.COUNTED,
        why=Text(
            en="analysed at the deadline although images of the study were missing",
            ru="проанализировано по истечении срока, хотя снимков не хватало",
        ),
    ),
    DefectClass(
        code="Г5",
        title=Text(en="original changed", ru="изменён оригинал"),
        seen=Seen.EXCLUDED,
        why=Text(
            en="results are new series; the node never sends an image that it received",
            ru="результаты — новые серии; полученные снимки узел не отправляет",
        ),
    ),
    DefectClass(
        code="Д1",
        title=Text(en="mark outside the organ", ru="отметка вне органа"),
        seen=Seen.NOT_SEEN,
        why=Text(en="only a reader of the pictures can tell", ru="может сказать только врач, смотрящий снимки"),
    ),
    DefectClass(
        code="Д2",
        title=Text(en="wrong view", ru="неверная проекция"),
        seen=Seen.NOT_SEEN,
        why=Text(
            en="views outside the intended use are refused by the header; a wrong header only a reader can tell",
            ru="проекции вне назначения отклоняются по заголовку; неверный заголовок видит только врач",
        ),
    ),
)


@dataclass(frozen=True, kw_only=True, slots=True)
class Fault:
    """Whose a refusal is: `defect` is its class when it is the service's own, else None; and why."""

    defect: str | None
    why: str


_SENDER, _OUTSIDE = "the images as they were sent", "rightly declined: outside what the model is made for"
REASONS: Final[Mapping[Reason, Fault]] = {
    Reason.UNREADABLE: Fault(defect=None, why=_SENDER),
    Reason.UNDECODABLE: Fault(defect=None, why=_SENDER),
    Reason.TRANSFER_SYNTAX: Fault(defect="Б", why="the node accepted a compression that it cannot decode"),
    Reason.NO_PIXELS: Fault(defect=None, why=_SENDER),
    Reason.TOO_LARGE: Fault(defect=None, why="beyond the declared limits of the node"),
    Reason.NOT_GREY: Fault(defect=None, why=_OUTSIDE),
    Reason.NOT_HU: Fault(defect=None, why=_SENDER),
    Reason.CONTRADICTION: Fault(defect=None, why=_SENDER),
    Reason.MODALITY: Fault(defect=None, why=_OUTSIDE),
    Reason.BODY_PART: Fault(defect=None, why=_OUTSIDE),
    Reason.VIEW: Fault(defect=None, why=_OUTSIDE),
    Reason.PRESENTATION: Fault(defect=None, why=_OUTSIDE),
    Reason.AGE: Fault(defect=None, why=_OUTSIDE),
    Reason.OUT_OF_RANGE: Fault(defect=None, why=_OUTSIDE),
    Reason.GEOMETRY: Fault(defect=None, why=_SENDER),
    Reason.INCOMPLETE: Fault(defect=None, why="images were not sent before the deadline"),
    Reason.OTHER_SERIES: Fault(defect=None, why="another series of the study was analysed"),
    Reason.OWN_RESULT: Fault(defect=None, why="nothing to analyse"),
    Reason.SECONDARY_CAPTURE: Fault(defect=None, why="nothing to analyse"),
    Reason.NOT_AN_IMAGE: Fault(defect=None, why="nothing to analyse"),
    Reason.TWO_PATIENTS: Fault(defect=None, why="the study as it was sent; a result could be filed wrongly"),
    Reason.TOO_MANY_INSTANCES: Fault(defect=None, why="beyond the declared limits of the node"),
    Reason.POISON: Fault(defect="Б", why="processing broke off repeatedly: nobody else can mend that"),
    Reason.MODEL_FAILED: Fault(defect="Б", why="the model or its device failed"),
    Reason.NO_ROUTE: Fault(defect="Б", why="the model went while the study waited for it"),
}

OWN_REASONS: Final = frozenset(reason for reason, fault in REASONS.items() if fault.defect is not None)
