"""Weights on the Hub that are read by ranges as they are averaged: the same bits, nothing kept, no mixed contents."""

import hashlib
import itertools
import math
import pickle
import shutil
import time
from collections import namedtuple
from dataclasses import replace as replaced
from pathlib import Path

import pytest
from huggingface_hub import HfApi, constants

import hf_soup
from hf_soup import testing
from hf_soup.checkpoints import remote_files
from hf_soup.checkpoints.files import OpenFiles
from hf_soup.checkpoints.remote_files import ByteRange, FileHash, RemoteFiles, windows_of
from hf_soup.checkpoints.source import open_checkpoint
from hf_soup.checkpoints.streaming import stream_weights
from hf_soup.errors import IngredientError, RecipeError, SoupWarning
from hf_soup.formats.recipe_file import load_recipe


NUMBERS = itertools.count()
WINDOW = 8_000  # bytes, so that the tiny models take several requests
SMALL = {"max_shard_size": "20KB"}


@pytest.fixture(autouse=True)
def _small_windows(monkeypatch):
    monkeypatch.setattr(remote_files, "WINDOW", WINDOW)
    monkeypatch.setattr(remote_files, "GAP", 100)


@pytest.fixture
def pushed(text_runs, hub):
    """A function that pushes folders, by default three runs, to repositories that are in no cache yet."""

    def push(folders=text_runs):
        names = []
        for folder in folders:
            names.append(f"{hub.user}/streamed-{next(NUMBERS)}")
            HfApi().create_repo(names[-1])
            HfApi().upload_folder(repo_id=names[-1], folder_path=folder)
        return names

    return push


def ranges_of(hub, since=0):
    """The ranges of weights that were read, without the redirects to them."""
    return [item.range for item in hub.log[since:] if item.origin == "cdn" and item.method == "GET"]


def kept_in_cache(names):
    """The weight files of repositories in the cache."""
    folders = [f"models--{name.replace('/', '--')}" for name in names]
    return [path for folder in folders for path in (Path(constants.HF_HUB_CACHE) / folder).rglob("*.safetensors")]


def weights_in(folder):
    """The weight files of a folder."""
    return {path.name: path.read_bytes() for path in sorted(folder.glob("*.safetensors"))}


