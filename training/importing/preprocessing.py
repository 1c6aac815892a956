"""What a bundle does to a picture before its network sees it, said in the words of a card's input.

Called by `training.importing.monai`. Each transform that is understood is listed here with the arguments that matter;
one that is not, or an argument that is not, is refused by name: a model that is fed otherwise than it was trained says
something else. MONAI's axes are not a card's; `Axes` says how the network is to be wrapped.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

from training.importing.bundle import ImportRefused
from training.importing.expressions import Component

PICTURE, VOLUME = 2, 3
# The directions in which a card's volume is stored: slice to the head, row to the back, column to the left.
_CARD_AXES = ("S", "P", "L")
_OPPOSITE = {"R": "L", "L": "R", "A": "P", "P": "A", "S": "I", "I": "S"}
_TRIPLE = 3


@dataclass(frozen=True, kw_only=True, slots=True)
class Axes:
    """How a tensor in a card's order of axes becomes the network's: reverse some axes, then put them in another order.

    `reversed_axes` and `order` count spatial axes of the card's tensor; ``order[i]`` is the card's axis that the
    network has as its i-th.
    """

    order: tuple[int, ...]
    reversed_axes: tuple[int, ...] = ()

    @property
    def same(self) -> bool:
        """Whether nothing has to be done."""
        return not self.reversed_axes and self.order == tuple(range(len(self.order)))

    def to_card(self, sizes: Sequence[float]) -> tuple[float, ...]:
        """Sizes along the network's axes, in the card's order."""
        found = [0.0] * len(self.order)
        for size, axis in zip(sizes, self.order, strict=True):
            found[axis] = size
        return tuple(found)


@dataclass(frozen=True, kw_only=True, slots=True)
class Prepared:
    """A card's [input], how the network's axes lie in it, and what a reader should know."""

    input: dict[str, object]
    axes: Axes
    notes: tuple[str, ...]


@dataclass(slots=True)
class _Found:
    """What the transforms say, as far as they were read."""

    axes: int
    swapped: bool = True  # MONAI's readers give pictures as (x, y)
    orientation: str | None = None
    spacing: tuple[float, ...] | None = None
    size: tuple[int, ...] | None = None
    percentiles: tuple[float, float] | None = None
    window: tuple[float, float] | None = None
    channels: int = 1
    # The value that the network sees is ``grey * gain + offset`` of a grey from 0 to 1.
    gain: float = 1.0
    offset: float = 0.0
    notes: list[str] = field(default_factory=list)


def understood(transforms: object, *, axes: int, key: str, tile: tuple[int, ...] | None, overlap: float) -> Prepared:
    """The card's input for a list of transforms.

    Parameters
    ----------
    transforms : list of Component
        In the order in which the bundle applies them; None for one that is disabled.
    axes : int
        2 for pictures, 3 for volumes.
    key : str
        The name under which the bundle keeps the picture.
    tile : tuple of int or None
        Window of a sliding inferer, in the network's order of axes.

    Raises
    ------
    ImportRefused
        If a transform or one of its arguments is not understood, or the list leaves open what a card must say.
    """
    if not isinstance(transforms, list):
        raise ImportRefused("preprocessing: holds no list of transforms")
    found = _Found(axes=axes)
    for transform in transforms:
        if transform is not None:
            _read(transform, found, key)
    return _volume(found, tile, overlap) if axes == VOLUME else _picture(found, tile)


def base_name(target: str) -> str:
    """A transform's name without its module and the letter for the variant that works on tables."""
    return re.sub(r"(?:d|D|Dict)$", "", target.rpartition(".")[2])


