"""Statistics of data by which `fisher` and `regmean` average, against references in float64."""

import json
import shutil

import datasets
import pytest
import torch
from safetensors.torch import load_file, save_file

import hf_soup
from hf_soup import plugins, testing
from hf_soup.errors import DataError, RecipeError
from hf_soup.evaluation.importance import _score_directions, write_gram
from hf_soup.methods.fisher import fisher
from hf_soup.methods.regmean import regmean


DATA = testing.tiny_texts(8, seed=5)


@pytest.fixture(scope="module")
def models(tmp_path_factory):
    """Three fine-tunes of one model."""
    folder = tmp_path_factory.mktemp("models")
    saved = []
    for seed in range(3):
        model = testing.tiny_text_model(0)
        torch.manual_seed(seed)
        with torch.no_grad():
            for parameter in model.parameters():
                parameter += 0.05 * torch.randn_like(parameter)
        saved.append(testing.save_text_model(model, folder / f"m{seed}"))
    return saved


@pytest.fixture
def run(models, tmp_path):
    """A run without statistics."""
    return shutil.copytree(models[0], tmp_path / "run", ignore=shutil.ignore_patterns("soup_importance"))


def statistics(folder):
    """The tensors of kept statistics."""
    return load_file(folder / "model.safetensors")


def inputs_of(folder):
    """The model in float64, and each example alone as its inputs."""
    import transformers

    model = transformers.AutoModelForSequenceClassification.from_pretrained(folder).double().eval()
    tokenizer = transformers.AutoTokenizer.from_pretrained(folder)
    return model, [tokenizer(text, return_tensors="pt") for text in DATA["text"]]


def test_fisher_is_the_expected_squared_gradient(run):
    """The sum over classes of p (d log p)^2, one example after the other, as the paper defines it."""
    model, examples = inputs_of(run)
    expected = {name: torch.zeros_like(parameter) for name, parameter in model.named_parameters()}
    for inputs in examples:
        for label in range(model.config.num_labels):
            model.zero_grad()
            log_p = model(**inputs).logits.log_softmax(-1)[0, label]
            log_p.backward()
            for name, parameter in model.named_parameters():
                expected[name] += log_p.exp().item() * parameter.grad**2 / len(examples)
    found = statistics(hf_soup.importance(run, DATA))
    assert set(found) == set(expected)
    for name, tensor in found.items():
        torch.testing.assert_close(tensor.double(), expected[name].detach(), rtol=1e-4, atol=1e-12)


def test_gram_matrices_are_those_of_the_inputs_without_padding(run):
    """The sum of x x' over the tokens of every text alone, for each linear layer."""
    model, examples = inputs_of(run)
    expected = {}
    for name, module in model.named_modules():
        if isinstance(module, torch.nn.Linear):
            expected[f"{name}.weight"] = 0

            def add(layer, inputs, name=f"{name}.weight"):
                x = inputs[0].detach().reshape(-1, layer.in_features)
                expected[name] = expected[name] + x.T @ x

            module.register_forward_pre_hook(add)
    for inputs in examples:
        model(**inputs)
    found = statistics(hf_soup.importance(run, DATA, kind="gram"))
    assert set(found) == set(expected)
    for name, tensor in found.items():
        torch.testing.assert_close(tensor.double(), expected[name], rtol=1e-5, atol=1e-5)


