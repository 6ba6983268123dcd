"""The page in a real browser: offline, without errors, and doing what its controls say."""

import base64
import io
import json
import os
import shutil

import pytest
from report_records import all_methods, make_records, make_sweep, on_the_way, poisoned

from gmixout.reports.page import page
from gmixout.results import Study

webdriver = pytest.importorskip("selenium.webdriver", reason="selenium is not installed")
wait = pytest.importorskip("selenium.webdriver.support.wait")
exceptions = pytest.importorskip("selenium.common.exceptions")

BROWSERS = ("chromium", "chromium-browser", "google-chrome", "google-chrome-stable", "chrome")
FLAGS = (
    "--headless",
    "--no-sandbox",
    "--disable-gpu",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
    "--disable-dev-shm-usage",
)
BROKEN = "return [...document.querySelectorAll('.plot')].filter(p => !p.querySelector('.main-svg'))"


def found(name, variable, candidates):
    path = os.environ.get(variable) or next(filter(None, map(shutil.which, candidates)), None)
    if path is None:
        pytest.skip(f"no {name}: install Debian's chromium and chromium-driver, or set {variable}")
    return path


@pytest.fixture(scope="module")
def browser(tmp_path_factory):
    options = webdriver.ChromeOptions()
    options.binary_location = found("browser", "GMIXOUT_BROWSER", BROWSERS)
    driver = found("driver of the browser", "GMIXOUT_CHROMEDRIVER", ("chromedriver",))
    options.page_load_strategy = "none"  # `load` waits, longer than the driver would
    for flag in (*FLAGS, f"--user-data-dir={tmp_path_factory.mktemp('profile')}"):
        options.add_argument(flag)
    options.set_capability("goog:loggingPrefs", {"browser": "ALL", "performance": "ALL"})
    browser = webdriver.Chrome(options, webdriver.ChromeService(driver))
    yield browser
    browser.quit()


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    records = [*on_the_way(make_records(all_methods())), *make_sweep()]
    # of the sweep LoRA alone, so that GMixout has no variants
    records = [
        r for r in records if not (r.method.name == "gmixout" and "mask_rate" in r.method.options)
    ]
    return written(tmp_path_factory.mktemp("run"), records)


def written(folder, records, **options):
    text = page(Study(records), {"runs/one": "benchmark: digits\n"}, **options)
    (folder / "report.html").write_text(text)
    return folder


def opened(browser, folder, width=1280, **media):
    """The page, freshly opened, with nothing kept from an earlier visit."""
    if browser.current_url.startswith("file:"):
        browser.execute_script("sessionStorage.clear()")
    size = {"width": width, "height": 900, "deviceScaleFactor": 1, "mobile": width < 500}
    browser.execute_cdp_cmd("Emulation.setDeviceMetricsOverride", size)
    emulate(browser, **media)
    logs(browser)
    load(browser, lambda: browser.get((folder / "report.html").as_uri()))


def load(browser, go):
    """Goes to a page and waits for its scripts to end, however busy the machine.

    Until then the driver may still see the document that is left.
    """
    browser.execute_script("window.isLeft = true")
    go()
    ended = "return !window.isLeft && document.readyState === 'complete'"
    patient = wait.WebDriverWait(browser, 300, ignored_exceptions=[exceptions.WebDriverException])
    patient.until(lambda browser: browser.execute_script(ended))


def emulate(browser, scheme="light", media=""):
    features = [{"name": "prefers-color-scheme", "value": scheme}]
    emulated = {"media": media, "features": features}
    browser.execute_cdp_cmd("Emulation.setEmulatedMedia", emulated)


def logs(browser):
    """What was complained about, and every address that was asked for, since the last call."""
    complaints = [entry["message"] for entry in browser.get_log("browser")]
    messages = [json.loads(entry["message"])["message"] for entry in browser.get_log("performance")]
    asked = [
        message["params"]["request"]["url"]
        for message in messages
        if message["method"] == "Network.requestWillBeSent"
    ]
    return complaints, asked


def choose(browser, name, value):
    browser.execute_script(
        "const e = document.getElementById(arguments[0]);"
        "if (e.type === 'checkbox') e.checked = arguments[1]; else e.value = arguments[1];"
        "e.dispatchEvent(new Event('input'));",
        name,
        value,
    )