def _read(transform: object, found: _Found, key: str) -> None:
    if not isinstance(transform, Component):
        raise ImportRefused(f"preprocessing: {transform!r} is no transform")
    name, arguments = base_name(transform.target), dict(transform.arguments)
    keys = arguments.pop("keys", key)
    if key not in ([keys] if isinstance(keys, str) else keys if isinstance(keys, (list, tuple)) else []):
        return
    if name in _WITHOUT_EFFECT:
        _check_arguments(transform, arguments, _WITHOUT_EFFECT[name])
        return
    if name not in _READERS:
        raise ImportRefused(
            f"{transform.place}: the transform {transform.target} is not understood (understood are "
            f"{', '.join(sorted({*_READERS, *_WITHOUT_EFFECT}))}). Where it changes nothing of what the network sees, "
            "take it out of the bundle's inference configuration; otherwise write the card by hand"
        )
    reader, known = _READERS[name]
    _check_arguments(transform, arguments, known)
    try:
        reader(arguments, found)
    except ImportRefused as error:
        raise ImportRefused(f"{transform.place}: {transform.target}: {error}") from None
    except (TypeError, ValueError, KeyError, ArithmeticError) as error:
        raise ImportRefused(f"{transform.place}: {transform.target}: arguments that are not understood") from error


def _check_arguments(transform: Component, arguments: dict[str, object], known: frozenset[str]) -> None:
    if strange := sorted(set(arguments) - known - {"allow_missing_keys"}):
        raise ImportRefused(f"{transform.place}: {transform.target} has {', '.join(strange)}, which is not understood")


# one transform each --------------------------------------------------------------------------------------------------


def _load(arguments: dict[str, object], found: _Found) -> None:
    reader = arguments.get("reader")
    if reader is not None and str(reader).lower() not in ("pilreader", "itkreader", "pydicomreader", "nibabelreader"):
        raise ImportRefused(f"reader {reader!r} is not understood")
    swaps = arguments.get("reverse_indexing", arguments.get("swap_ij"))
    if swaps is not None:
        # For ITK "reverse" means the order of rows and columns, for PIL that of x and y.
        found.swapped = not swaps if str(reader).lower() == "itkreader" else bool(swaps)


def _orientation(arguments: dict[str, object], found: _Found) -> None:
    codes = str(arguments.get("axcodes", "")).upper()
    if sorted(_OPPOSITE[code] if code in _CARD_AXES else code for code in codes) != ["A", "I", "R"]:
        raise ImportRefused(f"axcodes {codes!r}: three letters are understood, one for each direction, as in RAS")
    found.orientation = codes


def _spacing(arguments: dict[str, object], found: _Found) -> None:
    found.spacing = tuple(float(size) for size in _numbers(arguments["pixdim"], found.axes))


def _resize(arguments: dict[str, object], found: _Found) -> None:
    if arguments.get("size_mode", "all") != "all":
        raise ImportRefused("size_mode is not understood: a card's picture is stretched (all) or padded")
    found.size = tuple(int(size) for size in _numbers(arguments["spatial_size"], found.axes))


def _scale(arguments: dict[str, object], found: _Found) -> None:
    if arguments.get("factor") is not None or arguments.get("channel_wise"):
        raise ImportRefused("factor and channel_wise are not understood")
    low, high = arguments.get("minv", 0.0), arguments.get("maxv", 1.0)
    found.percentiles = (0.0, 100.0)
    _to_range(found, _number(low), _number(high))


def _scale_range(arguments: dict[str, object], found: _Found) -> None:
    low, high = _number(arguments["a_min"]), _number(arguments["a_max"])
    if arguments.get("b_min") is None or arguments.get("b_max") is None:
        raise ImportRefused("b_min and b_max are needed")
    _to_range(found, _number(arguments["b_min"]), _number(arguments["b_max"]))
    if found.axes == VOLUME:
        if not arguments.get("clip", False):
            raise ImportRefused("a window without clip is not understood: a card's values are clipped")
        found.window = (low, high)
        return
    if low != 0:
        raise ImportRefused(f"a_min {low:g}: of a picture's stored values only a range from 0 is understood")
    found.percentiles = (0.0, 100.0)
    found.notes.append(
        f"the bundle scales stored values 0 to {high:g}; the node shows a picture by its window first and takes its "
        "darkest as 0, its brightest as 1: alike where pictures use the whole range"
    )


