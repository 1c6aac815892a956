"""Turns public sets, as their makers publish them, into the layouts that readers know; nothing is downloaded.

Called by ``radnode data import``. Pictures are linked, not copied, save those of mini-MIAS, which are PGM. Every table
is written whole or not at all; docs/howto/data-sets.md says where each set comes from and under which licence.
"""

from __future__ import annotations

import csv
import io
import json
import math
from collections import defaultdict
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path

import PIL.Image

from inference.findings import Box
from training.errors import DataError
from training.files import write_whole
from training.hits import overlap

_MIAS_SIDE, _MIAS_FIELDS, _MIAS_SHAPE_FIELDS = 1024, 4, 7
_SAME_LESION = 0.4  # overlap from which boxes of two readers are one lesion
_READERS_NEEDED = 2
OPACITIES = ("Consolidation", "Infiltration", "Lung Opacity", "Pneumonia")


def import_nih(source: Path, target: Path) -> int:
    """NIH ChestX-ray14, with the RSNA Pneumonia Detection Challenge where its tables lie there too; returns films.

    Expects `Data_Entry_2017*.csv`, `BBox_List_2017.csv` and the PNG files anywhere below `source`; of RSNA
    `stage_2_train_labels.csv`, `stage_2_detailed_class_info.csv` and the mapping `*mappings_2018.json`.

    Raises
    ------
    DataError
        If a table is missing or lacks a column.
    """
    rsna = _rsna(source)
    pictures = {path.name: path for path in source.rglob("*.png")}
    films, boxes = [], []
    for row in read_rows(
        _one(source, "Data_Entry_2017*.csv"), ("Image Index", "Finding Labels", "Patient ID", "View Position")
    ):
        image = row["Image Index"]
        if image not in pictures:
            continue
        read = rsna.get(image)
        age = "".join(letter for letter in row["Patient Age"] if letter.isdigit())
        sex = row.get("Patient Gender") or row.get("Patient Sex") or ""
        films.append(
            {
                "image": image,
                "findings": row["Finding Labels"],
                "patient_id": row["Patient ID"],
                "age": str(int(age)),
                "sex": sex,
                "view": row["View Position"],
                "rsna_patientId": read[0] if read else "",
                "rsna_class": read[1] if read else "",
            }
        )
        if read:
            boxes += [_row(image, "Lung Opacity", corners, "RSNA") for corners in read[2]]
    known = {film["image"] for film in films}
    for row in read_rows(_one(source, "BBox_List_2017.csv"), ("Image Index", "Finding Label")):
        if row["Image Index"] in known:
            numbers = list(row.values())[2:6]  # the header splits "[x,y,w,h]" over four columns
            boxes.append(_row(row["Image Index"], row["Finding Label"], numbers, "NIH BBox_List_2017"))
    _links(target / "images", [pictures[image] for image in sorted(known)])
    write_whole(target / "labels.csv", csv_text(films))
    write_whole(target / "boxes.csv", csv_text(boxes))
    return len(films)


def _rsna(source: Path) -> dict[str, tuple[str, str, list[Sequence[str]]]]:
    """For each NIH image its RSNA id, class and boxes; empty when the challenge's tables are not there."""
    mappings = sorted(source.rglob("*mappings_2018.json"))
    if not mappings:
        return {}
    labels = read_rows(_one(source, "stage_2_train_labels.csv"), ("patientId", "x", "y", "width", "height"))
    classes = read_rows(_one(source, "stage_2_detailed_class_info.csv"), ("patientId", "class"))
    class_of = {row["patientId"]: row["class"] for row in classes}
    boxes: defaultdict[str, list[Sequence[str]]] = defaultdict(list)
    for row in labels:
        if row["x"]:
            boxes[row["patientId"]].append([row["x"], row["y"], row["width"], row["height"]])
    found = {}
    for entry in json.loads(mappings[0].read_text(encoding="utf-8")):
        identity = entry["subset_img_id"]
        if identity in class_of:
            found[entry["img_id"]] = (identity, class_of[identity], boxes[identity])
    return found