@pytest.mark.filterwarnings("ignore::hf_soup.errors.SoupWarning")
class TestSoups:
    """Soups of streamed weights are those of downloaded ones."""

    METHODS = ({}, {"weights": [2, 1, 0]}, {"method": "slerp", "n": 2}, {"method": "karcher"}, {"dtype": "bfloat16"})

    @pytest.mark.parametrize("options", METHODS, ids=str)
    def test_has_the_bits_of_downloaded_weights(self, options, pushed, text_runs, tmp_path):
        """The files of a soup of streamed weights are those of a local one, and no weights are in the cache."""
        options = dict(options)
        n = options.pop("n", 3)
        names = pushed(text_runs[:n])
        streamed = hf_soup.merge(names, stream=True, **options).save_pretrained(tmp_path / "streamed", **SMALL)
        local = hf_soup.merge(text_runs[:n], **options).save_pretrained(tmp_path / "local", **SMALL)
        assert weights_in(streamed) == weights_in(local)
        assert len(weights_in(streamed)) > 1
        assert not kept_in_cache(names)
        assert hf_soup.load(streamed, stream=True).build_model() is not None
        assert hf_soup.verify(streamed, stream=True).ok
        assert not kept_in_cache(names)

    def test_a_base_model_is_streamed_too(self, pushed, text_runs, tmp_path):
        """A method on changes streams the base model as well."""
        names = pushed()
        options = {"method": "ties", "density": 0.5}
        streamed = hf_soup.merge(names[:2], base_model=names[2], stream=True, **options)
        local = hf_soup.merge(text_runs[:2], base_model=text_runs[2], **options)
        folders = [soup.save_pretrained(tmp_path / str(index)) for index, soup in enumerate((streamed, local))]
        assert weights_in(folders[0]) == weights_in(folders[1])
        assert not kept_in_cache(names)
        assert hf_soup.verify(folders[0]).ok

    def test_every_byte_is_requested_once(self, pushed, hub, tmp_path):
        """Requests cover each file once, and are as large as they may be."""
        names = pushed()
        soup = hf_soup.merge(names, stream=True)
        soup.warn_of_doubts()  # reads the heads
        before = len(hub.log)
        soup.save_pretrained(tmp_path / "soup")
        size = sum(soup.checkpoints[0].remote.sizes.values())
        bounds = [tuple(map(int, text.removeprefix("bytes=").split("-"))) for text in ranges_of(hub, before)]
        assert sum(stop - start + 1 for start, stop in bounds) == 3 * size
        assert max(stop - start + 1 for start, stop in bounds) <= WINDOW
        assert len(bounds) == 3 * math.ceil(size / WINDOW)

    def test_the_hub_is_asked_once_for_the_address_of_a_file(self, pushed, hub, tmp_path):
        """Redirects are remembered, and storage servers get no token."""
        soup = hf_soup.merge(pushed(), stream=True)
        before = len(hub.log)
        soup.save_pretrained(tmp_path / "soup")
        redirects = [item.path for item in hub.log[before:] if item.status == 302]
        assert len(redirects) >= 3
        assert len(redirects) <= 3 * remote_files.IN_FLIGHT  # the first requests come together
        assert not [item for item in hub.log[before:] if item.origin == "cdn" and item.authorization]

    def test_weights_in_the_cache_are_read_there(self, pushed, hub, tmp_path):
        """What was downloaded before is not requested again."""
        names = pushed()
        hf_soup.merge(names).save_pretrained(tmp_path / "first")
        before = len(hub.log)
        hf_soup.merge(names, stream=True).save_pretrained(tmp_path / "second")
        assert set(ranges_of(hub, before)) == {"bytes=0-99999"}  # the headers

    def test_adapters_stream_their_base_model(self, pushed, hub, tmp_path, text_runs):
        """A soup of adapters reads their base model by ranges."""
        import peft
        import torch
        import transformers

        (base,) = pushed(text_runs[:1])
        folders = []
        for seed in range(2):
            model = transformers.AutoModelForSequenceClassification.from_pretrained(text_runs[0])
            torch.manual_seed(seed)
            settings = peft.LoraConfig(r=2, task_type="SEQ_CLS", target_modules=["query", "value"])
            adapted = peft.get_peft_model(model, settings)
            for name, parameter in adapted.named_parameters():
                if "lora" in name:
                    torch.nn.init.normal_(parameter, std=0.02)
            adapted.peft_config["default"].base_model_name_or_path = base
            folders.append(tmp_path / f"adapter-{seed}")
            adapted.save_pretrained(folders[-1])
        streamed = hf_soup.merge(folders, stream=True).save_pretrained(tmp_path / "streamed", merged=True)
        assert not kept_in_cache([base])
        downloaded = hf_soup.merge(folders, stream=False).save_pretrained(tmp_path / "downloaded", merged=True)
        assert weights_in(streamed) == weights_in(downloaded)

    def test_a_strategy_reads_them_for_each_trial(self, pushed, text_runs):
        """A greedy soup of streamed weights has the scores of a local one."""
        names = pushed()
        data = testing.tiny_texts(24)
        streamed = hf_soup.merge(names, strategy="greedy", evaluator=data, stream=True)
        local = hf_soup.merge(text_runs, strategy="greedy", evaluator=data)
        assert [score.value for score in streamed.scores.values()] == [score.value for score in local.scores.values()]
        assert not kept_in_cache(names)

    def test_an_ingredient_alone_is_read_by_tensor(self, pushed, text_runs):
        """Reading a single tensor requests it alone."""
        names = pushed()
        (item,) = stream_weights([open_checkpoint(names[0])], True)
        local = open_checkpoint(text_runs[0])
        for name in item.specs:
            assert item.read(name).equal(local.read(name)), name

    def test_another_process_can_read_on(self, pushed, text_runs):
        """Ray sends checkpoints to its workers."""
        (item,) = stream_weights([open_checkpoint(pushed(text_runs[:1])[0])], True)
        copy = pickle.loads(pickle.dumps(item))
        name = next(iter(item.specs))
        assert copy.read(name).equal(item.read(name))


