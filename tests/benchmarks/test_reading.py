"""The benchmark of reading: each way reads all images, and is in the report."""

from absl import flags

from benchmarks import reading


def test_it_reports_all_ways_and_their_ratios(tmp_path, capsys):
    root = reading.write_photos(tmp_path / "photos", 40, 16)
    values = flags.FlagValues()
    reading.define_flags(values)
    report = reading.main(["x", f"--images={root}", "--rounds=1", "--workers=2"], values)
    seconds = report["seconds"]
    assert report["images"] == 40
    assert all(value > 0 for value in seconds.values())
    assert report["folder / array_record"] == seconds["folder"] / seconds["array_record"]
    assert "processes / threads" in capsys.readouterr().out
