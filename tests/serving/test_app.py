"""The API answers what was asked, as the seed's clients and the page expect it."""

import base64
import json
import math

import cv2
import numpy as np
import pytest
import torch
from tiny_server import NAMES, PATIENT, Api, dicom, encoded, film, problem, tiny_model

from longview.calibration.calibrators import Platt
from longview.calibration.file import CalibratedLabel, Calibration
from longview.serving.served import Served


def png(text):
    return cv2.imdecode(np.frombuffer(base64.b64decode(text.rpartition(",")[2]), np.uint8), cv2.IMREAD_UNCHANGED)


def predict(api, content, **options):
    return api.ask("POST", "/predict", json={"cxr_base64": base64.b64encode(content).decode(), **options})


def test_predict_answers_every_label_with_a_picture_of_the_films_size(api):
    answer = predict(api, encoded(film(70, 50)))
    assert answer.status_code == 200
    body = answer.json()
    assert list(body) == ["success", "heatmap", "prediction_mean", "prediction_variance", "inference_duration"]
    assert body["success"] is True
    assert body["inference_duration"] > 0
    for part in ("heatmap", "prediction_mean", "prediction_variance"):
        assert list(body[part]) == NAMES
    for picture in body["heatmap"].values():
        assert png(picture).shape == (70, 50, 3)


def test_the_variance_is_one_and_the_mean_is_that_of_the_samples(api, served):
    body = predict(api, encoded(film()), samples=50).json()
    answer = api.studies(encoded(film()), samples=50).json()["models"][0]["labels"]
    for entry in answer:
        name = entry["label"]
        assert body["prediction_variance"][name] == pytest.approx(entry["variance"])
        assert math.sqrt(entry["variance"]) == pytest.approx(entry["standard_deviation"])
        low, high = entry["interval"]
        assert 0 <= low <= body["prediction_mean"][name] <= high <= 1
        assert 0 <= entry["mutual_information"] <= entry["predictive_entropy"] <= math.log(2)


def test_a_model_without_dropout_has_no_variance_rather_than_none_at_all(api):
    body = predict(api, encoded(film()), model="plain").json()
    assert set(body["prediction_variance"].values()) == {None}
    assert "dropout" in problem(predict(api, encoded(film()), model="plain", samples=5), 422)


def test_labels_method_and_heatmaps_can_be_chosen(api):
    body = predict(api, encoded(film()), labels=["effusion"], method="eigencam").json()
    assert list(body["heatmap"]) == list(body["prediction_mean"]) == ["Effusion"]
    assert predict(api, encoded(film()), heatmaps=False).json()["heatmap"] == {}
    assert "does not score" in problem(predict(api, encoded(film()), labels=["Hernia"]), 422)
    assert "gradcam" in problem(predict(api, encoded(film()), method="scorecam"), 422)


def test_probabilities_are_those_of_the_model_itself(api, served):
    pixels = film(60, 48, seed=3)
    found = {
        entry["label"]: entry["probability"] for entry in api.studies(encoded(pixels)).json()["models"][0]["labels"]
    }
    from longview.serving.intake import Received

    image, _ = Received(pixels, 0, "PNG").seen(served.model)
    assert [found[name] for name in NAMES] == pytest.approx(
        served.model.probabilities(image[None])[0].tolist(), abs=1e-6
    )


def test_a_study_of_several_views_is_one_answer(api):
    answer = api.studies(encoded(film(60, 48)), dicom(film(40, 44)), views="PA, lateral", heatmaps="true", boxes="true")
    body = answer.json()
    assert body["research_only"] is True
    assert body["views"] == [
        {"index": 0, "view": "PA", "width": 48, "height": 60},
        {"index": 1, "view": "lateral", "width": 44, "height": 40},
    ]
    (model,) = body["models"]
    values = [entry["probability"] for entry in model["labels"]]
    assert values == sorted(values, reverse=True)
    for entry in model["labels"]:
        assert sum(view["share"] for view in entry["views"]) == pytest.approx(1, abs=1e-5)
        first, second = (png(view["heatmap"]) for view in entry["views"])
        assert (first.shape, second.shape) == ((60, 48), (40, 44))
        assert max(first.max(), second.max()) in {0, 255}
        for box in entry["views"][1]["boxes"]:
            assert 0 <= box["x"] < box["x"] + box["width"] <= 44
    assert PATIENT not in answer.text


def test_shares_without_pictures_are_those_with_them(api):
    files = encoded(film(60, 48)), encoded(film(50, 60, seed=1))
    shares = [
        [
            [view["share"] for view in entry["views"]]
            for entry in api.studies(*files, **fields).json()["models"][0]["labels"]
        ]
        for fields in ({}, {"heatmaps": "true"})
    ]
    assert np.allclose(*shares, atol=1e-6)


def test_several_models_answer_side_by_side_and_what_one_lacks_is_left_out(api):
    models = api.studies(encoded(film()), models="plain,tiny", samples=4, method="gradcam").json()["models"]
    assert [model["model"] for model in models] == ["plain", "tiny"]
    assert models[0]["labels"][0]["variance"] is None
    assert models[1]["labels"][0]["variance"] > 0
    assert "no model" in problem(api.studies(encoded(film()), models="other"), 422)


