"""Masks, boxes and images with sentences: outputs equal those of the pipelines, and scores those of the libraries."""

import io

import datasets
import numpy as np
import pytest
import safetensors.torch
import torch
import transformers
from PIL import Image
from pycocotools.coco import COCO
from pycocotools.cocoeval import COCOeval
from sklearn.metrics import jaccard_score
from torchmetrics.functional.segmentation import mean_iou

import hf_soup
from hf_soup import plugins, testing
from hf_soup.errors import DataError, EvaluationError, RecipeError
from hf_soup.metrics import boxes
from hf_soup.metrics.load import load_metrics
from hf_soup.metrics.statistics import metric_sums, resampled


SEGMENTING = plugins.load_module("task", "semantic-segmentation")
DETECTING = plugins.load_module("task", "object-detection")
COMPARING = plugins.load_module("task", "zero-shot-image-classification")
# a run that changes nothing
ONE_STEP = {"space": {"seed": [0]}, "training_args": {"max_steps": 1, "learning_rate": 0.0}, "on_error": "raise"}
SIZES = ((8, 8), (12, 8), (8, 12), (16, 8), (8, 8))  # width and height


def noise(size, seed):
    """An image of random pixels."""
    return Image.fromarray(np.random.default_rng(seed).integers(0, 255, size=(size[1], size[0], 3), dtype=np.uint8))


def with_masks(rows=5, classes=3):
    """Images of several sizes with random masks, in which some pixels do not count."""
    rng = np.random.default_rng(0)
    examples = []
    for row in range(rows):
        size = SIZES[row % len(SIZES)]
        mask = rng.integers(classes, size=size[::-1]).astype(np.uint8)
        mask[0, :3] = 255
        examples.append({"image": noise(size, row), "annotation": Image.fromarray(mask)})
    features = datasets.Features({"image": datasets.Image(), "annotation": datasets.Image()})
    return datasets.Dataset.from_list(examples, features=features)


def with_objects(rows=5):
    """Images of several sizes with objects of two classes, in the form of COCO."""
    rng = np.random.default_rng(1)
    examples = []
    for row in range(rows):
        size = SIZES[row % len(SIZES)]
        count = row % 3
        bbox = np.concatenate([rng.uniform(0, 4, size=(count, 2)), rng.uniform(1, 4, size=(count, 2))], axis=1)
        objects = {"bbox": bbox.tolist(), "category": rng.integers(2, size=count).tolist()}
        examples.append({"image": noise(size, row), "objects": objects})
    fields = {
        "bbox": datasets.List(datasets.List(datasets.Value("float64"))),
        "category": datasets.List(datasets.Value("int64")),
    }
    features = datasets.Features({"image": datasets.Image(), "objects": fields})
    return datasets.Dataset.from_list(examples, features=features)


@pytest.fixture
def segmenting():
    """A model with large outputs, so that classes differ, and its processor."""
    model, processor = testing.model_for(SEGMENTING)
    with torch.no_grad():
        model.decode_head.classifier.weight.mul_(50)
    return model, processor


@pytest.fixture
def detecting():
    """A detector and a processor that keeps proportions, so that images of a batch differ in size."""
    transformers.set_seed(0)
    small = testing.tiny.TINY["yolos"]
    config = transformers.YolosConfig(**{**small, "image_size": (32, 32)}, num_labels=2)
    model = transformers.YolosForObjectDetection(config).eval()
    with torch.no_grad():
        model.class_labels_classifier.layers[-1].weight.mul_(30)
    return model, transformers.YolosImageProcessorPil(size={"shortest_edge": 16, "longest_edge": 32})


