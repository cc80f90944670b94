"""What a streamed merge will take, compared with what it takes."""

import json

import pytest
from click.testing import CliRunner

import hf_soup
from hf_soup.checkpoints.output_layout import lay_out
from hf_soup.cli.commands import main
from hf_soup.merging.costs import _duration_of, costs_of


pytestmark = pytest.mark.filterwarnings("ignore::hf_soup.errors.SoupWarning")
SIZE = "20KB"


def costs(soup, **options):
    """The costs of a soup in small files."""
    return costs_of(soup.plan, soup.checkpoints, lay_out(soup.plan.specs, SIZE), **options)


@pytest.mark.parametrize("options", [{}, {"weights": [1, 0, 1]}, {"method": "ties", "base_model": 2}], ids=str)
def test_bytes_are_those_that_are_requested(options, hub, hub_runs, tmp_path):
    """What is read is what the Hub sends, up to headers and small gaps; what is sent are the files of the soup."""
    options, runs = dict(options), list(hub_runs)
    if "base_model" in options:
        options["base_model"] = runs.pop(options["base_model"])
    soup = hf_soup.merge(runs, stream=True, **options)
    told = costs(soup)
    soup.warn_of_doubts()
    before = len(hub.log)
    folder = soup.save_pretrained(tmp_path / "soup", max_shard_size=SIZE)
    sent = sum(item.sent for item in hub.log[before:] if item.origin == "cdn")
    files = sorted(folder.glob("*.safetensors"))
    assert told.read <= sent <= 1.6 * told.read  # the models are so small that gaps are read over
    assert told.read == sum(len(step.inputs) * step.spec.nbytes for step in soup.plan.steps) + (
        sum(step.spec.nbytes for step in soup.plan.steps if step.base)
    )
    assert told.sent == sum(path.stat().st_size for path in files)
    assert told.shards == len(files)
    assert told.disk == sum(sorted(path.stat().st_size for path in files)[-2:])
    assert told.read_locally == 0


def test_local_ingredients_are_read_from_disks(text_runs):
    """Folders cost no bandwidth."""
    told = costs(hf_soup.merge(text_runs))
    assert told.read == 0
    assert told.read_locally == 3 * sum(spec.nbytes for spec in hf_soup.merge(text_runs).plan.specs)
    assert told.seconds is None


@pytest.mark.parametrize("processes", [1, 2, 3, 7])
def test_processes_share_the_time(processes, hub_runs):
    """More processes take less time, at most by their number."""
    soup = hf_soup.merge(hub_runs, stream=True)
    one, several = (costs(soup, processes=count, bandwidth=1000).seconds for count in (1, processes))
    assert one / processes <= several <= one
    assert costs(soup, bandwidth=2000).seconds == pytest.approx(one / 2)


def test_a_shard_is_sent_while_the_next_is_read():
    """The durations of a pipeline in closed form."""
    assert _duration_of([], 1) == 0
    assert _duration_of([(6, 2)], 2) == 4
    assert _duration_of([(6, 2)] * 3, 1) == 6 * 3 + 2  # reading is the limit
    assert _duration_of([(2, 6)] * 3, 1) == 2 + 6 * 3  # sending is the limit


def test_the_command_takes_ingredients_and_recipes(text_runs, tmp_path):
    """`hf-soup plan` shows tables for people, and JSON."""
    folder = hf_soup.merge(text_runs).save_pretrained(tmp_path / "soup")
    runs = [str(run) for run in text_runs]
    for sources in ([str(folder)], runs):
        shown = CliRunner().invoke(main, ["plan", *sources, "--stream", "--bandwidth", "1MB", "--processes", "2"])
        assert shown.exit_code == 0, shown.output
        assert "read from disks" in shown.output
        assert "2 processes share out the files" in shown.output
        assert "if the bandwidth is the limit" in shown.output
    told = json.loads(CliRunner().invoke(main, ["plan", *runs, "--stream", "--max-shard-size", SIZE, "--json"]).stdout)
    assert told["shards"] > 1
    assert told["seconds"] is None
    assert "module" in CliRunner().invoke(main, ["plan", *runs]).output


def test_a_wrong_bandwidth_is_told(text_runs):
    """The option is named in the error."""
    shown = CliRunner().invoke(main, ["plan", *map(str, text_runs), "--stream", "--bandwidth", "fast"])
    assert shown.exit_code == 1
    assert "--bandwidth fast is not a number of bytes" in shown.output
