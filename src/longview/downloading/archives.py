"""Where the public chest X-ray sets are, what they demand, and the commands of their owners' own tools.

A command is a tuple of words: `{output}` stands for the folder that the user chose, `{project}` for a Google Cloud
project that is billed, and a word that is `$NAME` for a variable of the environment (a personal link), which is never
shown. Sizes are approximate; the page of each set has the last word on everything here.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Literal

Credentials = Literal["", "physionet", "kaggle", "google", "link"]
"""What a step needs that only the user has; see :func:`longview.downloading.download.missing_credentials`."""

_PHYSIONET = "https://physionet.org"
_CREDENTIALED = "PhysioNet Credentialed Health Data License 1.5.0; no sharing, no third-party services"
_CREDENTIALED_ACCESS = "a credentialed PhysioNet account, CITI training, and the data use agreement signed on the page"
_WGET = ("wget", "-r", "-N", "-c", "-np", "-nH", "--cut-dirs=3", "--reject", "index.html*", "-P", "{output}")
_WGET_LIST = ("wget", "-r", "-N", "-c", "-np", "-nH", "--cut-dirs=3", "-P", "{output}")
_LINK = "AIMI_URL"


@dataclass(frozen=True)
class Step:
    """One command, or something to do by hand.

    Args:
        what: What it brings.
        command: Words of the command; empty: by hand, as `what` says.
        credentials: What it needs that only the user has.
        unless: A path below the output; where it exists, the step is done.
        environment: Variables that the command needs, with their values.
    """

    what: str
    command: tuple[str, ...] = ()
    credentials: Credentials = ""
    unless: str = ""
    environment: tuple[tuple[str, str], ...] = ()


@dataclass(frozen=True)
class Archive:
    """A public data set.

    Args:
        title: Its full name and version.
        size: Room that it takes, approximately.
        licence: What may be done with it.
        access: What one must have or sign.
        page: Where to sign, and to read on.
        ways: Name of a way to download it -> its steps; the first is the default.
        checksums: Name of the owner's file of SHA-256 sums, "" where none is published.
        note: What else to know.
    """

    title: str
    size: str
    licence: str
    access: str
    page: str
    ways: dict[str, tuple[Step, ...]] = field(default_factory=dict)
    checksums: str = ""
    note: str = ""


def _physionet(path: str, what: str) -> tuple[Step, ...]:
    """A whole project, or a folder of one, by wget."""
    return (Step(what, (*_WGET, f"{_PHYSIONET}/files/{path}"), "physionet"),)


def _kaggle(kind: Literal["competitions", "datasets"], name: str) -> dict[str, tuple[Step, ...]]:
    """A Kaggle set by either of Kaggle's tools."""
    file = name.rpartition("/")[2]
    call = {"competitions": "competition_download", "datasets": "dataset_download"}[kind]
    flag = {"competitions": "-c", "datasets": "-d"}[kind]
    script = f"import kagglehub; print(kagglehub.{call}('{name}'))"
    return {
        "kaggle": (
            Step("the archive", ("kaggle", kind, "download", flag, name, "-p", "{output}"), "kaggle"),
            Step("unpacked", ("unzip", "-n", "-q", f"{{output}}/{file}.zip", "-d", "{output}")),
        ),
        "kagglehub": (
            Step(
                f"all files, in {{output}}/{kind}/{name}",
                ("python", "-c", script),
                "kaggle",
                environment=(("KAGGLEHUB_CACHE", "{output}"),),
            ),
        ),
    }


_MIMIC = f"{_PHYSIONET}/files/mimic-cxr-jpg/2.1.0/"
_MIMIC_TABLES = tuple(
    f"{_MIMIC}{name}"
    for name in (
        "IMAGE_FILENAMES",
        "SHA256SUMS.txt",
        "mimic-cxr-2.0.0-metadata.csv.gz",
        "mimic-cxr-2.0.0-split.csv.gz",
        "mimic-cxr-2.0.0-chexpert.csv.gz",
        "mimic-cxr-2.0.0-negbio.csv.gz",
    )
)
_CXR_LT = "cxr-lt-iccv-workshop-cvamd/2.0.0"
_NIH_BOX = (
    "vfk49d74nhbxq3nqjg0900w5nvkorp5c",
    "i28rlmbvmfjbl8p2n3ril0pptcmcu9d1",
    "f1t00wrtdk94satdfb9olcolqx20z2jp",
    "0aowwzs5lhjrceb3qp67ahp0rd1l1etg",
    "v5e3goj22zr6h8tzualxfsqlqaygfbsn",
    "asi7ikud9jwnkrnkj99jnpfkjdes7l6l",
    "jn1b4mw4n6lnh74ovmcjb8y48h8xj07n",
    "tvpxmn7qyrgl0w8wfh9kqfjskv6nmm1j",
    "upyy3ml7qdumlgk2rfcvlb9k6gvqq2pj",
    "l6nilvfa9cg3s28tqv1qc1olm3gnz54p",
    "hhq8fkdgvcari67vfhs7ppg2w6ni4jze",
    "ioqwiy20ihqwyr8pf4c24eazhh281pbu",
)
"""Shared links of NIH's `images_001.tar.gz` to `images_012.tar.gz`, from `batch_download_zips.py` on its page."""