def test_pixels_are_those_of_the_pipeline(segmenting):
    """In the size of each mask; and the mean IoU is that of torchmetrics and scikit-learn on all pixels."""
    model, processor = segmenting
    data = with_masks()
    evaluator = hf_soup.Evaluator(data, processing_class=processor, metric=["mean_iou", "overall_accuracy"])
    predicted = evaluator.predict(model)
    pipeline = transformers.pipeline("image-segmentation", model=model, image_processor=processor)
    all_true, all_said = [], []
    for row, example in enumerate(data):
        true = np.asarray(example["annotation"])
        said = np.full(true.shape, -1)
        for part in pipeline(example["image"], subtask="semantic"):
            said[np.asarray(part["mask"]) > 0] = model.config.label2id[part["label"]]
        all_true.append(true[true != 255])
        all_said.append(said[true != 255])
        right = np.bincount(all_true[-1][all_true[-1] == all_said[-1]], minlength=3)
        assert predicted.logits[row].tolist() == [*right, *np.bincount(all_said[-1], minlength=3)]
        assert predicted.labels[row].tolist() == np.bincount(all_true[-1], minlength=3).tolist()
    true, said = np.concatenate(all_true), np.concatenate(all_said)
    assert len(set(said)) > 1
    score = evaluator(model)
    assert score.value == pytest.approx(np.mean(jaccard_score(true, said, average=None)))
    tensors = [torch.as_tensor(each).long()[None] for each in (said, true)]
    assert score.value == pytest.approx(float(mean_iou(*tensors, num_classes=3, input_format="index")), abs=1e-6)
    assert score.others["overall_accuracy"] == pytest.approx((true == said).mean())


def test_the_background_may_not_count(segmenting):
    """With `do_reduce_labels`, class 0 of the masks does not count, and the others move down."""
    model, processor = segmenting
    data = with_masks(classes=4)
    reducing = transformers.SegformerImageProcessorPil(size={"height": 8, "width": 8}, do_reduce_labels=True)
    moved = data.map(
        lambda row: {
            "annotation": Image.fromarray((np.asarray(row["annotation"]) - 1).astype(np.uint8))  # 0 becomes 255
        },
        features=data.features,
    )
    kept = np.asarray(data[0]["annotation"])
    assert (np.asarray(moved[0]["annotation"])[kept == 255] == 254).all()
    plain = hf_soup.Evaluator(
        moved.map(
            lambda row: {
                "annotation": Image.fromarray(
                    np.where(np.asarray(row["annotation"]) == 254, 255, np.asarray(row["annotation"])).astype(np.uint8)
                )
            },
            features=data.features,
        ),
        processing_class=processor,
    )
    reduced = hf_soup.Evaluator(data, processing_class=reducing)
    assert reduced.predict(model).labels.tolist() == plain.predict(model).labels.tolist()
    assert reduced(model).value == plain(model).value


def test_boxes_are_those_of_the_pipeline(detecting):
    """Of each image by itself, although images of other sizes are in its batch."""
    model, processor = detecting
    data = with_objects()
    predicted = hf_soup.Evaluator(data, processing_class=processor).predict(model)
    pipeline = transformers.pipeline("object-detection", model=model, image_processor=processor)
    there, found = boxes.by_image(predicted)
    for row, example in enumerate(data):
        expected = pipeline(example["image"], threshold=0.0)
        assert len(expected) == 5
        assert np.sort(found[row]["scores"]) == pytest.approx(np.sort([each["score"] for each in expected]), abs=1e-5)
        for each in expected:
            place = np.abs(found[row]["scores"] - each["score"]).argmin()
            assert model.config.id2label[found[row]["labels"][place]] == each["label"]
            assert found[row]["boxes"][place] == pytest.approx(list(each["box"].values()), abs=1)  # whole pixels there
        bbox = np.array(example["objects"]["bbox"]).reshape(-1, 4)
        assert there[row]["boxes"] == pytest.approx(np.concatenate([bbox[:, :2], bbox[:, :2] + bbox[:, 2:]], axis=1))
        assert there[row]["labels"].tolist() == example["objects"]["category"]


