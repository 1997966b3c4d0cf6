"""Label sets: the shipped files, look-up by alias, hierarchy, alignment, and use on the command line."""

import csv
import pickle
import re
from pathlib import Path

import pytest
import yaml
from hypothesis import given, settings
from hypothesis import strategies as st

from longview import InputError
from longview.labels import Label, LabelSet, find, groups

CXR_LT_26 = """
    Atelectasis, Calcification of the Aorta, Cardiomegaly, Consolidation, Edema, Emphysema,
    Enlarged Cardiomediastinum, Fibrosis, Fracture, Hernia, Infiltration, Lung Lesion, Lung Opacity, Mass,
    No Finding, Nodule, Pleural Effusion, Pleural Other, Pleural Thickening, Pneumomediastinum, Pneumonia,
    Pneumoperitoneum, Pneumothorax, Subcutaneous Emphysema, Support Devices, Tortuous Aorta
"""
CXR_LT_26 = [name.strip() for name in CXR_LT_26.split(",")]
CHEXPERT_14 = """
    No Finding, Enlarged Cardiomediastinum, Cardiomegaly, Lung Opacity, Lung Lesion, Edema, Consolidation,
    Pneumonia, Atelectasis, Pneumothorax, Pleural Effusion, Pleural Other, Fracture, Support Devices
"""
CHEXPERT_14 = [name.strip() for name in CHEXPERT_14.split(",")]
SIZES = {  # seen, unseen
    "chexpert": (14, 0),
    "chexpert_hierarchical": (21, 0),
    "covid_chestxray": (16, 0),
    "cxr_lt_2023": (26, 0),
    "cxr_lt_2024_task1": (40, 0),
    "cxr_lt_2024_task2": (26, 0),
    "cxr_lt_2024_task3": (40, 5),
    "cxr_lt_2026": (30, 6),
    "mimic": (14, 0),
    "nih": (14, 0),
    "nih_hierarchical": (19, 0),
    "nih_google": (4, 0),
    "openi": (34, 0),
    "padchest": (36, 0),
    "phantom": (17, 0),
    "phantom_hierarchical": (22, 0),
    "phantom_zero_shot": (41, 8),
    "rsna": (1, 0),
    "vinbig": (14, 0),
    "vindr": (28, 0),
    "xrv": (18, 0),
}


@pytest.fixture(scope="module")
def shipped(project_root):
    return {file.stem: LabelSet.load(file) for file in (project_root / "configs/labels").glob("*.yaml")}


def example(**aliases):
    return LabelSet("x", [Label("Mass", aliases=aliases), Label("Nodule"), Label("Bulla", unseen=True)])