def click(browser, selector):
    browser.execute_script("document.querySelector(arguments[0]).click()", selector)


def names(browser, table="#settings"):
    """The methods of the rows that are seen."""
    return browser.execute_script(
        "return [...document.querySelectorAll(arguments[0] + ' tbody tr[data-group]')]"
        ".filter(row => row.checkVisibility()).map(row => row.cells[0].innerText.trim())",
        table,
    )


def traces(browser, plot):
    """The curves that a plot shows, by their labels."""
    return set(
        browser.execute_script(
            "return document.getElementById(arguments[0]).data"
            ".filter(t => typeof t.meta === 'number').map(t => data.series[t.meta].label)",
            plot,
        )
    )


def labels(browser):
    return browser.execute_script("return data.series.map(each => each.label)")


PLOTS = ("plane", "differences", "cost", "learning")


def test_it_opens_offline_without_a_complaint(browser, folder):
    opened(browser, folder)
    assert browser.execute_script(BROKEN) == []
    complaints, asked = logs(browser)
    assert complaints == []
    own = (folder / "report.html").as_uri()
    assert [url for url in asked if url != own and not url.startswith(("data:", "blob:"))] == []
    assert own in asked


def test_nothing_can_be_fetched_even_on_purpose(browser, folder):
    opened(browser, folder)
    outcome = browser.execute_async_script(
        "const done = arguments[0];"
        "fetch('https://example.invalid/').then(() => done('fetched'), e => done(e.name));"
    )
    assert outcome == "TypeError"
    assert "Content Security Policy" in " ".join(logs(browser)[0])


def test_every_method_is_seen_at_first_one_row_each(browser, folder):
    opened(browser, folder)
    assert names(browser) == labels(browser)
    assert traces(browser, "plane") == set(labels(browser))


def test_a_switch_hides_a_method_everywhere(browser, folder):
    opened(browser, folder)
    for plot in PLOTS:
        assert "Mixout" in traces(browser, plot), plot
    click(browser, "#methods input[data-key='mixout ']")
    for plot in PLOTS:
        assert "Mixout" not in traces(browser, plot), plot
        assert "LoRA (rank=16)" in traces(browser, "plane")
    assert "Mixout" not in names(browser)
    assert "Mixout" not in names(browser, ".matched")
    assert "DoRA" in names(browser)
    assert "DoRA" in names(browser, ".matched")


def test_all_main_none_and_only_this(browser, folder):
    opened(browser, folder)
    click(browser, "[data-pick=none]")
    assert names(browser) == []
    assert traces(browser, "plane") == set()
    click(browser, "[data-pick=main]")
    main = browser.execute_script("return data.series.filter(s => s.main).map(s => s.label)")
    assert set(names(browser)) == traces(browser, "plane") == set(main) != set(labels(browser))
    click(browser, "[aria-label='show only GMixout']")
    assert names(browser) == ["GMixout"]
    assert traces(browser, "plane") == {"GMixout"}
    click(browser, "[data-pick=all]")
    assert names(browser) == labels(browser)


def test_a_click_on_a_point_shows_its_method_alone_and_again_the_others(browser, folder):
    opened(browser, folder)
    point = (
        "const p = document.getElementById('plane');"
        "const t = p.data.findIndex(t => t.mode.includes('markers') && typeof t.meta === 'number'"
        " && data.series[t.meta].label === 'GMixout');"
        "p.emit('plotly_click', {points: [{data: p.data[t]}]})"
    )
    browser.execute_script(point)
    assert names(browser) == ["GMixout"]
    browser.execute_script(point)
    assert names(browser) == labels(browser)


def test_headings_sort(browser, folder):
    opened(browser, folder)
    choose(browser, "rule", "")
    column = browser.execute_script(
        "return [...document.querySelectorAll('#settings th')]"
        ".findIndex(th => th.innerText.startsWith('step'))"
    )
    values = (
        "return [...document.querySelectorAll('#settings tbody tr')]"
        ".map(row => row.cells[arguments[0]].dataset.value)"
    )
    heading = f"#settings th:nth-child({column + 1}) button"
    click(browser, heading)
    down = browser.execute_script(values, column)
    click(browser, heading)
    up = browser.execute_script(values, column)
    # what has no value comes last in either direction
    for order in (down, up):
        assert "" in order
        assert "" not in order[: order.index("")]
        assert set(order[order.index("") :]) == {""}
    known = sorted(float(value) for value in up if value)
    assert [float(value) for value in up if value] == known
    assert [float(value) for value in down if value] == known[::-1]
    click(browser, "#settings th:first-child button")
    assert names(browser)[0].startswith(labels(browser)[0])