def test_precision_is_that_of_coco():
    """On made-up boxes, the values are those of COCO's own summary; resamples are those of the repeated images."""
    from made_up import predictions

    predicted = predictions("boxes", rows=120)
    there, found = boxes.by_image(predicted)
    truth, said = COCO(), []
    truth.dataset = {"images": [{"id": image} for image in range(len(there))], "annotations": []}
    truth.dataset["categories"] = [{"id": 0}, {"id": 1}]
    for image, (true, own) in enumerate(zip(there, found, strict=True)):
        for box, label, area in zip(true["boxes"], true["labels"], true["area"], strict=True):
            truth.dataset["annotations"].append(
                {"image_id": image, "category_id": int(label), "bbox": [*box[:2], *(box[2:] - box[:2])]}
                | {"id": len(truth.dataset["annotations"]) + 1, "area": float(area), "iscrowd": 0}
            )
        for box, label, score in zip(own["boxes"], own["labels"], own["scores"], strict=True):
            said.append({"image_id": image, "category_id": int(label), "bbox": [*box[:2], *(box[2:] - box[:2])]})
            said[-1]["score"] = float(score)
    truth.createIndex()
    evaluation = COCOeval(truth, truth.loadRes(said), "bbox")
    for step in (evaluation.evaluate, evaluation.accumulate, evaluation.summarize):
        step()
    for place, name in enumerate(boxes.BOXES):
        (metric,) = load_metrics(name)
        assert metric.compute(predicted)[name] == pytest.approx(evaluation.stats[place], abs=1e-12)
        drawn = np.array([3, 3, 0, 7, 7, 7, 1])
        again = metric.compute(predicted.take(drawn))[name]
        assert boxes.precision_of_rows(name, predicted)(drawn) == pytest.approx(again, abs=1e-12)
        assert metric_sums(name, predicted) is None
    spread = resampled(metric, name, [predicted, predicted])
    assert (spread[0] == spread[1]).all()
    assert spread.std() > 0


def test_crowds_and_images_without_objects():
    """A crowd is no object to find, and takes any number of boxes; without objects the precision is 0."""
    crowd = np.array([[0, 0, 10, 10, 0.9, 0], [0, 0, 10, 10, 100, 1]], dtype=np.float32)
    predicted = hf_soup.metrics.predictions.Predictions(crowd, np.array([-1, 0]), np.zeros(2, dtype=int), "boxes")
    assert load_metrics("coco_map")[0].compute(predicted) == {"coco_map": 0}
    one = np.concatenate([crowd, [[20, 20, 30, 30, 0.5, 0], [20, 20, 30, 30, 100, 0]]]).astype(np.float32)
    predicted = predicted._replace(logits=one, labels=np.array([-1, 0, -1, 0]), rows=np.zeros(4, dtype=int))
    assert load_metrics("coco_map")[0].compute(predicted)["coco_map"] == pytest.approx(1)


def named(classes=("good film", "bad", "very dull plot"), rows=7):
    """Images with classes that have names."""
    rng = np.random.default_rng(3)
    features = datasets.Features({"image": datasets.Image(), "label": datasets.ClassLabel(names=list(classes))})
    columns = {
        "image": [noise((8, 8), seed) for seed in range(rows)],
        "label": rng.integers(len(classes), size=rows).tolist(),
    }
    return datasets.Dataset.from_dict(columns, features=features)


def test_images_are_compared_with_sentences_as_in_the_pipeline():
    """The probabilities of each image; one model is scored on data with other classes."""
    model, processor = testing.model_for(COMPARING)
    for classes in (("good film", "bad", "very dull plot"), ("warm", "cold")):
        data = named(classes)
        evaluator = hf_soup.Evaluator(data, processing_class=processor, batch_size=3)
        predicted = evaluator.predict(model)
        pipeline = transformers.pipeline(
            "zero-shot-image-classification",
            model=model,
            tokenizer=processor.tokenizer,
            image_processor=processor.image_processor,
        )
        shares = torch.as_tensor(predicted.logits).softmax(dim=-1)
        for row, example in enumerate(data):
            said = {
                each["label"]: each["score"] for each in pipeline(example["image"], candidate_labels=list(classes))
            }
            assert shares[row].tolist() == pytest.approx([said[name] for name in classes], abs=1e-4)
        assert evaluator(model).value == pytest.approx((predicted.logits.argmax(1) == data["label"]).mean())