class TestShippedFiles:
    def test_every_file_has_its_number_of_labels(self, shipped):
        assert {name: (len(labels.names), len(labels.unseen_names)) for name, labels in shipped.items()} == SIZES

    def test_a_set_is_named_like_its_file_and_says_where_it_comes_from(self, shipped, project_root):
        for name, labels in shipped.items():
            assert labels.name == name
            assert labels.description
            assert (project_root / f"configs/labels/{name}.yaml").read_text().startswith("# ")

    def test_every_label_has_prompts_that_are_more_than_its_name(self, shipped):
        for labels in shipped.values():
            for label in labels.labels:
                assert label.prompts, (labels.name, label.name)
                assert any(len(prompt) > len(label.name) for prompt in label.prompts), (
                    labels.name,
                    label.name,
                )

    def test_a_label_reads_the_same_to_a_text_encoder_in_every_set(self, shipped):
        prompts: dict[str, list[str]] = {}
        for labels in shipped.values():
            for name, texts in labels.prompts.items():
                assert prompts.setdefault(name, texts) == texts, (labels.name, name)

    def test_orders_are_those_of_the_files_of_each_challenge(self, shipped):
        assert shipped["cxr_lt_2023"].names == CXR_LT_26
        task2 = shipped["cxr_lt_2024_task2"].names
        assert task2 == ["Normal" if name == "No Finding" else name for name in CXR_LT_26]
        assert task2[13:16] == ["Mass", "Normal", "Nodule"]
        task1 = shipped["cxr_lt_2024_task1"].names
        assert task1 == sorted(task1)
        assert [task1.index(name) for name in ("Granuloma", "Hernia", "Normal", "Support Devices")] == [
            13,
            14,
            24,
            37,
        ]
        assert shipped["cxr_lt_2024_task3"].names == task1
        assert shipped["cxr_lt_2024_task3"].unseen_names == [
            "Bulla", "Cardiomyopathy", "Hilum", "Osteopenia", "Scoliosis",
        ]  # fmt: skip
        assert shipped["cxr_lt_2026"].names[:3] == ["Normal", "aortic elongation", "cardiomegaly"]
        assert shipped["cxr_lt_2026"].unseen_names == [
            "Scoliosis", "Osteopenia", "Bulla", "Infarction", "Adenopathy", "goiter",
        ]  # fmt: skip
        assert shipped["chexpert"].names == CHEXPERT_14
        assert shipped["mimic"].names == sorted(CHEXPERT_14)

    def test_task_2_is_part_of_task_1(self, shipped):
        assert set(shipped["cxr_lt_2024_task2"].names) < set(shipped["cxr_lt_2024_task1"].names)
        assert set(shipped["phantom"].names) < set(shipped["cxr_lt_2024_task1"].names)

    def test_no_finding_is_never_an_alias_of_normal(self, shipped):
        for labels in shipped.values():
            for source in [None, *(source for label in labels.labels for source in label.aliases)]:
                assert labels.canonical("No Finding", source) in {None, "No Finding", "No finding"}
                assert labels.canonical("Normal", source) in {None, "Normal", "normal"}

    @pytest.mark.parametrize("name", ["cxr_lt_2023", "cxr_lt_2024_task1", "chexpert", "nih"])
    def test_a_label_for_nodule_or_mass_says_nothing_about_either(self, shipped, name):
        assert shipped[name].canonical("Nodule/Mass", "vinbig") is None

    @pytest.mark.parametrize(
        ("name", "source", "finding", "label"),
        [
            ("cxr_lt_2024_task1", "nih", "Effusion", "Pleural Effusion"),
            ("cxr_lt_2024_task1", "nih", "Pleural_Thickening", "Pleural Thickening"),
            ("cxr_lt_2024_task1", "vinbig", "Pulmonary fibrosis", "Fibrosis"),
            ("cxr_lt_2024_task1", "padchest", "aortic elongation", "Tortuous Aorta"),
            ("cxr_lt_2024_task1", "cxr-lt-2024", "Rounded Atelectasis", "Round(ed) Atelectasis"),
            ("cxr_lt_2024_task3", "padchest", "bullas", "Bulla"),
            ("cxr_lt_2026", "cxr_lt_2024", "Calcification of the Aorta", "aortic atheromatosis"),
            ("nih", "nih", "Infiltrate", "Infiltration"),
            ("nih", "cxr-lt-2024", "Pleural Effusion", "Effusion"),
            ("padchest", "padchest", "callus rib fracture", "fracture"),
            ("vindr", "nih", "Effusion", "Pleural effusion"),
            ("phantom", "nih", "Effusion", "Pleural Effusion"),
            ("covid_chestxray", "covid-chestxray", "Pneumonia/Viral/COVID-19", "COVID-19"),
            ("covid_chestxray", "covid-chestxray", "Pneumonia/Viral/SARS", "Viral Pneumonia"),
        ],
    )
    def test_other_sources_findings_are_found_by_alias(self, shipped, name, source, finding, label):
        assert shipped[name].canonical(finding, source) == label

    @pytest.mark.parametrize("name", ["chexpert", "mimic"])
    def test_chexpert_hierarchy_has_20_edges_and_derived_parents(self, shipped, name):
        labels = shipped[name]
        assert sum(map(len, labels.hierarchy.values())) == 20
        assert labels.ancestors("Pneumonia") == ["Fluid Accumulation", "Consolidation", "Opacity", "Abnormal"]
        assert set(labels.hierarchy) - set(labels.names) == {
            "Abnormal", "Opacity", "Fluid Accumulation", "Missing Lung Tissue", "Cardiac", "Other",
        }  # fmt: skip

    @pytest.mark.parametrize("name", ["chexpert", "nih", "phantom"])
    def test_a_hierarchical_set_is_the_plain_one_and_derived_labels_after_it(self, shipped, name):
        plain, full = shipped[name], shipped[f"{name}_hierarchical"]
        assert full.source_names == full.names[: len(plain.names)] == plain.names
        assert full.labels[: len(plain.labels)] == plain.labels
        assert set(full.hierarchy) <= set(full.names)
        assert len(full.edges) == sum(map(len, full.hierarchy.values()))

    def test_chexpert_has_the_published_edges_and_derived_labels(self, shipped):
        full = shipped["chexpert_hierarchical"]
        assert full.hierarchy == shipped["chexpert"].hierarchy
        assert len(full.edges) == 20
        assert {label.name: label.derived for label in full.labels if label.derived} == {"Uncertain": "none"} | (
            dict.fromkeys(
                ["Abnormal", "Cardiac", "Fluid Accumulation", "Missing Lung Tissue", "Opacity", "Other"], "any"
            )
        )

    def test_every_pneumonia_of_covid_chestxray_is_a_pneumonia(self, shipped):
        labels = shipped["covid_chestxray"]
        assert labels.ancestors("COVID-19") == ["Viral Pneumonia", "Pneumonia"]
        assert {name for name in labels.names if "Pneumonia" not in {name, *labels.ancestors(name)}} == {
            "No Finding", "Tuberculosis", "ARDS",
        }  # fmt: skip

    def test_every_finding_of_the_real_files_has_its_label(self, shipped, shared_data):
        with (shared_data / "nih-1000/Data_Entry_2017.csv").open(newline="") as file:
            nih = {part for row in csv.DictReader(file) for part in row["Finding Labels"].split("|")}
        assert {shipped["nih"].canonical(part, "nih") for part in nih - {"No Finding"}} == set(shipped["nih"].names)
        with (shared_data / "nih-1000/BBox_List_2017.csv").open(newline="") as file:
            boxes = {row["Finding Label"] for row in csv.DictReader(file)}
        assert all(shipped["nih"].canonical(part, "nih") for part in boxes)
        with (shared_data / "covid-chestxray/metadata.csv").open(newline="") as file:
            covid = {part.strip() for row in csv.DictReader(file) for part in row["finding"].split(",")}
        assert all(shipped["covid_chestxray"].canonical(part, "covid-chestxray") for part in covid)