def test_examples_that_were_padded_before(run):
    """Encoded data with padding gives the same Gram matrices as the texts."""
    import transformers

    encoded = transformers.AutoTokenizer.from_pretrained(run)(DATA["text"][:], padding="max_length", max_length=20)
    padded = datasets.Dataset.from_dict({**encoded, "label": DATA["label"]})
    found = statistics(hf_soup.importance(run, padded, kind="gram"))
    for name, tensor in statistics(hf_soup.importance(run, DATA, kind="gram")).items():
        if not name.startswith(("bert.pooler", "classifier")):
            torch.testing.assert_close(found[name], tensor, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("kind", ["classes", "labels", "values"])
def test_directions_give_the_fisher_information_of_the_logits(kind):
    """The sum of v v' is diag(p) - p p' for classes, diag(p (1 - p)) for labels, and 1 for a value."""
    logits = torch.tensor([[0.5, -1.0, 2.0]], dtype=torch.float64)
    if kind == "values":
        logits = logits[:, 0]
    rng = torch.Generator().manual_seed(0)
    directions = _score_directions(kind, logits, rng).reshape(-1, logits.numel())
    p = logits[0].softmax(-1) if kind == "classes" else logits.sigmoid().reshape(-1)
    expected = {
        "classes": lambda: p.diag() - torch.outer(p, p),
        "labels": lambda: (p * (1 - p)).diag(),
        "values": lambda: torch.ones(1, 1, dtype=torch.float64),
    }[kind]()
    torch.testing.assert_close(directions.T @ directions, expected)


def test_drawn_labels_have_the_right_expectation():
    """For many classes or items one label is drawn for each item: on average v v' is the Fisher information."""
    logits = torch.randn(1, 12, dtype=torch.float64, generator=torch.Generator().manual_seed(1))
    rng = torch.Generator().manual_seed(0)
    draws = torch.cat([_score_directions("classes", logits, rng)[0] for _ in range(4000)])
    p = logits[0].softmax(-1)
    assert (draws.T @ draws / len(draws) - (p.diag() - torch.outer(p, p))).abs().max() < 0.02


def test_fisher_gives_the_minimum_of_quadratics():
    """Losses of which each is quadratic around its model have their joint minimum at the soup."""
    rng = torch.Generator().manual_seed(0)
    tensors = [torch.randn(5, 4, generator=rng, dtype=torch.float64) for _ in range(3)]
    curvatures = [torch.rand(5, 4, generator=rng, dtype=torch.float64) for _ in range(3)]
    soup = fisher(tensors, [1, 2, 0.5], importance=curvatures)
    slope = sum(w * f * (soup - x) for w, f, x in zip([1, 2, 0.5], curvatures, tensors, strict=True))
    assert slope.abs().max() < 1e-14
    nothing = [torch.zeros(5, 4, dtype=torch.float64)] * 3
    torch.testing.assert_close(fisher(tensors, [1, 1, 1], importance=nothing), torch.stack(tensors).mean(0))


def test_regmean_gives_the_least_squares_solution_of_all_data():
    """Linear models of two halves of data, of different sizes, become the linear model of all data."""
    rng = torch.Generator().manual_seed(0)
    x = torch.randn(60, 6, generator=rng, dtype=torch.float64)
    y = torch.randn(60, 3, generator=rng, dtype=torch.float64)
    halves = [slice(0, 20), slice(20, 60)]
    models = [torch.linalg.lstsq(x[half], y[half]).solution.T for half in halves]
    grams = [x[half].T @ x[half] for half in halves]
    soup = regmean(models, [1, 1], importance=grams, shrink=1.0)
    torch.testing.assert_close(soup, torch.linalg.lstsq(x, y).solution.T, rtol=1e-8, atol=1e-8)
    # inputs that no data has stay at the mean
    grams = [torch.nn.functional.pad(gram, (0, 1, 0, 1)) for gram in grams]
    wider = [torch.nn.functional.pad(model, (0, 1), value=place) for place, model in enumerate(models)]
    torch.testing.assert_close(
        regmean(wider, [1, 1], importance=grams, shrink=1.0)[:, -1], torch.full((3,), 0.5).double()
    )


def test_regmean_shrinks_what_is_not_on_the_diagonal():
    """As the paper has it, against its own formula."""
    rng = torch.Generator().manual_seed(0)
    tensors = [torch.randn(3, 4, generator=rng, dtype=torch.float64) for _ in range(2)]
    inputs = [torch.randn(9, 4, generator=rng, dtype=torch.float64) for _ in range(2)]
    shrunk = []
    for x in inputs:
        gram = x.T @ x
        shrunk.append(0.7 * gram + 0.3 * gram.diag().diag())
    total = sum(shrunk)
    expected = torch.linalg.inv(total) @ sum(g @ w.T for g, w in zip(shrunk, tensors, strict=True))
    found = regmean(tensors, [1, 1], importance=[x.T @ x for x in inputs], shrink=0.7)
    torch.testing.assert_close(found, expected.T, rtol=1e-7, atol=1e-7)


@pytest.mark.parametrize("kind", ["fisher", "gram"])
@pytest.mark.parametrize("task", plugins.names("task"))
def test_every_task_needs_no_labels(task, kind, tmp_path):
    """The statistics of every task are finite and not all zero, and labels change nothing."""
    module = plugins.load_module("task", task)
    folder = testing.tiny.save_model_for(module, tmp_path / "model")
    data = testing.tiny.example_of(module)
    if kind == "gram" and module.EXAMPLE_MODEL == "gpt2":  # its layers are Conv1D, and the head shares the embeddings
        with pytest.raises(
            hf_soup.errors.EvaluationError, match=r"no torch\.nn\.Linear layer with a weight of its own"
        ):
            hf_soup.importance(folder, data, kind=kind)
        return
    if kind == "fisher" and (
        module.KIND in ("pixels", "boxes")
        or module.AUTO_CLASS == "SentenceTransformer"
        or "AutoModelForCTC" in module.AUTO_CLASS
    ):
        with pytest.raises(hf_soup.errors.EvaluationError, match=r'kind="gram" \(for regmean\) works'):
            hf_soup.importance(folder, hf_soup.Evaluator(data, task=task), kind=kind)
        return
    found = statistics(hf_soup.importance(folder, hf_soup.Evaluator(data, task=task), kind=kind))
    assert all(tensor.isfinite().all() for tensor in found.values())
    assert max(tensor.abs().max() for tensor in found.values()) > 0
    label = module.label_column(data, None)
    needs_labels = module.KIND in ("tokens", "pixels", "boxes") or task == "zero-shot-image-classification"
    if label is None or needs_labels:
        return
    unlabelled = hf_soup.Evaluator(data.remove_columns(label), task=task)
    without = statistics(hf_soup.importance(folder, unlabelled, kind=kind))
    assert all(torch.equal(without[name], tensor) for name, tensor in found.items())


def test_statistics_are_made_once(run):
    """A second call, and a merge with the same data, find what is there; other data or another seed do not."""
    folder = hf_soup.importance(run, DATA)
    before = (folder / "model.safetensors").stat().st_mtime_ns
    assert hf_soup.importance(run, DATA) == folder
    assert (folder / "model.safetensors").stat().st_mtime_ns == before
    assert hf_soup.importance(run, DATA, seed=1) != folder
    assert hf_soup.importance(run, DATA, max_examples=4) != folder


def test_layers_that_do_not_fit_into_memory_take_more_passes(run, monkeypatch):
    """One layer at a time, the statistics are the same to the bit."""
    whole = statistics(hf_soup.importance(run, DATA, kind="gram"))
    shutil.rmtree(run / "soup_importance")
    passes = []

    def counting(*arguments):
        passes.append(1)
        write_gram(*arguments)

    monkeypatch.setattr("hf_soup.api.importance.write_gram", counting)
    found = statistics(hf_soup.importance(run, DATA, kind="gram", max_memory=1))
    assert len(passes) == len(whole)
    assert all(torch.equal(found[name], tensor) for name, tensor in whole.items())


def test_statistics_of_other_weights_are_not_taken(run):
    """After more training the statistics that were made before do not fit; the error says what to do."""
    hf_soup.importance(run, DATA)
    path = run / "model.safetensors"
    save_file({name: tensor * 1.5 for name, tensor in load_file(path).items()}, path, {"format": "pt"})
    with pytest.raises(RecipeError, match=r"'run' has no fisher statistics \(1 of other weights.*hf_soup\.importance"):
        hf_soup.merge([run], method="fisher")


def test_damaged_statistics_are_not_taken(run):
    """A file that was changed afterwards is made again."""
    folder = hf_soup.importance(run, DATA)
    good = statistics(folder)
    save_file({name: tensor * 2 for name, tensor in good.items()}, folder / "model.safetensors")
    with pytest.raises(RecipeError, match="or damaged"):
        hf_soup.merge([run], method="fisher")
    assert all(torch.equal(statistics(hf_soup.importance(run, DATA))[name], good[name]) for name in good)
    (folder / "importance.json").write_text("{")
    with pytest.raises(RecipeError, match="or damaged"):
        hf_soup.merge([run], method="fisher")


def test_statistics_of_several_data_sets_have_to_be_told_apart(run):
    """Without saying which, a merge does not choose; with the data it does."""
    hf_soup.importance(run, DATA)
    hf_soup.importance(run, DATA.select(range(4)))
    with pytest.raises(RecipeError, match="fisher statistics of several sets of examples"):
        hf_soup.merge([run], method="fisher")
    soup = hf_soup.merge([run], method="fisher", importance_data=DATA)
    assert soup.recipe.importance["run"].dataset.rows == 8


@pytest.mark.parametrize("method", ["fisher", "regmean"])
def test_soups_are_those_of_the_formula(models, method):
    """What a merge gives is the method of the tensors and the kept statistics, tensor by tensor."""
    data = {path.name: DATA.select(range(place, place + 4)) for place, path in enumerate(models)}
    soup = hf_soup.merge(models, method=method, weights=[1, 2, 0.5], importance_data=data)
    kind = plugins.method_traits(plugins.load_function("method", method)).importance
    kept = [statistics(hf_soup.importance(path, data[path.name], kind=kind)) for path in models]
    weights = [load_file(path / "model.safetensors") for path in models]
    for name, tensor in soup.model.state_dict().items():
        parts = [each[name].double() for each in weights]
        if name in kept[0]:
            function = fisher if method == "fisher" else regmean
            expected = function(parts, [1, 2, 0.5], importance=[each[name].double() for each in kept])
        else:
            expected = (parts[0] + 2 * parts[1] + 0.5 * parts[2]) / 3.5
        torch.testing.assert_close(tensor, expected.float(), rtol=1e-6, atol=1e-7)


def test_a_recipe_is_cooked_again_with_the_statistics_that_it_names(models, tmp_path):
    """Also when there are others meanwhile; without them the error names the ingredient and what to do."""
    copies = [shutil.copytree(path, tmp_path / path.name) for path in models]
    soup = hf_soup.merge(copies, method="fisher", importance_data=DATA)
    folder = soup.save_pretrained(tmp_path / "soup")
    hf_soup.importance(copies[0], DATA.select(range(3)))
    again = hf_soup.cook(folder).soup
    assert again.recipe.importance == soup.recipe.importance
    assert hf_soup.verify(folder).ok
    assert "importance" not in (folder / "soup_importance").name or not (folder / "soup_importance").exists()
    shutil.rmtree(copies[0] / "soup_importance")
    with pytest.raises(RecipeError, match="'m0' has no fisher statistics that the recipe was made with"):
        hf_soup.cook(folder)


def test_models_in_memory_have_their_statistics_below_hf_home(models, monkeypatch, tmp_path):
    """They have no folder; a copy of the weights finds them too."""
    monkeypatch.setattr("huggingface_hub.constants.HF_HOME", str(tmp_path))
    import transformers

    loaded = [transformers.AutoModelForSequenceClassification.from_pretrained(path) for path in models[:2]]
    data = hf_soup.Evaluator(DATA, processing_class=transformers.AutoTokenizer.from_pretrained(models[0]))
    soup = hf_soup.merge(loaded, method="fisher", importance_data=data)
    assert len(list((tmp_path / "hf_soup" / "importance").glob("*/fisher-*/importance.json"))) == 2
    assert all(torch.isfinite(tensor).all() for tensor in soup.model.state_dict().values())


def test_wrong_arguments_are_refused(models):
    """Each with what was given and what to do."""
    with pytest.raises(RecipeError, match="'fisher' or 'gram', not 'hessian'"):
        hf_soup.importance(models[0], DATA, kind="hessian")
    with pytest.raises(RecipeError, match='the method "linear" takes no importance_data'):
        hf_soup.merge(models, importance_data=DATA)
    with pytest.raises(RecipeError, match=r"importance_data is given for 'm9'.*m0"):
        hf_soup.merge(models, method="fisher", importance_data={"m9": DATA})
    with pytest.raises(RecipeError, match="not a function"):
        hf_soup.importance(models[0], lambda model: 1.0)
    with pytest.raises(RecipeError, match="max_examples is 0"):
        hf_soup.importance(models[0], DATA, max_examples=0)
    with pytest.raises(DataError, match="nothing"):
        hf_soup.importance(models[0], hf_soup.Evaluator(DATA, label_column="nothing"))


def test_a_method_of_ones_own_says_which_importance_it_takes(models):
    """Statistics of one kind go to the method that declares it."""

    @plugins.method(elementwise=True, importance="fisher")
    def strongest(tensors, weights, *, importance):
        """Take each number from the ingredient that it matters most to."""
        tensors, importance = torch.stack(list(tensors)), torch.stack(list(importance))
        return tensors.gather(0, importance.argmax(0)[None])[0]

    testing.check_method(strongest)
    soup = hf_soup.merge(models, method=strongest, importance_data=DATA)
    kept = [statistics(hf_soup.importance(path, DATA)) for path in models]
    weights = [load_file(path / "model.safetensors") for path in models]
    name = "classifier.weight"
    best = torch.stack([each[name] for each in kept]).argmax(0)
    expected = torch.stack([each[name] for each in weights]).gather(0, best[None])[0]
    assert torch.equal(soup.model.state_dict()[name], expected)

    def undeclared(tensors, weights, *, importance):
        """Take statistics without saying which."""
        return next(iter(tensors))

    with pytest.raises(RecipeError, match="does not say which importance"):
        hf_soup.merge(models, method=undeclared)


def test_classes_in_another_order_have_their_statistics_in_that_order(models, tmp_path):
    """An ingredient with permuted classes gives the same soup as the one that it was made from."""
    permuted = shutil.copytree(models[1], tmp_path / "permuted", ignore=shutil.ignore_patterns("soup_importance"))
    tensors = load_file(permuted / "model.safetensors")
    for name in ("classifier.weight", "classifier.bias"):
        tensors[name] = tensors[name].flip(0).contiguous()
    save_file(tensors, permuted / "model.safetensors", {"format": "pt"})
    config = json.loads((permuted / "config.json").read_text())
    config["id2label"] = dict(zip("01", reversed(list(config["id2label"].values())), strict=True))
    config["label2id"] = {label: int(index) for index, label in config["id2label"].items()}
    (permuted / "config.json").write_text(json.dumps(config))
    data = DATA.remove_columns("label")
    options = {"method": "fisher", "importance_data": data}
    soup = hf_soup.merge([models[0], permuted], align_labels=True, **options)
    expected = hf_soup.merge([models[0], models[1]], **options).model.state_dict()
    for name, tensor in soup.model.state_dict().items():
        if not name.endswith("key.bias"):  # which attention does not depend on: its information is rounding errors
            torch.testing.assert_close(tensor, expected[name], rtol=1e-5, atol=1e-6)


def test_a_cook_file_takes_its_training_data(models, tmp_path):
    """The importance of weights is estimated on the `train` split of the file's data."""
    copies = [shutil.copytree(path, tmp_path / path.name) for path in models[:2]]
    for split in ("train", "validation"):
        (tmp_path / "data").mkdir(exist_ok=True)
        DATA.to_csv(tmp_path / "data" / f"{split}.csv")
    (tmp_path / "cook.yaml").write_text(
        f"ingredients: [{copies[0]}, {copies[1]}]\ndata: {{path: {tmp_path / 'data'}}}\n"
        "merge: {method: regmean, strategy: uniform, params: {shrink: 0.5}}\n"
    )
    soup = hf_soup.cook(tmp_path / "cook.yaml", output_dir=tmp_path / "out").soup
    assert soup.recipe.params == {"shrink": 0.5}
    assert {record.dataset.rows for record in soup.recipe.importance.values()} == {8}
    again = hf_soup.cook(tmp_path / "cook.yaml", output_dir=tmp_path / "out").soup  # nothing is computed
    assert again.recipe.output == hf_soup.load_recipe(tmp_path / "out" / "soup").output


def test_regmean_stays_near_its_ingredients_where_data_lacks():
    """With fewer rows than inputs, Gram matrices of float32 sums do not lead far away from the ingredients."""
    rng = torch.Generator().manual_seed(0)
    models = [torch.randn(8, 64, generator=rng) * 0.05 for _ in range(2)]
    inputs = [torch.randn(20, 64, generator=rng) for _ in range(2)]
    soup = regmean(models, [1, 1], importance=[x.T @ x for x in inputs], shrink=1.0)
    exact = regmean(
        [each.double() for each in models], [1, 1], importance=[x.double().T @ x.double() for x in inputs], shrink=1.0
    )
    assert (soup - exact).abs().max() < 1e-3
    assert soup.abs().max() < 3 * max(each.abs().max() for each in models)


def test_fisher_of_tiny_numbers():
    """Ratios decide, also where their products would vanish in float32."""
    tensors, numbers = [torch.zeros(1), torch.ones(1)], [torch.tensor([3e-44]), torch.tensor([2e-44])]
    assert fisher(tensors, [1, 1], importance=numbers).item() == pytest.approx(0.4, abs=0.02)


def test_targets_of_other_lengths_are_not_padded(tmp_path):
    """Gram matrices of a sequence-to-sequence model are the sum of those of its examples alone."""
    module = plugins.load_module("task", "text2text-generation")
    folder = testing.tiny.save_model_for(module, tmp_path / "model")
    text = module.EXAMPLE["text"][0] if "text" in module.EXAMPLE else next(iter(module.EXAMPLE.values()))[0]
    source, target = list(module.EXAMPLE)
    rows = {source: [text, text], target: ["good", "the bad plot was very dull"]}
    both = statistics(hf_soup.importance(folder, datasets.Dataset.from_dict(rows), kind="gram"))
    alone = []
    for row in range(2):
        data = datasets.Dataset.from_dict({name: [values[row]] for name, values in rows.items()})
        alone.append(statistics(hf_soup.importance(folder, data, kind="gram")))
    for name, tensor in both.items():
        torch.testing.assert_close(tensor, alone[0][name] + alone[1][name], rtol=1e-4, atol=1e-4)


def test_what_was_used_for_importance_is_no_test_set(models):
    """A comparison on the data by which weights were chosen is refused."""
    soup = hf_soup.merge(models, method="fisher", importance_data=DATA)
    with pytest.raises(hf_soup.errors.EvaluationError):
        hf_soup.compare(soup, test=DATA)


def test_code_in_a_variation_is_not_run(models, tmp_path):
    """Data of a variation that is a function is refused as other code is."""
    folder = hf_soup.merge(models, method="fisher", importance_data=DATA).save_pretrained(tmp_path / "soup")
    with pytest.raises(RecipeError, match="code from elsewhere"):
        hf_soup.cook(folder, overrides=["importance_data=evilmod:function"])
    hf_soup.importance(models[0], DATA.select(range(5)))
    varied = hf_soup.cook(folder, overrides=["seed=1"]).soup  # with the statistics of the recipe
    assert varied.recipe.importance == hf_soup.load_recipe(folder).importance
    hf_soup.importance(folder, DATA)
    assert hf_soup.verify(folder).ok


def test_nothing_is_estimated_for_models_that_do_not_fit(models, tmp_path):
    """Problems of the ingredients come before the work."""
    other = testing.save_text_model(testing.tiny_text_model(0, hidden_size=16), tmp_path / "other")
    with pytest.raises(hf_soup.errors.IncompatibleError):
        hf_soup.merge([other, models[0]], method="fisher", importance_data=DATA)
    assert not (other / "soup_importance").exists()