TASKS = {"semantic-segmentation": with_masks, "object-detection": with_objects}
TASKS["zero-shot-image-classification"] = named


@pytest.mark.parametrize("task", TASKS)
def test_sweeps_soups_and_comparisons(task, tmp_path):
    """Runs train with Trainer; a greedy soup is chosen, saved, verified and compared, with ensembles if there are."""
    module = plugins.load_module("task", task)
    base = testing.save_model_for(module, tmp_path / "base")
    data = TASKS[task](rows=6)
    args = {"epochs": 2, "batch_size": 3, "learning_rate": 1e-2}
    runs = hf_soup.sweep(
        base, data, task=task, validation=data, space={"seed": [0, 1]}, output_dir=tmp_path / "runs",
        training_args=args, on_error="raise",
    )  # fmt: skip
    evaluator = hf_soup.Evaluator(data, task=task)
    batchnorm = {"batchnorm_data": evaluator} if task == "semantic-segmentation" else {}
    soup = hf_soup.merge(runs, strategy="greedy", evaluator=evaluator, **batchnorm)
    folder = soup.save_pretrained(tmp_path / "soup")
    assert hf_soup.verify(folder).ok
    assert f"task={task!r}" not in str(soup)
    shown = str(hf_soup.compare(hf_soup.load(folder), test=hf_soup.Evaluator(TASKS[task](rows=5), task=task)))
    assert module.METRIC in shown
    if task == "zero-shot-image-classification":
        assert hf_soup.merge(runs, strategy="learned", evaluator=data).selection.metric == "accuracy"
        assert "logit ensemble" in shown
        wise = hf_soup.merge([runs[0]], base_model=base, strategy="interpolate", evaluator=data)
        assert len(wise.selection.trials) > 2
        return
    assert "logit ensemble" not in shown
    with pytest.raises(EvaluationError, match=r"are scored without a loss: .* greedy, search and uniform soups do"):
        hf_soup.merge(runs, strategy="learned", evaluator=evaluator, **batchnorm)
    with pytest.raises(RecipeError, match="have no ensembles"):
        hf_soup.compare(soup, test=hf_soup.Evaluator(TASKS[task](rows=5), task=task), ensembles=["logits"])


def with_a_broken_image(data):
    """The rows many times, and one whose image is cut off."""
    stored = io.BytesIO()
    noise((8, 8), 0).save(stored, "PNG")
    rows = datasets.concatenate_datasets([data] * 25).cast_column("image", datasets.Image(decode=False))
    broken = rows.select([0]).map(lambda row: {"image": {"bytes": stored.getvalue()[:40], "path": None}})
    return datasets.concatenate_datasets([rows, broken.cast(rows.features)]).cast_column("image", datasets.Image())


def test_images_that_do_not_decode(segmenting, detecting):
    """A few are left out with a warning, as for classification; also from estimates of BatchNorm."""
    comparing = testing.model_for(COMPARING)
    for (model, processor), data in (
        (segmenting, with_masks()),
        (detecting, with_objects()),
        (comparing, named(rows=5)),
    ):
        evaluator = hf_soup.Evaluator(with_a_broken_image(data), processing_class=processor)
        with pytest.warns(hf_soup.SoupWarning, match="1 of 126 images of validation do not decode"):
            predicted = evaluator.predict(model)
        assert predicted.examples == 125
        batches = list(evaluator.for_model(model).examples.shuffled(model))
        assert sum(len(batch["pixel_values"]) for batch in batches) == 125
        model(**batches[0])


