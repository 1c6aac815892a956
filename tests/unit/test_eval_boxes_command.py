"""`radnode eval boxes` over files: keys, styles, volumes, and what it says of bad input."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner, Result

from eval.commands.boxes import BoxesDocument, command

BOXES = [(1, 1, [10, 10, 20, 20]), (1, 2, [60, 10, 50, 50]), (2, 1, [30, 40, 100, 120]), (3, 1, [5, 5, 20, 30])]
FOUND = [
    (1, 1, [10, 10, 20, 20], 0.9),
    (1, 2, [60, 12, 50, 50], 0.8),
    (2, 1, [30, 40, 100, 60], 0.7),
    (4, 1, [0, 0, 9, 9], 0.95),
]


def truth(**changes: Any) -> dict[str, Any]:
    made: dict[str, Any] = {
        "info": {"description": "five films"},
        "images": [{"id": number, "width": 512, "height": 400} for number in range(1, 6)],
        "categories": [{"id": 1, "name": "nodule"}, {"id": 2, "name": "mass"}, {"id": 7, "name": "fracture"}],
        "annotations": [
            {"id": number, "image_id": image, "category_id": category, "bbox": box, "area": box[2] * box[3]}
            for number, (image, category, box) in enumerate(BOXES)
        ],
    }  # fmt: skip
    return made | changes


def results(rows: Any = FOUND) -> list[dict[str, Any]]:
    return [{"image_id": row[0], "category_id": row[1], "bbox": row[2], "score": row[3]} for row in rows]


def run(folder: Path, *options: str, standard: Any = None, given: Any = None) -> Result:
    for name, value, default in (("truth", standard, truth()), ("results", given, results())):
        text = value if isinstance(value, str) else json.dumps(default if value is None else value)
        (folder / f"{name}.json").write_text(text, encoding="utf-8")
    files = ["--truth", str(folder / "truth.json"), "--predictions", str(folder / "results.json")]
    return CliRunner().invoke(command, [*files, *options], catch_exceptions=False)


def document(folder: Path, *options: str, **files: Any) -> Any:
    result = run(folder, *options, "--json", **files)
    assert result.exit_code == 0, result.stderr
    return json.loads(result.stdout)  # pycocotools must not speak


def refused(folder: Path, *options: str, **files: Any) -> str:
    result = run(folder, *options, **files)
    assert result.exit_code == 1
    assert not result.stdout
    return result.stderr


def test_coco_by_hand(tmp_path: Path) -> None:
    found = document(tmp_path)
    # nodule at 0.5: false, hit, hit (IoU 1/2), one missed; precision 2/3 up to recall 2/3, that is at 67 of 101 points
    at_half = 67 / 101 * 2 / 3
    strict = 34 / 101 / 2
    by_name = {one["name"]: one for one in found["per_class"]}
    assert by_name["nodule"]["ap50"] == pytest.approx(at_half)
    assert by_name["nodule"]["ap75"] == pytest.approx(strict)
    assert by_name["nodule"]["ap"] == pytest.approx((at_half + 9 * strict) / 10)
    assert by_name["mass"]["ap75"] == pytest.approx(1.0)
    assert by_name["fracture"]["ap"] is None
    assert "no box of this class" in found["undefined"]["per_class.fracture.ap"]
    assert found["ap50"] == pytest.approx((at_half + 1) / 2)
    assert found["ap"] == pytest.approx((by_name["nodule"]["ap"] + by_name["mass"]["ap"]) / 2)
    assert found["ap_ci"][0] <= found["ap"] <= found["ap_ci"][1]
    assert [row["iou"] for row in found["by_iou"]] == [0.5, 0.55, 0.6, 0.65, 0.7, 0.75, 0.8, 0.85, 0.9, 0.95]
    assert found["ap_large"] == pytest.approx(
        0.1
    )  # the large nodule is found at 0.5 alone, and the mass is no large one
    assert found["ap_medium"] is not None
    assert found["counts"] == {
        "images": 5,
        "images_with_boxes": 3,
        "images_without_predictions": 2,
        "boxes": 4,
        "ignored_boxes": 0,
        "predictions": 4,
        "predictions_considered": 4,
        "classes": 3,
        "classes_without_truth": 1,
    }
    assert found["settings"]["style"] == "coco"
    assert found["settings"]["resampled_unit"] == "image"


def test_one_overlap_decides_when_it_is_given(tmp_path: Path) -> None:
    found = document(tmp_path, "--iou", "0.75")
    assert found["ap"] == found["ap75"]
    assert [row["iou"] for row in found["by_iou"]] == [0.75]
    assert found["ap50"] == document(tmp_path)["ap50"]


def test_voc_by_hand(tmp_path: Path) -> None:
    found = document(tmp_path, "--style", "voc")
    # nodule: recall 1/3 and 2/3 at precision 2/3; mass 1
    assert found["ap"] == pytest.approx((2 / 3 * 2 / 3 + 1) / 2)
    assert found["settings"]["iou"] == "0.4"
    assert found["ap50"] == pytest.approx((1 / 3 * 1 / 2 + 1) / 2)  # exactly 1/2 is not above it
    assert found["ap_small"] is None
    assert "defined by COCO" in found["undefined"]["ap_small"]


def in_volumes(rows: Any) -> Any:
    return [(row[0], row[1], [*row[2][:2], 3, *row[2][2:], 8], *row[3:]) for row in rows]


def test_volumes_have_six_numbers_and_thresholds_of_their_own(tmp_path: Path) -> None:
    annotations = [
        {"id": 5, "image_id": image, "category_id": category, "bbox": box} for image, category, box in in_volumes(BOXES)
    ]
    files = {"standard": truth(annotations=annotations), "given": results(in_volumes(FOUND))}
    found = document(tmp_path, **files)
    assert [row["iou"] for row in found["by_iou"]] == [0.1, 0.15, 0.2, 0.25, 0.3, 0.35, 0.4, 0.45, 0.5]
    assert found["settings"]["boxes"] == "volumes"
    assert found["ap"] == pytest.approx((67 / 101 * 2 / 3 + 1) / 2)
    assert found["ap_small"] is None
    assert any("4 annotations have no area" in note for note in found["notes"])
    assert document(tmp_path, "--style", "voc", **files)["ap"] == pytest.approx((2 / 3 * 2 / 3 + 1) / 2)


def test_the_result_keeps_to_its_schema_and_repeats_byte_by_byte(tmp_path: Path) -> None:
    first, again = run(tmp_path, "--json", "--seed", "3"), run(tmp_path, "--json", "--seed", "3")
    assert first.stdout == again.stdout
    assert BoxesDocument.model_validate_json(first.stdout).settings["seed"] == 3


def test_a_readable_table_goes_to_the_terminal_and_json_to_a_file(tmp_path: Path) -> None:
    result = run(tmp_path, "--json", str(tmp_path / "out.json"))
    assert "fracture" in result.stdout
    assert "undefined" in result.stdout
    assert json.loads((tmp_path / "out.json").read_text())["counts"]["boxes"] == 4


def test_an_annotation_with_the_id_zero_is_matched_like_any_other(tmp_path: Path) -> None:
    assert document(tmp_path)["per_class"][0]["ap50"] > 0.4  # the first box of `truth` has the id 0


def test_images_of_one_patient_are_resampled_together(tmp_path: Path) -> None:
    images = [{"id": number, "patient": f"p{number // 3}"} for number in range(1, 6)]
    assert document(tmp_path, standard=truth(images=images))["settings"]["resampled_unit"] == "patient"
    assert "truth.json: images[4] names no patient" in refused(
        tmp_path, standard=truth(images=[*images[:4], {"id": 5}])
    )


def test_no_resamples_give_no_interval(tmp_path: Path) -> None:
    found = document(tmp_path, "--bootstrap", "0")
    assert found["ap_ci"] == [None, None]
    assert found["undefined"]["ap_ci"] == "no resamples were asked for"


# Bad input


def test_no_truth_leaves_everything_undefined_with_a_reason(tmp_path: Path) -> None:
    found = document(tmp_path, standard=truth(annotations=[]))
    assert found["ap"] is None
    assert found["undefined"]["ap"] == "no class has a box to be found"
    assert found["undefined"]["ap_small"] == "there is no small box to be found"
    assert found["ar"] is None
    assert found["counts"]["classes_without_truth"] == 3


@pytest.mark.parametrize("style", ["coco", "voc"])
def test_no_predictions_find_nothing_and_a_note_says_so(tmp_path: Path, style: str) -> None:
    found = document(tmp_path, "--style", style, given=[])
    assert found["ap"] == 0.0
    assert found["ap_ci"] == [0.0, 0.0]
    assert any("results.json: there is no box in it" in note for note in found["notes"])


def changed(number: int, **changes: Any) -> list[dict[str, Any]]:
    rows = results()
    rows[number] |= changes
    return rows


@pytest.mark.parametrize(
    ("given", "message"),
    [
        (changed(2, image_id=99), "results.json: [2].image_id is none of the truth's images; list the image there"),
        (changed(1, category_id="mass"), "results.json: [1].category_id is none of the truth's categories"),
        (changed(3, score=float("nan")), "results.json: [3].score: Input should be a finite number; leave the box out"),
        (changed(3, bbox=[1, 2, 3]), "results.json: [3].bbox has 3 numbers; give x, y, width, height"),
        (changed(0, bbox=[1, 2, 3, 4, 5, 6]), "flat boxes and volumes cannot be mixed"),
        (changed(0, bbox=[40, 40, -10, 5]), "results.json: [0].bbox has an extent below 0"),
        ({"images": []}, "results are a list of objects with image_id, category_id, bbox and score"),
        ([{"image_id": 1}], "results.json: [0].category_id: Field required; [0].bbox: Field required"),
        ("[{", "results.json: Invalid JSON"),
    ],
)
def test_faulty_results_are_refused_with_file_index_and_remedy(tmp_path: Path, given: Any, message: str) -> None:
    assert message in refused(tmp_path, given=given)


def boxed(image: int, box: list[float]) -> dict[str, Any]:
    return {"image_id": image, "category_id": 1, "bbox": box}


@pytest.mark.parametrize(
    ("standard", "message"),
    [
        (truth(images=[]), "truth.json: images is empty; list every image"),
        (truth(categories=[]), "truth.json: categories is empty; list every class"),
        (truth(images=[{"id": 1}, {"id": 2}, {"id": 1}]), "truth.json: images[0] and images[2] have the same id"),
        (truth(annotations=[boxed(8, [0, 0, 5, 5])]), "truth.json: annotations[0].image_id is none of the"),
        (truth(annotations=[boxed(1, [0, 0, 0, 5])]), "truth.json: annotations[0].bbox has an extent of 0 or less"),
        (results(), "the truth is an object with images, annotations and categories"),
    ],
)  # fmt: skip
def test_a_faulty_truth_is_refused_with_file_index_and_remedy(tmp_path: Path, standard: Any, message: str) -> None:
    assert message in refused(tmp_path, standard=standard)


def test_a_missing_file_is_named(tmp_path: Path) -> None:
    lost = CliRunner().invoke(command, ["--truth", "no.json", "--predictions", "no.json"])
    assert lost.exit_code == 1
    assert "no.json: cannot be read" in lost.stderr


def test_scores_outside_0_to_1_and_doubled_boxes_are_noted(tmp_path: Path) -> None:
    standard = truth()
    standard["annotations"].append(standard["annotations"][1])
    notes = document(tmp_path, standard=standard, given=changed(1, score=7.5))["notes"]
    assert any("results.json: 1 scores are outside 0 to 1, the first at [1]" in note for note in notes)
    assert any("truth.json: annotations[1] and annotations[4] are the same box" in note for note in notes)


@pytest.mark.parametrize(
    ("written", "words"),
    [
        (lambda box: [box[0], box[1], box[0] + box[2], box[1] + box[3]], "two corners"),
        (lambda box: [box[0] + box[2] / 2, box[1] + box[3] / 2, box[2], box[3]], "centre and extents"),
        (lambda box: [box[1], box[0], box[3], box[2]], "axes in the reverse order"),
        (lambda box: [box[0] / 512, box[1] / 400, box[2] / 512, box[3] / 400], "shares of the image's width"),
    ],
)  # fmt: skip
def test_boxes_written_in_another_way_are_told_from_a_bad_detector(tmp_path: Path, written: Any, words: str) -> None:
    boxes = [(1, 1, [200, 30, 60, 40]), (2, 1, [300, 90, 50, 80]), (3, 1, [90, 250, 40, 30])]
    annotations = [{"image_id": image, "category_id": one, "bbox": box} for image, one, box in boxes]
    given = results([(image, one, written(box), 0.5) for image, one, box in boxes])
    result = run(tmp_path, "--json", standard=truth(annotations=annotations), given=given)
    note = json.loads(result.stdout)["notes"][0]
    assert "results.json and truth.json seem to be in different frames" in note
    assert f"3 would be if the predictions were read as {words}" in note
    assert note in result.stderr


def test_boxes_that_meet_nothing_are_pointed_out(tmp_path: Path) -> None:
    given = results([(image, 1, [400, 300, 7, 7], 0.5) for image in (1, 2, 3)])
    assert "0 of 4 true boxes are overlapped by any prediction" in document(tmp_path, given=given)["notes"][0]