def import_vindr(source: Path, target: Path, *, classes: Sequence[str] = OPACITIES) -> int:
    """VinDr-CXR (PhysioNet): training films with the boxes on which two of three radiologists agree; returns films.

    Expects `annotations*train.csv` or `train.csv` and the DICOM files anywhere below `source`. The set names no
    patients: every film counts as one, and `radnode data audit` looks for twins.

    Raises
    ------
    DataError
        If a table is missing or lacks a column.
    """
    named = [*source.rglob("annotations*train.csv"), *source.rglob("train.csv")]
    if not named:
        raise DataError(f"{source} holds no annotations_train.csv")
    pictures = {path.stem: path for path in source.rglob("*.dic*m")}
    of_film: defaultdict[str, list[Mapping[str, str]]] = defaultdict(list)
    for row in read_rows(named[0], ("image_id", "rad_id", "class_name", "x_min", "y_min", "x_max", "y_max")):
        if row["image_id"] in pictures:
            of_film[row["image_id"]].append(row)
    films, boxes = [], []
    for name, rows in sorted(of_film.items()):
        image = f"images/{pictures[name].name}"
        agreed = agreed_boxes([(row["rad_id"], _corners(row)) for row in rows if row["class_name"] in classes])
        normal = all(row["class_name"] == "No finding" for row in rows)
        reading = "lesion" if agreed else "normal" if normal else "other"
        if not agreed and any(row["class_name"] in classes for row in rows):
            reading = "disputed"  # one reader alone saw it: neither learnt from nor judged
        films.append({"image": image, "patient": name, "reading": reading})
        boxes += [_shape(image, box) for box in agreed]
    _links(target / "images", [pictures[name] for name in sorted(of_film)])
    write_whole(target / "films.csv", csv_text(films))
    write_whole(target / "boxes.csv", csv_text(boxes, head=("image", "x", "y", "w", "h")))
    about = 'negatives = ["normal", "other"]\nstandard = "Reference standard: boxes of two or more radiologists."\n'
    write_whole(target / "set.toml", about)
    return len(films)


def agreed_boxes(drawn: Sequence[tuple[str, Box]]) -> list[Box]:
    """Boxes that at least two readers drew at the same place, each the mean of theirs."""
    groups: list[list[tuple[str, Box]]] = []
    for reader, box in drawn:
        for group in groups:
            if any(overlap(box, other) >= _SAME_LESION for _, other in group):
                group.append((reader, box))
                break
        else:
            groups.append([(reader, box)])
    agreed = [group for group in groups if len({reader for reader, _ in group}) >= _READERS_NEEDED]
    return [_mean([box for _, box in group]) for group in agreed]


def _mean(boxes: Sequence[Box]) -> Box:
    def of(edge: Callable[[Box], float]) -> float:
        return math.fsum(edge(box) for box in boxes) / len(boxes)

    return Box(
        x_min=of(lambda box: box.x_min),
        y_min=of(lambda box: box.y_min),
        x_max=of(lambda box: box.x_max),
        y_max=of(lambda box: box.y_max),
    )


def import_mias(source: Path, target: Path) -> int:
    """mini-MIAS: `Info.txt` and the PGM files; circles are turned to a top-left origin. Returns films.

    Raises
    ------
    DataError
        If `Info.txt` is missing, a line cannot be understood, or a picture is missing.
    """
    info = _one(source, "Info.txt")
    pictures = {path.stem: path for path in source.rglob("*.pgm")}
    rows = []
    for number, line in enumerate(info.read_text(encoding="utf-8", errors="replace").splitlines(), start=1):
        fields = line.split()
        if not fields or not fields[0].startswith("mdb") or not fields[0][3:].isdigit():
            continue
        rows.append(_mias_row(fields, number))
    names = sorted({row["image"] for row in rows})
    if missing := [name for name in names if Path(name).stem not in pictures]:
        raise DataError(f"{len(missing)} film(s) of Info.txt are missing as PGM, the first is {missing[0]}")
    for name in names:
        with PIL.Image.open(pictures[Path(name).stem]) as picture:
            content = io.BytesIO()
            picture.save(content, "PNG")
        write_whole(target / "images" / name, content.getvalue())
    write_whole(target / "lesions.csv", csv_text(rows))
    return len(names)