def test_rules_and_the_filter_choose_rows(browser, folder):
    opened(browser, folder)
    choose(browser, "rule", "oracle")
    assert sorted(names(browser)) == sorted(labels(browser))
    note = "return document.getElementById('rule-note').innerText"
    assert "ORACLE" in browser.execute_script(note)
    choose(browser, "rule", "")
    every = names(browser)
    assert len(every) == len(browser.execute_script("return data.cells")) > len(labels(browser))
    choose(browser, "filter", "full 1e-3")
    assert [name.split("\n")[0].rstrip(" ●") for name in names(browser)] == ["full finetuning"]


def test_another_reference_changes_table_and_plot(browser, folder):
    opened(browser, folder)
    assert "full finetuning" not in names(browser, ".matched")
    before = browser.execute_script(
        "return document.getElementById('differences').data.map(t => t.x)"
    )
    choose(browser, "reference", browser.execute_script(
        "return String(data.standings.findIndex(s => s.reference === 'gmixout'))"
    ))  # fmt: skip
    assert "full finetuning" in names(browser, ".matched")
    assert "GMixout" not in names(browser, ".matched")
    title = "return document.getElementById('differences').layout.xaxis.title.text"
    assert "GMixout" in browser.execute_script(title)
    after = browser.execute_script(
        "return document.getElementById('differences').data.map(t => t.x)"
    )
    assert after != before


def test_every_choice_draws(browser, folder):
    opened(browser, folder)
    for name, values in browser.execute_script(
        "return kept.filter(e => e.tagName === 'SELECT')"
        ".map(e => [e.id, [...e.options].map(o => o.value)])"
    ):
        for value in values:
            choose(browser, name, value)
    for name in ("ellipses", "runs", "interpolations"):
        before = len(browser.execute_script("return document.getElementById('plane').data"))
        choose(browser, name, False)
        assert len(browser.execute_script("return document.getElementById('plane').data")) < before
    choose(browser, "learning-all", True)
    assert browser.execute_script(BROKEN) == []
    assert logs(browser)[0] == []


def test_heat_maps_and_lines_of_a_sweep(browser, tmp_path):
    written(tmp_path, make_sweep())
    opened(browser, tmp_path)
    choose(browser, "sweep-method", "1")  # GMixout, of which two options vary
    kind = "return document.getElementById('sweep').data[0].type"
    assert browser.execute_script(kind) == "heatmap"
    z = browser.execute_script("return document.getElementById('sweep').data[0].z")
    assert len({value for row in z for value in row}) > 1
    choose(browser, "sweep-y", "")
    assert browser.execute_script(kind) == "scatter"
    choose(browser, "sweep-method", "0")
    axis = "return document.getElementById('sweep').data[0].x"
    assert browser.execute_script(axis) == ["4", "16", "32"]
    assert logs(browser)[0] == []


def test_a_reload_keeps_what_was_chosen(browser, folder):
    opened(browser, folder)
    click(browser, "#methods input[data-key='mixout ']")
    choose(browser, "rule", "oracle")
    choose(browser, "reference", "1")
    choose(browser, "level", "2")
    choose(browser, "ellipses", False)
    chosen = "return [...kept.map(e => e.type === 'checkbox' ? e.checked : e.value), names]"
    chosen = chosen.replace("names", "...switches.map(e => e.checked)")
    before = browser.execute_script(chosen)
    load(browser, browser.refresh)
    assert browser.execute_script(chosen) == before
    assert "Mixout" not in names(browser)


@pytest.mark.parametrize("width", [320, 390, 1280])
def test_nothing_is_wider_than_the_screen(browser, folder, width):
    opened(browser, folder, width)
    assert browser.execute_script("return innerWidth") == width
    assert browser.execute_script("return document.documentElement.scrollWidth") <= width


