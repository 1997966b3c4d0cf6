"""The layers of the package: an arrow never goes up, and tools that need no torch do not import it."""

import ast
import subprocess
import sys

import pytest

DATA_LOW = ["longview.data.manifest", "longview.data.images"]
DATA_MIDDLE = [
    "longview.data.sources",
    "longview.data.store",
    "longview.data.transforms",
    "longview.data.splits",
    "longview.data.phantom",
]
PACKING = ["longview.data.annotations", "longview.data.room", "longview.data.store"]
DATA_SIDE = ["longview.data.datamodule", "longview.data.features", "longview.data.studies"]
MODEL_SIDE = ["longview.models", "longview.losses", "longview.optim", "longview.metrics"]
TABLES = ["longview.labels", "longview.data.manifest", "longview.predictions"]

# module or package -> what it may import, beside the bare `longview` and modules of its own package
ALLOWED = {
    "longview": [],
    "longview.labels": ["longview.hierarchy"],
    "longview.hierarchy": [],
    "longview.calibration": [
        *TABLES,
        "longview.evaluate",
        "longview.joining",
        "longview.outputs",
        "longview.truth",
    ],
    "longview.calibration.figures": [],  # the epoch's metrics have it too
    "longview.downloading": ["longview.outputs"],
    "longview.filling": [],
    "longview.ranking": [],
    "longview.outputs": [],
    "longview.parsers": [],
    "longview.data": [],
    "longview.data.manifest": [],
    "longview.data.frames": ["longview.data.images"],
    "longview.data.intensity": [],
    "longview.data.film_bytes": [],
    "longview.data.dicom": ["longview.data.film_bytes", "longview.data.intensity"],
    "longview.data.images": ["longview.data.dicom", "longview.data.film_bytes", "longview.data.intensity"],
    "longview.data.sources": ["longview.labels", *DATA_LOW],
    "longview.data.transforms": ["longview.labels", *DATA_LOW],
    "longview.data.splits": ["longview.labels", *DATA_LOW],
    "longview.data.phantom": ["longview.labels", *DATA_LOW],
    "longview.data.room": [],
    "longview.data.families": [],
    "longview.data.store_names": ["longview.data.manifest"],
    "longview.data.borrowing": ["longview.data.manifest", "longview.data.store"],
    "longview.data.annotations": ["longview.data.manifest", "longview.data.store"],
    "longview.data.store": ["longview.labels", *DATA_LOW, "longview.data.room"],
    "longview.data.packing": [*DATA_LOW, "longview.data.store"],
    "longview.data.partial": [*DATA_LOW, *PACKING, "longview.data.packing"],
    "longview.data.building": [*DATA_LOW, *PACKING, "longview.data.packing", "longview.data.partial"],
    "longview.data.shards": [*DATA_LOW, *PACKING, "longview.data.building", "longview.data.partial"],
    "longview.data.merging": [
        *DATA_LOW,
        *PACKING,
        "longview.data.building",
        "longview.data.packing",
        "longview.data.partial",
        "longview.data.shards",
    ],
    "longview.data.prepare": [
        "longview.labels",
        *DATA_LOW,
        *DATA_MIDDLE,
        *PACKING,
        "longview.data.building",
        "longview.data.derive",
        "longview.data.merging",
        "longview.data.partial",
        "longview.data.shards",
    ],
    "longview.data.studies": [
        "longview.labels",
        "longview.data.derive",
        *DATA_LOW,
        *DATA_MIDDLE,
        "longview.data.features",
        "longview.data.sampler",
        "longview.data.store_names",
        "longview.data.views",
    ],
    "longview.data.datamodule": [
        "longview.labels",
        *DATA_LOW,
        *DATA_MIDDLE,
        "longview.data.families",
        "longview.data.files",
        "longview.data.loader",
        "longview.data.phantom_store",
        "longview.data.prepare",
        "longview.data.sampler",
        "longview.data.sampling",
        "longview.data.studies",
        "longview.data.views",
    ],
    "longview.pseudo": [
        *TABLES,
        "longview.filling",
        "longview.joining",
        "longview.data.borrowing",
        "longview.data.derive",
        "longview.data.store",
    ],
    "longview.test_time": [],
    "longview.uncertainty": [
        "longview.curves",
        "longview.data.manifest",
        "longview.joining",
        "longview.models",
        "longview.predictions",
    ],
    "longview.reporting": [
        *TABLES,
        "longview.uncertainty",
        "longview.calibration.file",
        "longview.calibration.reliability",
        "longview.checkpoints",
        "longview.curves",
        "longview.data.sources",
        "longview.data.store",
        "longview.joining",
        "longview.outputs",
        "longview.score_report",
        "longview.statistics",
        "longview.truth",
    ],
    "longview.explain": [
        "longview.uncertainty",
        "longview.data.files",
        "longview.data.frames",
        "longview.data.images",
        "longview.data.store",
        "longview.data.transforms",
        "longview.data.views",
        "longview.inference",
        "longview.models",
        "longview.outputs",
        "longview.test_time",
    ],
    "longview.localization": [
        "longview.curves",
        "longview.data.manifest",
        "longview.data.store",
        "longview.joining",
        "longview.labels",
        "longview.outputs",
        "longview.score_report",
        "longview.statistics",
    ],
    "longview.challenges": ["longview.labels", "longview.joining", "longview.predictions"],
    "longview.ensembling": [
        *TABLES,
        "longview.uncertainty",
        "longview.calibration.file",
        "longview.checkpoints",
        "longview.data.sources.base",
        "longview.data.splits",
        "longview.evaluate",
        "longview.joining",
        "longview.outputs",
        "longview.ranking",
        "longview.test_time",
        "longview.training",
        "longview.truth",
    ],
    "longview.cross_validation": [
        *TABLES,
        "longview.launch",
        "longview.data.borrowing",
        "longview.data.derive",
        "longview.data.families",
        "longview.data.phantom_store",
        "longview.data.splits",
        "longview.data.store",
        "longview.ensembling",
        "longview.outputs",
        "longview.ranking",
        "longview.training",
    ],
    "longview.submission": [
        *TABLES,
        "longview.challenges",
        "longview.calibration",
        "longview.joining",
        "longview.outputs",
    ],
    "longview.pipeline": [  # it asks each command's own parser whether its options are right
        "longview.launch",
        "longview.labels",
        "longview.outputs",
        "longview.calibration.calibrate",
        "longview.data.phantom",
        "longview.data.prepare",
        "longview.pseudo",
        "longview.training",
        "longview.calibration.thresholds",
        "longview.data.families",
        "longview.data.sources",
        "longview.data.splits",
        "longview.data.store",
        "longview.evaluate",
        "longview.filling",
        "longview.joining",
        "longview.parsers",
        "longview.submission",
    ],
    "longview.statistics": ["longview.ranking"],
    "longview.subgroups": ["longview.data.manifest", "longview.joining"],
    "longview.score_report": [
        "longview.curves",
        "longview.joining",
        "longview.outputs",
        "longview.ranking",
        "longview.statistics",
        "longview.subgroups",
        "longview.truth",
        "longview.violations",
    ],
    "longview.comparison": ["longview.joining", "longview.ranking", "longview.statistics", "longview.truth"],
    "longview.forest": ["longview.comparison", "longview.curves", "longview.truth"],
    "longview.compare": [
        "longview.evaluation_checks",
        "longview.statistics",
        *TABLES,
        "longview.comparison",
        "longview.evaluate",
        "longview.forest",
        "longview.joining",
        "longview.outputs",
        "longview.score_report",
        "longview.truth",
    ],
    "longview.tuning": ["longview.board", "longview.callbacks", "longview.outputs", "longview.training"],
    "longview.data.derive": ["longview.labels", "longview.hierarchy", "longview.data.manifest"],
    "longview.data.sampling": [],
    "longview.data.sampler": ["longview.data.sampling"],
    "longview.data.views": [],
    "longview.data.features": [],
    "longview.data.loader": ["longview.data.sampler", "longview.data.studies"],
    "longview.data.files": [*DATA_LOW, *DATA_MIDDLE],
    "longview.data.phantom_store": [
        "longview.labels",
        *DATA_LOW,
        *DATA_MIDDLE,
        "longview.data.annotations",
        "longview.data.prepare",
    ],
    "longview.models": ["longview.labels", "longview.outputs"],
    "longview.serving": [
        "longview.calibration.file",
        "longview.data.dicom",
        "longview.data.film_bytes",
        "longview.data.frames",
        "longview.data.images",
        "longview.data.transforms",
        "longview.data.views",
        "longview.explain",
        "longview.exported.runtime",
        "longview.hierarchy",
        "longview.inference",
        "longview.localization.boxes",
        "longview.models.decoder",
        "longview.models.network",
        "longview.uncertainty",
    ],
    "longview.exported": [
        "longview.labels",
        "longview.checkpoints",
        "longview.data.transforms",
        "longview.models",
        "longview.tasks",
        "longview.test_time",
    ],
    "longview.exporting": [
        "longview.labels",
        "longview.hierarchy",
        "longview.calibration.file",
        "longview.data.files",
        "longview.exported",
        "longview.inference",
        "longview.models",
        "longview.outputs",
        "longview.reporting.card",
    ],
    "longview.inference": [
        "longview.uncertainty",
        "longview.exported",
        "longview.labels",
        "longview.hierarchy",
        "longview.checkpoints",
        "longview.outputs",
        "longview.tasks",
        "longview.test_time",
        "longview.models.network",
        "longview.models.xrv",
        "longview.data.frames",
        "longview.data.images",
        "longview.data.transforms",
    ],
    "longview.findings": ["longview.labels", "longview.data.manifest", "longview.outputs", "longview.predictions"],
    "longview.classify": [
        "longview.calibration.file",
        "longview.findings",
        "longview.inference",
        "longview.data.files",
        "longview.data.transforms",
        "longview.models.xrv_weights",
    ],
    "longview.losses": ["longview.labels", "longview.hierarchy"],
    "longview.mixing": [],
    "longview.launch": [],
    "longview.notices": [],
    "longview.preemption": ["longview.callbacks", "longview.launch"],
    "longview.together": ["longview.launch", "longview.mixing"],
    "longview.optim": ["longview.labels"],
    "longview.metrics": ["longview.labels", "longview.ranking", "longview.calibration.figures"],
    "longview.checkpoints": ["longview.labels"],
    "longview.arguments": ["longview.checkpoints", "longview.labels"],
    "longview.label_map": ["longview.outputs"],
    "longview.label_report": [
        "longview.labels",
        "longview.label_map",
        "longview.joining",
        "longview.data.derive",
        "longview.data.store",
        "longview.models.label_text",
        "longview.models.text_encoder",
    ],
    "longview.tasks": [
        "longview.uncertainty",
        "longview.labels",
        "longview.hierarchy",
        "longview.ranking",
        "longview.checkpoints",
        "longview.test_time",
        *MODEL_SIDE,
    ],
    "longview.feature_cache": ["longview.tasks", "longview.data.store", *DATA_SIDE],
    "longview.joining": ["longview.labels", "longview.data.manifest"],
    "longview.predictions": ["longview.labels", "longview.data.manifest", "longview.joining", "longview.outputs"],
    "longview.truth": [*TABLES, "longview.joining", "longview.data.families"],
    "longview.curves": ["longview.labels", "longview.ranking"],
    "longview.violations": ["longview.labels", "longview.hierarchy", "longview.ranking"],
    "longview.evaluation_checks": [
        *TABLES,
        "longview.calibration.file",
        "longview.joining",
        "longview.truth",
    ],
    "longview.evaluate": [
        *TABLES,
        "longview.evaluation_checks",
        "longview.uncertainty",
        "longview.ranking",
        "longview.joining",
        "longview.truth",
        "longview.curves",
        "longview.violations",
        "longview.calibration.file",
        "longview.reporting",
        "longview.score_report",
        "longview.statistics",
        "longview.subgroups",
        "longview.data.derive",
        "longview.outputs",
    ],
    "longview.callbacks": ["longview.labels", "longview.ranking", "longview.tasks"],
    "longview.board": [
        "longview.calibration.figures",
        "longview.calibration.reliability",
        "longview.callbacks",
        "longview.curves",
        "longview.metrics",
        "longview.ranking",
        "longview.tasks",
    ],
    "longview.prediction_writer": [
        "longview.uncertainty",
        "longview.calibration.file",
        "longview.hierarchy",
        "longview.outputs",
        "longview.predictions",
        "longview.tasks",
    ],
    "longview.monitoring": ["longview.data.datamodule"],
    "longview.options": [],
    "longview.training": [
        "longview.uncertainty",
        "longview.parsers",
        "longview.arguments",
        "longview.board",
        "longview.calibration.file",
        "longview.callbacks",
        "longview.checkpoints",
        "longview.feature_cache",
        "longview.monitoring",
        "longview.options",
        "longview.prediction_writer",
        "longview.launch",
        "longview.notices",
        "longview.preemption",
        "longview.together",
        "longview.data.datamodule",
        "longview.tasks",
        "longview.labels",
    ],
    "longview.cli": ["longview"],  # all of it; nothing imports the command line
}

