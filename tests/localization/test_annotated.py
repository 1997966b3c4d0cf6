"""True boxes in every form that data sets have them, brought to the films' frames or refused."""

import numpy as np
import pandas as pd
import pytest

from longview import InputError
from longview.data.annotations import Annotations
from longview.data.manifest import Manifest
from longview.data.prepare import prepare_manifest
from longview.labels import Label, LabelSet
from longview.localization.annotated import Annotated, in_films
from longview.localization.explained import Film

LABELS = LabelSet("t", [Label("Mass"), Label("Infiltration"), Label("Lung Opacity"), Label("active_tb")])
NIH = "Image Index,Finding Label,Bbox [x,y,w,h],,,\n"


def films(width, height, *images):
    return {image: Film(image, height, width) for image in images}


def read(tmp_path, text, shown, name="boxes.csv", stretched=False, frame=None):
    (tmp_path / name).write_text(text)
    annotated = Annotated.read(tmp_path / name)
    return in_films(annotated.in_frame(*frame) if frame else annotated, shown, LABELS, stretched=stretched)


FORMS = {
    "sizes": ("image_id,label,x,y,width,height\na,Mass,10,20,30,40\nb,Mass,,,,\n", (10, 20, 30, 40)),
    "corners": ("image_id,label,x_min,y_min,x_max,y_max\na,mass,10,20,40,60\nb,Mass,,,,\n", (10, 20, 30, 40)),
    "vinbig": (
        "image_id,class_name,class_id,rad_id,x_min,y_min,x_max,y_max,width,height\n"
        "a,Mass,3,R1,20,40,80,120,200,200\nb,No finding,14,R1,,,,,200,200\n",
        (10, 20, 30, 40),
    ),
    "tbx": (
        "fname,image_height,image_width,source,bbox,target,tb_type,image_type\n"
        "a.png,200,200,train,\"{'xmin': 20, 'ymin': 40, 'width': 60, 'height': 80}\",tb,active_tb,tb\n"
        "b.png,200,200,train,none,no_tb,none,healthy\n",
        (10, 20, 30, 40),
    ),
}


@pytest.mark.parametrize("form", FORMS)
def test_a_table_of_each_form_gives_boxes_and_films_known_to_be_without(tmp_path, form):
    text, wanted = FORMS[form]
    found = read(tmp_path, text, films(100, 100, "a", "b"))
    (((image, label), boxes),) = found.boxes.items()
    assert (image, label) == ("a", "active_tb" if form == "tbx" else "Mass")
    assert boxes.tolist() == [list(wanted)]
    assert found.absent == {("b", label)}


def test_nihs_list_is_in_1024_pixels_and_says_nothing_of_films_and_findings_it_has_no_box_of(tmp_path):
    text = NIH + "00000001_000.png,Infiltrate,512,256,128,64,,,\n00000001_001.png,Mass,0,0,1024,1024,,,\n"
    found = read(tmp_path, text, films(64, 64, "00000001_000", "00000001_001"))
    assert found.boxes["00000001_000", "Infiltration"].tolist() == [[32, 16, 8, 4]]
    assert found.absent == set()
    assert found.patients == {"00000001_000": "00000001", "00000001_001": "00000001"}
    assert found.unit == "patient"


def test_rsnas_table_knows_its_label_its_frame_and_its_patients(tmp_path):
    text = "patientId,x,y,width,height,Target\np,264.0,152.0,213.0,379.0,1\np,0,0,10,10,1\nq,,,,,0\n"
    found = read(tmp_path, text, films(1024, 1024, "p", "q"))
    assert found.boxes["p", "Lung Opacity"].tolist() == [[264, 152, 213, 379], [0, 0, 10, 10]]
    assert found.absent == {("q", "Lung Opacity")}
    assert found.patients["q"] == "q"


def test_a_store_gives_boxes_patients_and_what_its_manifest_says_to_be_absent(tmp_path):
    import cv2

    (tmp_path / "raw").mkdir()
    rows = []
    for image, value in (("a", 1.0), ("b", 0.0), ("c", np.nan), ("d", 1.0)):
        cv2.imwrite(str(tmp_path / f"raw/{image}.png"), np.full((80, 40), 90, np.uint8))
        rows.append(("s", "p", f"s{image}", image, "PA", f"{image}.png", "test", value))
    columns = ["source", "patient_id", "study_id", "image_id", "view", "path", "split", "Mass"]
    boxes = pd.DataFrame([("a", "Mass", 1.0, 2.0, 3.0, 4.0, np.nan, np.nan, "")], columns=[
        "image_id", "label", "x", "y", "width", "height", "frame_width", "frame_height", "reader"])  # fmt: skip
    manifest = Manifest(pd.DataFrame(rows, columns=columns).astype({"Mass": "float32"}))
    prepare_manifest(manifest, tmp_path / "raw", tmp_path / "store", size=32, annotations=Annotations(boxes=boxes))
    found = in_films(Annotated.read(tmp_path / "store"), films(40, 80, *"abcd"), LABELS)
    assert {key: value.tolist() for key, value in found.boxes.items()} == {("a", "Mass"): [[1, 2, 3, 4]]}
    assert found.absent == {("b", "Mass")}
    assert set(found.patients.values()) == {"s/p"}


