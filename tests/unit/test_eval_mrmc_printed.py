"""Analyses of reader studies that were printed elsewhere, reproduced from the figures and covariances printed there.

No ratings of others are kept here but those of one reader as counts; whole studies stay where they were published.
"""

from __future__ import annotations

import math

import numpy as np
import pytest
from numpy.typing import NDArray

from eval.mrmc import (
    ErrorCovariance,
    Study,
    against_panel,
    by_reader,
    fixed_cases,
    fixed_readers,
    mean_squares,
    random_readers_random_cases,
)
from eval.mrmc_covariance import areas, jackknife_covariance, leave_one_out_areas

Floats = NDArray[np.float64]
Bools = NDArray[np.bool_]

# Van Dyke and others 1993 (79th RSNA meeting): 5 readers, spin echo and cine MRI for aortic dissection, 114 cases.
# Figures and covariances as OR-DBM MRMC 2.51 (Schartz, Hillis, Pesce, Berbaum) prints them for the trapezoidal area.
VAN_DYKE_AREAS = np.asarray([
    [0.91964573, 0.85877617, 0.90386473, 0.97310789, 0.82979066],
    [0.94782609, 0.90531401, 0.92173913, 0.99935588, 0.92995169],
])  # fmt: skip
VARIANCE_OF_TREATMENT, COV2_OF_TREATMENT = (0.00101410, 0.00059047), (0.00048396, 0.00020419)
VARIANCE_OF_READER = (0.00069890, 0.00110605, 0.00084234, 0.00015058, 0.00121357)
COV1_OF_READER = (0.00037347, 0.00076016, 0.00035532, 0.00000108, 0.00024304)
COV3 = 0.00023903

# Its first reader, ratings 1 to 5: spin echo down, cine across, patients without and with dissection.
WITHOUT = ((19, 18, 7, 3, 0), (1, 4, 3, 1, 0), (2, 0, 5, 3, 0), (1, 1, 0, 0, 0), (0, 1, 0, 0, 0))
WITH = ((1, 0, 2, 0, 1), (0, 0, 1, 0, 0), (0, 0, 0, 2, 0), (0, 0, 2, 2, 6), (0, 0, 1, 1, 26))


def van_dyke() -> Study:
    """A matrix with the printed variances and covariances of each treatment and each reader."""
    covariance = np.full((2, 5, 2, 5), COV3)
    for i, variance in enumerate(VARIANCE_OF_TREATMENT):
        covariance[i, :, i, :] = COV2_OF_TREATMENT[i]
        for j, other in enumerate(VARIANCE_OF_READER):
            covariance[i, j, i, j] = variance + other - np.mean(VARIANCE_OF_READER)
            covariance[i, j, 1 - i, j] = COV1_OF_READER[j]
    return Study(figures=VAN_DYKE_AREAS, covariance=covariance)


# Zanca and others 2009 (Med Phys 36:765): 4 readers, five processings of mammograms; again as OR-DBM MRMC prints them.
ZANCA_AREAS = np.asarray([
    [0.90425, 0.79820, 0.81175, 0.86645],
    [0.86425, 0.84470, 0.82050, 0.87160],
    [0.81295, 0.81635, 0.75275, 0.85730],
    [0.90235, 0.83150, 0.78865, 0.87980],
    [0.84140, 0.77300, 0.77115, 0.84800],
])  # fmt: skip
ZANCA_VARIANCE = (0.00071053, 0.00075106, 0.00087587, 0.00072652, 0.00088163)
ZANCA_COV1, ZANCA_COV2, ZANCA_COV3 = (
    0.00029480,
    (0.00021119, 0.00026649, 0.00024646, 0.00022043, 0.00022200),
    0.00021213,
)


def zanca() -> Study:
    covariance = np.full((5, 4, 5, 4), ZANCA_COV3)
    for j in range(4):
        covariance[:, j, :, j] = ZANCA_COV1
    for i, (variance, cov2) in enumerate(zip(ZANCA_VARIANCE, ZANCA_COV2, strict=True)):
        covariance[i, :, i, :] = np.where(np.eye(4) == 1, variance, cov2)
    return Study(figures=ZANCA_AREAS, covariance=covariance)


def first_reader() -> tuple[Floats, Bools]:
    """Ratings (2, 1, 114) and truth of the first reader, from the counts."""
    pairs = [
        (down + 1, across + 1, truth)
        for truth, counts in enumerate((WITHOUT, WITH))
        for down, row in enumerate(counts)
        for across, count in enumerate(row)
        for _ in range(count)
    ]
    rated = np.asarray(pairs, dtype=np.float64).T
    return rated[:2, None, :], rated[2] == 1


def test_the_printed_analysis_of_van_dyke_with_readers_and_cases_random_is_reproduced() -> None:
    found = random_readers_random_cases(van_dyke())
    assert round(found.f, 2) == 4.46
    assert round(found.ddf, 2) == 15.26
    assert round(found.p, 4) == 0.0517
    contrast = found.contrasts[0]
    assert contrast.estimate.value == pytest.approx(-0.04380032, abs=1e-8)
    assert (contrast.estimate.low, contrast.estimate.high) == pytest.approx((-0.08796, 0.00036), abs=1e-5)
    assert round(contrast.statistic, 2) == -2.11
    means = [(one.value, one.low, one.high) for one in found.means]
    assert means[0] == pytest.approx((0.89703704, 0.82522360, 0.96885048), abs=1e-6)
    assert means[1] == pytest.approx((0.94083736, 0.89413783, 0.98753689), abs=1e-6)


