"""The page in a real browser against a server that answers as the API does: no error, nothing foreign, nothing kept."""

import json
import re

import pytest

sync_api = pytest.importorskip("playwright.sync_api", reason="playwright is not installed: uv sync --group dev")
pytest.importorskip("fastapi", reason="fastapi is not installed: uv sync --extra serve")

from page_stub import BOX, LABELS, MODELS, PAGE, film_png, make_app, running  # noqa: E402

FILMS = [
    {"name": "DOE^JANE_pa.png", "mimeType": "image/png", "buffer": film_png(200, 240)},
    {"name": "side lateral.png", "mimeType": "image/png", "buffer": film_png(160, 200, seed=1)},
]
DICOM = {"name": "film", "mimeType": "", "buffer": bytes(128) + b"DICM" + bytes(64)}
expect = sync_api.expect
expect.set_options(timeout=20_000)


@pytest.fixture(scope="module")
def server():
    app = make_app()
    with running(app) as address:
        yield app, address


@pytest.fixture
def open_page(browser, server):
    """Open the page; at the end nothing may have been complained of, asked of others, or kept."""
    troubles, contexts = [], []

    def opened(address=None, films=(), allowed=(), **options):
        address = address or server[1]
        context = browser.new_context(reduced_motion="reduce", **options)
        contexts.append(context)
        page = context.new_page()
        page.on("console", lambda message: troubles.append(message.text)
                if not any(word in message.text for word in allowed) else None)  # fmt: skip
        page.on("pageerror", lambda error: troubles.append(str(error)))
        page.on("request", lambda request: request.url.startswith((address, "blob:" + address, "data:"))
                or troubles.append(request.url[:100]))  # fmt: skip
        page.goto(address)
        if films:
            expect(page.locator("#model option").first).to_be_attached()
            page.set_input_files("#files", list(films))
            expect(page.locator(".thumb canvas")).to_have_count(len(films))
        return page

    yield opened
    for context in contexts:
        kept = context.storage_state()
        if kept["cookies"] or any(origin["localStorage"] for origin in kept["origins"]):
            troubles.append(f"kept: {kept}")
        context.close()
    assert troubles == []


def read(page, maps=True):
    page.click("#send")
    expect(page.locator("#table tbody tr").first).to_be_visible()
    if maps:
        expect(page.locator("#status")).to_contain_text("All heat-maps are there")


def labels(page):
    return page.locator("#table tbody th").all_inner_texts()


def column(page, name):
    return page.locator(f"#table tbody td.{name}").all_inner_texts()


def pixels(page, canvas=0):
    """What a canvas shows, drawn at rest."""
    return page.evaluate(
        """(which) => new Promise((resolve) => requestAnimationFrame(() => requestAnimationFrame(() => {
            const canvas = document.querySelectorAll('.frame canvas')[which];
            const { data } = canvas.getContext('2d').getImageData(0, 0, canvas.width, canvas.height);
            let sum = 0;
            for (let at = 0; at < data.length; at += 1) sum = (sum * 31 + data[at]) % 4294967291;
            let coloured = 0;
            for (let at = 0; at < data.length; at += 4) coloured += Math.abs(data[at] - data[at + 2]) > 24;
            resolve({ sum, coloured });
        })))""",
        canvas,
    )


def slide(page, name, value):
    page.locator(f"#{name}").evaluate(
        "(slider, value) => { slider.value = value; slider.dispatchEvent(new Event('input')); }", value
    )


def drag(page, start, end, canvas=0):
    """Drag between two places of a canvas, as shares of it."""
    frame = page.locator(".frame canvas").nth(canvas)
    frame.scroll_into_view_if_needed()
    at = frame.bounding_box()
    points = [(at["x"] + x * at["width"], at["y"] + y * at["height"]) for x, y in (start, end)]
    page.mouse.move(*points[0])
    page.mouse.down()
    page.mouse.move(*points[1], steps=3)
    page.mouse.up()


def downloaded(page, button):
    with page.expect_download() as download:
        page.click(button)
    return download.value


