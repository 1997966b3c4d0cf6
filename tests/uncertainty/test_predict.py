"""`predict --uncertainty mc-dropout` and `ensemble --uncertainty`: the table beside the predictions."""

import numpy as np
import pandas as pd
import pytest
import torch

from longview import InputError, StudyKey
from longview.calibration.file import attributes_of
from longview.cli import main
from longview.predictions import MODEL, read_predictions
from longview.uncertainty.dropout import MonteCarlo
from longview.uncertainty.shards import UncertaintyShards
from longview.uncertainty.summary import MEASURES, METHOD, Uncertainty, read_uncertainty, wide_table
from runs import NAMES, fit, predict

DROPOUT = "--model.network.init_args.decoder.init_args.dropout"


@pytest.fixture(scope="module")
def store(make_store):
    return make_store(NAMES)


@pytest.fixture(scope="module")
def run_folder(store, tmp_path_factory):
    return fit(store, tmp_path_factory.mktemp("run"), "--trainer.max_epochs=1", f"{DROPOUT}=0.3")


@pytest.fixture(scope="module")
def plain(run_folder, tmp_path_factory):
    return predict(run_folder, tmp_path_factory.mktemp("plain") / "p.parquet")


@pytest.mark.parametrize("ending", ["parquet", "csv"])
def test_the_table_stands_beside_predictions_that_stay_as_they_are(ending, run_folder, plain, tmp_path):
    output = tmp_path / f"p.{ending}"
    predict(run_folder, output, "--uncertainty=mc-dropout", "--samples=6")
    np.testing.assert_allclose(read_predictions(output)[NAMES], plain[NAMES], rtol=1e-6)
    path = tmp_path / "p.uncertainty.parquet"
    assert sorted(tmp_path.iterdir()) == sorted([output, path])
    found = read_uncertainty(path)
    assert len(found) == len(plain) * len(NAMES)
    assert (found["variance"] > 0).all() and (found["mutual_information"] > 0).any()
    np.testing.assert_allclose(found["standard_deviation"] ** 2, found["variance"], rtol=1e-4)
    assert np.abs(wide_table(found, "mean")[NAMES].to_numpy() - plain[NAMES].to_numpy()).max() < 0.2
    assert list(wide_table(found, "mean")["image_id"]) == list(plain["image_id"])
    said = pd.read_parquet(path).attrs
    assert said[METHOD] == {"method": "mc-dropout", "samples": 6, "seed": 0}
    if ending == "parquet":
        assert said[MODEL] == attributes_of(output)[MODEL]


def test_the_same_seed_gives_the_same_table_on_any_batch_size(run_folder, tmp_path):
    tables = []
    for name, size in (("a", 2), ("b", 5)):
        predict(run_folder, tmp_path / f"{name}.parquet", "--uncertainty=mc-dropout", f"--data.batch_size={size}")
        tables.append(pd.read_parquet(tmp_path / f"{name}.uncertainty.parquet"))
    pd.testing.assert_frame_equal(*tables, rtol=1e-3, atol=1e-7)


def test_two_processes_write_the_table_of_one(run_folder, tmp_path):
    forked = ["--trainer.strategy=ddp_fork", "--trainer.devices=2", "--trainer.accelerator=cpu"]
    for name, options in (("two", forked), ("one", [])):
        predict(run_folder, tmp_path / f"{name}.parquet", "--uncertainty=mc-dropout", "--samples=4", *options)
    tables = [pd.read_parquet(tmp_path / f"{name}.uncertainty.parquet") for name in ("two", "one")]
    pd.testing.assert_frame_equal(*tables, rtol=1e-3, atol=1e-7)
    assert len(list(tmp_path.iterdir())) == 4


def test_a_model_without_dropout_is_refused(run_folder, tmp_path, capsys):
    words = [f"{DROPOUT}=0", "--uncertainty=mc-dropout"]
    with pytest.raises(SystemExit):
        predict(run_folder, tmp_path / "p.parquet", *words)
    assert "StudyNetwork (MeanFusion, LinearDecoder) has no active dropout" in capsys.readouterr().err
    with pytest.raises(SystemExit):
        predict(run_folder, tmp_path / "p.parquet", "--uncertainty=mc-dropout", "--samples=1")
    assert "--samples 1" in capsys.readouterr().err
    assert not list(tmp_path.iterdir())


def test_an_open_model_samples_too(run_folder):
    from longview.inference import open_model

    model = open_model(run_folder / "checkpoints/best.ckpt", device="cpu")
    images = torch.randint(0, 256, (3, 1, model.image_size, model.image_size), dtype=torch.uint8)
    study = torch.tensor([0, 1, 1])
    found = model.probabilities(images, study, None, 2, MonteCarlo(4))
    assert found.shape == (5, 2, len(NAMES))
    torch.testing.assert_close(found[0], model.probabilities(images, study, None, 2))


def test_every_process_writes_its_rows(tmp_path):
    ids = [StudyKey("p", f"s{row}", "") for row in range(5)]
    samples = np.random.default_rng(0).random((4, 5, 2)).astype(np.float32)
    shards = [UncertaintyShards(tmp_path / "p.csv", rank, ["A", "B"], {"samples": 4}) for rank in range(2)]
    for rank, shard in enumerate(shards):
        shard.start()
        shard.add_samples(ids[rank::2], samples[:, rank::2])
        shard.close()
    path = shards[0].merge_long(2, expected=5)
    assert list(tmp_path.iterdir()) == [path]
    found, wanted = read_uncertainty(path), Uncertainty.of(samples)
    for measure in MEASURES:
        np.testing.assert_allclose(found[measure], getattr(wanted, measure).ravel(), atol=1e-6)
    shards[0].start()
    shards[0].close()
    with pytest.raises(InputError, match=r"process 1 did not finish its part of .*p\.uncertainty\.parquet"):
        shards[0].merge_long(2)


def test_a_deep_ensemble_has_the_same_table(plain, tmp_path, capsys):
    rng = np.random.default_rng(0)
    tables = [plain.assign(**{name: rng.random(len(plain)) for name in NAMES}) for _ in range(3)]
    files = []
    for number, table in enumerate(tables):
        files.append(str(tmp_path / f"{number}.parquet"))
        table.sample(frac=1, random_state=number).to_parquet(files[-1])
    output = tmp_path / "out" / "e.parquet"
    main(["ensemble", "--predictions", *files, "--output", str(output), "--uncertainty", "--weights", "1,2,1"])
    found = read_uncertainty(output.with_name("e.uncertainty.parquet"))
    members = np.stack([table[NAMES].to_numpy() for table in tables])
    wanted = Uncertainty.of(members[[0, 1, 1, 2]])
    order = read_predictions(output)["image_id"].map({key: row for row, key in enumerate(plain["image_id"])})
    for measure in MEASURES:
        values = wide_table(found, measure)
        np.testing.assert_allclose(values[NAMES], getattr(wanted, measure)[order], atol=1e-6)
    np.testing.assert_allclose(wide_table(found, "mean")[NAMES], read_predictions(output)[NAMES], atol=1e-6)
    with pytest.raises(SystemExit):
        main(["ensemble", "--predictions", *files, "--output", str(output), "--uncertainty", "--on", "rank"])
    assert "not --on rank" in capsys.readouterr().err