class TestReading:
    def test_a_set_is_found_by_name_from_anywhere(self, tmp_path, monkeypatch):
        monkeypatch.chdir(tmp_path)
        (tmp_path / "nih").mkdir()
        assert LabelSet.load("nih").name == "nih"
        assert LabelSet.load("covid-chestxray").name == "covid_chestxray"

    def test_a_set_of_the_working_directory_comes_first(self, tmp_path, monkeypatch):
        folder = tmp_path / "configs/labels"
        folder.mkdir(parents=True)
        (folder / "mine.yaml").write_text("name: mine\nlabels: [{name: Mass}, {name: Nodule}]\n")
        monkeypatch.chdir(tmp_path)
        labels = LabelSet.load("mine")
        assert (labels.name, labels.names) == ("mine", ["Mass", "Nodule"])

    def test_an_unknown_name_lists_the_known_ones(self):
        with pytest.raises(InputError, match=r"'nhi'.*cxr_lt_2023.*nih"):
            find("nhi")

    @pytest.mark.parametrize("name", sorted(SIZES))
    def test_plain_data_round_trip(self, name):
        labels = LabelSet.load(name)
        plain = yaml.safe_load(yaml.safe_dump(labels.to_dict()))
        assert LabelSet.from_dict(plain) == labels
        assert pickle.loads(pickle.dumps(labels)) == labels

    @pytest.mark.parametrize(
        ("text", "message"),
        [
            ("labels: [", "not readable as YAML"),
            ("- a", "not a label set"),
            ("name: x", "not a label set"),
            ("name: 1\nlabels: [{name: a}]", "not a label set"),
            ("name: x\nlabels: []", "no (seen) labels"),
            ("labels: [{name: a, unseen: true}]", "no (seen) labels"),
            ("labels: [{name: a}]\ncolour: red", "unknown keys ['colour']"),
            ("labels: [{name: a, colour: red}]", "'a' has unknown keys ['colour']"),
            ("labels: [Mass]", "write a label as {name: TEXT, ...}, not 'Mass'"),
            ("labels: [{prompts: [a]}]", "write a label as"),
            ("labels: [{name: no}]", "write a label as"),
            ("labels: [{name: '  '}]", "without a name"),
            ("labels: [{name: a, prompts: text}]", "prompts of label 'a' must be a list"),
            ("labels: [{name: a, aliases: {nih: b}}]", "aliases of label 'a' of 'nih' must be a list"),
            ("labels: [{name: a, aliases: {nih: [no]}}]", "found [False]"),
            ("labels: [{name: a, aliases: [b]}]", "must map a name to a list"),
            ("labels: [{name: a, unseen: maybe}]", "must be true or false"),
            ("labels: [{name: a}]\nhierarchy: {b: a}", "hierarchy of 'b' must be a list"),
            ("labels: [{name: Pleural_Effusion}, {name: pleural effusion}]", "are the same name"),
            ("labels: [{name: a}]\nhierarchy: {b: [c]}", "names 'c' under 'b'"),
            ("labels: [{name: a}]\nhierarchy: {b: [c], c: [b]}", "a circle"),
            ("labels: [{name: a, derived: all}]", "`derived:` of label 'a' is 'all', not any or none"),
            ("labels: [{name: a, derived: true}]", "is True, not any or none"),
            ("labels: [{name: a, derived: any}, {name: b}]", "derived from its children, but has none"),
            (
                "labels: [{name: a, derived: any}, {name: b, unseen: true}, {name: c}]\nhierarchy: {a: [b]}",
                "derived from its children, but has none (seen ones)",
            ),
            ("labels: [{name: a, derived: any, unseen: true}, {name: b}]\nhierarchy: {a: [b]}", "unseen and derived"),
            ("labels: [{name: a, derived: none}, {name: b}]\nhierarchy: {a: [b]}", "so it has no children"),
            ("labels: [{name: a, derived: none}]", "derived labels only"),
            ("labels: [{name: Mass}, {name: b}]\nhierarchy: {mass: [b]}", "names 'mass'; write it 'Mass'"),
        ],
    )
    def test_a_wrong_file_is_refused_with_its_name(self, tmp_path, text, message):
        file = tmp_path / "wrong.yaml"
        file.write_text(text if text.startswith(("name", "-")) or text == "labels: [" else f"name: x\n{text}")
        with pytest.raises(InputError, match=re.escape(message)):
            LabelSet.load(file)

    def test_a_file_that_is_no_text_is_refused(self, tmp_path):
        file = tmp_path / "wrong.yaml"
        file.write_bytes(b"\xff\xfe\x00\x80")
        with pytest.raises(InputError, match="not readable as YAML"):
            LabelSet.load(file)

    def test_plain_data_may_name_labels_only(self):
        assert LabelSet.from_dict({"name": "x", "labels": ["Mass"]}) == LabelSet("x", [Label("Mass")])