_NIH_STEPS = tuple(
    step
    for number, link in enumerate(_NIH_BOX, start=1)
    for step in (
        Step(
            f"images, part {number} of 12",
            (
                "wget",
                "-c",
                "-O",
                f"{{output}}/images_{number:03d}.tar.gz",
                f"https://nihcc.box.com/shared/static/{link}.gz",
            ),
        ),
        Step("unpacked", ("tar", "-xzf", f"{{output}}/images_{number:03d}.tar.gz", "-C", "{output}")),
    )
)
_OPENI = "https://openi.nlm.nih.gov/imgs/collections"
_GOOGLE = "https://cloud.google.com/healthcare-api/docs/resources/public-datasets/nih-chest"


def _cxr_lt(year: int) -> Archive:
    return Archive(
        title=f"CXR-LT {year} (PhysioNet, release 2.0.0)",
        size="tables only, below 1 GB",
        licence=_CREDENTIALED,
        access=_CREDENTIALED_ACCESS,
        page=f"{_PHYSIONET}/content/{_CXR_LT}/",
        ways={"wget": _physionet(f"{_CXR_LT}/cxr-lt-{year}/", f"label tables, in {{output}}/cxr-lt-{year}")},
        note="The images are MIMIC-CXR-JPG's: download `mimic` into the same folder.",
    )