def _scale_percentiles(arguments: dict[str, object], found: _Found) -> None:
    if arguments.get("relative") or arguments.get("channel_wise"):
        raise ImportRefused("relative and channel_wise are not understood")
    if not arguments.get("clip", False):
        raise ImportRefused("percentiles without clip are not understood: a card's values are clipped")
    if found.axes == VOLUME:
        raise ImportRefused("percentiles of a volume are not understood: a card's volume has a window of fixed values")
    found.percentiles = (_number(arguments["lower"]), _number(arguments["upper"]))
    _to_range(found, _number(arguments["b_min"]), _number(arguments["b_max"]))


def _normalize(arguments: dict[str, object], found: _Found) -> None:
    subtrahend, divisor = arguments.get("subtrahend"), arguments.get("divisor")
    if subtrahend is None or divisor is None or arguments.get("nonzero"):
        raise ImportRefused("only a fixed subtrahend and divisor are understood: a card knows no mean of the picture")
    mean, std = _single(subtrahend), _single(divisor)
    found.gain, found.offset = found.gain / std, (found.offset - mean) / std


def _repeat(arguments: dict[str, object], found: _Found) -> None:
    found.channels *= int(_number(arguments["repeats"]))


def _crop_foreground(arguments: dict[str, object], found: _Found) -> None:
    if found.axes != VOLUME:
        raise ImportRefused("of a picture it is not understood: the node shows the network all of it")
    found.notes.append(
        "the bundle crops to the foreground, the node looks at the whole volume: the same voxels and more"
    )


_NO_EFFECT = frozenset({"dtype", "device", "track_meta", "data_type", "wrap_sequence", "drop_meta"})
_WITHOUT_EFFECT: dict[str, frozenset[str]] = {
    "EnsureChannelFirst": frozenset({"meta_keys", "meta_key_postfix", "strict_check", "channel_dim"}),
    "EnsureType": _NO_EFFECT,
    "ToTensor": _NO_EFFECT,
    "CastToType": _NO_EFFECT,
    "AddChannel": frozenset(),
    "AsChannelFirst": frozenset({"channel_dim"}),
    "ToDevice": frozenset({"device", "non_blocking"}),
    "DeleteItems": frozenset({"sep", "use_re"}),
}
_Reader = Callable[[dict[str, object], _Found], None]
_READERS: dict[str, tuple[_Reader, frozenset[str]]] = {
    "LoadImage": (
        _load,
        frozenset({"reader", "dtype", "meta_keys", "meta_key_postfix", "image_only", "ensure_channel_first",
                   "reverse_indexing", "swap_ij", "affine_lps_to_ras", "overwriting", "simple_keys",
                   "prune_meta_pattern",
                   "prune_meta_sep", "expanduser"}),
    ),
    "Orientation": (_orientation, frozenset({"axcodes", "labels", "meta_keys", "meta_key_postfix"})),
    "Spacing": (
        _spacing,
        frozenset({"pixdim", "mode", "padding_mode", "align_corners", "dtype", "meta_keys", "meta_key_postfix",
                   "scale_extent", "recompute_affine", "min_pixdim", "max_pixdim", "ensure_same_shape", "diagonal"}),
    ),
    "Resize": (_resize, frozenset({"spatial_size", "size_mode", "mode", "align_corners", "anti_aliasing", "dtype",
                                   "anti_aliasing_sigma"})),
    "ScaleIntensity": (_scale, frozenset({"minv", "maxv", "factor", "channel_wise", "dtype"})),
    "ScaleIntensityRange": (_scale_range, frozenset({"a_min", "a_max", "b_min", "b_max", "clip", "dtype"})),
    "ScaleIntensityRangePercentiles": (
        _scale_percentiles,
        frozenset({"lower", "upper", "b_min", "b_max", "clip", "relative", "channel_wise", "dtype"}),
    ),
    "NormalizeIntensity": (_normalize, frozenset({"subtrahend", "divisor", "nonzero", "channel_wise", "dtype"})),
    "RepeatChannel": (_repeat, frozenset({"repeats"})),
    "CropForeground": (
        _crop_foreground,
        frozenset({"source_key", "select_fn", "channel_indices", "margin", "allow_smaller", "k_divisible", "mode",
                   "start_coord_key", "end_coord_key", "lazy"}),
    ),
}  # fmt: skip


# all of them together ------------------------------------------------------------------------------------------------