class TestAliases:
    def test_one_name_for_two_labels_of_a_source_is_refused(self):
        with pytest.raises(InputError, match="'lesion' of source 'nih' stands for both 'Mass' and 'Nodule'"):
            LabelSet(
                "x",
                [Label("Mass", aliases={"nih": ["Lesion"]}), Label("Nodule", aliases={"nih": ["lesion"]})],
            )

    def test_an_alias_must_not_take_the_name_of_another_label(self):
        with pytest.raises(InputError, match="stands for both 'Nodule' and 'Mass'"):
            example(nih=["Nodule"])

    def test_an_alias_counts_for_its_own_source_only(self):
        labels = example(nih=["Lump"])
        assert labels.canonical("lump", "nih") == "Mass"
        assert labels.canonical("Lump", "vinbig") is None
        assert labels.canonical("Lump") == "Mass"

    def test_what_two_sources_use_differently_needs_a_source(self):
        labels = LabelSet(
            "x", [Label("Mass", aliases={"nih": ["Lesion"]}), Label("Nodule", aliases={"rsna": ["Lesion"]})]
        )
        assert labels.canonical("Lesion") is None
        assert [labels.canonical("Lesion", source) for source in ("nih", "rsna")] == ["Mass", "Nodule"]


class TestAlign:
    @settings(deadline=None, max_examples=20)
    @given(st.data())
    def test_columns_in_any_order_and_spelling_give_the_order_of_the_set(self, data):
        labels = LabelSet.load("cxr_lt_2024_task1")
        columns = data.draw(st.permutations(labels.names))
        spell = data.draw(st.sampled_from([str, str.upper, str.lower, lambda text: text.replace(" ", "_")]))
        found = labels.align([spell(column) for column in columns])
        assert list(found) == labels.names
        assert all(spell(name) == column for name, column in found.items())

    def test_the_error_lists_both_sides(self):
        with pytest.raises(InputError) as caught:
            LabelSet.load("nih").align(["Cardiomegally", *LabelSet.load("nih").names[2:]], context="truth.csv")
        message = str(caught.value)
        assert "truth.csv" in message
        assert "labels without a column: Atelectasis, Cardiomegaly;" in message
        assert "no label: Cardiomegally." in message

    @pytest.mark.parametrize(
        ("columns", "allowed"),
        [(["Mass"], {"missing": "ignore"}), (["Mass", "Nodule", "x"], {"unknown": "ignore"})],
    )
    def test_each_side_can_be_allowed(self, columns, allowed):
        with pytest.raises(InputError):
            example().align(columns)
        assert set(example().align(columns, **allowed)) == set(columns) - {"x"}

    def test_two_columns_of_one_label_are_refused(self):
        with pytest.raises(InputError, match="'Mass' and 'lump' both stand for label 'Mass'"):
            example(nih=["Lump"]).align(["Mass", "lump", "Nodule"], source="nih")

    def test_columns_of_unseen_labels_are_left_out(self):
        assert list(example().align(["Bulla", "Nodule", "Mass"])) == ["Mass", "Nodule"]