TORCH_FREE = [
    "longview.cli",
    "longview.labels",
    "longview.hierarchy",
    "longview.violations",
    "longview.data.derive",
    "longview.label_map",
    "longview.label_report",
    "longview.ranking",
    "longview.predictions",
    "longview.evaluate",
    "longview.evaluation_checks",
    "longview.reporting.write",
    "longview.classify",
    "longview.exporting.export",
    "longview.serving.serve",
    "longview.findings",
    "longview.uncertainty.summary",
    "longview.uncertainty.risk",
    "longview.explain.explain",
    "longview.data.frames",
    "longview.localization.localize",
    "longview.submission",
    "longview.calibration.calibrate",
    "longview.challenges.check",
    "longview.compare",
    "longview.cross_validation.folds",
    "longview.ensembling.ensemble",
    "longview.ensembling.soup",
    "longview.statistics",
    "longview.downloading.download",
    "longview.data.families",
    "longview.filling",
    "longview.launch",
    "longview.pipeline",
    "longview.pseudo",
    "longview.tuning.tune",
    "longview.tuning.space",
    "longview.data.prepare",
    "longview.data.phantom",
    "longview.data.transforms",
]


def modules(root):
    for file in sorted((root / "src" / "longview").rglob("*.py")):
        parts = file.relative_to(root / "src").with_suffix("").parts
        yield ".".join(part for part in parts if part != "__init__"), file