ARCHIVES: dict[str, Archive] = {
    "mimic": Archive(
        title="MIMIC-CXR-JPG 2.1.0",
        size="570 GB; 377,110 JPEG files",
        licence=_CREDENTIALED,
        access=_CREDENTIALED_ACCESS,
        page=f"{_PHYSIONET}/content/mimic-cxr-jpg/2.1.0/",
        ways={
            "wget": (
                Step("tables, list of images, checksums", (*_WGET_LIST, *_MIMIC_TABLES), "physionet"),
                Step(
                    "images, by that list",
                    (*_WGET_LIST, "-i", "{output}/IMAGE_FILENAMES", f"--base={_MIMIC}"),
                    "physionet",
                ),
            ),
            "gsutil": (
                Step(
                    "everything, from Google Cloud",
                    (
                        "gsutil", "-u", "{project}", "-m", "rsync", "-r", "gs://mimic-cxr-jpg-2.1.0.physionet.org",
                        "{output}",
                    ),
                    "google",
                ),
            ),
        },
        checksums="SHA256SUMS.txt",
        note="Reading IMAGE_FILENAMES spares the 200,000 index pages that `wget -r` on the folder fetches first, for "
        "days. Google Cloud is the fastest; ask for its access on the page. The bucket may be one where the requester "
        "pays: the project named is billed for what leaves Google's network.",
    ),
    "cxr-lt-2023": _cxr_lt(2023),
    "cxr-lt-2024": _cxr_lt(2024),
    "cxr-lt-2026": Archive(
        title="CXR-LT 2026",
        size="tables only",
        licence="the challenge's and PadChest's terms of use",
        access="taking part in the challenge, and access to PadChest",
        page="https://github.com/CXR-LT/CXR-LT-2026",
        ways={"by hand": (Step("the tables, as the page says"), Step("the images: download `padchest`"))},
    ),
    "chexpert": Archive(
        title="CheXpert v1.0",
        size="440 GB; 224,000 JPEG files (small: 11 GB)",
        licence="Stanford University Dataset Research Use Agreement; research only, no sharing",
        access="an account at Stanford AIMI, and its agreement accepted; it then gives a personal link for some weeks",
        page="https://stanfordaimi.azurewebsites.net/datasets/8cbd9ed4-2eb9-4565-affc-111cf4f7ebe2",
        ways={
            "azcopy": (
                Step(
                    f"everything, with your link in the variable {_LINK}",
                    ("azcopy", "copy", f"${_LINK}", "{output}", "--recursive=true", "--overwrite=ifSourceNewer"),
                    "link",
                ),
            ),
            **_kaggle("datasets", "ashery/chexpert"),
        },
        note="The Kaggle ways bring CheXpert-v1.0-small, of long side about 390 px, as somebody copied it there; its "
        "licence is Stanford's all the same.",
    ),
    "nih": Archive(
        title="NIH ChestX-ray14",
        size="45 GB packed and as much unpacked; 112,120 PNG files",
        licence="no restrictions on use; name the NIH Clinical Center and cite Wang et al., CVPR 2017",
        access="nothing",
        page="https://nihcc.app.box.com/v/ChestXray-NIHCC",
        ways={
            "wget": (
                *_NIH_STEPS,
                Step(
                    "by hand from the page: Data_Entry_2017_v2020.csv, train_val_list.txt, test_list.txt, "
                    "BBox_List_2017.csv"
                ),
            ),
            **_kaggle("datasets", "nih-chest-xrays/data"),
        },
        note="Where a shared link is gone, the page's batch_download_zips.py has the new one. The Kaggle ways bring "
        "the older Data_Entry_2017.csv, the lists and the boxes too.",
    ),
    "nih-google": Archive(
        title="Google's relabels of NIH ChestX-ray14",
        size="a few MB of tables",
        licence="see the page",
        access="the form on the page",
        page=f"{_GOOGLE}#additional_labels",
        ways={
            "gsutil": (
                Step(
                    "tables",
                    (
                        "gsutil", "-u", "{project}", "-m", "rsync", "-r",
                        "gs://gcs-public-data--healthcare-nih-chest-xray-labels", "{output}",
                    ),
                    "google",
                ),
            ),
        },
        note="The bucket has been closed to some: see the page. The images are NIH's: download `nih`.",
    ),
    "vinbig": Archive(
        title="VinBigData chest X-ray abnormalities detection (Kaggle)",
        size="200 GB; 18,000 DICOM files",
        licence="the competition's rules; non-commercial research",
        access="a Kaggle account, and the competition's rules accepted on its page",
        page="https://www.kaggle.com/competitions/vinbigdata-chest-xray-abnormalities-detection",
        ways=_kaggle("competitions", "vinbigdata-chest-xray-abnormalities-detection"),
    ),
    "vindr": Archive(
        title="VinDr-CXR 1.0.0",
        size="about as much as vinbig, see the page; 18,000 DICOM files",
        licence="PhysioNet Credentialed Health Data License 1.5.0",
        access=_CREDENTIALED_ACCESS,
        page=f"{_PHYSIONET}/content/vindr-cxr/1.0.0/",
        ways={"wget": _physionet("vindr-cxr/1.0.0/", "everything")},
        checksums="SHA256SUMS.txt",
    ),
    "padchest": Archive(
        title="PadChest",
        size="1 TB; 160,000 PNG files of 16 bits",
        licence="PadChest Dataset Research Use Agreement; research only, no sharing",
        access="the form on the page",
        page="https://bimcv.cipf.es/bimcv-projects/padchest/",
        ways={"by hand": (Step("the zips and the table, by the link that the page gives once its form is filled in"),)},
    ),
    "rsna": Archive(
        title="RSNA pneumonia detection challenge (Kaggle, stage 2)",
        size="4 GB; 30,000 DICOM files",
        licence="the competition's rules; the images are NIH ChestX-ray14's",
        access="a Kaggle account, and the competition's rules accepted on its page",
        page="https://www.kaggle.com/competitions/rsna-pneumonia-detection-challenge",
        ways=_kaggle("competitions", "rsna-pneumonia-detection-challenge"),
        note="Put pneumonia-challenge-dataset-mappings_2018.json into the same folder: it names the NIH image and "
        "patient of each. RSNA publishes it beside the challenge's description.",
    ),
    "openi": Archive(
        title="Open-I, Indiana University chest X-rays",
        size="3 GB; 7,470 PNG files and 3,955 reports",
        licence="CC BY-NC-ND 4.0, see the page",
        access="nothing",
        page="https://openi.nlm.nih.gov/faq",
        ways={
            "wget": (
                Step("reports", ("wget", "-c", "-P", "{output}", f"{_OPENI}/NLMCXR_reports.tgz")),
                Step("images", ("wget", "-c", "-P", "{output}", f"{_OPENI}/NLMCXR_png.tgz")),
                Step("unpacked", ("tar", "-xzf", "{output}/NLMCXR_reports.tgz", "-C", "{output}")),
                Step(
                    "unpacked", ("tar", "-xzf", "{output}/NLMCXR_png.tgz", "--one-top-level={output}/NLMCXR_png")
                ),
            ),
        },
    ),
    "covid-chestxray": Archive(
        title="covid-chestxray-dataset (Cohen et al.)",
        size="about 1 GB",
        licence="by image, in the column `license` of metadata.csv",
        access="nothing",
        page="https://github.com/ieee8023/covid-chestxray-dataset",
        ways={
            "git": (
                Step(
                    "everything",
                    ("git", "clone", "--depth", "1", "https://github.com/ieee8023/covid-chestxray-dataset", "{output}"),
                    unless=".git",
                ),
            ),
        },
    ),
}  # fmt: skip
"""Name of a source -> the data set that it reads."""
