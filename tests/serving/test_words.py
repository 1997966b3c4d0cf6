"""Nothing that was asked is dropped in silence, and what is refused, described or logged says what helps."""

import base64
import json
import logging
import re
import subprocess
import sys

import pytest
from rich.console import Console
from rich.logging import RichHandler
from tiny_server import NAMES, PATIENT, Api, encoded, film, problem

from longview import InputError, serving
from longview.calibration.calibrators import Platt
from longview.calibration.file import CalibratedLabel, Calibration
from longview.cli import main
from longview.serving.given import checked_origins, plain_host
from longview.serving.schemas import (
    PREVIEW_FORM,
    STUDY_FORM,
    Models,
    PredictAnswer,
    PredictRequest,
    StudyAnswer,
)
from longview.serving.serve import serve

PNG = encoded(film())
BASE64 = base64.b64encode(PNG).decode()
SMALL = {"cxr_base64": BASE64, "heatmaps": False}


def form(*parts, path="/v1/studies"):
    """A form of (name, text) fields and (name, bytes) films, in this order and with any repeated."""
    body = b""
    for name, value in parts:
        file = "" if isinstance(value, str) else '; filename="f"'
        content = value.encode() if isinstance(value, str) else value
        body += f'--x\r\nContent-Disposition: form-data; name="{name}"{file}\r\n\r\n'.encode() + content + b"\r\n"
    return ("POST", path), {
        "content": body + b"--x--\r\n",
        "headers": {"content-type": "multipart/form-data; boundary=x"},
    }


def ask(api, request):
    (method, path), options = request
    return api.ask(method, path, **options)


@pytest.mark.parametrize("name", ["lateral", "views", "file2", "Files"])
def test_a_film_under_another_name_is_refused_rather_than_left_out(api, name):
    detail = problem(ask(api, form(("files", PNG), (name, PNG))), 422)
    assert detail.startswith(f"{name}: ")
    assert "files" in detail
    detail = problem(ask(api, form((name, PNG), path="/v1/preview")), 422)
    assert detail.startswith(f"{name}: ")
    assert " file" in detail


def test_films_may_come_as_browsers_and_libraries_name_them(api):
    for name in ("files", "files[]", "file"):
        assert len(ask(api, form((name, PNG), (name, PNG))).json()["views"]) == 2


def test_the_path_of_a_film_instead_of_the_film_is_told(api):
    assert "-F files=@film.png" in problem(ask(api, form(("files", "pa.png"))), 422)
    assert "-F file=@film.png" in problem(ask(api, form(("file", "x" * 50_000), path="/v1/preview")), 422)


@pytest.mark.parametrize("path", ["/v1/studies", "/v1/preview"])
def test_a_field_that_is_none_is_named_with_those_that_there_are(api, path):
    film_field = "files" if path == "/v1/studies" else "file"
    detail = problem(ask(api, form((film_field, PNG), ("heatmap", PATIENT), path=path)), 422)
    assert detail.startswith("heatmap: ")
    assert film_field in detail
    assert ("heatmaps" in detail) == (path == "/v1/studies")
    for name in (PATIENT, "MUSTER MANN", "x" * 41):  # a name that is no word is not sent back
        assert name not in problem(ask(api, form((film_field, PNG), (name, "1"), path=path)), 422)


def test_lists_may_be_repeated_and_nothing_else_may(api):
    request = form(
        ("files", PNG), ("files", PNG), ("labels", "Effusion"), ("labels", "Pneumothorax, Cardiomegaly"),
        ("views", "PA"), ("views", "lateral"), ("models", "plain"), ("models", "tiny"),
    )  # fmt: skip
    body = ask(api, request).json()
    assert [model["model"] for model in body["models"]] == ["plain", "tiny"]
    assert [view["view"] for view in body["views"]] == ["PA", "lateral"]
    assert {entry["label"] for entry in body["models"][0]["labels"]} == {"Effusion", "Pneumothorax", "Cardiomegaly"}
    for name, values in {"samples": ("4", "4"), "heatmaps": ("true", "false"), "method": ("cam", "none")}.items():
        detail = problem(ask(api, form(("files", PNG), *((name, value) for value in values))), 422)
        assert detail.startswith(f"{name}: ")
        assert "once" in detail


def test_what_one_model_lacks_is_left_out_and_what_all_lack_is_refused(api):
    both = ("models", "tiny,plain")
    assert "Hernia" in problem(ask(api, form(("files", PNG), both, ("labels", "Effusion,Hernia"))), 422)
    assert "gradcam" in problem(ask(api, form(("files", PNG), both, ("method", "scorecam"))), 422)


def test_json_with_an_unknown_field_is_refused_without_its_value(api):
    detail = problem(api.ask("POST", "/predict", json=SMALL | {"label": [PATIENT], "sample": 5}), 422)
    assert detail.startswith("label: ")
    for name in PredictRequest.model_fields:
        assert name in detail
    assert problem(api.ask("POST", "/predict", json={"image": BASE64}), 422).startswith("image: ")
    assert PATIENT not in problem(api.ask("POST", "/predict", json=SMALL | {PATIENT: 1}), 422)
    assert api.ask("POST", "/predict", json={"cxr_base64": BASE64}).status_code == 200