def test_dark_is_dark_and_readable(browser, folder):
    opened(browser, folder)

    def luminance(scheme, code):
        emulate(browser, scheme)
        color = browser.execute_script(f"return {code}")
        red, green, blue = (int(v) for v in color.strip("rgba()").split(",")[:3])
        return 0.2126 * red + 0.7152 * green + 0.0722 * blue

    for code in (
        "getComputedStyle(document.body).backgroundColor",
        "getComputedStyle(document.querySelector('select')).backgroundColor",
    ):
        assert luminance("dark", code) < 60 < 200 < luminance("light", code)
    for code in (
        "getComputedStyle(document.body).color",
        "getComputedStyle(document.querySelector('#plane .xtick text')).fill",
    ):
        assert luminance("light", code) < 60 < 200 < luminance("dark", code)


def test_on_paper_every_plot_fits_and_controls_are_gone(browser, folder):
    opened(browser, folder)
    emulate(browser, "dark", "print")
    paper = browser.execute_script("return getComputedStyle(document.body).backgroundColor")
    assert paper == "rgb(255, 255, 255)"
    for selector in (".all", ".only", "#filter"):
        seen = "return document.querySelector(arguments[0]).checkVisibility()"
        assert not browser.execute_script(seen, selector), selector
    emulate(browser)
    options = {"preferCSSPageSize": True, "printBackground": True}
    pdf = base64.b64decode(browser.execute_cdp_cmd("Page.printToPDF", options)["data"])
    assert pdf.startswith(b"%PDF")
    widths = "return [...document.querySelectorAll('.plot')].map(p => p.querySelector('.main-svg').clientWidth <= p.clientWidth)"  # noqa: E501
    assert all(browser.execute_script(widths))
    assert logs(browser)[0] == []


@pytest.mark.parametrize("count", [1, 2, 3])
def test_few_records_open_without_a_complaint(browser, tmp_path, count):
    some = make_records()
    written(tmp_path, some[:1] if count == 1 else some[1 : 1 + count])
    opened(browser, tmp_path)
    assert logs(browser)[0] == []
    assert names(browser)


def test_names_are_no_markup(browser, tmp_path):
    written(tmp_path, poisoned(on_the_way(make_records(seeds=2))))
    opened(browser, tmp_path)
    assert logs(browser)[0] == []
    for tag in ("b", "a"):
        assert browser.execute_script(f"return document.querySelectorAll('body {tag}').length") == 0
    assert browser.execute_script("return document.scripts.length") == 3
    assert "<b>bold</b>" in " ".join(names(browser))
    # plotly would make bold letters of it
    text = "return document.getElementById('differences').textContent"
    assert "<b>bold</b>" in browser.execute_script(text)


def test_a_running_comparison_says_so(browser, tmp_path):
    written(tmp_path, make_records(), running="12 of 60 runs")
    opened(browser, tmp_path, 390)
    assert "12 of 60 runs" in browser.execute_script("return document.body.innerText")
    # loaded anew, it is read on where it was left
    browser.execute_script("scrollTo(0, 1500)")
    load(browser, lambda: browser.get(browser.current_url))
    assert browser.execute_script("return scrollY") == 1500
    assert logs(browser)[0] == []


def test_pointing_at_a_switch_makes_its_curves_stand_out(browser, folder):
    opened(browser, folder)
    faded = (
        "return [...document.querySelectorAll('#plane .scatterlayer > .trace')]"
        ".map((t, k) => t.style.opacity ? data.series[p.data[k].meta].label : null)"
        ".filter(Boolean)"
    ).replace("p.data", "document.getElementById('plane').data")
    point = "document.querySelector(\"[data-key='gmixout ']\").closest('.chip').dispatchEvent(new Event(arguments[0]))"  # noqa: E501
    browser.execute_script(point, "mouseenter")
    assert set(browser.execute_script(faded)) == set(labels(browser)) - {"GMixout"}
    browser.execute_script(point, "mouseleave")
    assert browser.execute_script(faded) == []


def test_the_picture_has_colours_in_it(browser, folder):
    """A screenshot of the plane is neither empty nor one colour."""
    image = pytest.importorskip("PIL.Image")
    opened(browser, folder)
    plane = browser.find_element("id", "plane")
    pixels = image.open(io.BytesIO(plane.screenshot_as_png)).convert("RGB")
    colors = {color for _, color in pixels.getcolors(1 << 24)}
    vivid = [color for color in colors if max(color) - min(color) > 100]
    assert len(vivid) > 20