def test_the_printed_analysis_of_van_dyke_with_cases_random_is_reproduced() -> None:
    found = fixed_readers(van_dyke())
    assert found.f == pytest.approx(5.47595, abs=1e-3)
    assert round(found.p, 4) == 0.0193
    assert math.isinf(found.ddf)
    estimate = found.contrasts[0].estimate
    assert (estimate.low, estimate.high) == pytest.approx((-0.08049, -0.00711), abs=1e-5)
    means = [(one.low, one.high) for one in found.means]
    assert means[0] == pytest.approx((0.84943008, 0.94464399), abs=1e-6)
    assert means[1] == pytest.approx((0.90795637, 0.97371835), abs=1e-6)
    printed = [
        (-0.07818, 0.02182, 0.2693),
        (-0.09809, 0.00501, 0.0768),
        (-0.07904, 0.04330, 0.5668),
        (-0.06014, 0.00764, 0.1290),
        (-0.18651, -0.01381, 0.0230),
    ]
    for (contrast,), (low, high, p) in zip(by_reader(van_dyke()), printed, strict=True):
        assert (contrast.estimate.low, contrast.estimate.high) == pytest.approx((low, high), abs=1.5e-5)
        assert contrast.p == pytest.approx(p, abs=1e-4)


def test_the_printed_analysis_of_van_dyke_with_readers_random_is_reproduced() -> None:
    found = fixed_cases(van_dyke())
    assert round(found.f, 2) == 8.70
    assert found.ddf == 4
    assert round(found.p, 4) == 0.0420
    estimate = found.contrasts[0].estimate
    assert (estimate.low, estimate.high) == pytest.approx((-0.08502, -0.00258), abs=1e-5)
    means = [(one.low, one.high) for one in found.means]
    assert means[0] == pytest.approx((0.82809808, 0.96597599), abs=1e-7)
    assert means[1] == pytest.approx((0.89598936, 0.98568536), abs=1e-7)


def test_the_printed_analysis_of_five_treatments_is_reproduced() -> None:
    both = random_readers_random_cases(zanca())
    assert (round(both.f, 2), both.numerator_df, round(both.ddf, 2), round(both.p, 4)) == (3.47, 4, 16.80, 0.0305)
    printed = {
        (0, 1): (-0.00510, -0.04002, 0.02982, 0.7616),
        (0, 2): (0.03533, 0.00040, 0.07025, 0.0477),
        (1, 4): (0.04187, 0.00695, 0.07680, 0.0216),
        (3, 4): (0.04219, 0.00727, 0.07711, 0.0208),
    }
    found = {(one.first, one.second): one for one in both.contrasts}
    assert len(found) == 10
    for pair, (difference, low, high, p) in printed.items():
        estimate = found[pair].estimate
        assert (estimate.value, estimate.low, estimate.high) == pytest.approx((difference, low, high), abs=1e-5)
        assert found[pair].p == pytest.approx(p, abs=1e-4)
    assert (both.means[1].low, both.means[1].high) == pytest.approx((0.80942311, 0.89110189), abs=1e-6)
    cases = fixed_readers(zanca())
    assert cases.f * cases.numerator_df == pytest.approx(13.60126, abs=1e-3)
    assert round(cases.p, 4) == 0.0087
    assert (cases.means[4].low, cases.means[4].high) == pytest.approx((0.76983500, 0.84694000), abs=1e-6)


def test_the_printed_mean_squares_of_van_dyke_are_reproduced() -> None:
    squares = mean_squares(VAN_DYKE_AREAS)
    assert squares.treatment == pytest.approx(0.00479617, abs=1e-8)
    assert squares.reader == pytest.approx(0.00383620, abs=1e-8)
    assert squares.treatment_reader == pytest.approx(0.00055103, abs=1e-8)
    error = ErrorCovariance.of(van_dyke().covariance)
    found = (error.variance, error.cov1, error.cov2, error.cov3)
    assert found == pytest.approx((0.00080229, 0.00034661, 0.00034407, 0.00023903), abs=1e-8)


def test_the_ratings_of_van_dykes_first_reader_give_the_printed_areas_and_jackknife() -> None:
    ratings, diseased = first_reader()
    study = Study(
        figures=areas(ratings, diseased),
        covariance=jackknife_covariance(leave_one_out_areas(ratings, diseased)),
    )
    assert study.figures[:, 0] == pytest.approx((0.91964573, 0.94782609), abs=1e-8)
    error = ErrorCovariance.of(study.covariance)
    assert (error.variance, error.cov1) == pytest.approx((0.00069890, 0.00037347), abs=1e-8)
    estimate = by_reader(study)[0][0].estimate
    assert (estimate.low, estimate.high) == pytest.approx((-0.07818, 0.02182), abs=5e-6)


def test_the_printed_comparison_of_a_machine_with_nine_radiologists_is_reproduced() -> None:
    """Data of Hupse and others 2013, area under the ROC curve, as printed by PyJafroc (Chakraborty)."""
    spread = np.linspace(-1, 1, 9)
    differences = 0.031736 + spread * math.sqrt(0.000878 / spread.var(ddof=1))
    covariance = np.full((10, 10), 0.000924)  # of the differences, so the machine itself has none
    np.fill_diagonal(covariance, 0.0014)
    covariance[0, :] = covariance[:, 0] = 0
    study = Study(
        figures=np.concatenate([[0.816927], 0.816927 + differences])[None, :], covariance=covariance[None, :, None, :]
    )
    found = against_panel(study, 0)
    contrast = found.random_readers_random_cases.contrasts[0]
    assert found.panel == pytest.approx(0.848663, abs=1e-6)
    assert contrast.statistic == pytest.approx(0.992869, abs=1e-3)
    assert contrast.p == pytest.approx(0.321047, abs=1e-3)
    assert (contrast.estimate.low, contrast.estimate.high) == pytest.approx((-0.030999, 0.094471), abs=1e-4)