@pytest.mark.filterwarnings("ignore::hf_soup.errors.SoupWarning")
class TestIntegrity:
    """What was read is what the Hub announced, and the recipe says how that is known."""

    def test_a_file_that_is_read_whole_is_hashed_on_the_way(self, pushed, tmp_path):
        """The sha256 of a file is verified although it is read for several shards in turn."""
        soup = hf_soup.merge(pushed(), stream=True)
        recipe = load_recipe(soup.save_pretrained(tmp_path / "soup", **SMALL))
        assert all(item.remote.verified == {"model.safetensors"} for item in soup.checkpoints)
        assert not any(item.tensors for item in recipe.ingredients)

    def test_a_file_that_is_read_in_parts_has_digests_of_its_tensors(self, pushed, tmp_path):
        """The recipe records digests of tensors where the sha256 was not computed, and they are compared later."""
        names = pushed()
        soup = hf_soup.merge(names, weights={"": [1, 1, 1], "bert.encoder.layer.0": [1, 1, 0]}, stream=True)
        folder = soup.save_pretrained(tmp_path / "soup")
        recipe = load_recipe(folder)
        assert [bool(item.tensors) for item in recipe.ingredients] == [False, False, True]
        (digest,) = recipe.ingredients[2].tensors.values()
        assert digest.startswith("xxh3-128/")
        assert recipe.ingredients[2].files["model.safetensors"].startswith("sha256:")
        assert hf_soup.verify(folder, stream=True).ok
        assert hf_soup.verify(folder, stream=False).ok
        other = digest[:-4] + ("0000" if digest[-4:] != "0000" else "1111")
        text = (folder / "soup_recipe.yaml").read_text()
        (folder / "soup_recipe.yaml").write_text(text.replace(digest, other))
        for stream in (True, False):
            assert "are not those that the recipe was made from" in hf_soup.verify(folder, stream=stream).table()

    def test_how_it_was_read_does_not_change_the_fingerprint(self, pushed):
        """Digests of streamed tensors do not decide the bytes of a soup."""
        recipe = hf_soup.merge(pushed(), stream=True).recipe
        items = [replaced(item, tensors={"model.safetensors": "xxh3-128:0"}) for item in recipe.ingredients]
        assert replaced(recipe, ingredients=tuple(items)).fingerprint() == recipe.fingerprint()

    def test_a_changed_byte_is_noticed(self, pushed, faulty, tmp_path):
        """A file with another byte than announced is an error, and leaves no soup."""
        soup = hf_soup.merge(pushed(), stream=True)
        soup.warn_of_doubts()
        faulty.faults.add("download", "corrupt", match="model.safetensors")
        with pytest.raises(IngredientError, match="came with other contents than the Hub announced"):
            soup.save_pretrained(tmp_path / "soup")
        assert not (tmp_path / "soup").exists()
        assert hf_soup.verify(soup.save_pretrained(tmp_path / "soup")).ok

    def test_shards_from_a_changed_file_are_not_taken(self, pushed, faulty, text_runs, tmp_path):
        """A byte that was wrong in the first of several shards is known after the last; the next call begins anew."""
        soup = hf_soup.merge(pushed(), stream=True)
        soup.warn_of_doubts()
        faulty.faults.add("download", "corrupt", match="model.safetensors")
        with pytest.raises(IngredientError, match="came with other contents"):
            soup.save_pretrained(tmp_path / "soup", **SMALL)
        again = soup.save_pretrained(tmp_path / "soup", **SMALL)
        local = hf_soup.merge(text_runs).save_pretrained(tmp_path / "local", **SMALL)
        assert weights_in(again) == weights_in(local)
        assert not any(item.tensors for item in load_recipe(again).ingredients)

    @pytest.mark.parametrize(
        ("header", "value", "message"),
        [
            ("X-Linked-Etag", '"' + "0" * 64 + '"', "has changed: its ETag"),
            ("X-Repo-Commit", "1" * 40, "came from 1111"),
        ],
    )
    def test_an_answer_about_another_content_is_refused(self, header, value, message, pushed, hub, tmp_path):
        """Each answer of the Hub has to be about the pinned commit and digest."""
        soup = hf_soup.merge(pushed(), stream=True)

        def lie(request, reply):
            if reply.status != 302:
                return reply
            return replaced(reply, headers={**reply.headers, header: value})

        with hub.lying(lie), pytest.raises(IngredientError, match=message):
            soup.save_pretrained(tmp_path / "soup")

    def test_a_file_that_is_replaced_on_the_storage_is_refused(self, pushed, tmp_path):
        """The ETag of a storage server may not change between two requests."""
        soup = hf_soup.merge(pushed(), stream=True)
        soup.warn_of_doubts()  # reads the heads
        etags = soup.checkpoints[0].remote._fetch._etags
        assert etags
        etags.update(dict.fromkeys(etags, '"another"'))
        with pytest.raises(IngredientError, match=r"has changed on 127\.0\.0\.1 while it was read"):
            soup.save_pretrained(tmp_path / "soup")

    def test_a_repository_with_a_new_name_is_found(self, pushed, text_runs):
        """The Hub redirects the old name, and the answers are about the same commit."""
        (name,) = pushed(text_runs[:1])
        (item,) = stream_weights([open_checkpoint(name)], True)
        HfApi().move_repo(from_id=name, to_id=f"{name}-moved")
        tensor = next(iter(item.specs))
        assert item.read(tensor).equal(open_checkpoint(text_runs[0]).read(tensor))

    def test_a_newer_commit_changes_nothing(self, pushed, text_runs, tmp_path):
        """Bytes come from the commit that was pinned when the soup was made."""
        names = pushed()
        soup = hf_soup.merge(names, stream=True)
        HfApi().upload_file(
            path_or_fileobj=str(text_runs[1] / "model.safetensors"),
            path_in_repo="model.safetensors",
            repo_id=names[0],
        )
        streamed = soup.save_pretrained(tmp_path / "streamed")
        local = hf_soup.merge(text_runs).save_pretrained(tmp_path / "local")
        assert weights_in(streamed) == weights_in(local)


