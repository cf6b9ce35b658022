"""The page in a real browser: every part used, no script of a response run, no error, no request outside."""

import base64
import json
import os
import re
import shutil
from pathlib import Path

import pytest
from matplotlib.image import imread

from dqo.report import write_report

webdriver = pytest.importorskip("selenium.webdriver", reason="selenium is not installed; `pip install -e '.[dev]'`")
from selenium.webdriver.chrome.service import Service  # noqa: E402
from selenium.webdriver.common.by import By  # noqa: E402
from selenium.webdriver.common.keys import Keys  # noqa: E402
from selenium.webdriver.support.ui import Select, WebDriverWait  # noqa: E402

CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
DRIVER = shutil.which("chromedriver")
pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(
        not (CHROMIUM and DRIVER),
        reason="no chromium with chromedriver on PATH; on Debian: apt-get install chromium chromium-driver",
    ),
]
FLAGS = ("--headless", "--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run", "--disable-sync",
         "--disable-background-networking", "--force-prefers-reduced-motion",
         "--disable-component-update", "--disable-dev-shm-usage")  # fmt: skip


@pytest.fixture(scope="module")
def page(run_folders, tmp_path_factory):
    out = tmp_path_factory.mktemp("page") / "report.html"
    write_report(run_folders, out, refresh=600)
    return out.as_uri()


@pytest.fixture(scope="module")
def shots(tmp_path_factory):
    folder = Path(os.environ.get("DQO_SCREENSHOTS") or tmp_path_factory.mktemp("screenshots"))
    folder.mkdir(parents=True, exist_ok=True)
    return folder


@pytest.fixture(scope="module")
def browser(tmp_path_factory):
    options = webdriver.ChromeOptions()
    options.binary_location = CHROMIUM
    for flag in (*FLAGS, f"--user-data-dir={tmp_path_factory.mktemp('profile')}"):
        options.add_argument(flag)
    options.set_capability("goog:loggingPrefs", {"browser": "ALL", "performance": "ALL"})
    driver = webdriver.Chrome(options=options, service=Service(DRIVER))
    yield driver
    driver.quit()


@pytest.fixture
def opened(browser, page):
    """Opens the page at a width, and checks at the end that nothing went wrong and nothing left the page."""

    def start(width=1280, height=900):
        size = {"width": width, "height": height, "deviceScaleFactor": 1, "mobile": width < 600}
        browser.execute_cdp_cmd("Emulation.setDeviceMetricsOverride", size)
        browser.get("about:blank")
        browser.get_log("performance")
        browser.get(page)
        wait(lambda: script("return document.documentElement.dataset.ready"))

    def script(code, *args):
        return browser.execute_script(code, *args)

    def wait(condition):
        return WebDriverWait(browser, 20).until(lambda _: condition())

    def click(node):
        script("arguments[0].scrollIntoView({block: 'center'})", node)  # clear of the bar at the top
        node.click()

    start.script, start.wait, start.click = script, wait, click
    start.find = lambda css: browser.find_elements(By.CSS_SELECTOR, css)
    yield start
    assert script("return window.ran ?? null") is None, "a script of a response ran"
    assert [entry for entry in browser.get_log("browser") if entry["level"] in ("SEVERE", "WARNING")] == []
    events = [json.loads(entry["message"])["message"] for entry in browser.get_log("performance")]
    requests = [e["params"]["request"]["url"] for e in events if e["method"] == "Network.requestWillBeSent"]
    assert requests, "the log must be able to see a request"
    assert {url.split(":")[0] for url in requests} <= {"file", "data", "about"}
    assert {url.split("#")[0] for url in requests if url.startswith("file:")} == {page}


def test_charts_are_drawn_and_told(opened):
    opened()
    opened.script("document.querySelector('#more').open = true")
    opened.wait(lambda: len(opened.find("#training figure svg")) >= 12)
    names = [node.get_attribute("aria-label") for node in opened.find("#trade-chart .plot")]
    assert "dqo-alpha-1: Vendi score, held-out encoder" in names[0]
    assert len(opened.find("#draw-charts svg")) == 2
    assert opened.find("[data-metric='hack/length_drift']")