def rule_of(module):
    while module not in ALLOWED and "." in module:
        module = module.rpartition(".")[0]
    return module


def imports(file):
    for node in ast.walk(ast.parse(file.read_text(encoding="utf-8"))):
        if isinstance(node, ast.ImportFrom) and node.module:
            for alias in node.names:
                yield node.module, alias.name
        elif isinstance(node, ast.Import):
            for alias in node.names:
                yield alias.name, ""


def within(module, prefix):
    return module == prefix or module.startswith(prefix + ".")


def test_every_import_goes_down(project_root):
    wrong = []
    known = {module for module, _ in modules(project_root)}
    for module, file in modules(project_root):
        rule = rule_of(module)
        if rule in {"longview", "longview.data"} and module != rule:
            wrong.append(f"{module} has no place in the order of layers")
            continue
        for target, name in imports(file):
            if not within(target, "longview"):
                continue
            full = f"{target}.{name}"
            places = [full] if full in known else [target]
            for place in places:
                own_package = within(place, rule) and rule not in {"longview", "longview.data"}
                allowed = place == "longview" or own_package
                if not allowed and not any(within(place, prefix) for prefix in ALLOWED[rule]):
                    wrong.append(f"{module} imports {place}")
    assert wrong == []


@pytest.mark.parametrize("module", TORCH_FREE)
def test_tools_start_without_torch(module):
    code = f"import sys, {module}; sys.exit(any(name in sys.modules for name in ('torch', 'lightning', 'timm')))"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
