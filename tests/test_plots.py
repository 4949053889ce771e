"""The plots: what is drawn, and that explosions neither rule nor vanish."""

import warnings
from collections.abc import Iterator

import jax
import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
import pytest

from alberta_nb.loops.supervised import StepSizeHistory
from alberta_nb.plots import (
    label_settings,
    median_and_band,
    plot_intervals,
    plot_learning_curves,
    plot_profiles,
    plot_sensitivity,
    plot_step_sizes,
    plot_sweep,
)

VALUES = np.random.default_rng(0).gamma(2.0, size=(20, 50))


@pytest.fixture(autouse=True)
def closed() -> Iterator[None]:
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        yield
    plt.close("all")


def history(*shape: int) -> StepSizeHistory:
    sizes = jax.numpy.asarray(np.random.default_rng(1).uniform(0.01, 0.1, shape))
    return StepSizeHistory(step_sizes=sizes, bias_step_sizes=None, recording_indices=10 * np.arange(shape[-2]))


def test_median_and_band_are_percentiles() -> None:
    for seeds in (1, 2, 7, 20):
        found = median_and_band(VALUES[:seeds], (5, 95))
        np.testing.assert_allclose(found, np.percentile(VALUES[:seeds], (50, 5, 95), axis=0))


def test_an_explosion_is_one_large_seed() -> None:
    for lost in (np.nan, np.inf, 1e30):
        values = VALUES.copy()
        values[:2] = lost
        middle, low, _ = median_and_band(values)
        largest = VALUES.copy()
        largest[:2] = VALUES.max() + 1
        np.testing.assert_allclose((middle, low), np.percentile(largest, (50, 10), axis=0))
    values[:11] = np.nan
    middle, _, high = median_and_band(values)
    assert np.isnan(middle).all() and np.isnan(high).all()


def test_learning_curves() -> None:
    axes = plot_learning_curves({"a": VALUES, "b": VALUES[0]}, record_every=100)
    assert [line.get_label() for line in axes.lines] == ["a", "b"]
    assert axes.lines[0].get_xdata()[[0, -1]].tolist() == [100, 5000]
    np.testing.assert_allclose(axes.lines[0].get_ydata(), np.median(VALUES, axis=0))
    assert (axes.get_xlabel(), axes.get_ylabel()) == ("step", "mean squared error")
    mine = plt.subplots()[1]
    assert plot_learning_curves({"a": VALUES}, ax=mine, ylabel="other") is mine and mine.get_ylabel() == "other"


def test_a_band_that_explodes_does_not_rule_the_axis() -> None:
    values = VALUES.copy()
    values[:5] = np.inf
    axes = plot_learning_curves({"a": values})
    axes.figure.canvas.draw()
    assert axes.get_ylim()[1] < 2 * VALUES.max()
    band = axes.collections[0].get_paths()[0].vertices
    assert band[:, 1].max() > 1e20


def test_step_sizes() -> None:
    axes = plot_step_sizes(history(30, 4), ["sun", "sun", "wind", "wind"])
    colors = [line.get_color() for line in axes.lines]
    assert colors[0] == colors[1] != colors[2] == colors[3] and axes.get_yscale() == "log"
    assert [text.get_text() for text in axes.get_legend().get_texts()] == ["sun", "wind"]
    batch = history(6, 30, 3)
    axes = plot_step_sizes(batch)
    np.testing.assert_allclose(axes.lines[2].get_ydata(), np.median(batch.step_sizes[:, :, 2], axis=0))
    assert axes.lines[2].get_label() == "input 2" and axes.lines[0].get_xdata()[-1] == 290


def test_sweep_with_a_reference() -> None:
    table = pd.DataFrame({"setting": [0.01, 0.02, 0.05], "mean": [3.0, 2.0, np.nan], "stderr": [0.1, 0.1, np.nan]})
    table["median"] = [3.0, 2.0, np.inf]
    for center in ("mean", "median"):
        axes = plot_sweep(table, center=center, label="ours", reference={0.01: 3.1}, reference_label="theirs")
        assert axes.get_xscale() == "log" and np.isnan(axes.lines[0].get_ydata()[2])
        assert sorted(text.get_text() for text in axes.get_legend().get_texts()) == ["ours", "theirs"]
        cross = next(line for line in axes.lines if line.get_marker() == "x")
        assert (cross.get_xdata().tolist(), cross.get_ydata().tolist()) == ([0.01], [3.1])
        axes.figure.canvas.draw()
    assert plot_sweep(table).get_legend() is None


def test_settings_on_the_axis() -> None:
    axes = plt.subplots()[1]
    label_settings(axes, [0.05, 0.01, 0.0101, 0.2])
    assert [text.get_text() for text in axes.get_xticklabels()] == ["0.01", "0.05", "0.2"]


def test_errors() -> None:
    with pytest.raises(ValueError, match="names must name 4 inputs, got 2"):
        plot_step_sizes(history(30, 4), ["a", "b"])
    with pytest.raises(ValueError, match="history must be of one learner"):
        plot_step_sizes(history(6, 30, 2, 4))
    with pytest.raises(ValueError, match="center must be 'mean' or 'median', got 'mode'"):
        plot_sweep(pd.DataFrame(), center="mode")
    with pytest.raises(ValueError, match="values must have shape"):
        median_and_band(np.zeros((2, 3, 4)))
    with pytest.raises(ValueError, match="values must have shape"):
        median_and_band([])


def table(**columns: list) -> pd.DataFrame:
    return pd.DataFrame({"name": [0.1, 0.01], "value": [2.0, 1.0], "low": [1.5, 0.0], "high": [2.5, 3.0]} | columns)


def test_intervals() -> None:
    axes = plot_intervals(table(), xlabel="error")
    assert [text.get_text() for text in axes.get_yticklabels()] == ["0.1", "0.01"] and axes.get_xlabel() == "error"
    dots, (lines,) = axes.lines[0], axes.collections
    assert dots.get_xdata().tolist() == [2.0, 1.0] and dots.get_ydata()[0] > dots.get_ydata()[1], "first on top"
    assert [line[:, 0].tolist() for line in lines.get_segments()] == [[1.5, 2.5], [0.0, 3.0]]
    pairs = plot_intervals(table(other=["x", "y"]))
    assert [text.get_text() for text in pairs.get_yticklabels()] == ["0.1 against x", "0.01 against y"]


def test_sensitivity() -> None:
    mine = plt.subplots()[1]
    axes = plot_sensitivity(table(), mine, label="LMS", xlabel="theta")
    assert axes is mine and (axes.get_xlabel(), axes.get_ylabel(), axes.get_xscale()) == ("theta", "score", "log")
    assert [text.get_text() for text in axes.get_legend().get_texts()] == ["LMS"]


def test_profiles() -> None:
    axes = plot_profiles(table(name=["a", "b"], threshold=[0.0, 1.0]))
    assert [line.get_label() for line in axes.lines] == ["a", "b"] and axes.get_ylim() == (0.0, 1.0)


def test_step_sizes_of_a_batch_whose_rows_all_have_steps() -> None:
    found = history(3, 4, 2)
    steps = np.tile(found.recording_indices, (3, 1))
    axes = plot_step_sizes(found.replace(recording_indices=steps))
    assert axes.lines[0].get_xdata().tolist() == [0, 10, 20, 30]