def test_two_views_are_read_as_one_study_whose_table_is_the_servers_answer(open_page, server):
    server[0].state.asked.clear()
    page = open_page(films=FILMS)
    assert [page.locator(".views select").nth(film).input_value() for film in (0, 1)] == ["PA", "lateral"]
    read(page)
    first = server[0].state.asked[0]
    assert (first["views"], first["models"], first["heatmaps"]) == ("PA,lateral", MODELS[0], False)
    assert all(asked["files"] == ["view-1", "view-2"] for asked in server[0].state.asked)  # names name patients
    order = sorted(LABELS, key=lambda label: -LABELS[label][0])
    assert labels(page) == [label.replace("_", " ") for label in order]
    assert column(page, "probability")[0] == "83.0\u00a0%"
    assert column(page, "probability")[-1] == "<\u00a00.1\u00a0%"
    assert [text.split()[1] for text in column(page, "decision")] == [
        "above" if LABELS[label][0] >= LABELS[label][1] else "below" for label in order
    ]
    assert column(page, "share")[0] == "64\u00a0/\u00a036"
    asked = [label for request in server[0].state.asked[1:] for label in request["labels"].split(",")]
    assert sorted(asked) == sorted(LABELS)  # every label's map once
    expect(page.locator(".research")).to_contain_text("Not a medical device")


def test_labels_are_walked_through_by_keyboard_and_each_shows_its_own_map(open_page):
    page = open_page(films=FILMS)
    read(page)
    before = pixels(page)
    page.get_by_role("button", name="Cardiomegaly").focus()
    page.keyboard.press("ArrowDown")
    expect(page.locator("#picked")).to_have_text("Lung Opacity")
    expect(page.get_by_role("button", name="Lung Opacity")).to_be_focused()
    expect(page.get_by_role("button", name="Lung Opacity")).to_have_attribute("aria-pressed", "true")
    expect(page.locator("#table tbody button[tabindex='0']")).to_have_count(1)  # one stop for Tab
    expect(page.locator(".frame canvas").first).to_have_attribute("aria-label", re.compile("heat-map of Lung Opacity"))
    assert pixels(page)["sum"] != before["sum"]
    page.keyboard.press("End")
    expect(page.locator("#picked")).to_have_text("Calcification of the Aorta")
    page.locator(".frame canvas").first.focus()
    page.keyboard.press("PageDown")  # after the last comes the first
    expect(page.locator("#picked")).to_have_text("Cardiomegaly")


def test_opacity_window_zoom_and_toggles_change_what_the_canvas_shows(open_page):
    page = open_page(films=FILMS[:1])
    read(page)
    page.uncheck("#show-boxes")
    seen = [pixels(page)]
    assert seen[0]["coloured"] > 0
    slide(page, "opacity", 20)
    seen.append(pixels(page))
    assert seen[1]["coloured"] < seen[0]["coloured"]
    slide(page, "opacity", 0)
    seen.append(pixels(page))
    assert seen[2]["coloured"] == 0
    slide(page, "level", 30)
    seen.append(pixels(page))
    slide(page, "width", 50)
    seen.append(pixels(page))
    page.check("#invert")
    seen.append(pixels(page))
    page.locator(".frame canvas").focus()
    page.keyboard.press("+")
    seen.append(pixels(page))
    page.keyboard.press("ArrowLeft")
    seen.append(pixels(page))
    page.mouse.wheel(0, 0)
    page.check("input[value=window]", force=True)
    drag(page, (0.4, 0.4), (0.6, 0.7))
    seen.append(pixels(page))
    assert len({look["sum"] for look in seen}) == len(seen)
    expect(page.locator("#zoom")).to_have_text("125 %")
    page.click("#reset")
    assert pixels(page)["sum"] == seen[2]["sum"]
    expect(page.locator("#level-value")).to_have_text("50")


def test_a_drawn_or_typed_box_tells_its_overlap_with_the_predicted_one(open_page):
    page = open_page(films=FILMS[:1])
    read(page)
    page.check("input[value=box]", force=True)
    drag(page, (0.3, 0.3), (0.7, 0.6))
    expect(page.locator("#reference-list .iou")).to_have_count(1)
    width, height = 200, 240
    left, top, across, down = BOX
    typed = (left * width, top * height, across * width / 2, down * height)  # the predicted box's left half
    for name, value in zip(("x", "y", "width", "height"), typed, strict=True):
        page.fill(f"#reference-list input[name={name}]", str(int(value)))
        page.keyboard.press("Tab")
    expect(page.locator("#reference-list .iou")).to_have_text("0.50")
    kept = json.loads(downloaded(page, "#save-json").path().read_text())["reference_boxes"]
    assert kept == [{"index": 0, "label": "Cardiomegaly", "x": 50, "y": 120, "width": 50, "height": 60}]
    page.click("#after")  # each label has its own
    expect(page.locator("#reference-list .iou")).to_have_count(0)