@pytest.mark.filterwarnings("ignore::hf_soup.errors.SoupWarning")
class TestFaults:
    """Lost connections and busy servers."""

    FAULTS = (("drop", {}), ("cut", {}), (503, {}), (429, {"retry_after": 1}), ("lost", {}))

    @pytest.mark.parametrize(("kind", "how"), FAULTS)
    def test_reading_goes_on_after_a_fault(self, kind, how, pushed, text_runs, faulty, tmp_path, waits):
        """Lost connections and busy servers do not change the bits."""
        soup = hf_soup.merge(pushed(), stream=True)
        soup.warn_of_doubts()
        faulty.faults.add("download", kind, times=3, match="model.safetensors", **how)
        streamed = soup.save_pretrained(tmp_path / "streamed")
        assert len(faulty.faults.hits) == 3
        local = hf_soup.merge(text_runs).save_pretrained(tmp_path / "local")
        assert weights_in(streamed) == weights_in(local)

    def test_a_cut_answer_is_continued_and_not_repeated(self, pushed, faulty, tmp_path, waits):
        """After half an answer only the other half is requested."""
        soup = hf_soup.merge(pushed(), stream=True)
        soup.warn_of_doubts()
        before = len(faulty.log)
        faulty.faults.add("download", "cut", match="model.safetensors")
        soup.save_pretrained(tmp_path / "soup")
        size = sum(soup.checkpoints[0].remote.sizes.values())
        sent = sum(item.sent for item in faulty.log[before:] if item.origin == "cdn")
        assert sent == 3 * size

    def test_an_expired_address_is_looked_up_again(self, pushed, hub, text_runs):
        """Where a remembered address does not work any more, the Hub is asked again."""
        (item,) = stream_weights([open_checkpoint(pushed(text_runs[:1])[0])], True)
        name = next(iter(item.specs))
        expected = item.read(name)
        redirects = item.remote._fetch._redirects
        (file,) = redirects
        redirects[file] = redirects[file]._replace(url=f"{hub.cdn_url}/{'0' * 64}")
        assert item.read(name).equal(expected)

    def test_a_fault_that_stays_is_an_error_and_leaves_nothing(self, pushed, faulty, tmp_path, waits):
        """A Hub that stays busy is an error with advice."""
        soup = hf_soup.merge(pushed(), stream=True)
        soup.warn_of_doubts()
        faulty.faults.add("download", 503, times=math.inf, match="model.safetensors")
        with pytest.raises(IngredientError, match="The Hub is busy"):
            soup.save_pretrained(tmp_path / "soup")
        assert not (tmp_path / "soup").exists()

    def test_a_server_without_ranges_is_refused(self, pushed, hub, text_runs, monkeypatch):
        """A server that sends whole files would send them for each request."""
        from hub import wire

        (item,) = stream_weights([open_checkpoint(pushed(text_runs[:1])[0])], True)
        monkeypatch.setattr(wire, "content_reply", lambda request, content, headers: wire.Reply(200, content, headers))
        monkeypatch.setattr("hub.cdn.content_reply", wire.content_reply)
        with pytest.raises(IngredientError, match="does not send parts of files"):
            item.read(next(iter(item.specs)))


