"""Metrics of detection, as COCO computes them."""

from __future__ import annotations

import contextlib
import io
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any

from ..errors import MissingExtraError
from .predictions import Predictions


if TYPE_CHECKING:
    import numpy as np

OVERLAPS = {  # metric -> shares of the union that two boxes have to share, to be one
    "coco_map": (0.5, 0.95, 10),  # the first, the last and their number
    "coco_map_50": (0.5, 0.5, 1),
    "coco_map_75": (0.75, 0.75, 1),
}
BOXES = tuple(OVERLAPS)
ANY_AREA, MOST_BOXES = [0, 1e10], 100  # COCO's bounds for boxes of each image and class


def by_image(predictions: Predictions) -> tuple[list[dict[str, np.ndarray]], list[dict[str, np.ndarray]]]:
    """The boxes that are there and those that were found, image by image.

    Returns:
        `tuple[list[dict], list[dict]]`: for each image `boxes` (left, top, right, bottom), `labels`, and `area` and
        `iscrowd` of what is there, or `scores` of what was found.
    """
    import numpy as np

    there, found = [], []
    starts = predictions.starts
    for start, end in zip(starts, [*starts[1:], len(predictions.rows)], strict=True):
        rows, labels = predictions.logits[start:end].astype(np.float64), predictions.labels[start:end]
        true, predicted = rows[labels >= 0], rows[(labels < 0) & (rows[:, 4] >= 0)]
        classes = labels[labels >= 0]
        there.append({"boxes": true[:, :4], "labels": classes, "area": true[:, 4], "iscrowd": true[:, 5].astype(int)})
        found.append({"boxes": predicted[:, :4], "labels": predicted[:, 5].astype(int), "scores": predicted[:, 4]})
    return there, found


def average_precision(name: str, references: Sequence[dict[str, Any]], predictions: Sequence[dict[str, Any]]) -> float:
    """The mean average precision of boxes.

    Args:
        name (`str`):
            `"coco_map"`, the mean for overlaps from 0.5 to 0.95, or `"coco_map_50"` or `"coco_map_75"` for one.
        references (`Sequence[dict]`), predictions (`Sequence[dict]`):
            The boxes of each image, as returned by [`by_image`].

    Returns:
        `float`: between 0 and 1; 0 if there is no box to find.

    Raises:
        [`MissingExtraError`]: if pycocotools is not installed.

    Source: Lin et al. 2014, [Microsoft COCO](https://arxiv.org/abs/1405.0312); computed by pycocotools.
    """
    return _precision_of(name, references, predictions)(range(len(references)))


def precision_of_rows(name: str, predictions: Predictions) -> Callable[[np.ndarray], float]:
    """A function that computes [`average_precision`] of some rows, which may repeat; boxes are matched only once."""
    import numpy as np

    value = _precision_of(name, *by_image(predictions))
    images = {row: image for image, row in enumerate(np.unique(predictions.rows).tolist())}
    return lambda rows: value([images[row] for row in rows.tolist()])


def _precision_of(
    name: str, references: Sequence[dict[str, Any]], predictions: Sequence[dict[str, Any]]
) -> Callable[[Sequence[int]], float]:
    """Match boxes, and return a function of images by their places, which may repeat, that computes a precision."""
    import numpy as np

    try:
        from pycocotools.coco import COCO
        from pycocotools.cocoeval import COCOeval
    except ImportError:
        raise MissingExtraError(f"{name} needs pycocotools: pip install 'hf-soup[pycocotools]'") from None
    there, found = _as_coco(references, predictions)
    if not there or not found:
        return lambda images: 0.0
    count = len(references)
    with contextlib.redirect_stdout(io.StringIO()):  # it prints what it does
        true_boxes = COCO()
        true_boxes.dataset = {
            "images": [{"id": image} for image in range(count)],
            "annotations": there,
            "categories": [{"id": number} for number in sorted({each["category_id"] for each in there})],
        }
        true_boxes.createIndex()
        evaluation = COCOeval(true_boxes, true_boxes.loadRes(found), "bbox")
        evaluation.params.areaRng, evaluation.params.areaRngLbl = [ANY_AREA], ["all"]
        evaluation.params.maxDets = [MOST_BOXES]
        evaluation.params.iouThrs = np.linspace(*OVERLAPS[name])
        evaluation.evaluate()
    matches = evaluation.evalImgs  # class by class, for all images
    classes = range(0, len(matches), count)

    def value(images: Sequence[int]) -> float:
        evaluation.evalImgs = [matches[first + image] for first in classes for image in images]
        evaluation.params.imgIds = evaluation._paramsEval.imgIds = list(range(len(images)))
        with contextlib.redirect_stdout(io.StringIO()):
            evaluation.accumulate()
        precision = evaluation.eval["precision"]
        precision = precision[precision > -1]  # of classes that are there
        return float(precision.mean()) if precision.size else 0.0

    return value


def _as_coco(
    references: Sequence[dict[str, Any]], predictions: Sequence[dict[str, Any]]
) -> tuple[list[dict[str, Any]], list[dict[str, Any]]]:
    """The boxes that are there and those that were found, in the form of COCO's files."""
    there: list[dict[str, Any]] = []
    found: list[dict[str, Any]] = []
    for image, (true, predicted) in enumerate(zip(references, predictions, strict=True)):
        true_columns = [true[key] for key in ("boxes", "labels", "area", "iscrowd")]
        for box, label, area, crowd in zip(*true_columns, strict=True):
            of_image = {"image_id": image, "category_id": int(label), "bbox": _sized(box)}
            there.append({**of_image, "id": len(there) + 1, "area": float(area), "iscrowd": int(crowd)})
        for box, label, score in zip(predicted["boxes"], predicted["labels"], predicted["scores"], strict=True):
            of_image = {"image_id": image, "category_id": int(label), "bbox": _sized(box)}
            found.append({**of_image, "score": float(score)})
    return there, found


def _sized(box: Sequence[float]) -> list[float]:
    """A box as left, top, width and height."""
    left, top, right, bottom = map(float, box)
    return [left, top, right - left, bottom - top]