def _picture(found: _Found, tile: tuple[int, ...] | None) -> Prepared:
    if tile is not None:
        raise ImportRefused("inferer: a window that slides over a picture is not understood; a card's picture is whole")
    if found.size is None:
        raise ImportRefused("preprocessing: no Resized says to which size a picture is brought; the node needs one")
    if found.percentiles is None:
        raise ImportRefused(
            "preprocessing: nothing says how grey values are scaled (ScaleIntensityd, ScaleIntensityRanged or "
            "ScaleIntensityRangePercentilesd is understood)"
        )
    axes = Axes(order=(1, 0) if found.swapped else (0, 1))
    height, width = axes.to_card(found.size)
    mean, std = _mean_and_std(found)
    made: dict[str, object] = {
        "kind": "projection",
        "height": int(height),
        "width": int(width),
        "channels": found.channels,
        "fit": "stretch",
        "low_percentile": found.percentiles[0],
        "high_percentile": found.percentiles[1],
        "mean": [mean] * found.channels,
        "std": [std] * found.channels,
    }
    return Prepared(input=made, axes=axes, notes=tuple(found.notes))


def _volume(found: _Found, tile: tuple[int, ...] | None, overlap: float) -> Prepared:
    missing = {
        "Orientationd, so it is not known how the axes lie": found.orientation,
        "Spacingd, so it is not known how large a voxel is": found.spacing,
        "ScaleIntensityRanged, so it is not known how Hounsfield units are scaled": found.window,
    }
    if absent := [words for words, value in missing.items() if value is None]:
        raise ImportRefused(f"preprocessing: there is no {'; no '.join(absent)}")
    if tile is None:
        raise ImportRefused("inferer: no SlidingWindowInferer with roi_size says in which tiles a volume is looked at")
    if found.channels != 1:
        raise ImportRefused("preprocessing: a volume of several channels is not understood")
    assert found.orientation is not None and found.spacing is not None and found.window is not None
    axes = _axes_of(found.orientation)
    mean, std = _mean_and_std(found)
    found.notes.append(
        f"the network was trained on volumes turned to {found.orientation}; the graph turns an axial volume so, others "
        "must be kept away by the intended use"
    )
    made: dict[str, object] = {
        "kind": "volume",
        "spacing_mm": list(axes.to_card(found.spacing)),
        "tile": [int(side) for side in axes.to_card(tile)],
        "overlap": min(overlap, 0.75),
        "low_hu": found.window[0],
        "high_hu": found.window[1],
        "mean": mean,
        "std": std,
    }
    return Prepared(input=made, axes=axes, notes=tuple(found.notes))


def _axes_of(codes: str) -> Axes:
    order = [next(i for i, own in enumerate(_CARD_AXES) if code in (own, _OPPOSITE[own])) for code in codes]
    turned = [axis for code, axis in zip(codes, order, strict=True) if code != _CARD_AXES[axis]]
    return Axes(order=tuple(order), reversed_axes=tuple(sorted(turned)))


def _mean_and_std(found: _Found) -> tuple[float, float]:
    """A card normalises ``(grey - mean) / std``."""
    if found.gain <= 0:
        raise ImportRefused("preprocessing: the grey scale is turned over, which a card cannot say")
    return round(-found.offset / found.gain, 9) + 0.0, round(1 / found.gain, 9)


def _to_range(found: _Found, low: float, high: float) -> None:
    found.gain, found.offset = high - low, low


def _number(value: object) -> float:
    if isinstance(value, bool) or not isinstance(value, (int, float)):
        raise TypeError("a number is wanted")
    return float(value)


def _single(value: object) -> float:
    """One number, also where a list holds one for each channel and all are alike."""
    if isinstance(value, (list, tuple)):
        numbers = {_number(item) for item in value}
        if len(numbers) != 1:
            raise ImportRefused("channels that are normalised differently are not understood")
        return numbers.pop()
    return _number(value)


def _numbers(value: object, count: int) -> list[float]:
    if isinstance(value, (list, tuple)):
        if len(value) != count:
            raise ImportRefused(f"{len(value)} numbers where {count} are wanted")
        return [_number(item) for item in value]
    return [_number(value)] * count