class TestChoice:
    """When weights are streamed."""

    Usage = namedtuple("Usage", "total used free")

    def test_by_itself_where_the_disk_is_too_small(self, pushed, monkeypatch):
        """Weights are streamed where a download does not fit, which a warning says."""
        names = pushed()
        assert not any(item.is_streamed for item in hf_soup.merge(names).checkpoints)
        monkeypatch.setattr(shutil, "disk_usage", lambda place: self.Usage(0, 0, 1000))
        with pytest.warns(SoupWarning, match="are streamed and not kept. With stream=False they are downloaded"):
            soup = hf_soup.merge(names)
        assert all(item.is_streamed for item in soup.checkpoints)
        assert not any(item.is_streamed for item in hf_soup.merge(names, stream=False).checkpoints)

    def test_folders_and_models_are_not_streamed(self, text_runs):
        """Local weights are read as always."""
        assert not any(item.is_streamed for item in hf_soup.merge(text_runs, stream=True).checkpoints)

    def test_rows_of_a_common_vocabulary_cannot_be_streamed(self, pushed):
        """Reading single rows would take a request each."""
        with pytest.raises(RecipeError, match="cannot be streamed"):
            hf_soup.merge(pushed(), vocabulary="union", stream=True)

    def test_another_value_is_refused(self, text_runs):
        """`stream` is a boolean or None."""
        with pytest.raises(RecipeError, match="stream is True, False or None"):
            hf_soup.merge(text_runs, stream="yes")


