"""The page in a real browser without a network: no error, tables that sort, labels that can be picked."""

import pytest

sync_api = pytest.importorskip("playwright.sync_api", reason="playwright is not installed: uv sync --group dev")


@pytest.fixture
def open_page(browser, evaluated):
    """Open the report; at the end, nothing may have been complained of or asked for in vain."""
    troubles, contexts = [], []

    def opened(where="", **options):
        context = browser.new_context(offline=True, reduced_motion="reduce", **options)
        contexts.append(context)
        page = context.new_page()
        page.on("console", lambda message: troubles.append(message.text))
        page.on("pageerror", lambda error: troubles.append(str(error)))
        page.on("requestfailed", lambda request: troubles.append(request.url[:100]))
        page.on("request", lambda request: request.url.startswith(("file:", "data:")) or troubles.append(request.url))
        page.goto((evaluated.folder / "report.html").as_uri() + where)
        return page

    yield opened
    for context in contexts:
        context.close()
    assert troubles == []


def column(page, index):
    cells = page.locator("#table tbody tr").all()
    return [cell.locator("th, td").nth(index).inner_text().splitlines()[0].strip() for cell in cells]


def test_the_table_sorts_by_click_and_by_keyboard_and_says_so(open_page):
    page = open_page()
    heading = page.locator("#table thead th").nth(4)  # AUROC
    assert page.locator("#table thead th").nth(2).get_attribute("aria-sort") == "descending"
    heading.get_by_role("button").click()
    assert heading.get_attribute("aria-sort") == "descending"
    assert page.locator("#table thead th[aria-sort]").count() == 1
    values = column(page, 4)
    assert values[-1] == "\u2013"  # what is not defined comes last, whatever the order
    assert values[:-1] == sorted(values[:-1], reverse=True)
    heading.get_by_role("button").focus()
    page.keyboard.press("Enter")
    assert heading.get_attribute("aria-sort") == "ascending"
    assert column(page, 4) == [*sorted(values[:-1]), values[-1]]
    page.locator("#table thead th").nth(0).get_by_role("button").press("Space")
    names = column(page, 0)
    assert names == sorted(names, key=str.casefold)


def test_a_picked_label_stands_alone_in_charts_and_parts(open_page):
    page = open_page()
    assert page.locator("details.card:visible").count() == 4
    page.get_by_label("Label", exact=True).select_option("Effusion")
    assert page.locator("#picked").inner_text().startswith("Effusion")
    card = page.locator("details.card:visible")
    assert card.count() == 1 and card.get_attribute("open") is not None
    assert card.locator("svg[role=img]:visible").count() >= 2  # films
    number = card.get_attribute("data-label")
    assert set(page.locator("#labels svg .on").evaluate_all("parts => parts.map(p => p.dataset.label)")) == {number}
    page.get_by_role("button", name="Next label").click()
    assert not page.locator("#picked").inner_text().startswith("Effusion")
    page.get_by_label("Label", exact=True).select_option("All labels")
    assert page.locator("details.card:visible").count() == 4


def test_the_risk_of_the_picked_label_stands_out_and_a_click_on_its_curve_picks_it(open_page):
    page = open_page()
    risk = page.locator("#uncertainty")
    assert risk.locator("svg .mean").is_visible() and risk.locator("svg .best:visible").count() == 1
    curve = risk.locator(".curve", has_text="Hernia")
    curve.dispatch_event("click")
    assert page.locator("#picked").inner_text().startswith("Hernia")
    assert risk.locator("svg .mean").is_hidden() and risk.locator("svg .best:visible").count() == 1
    assert risk.locator("tr.on th").inner_text() == "Hernia"
    page.get_by_label("Label", exact=True).select_option("All labels")
    assert risk.locator(".on").count() == 0


def test_a_link_of_the_table_picks_its_label_and_can_be_sent_on(open_page):
    page = open_page()
    page.locator("#table tbody a", has_text="Hernia").click()
    page.locator("#picked", has_text="Hernia").wait_for()  # the browser tells of a new address when it has time
    again = open_page(page.url[page.url.index("#") :])
    again.locator("#picked", has_text="Hernia").wait_for()


def test_films_are_drawn(open_page):
    page = open_page()
    film = page.locator(".films svg").first
    shade = """film => new Promise(resolve => {
        const image = new Image();
        image.onload = () => resolve(image.naturalWidth);
        image.src = document.querySelector(film.querySelector('use').getAttribute('href')).getAttribute('href');
    })"""
    assert film.evaluate(shade) == 32 and film.bounding_box()["width"] > 60


def test_the_tables_fit_a_window_of_1280_pixels(open_page):
    page = open_page(viewport={"width": 1280, "height": 800})
    sizes = page.locator(".scroll").evaluate_all("parts => parts.map(part => [part.scrollWidth, part.clientWidth])")
    assert all(inner <= outer for inner, outer in sizes if outer), sizes


@pytest.mark.parametrize("width", [1280, 420])
def test_nothing_is_wider_than_the_window(open_page, width):
    page = open_page(viewport={"width": width, "height": 800}, color_scheme="dark")
    assert page.evaluate("document.documentElement.scrollWidth") <= width
    page.emulate_media(media="print")
    assert page.locator("nav").is_hidden() and page.locator(".bar select").is_hidden()


def test_the_page_can_be_read_without_javascript(open_page):
    page = open_page(java_script_enabled=False)
    assert page.locator("details.card").count() == 4
    assert page.locator(".bar").is_hidden() and page.locator("#table th button").count() == 0
    card = page.locator("details.card").first
    assert card.locator(".small:visible").count() == 3