def test_the_saved_json_is_the_answer_and_names_no_file(open_page):
    page = open_page(films=FILMS)
    read(page)
    for maps in (False, True):
        page.set_checked("#with-maps", maps)
        saved = downloaded(page, "#save-json")
        text = saved.path().read_text()
        answer = json.loads(text)
        assert "DOE^" not in text + saved.suggested_filename
        assert answer["research_only"] is True
        assert [view["view"] for view in answer["views"]] == ["PA", "lateral"]
        found = {entry["label"]: entry for entry in answer["models"][0]["labels"]}
        assert {label: (entry["probability"], entry["threshold"]) for label, entry in found.items()} == LABELS
        for entry in found.values():
            assert [view["share"] for view in entry["views"]] == [0.64, 0.36]
            assert [len(view["boxes"]) for view in entry["views"]] == [1, 1]
            assert all((view["heatmap"] is not None) == maps for view in entry["views"])
    picture = downloaded(page, "#save-png")
    assert picture.suggested_filename.startswith("longview-Cardiomegaly-")
    assert picture.path().read_bytes().startswith(b"\x89PNG")


def test_two_models_stand_side_by_side_and_a_label_one_of_them_lacks_is_said_so(open_page):
    page = open_page(films=FILMS)
    page.select_option("#second", MODELS[1])
    assert page.locator(f"#second option[value={MODELS[0]}]").is_disabled()
    read(page)
    expect(page.locator(".frame canvas")).to_have_count(4)
    assert pixels(page, 0)["sum"] != pixels(page, 1)["sum"]
    assert column(page, "difference")[:2] == ["\u221211.6", "\u22126.0"]
    page.get_by_role("button", name="Hernia").click()
    expect(page.locator("#facts")).to_contain_text(f"{MODELS[1]}: does not know this label")
    page.set_viewport_size({"width": 420, "height": 800})
    assert page.evaluate("document.documentElement.scrollWidth") <= 420  # only the table scrolls sideways


def test_samples_bring_intervals_and_columns_that_sort_by_click_and_are_announced(open_page):
    page = open_page(films=FILMS[:1])
    page.fill("#samples", "20")
    read(page, maps=False)
    assert column(page, "interval")[0] == "74.6\u201391.4\u00a0%"
    assert column(page, "variance")[0] == "0.007"
    heading = page.get_by_role("columnheader", name="Variance")
    heading.get_by_role("button").click()
    expect(heading).to_have_attribute("aria-sort", "descending")
    expect(page.locator("#table th[aria-sort]")).to_have_count(1)
    assert labels(page)[0] == "Lung Opacity"  # 0.55 is nearest to a half
    page.fill("#filter", "opac")
    assert labels(page) == ["Lung Opacity"]
    page.fill("#filter", "")
    page.check("#only")
    assert sorted(labels(page)) == ["Cardiomegaly", "Emphysema", "Lung Opacity"]


def test_a_changed_study_says_that_the_answer_is_of_another(open_page):
    page = open_page(films=FILMS)
    read(page, maps=False)
    expect(page.locator("#stale")).to_be_hidden()
    page.locator(".views select").first.select_option("AP")
    expect(page.locator("#stale")).to_be_visible()
    page.click("#again")
    expect(page.locator("#stale")).to_be_hidden()
    expect(page.locator(".pane").first).to_contain_text("Film 1, AP")
    page.click("#clear")
    expect(page.locator("#answer")).to_be_hidden()
    expect(page.locator("#send")).to_be_disabled()


def test_dicom_is_shown_by_the_server_and_what_is_no_film_is_told_in_plain_words(open_page):
    page = open_page(films=[DICOM], allowed=("415", "422"))
    expect(page.locator(".views li")).to_contain_text("120 \u00d7 160")
    read(page, maps=False)
    page.fill("#samples", "99")
    page.click("#send")
    expect(page.get_by_role("alert")).to_contain_text("cannot be used. samples 99: at most 50.")
    page.set_input_files("#files", [{"name": "a.txt", "mimeType": "text/plain", "buffer": b"words"}])
    expect(page.locator(".wrong")).to_contain_text("give PNG, JPEG or DICOM")
    expect(page.locator("#send")).to_be_disabled()
    page.get_by_role("button", name="Remove film 2").click()
    expect(page.locator("#send")).to_be_enabled()


