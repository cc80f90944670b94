"""Object detection: the objects in an image, each with a box around it and a class.

Images of one size are run together and are not filled up, because a detector places boxes relative to the image with
what it is filled up with. Boxes are found as a pipeline finds them, whatever their score, in float32.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from functools import partial
from typing import TYPE_CHECKING, Any, NamedTuple

from ..data.columns import find_column
from ..errors import DataError, did_you_mean
from . import _images as images
from . import image_classification
from ._heads import class_names, classes_head, ends_in
from ._images import check_image_processor, image_column, open_images, undecoded
from ._no_augmentation import refuse_augment, unchanged


if TYPE_CHECKING:
    import torch
    from datasets import Dataset
    from transformers import BaseImageProcessor, PretrainedConfig, PreTrainedModel

    from ._model_inputs import ModelInputs

AUTO_CLASS = "AutoModelForObjectDetection"
PIPELINE = "object-detection"
METRIC = "coco_map"
KIND = "boxes"
BATCH_SIZE = 8
EXAMPLE: dict[str, list[Any]] = {
    "image": ["#ff0000", "#00ff00", "#0000ff"],  # each colour stands for an image of that colour
    "objects": [
        {"bbox": [[0.0, 1.0, 4.0, 3.0]], "category": [1]},
        {"bbox": [[2.0, 2.0, 5.0, 5.0], [0.0, 0.0, 2.0, 2.0]], "category": [0, 1]},
        {"bbox": [], "category": []},
    ],
}
EXAMPLE_MODEL = "yolos"
USE = """
from transformers import pipeline

detect = pipeline("object-detection", model="{model}")
print(detect("picture.png"))
"""
COLUMNS = ("objects", "annotations", "annotation")
CLASSES = ("category", "category_id", "categories", "label", "labels")
IMAGE, OBJECTS = "image", "objects"  # columns of encoded rows
NO_BOX = -1.0  # the score of a box that only fills up
TAKES_ENCODED = False

# Functions shared with other tasks.
load_processing_class = images.load_image_processor
check_augment = partial(refuse_augment, why="images with boxes have no augmentation, which boxes would not follow.")
augmented = unchanged
lengths = image_classification.lengths


class Objects(NamedTuple):
    """The objects of an image: boxes as left, top, width and height in pixels, as in COCO, and their classes."""

    boxes: list[list[float]]
    classes: list[int]
    areas: list[float]
    crowds: list[int]


def fits(config: PretrainedConfig) -> bool:
    """Whether the model is in transformers' list of detectors."""
    from transformers.models.auto.modeling_auto import MODEL_FOR_OBJECT_DETECTION_MAPPING_NAMES

    return ends_in(config, *MODEL_FOR_OBJECT_DETECTION_MAPPING_NAMES.values())


def label_column(dataset: Dataset, given: str | None) -> str:
    """The column of objects."""
    return find_column(dataset, given, COLUMNS, role="object")


def columns(dataset: Dataset, given: Sequence[str] | None, label: str) -> list[str]:
    """The column of images."""
    return image_column(dataset)


def head(dataset: Dataset, label: str) -> dict[str, Any]:
    """Fields of the head, with the names of the classes in the data or those of transformers."""
    names = _names_in(dataset, label)
    if names is None:
        highest = 0
        for row, value in enumerate(dataset[label]):
            highest = max([highest, *_objects_of(value, row).classes])
        names = [f"LABEL_{index}" for index in range(int(highest) + 1)]
    return classes_head(names)


