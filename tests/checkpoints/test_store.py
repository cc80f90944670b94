"""Folders on object stores as ingredients and targets: in memory, and on a server that speaks the protocol of S3."""

import itertools
import json
import os
import shutil
import socket

import fsspec
import pytest

import hf_soup
from hf_soup import testing
from hf_soup.checkpoints import remote_files
from hf_soup.checkpoints.source import open_checkpoint, short_name
from hf_soup.checkpoints.store import Store, hub_id, is_address
from hf_soup.errors import IngredientError, MissingExtraError, OutputError, SoupError
from hf_soup.formats.recipe_file import dump_recipe, load_recipe
from hf_soup.publishing.sharing import ShardMaker
from hf_soup.publishing.store_target import MARKER, _appears_last


pytestmark = pytest.mark.filterwarnings("ignore::hf_soup.errors.SoupWarning")
NUMBERS = itertools.count()
SIZE = "20KB"
finish = ShardMaker.finish


@pytest.fixture(scope="module")
def s3():
    """The address of a bucket on a server on loopback."""
    pytest.importorskip("s3fs")
    server_of_moto = pytest.importorskip("moto.server")
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    server = server_of_moto.ThreadedMotoServer(ip_address="127.0.0.1", port=port, verbose=False)
    server.start()
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("AWS_ENDPOINT_URL_S3", f"http://127.0.0.1:{port}")
        patch.setenv("AWS_ACCESS_KEY_ID", "user")
        patch.setenv("AWS_SECRET_ACCESS_KEY", "secret")
        patch.setenv("AWS_DEFAULT_REGION", "us-east-1")
        fsspec.filesystem("s3").mkdir("bucket")
        yield "s3://bucket"
    server.stop()


@pytest.fixture(params=["memory", "s3"])
def place(request):
    """The address of a folder that no other test uses."""
    parent = "memory://bucket" if request.param == "memory" else request.getfixturevalue("s3")
    return f"{parent}/{next(NUMBERS)}"


def put(folder, address):
    """Copy a local folder to a store."""
    file_system, root = fsspec.url_to_fs(address)
    for path in folder.rglob("*"):
        if path.is_file():
            file_system.pipe_file(f"{root}/{path.relative_to(folder).as_posix()}", path.read_bytes())
    return address


@pytest.fixture
def stored(place, text_runs):
    """Three runs on a store."""
    return [put(run, f"{place}/run-{index}") for index, run in enumerate(text_runs)]


def files_at(address):
    """The files of a folder on a store, with their contents."""
    file_system, root = fsspec.url_to_fs(address)
    file_system.invalidate_cache()
    return {path.removeprefix(f"{root}/"): file_system.cat_file(path) for path in file_system.find(root)}


def weights_in(folder):
    """The weight files of a local folder."""
    return {path.name: path.read_bytes() for path in folder.glob("model*")}


def test_an_ingredient_has_the_bits_of_a_local_one(stored, text_runs, tmp_path):
    """A soup of runs on a store is that of local runs, its recipe cooks it again, and no weights are kept."""
    from huggingface_hub.constants import HF_HOME

    soup = hf_soup.merge(stored)
    assert [item.name for item in soup.checkpoints] == ["run-0", "run-1", "run-2"]
    folder = soup.save_pretrained(tmp_path / "soup", max_shard_size=SIZE)
    local = hf_soup.merge(text_runs).save_pretrained(tmp_path / "local", max_shard_size=SIZE)
    assert weights_in(folder) == weights_in(local)
    recipe = load_recipe(folder)
    assert [item.source for item in recipe.ingredients] == stored
    assert all(item.files["model.safetensors"].startswith("xxh3-128:") for item in recipe.ingredients)
    assert hf_soup.verify(folder).ok
    kept = os.path.join(HF_HOME, "hf_soup", "stores")
    names = {name for _, _, names in os.walk(kept) for name in names}
    assert "tokenizer.json" in names
    assert not [name for name in names if name.endswith(".safetensors")]


def test_published_recipes_do_not_name_the_bucket(stored):
    """A recipe that is published has the names of the folders alone."""
    text = dump_recipe(hf_soup.merge(stored).recipe)
    assert "bucket" not in text
    assert "source: run-0" in text


def test_weights_are_read_by_ranges(stored, monkeypatch):
    """Large tensors are read in windows, each byte once."""
    monkeypatch.setattr(remote_files, "WINDOW", 8_000)
    reads = []
    read = Store.read

    def counted(self, name, start, stop):
        reads.append((self.address, name, start, stop))
        return read(self, name, start, stop)

    soup = hf_soup.merge(stored)
    soup.warn_of_doubts()
    monkeypatch.setattr(Store, "read", counted)
    soup.build_model()
    assert max(stop - start for _, _, start, stop in reads) <= 8_000
    assert (
        sum(stop - start for _, _, start, stop in reads) == 3 * soup.checkpoints[0].remote.sizes["model.safetensors"]
    )


