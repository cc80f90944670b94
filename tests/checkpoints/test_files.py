"""Tests of file handles shared by threads, of work in pieces, and of digests of pieces in any order."""

import os
import sys
import threading

import numpy as np
import pytest
import torch
import xxhash

from hf_soup.checkpoints import files as files_module
from hf_soup.checkpoints.digest import Digests, bytes_of, float64_of, tensor_digest, tensor_of
from hf_soup.checkpoints.files import OpenFiles
from hf_soup.checkpoints.pieces import PIECE, check_device, in_threads, piece_starts
from hf_soup.errors import RecipeError


def test_reading_and_writing_at_places(tmp_path):
    """Parts of a file are written and read at any position, and reading beyond its end returns False."""
    path = tmp_path / "file"
    path.write_bytes(bytes(10))
    with OpenFiles("r+b") as files:
        files.write(str(path), 6, memoryview(b"xyz"))
        files.write(str(path), 0, memoryview(b"ab"))
    assert path.read_bytes() == b"ab\0\0\0\0xyz\0"
    into = bytearray(3)
    with OpenFiles() as files:
        assert files.read(str(path), 6, memoryview(into))
        assert into == b"xyz"
        assert not files.read(str(path), 9, memoryview(into))


def test_more_files_than_handles(tmp_path, monkeypatch):
    """Threads that read more files than may be open at once still read the right ones."""
    monkeypatch.setattr(files_module, "HANDLES", 3)
    paths = [tmp_path / str(index) for index in range(40)]
    for index, path in enumerate(paths):
        path.write_bytes(bytes([index]) * 1000)
    wrong = []

    def read(files, order):
        for index in order * 20:
            into = bytearray(1000)
            files.read(str(paths[index]), 0, memoryview(into))
            if into != bytes([index]) * 1000:
                wrong.append(index)

    with OpenFiles() as files:
        orders = (list(range(40)), list(range(40))[::-1], [*range(1, 40, 2), *range(0, 40, 2)])
        threads = [threading.Thread(target=read, args=(files, order)) for order in orders]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
    assert wrong == []


def test_threads_do_everything_once():
    """Each item is processed once, without gradients, and torch's number of threads is restored."""
    before, done, lock = torch.get_num_threads(), [], threading.Lock()

    def make_worker():
        def work(item):
            assert not torch.is_grad_enabled()
            assert torch.get_num_threads() == 1
            with lock:
                done.append(item)

        return work

    torch.set_num_threads(4)
    try:
        in_threads(range(1000), make_worker)
        assert sorted(done) == list(range(1000))
        seen = []
        for look in (threading.Thread(target=lambda: seen.append(torch.get_num_threads())) for _ in "ab"):
            look.start()  # a new thread takes the process-wide number
            look.join()
        assert [torch.get_num_threads(), *seen] == [4, 4, 4]
    finally:
        torch.set_num_threads(before)


def test_an_error_in_a_thread_stops_the_others():
    """The first error in a thread is raised, and remaining items are not started."""
    done = []

    def make_worker():
        def work(item):
            if item == 10:
                raise ZeroDivisionError
            done.append(item)

        return work

    with pytest.raises(ZeroDivisionError):
        in_threads(range(10**6), make_worker)
    assert len(done) < 10**5


def test_threads_without_torch_are_as_many(monkeypatch):
    """As many threads as torch would take, or as `OMP_NUM_THREADS` says; gradients are not switched off for it."""
    monkeypatch.setitem(sys.modules, "torch", None)
    monkeypatch.delitem(sys.modules, "torch")  # as if it had not been imported
    for given, expected in (("3", 3), ("20", 8), ("no number", min(len(os.sched_getaffinity(0)), 8))):
        monkeypatch.setenv("OMP_NUM_THREADS", given)
        workers, done = [], set()

        def make_worker(workers=workers, done=done):
            workers.append(threading.get_ident())
            return done.add

        in_threads(range(100), make_worker, with_torch=False)
        assert len(workers) == expected
        assert done == set(range(100))


@pytest.mark.parametrize("dtype", ["float64", "float32", "float16", "bfloat16", "float8_e4m3fn", "int64", "uint8"])
def test_numbers_are_those_of_torch(dtype):
    """Bytes of every type become the same float64, also infinities, denormals and negative zeros."""
    tensor = torch.tensor([0.0, -0.0, 1.5, -2.0, 3e-8, 448.0, 0.1]).to(getattr(torch, dtype))
    data = memoryview(bytearray(bytes_of(tensor)))
    np.testing.assert_array_equal(float64_of(data, dtype), tensor.double().numpy())
    assert tensor_of(data, dtype).view(torch.uint8).tolist() == tensor.view(torch.uint8).tolist()
    assert len(float64_of(memoryview(bytearray()), dtype)) == len(tensor_of(memoryview(bytearray()), dtype)) == 0


def test_a_device_that_is_not_there():
    """An unavailable device raises a RecipeError."""
    check_device("cpu")
    with pytest.raises(RecipeError, match="device='nowhere'"):
        check_device("nowhere")


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float8_e4m3fn, torch.int64, torch.bool])
@pytest.mark.parametrize("numel", [0, 1, PIECE, 2 * PIECE + 5])
def test_a_digest_of_pieces_is_that_of_the_tensor(numel, dtype):
    """Digests of pieces in any order equal the digest of the tensor, which for a single piece is plain xxh3-128."""
    tensor = torch.randn(numel).to(dtype)
    digests = Digests()
    digests.expect("x", numel)
    for start in reversed(piece_starts(numel)):
        digests.add("x", start, bytes_of(tensor[start : start + PIECE]), dtype.itemsize)
    assert digests.result() == {"x": tensor_digest(tensor)}
    if numel <= PIECE:
        assert tensor_digest(tensor) == xxhash.xxh3_128_hexdigest(bytes(bytes_of(tensor)))
    whole = Digests()
    whole.expect("x", numel)
    whole.add("x", 0, bytes_of(tensor), dtype.itemsize)
    assert whole.result() == digests.result()


def test_digests_tell_pieces_apart():
    """Exchanging two pieces changes the digest."""
    tensor = torch.randn(2 * PIECE)
    assert tensor_digest(tensor) != tensor_digest(torch.cat([tensor[PIECE:], tensor[:PIECE]]))