def test_axes_can_be_chosen_and_curves_smoothed(opened):
    opened()
    before = opened.find("#trade-chart .plot")[0].get_attribute("aria-label")
    Select(opened.find("#trade-x")[0]).select_by_value("self_bleu")
    opened.wait(lambda: "Self-BLEU" in opened.find("#trade-chart .plot")[0].get_attribute("aria-label") != before)
    opened.wait(lambda: opened.find("[data-metric=quality] svg"))
    path = """return [...document.querySelectorAll('[data-metric=quality] [aria-label=line] path')].map(
      (node) => node.getAttribute('d')).join()"""
    rough = opened.script(path)
    opened.script("const s = document.querySelector('#smooth'); s.value = 0; s.dispatchEvent(new Event('input'))")
    opened.wait(lambda: opened.script(path) != rough)


def test_hostile_responses_are_text(opened, samples):
    opened()
    shown = [node.text for node in opened.find("#columns .column:first-child .response .text")]
    assert shown[0] == samples.nasty[0]
    assert shown[1] == samples.nasty[1]
    assert shown[2].startswith("abc U+202E cba U+202C and {{ 7 * 7 }} <!--")
    assert "\u2067" not in shown[3]
    assert shown[3].endswith("U+2069")
    assert not opened.find("#columns script, #columns img")
    cut = opened.find("#columns .column:first-child .response")[5]
    assert "The page holds 20,000 of 1,000,000 characters" in cut.text
    opened.click(cut.find_element(By.TAG_NAME, "button"))
    assert len(cut.find_element(By.CLASS_NAME, "text").text) > 19_000


def test_prompts_are_chosen_searched_sorted_and_filtered(opened):
    opened()
    items = opened.find(".item")
    assert len(items) == 24
    opened.click(items[3])
    assert opened.find("#prompt-id")[0].text == "test-3"
    assert "child, kite, beach" in opened.find("#prompt")[0].text
    assert len(opened.find("#columns .column")) == 3
    assert len(opened.find("#map svg")) == 3
    find = opened.find("#find")[0]
    find.send_keys("ONION")
    opened.wait(lambda: opened.find("#found")[0].text == "3 of 24 prompts")
    assert {mark.text.lower() for mark in opened.find("#columns mark")} == {"onion"}
    find.send_keys(Keys.CONTROL, "a")
    find.send_keys(Keys.DELETE)
    opened.wait(lambda: opened.find("#found")[0].text == "24 of 24 prompts")
    Select(opened.find("#only")[0]).select_by_value("same")
    warned = opened.find("#columns .column:nth-child(2) .response")
    assert warned
    assert all("× the same" in card.text for card in warned)
    Select(opened.find("#only")[0]).select_by_value("all")
    Select(opened.find("#order")[0]).select_by_visible_text("Quality: largest gain")
    told = "return document.querySelectorAll('.item')[arguments[0]].querySelector('small span').textContent"
    first, second = (opened.script(told, i) for i in (0, 20))
    gain = [float(t.split("→")[-1].split()[0]) - float(t.split()[1]) for t in (first, second)]
    assert gain[0] > gain[1]
    Select(opened.find("#order")[0]).select_by_index(0)


def test_everything_is_reached_by_keyboard(opened, browser):
    opened()
    at = opened.find("#prompt-id")[0].text
    browser.switch_to.active_element.send_keys("j")
    opened.wait(lambda: opened.find("#prompt-id")[0].text != at)
    browser.switch_to.active_element.send_keys("k")
    opened.wait(lambda: opened.find("#prompt-id")[0].text == at)
    browser.switch_to.active_element.send_keys("/")
    assert browser.switch_to.active_element.get_attribute("id") == "find"
    chart = opened.find("#trade-chart .plot")[0]
    chart.send_keys(Keys.ARROW_RIGHT)
    assert "Quality" in opened.script("return document.querySelector('#said').textContent")
    opened.wait(lambda: "base" in chart.find_element(By.CSS_SELECTOR, "[aria-label=tip]").get_attribute("textContent"))
    cell = opened.find("#differences table .term[tabindex='0']")[0]
    opened.script("arguments[0].focus()", cell)
    cell.send_keys(Keys.ARROW_RIGHT)
    focused = browser.switch_to.active_element
    assert focused.get_attribute("aria-describedby") == "tip"
    tip = opened.find("#tip")[0].text
    assert "Mean reward of the responses by the task or the reward given" in tip
    assert "prompt_metrics.jsonl" in tip
    focused.send_keys(Keys.ESCAPE)
    assert not opened.find("#tip")[0].is_displayed()


