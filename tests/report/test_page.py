"""The page: what it says of studies of all kinds, and what it never does."""

import dataclasses
import html
import os
import re
import shlex
from html.parser import HTMLParser
from pathlib import Path

import matplotlib.image
import pytest
from absl import flags
from records import config_of, record_of, result_of, trials_of

from jointnas_jax.command_line import parse_config
from jointnas_jax.errors import StorageError
from jointnas_jax.report.page import config_file, is_current, page_of, render, write_report
from jointnas_jax.report.record import StudyRecord


class Reader(HTMLParser):
    """Text of each section by its id, tags, and what is named by attributes."""

    def __init__(self):
        super().__init__()
        self.sections, self.count, self.names = {"": ""}, 0, []
        self._section, self._skip = "", 0

    def handle_starttag(self, tag, attributes):
        self.count += 1
        named = dict(attributes)
        self.names += [(name, value) for name, value in attributes]
        if tag == "section":
            self._section = named["id"]
            self.sections[self._section] = ""
        self._skip += tag == "style"

    def handle_endtag(self, tag):
        self._skip -= tag == "style"

    def handle_data(self, data):
        if not self._skip:
            self.sections[self._section] += " ".join(data.split()) + " "


def read(text):
    reader = Reader()
    reader.text = text
    reader.feed(text)
    return reader


def written(record, folder):
    page, *others = write_report(record, folder)
    reader = read(page.read_text(encoding="utf-8"))
    reader.names_of_files = {path.name for path in others}
    return reader


def without_figures(record):
    """What takes no time."""
    return read(render(record, None, {}, Path("config.py")))


@pytest.fixture(scope="module")
def finished(tmp_path_factory):
    folder = tmp_path_factory.mktemp("report")
    return written(record_of(), folder), folder


def test_the_answer_comes_first(finished):
    reader, _ = finished
    assert (
        " ".join(reader.sections) == " answer network recipe search classes knobs time failed next"
    )
    answer = reader.sections["answer"]
    assert "94.50 % ± 1.00" in answer
    assert "mean of 3 trainings" in answer
    assert "budget 400K" in answer
    assert "is ahead, within the noise, of the default candidate: +1.50" in answer
    assert "best of 8 random candidates" in answer


def test_every_figure_is_in_the_page_and_a_file_of_each_kind(finished):
    reader, folder = finished
    figures = {
        *("accuracy_flops", "history", "predictor", "learning_curves", "importance", "time"),
        *("network_found", "network_default", "confusion0"),
    }
    expected = {f"{name}.{kind}" for name in figures for kind in ("png", "svg")} | {"config.py"}
    assert reader.names_of_files == expected
    assert {path.name for path in folder.iterdir()} == expected | {"index.html"}
    assert reader.text.count("<svg ") == reader.text.count("<figcaption>") == len(figures)
    for name in figures:
        height, width, _ = matplotlib.image.imread(folder / f"{name}.png").shape
        assert width > height > 500


def test_classes_come_hardest_first_with_what_they_are_taken_for(finished):
    text = " ".join(finished[0].sections["classes"].split())
    assert "class accuracy test images 8 90.0 % 10 0 100.0 % 10 " in text
    assert "Most often confused: 8 taken for 1 (10.0 %)." in text
    assert "The hardest class is 8: 90.0 % right." in text


def test_the_page_loads_nothing_and_runs_nothing(finished):
    reader, _ = finished
    assert "<script" not in reader.text
    assert "@import" not in reader.text
    assert re.findall(r"url\((?!#)", reader.text) == []
    loading = {"src", "href", "xlink:href", "action", "data"}
    named = {value for name, value in reader.names if name in loading}
    assert all(value.startswith(("#", "data:")) for value in named)
    assert not [name for name, _ in reader.names if name.startswith("on")]


def test_identifiers_are_unique_and_all_that_are_used_exist(finished):
    reader, _ = finished
    ids = [value for name, value in reader.names if name == "id"]
    assert len(ids) == len(set(ids))
    assert set(re.findall(r'(?:href="|url\()#([^")]*)', reader.text)) <= set(ids)


def test_figures_take_their_colours_and_font_from_the_page(finished):
    svg = "".join(re.findall(r"<svg .*?</svg>", finished[0].text, re.DOTALL))
    assert "var(--ink)" in svg
    assert "var(--accent)" in svg
    assert "DejaVu" not in svg
    assert re.findall(r"#[0-9a-f]{6}\b", svg) == []


def test_the_recipe_stands_beside_the_defaults(finished):
    recipe = finished[0].sections["recipe"]
    assert re.search(r"weight_decay \S+ 0\.0001 ", recipe)
    assert re.search(r"warmup 0\.07 0\.07 ", recipe)
    assert re.search(r"stage2_channels \d+ 24 ", recipe)


