import pytest

from longview.labels import Label, LabelSet


@pytest.fixture
def labels():
    names = ["Support Devices", "Cardiomegaly", "Pleural Effusion", "Hernia"]
    return LabelSet("test", [*map(Label, names), Label("Cyst", unseen=True)])