def test_any_run_can_be_the_one_the_others_are_compared_with(opened):
    opened()
    shown = lambda: [node for node in opened.find(".against") if node.is_displayed()]  # noqa: E731
    (first,) = shown()
    assert "Difference to base" in first.text
    Select(opened.find("#against")[0]).select_by_visible_text("reward-only")
    (second,) = shown()
    assert "Difference to reward-only" in second.text
    head = [node.text for node in second.find_elements(By.CSS_SELECTOR, "thead th")]
    assert head[1:] == ["base", "dqo-alpha-1"]
    row = next(r for r in second.find_elements(By.CSS_SELECTOR, "tbody tr") if r.text.startswith("Vendi score, held"))
    assert "worse" not in row.text
    assert row.text.count("better") == 2, "both are more diverse than the collapsed run"
    opened.script("sessionStorage.clear()")


def test_the_dozen_come_first_with_what_is_better(opened):
    opened()
    rows = {re.split("[↑↓\n]", node.text)[0].strip(): node.text for node in opened.find(".headline tbody tr")}
    assert next(iter(rows)) == "Quality"
    assert len(rows) <= 12
    assert rows["Quality"].count("better") == 2, "both trained runs are, against the base"
    assert rows["Vendi score, held-out encoder"].count("worse") == 1, "the collapsed run alone"


def test_the_theme_can_be_switched_and_is_kept(opened):
    opened()
    colour = "return getComputedStyle(document.body).backgroundColor"
    button = opened.find("#theme")[0]
    seen = []
    for _ in range(3):
        button.click()
        seen.append((opened.script("return document.documentElement.dataset.theme"), opened.script(colour)))
    assert [name for name, _ in seen] == ["light", "dark", "auto"]
    assert seen[0][1] != seen[1][1]
    button.click()
    opened()
    assert opened.script("return document.documentElement.dataset.theme") == "light"
    opened.script("localStorage.clear()")


@pytest.mark.parametrize("width", [1280, 768, 390, 320])
def test_no_width_scrolls_sideways_and_every_control_has_a_name(opened, width):
    opened(width)
    assert opened.script("return document.documentElement.scrollWidth") <= width
    unnamed = """return [...document.querySelectorAll('button, select, input, [role=img], [tabindex="0"]')].filter(
      (n) => !n.hidden && n.offsetParent && !(n.textContent.trim() || n.getAttribute('aria-label') || n.labels?.length)
    ).map((n) => n.outerHTML.slice(0, 90))"""
    assert opened.script(unnamed) == []
    ids = opened.script("return [...document.querySelectorAll('[id]')].map((n) => n.id)")
    assert len(ids) == len(set(ids))


@pytest.mark.parametrize("theme", ["light", "dark"])
@pytest.mark.parametrize("width", [1280, 390])
def test_screenshots_of_every_section(opened, browser, width, theme, shots):
    """To be looked at; DQO_SCREENSHOTS names the folder that keeps them."""
    opened(width)
    opened.script(
        "document.documentElement.dataset.theme = arguments[0]; scrollTo({top: 0, behavior: 'instant'})", theme
    )
    opened.wait(lambda: len(opened.find("#training figure svg")) >= 12)
    sections = [node for node in opened.find("main > section") if node.is_displayed()]
    assert len(sections) == 8
    for section in sections:
        name = f"{width}-{theme}-{section.get_attribute('id')}"
        place = "const b = arguments[0].getBoundingClientRect(); return [b.top + scrollY, b.height]"
        top, height = opened.script(place, section)
        clip = {"x": 0, "y": top, "width": width, "height": min(height, 6000), "scale": 1}
        png = browser.execute_cdp_cmd("Page.captureScreenshot", {"clip": clip, "captureBeyondViewport": True})
        (shots / f"{name}.png").write_bytes(base64.b64decode(png["data"]))
        picture = imread(shots / f"{name}.png")  # (height, width, 4) in [0, 1]
        assert picture.shape[1] == width
        dark = picture[2, 2, :3].mean() < 0.5
        assert dark == (theme == "dark"), "the corner shows the background"
        assert picture[..., :3].std() > 0.01, "a section must not be blank"


def test_a_live_page_can_be_paused_and_keeps_its_place(opened):
    opened()
    opened.click(opened.find(".item")[5])
    opened.script("const f = document.querySelector('#find'); f.value = 'no. 5'; f.dispatchEvent(new Event('input'))")
    opened.wait(lambda: opened.find("#found")[0].text == "1 of 24 prompts")
    opened.script("document.querySelector('#pause').click()")
    opened.script("location.reload()")
    opened.wait(lambda: opened.script("return document.documentElement.dataset.ready"))
    assert opened.find("#find")[0].get_attribute("value") == "no. 5"
    assert opened.find("#live")[0].text == "Live updates are paused."
    opened.script("sessionStorage.clear()")
