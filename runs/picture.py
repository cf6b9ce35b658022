"""A figure of a report page as a PNG, by headless Chromium: the README's picture is the trade-off of the demo's report.

    python runs/picture.py outputs/demo-cities-seed0/report.html docs/effect.png
    python runs/picture.py report.html map.png --figure '#map' --theme dark --width 760

Needs selenium (`pip install -e '.[dev]'`) and Chromium with chromedriver (Debian: apt-get install chromium
chromium-driver).
"""

import argparse
import base64
import shutil
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

READY = 60  # seconds
# fmt: off
_FLAGS = ("--headless", "--no-sandbox", "--disable-gpu", "--disable-dev-shm-usage", "--no-first-run", "--disable-sync",
          "--disable-background-networking", "--disable-component-update", "--force-prefers-reduced-motion")
# fmt: on
# The pointer's tip and the focus ring are no part of a picture.
_PREPARE = """document.documentElement.dataset.theme = arguments[1];
const node = document.querySelector(arguments[0]);
for (const d of node.querySelectorAll("details")) d.remove();
node.style.border = "0"; node.style.borderRadius = "0";
scrollTo({top: 0, behavior: "instant"});
const box = node.getBoundingClientRect();
return {x: box.left + scrollX, y: box.top + scrollY, width: box.width, height: box.height};"""


@contextmanager
def browser(width: int) -> Iterator[Any]:
    """A Chromium of that width in CSS pixels, two device pixels each."""
    chromium = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)
    driver = shutil.which("chromedriver")
    if not chromium or not driver:
        sys.exit(
            "picture.py needs Chromium and chromedriver on PATH; on Debian: apt-get install chromium chromium-driver."
        )
    try:
        from selenium import webdriver
        from selenium.webdriver.chrome.service import Service
    except ModuleNotFoundError:
        sys.exit("picture.py needs the package selenium, which is not installed; run `pip install -e '.[dev]'`.")
    options = webdriver.ChromeOptions()
    options.binary_location = chromium
    with tempfile.TemporaryDirectory(ignore_cleanup_errors=True) as profile:
        for flag in (*_FLAGS, f"--user-data-dir={profile}"):
            options.add_argument(flag)
        page = webdriver.Chrome(options=options, service=Service(driver))
        try:
            size = {"width": width, "height": 1200, "deviceScaleFactor": 2, "mobile": False}
            page.execute_cdp_cmd("Emulation.setDeviceMetricsOverride", size)
            yield page
        finally:
            page.quit()


def take(report: Path, out: Path, figure: str, theme: str, width: int) -> tuple[int, int]:
    """Write the picture and return its width and height in pixels.

    Args:
        report: HTML page of `dqo report`.
        out: PNG file, replaced.
        figure: CSS selector of what is taken.
        theme: "light" or "dark".
        width: Of the page in CSS pixels; the picture has two pixels for each.
    """
    from selenium.webdriver.support.ui import WebDriverWait

    with browser(width) as page:
        page.get(report.resolve().as_uri())
        wait = WebDriverWait(page, READY)
        wait.until(lambda _: page.execute_script("return document.documentElement.dataset.ready"))
        if not page.execute_script("return !!document.querySelector(arguments[0])", figure):
            sys.exit(f"{report}: expected {figure!r} on the page, got none; '#trade-chart' needs evaluated runs.")
        wait.until(lambda _: page.execute_script("return !!document.querySelector(arguments[0] + ' svg')", figure))
        box = page.execute_script(_PREPARE, figure, theme)
        shot = {"clip": box | {"scale": 1}, "captureBeyondViewport": True}
        out.write_bytes(base64.b64decode(page.execute_cdp_cmd("Page.captureScreenshot", shot)["data"]))
    return round(2 * box["width"]), round(2 * box["height"])


def main() -> None:
    """Take the picture that the flags name."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("report", type=Path, help="page of `dqo report`")
    parser.add_argument("out", type=Path, help="PNG file to write")
    parser.add_argument("--figure", default="#trade-chart", help="CSS selector (default: the trade-off)")
    parser.add_argument("--theme", choices=("light", "dark"), default="light")
    parser.add_argument("--width", type=int, default=860, help="of the page in CSS pixels (default: %(default)s)")
    args = parser.parse_args()
    if not args.report.is_file():
        sys.exit(f"{args.report}: expected a page of `dqo report`, got no such file.")
    width, height = take(args.report, args.out, args.figure, args.theme, args.width)
    print(f"written: {args.out} ({width} × {height} pixels, {args.out.stat().st_size / 1000:.0f} kB)")


if __name__ == "__main__":
    main()