class TestDerived:
    def test_a_table_never_lacks_a_derived_label_and_may_carry_it(self):
        labels = LabelSet("x", [Label("Mass"), Label("Lesion", derived="any")], hierarchy={"Lesion": ["Mass"]})
        assert labels.names == ["Mass", "Lesion"]
        assert labels.align(["Mass"]) == {"Mass": "Mass"}
        assert labels.align(["lesion", "Mass"]) == {"Mass": "Mass", "Lesion": "lesion"}

    def test_an_absent_parent_is_stepped_over(self):
        labels = LabelSet.load("chexpert_hierarchical")
        assert labels.edges_among(["Abnormal", "Consolidation", "Pneumonia", "Fracture"]) == [
            ("Abnormal", "Consolidation"), ("Abnormal", "Pneumonia"), ("Abnormal", "Fracture"),
            ("Consolidation", "Pneumonia"),
        ]  # fmt: skip
        assert LabelSet.load("chexpert").edges == [
            ("Enlarged Cardiomediastinum", "Cardiomegaly"), ("Consolidation", "Pneumonia"),
        ]  # fmt: skip
        assert LabelSet.load("nih").edges == []

    def test_unseen_labels_have_no_edges_in_training(self):
        labels = LabelSet("x", [Label("Mass"), Label("Bulla", unseen=True)], hierarchy={"Mass": ["Bulla"]})
        assert labels.edges == []
        assert labels.edges_among(["Mass", "Bulla"]) == [("Mass", "Bulla")]

    def test_sets_of_older_checkpoints_have_no_derived_labels(self):
        plain = LabelSet.load("nih").to_dict()
        for label in plain["labels"]:
            del label["derived"]
        assert LabelSet.from_dict(plain) == LabelSet.load("nih")


