"""Outside judges of DICOM objects: validators and readers that others wrote, asked the way their authors meant.

Most of them exit 0 whatever they find, so their words are read. `assert_valid_result_object` asks every judge that
knows the object's kind; PixelMed's validator needs ten seconds to start, so many reports are judged by one call of
`pixelmed_complaints`.
"""

from __future__ import annotations

import json
import re
import subprocess
import tempfile
from collections.abc import Iterable, Sequence
from functools import lru_cache
from pathlib import Path
from typing import Any

from pydicom import dcmread

from tests.conftest import require_tool

_PIXELMED_JAR = Path("/usr/share/java/pixelmed.jar")
_PIXELMED_LIMITS = (
    "-Djdk.xml.xpathExprGrpLimit=0",
    "-Djdk.xml.xpathExprOpLimit=0",
    "-Djdk.xml.xpathTotalOpLimit=0",
    "-XX:+UseSerialGC",
)
# PixelMed's context group 100 is extensible in the standard, but not in its rules.
_PIXELMED_FALSE = re.compile(r"Procedure reported.*not found in context group 100")
# The report's AccessionNumber also lives in Referenced Request, which dcentvfy takes for another entity.
_DCENTVFY_EXPECTED = re.compile(r"Element=<AccessionNumber> IE <Series> versus <Study>|IE <Study> versus <Series>")
_TYPE_2 = frozenset(
    {"PatientName", "PatientID", "PatientBirthDate", "PatientSex", "StudyDate", "StudyTime"}
) | frozenset({"AccessionNumber", "ReferringPhysicianName", "StudyID"})
_PIXELMED_RUNNER = """
import com.pixelmed.validate.DicomSRValidator;
public class Judge {
    public static void main(String[] files) throws Exception {
        DicomSRValidator validator = new DicomSRValidator();
        validator.setOptionCheckTemplateID(true);
        for (String file : files) {
            System.out.println("=== " + file);
            System.out.println(validator.validate(file));
        }
    }
}
"""


def assert_valid_result_object(path: Path, sources: Sequence[Path]) -> None:
    """Fail unless dciodvfy, dcentvfy and, for reports, dsrdump have nothing to object to.

    `sources` are files of the study the object was written for. PixelMed is not asked here: see
    `assert_pixelmed_accepts`, which judges many reports at once.
    """
    _assert_nothing("dciodvfy", path, dciodvfy_errors(path))
    _assert_nothing("dcentvfy", path, dcentvfy_complaints(sources, [path]))
    modality = dcmread(path, stop_before_pixels=True).Modality
    if modality in {"SR", "KO"}:
        _assert_nothing("dsrdump", path, dsrdump_complaints(path))


def _assert_nothing(judge: str, path: Path, complaints: list[str]) -> None:
    assert not complaints, f"{judge} of {path.name}:\n" + "\n".join(complaints[:8])


def dciodvfy_errors(path: Path) -> list[str]:
    """What dciodvfy calls an error in this file."""
    done = _run(require_tool("dciodvfy"), str(path))
    lines = (done.stdout + done.stderr).splitlines()
    assert lines, "dciodvfy said nothing at all"
    return [line for line in lines if line.startswith("Error")]


def dcentvfy_complaints(sources: Sequence[Path], results: Sequence[Path]) -> list[str]:
    """What dcentvfy finds inconsistent between results and their sources, less what it finds among the sources."""
    program = require_tool("dcentvfy")
    already = _among_sources(program, tuple(sources))
    lines = _run(program, *map(str, [*sources, *results])).stderr.splitlines()
    return [
        line
        for line in lines
        if line not in already and not _DCENTVFY_EXPECTED.search(line) and not _is_lack_of_source(line, sources)
    ]


@lru_cache(maxsize=8)
def _among_sources(program: str, sources: tuple[Path, ...]) -> frozenset[str]:
    return frozenset(_run(program, *map(str, sources)).stderr.splitlines())


def _is_lack_of_source(line: str, sources: Sequence[Path]) -> bool:
    """Whether no source has an attribute that every object must have, so that the result alone has it, empty."""
    lacking = re.search(r"present in one instance but not the other - Element=<(\w+)>", line)
    return (
        lacking is not None
        and lacking[1] in _TYPE_2
        and not any(lacking[1] in dcmread(source, specific_tags=[lacking[1]]) for source in sources)
    )