def test_a_run_with_checkpoints_is_its_best_one(place, text_runs, tmp_path):
    """The best checkpoint of a Trainer is found on a store as in a folder."""
    run = tmp_path / "run"
    for step in (5, 10):
        shutil.copytree(text_runs[step == 10], run / f"checkpoint-{step}")
        state = {"best_model_checkpoint": "run/checkpoint-5", "best_metric": 0.9}
        (run / f"checkpoint-{step}" / "trainer_state.json").write_text(json.dumps(state))
    opened = open_checkpoint(put(run, f"{place}/run"))
    assert opened.ingredient.source.endswith("/checkpoint-5")
    name = next(iter(opened.specs))
    assert opened.read(name).equal(open_checkpoint(text_runs[0]).read(name))


def test_shards_and_their_index_are_read(place, tmp_path):
    """A model in several files is one ingredient."""
    model = testing.tiny_text_model(0)
    model.save_pretrained(tmp_path / "sharded", max_shard_size=SIZE)
    opened = open_checkpoint(put(tmp_path / "sharded", f"{place}/run"))
    assert len({spec.file for spec in opened.specs.values()}) > 1
    local = open_checkpoint(tmp_path / "sharded")
    assert all(opened.read(name).equal(local.read(name)) for name in local.specs)


def test_an_adapter_on_a_store(place, text_runs, tmp_path):
    """The file of an adapter is small, and fetched."""
    import peft
    import transformers

    model = transformers.AutoModelForSequenceClassification.from_pretrained(text_runs[0])
    adapted = peft.get_peft_model(model, peft.LoraConfig(r=2, task_type="SEQ_CLS", target_modules=["query"]))
    adapted.save_pretrained(tmp_path / "adapter")
    opened = open_checkpoint(put(tmp_path / "adapter", f"{place}/adapter"))
    assert opened.base.ingredient.source == str(text_runs[0])


def test_a_file_that_changes_is_refused(stored, text_runs):
    """A run that was written again is noticed, before and while it is read."""
    soup = hf_soup.merge(stored)
    put(text_runs[2], stored[0])
    with pytest.raises(IngredientError, match="has changed since it was opened"):
        soup.build_model()
    assert hf_soup.merge(stored).build_model() is not None


def test_the_recipe_notices_other_weights(stored, text_runs, tmp_path):
    """The digests of the tensors are compared when the recipe is cooked again."""
    folder = hf_soup.merge(stored).save_pretrained(tmp_path / "soup")
    put(text_runs[2], stored[0])
    assert "are not those that the recipe was made from" in hf_soup.verify(folder).table()


@pytest.mark.parametrize(
    ("address", "error", "message"),
    [
        ("memory://nothing/here", IngredientError, "does not exist, or is empty"),
        ("http://host/run", IngredientError, "is no address of a store that hf_soup knows"),
        ("memory://a::memory://b", IngredientError, "is no address of a store"),
        ("s3://user:secret@bucket/run", IngredientError, "may hold no password"),
        ("hf://datasets/user/data", IngredientError, "is no model"),
        ("oci://bucket/run", MissingExtraError, "cannot be reached"),
    ],
)
def test_wrong_addresses_are_told(address, error, message):
    """Each address that is none says what is wrong."""
    with pytest.raises(error, match=message) as caught:
        hf_soup.merge([address])
    assert "secret" not in str(caught.value)


def test_pickles_are_refused(place, text_runs, tmp_path):
    """Pickled weights are not read from a store."""
    import torch

    folder = tmp_path / "pickled"
    shutil.copytree(text_runs[0], folder)
    (folder / "model.safetensors").unlink()
    torch.save({}, folder / "pytorch_model.bin")
    with pytest.raises(IngredientError, match="a pickle"):
        open_checkpoint(put(folder, f"{place}/run"))


@pytest.mark.parametrize("address", ["hf://user/run", "hf://user/run@v1/sub/folder", "hf://models/user/run"])
def test_addresses_of_the_hub_are_its_ids(address):
    """`hf://` names a repository, as in fsspec."""
    expected = {"hf://user/run@v1/sub/folder": "user/run/sub/folder@v1"}.get(address, "user/run")
    assert hub_id(address) == expected


def test_a_repository_by_its_address(hub_runs, text_runs):
    """A run of the Hub by its address is the same ingredient."""
    opened = open_checkpoint(f"hf://{hub_runs[0]}")
    assert opened.ingredient == open_checkpoint(hub_runs[0]).ingredient


def test_paths_and_ids_are_no_addresses():
    """Windows paths and Hub ids are not taken for addresses."""
    assert not any(map(is_address, ("runs/run-0", "user/run@v1", r"C:\runs\run-0", "C:/runs", "", None)))


def test_a_soup_on_a_store_is_that_of_a_folder(place, text_runs, tmp_path):
    """Weights, configuration, tokenizer, recipe and card are there, and the soup can be loaded and verified."""
    soup = hf_soup.merge(text_runs)
    address = soup.save_pretrained(f"{place}/soup", max_shard_size=SIZE)
    assert address == f"{place}/soup"
    files = files_at(address)
    local = soup.save_pretrained(tmp_path / "local", max_shard_size=SIZE)
    assert set(files) == {path.name for path in local.iterdir()}
    assert {name: files[name] for name in weights_in(local)} == weights_in(local)
    opened = open_checkpoint(address)
    assert not opened.problems
    assert hf_soup.merge([address]).build_model() is not None