class TestWindows:
    """Ranges become requests."""

    SIZE = 1000

    def hashes(self, **positions):
        """Digests of files that have been hashed up to some positions."""
        digest = "sha256:" + hashlib.sha256(b"x").hexdigest()
        made = {}
        for file, position in positions.items():
            made[file] = FileHash(self.SIZE, digest)
            made[file].position = position
        return made

    def bounds(self, ranges, size=300, **positions):
        """The requests for ranges, and the digests of the files."""
        hashes = self.hashes(**(positions or {"a": 0, "b": 0}))
        windows = windows_of([ByteRange(*item) for item in ranges], hashes, size)
        return [(window.file, window.start, window.stop, window.unread) for window in windows], hashes

    def test_neighbours_share_a_request(self):
        """Adjacent ranges are requested together, up to the size of a request."""
        windows, hashes = self.bounds([("a", 0, 100), ("a", 100, 250), ("a", 250, 400)])
        assert windows == [("a", 0, 300, 300), ("a", 300, 400, 100)]
        assert hashes["a"].is_followed

    def test_a_large_range_takes_several(self):
        """A large tensor is requested in parts."""
        windows, _ = self.bounds([("a", 0, 1000)])
        assert windows == [("a", 0, 300, 300), ("a", 300, 600, 300), ("a", 600, 900, 300), ("a", 900, 1000, 100)]

    def test_a_small_gap_is_read_over(self):
        """A header, or a small tensor that is not used, is read with its neighbours."""
        windows, hashes = self.bounds([("a", 50, 100), ("a", 150, 200)])
        assert windows == [("a", 0, 200, 100)]
        assert hashes["a"].is_followed

    def test_a_large_gap_is_not(self):
        """A large tensor that is not used is not read, so that the file cannot be hashed."""
        windows, hashes = self.bounds([("a", 0, 100), ("a", 500, 600)])
        assert windows == [("a", 0, 100, 100), ("a", 500, 600, 100)]
        assert not hashes["a"].is_followed

    def test_files_in_turn_have_requests_of_their_own(self):
        """Reading two files in turn does not split their requests."""
        windows, hashes = self.bounds([("a", 0, 100), ("b", 0, 100), ("a", 100, 200), ("b", 100, 200)])
        assert windows == [("a", 0, 200, 200), ("b", 0, 200, 200)]
        assert hashes["a"].is_followed
        assert hashes["b"].is_followed

    def test_bytes_that_are_read_twice_are_kept_for_both(self):
        """Bytes that are wanted several times count as often."""
        windows, _ = self.bounds([("a", 0, 100), ("a", 0, 100), ("a", 20, 60)])
        assert windows == [("a", 0, 100, 240)]

    def test_ranges_that_come_again_later_are_kept(self):
        """Several adapters read the same tensors of their base model, in turn with others."""
        ranges = [("a", 0, 100), ("b", 0, 100), ("a", 100, 500), ("a", 0, 100), ("b", 0, 100), ("a", 100, 500)]
        windows, hashes = self.bounds(ranges)
        assert windows == [("a", 0, 300, 600), ("b", 0, 100, 200), ("a", 300, 500, 400)]
        assert hashes["a"].is_followed

    def test_another_order_is_not_hashed(self):
        """A file that is not read from its beginning to its end has no digest."""
        windows, hashes = self.bounds([("a", 500, 600), ("a", 0, 100)])
        assert windows == [("a", 500, 600, 100), ("a", 0, 100, 100)]
        windows, hashes = self.bounds([("a", 200, 250), ("a", 0, 100)])
        assert windows == [("a", 0, 250, 50 + 100)]
        windows, hashes = self.bounds([("a", 0, 100), ("a", 300, 400), ("a", 100, 300)])
        assert not hashes["a"].is_followed

    def test_a_file_is_hashed_on_from_where_it_was_read_to(self):
        """Hashing goes on where the last block of reads ended."""
        windows, hashes = self.bounds([("a", 400, 500)], a=400)
        assert windows == [("a", 400, 500, 100)]
        assert hashes["a"].is_followed

    def test_empty_ranges_need_no_request(self):
        """Empty tensors are not requested."""
        assert self.bounds([("a", 0, 0), ("a", 10, 10)])[0] == []