def test_a_token_is_asked_for_used_and_kept_nowhere(open_page):
    with running(make_app(token="open-sesame")) as address:
        page = open_page(address, allowed=("401",))
        page.fill("#token-field", "wrong")
        page.keyboard.press("Enter")
        expect(page.get_by_role("alert")).to_contain_text("did not take this token")
        page.fill("#token-field", "open-sesame")
        page.keyboard.press("Enter")
        expect(page.locator("#token")).to_be_hidden()
        page.set_input_files("#files", FILMS[:1])
        read(page)
        assert page.url == address
        assert page.locator("#token-field").input_value() == ""
        assert page.evaluate("sessionStorage.length + localStorage.length") == 0


def test_a_busy_server_is_asked_again_for_heat_maps_and_one_that_is_gone_is_told(open_page):
    with running(make_app(busy=1)) as address:
        page = open_page(address, films=FILMS[:1], allowed=("429", "ERR_CONNECTION_REFUSED"))
        read(page)
        expect(page.get_by_role("alert")).to_be_empty()
    page.click("#send")
    expect(page.get_by_role("alert")).to_contain_text("The server cannot be reached")
    expect(page.locator("#send")).to_be_enabled()


def test_the_real_server_understands_the_page_and_the_page_its_answers(open_page, two):
    from longview.serving.app import create_app

    with running(create_app(two)) as address:
        page = open_page(address, films=FILMS, allowed=("422",))
        page.select_option("#second", two[1].name)
        page.fill("#samples", "5")
        read(page)
        names = two[0].model.names
        assert sorted(labels(page)) == sorted(names)
        expect(page.locator(".frame canvas")).to_have_count(4)
        expect(page.locator("#facts")).to_contain_text("mutual information")  # of the model that has a dropout
        saved = json.loads(downloaded(page, "#save-json").path().read_text())
        assert [model["model"] for model in saved["models"]] == [served.name for served in two]
        assert [(view["view"], view["width"], view["height"]) for view in saved["views"]] == [
            ("PA", 200, 240), ("lateral", 160, 200),
        ]  # fmt: skip
        for model in saved["models"]:
            for entry in model["labels"]:
                assert sum(view["share"] for view in entry["views"]) == pytest.approx(1)
        first = {entry["label"]: entry["probability"] for entry in saved["models"][0]["labels"]}
        assert [text.split()[0] for text in column(page, "probability")[::2]] == [
            f"{100 * first[label]:.1f}" for label in labels(page)
        ]
        page.set_input_files("#files", [DICOM])  # without pixels
        expect(page.locator(".wrong")).to_be_visible()


def test_the_page_holds_nothing_that_a_strict_policy_or_an_offline_clinic_would_stop():
    for file in PAGE.iterdir():
        text = file.read_text()
        assert not re.search(r"https?://(?!www\.w3\.org/2000/svg)", text), file.name
        assert not re.search(r"localStorage|sessionStorage|indexedDB|document\.cookie|innerHTML|\beval\(", text), (
            file.name
        )
    page = (PAGE / "index.html").read_text()
    assert not re.search(r"<style|\sstyle=|\son\w+=|<script(?![^>]*\ssrc=)", page)


def test_every_pair_of_colours_reads_at_contrast_aa_in_both_schemes():
    css = (PAGE / "style.css").read_text()

    def luminance(colour):
        digits = colour.lstrip("#")
        digits = "".join(2 * digit for digit in digits) if len(digits) == 3 else digits
        parts = [int(digits[at : at + 2], 16) / 255 for at in (0, 2, 4)]
        linear = [part / 12.92 if part <= 0.04045 else ((part + 0.055) / 1.055) ** 2.4 for part in parts]
        return 0.2126 * linear[0] + 0.7152 * linear[1] + 0.0722 * linear[2]

    schemes = re.findall(r":root \{(.*?)\}", css, re.S)
    assert len(schemes) == 3  # light, dark, print
    for scheme in schemes:
        colours = dict(re.findall(r"--([\w-]+): (#\w+)", scheme))

        def contrast(ink, paper, colours=colours):
            one, other = luminance(colours[ink]), luminance(colours[paper])
            return (max(one, other) + 0.05) / (min(one, other) + 0.05)

        for paper in ("paper", "panel", "warm"):
            for ink in ("ink", "soft", "accent", "yes"):
                assert contrast(ink, paper) >= 4.5, (ink, paper)
        assert contrast("on", "accent") >= 4.5
        assert contrast("edge", "paper") >= 3  # edges of what can be pressed
        assert contrast("no-fill", "track") >= 2 and contrast("yes-fill", "track") >= 2
