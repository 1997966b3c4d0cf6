"""A tiny model with random weights, served within the test's own process."""

import asyncio
import io
import json
from dataclasses import dataclass

import cv2
import httpx
import numpy as np
import pydicom
import torch
from pydicom.dataset import Dataset, FileMetaDataset
from pydicom.uid import ExplicitVRLittleEndian, generate_uid

from longview.data.transforms import Preprocessing
from longview.inference import OpenModel
from longview.labels import Label, LabelSet
from longview.models.decoder import LinearDecoder
from longview.models.encoder import Encoder
from longview.models.network import StudyNetwork
from longview.serving.app import create_app
from longview.serving.plan import Plan
from longview.serving.served import Served
from longview.serving.settings import Settings

SIDE = 96
NAMES = ["Cardiomegaly", "Effusion", "Pneumothorax", "No Finding"]
PATIENT = "MUSTERMANN^ERIKA"


def tiny_model(name="tiny", dropout=0.3, seed=0):
    torch.manual_seed(seed)
    labels = LabelSet("tiny", tuple(Label(each) for each in NAMES))
    network = StudyNetwork(Encoder("test_resnet"), LinearDecoder(dropout=dropout))
    network.build(labels, SIDE)
    network.eval().requires_grad_(requires_grad=False)
    return OpenModel(
        name, labels, NAMES, network, SIDE, Preprocessing(SIDE, "letterbox"), f"{seed:064x}", torch.device("cpu")
    )


def film(height=60, width=48, seed=0):
    return np.random.default_rng(seed).integers(0, 256, (height, width), dtype=np.uint8)


def encoded(pixels, suffix=".png"):
    return cv2.imencode(suffix, pixels)[1].tobytes()


def dicom(pixels, **attributes):
    """A DICOM film with a patient's name in every place that has one."""
    dataset = Dataset()
    dataset.file_meta = FileMetaDataset()
    dataset.file_meta.TransferSyntaxUID = ExplicitVRLittleEndian
    dataset.file_meta.MediaStorageSOPClassUID = "1.2.840.10008.5.1.4.1.1.1.1"
    dataset.file_meta.MediaStorageSOPInstanceUID = generate_uid(entropy_srcs=["film"])
    dataset.PatientName, dataset.PatientID, dataset.StudyDescription = PATIENT, PATIENT, PATIENT
    dataset.SamplesPerPixel, dataset.PhotometricInterpretation = 1, "MONOCHROME2"
    dataset.BitsAllocated, dataset.BitsStored, dataset.HighBit, dataset.PixelRepresentation = 8, 8, 7, 0
    dataset.Rows, dataset.Columns = pixels.shape
    dataset.add_new(0x7FE00010, "OB", pixels.tobytes())
    for name, value in attributes.items():
        if value is None:
            delattr(dataset, name)
        else:
            setattr(dataset, name, value)
    file = io.BytesIO()
    pydicom.dcmwrite(file, dataset, enforce_file_format=True)
    return file.getvalue()


@dataclass(frozen=True)
class TinyPlan(Plan):
    """A plan of the tiny model, for servers in processes of their own."""

    def open(self):
        """The tiny model."""
        return [Served.of(tiny_model())]


class Api:
    """Asks an application in this process, one or several requests at once."""

    def __init__(self, models, **settings):
        self.app = create_app(models, Settings(**settings))
        self.house = self.app.state.house

    async def client(self, requests, **options):
        transport = httpx.ASGITransport(self.app, raise_app_exceptions=True)
        async with httpx.AsyncClient(transport=transport, base_url="http://films", timeout=30) as client:
            return await asyncio.gather(*(client.request(*args, **{**options, **kwargs}) for args, kwargs in requests))

    def ask(self, method, path, **options):
        return asyncio.run(self.client([((method, path), options)]))[0]

    def together(self, requests):
        return asyncio.run(self.client(requests))

    def studies(self, *contents, headers=None, **fields):
        files = [("files", (f"../../{PATIENT}.dcm", content)) for content in contents]
        return self.ask("POST", "/v1/studies", files=files, data=fields, headers=headers)


def problem(response, status):
    """The detail of a refusal, which must be a problem of this status."""
    assert response.status_code == status, response.text
    assert response.headers["content-type"] == "application/problem+json"
    body = json.loads(response.text)
    assert set(body) == {"type", "title", "status", "detail"}
    assert body["status"] == status
    assert PATIENT not in response.text
    return body["detail"]