class TestReadAhead:
    """Requests in advance, for reads in any order."""

    CONTENT = bytes(range(256)) * 40
    SIZE = len(CONTENT)

    def remote(self, requests):
        """Files on a server that notes the requests."""

        def fetch(wanted, into):
            requests.append(tuple(wanted))
            into[:] = self.CONTENT[wanted.start : wanted.stop]

        digest = "sha256:" + hashlib.sha256(self.CONTENT).hexdigest()
        return RemoteFiles("run", {"file": self.SIZE}, {"file": digest}, fetch)

    def read(self, remote, start, stop):
        """Read a range, and compare its bytes."""
        into = bytearray(stop - start)
        remote.read(ByteRange("file", start, stop), memoryview(into))
        assert bytes(into) == self.CONTENT[start:stop]

    def pieces(self, size=1000):
        """Consecutive ranges of the file."""
        return [(start, min(start + size, self.SIZE)) for start in range(0, self.SIZE, size)]

    @pytest.mark.parametrize("order", ["forwards", "backwards", "shuffled", "twice"])
    def test_gives_the_bytes_in_any_order(self, order, monkeypatch):
        """Reads give the right bytes in any order, also twice."""
        monkeypatch.setattr(remote_files, "WINDOW", 1500)
        pieces = self.pieces()
        reads = {
            "forwards": pieces,
            "backwards": pieces[::-1],
            "shuffled": pieces[1::2] + pieces[::2],
            "twice": pieces + pieces,
        }[order]
        remote = self.remote([])
        with remote.reading_ahead([ByteRange("file", *piece) for piece in pieces], 1):
            for piece in reads:
                self.read(remote, *piece)
        assert remote.verified == {"file"}

    def test_holds_few_windows(self, monkeypatch):
        """The next request is made when an earlier one has been used."""
        monkeypatch.setattr(remote_files, "WINDOW", 1000)
        requests = []
        remote = self.remote(requests)
        pieces = self.pieces()
        with remote.reading_ahead([ByteRange("file", *piece) for piece in pieces], 1):
            time.sleep(0.2)
            assert len(requests) == remote_files.IN_FLIGHT + 1
            self.read(remote, *pieces[0])
            time.sleep(0.2)
            assert len(requests) == remote_files.IN_FLIGHT + 2

    def test_what_was_not_announced_is_read_alone(self):
        """Other ranges, and ranges that are announced in part, can be read too."""
        requests = []
        remote = self.remote(requests)
        with remote.reading_ahead([ByteRange("file", 0, 1000)], 1):
            self.read(remote, 5000, 5100)
            self.read(remote, 900, 1100)
        assert ("file", 5000, 5100) in requests
        assert ("file", 1000, 1100) in requests
        assert not remote.verified

    def test_an_error_reaches_the_reader(self):
        """An error of a request is raised where its bytes are read."""

        def fetch(wanted, into):
            raise IngredientError("gone")

        remote = RemoteFiles("run", {"file": 100}, {"file": "sha256:0"}, fetch)
        with pytest.raises(IngredientError, match="gone"), remote.reading_ahead([ByteRange("file", 0, 100)], 1):
            self.read(remote, 0, 100)

    def test_a_file_is_hashed_over_several_blocks(self):
        """A file that is read in two blocks is verified, until it is read anew."""
        remote = self.remote([])
        half = self.SIZE // 2
        for part in ((0, half), (half, self.SIZE)):
            with remote.reading_ahead([ByteRange("file", *part)], 1):
                self.read(remote, *part)
        assert remote.verified == {"file"}
        remote.begin()
        assert not remote.verified


def test_windows_that_cannot_be_hashed_are_not_kept():
    """A file of which something is not read is given up after a while."""
    hashed = FileHash(10**9, "sha256:0")
    for number in range(1, remote_files.MOST_WAITING + 2):
        hashed.add(number * 10, memoryview(bytes(10)))
    assert not hashed.is_followed
    assert not hashed._waiting


def test_small_files_are_hashed_as_git_does():
    """Files that are no LFS files have the sha1 of git."""
    content = b"content"
    digest = hashlib.sha1(b"blob 7\0" + content).hexdigest()
    hashed = FileHash(7, f"sha1:{digest}")
    hashed.add(0, memoryview(content))
    assert hashed.is_whole
    assert hashed.is_right


def test_ranges_of_local_files_are_none(text_runs):
    """Local checkpoints announce nothing."""
    item = open_checkpoint(text_runs[0])
    assert not [found for name in item.specs for found in item.byte_ranges(name)]
    with OpenFiles() as files:
        spec = next(iter(item.specs.values()))
        item.read_into(files, spec.name, 0, memoryview(bytearray(spec.nbytes)))