def test_the_same_film_has_the_same_answer_in_a_batch_of_others(api):
    alone = api.studies(encoded(film()), samples=4, heatmaps="true").json()
    one = (
        ("POST", "/v1/studies"),
        {"files": [("files", ("a", encoded(film())))], "data": {"samples": 4, "heatmaps": "true"}},
    )
    others = [
        (("POST", "/v1/studies"), {"files": [("files", ("a", encoded(film(seed=seed))))] * (1 + seed % 2)})
        for seed in range(1, 9)
    ]
    answers = [answer.json() for answer in api.together([*others[:4], one, *others[4:]])]
    mine, first = answers[4]["models"][0], alone["models"][0]
    for entry, before in zip(mine["labels"], first["labels"], strict=True):
        assert entry["label"] == before["label"]
        assert entry["probability"] == pytest.approx(before["probability"], abs=1e-6)
        assert entry["variance"] == pytest.approx(before["variance"], abs=1e-7)
        assert np.abs(png(entry["views"][0]["heatmap"]).astype(int) - png(before["views"][0]["heatmap"])).max() <= 1


def test_calibration_moves_probabilities_samples_and_thresholds():
    model = tiny_model()
    labels = {name: CalibratedLabel(Platt(2.0, -1.0), thresholds={"f1": 0.1, "youden": 0.9}) for name in NAMES}
    calibration = Calibration("platt", labels, model.sha256)
    plain, fitted = Served.of(model), Served.of(model, calibration)
    api, before = Api([fitted]), Api([plain])
    found = {entry["label"]: entry for entry in api.studies(encoded(film()), samples=8).json()["models"][0]["labels"]}
    raw = {entry["label"]: entry for entry in before.studies(encoded(film())).json()["models"][0]["labels"]}
    for name in NAMES:
        value = raw[name]["probability"]
        expected = 1 / (1 + math.exp(-(2 * math.log(value / (1 - value)) - 1)))
        assert found[name]["probability"] == pytest.approx(expected, abs=1e-6)
        assert found[name]["threshold"] == 0.1
        assert found[name]["positive"] == (found[name]["probability"] >= 0.1)
    described = api.ask("GET", "/v1/model").json()["models"][0]
    assert described["calibration"]["method"] == "platt"
    assert described["thresholds"]["Effusion"] == 0.1
    assert fitted.calibrated(np.full((3, 4), 0.5)).shape == (3, 4)


def test_the_models_are_described(api, served):
    body = api.ask("GET", "/v1/model").json()
    first, second = body["models"]
    assert first["name"] == "tiny"
    assert first["sha256"] == served.model.sha256
    assert first["labels"] == NAMES
    assert first["samples"] is True
    assert second["samples"] is False
    assert "gradcam++" in first["methods"]
    assert "cam" in first["methods"]
    assert not {"scorecam", "attention"} & set(first["methods"])
    assert first["calibration"] is None
    assert first["level"] == "image"


def test_a_preview_is_the_film_in_eight_bits(api):
    pixels = film(40, 30)
    answer = api.ask(
        "POST", "/v1/preview", files={"file": ("x", dicom(pixels, PhotometricInterpretation="MONOCHROME1"))}
    )
    assert answer.headers["content-type"] == "image/png"
    assert np.array_equal(cv2.imdecode(np.frombuffer(answer.content, np.uint8), cv2.IMREAD_UNCHANGED), 255 - pixels)


def test_base64_may_be_a_data_address_with_line_breaks(api):
    content = base64.b64encode(encoded(film())).decode()
    broken = "data:image/png;base64," + "\n".join(content[at : at + 76] for at in range(0, len(content), 76))
    answers = [api.ask("POST", "/predict", json={"cxr_base64": text, "heatmaps": False}) for text in (content, broken)]
    assert answers[0].json()["prediction_mean"] == answers[1].json()["prediction_mean"]


def test_one_label_that_cannot_be_drawn_does_not_fail_the_others(api, monkeypatch):
    import longview.serving.answers as answers

    real = answers.heat_map

    def breaks(raw, frames):
        if float(raw.sum()) == breaks.first:
            raise ValueError(PATIENT)
        return real(raw, frames)

    from longview.serving.scoring import Scorer

    scores = Scorer.__call__

    def seen(self, studies):
        found = scores(self, studies)
        breaks.first = float(torch.from_numpy(found[0].maps[0]).sum())
        return found

    monkeypatch.setattr(answers, "heat_map", breaks)
    monkeypatch.setattr(Scorer, "__call__", seen)
    body = predict(api, encoded(film()), method="gradcam").json()
    assert list(body["heatmap"]) == NAMES
    assert png(body["heatmap"][NAMES[0]]).shape == (60, 48)
    assert png(body["heatmap"][NAMES[1]]).shape == (60, 48, 3)


def test_a_score_that_is_not_finite_is_null_and_the_rest_stands(monkeypatch):
    served = Served.of(tiny_model())
    api = Api([served])
    with torch.no_grad():
        served.model.network.decoder.readout.bias[1] = float("nan")
    body = predict(api, encoded(film()), heatmaps=False, samples=0).json()
    assert [name for name, value in body["prediction_mean"].items() if value is None] == ["Effusion"]
    study = api.studies(encoded(film())).json()["models"][0]["labels"]
    assert {entry["label"]: entry["positive"] for entry in study}["Effusion"] is False


def test_state_and_counts_are_told(api):
    assert api.ask("GET", "/healthz").text == "ok\n"
    assert api.ask("GET", "/readyz").text == "ready\n"
    api.ask("GET", f"/{PATIENT}")
    text = api.ask("GET", "/metrics").text
    assert "longview_requests_total" in text
    assert 'route="unknown",status="404"' in text
    assert PATIENT not in text


def test_the_description_has_examples_and_needs_no_network(api):
    schema = api.ask("GET", "/openapi.json").json()
    body = schema["paths"]["/predict"]["post"]["requestBody"]["content"]["application/json"]["schema"]
    assert api.ask("POST", "/predict", json=body["example"]).status_code == 200
    page = api.ask("GET", "/docs").text
    assert "/v1/studies" in page
    assert "<script" not in page
    assert "http" not in page.replace("http://127.0.0.1", "").replace("HTTP", "").replace("https://host", "")
    assert json.dumps(schema)