def test_a_soup_between_stores_is_verified(stored, place):
    """Runs and soup may both lie on a store."""
    address = hf_soup.merge(stored).save_pretrained(f"{place}/soup", max_shard_size=SIZE)
    assert hf_soup.verify(address).ok
    assert hf_soup.load(address).recipe.names == ("run-0", "run-1", "run-2")
    file_system, root = fsspec.url_to_fs(address)
    file_system.pipe_file(f"{root}/pytorch_model.bin", b"other weights")
    assert "pytorch_model.bin is there too" in hf_soup.verify(address).table()


def test_ingredients_are_not_overwritten(stored, place):
    """A soup may replace neither an ingredient nor a folder that holds one."""
    soup = hf_soup.merge(stored)
    for target in (stored[1], place, f"{place}/"):
        with pytest.raises(OutputError, match="which would be lost"):
            soup.save_pretrained(target, overwrite=True)
    assert len(files_at(place)) > 3
    assert hf_soup.merge(stored).build_model() is not None


def test_names_leave_the_bucket_out(stored, place):
    """Names of runs that lie in different folders say which, without the bucket."""
    names = [item.name for item in hf_soup.merge([stored[0], f"{stored[0]}/"]).checkpoints]
    assert names == ["run-0-1", "run-0-2"] or all("bucket" not in name for name in names)
    assert short_name("s3://bucket/checkpoint-9") == "checkpoint-9"
    assert short_name("s3://bucket/run/checkpoint-9") == "run/checkpoint-9"


def test_folders_made_in_a_console_are_no_files(s3, text_runs):
    """S3 has empty files whose names end in a slash in place of folders."""
    address = put(text_runs[0], f"{s3}/{next(NUMBERS)}")
    import boto3

    client = boto3.client("s3", endpoint_url=os.environ["AWS_ENDPOINT_URL_S3"])
    client.put_object(Bucket="bucket", Key=f"{address.removeprefix('s3://bucket/')}/", Body=b"")
    assert not open_checkpoint(address).problems


def test_an_unfinished_adapter_is_none(tmp_path):
    """The files without which nothing is read come last."""
    names = ["adapter_config.json", "adapter_model.safetensors", "tokenizer.json", "model.safetensors.index.json"]
    ordered = sorted([*names, "config.json"], key=_appears_last)
    assert set(ordered[-2:]) == {"adapter_config.json", "config.json"}
    assert ordered[-3] == "model.safetensors.index.json"


def test_a_full_folder_is_refused_and_can_be_replaced(place, text_runs):
    """Other files are not mixed with those of a soup."""
    target = put(text_runs[0], f"{place}/soup")
    (text_runs[0] / "config.json").read_text()
    soup = hf_soup.merge(text_runs)
    with pytest.raises(OutputError, match="is not empty"):
        soup.save_pretrained(target)
    soup.save_pretrained(target, overwrite=True, max_shard_size=SIZE)
    assert "model.safetensors" not in files_at(target)
    assert MARKER not in files_at(target)


def test_an_interrupted_save_is_no_model_and_is_gone_on_with(place, text_runs, monkeypatch):
    """Until everything is there, nothing can be loaded; the next call uploads what is missing."""
    finished = []

    def failing(self, shard, aside, digested):
        finished.append(shard.file)
        if len(finished) == 3:
            raise OSError("no connection")
        return finish(self, shard, aside, digested)

    monkeypatch.setattr(ShardMaker, "finish", failing)
    target = f"{place}/soup"
    with pytest.raises(SoupError):
        hf_soup.merge(text_runs).save_pretrained(target, max_shard_size=SIZE)
    left = files_at(target)
    assert sum(name.endswith(".safetensors") for name in left) == 2
    with pytest.raises(IngredientError):
        open_checkpoint(target)
    finished.clear()
    monkeypatch.setattr(ShardMaker, "finish", lambda *arguments: finished.append(1) or finish(*arguments))
    hf_soup.merge(text_runs).save_pretrained(target, max_shard_size=SIZE)
    files = files_at(target)
    assert len(finished) == sum(name.endswith(".safetensors") for name in files) - 2
    assert all(files[name] == left[name] for name in left if name.endswith(".safetensors"))
    assert open_checkpoint(target).problems == ()


def test_other_results_are_saved_in_folders(text_runs, tmp_path):
    """Addresses are for soups; everything else says so, and makes no folder of that name."""
    with pytest.raises(OutputError, match="is an address"):
        hf_soup.cook(hf_soup.merge(text_runs).recipe, output_dir="memory://bucket/again")
    with pytest.raises(OutputError, match="push_to_hub writes there"):
        hf_soup.merge(text_runs).save_pretrained("hf://user/soup")