def _mias_row(fields: Sequence[str], number: int) -> dict[str, str]:
    try:
        index = int(fields[0][3:])
        row = {"image": f"{fields[0]}.png", "pair": str((index + 1) // 2), "laterality": "R" if index % 2 else "L"}
        row |= {"background_tissue": fields[1], "abnormality": fields[2]}
        row |= {"severity": fields[3] if len(fields) >= _MIAS_FIELDS else "", "x": "", "y": "", "radius": ""}
        if len(fields) == _MIAS_SHAPE_FIELDS:
            x, y, radius = (float(value) for value in fields[4:])
            row |= {"x": str(x), "y": str(_MIAS_SIDE - 1 - y), "radius": str(radius)}  # their origin is at the bottom
    except (IndexError, ValueError) as error:
        raise DataError(f"Info.txt, line {number} cannot be understood: {error}") from error
    return row


def _one(source: Path, pattern: str) -> Path:
    found = sorted(source.rglob(pattern))
    if not found:
        raise DataError(f"{source} holds no {pattern}; docs/howto/data-sets.md tells what must lie there")
    return found[-1]


def read_rows(file: Path, needed: Sequence[str]) -> list[dict[str, str]]:
    """The rows of a maker's table.

    Raises
    ------
    DataError
        If it lacks one of the columns `needed`.
    """
    with file.open(newline="", encoding="utf-8-sig") as lines:
        reader = csv.DictReader(lines, restval="")
        rows = [{str(name): value for name, value in row.items() if isinstance(value, str)} for row in reader]
    if lacking := [name for name in needed if name not in (reader.fieldnames or ())]:
        raise DataError(f"{file.name} lacks the column(s) {', '.join(lacking)}")
    return rows


def csv_text(rows: Iterable[Mapping[str, str]], head: Sequence[str] = ()) -> str:
    """A table with the columns of its first row, or of `head` where there may be no row."""
    rows = list(rows)
    lines = io.StringIO()
    writer = csv.DictWriter(lines, fieldnames=list(head or (rows[0] if rows else ())), lineterminator="\n")
    writer.writeheader()
    writer.writerows(rows)
    return lines.getvalue()


def _row(image: str, label: str, corners: Sequence[str], source: str) -> dict[str, str]:
    x, y, w, h = corners
    return {"image": image, "label": label, "x": x, "y": y, "w": w, "h": h, "source": source}


def _corners(row: Mapping[str, str]) -> Box:
    try:
        x_min, y_min, x_max, y_max = (float(row[name]) for name in ("x_min", "y_min", "x_max", "y_max"))
        return Box(x_min=x_min, y_min=y_min, x_max=x_max, y_max=y_max)
    except ValueError as error:
        raise DataError(f"the annotations of {row['image_id']} cannot be understood: {error}") from error


def _shape(image: str, box: Box) -> dict[str, str]:
    width, height = box.x_max - box.x_min, box.y_max - box.y_min
    return {"image": image, "x": f"{box.x_min:g}", "y": f"{box.y_min:g}", "w": f"{width:g}", "h": f"{height:g}"}


def _links(folder: Path, files: Sequence[Path]) -> None:
    link_all(folder, {file.name: file for file in files})


def link_all(folder: Path, files: Mapping[str, Path]) -> None:
    """Link each file below `folder` by the name it is to have; what is there already stays."""
    folder.mkdir(parents=True, exist_ok=True)
    for name, file in files.items():
        link = folder / name
        link.parent.mkdir(parents=True, exist_ok=True)
        if not link.is_symlink() and not link.exists():
            link.symlink_to(file.resolve())