@pytest.mark.parametrize(
    ("task", "changes", "message"),
    [
        ("semantic-segmentation", {"annotation": [1] * 5}, "holds Value.*, and masks are needed, as images"),
        ("semantic-segmentation", {"annotation": [noise((8, 8), 0)] * 5}, "a mask has colours"),
        (
            "semantic-segmentation",
            {"annotation": [Image.new("L", (8, 8), 9)] * 5},
            "has the class 9, and the model has 3",
        ),
        (
            "semantic-segmentation",
            {"annotation": [Image.new("L", (9, 8))] * 5},
            "a mask of .8, 9. pixels belongs to an",
        ),
        ("object-detection", {"objects": [{"bbox": [[1, 2, 3]], "category": [0]}] * 5}, "row 0 has the objects"),
        ("object-detection", {"objects": [{"bbox": [[1, 2, 3, 4]], "category": [5]}] * 5}, "row 0 has the class 5"),
        ("zero-shot-image-classification", {"label": [0] * 5}, "have no names, which images are compared with"),
    ],
)
def test_what_is_refused(task, changes, message):
    """With the row and what it has; and augmentation, which boxes and masks would not follow."""
    module = plugins.load_module("task", task)
    model, processor = testing.model_for(module)
    columns = {"image": [Image.new("RGB", (8, 8))] * 5, **changes}
    with pytest.raises(DataError, match=message):
        hf_soup.Evaluator(datasets.Dataset.from_dict(columns), processing_class=processor)(model)
    if task != "zero-shot-image-classification":
        with pytest.raises(RecipeError, match="have no augmentation"):
            module.check_augment({"flip": 0.5}, processor)


def test_a_new_head_of_a_detector_keeps_its_boxes(detecting, tmp_path):
    """For other classes the class predictor is new, and what places boxes is that of the base model."""
    for part in detecting:
        part.save_pretrained(tmp_path / "base")
    data = with_objects(6).map(
        lambda row: {"objects": {**row["objects"], "category": [3] * len(row["objects"]["bbox"])}}
    )
    options = {"space": {"seed": [0]}, "training_args": {"max_steps": 1, "learning_rate": 0.0}, "on_error": "raise"}
    runs = hf_soup.sweep(tmp_path / "base", data, validation=data, output_dir=tmp_path / "runs", **options)
    model = transformers.AutoModelForObjectDetection.from_pretrained(runs[0].folder)
    assert model.config.num_labels == 4
    before = detecting[0].bbox_predictor.state_dict()
    assert all(torch.equal(before[name], tensor) for name, tensor in model.bbox_predictor.state_dict().items())


def test_a_head_with_more_classes_than_the_masks_is_kept(segmenting, tmp_path):
    """A part of the data may lack the last classes; a head with fewer classes is replaced."""
    for part in segmenting:
        part.save_pretrained(tmp_path / "base")
    before = segmenting[0].decode_head.classifier.weight
    for classes, kept in ((2, True), (6, False)):
        data = with_masks(6, classes=classes)
        runs = hf_soup.sweep(tmp_path / "base", data, validation=data, output_dir=tmp_path / f"{classes}", **ONE_STEP)
        model = transformers.AutoModelForSemanticSegmentation.from_pretrained(runs[0].folder)
        weight = model.decode_head.classifier.weight
        assert len(weight) == (3 if kept else 6)
        assert torch.equal(weight[:3], before) == kept