def labels(dataset: Dataset, label: str, config: PretrainedConfig) -> list[Objects]:
    """The objects of each image.

    Raises:
        [`DataError`]: if the column has another form, or a class is none of the model's.
    """
    in_data, of_model = _names_in(dataset, label), class_names(config)
    numbers = {name: number for number, name in of_model.items()}
    unnamed = [f"LABEL_{index}" for index in range(len(of_model))]
    renumbered: dict[int, int] | None = None
    if in_data is not None and [of_model[index] for index in sorted(of_model)] != unnamed:
        unknown = [name for name in in_data if name not in numbers]
        if unknown:
            raise DataError(
                f'the model has no class "{unknown[0]}" that the data has{did_you_mean(unknown[0], numbers)}'
            )
        renumbered = {place: numbers[name] for place, name in enumerate(in_data)}
    objects = []
    for row, value in enumerate(dataset[label]):
        own = _objects_of(value, row)
        if renumbered is not None:
            own = own._replace(classes=[renumbered[number] for number in own.classes])
        strange = [number for number in own.classes if number not in of_model]
        if strange:
            raise DataError(f"row {row} has the class {strange[0]}, and the model has {len(of_model)} classes from 0.")
        objects.append(own)
    return objects


def _names_in(dataset: Dataset, label: str) -> list[str] | None:
    """The names of the classes in the data; `None` if they are numbers."""
    import datasets

    feature = dataset.features[label]
    inner = getattr(feature, "feature", feature)
    for name in CLASSES:
        if isinstance(inner, dict) and name in inner:
            of_class = getattr(inner[name], "feature", inner[name])
            return list(of_class.names) if isinstance(of_class, datasets.ClassLabel) else None
    return None


def _columns_of(value: Any) -> dict[str, list[Any]]:
    """A dict of lists, from one or from a list of dicts."""
    if isinstance(value, list):
        fields = dict.fromkeys(name for each in value for name in each)
        return {name: [each.get(name) for each in value] for name in fields} or {"bbox": [], "category": []}
    return dict(value or {"bbox": [], "category": []})


def _objects_of(value: Any, row: int) -> Objects:
    """The objects of one row.

    Raises:
        [`DataError`]: if they have another form.
    """
    try:
        fields = _columns_of(value)
        boxes = [[float(number) for number in box] for box in fields["bbox"]]
        named = next((name for name in CLASSES if name in fields), CLASSES[0])
        classes = [int(number) for number in fields[named]]
        areas = [float(area) for area in fields.get("area") or (width * height for _, _, width, height in boxes)]
        crowds = [int(bool(crowd)) for crowd in fields.get("iscrowd") or [0] * len(boxes)]
        if not len(boxes) == len(classes) == len(areas) == len(crowds) or any(len(box) != 4 for box in boxes):
            raise ValueError
    except (KeyError, TypeError, ValueError):
        raise DataError(
            f"row {row} has the objects {value!r}: `bbox`, with left, top, width and height in pixels for each, and "
            "`category` are needed."
        ) from None
    return Objects(boxes, classes, areas, crowds)


def encode(
    dataset: Dataset,
    processing_class: BaseImageProcessor,
    columns: Sequence[str],
    labels: list[Objects],
    inputs: ModelInputs,
) -> Dataset:
    """Images, which are decoded for each batch so that memory does not grow with the data, and their objects.

    Raises:
        [`DataError`]: if a tokenizer was passed instead of an image processor.
    """
    import datasets

    check_image_processor(processing_class)
    pictures = undecoded(dataset, columns[0], IMAGE)
    number, whole = datasets.List(datasets.Value("float64")), datasets.List(datasets.Value("int64"))
    features = {"boxes": datasets.List(number), "classes": whole, "areas": number, "crowds": whole}
    objects = datasets.Dataset.from_dict(
        {OBJECTS: [own._asdict() for own in labels]}, features=datasets.Features({OBJECTS: features})
    )
    return datasets.concatenate_datasets([pictures, objects], axis=1)