def dsrdump_complaints(path: Path) -> list[str]:
    """Errors of DCMTK's report reader."""
    done = _run(require_tool("dsrdump"), str(path))
    lines = [line for line in (done.stdout + done.stderr).splitlines() if re.match(r"[EF]: ", line)]
    return lines + ([f"exit status {done.returncode}"] if done.returncode else [])


def assert_pixelmed_accepts(paths: Iterable[Path]) -> None:
    """Fail unless PixelMed finds the root template of every report and no error but its known false ones."""
    for path, complaints in pixelmed_complaints(paths).items():
        _assert_nothing("PixelMed", path, complaints)


def pixelmed_complaints(paths: Iterable[Path]) -> dict[Path, list[str]]:
    """What PixelMed's report validator objects to, per file; all files are judged by one Java process."""
    files = list(dict.fromkeys(Path(path) for path in paths))
    text = _pixelmed(files)
    parts = re.split(r"^=== (.*)$", text, flags=re.MULTILINE)[1:]
    said = {Path(name): words for name, words in zip(parts[::2], parts[1::2], strict=True)}
    assert set(said) == set(files), f"PixelMed did not finish: {text[-2000:]}"
    return {path: _pixelmed_objections(said[path]) for path in files}


def _pixelmed_objections(words: str) -> list[str]:
    lines = [line for line in words.splitlines() if line.startswith("Error") and not _PIXELMED_FALSE.search(line)]
    return lines if "Found Root Template" in words else ["no root template found", *lines]


def _pixelmed(files: Sequence[Path]) -> str:
    java = require_tool("java")
    if not _PIXELMED_JAR.exists():
        require_tool("pixelmed.jar", hint="Debian package libpixelmed-java")
    with tempfile.TemporaryDirectory() as folder:
        runner = Path(folder) / "Judge.java"
        runner.write_text(_PIXELMED_RUNNER)
        done = _run(java, *_PIXELMED_LIMITS, "-cp", str(_PIXELMED_JAR), str(runner), *map(str, files), timeout_s=580)
        if "=== " in done.stdout:
            return done.stdout
    # A Java runtime without its compiler cannot run the source above: one process per file then.
    return "".join(f"=== {file}\n{_pixelmed_alone(java, file)}\n" for file in files)


def _pixelmed_alone(java: str, file: Path) -> str:
    validator = "com.pixelmed.validate.DicomSRValidator"
    done = _run(java, *_PIXELMED_LIMITS, "-cp", str(_PIXELMED_JAR), validator, "-checktemplateid", str(file))
    return done.stdout + done.stderr


def tid1500(path: Path) -> dict[str, Any]:
    """The report as dcmqi's tid1500reader understands it."""
    program = require_tool("tid1500reader")
    with tempfile.TemporaryDirectory() as folder:
        output = Path(folder) / "report.json"
        done = _run(program, "--inputDICOM", str(path), "--outputMetadata", str(output))
        assert output.exists(), done.stdout + done.stderr
        read: dict[str, Any] = json.loads(output.read_text(encoding="utf-8"))
        return read


def segmentation_masks(path: Path, folder: Path) -> list[Path]:
    """NIfTI files, one per segment, as dcmqi's segimage2itkimage writes them into `folder`."""
    program = require_tool("segimage2itkimage")
    done = _run(program, "--inputDICOM", str(path), "--outputDirectory", str(folder), "--prefix", "s", "-t", "nii")
    masks = sorted(folder.glob("s-*.nii*"))
    assert masks, done.stdout + done.stderr
    return masks


def dcmpschk_complaints(path: Path) -> list[str]:
    """What DCMTK's presentation state checker objects to; it reads ASCII names only."""
    done = _run(require_tool("dcmpschk"), str(path))
    words = done.stdout + done.stderr
    return [] if "Test passed." in words else words.splitlines()


def _run(*command: str, timeout_s: float = 120) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        command, capture_output=True, text=True, timeout=timeout_s, check=False, encoding="utf-8", errors="replace"
    )