def test_classes_of_objects_are_matched_by_name(detecting):
    """In the order of the model; a class that the model lacks is named."""
    model, processor = detecting
    model.config.id2label = {0: "cat", 1: "dog"}
    rows = with_objects(3)
    for names, expected in ((["dog", "cat"], lambda number: 1 - number), (["cat", "dog"], int)):
        fields = {
            "bbox": rows.features["objects"]["bbox"],
            "category": datasets.List(datasets.ClassLabel(names=names)),
        }
        data = rows.cast(datasets.Features({"image": datasets.Image(), "objects": fields}))
        predicted = hf_soup.Evaluator(data, processing_class=processor).predict(model)
        numbers = [expected(number) for row in rows for number in row["objects"]["category"]]
        assert predicted.labels[predicted.labels >= 0].tolist() == numbers
        assert DETECTING.head(data, "objects")["id2label"] == dict(enumerate(names))
    fields["category"] = datasets.List(datasets.ClassLabel(names=["cat", "dgo"]))
    data = rows.cast(datasets.Features({"image": datasets.Image(), "objects": fields}))
    with pytest.raises(DataError, match=r'the model has no class "dgo" that the data has; did you mean "dog"'):
        hf_soup.Evaluator(data, processing_class=processor)(model)


def test_all_boxes_count_and_a_crowded_image_is_no_exception(detecting):
    """Every box that a model finds is kept, with the number of its queries for each image."""
    model, processor = detecting
    predicted = hf_soup.Evaluator(with_objects(2), processing_class=processor).predict(model)
    assert np.bincount(predicted.rows).tolist() == [5, 6]


def test_masks_for_training(segmenting):
    """They have the classes of the data alone, also where a processor would mix them when it resizes."""
    _, processor = segmenting
    names = frozenset({"pixel_values"})
    inputs = hf_soup.tasks._model_inputs.ModelInputs("", names, None, None, 0, None)
    rng = np.random.default_rng(0)
    masks = [Image.fromarray((2 * rng.integers(0, 2, size=(30, 20))).astype(np.uint8)) for _ in range(3)]
    features = datasets.Features({"image": datasets.Image(), "mask": datasets.Image()})
    columns = {"image": [noise((20, 30), seed) for seed in range(3)], "mask": masks}
    data = datasets.Dataset.from_dict(columns, features=features)
    beit = transformers.BeitImageProcessorPil(size={"height": 8, "width": 8}, do_center_crop=False)
    for each in (processor, beit):
        encoded = SEGMENTING.encode(data, each, ["image"], SEGMENTING.labels(data, "mask", None), inputs)
        batch = SEGMENTING.training_collator(each, inputs)(encoded.__getitems__([0, 1, 2]))
        assert set(batch) == {"pixel_values", "labels"}
        assert set(batch["labels"].unique().tolist()) == {0, 2}
        assert batch["labels"].shape == (3, *batch["pixel_values"].shape[-2:])


def test_black_and_white_masks(segmenting, tmp_path):
    """A warning says that white does not count, and a sweep refuses masks of one class; numbers above 254 too."""
    model, processor = segmenting
    white = np.zeros((8, 8), dtype=np.uint8)
    white[:4] = 255
    features = datasets.Features({"image": datasets.Image(), "mask": datasets.Image()})
    columns = {"image": [noise((8, 8), 0)] * 2, "mask": [Image.fromarray(white)] * 2}
    data = datasets.Dataset.from_dict(columns, features=features)
    with pytest.warns(hf_soup.SoupWarning, match="the masks hold only 0 and 255, and pixels with 255 do not count"):
        hf_soup.Evaluator(data, processing_class=processor)(model)
    with pytest.raises(DataError, match="the highest class in the masks is 0: classes are numbers from 0 to 254"):
        SEGMENTING.head(data, "mask")
    deep = Image.fromarray(np.full((8, 8), 300, dtype=np.uint16))
    columns["mask"] = [deep] * 2
    with pytest.raises(DataError, match="the highest class in the masks is 300"):
        SEGMENTING.head(datasets.Dataset.from_dict(columns, features=features), "mask")
    assert SEGMENTING.head(with_masks(), "annotation") == {"num_labels": 3}


