"""The training loop: its schedule, what it selects, and how it fails."""

import pandas as pd
import pytest

from bivrec.data.domain import Domain
from bivrec.evaluation import mean_metrics, rank_cases
from bivrec.experiment.training import train_model
from bivrec.settings import load_settings
from bivrec.training.loop import few_lengths, learning_rate


@pytest.mark.slow
def test_the_validation_users_choose(planted):
    """The weights are those of the best step: their validation metric is the curve's maximum."""
    trained = train_model(planted, "pure-id", 0)
    curve = trained.record.curve
    values = curve[curve["metric"] == "ndcg@20"].set_index("step")["value"]
    means = mean_metrics(rank_cases(trained.model, planted.fold(0).validation))
    best = means.set_index("metric")["value"]["ndcg@20"]
    assert best == pytest.approx(values.max()) and trained.record.best_step == values.idxmax()


@pytest.mark.slow
def test_patience_stops_a_training_and_changes_nothing_before():
    """Rates and best weights are those of the whole training up to the last step."""
    changes = {"training.num_steps": 100, "training.evaluate_every": 5}
    changes |= {"training.learning_rate": 0.1, "training.average_decay": 0.0}
    whole = train_model(Domain("planted", changes), "pure-id", 0)
    stopped = train_model(Domain("planted", changes | {"training.patience": 2}), "pure-id", 0)
    curve = whole.record.curve.drop(columns="seconds")
    values = curve[curve["metric"] == "ndcg@20"].set_index("step")["value"]
    waited = values.groupby(values.cummax().ne(values.cummax().shift()).cumsum()).cumcount()
    last = int(waited.index[waited == 2][0])
    assert stopped.record.curve["step"].max() == last < 100
    expected = curve[curve["step"] <= last]
    pd.testing.assert_frame_equal(stopped.record.curve.drop(columns="seconds"), expected)
    assert stopped.record.best_step == values.loc[:last].idxmax() == last - 10
    means = mean_metrics(rank_cases(stopped.model, Domain("planted").fold(0).validation))
    assert means.set_index("metric")["value"]["ndcg@20"] == values[last - 10]


@pytest.mark.slow
def test_a_training_that_diverges_is_reported():
    changes = {"training.learning_rate": 1e12, "training.clip_norm": 1e12}
    domain = Domain("planted", changes | {"training.num_steps": 20})
    with pytest.raises(ValueError, match="lower training.learning_rate"):
        train_model(domain, "bivrec", 0)


def test_the_learning_rate_warms_up_and_decays_to_a_tenth():
    settings = load_settings("planted", {"training.warmup_steps": 10}).training
    rates = [learning_rate(settings, step, 100) / settings.learning_rate for step in range(1, 101)]
    assert rates[:3] == pytest.approx([0.1, 0.2, 0.3])
    assert rates[9:] == pytest.approx([1 - 0.9 * step / 100 for step in range(9, 100)])
    rate = learning_rate(settings, 1, 1)  # a training shorter than its warm-up
    assert rate == settings.learning_rate


def test_a_share_of_a_step_is_a_step():
    changes = {"training.num_steps": 1, "training.step_factor": 0.5}
    assert train_model(Domain("planted", changes), "bivrec", 0).record.best_step == 1


def test_recorded_rows_have_few_lengths():
    assert [few_lengths(*sizes) for sizes in [(48, 4), (50, 1), (24, 4), (7, 2)]] == [8, 10, 4, 2]