class TestGroups:
    def test_thresholds_belong_to_the_middle(self):
        names = ["above", "at head", "between", "at tail", "below", "never seen"]
        result = groups(names, [11, 10, 5, 1, 0.9, 0], [100, 100, 100, 100, 100, 0])
        assert result == {"head": ["above"], "medium": ["at head", "between", "at tail"], "tail": ["below"]}

    def test_cxr_lt_2024_train_and_development_give_9_15_16(self):
        # counts of train and development, in the order of the challenge's table; 298,164 images
        counts = """99240 89213 86321 76831 75507 53721 43202 39380 33872 17750 16200 13144 11593 10169 8650
        6077 4833 4660 4402 3886 3831 3751 3348 3154 2652 2455 2477 1935 1332 1022 890 823 826 774 696 570 219
        218 187 155"""
        positives = [float(count) for count in counts.split()]
        result = groups([str(n) for n in range(40)], positives, [298_164] * 40)
        assert [len(result[zone]) for zone in ("head", "medium", "tail")] == [9, 15, 16]


class Data:
    def __init__(self, labels: LabelSet, size: int = 64) -> None:
        self.labels = labels


class Task:
    def __init__(self, labels: LabelSet, rate: float = 0.1) -> None:
        self.labels = labels


class TestCommandLine:
    @pytest.fixture
    def parse(self):
        jsonargparse = pytest.importorskip("jsonargparse")
        parser = jsonargparse.ArgumentParser(exit_on_error=False)
        parser.add_argument("--config", action="config")
        parser.add_subclass_arguments(Data, "data", required=True)
        parser.add_subclass_arguments(Task, "model", required=True)
        parser.link_arguments("data.init_args.labels", "model.init_args.labels")

        def run(*args):
            config = parser.parse_args(list(args))
            built = parser.instantiate(config)
            return built.data.labels, built.model.labels, parser.dump(config)

        return run

    @pytest.fixture
    def experiment(self, tmp_path) -> Path:
        (tmp_path / "labels").mkdir()
        (tmp_path / "experiment").mkdir()
        (tmp_path / "labels/mine.yaml").write_text(
            "name: mine\nlabels: [{name: Mass}, {name: Nodule, prompts: [a spot]}]\n"
        )
        file = tmp_path / "experiment/run.yaml"
        file.write_text(
            f"data: {{class_path: {__name__}.Data, init_args: {{labels: ../labels/mine.yaml}}}}\n"
            f"model: {{class_path: {__name__}.Task}}\n"
        )
        return file

    def test_a_path_relative_to_the_config_file_becomes_a_label_set_on_both_sides(self, parse, experiment):
        labels, linked, _ = parse(f"--config={experiment}")
        assert labels == linked == LabelSet("mine", [Label("Mass"), Label("Nodule", prompts=["a spot"])])

    def test_a_path_on_the_command_line_overrides_it(self, parse, experiment, project_root):
        labels, linked, _ = parse(f"--config={experiment}", f"--data.labels={project_root}/configs/labels/nih.yaml")
        assert labels == linked == LabelSet.load("nih")

    @pytest.mark.parametrize("name", ["mine", "chexpert_hierarchical"])
    def test_a_saved_config_holds_the_labels_themselves(self, parse, experiment, tmp_path, project_root, name):
        given_labels = [] if name == "mine" else [f"--data.labels={project_root}/configs/labels/{name}.yaml"]
        labels, _, dumped = parse(f"--config={experiment}", *given_labels)
        assert labels.name == name
        elsewhere = tmp_path / "saved.yaml"
        elsewhere.write_text(dumped)
        assert parse(f"--config={elsewhere}")[0] == labels