def collator(
    processing_class: BaseImageProcessor | None, inputs: ModelInputs
) -> Callable[[list[dict[str, Any]]], dict[str, Any]]:
    """A function that makes a batch, with the objects in the pixels of their images."""

    def collate(rows: list[dict[str, Any]]) -> dict[str, Any]:
        import torch

        if processing_class is None:
            raise DataError("images are prepared by an image processor: pass Evaluator(..., processing_class=...).")
        processor: Any = processing_class
        pictures, readable = open_images([row[IMAGE] for row in rows])
        objects = []
        for row, is_readable in zip(rows, readable, strict=True):
            objects.append(Objects(**row[OBJECTS]) if is_readable else Objects([], [], [], []))
        annotations = [{"image_id": place, "annotations": list(_of_coco(own))} for place, own in enumerate(objects)]
        batch = dict(processor(pictures, annotations=annotations, return_tensors="pt"))
        mask = batch.get("pixel_mask")
        if getattr(processor, "pad_size", None) is not None:  # all are filled up, also one alone
            mask = None
        return {
            **{name: value for name, value in batch.items() if name in inputs.names},
            "labels": [dict(label) for label in batch["labels"]],
            "own_pixels": mask,
            "objects": objects,
            "sizes": [picture.size[::-1] for picture in pictures],
            "readable": torch.tensor(readable),
            "post_process": processor.post_process_object_detection,
        }

    return collate


def _of_coco(objects: Objects) -> Iterator[dict[str, Any]]:
    """Objects in the form of COCO."""
    for box, number, area, crowd in zip(*objects, strict=True):
        yield {"bbox": box, "category_id": number, "area": area, "iscrowd": crowd}


def forward(model: PreTrainedModel, batch: dict[str, Any]) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """For each image the boxes that were found and those that are there, of shape (boxes, 6).

    A box is left, top, right and bottom. A score and a class follow for one that was found, and the label -1; for one
    that is there its area and whether it is a crowd, and its class as the label.
    """
    import torch

    own_pixels, objects, sizes, readable, post_process = (
        batch.pop(name) for name in ("own_pixels", "objects", "sizes", "readable", "post_process")
    )
    batch.pop("labels")
    found: dict[int, torch.Tensor] = {}
    with torch.autocast(model.device.type, enabled=False):  # bfloat16 would move boxes by pixels
        for places, inputs in _of_one_size(batch, own_pixels):
            outputs = model(**inputs)
            sizes_of_places = [sizes[place] for place in places]
            predicted = post_process(outputs, threshold=0.0, target_sizes=sizes_of_places)
            found |= zip(places, (_rows(each, outputs.logits.shape[1]) for each in predicted), strict=True)
    boxes, labels, counts = [], [], []
    for place, own in enumerate(objects):
        if not readable[place]:
            counts.append(0)
            continue
        true = [
            [left, top, left + width, top + height, area, crowd]
            for (left, top, width, height), area, crowd in zip(own.boxes, own.areas, own.crowds, strict=True)
        ]
        boxes += [found[place], torch.tensor(true, dtype=torch.float32).reshape(-1, 6)]
        labels += [-1] * len(found[place]) + own.classes
        counts.append(len(found[place]) + len(true))
    return torch.cat(boxes or [torch.zeros(0, 6)]), torch.tensor(labels, dtype=torch.long), torch.tensor(counts)


def _of_one_size(
    batch: Mapping[str, torch.Tensor], own_pixels: torch.Tensor | None
) -> Iterator[tuple[list[int], dict[str, torch.Tensor]]]:
    """The images of each size without what they were filled up with, and their places in the batch."""
    if own_pixels is None:
        yield list(range(len(batch["pixel_values"]))), dict(batch)
        return
    groups: dict[tuple[int, int], list[int]] = {}
    for place, mask in enumerate(own_pixels):
        groups.setdefault((int(mask[:, 0].sum()), int(mask[0].sum())), []).append(place)
    for (height, width), places in groups.items():
        yield places, {name: tensor[places, ..., :height, :width] for name, tensor in batch.items()}


def _rows(predicted: Mapping[str, torch.Tensor], count: int) -> torch.Tensor:
    """The boxes that a model finds in an image, of shape (count, 6), filled up with boxes without a score.

    All models of a class then have the same number of boxes, whatever their scores.
    """
    import torch

    order = predicted["scores"].argsort(descending=True, stable=True)[:count]
    rows = torch.zeros(count, 6)
    rows[:, 4] = NO_BOX
    rows[: len(order), :4] = predicted["boxes"][order].float().cpu()
    rows[: len(order), 4] = predicted["scores"][order].float().cpu()
    rows[: len(order), 5] = predicted["labels"][order].float().cpu()
    return rows