def test_a_rotated_mask_goes_with_its_image(segmenting, tmp_path):
    """Both are turned as a viewer shows them."""
    model, processor = segmenting
    data = with_masks(1)
    plain = hf_soup.Evaluator(data, processing_class=processor).predict(model)
    upside_down = Image.Exif()
    upside_down[0x0112] = 3
    rows = {}
    for column in data.column_names:
        stored = io.BytesIO()
        data[0][column].rotate(180).save(stored, "PNG", exif=upside_down)
        rows[column] = [{"bytes": stored.getvalue(), "path": None}]
    rotated = datasets.Dataset.from_dict(rows, features=data.features)
    again = hf_soup.Evaluator(rotated, processing_class=processor).predict(model)
    assert again.logits.tolist() == plain.logits.tolist()
    assert again.labels.tolist() == plain.labels.tolist()


def test_the_loss_of_sentences_is_a_mean_over_all_batches_of_a_step():
    """With the number of items that Trainer gives when gradients are accumulated, without unreadable images."""
    logits = torch.randn(6, 3, generator=torch.Generator().manual_seed(0))
    labels = torch.tensor([0, 1, 2, -100, 1, 0])
    whole = COMPARING.training_loss({"logits_per_image": logits}, labels)
    assert float(whole) == pytest.approx(float(torch.nn.functional.cross_entropy(logits, labels)))
    parts = [
        COMPARING.training_loss({"logits_per_image": logits[part]}, labels[part], num_items_in_batch=5)
        for part in (slice(0, 2), slice(2, 6))
    ]
    assert float(sum(parts)) == pytest.approx(float(whole))
    none = COMPARING.training_loss({"logits_per_image": logits[:1]}, torch.tensor([-100]))
    assert float(none) == 0


def test_what_needs_a_loss_says_so_first(detecting, tmp_path):
    """Advice and analyses refuse boxes before a model is run; ties in the score stay ties."""
    for seed in range(2):
        for part in detecting:
            part.save_pretrained(tmp_path / f"run-{seed}")
    evaluator = hf_soup.Evaluator(with_objects(4), task="object-detection")
    runs = [tmp_path / "run-0", tmp_path / "run-1"]
    with pytest.raises(
        EvaluationError, match="analyses and advice need the loss of each example, which models of boxes"
    ):
        hf_soup.advise(runs, evaluator)
    assert hf_soup.merge(runs, strategy="greedy", evaluator=evaluator, accept="loss").selection.metric == "coco_map"


def test_adapters_on_both_parts_of_a_model(tmp_path):
    """A sweep of adapters on CLIP trains no whole part of it."""
    base = testing.save_model_for(COMPARING, tmp_path / "base")
    args = {"max_steps": 1, "peft": {"r": 2, "target_modules": ["q_proj", "v_proj"]}}
    runs = hf_soup.sweep(
        base, named(), task="zero-shot-image-classification", validation=named(), space={"seed": [0]},
        output_dir=tmp_path / "runs", training_args=args, on_error="raise",
    )  # fmt: skip
    names = list(safetensors.torch.load_file(runs[0].folder / "adapter_model.safetensors"))
    assert names
    assert all("lora" in name for name in names)


def test_augmented_images_keep_their_sentences():
    """Images are changed at random, and the sentences of their classes are as before."""
    model, processor = testing.model_for(COMPARING)
    inputs = hf_soup.tasks._model_inputs.inputs_of(model)
    data = named()
    encoded = COMPARING.encode(data, processor, ["image"], COMPARING.labels(data, "label", None), inputs)
    plain = COMPARING.collator(processor, inputs)(encoded.__getitems__([0, 1]))
    changed = COMPARING.augmented(encoded, {"noise": 0.5}, processor)
    batch = COMPARING.collator(processor, inputs)(changed.__getitems__([0, 1]))
    assert torch.equal(batch["input_ids"], plain["input_ids"])
    assert not torch.equal(batch["pixel_values"], plain["pixel_values"])