def test_predict_takes_the_methods_of_the_model_and_none(api, served):
    assert api.ask("POST", "/predict", json={"cxr_base64": BASE64, "method": "none"}).json()["heatmap"] == {}
    for method in ("scorecam", "ablationcam", "attention", "magic"):
        detail = problem(api.ask("POST", "/predict", json=SMALL | {"method": method}), 422)
        assert all(name in detail for name in ("none", *served.methods))
        assert not any(name in detail for name in ("scorecam", "ablationcam", "gradattention"))
    assert "scorecam" not in json.dumps(PredictRequest.model_json_schema())


def test_an_empty_list_of_labels_means_all_and_the_description_says_so(api):
    assert list(api.ask("POST", "/predict", json=SMALL | {"labels": []}).json()["prediction_mean"]) == NAMES
    assert "empty" in PredictRequest.model_json_schema()["properties"]["labels"]["description"]


def test_the_description_has_true_examples_of_answers(api):
    schema = api.ask("GET", "/openapi.json").json()
    schemas = schema["components"]["schemas"]
    for model in (PredictAnswer, StudyAnswer, Models):
        model.model_validate(schemas[model.__name__]["example"], extra="forbid")
    answers = {
        "PredictAnswer": api.ask("POST", "/predict", json={"cxr_base64": BASE64}).json(),
        "StudyAnswer": ask(api, form(("files", PNG), ("heatmaps", "true"), ("boxes", "true"))).json(),
        "Models": api.ask("GET", "/v1/model").json(),
    }
    for name, answer in answers.items():
        assert set(schemas[name]["example"]) == set(answer)
    assert {"files", "views"} <= set(STUDY_FORM["example"])
    assert set(PREVIEW_FORM["example"]) == {"file"}
    for form_ in (STUDY_FORM, PREVIEW_FORM):
        assert form_["additionalProperties"] is False
    summaries = [operation["summary"] for path in schema["paths"].values() for operation in path.values()]
    assert not {"Predict", "Healthz", "Readyz", "Metrics", "Model", "Studies", "Preview"} & set(summaries)
    assert len(set(summaries)) == len(summaries)
    assert "complete request" in schemas["PredictAnswer"]["properties"]["inference_duration"]["description"]
    page = api.ask("GET", "/docs").text
    assert all(summary in page for summary in summaries)
    assert page.count("<summary>Example") >= 5


def test_the_description_tells_of_the_token_where_one_is_asked_for(api, served):
    assert "securitySchemes" not in api.ask("GET", "/openapi.json").json()["components"]
    assert "Bearer" not in api.ask("GET", "/docs").text
    guarded = Api([served], token="s3cret-s3cret-s3cret")
    schema = guarded.ask("GET", "/openapi.json").json()
    (scheme,) = schema["components"]["securitySchemes"].values()
    assert (scheme["type"], scheme["scheme"]) == ("http", "bearer")
    paths = schema["paths"]
    assert {path for path, ways in paths.items() if "security" in next(iter(ways.values()))} == {
        "/predict", "/v1/studies", "/v1/preview", "/v1/model", "/metrics"
    }  # fmt: skip
    assert "Bearer" in guarded.ask("GET", "/docs").text
    right = {"Authorization": "Bearer s3cret-s3cret-s3cret"}
    assert guarded.studies(PNG, headers=right).status_code == 200
    guarded.house.close()


@pytest.mark.parametrize(
    ("given", "helps"),
    [
        ("https://x/", "https://x"), ("https://x:443", "https://x"), ("HTTP://X.Example", "http://x.example"),
        ("https://x/page?y#z", "https://x"), ("notaurl", "https://"), ("https://", "https://"), ("x:8000", "https://"),
        ("https://x:99999", "https://"), ("https://me@x", "https://x"), ("https://*.x", "https://"), ("", "https://"),
        ("https://a b", "https://"), ("null", "https://"), ("https://münchen.example", "https://xn--mnchen-3ya.example"),
    ],
)  # fmt: skip
def test_an_origin_that_no_page_has_is_refused_with_the_one_that_is_meant(given, helps):
    with pytest.raises(InputError) as error:
        checked_origins([given])
    assert f"--allow-origin {given!r}" in str(error.value)
    assert helps in str(error.value)
    assert "\n" not in str(error.value)


def test_origins_as_browsers_send_them_are_taken_and_all_of_them_with_a_warning(caplog):
    right = ["https://x", "http://localhost:3000", "http://[::1]:8080", "https://a-b.example:8443"]
    assert checked_origins(right) == tuple(right)
    assert not caplog.records
    assert checked_origins(["*"]) == ("*",)
    assert "--allow-origin '*'" in caplog.text


@pytest.fixture
def told(monkeypatch, tmp_path, capsys):
    """What the command line answers to options, which must be before any model is opened."""

    def opened(*_given):
        raise AssertionError("a model was opened")

    monkeypatch.setattr(serving.serve, "_run", opened)
    monkeypatch.chdir(tmp_path)

    def ask_(*options):
        with pytest.raises(SystemExit) as stopped:
            main(["serve", "--port=0", *options])
        assert stopped.value.code == 2
        line = capsys.readouterr().err
        assert line.count("\n") == 1
        return line

    return ask_