def test_a_store_without_boxes_says_what_to_do(make_store):
    store = make_store(["Mass"], patients=2)
    with pytest.raises(InputError, match=r"has no boxes\.parquet.*prepare it again, or give a table"):
        Annotated.read(store)


def test_a_box_outside_of_the_film_names_file_row_both_frames_and_the_remedy(tmp_path):
    text = "image_id,label,x,y,width,height\na,Mass,1,1,5,5\na,Mass,300,100,50,50\n"
    wanted = (
        r"boxes\.csv: row 3: the box 300,100,50,50 of Mass lies outside of the frame 64 x 32 \(the film's, as the file "
        r"states none\); the film a has 64 x 32 pixels \(width x height\), and 1 boxes are so.*--frame WIDTHxHEIGHT"
    )
    with pytest.raises(InputError, match=wanted):
        read(tmp_path, text, films(64, 32, "a"))
    found = read(tmp_path, text, films(64, 32, "a"), frame=(640, 320))
    assert found.boxes["a", "Mass"].tolist() == [[0.1, 0.1, 0.5, 0.5], [30, 10, 5, 5]]


def test_a_frame_on_the_command_line_does_not_overrule_that_of_the_file(tmp_path):
    text = "image_id,label,x,y,width,height,frame_width,frame_height\na,Mass,1,1,5,5,64,32\n"
    assert read(tmp_path, text, films(64, 32, "a"), frame=(64, 32)) is not None
    with pytest.raises(InputError, match=r"boxes\.csv: row 2: .* 64 x 32, as the file .* --frame says 640x320; leave"):
        read(tmp_path, text, films(64, 32, "a"), frame=(640, 320))


def test_a_box_outside_of_the_frame_that_its_own_file_states_is_refused_too(tmp_path):
    text = "image_id,label,x,y,width,height,frame_width,frame_height\na,Mass,90,0,20,5,100,100\n"
    with pytest.raises(InputError, match=r"row 2: .*outside of the frame 100 x 100 \(the frame that the file states\)"):
        read(tmp_path, text, films(400, 400, "a"))


def test_a_frame_of_another_shape_is_refused_unless_the_film_was_squashed(tmp_path):
    text = "image_id,label,x,y,width,height,frame_width,frame_height\na,Mass,10,20,30,40,100,200\n"
    with pytest.raises(InputError, match=r"row 2: .*frame of 100 x 200, but the film a has 50 x 50.*--stretched true"):
        read(tmp_path, text, films(50, 50, "a"))
    assert read(tmp_path, text, films(50, 50, "a"), stretched=True).boxes["a", "Mass"].tolist() == [[5, 5, 15, 10]]


def test_a_box_that_rounding_put_over_the_edge_is_cut_there(tmp_path):
    found = read(tmp_path, "image_id,label,x,y,width,height\na,Mass,-0.5,10,30,20.9\n", films(40, 30, "a"))
    assert found.boxes["a", "Mass"].tolist() == [[0, 10, 29.5, 20]]


BAD = {
    "image_id,label,x,y,width,height\na,Mass,1,2,three,4\n": r"row 2, and 1 rows are so; a box is four numbers",
    "image_id,label,x,y,width,height\na,Mass,1,2,,4\n": r"row 2, and 1 rows",
    "image_id,label,x,y,width,height\na,Mass,1,2,0,4\n": r"row 2 has a box of 0 x 4 pixels",
    "image_id,label,x_min,y_min,x_max,y_max\na,Mass,5,5,4,9\n": r"row 2 has a box of -1 x 4 pixels",
    "image_id,label,score\na,Mass,1\n": r"has no boxes: name columns x, y, width, height",
    "image_id,x,y,width,height\na,1,2,3,4\n": "has no column of labels",
    "label,x,y,width,height\nMass,1,2,3,4\n": "has no column of image ids",
    "image_id,label,x,y,width,height\n,Mass,1,2,3,4\n": "'image_id' is empty in row 2",
    "fname,bbox,tb_type\na,[1],active_tb\n": r"bbox is '\[1\]' in row 2",
    "image_id,label,x,y,width,height\nz,Mass,1,2,3,4\n": "none of the 1 explained films is in .*films are a, .*has z",
    "image_id,label,x,y,width,height\na,Wart,1,2,3,4\n": "no true box of an explained label.* of Wart, the maps of M",
}


@pytest.mark.parametrize(("text", "message"), BAD.items())
def test_a_table_that_cannot_be_read_is_named_with_its_row(tmp_path, text, message):
    with pytest.raises(InputError, match=rf"boxes\.csv.*{message}|{message}"):
        read(tmp_path, text, films(50, 50, "a"))