def test_commands_are_quoted_and_their_config_is_that_of_the_study(finished, tmp_path):
    reader, folder = finished
    lines = re.findall(r"<dd><code>(.*?)</code>", reader.text)
    plain = [html.unescape(re.sub("</?span>", "", line)) for line in lines]
    commands = [shlex.split(line) for line in plain]
    train, budgets, export, report = (command[1] for command in commands)
    assert train == "scripts/train_candidate.py"
    assert budgets == "scripts/search_budgets.py"
    assert export == "scripts/export.py"
    assert report == "scripts/report.py"
    assert "--candidate=runs/a b/winner0.json" in commands[0]
    assert f"--config={folder / 'config.py'}" in commands[0]
    assert "--workdir=runs/a b" in commands[1]
    again = parse_config(["x", f"--config={folder / 'config.py'}"], "", flags.FlagValues())
    assert again == record_of().config


@pytest.mark.parametrize("mode", ["arch", "recipe"])
def test_one_half_alone_can_be_searched(tmp_path, mode):
    reader = written(record_of(mode), tmp_path)
    recipe, knobs = reader.sections["recipe"], reader.sections["knobs"]
    assert ("Architecture" in recipe) is (mode == "arch")
    assert ("network_default.svg" in reader.names_of_files) is (mode == "arch")
    whole = "100 % of the effect, the recipe's 0 %"
    assert (whole in knobs) is (mode == "arch")


def test_without_random_search_the_page_says_so():
    reader = without_figures(record_of(random=False))
    assert "Random search was not run" in reader.sections["answer"]


def test_an_unfinished_study_shows_the_best_so_far(tmp_path):
    record = record_of(finished=False)
    reader = written(record, tmp_path)
    assert "not finished: 48 trainings" in reader.sections[""]
    assert "best candidate so far" in reader.sections["answer"]
    best = max(t["accuracies"][record.epochs - 1] for t in record.of_stage("coarse"))
    assert f"{100 * best:.2f}" in reader.sections["answer"]
    assert "train_candidate" not in reader.sections["next"]


@pytest.mark.parametrize("stored", [0, 1, 3, 8, 9])
def test_a_study_can_be_shown_from_its_first_trial_on(tmp_path, stored):
    record = record_of(finished=False)
    reader = written(dataclasses.replace(record, trials=record.trials[:stored]), tmp_path)
    assert ("No candidate has been trained" in reader.sections["answer"]) is (stored == 0)
    assert "Nothing can be said before 10" in reader.sections["knobs"]


def test_failed_trials_are_counted_by_reason_and_reasons_are_escaped():
    record = record_of(fails=lambda number: number % 4 == 1)
    evil = '<script>alert("x")</script> & \N{SNOWMAN}' + "x" * 300
    record.failed[0]["reason"] = evil
    reader = without_figures(record)
    failed = reader.sections["failed"]
    assert "6 trainings of 48 failed" in failed
    assert "loss is nan 5 coarse 5 5, 9, 13, 17, 21" in failed
    assert evil in failed  # as text
    assert "<script" not in reader.text


def test_where_everything_failed_there_is_a_page(tmp_path):
    record = record_of(finished=False, random=False, fails=lambda number: True)
    reader = written(record, tmp_path)
    assert "No candidate has been trained" in reader.sections["answer"]
    assert "24 trainings of 24 failed" in reader.sections["failed"]


def test_names_and_values_of_users_are_escaped():
    record = record_of()
    record.result["dataset"]["name"] = "<img src=x onerror=alert(1)>"
    record.result["references"]["random"]["source"] = "</svg><b>best</b>"
    reader = without_figures(dataclasses.replace(record, workdir=Path("runs/<i>&'\"")))
    assert "<img" not in reader.text
    assert "<b>" not in reader.text
    assert "<i>" not in reader.text
    assert "<img src=x onerror=alert(1)>" in reader.sections[""]


def test_a_config_file_survives_every_kind_of_value(tmp_path):
    config = config_of(data=dict(dir='a "b" \\ {c}'), study=dict(seeds=2))
    (tmp_path / "config.py").write_text(config_file(config))
    given = parse_config(["x", f"--config={tmp_path / 'config.py'}"], "", flags.FlagValues())
    assert given == config


def test_a_page_that_is_older_than_the_result_is_not_current(tmp_path):
    page, result = page_of(tmp_path), tmp_path / "result.json"
    result.write_text("")
    assert not is_current(tmp_path)
    page.parent.mkdir()
    page.write_text("")
    os.utime(result, (1000, 1000))
    assert is_current(tmp_path)
    os.utime(page, (999, 999))
    assert not is_current(tmp_path)


@pytest.mark.parametrize("total", [5_000, pytest.param(100_000, marks=pytest.mark.slow)])
def test_very_many_trials_fit_into_a_page(tmp_path, total):
    config = config_of(search=dict(per_round=total // 100))
    trials = trials_of(config, "coarse", total, total // 100, fails=lambda number: number % 10 == 3)
    for trial in trials[3::10]:
        trial["reason"] = f"reason {trial['number']}"
    record = StudyRecord(Path("w"), config, trials, result_of(config, trials, random=False))
    reader = written(record, tmp_path)
    assert reader.count < 4000
    assert len(reader.text) < 2e6
    assert "The last 30 of 100 rounds" in reader.sections["search"]
    assert f"{total // 10:,} trainings of {total:,} failed" in reader.sections["failed"]


def test_what_cannot_be_written_is_named(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(StorageError, match="file"):
        write_report(record_of(), tmp_path / "file" / "report")