def test_only_the_option_that_is_wrong_is_named(told):
    for option, value in {"threshold": "2", "workers": "0", "port": "70000"}.items():
        line = told("--checkpoint", "no.ckpt", f"--{option}={value}")
        assert f"--{option} {value}" in line
        assert [word for word in line.split() if word.startswith("--")] == [f"--{option}"]
    assert "--host" in told("--checkpoint", "no.ckpt", "--host=")


def test_missing_files_and_folders_are_told_before_any_model_is_opened(told, tmp_path):
    (tmp_path / "empty").mkdir()
    (tmp_path / "best.ckpt").write_bytes(b"")
    assert "no.ckpt does not exist" in told("--checkpoint", "no.ckpt")
    assert "no.onnx does not exist" in told("--checkpoint", "best.ckpt", "no.onnx")
    line = told("--checkpoint", "empty")
    assert "empty is a folder" in line
    assert "model.safetensors" in line
    assert "empty is a folder" in told("--checkpoint", "best.ckpt", "--calibration", "empty")
    assert "calibrate" in told("--checkpoint", "best.ckpt", "--calibration", "none.json")
    assert "no calibration" in told("--checkpoint", "best.ckpt", "--calibration", "best.ckpt")


def test_what_is_missing_is_told_without_torch(tmp_path):
    code = "import sys\nfrom longview.cli import main\ntry:\n    main()\nfinally:\n    print('torch' in sys.modules)"
    words = [sys.executable, "-c", code, "serve", "--checkpoint=no.ckpt", "--port=0"]
    done = subprocess.run(words, cwd=tmp_path, capture_output=True, text=True, check=False)
    assert "no.ckpt does not exist" in done.stderr
    assert done.stdout == "False\n"


def test_a_rule_that_no_calibration_has_is_told_before_any_model_is_opened(told, tmp_path):
    label = CalibratedLabel(Platt(1.0, 0.0), thresholds={"f1": 0.2, "youden": 0.3})
    Calibration("platt", {"Effusion": label}, "0" * 64).write(tmp_path / "cal.json")
    (tmp_path / "best.ckpt").write_bytes(b"")
    line = told("--checkpoint", "best.ckpt", "--calibration", "cal.json", "--rule", "f2")
    assert "'f2'" in line
    assert "f1, youden" in line
    assert "--rule" in line
    assert "give --calibration" in told("--checkpoint", "best.ckpt", "--rule", "f1")


def test_an_address_may_stand_in_brackets():
    assert plain_host("[::1]") == "::1"
    assert plain_host("::1") == "::1"
    assert plain_host("films.example") == "films.example"


@pytest.fixture
def started(monkeypatch, served, caplog):
    """What is logged by a server that starts and stops at once."""
    from longview.serving import running
    from longview.serving.plan import Plan

    caplog.set_level(logging.INFO, "longview")
    monkeypatch.setattr(running, "run", lambda *_given, **_options: None)
    monkeypatch.setattr(Plan, "open", lambda _plan: [served])
    monkeypatch.setattr(serving.given, "check_models", lambda *_given: None)

    def start(**options):
        caplog.clear()
        serve(["best.ckpt"], port=0, **options)
        return [record.getMessage() for record in caplog.records]

    return start


def test_the_start_tells_where_the_page_is_and_what_is_taken(started, tmp_path):
    text = "\n".join(started(max_upload_mb=5, max_megapixels=30, queue=7))
    assert "tiny: 4 labels" in text
    lines = text.splitlines()
    assert any("page" in line and line.endswith("/") and "http://127.0.0.1:" in line for line in lines)
    assert any(line.endswith("/docs") for line in lines)
    assert any("token" in line and "no " in line for line in lines)
    limits = next(line for line in lines if line.startswith("limits"))
    assert all(part in limits for part in ("5 MB", "30 megapixels", "8 films", "7 "))
    (tmp_path / "token").write_text("0123456789abcdef0123")
    (tmp_path / "token").chmod(0o600)
    text = "\n".join(started(token_file=tmp_path / "token"))
    assert "Authorization: Bearer" in text
    assert "0123456789abcdef" not in text
    assert any("[::1]" in line for line in started(host="[::1]"))
    assert "everybody" in "\n".join(started(host="0.0.0.0"))


def test_lines_of_a_log_file_have_a_time_each_and_are_not_padded(started, tmp_path, monkeypatch):
    root = logging.getLogger()
    with (tmp_path / "log").open("w") as log:
        handler = RichHandler(console=Console(file=log, width=240), show_path=False)
        monkeypatch.setattr(root, "handlers", [handler])
        started()
    lines = (tmp_path / "log").read_text().splitlines()
    assert len(lines) > 3
    for line in lines:
        assert line == line.rstrip()
        assert re.match(r"\[\d\d/\d\d/\d\d \d\d:\d\d:\d\d\] INFO     \S", line)
